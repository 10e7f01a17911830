// SPDX-License-Identifier: GPL-2.0

//! Crashes at every instant: everything that is written to origin and COW device is recorded
//! while all kinds of things are done; then what a crash would have left is put on a disk, for
//! each instant and for many choices of what of the caches is left, and is used.
//!
//! `TEST_POINTS` says how many crashes are tried at least (some of each scene's, 2000 in the long run),
//! `TEST_SEED` which,
//! `TEST_WORKERS` how many at once: what they open are copies of one store, of which the module takes one
//! at a time.

mod bench;
mod crashes;
mod full_scenes;
mod logwrites;
mod model;
mod ops;
mod oracle;
mod player;
mod reuse_scenes;
mod scarcity;
mod scenes;
mod stage;
mod using;

use anyhow::{ensure, Context, Result};

use self::crashes::{Effort, Film};
use self::model::Model;
use self::ops::{Op, Record};
use self::player::Player;
use self::scenes::{Scene, MIXED, SHORT};
use self::stage::{By, Stage, IMAGE, ORIGIN_PLACES};
use crate::content::{self, next_generation, SECTOR};
use crate::disks::Disks;
use crate::effort::{usual_or_long, Part};
use crate::random::Random;
use crate::report::Subject;
use crate::store::slowness;

/// So many crashes are tried at least, in the long run.
const LONG: usize = 2000;

/// So many of each scene's are tried in the usual one, which ends when each scene has been played.
const OF_EACH: usize = 12;

/// And of a scene whose crashes are limited, one of so many of those.
const USUAL_SHARE: usize = 5;

/// At most one of so many is left out, or the recordings prove too little.
const ONE_LEFT_OUT_OF: usize = 10;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut random = Random::from_environment("replay");
    let wanted = number("TEST_POINTS").unwrap_or(usual_or_long(0, LONG));
    let wanted = Part::from_environment().share(wanted);
    let workers = number("TEST_WORKERS").unwrap_or(1);
    let (mut tried, mut left_out) = (0, 0);
    let mut case = |subject: &mut Subject, scene: &Scene, by: By, every: bool| {
        let by_name = match by {
            By::LogWrites => "dm-log-writes",
            By::Puppets => "two caches",
        };
        let seed = random.number();
        let before = tried;
        subject.counted_case(&format!("{}, {by_name}", scene.name), || {
            let film = record(disks, scene, by, seed)?;
            let effort = Effort {
                every,
                all_sorts: wanted > LONG,
                most: match wanted {
                    0 => OF_EACH.min(scene.most.div_ceil(USUAL_SHARE)),
                    _ => scene.most.div_ceil(slowness() as usize),
                },
            };
            let (points, uncertain) = film.try_all(effort, workers, seed)?;
            tried += points;
            left_out += uncertain;
            let untold = match uncertain {
                0 => String::new(),
                n => format!(", {n} left out that the log does not tell"),
            };
            Ok(format!("{points} crash points{untold}"))
        });
        // A case that was not asked for tries nothing, and will not the next time.
        tried - before
    };
    let mut total = 0;
    for (i, scene) in SHORT.iter().enumerate() {
        let by = [By::LogWrites, By::Puppets][i % 2];
        total += case(subject, scene, by, true);
    }
    let mut round = 0;
    loop {
        let mut more = 0;
        for (i, scene) in MIXED.iter().enumerate() {
            let by = [By::LogWrites, By::Puppets][(i + round) % 2];
            more += case(subject, scene, by, false);
        }
        total += more;
        round += 1;
        if total >= wanted || more == 0 {
            break;
        }
        for (i, scene) in SHORT.iter().enumerate() {
            let by = [By::Puppets, By::LogWrites][(i + round) % 2];
            total += case(subject, scene, by, true);
            if total >= wanted {
                break;
            }
        }
    }
    println!("# replay: {total} crash points, {left_out} left out that a log does not tell");
    subject.case("hardly any was left out", || {
        let most = (total + left_out) / ONE_LEFT_OUT_OF;
        ensure!(left_out <= most, "{left_out} were, {most} may be");
        Ok(())
    });
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a scene and records it.
fn record(disks: &Disks, scene: &Scene, by: By, seed: u64) -> Result<Film> {
    let mut base = vec![0u8; IMAGE as usize * SECTOR];
    let heads = ORIGIN_PLACES.map(|(first, sectors)| {
        let generation = next_generation();
        let range = first as usize * SECTOR..(first + sectors) as usize * SECTOR;
        content::fill(&mut base[range], 0, generation);
        vec![generation; sectors as usize]
    });
    let stage = Stage::new(disks, by, scene.sizes, base)?;
    let mut player = Player::new(&stage, Random::new(seed), scene.policy);
    (scene.play)(&mut player, scene.pages).with_context(|| format!("playing with seed {seed}"))?;
    let from = player.from();
    let records = player.end()?;
    let recording = stage.end()?;
    let uncertain = match by {
        By::LogWrites => logwrites::uncertain(&recording.tape, &flushes(&records)),
        By::Puppets => Vec::new(),
    };
    Ok(Film {
        model: Model::new(scene.sizes, heads),
        records,
        policy: scene.policy,
        from,
        recording,
        uncertain,
    })
}

fn flushes(records: &[Record]) -> Vec<(u32, u32)> {
    let flushes = records
        .iter()
        .filter(|record| matches!(record.op, Op::Flush { .. }));
    flushes.map(|record| (record.begin, record.end)).collect()
}
