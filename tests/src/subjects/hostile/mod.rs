// SPDX-License-Identifier: GPL-2.0

//! Metadata that are damaged, and metadata that were forged: thousands of stores, each spoiled
//! in its own way, are activated and used. Where a checksum tells, what is read is right or an
//! error; where none does there may be any content, but the kernel stays whole and nothing hangs.
//!
//! `TEST_IMAGES` says how many of each kind of block (otherwise as many as go into a minute, or in the
//! long run into a few),
//! `TEST_SEED` which, `TEST_FIRST` from which one on.

mod damaged;
mod forged;
mod image;
mod mutate;
mod stage;
mod tally;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};

use crate::disks::{Disks, MIB};
use crate::effort::usual_or_long;
use crate::io::Disk;
use crate::kernel::{self, Log};
use crate::random::Random;
use crate::report::Subject;
use crate::world::World;

use image::{Image, Kind};
use stage::{Stage, LIVE, QUIET};
use tally::{Outcome, Tally};

/// How long one store may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// What sets the images of one case apart from those of another.
const DAMAGED: u64 = 3;
const FORGED: u64 = 1;

/// What in the kernel's log means that an image did harm.
const BAD: &[&str] = &[
    "BUG",
    "KASAN",
    "UBSAN",
    "WARNING:",
    "Oops",
    "beyond end of device",
    "recursive lock",
    "blocked for more than",
    "stall",
    "Call Trace",
];

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut place = match Place::new(disks) {
        Ok(place) => place,
        Err(e) => return subject.case("a store with something of everything", || Err(e)),
    };
    subject.case("damaged metadata are never taken for good ones", || {
        place.try_images("damaged", DAMAGED, usual_or_long(3, 12), Place::try_damaged)
    });
    subject.case("forged metadata do no harm", || {
        place.try_images("forged", FORGED, usual_or_long(6, 30), Place::try_forged)
    });
    subject.case("no tree passes for another one", || place.try_other_trees());
    subject.case("a journal that a crash left is not continued", || {
        place.check_new_transaction()
    });
    subject.case("nothing was written elsewhere", || {
        place.check_surroundings()
    });
    subject.case("the stores as they were still work", || {
        place.stage.check(&mut place.seed)
    });
    drop(place);
    subject.case("the module can be unloaded", kernel::reload);
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok().and_then(|v| v.parse().ok());
    value.unwrap_or(otherwise)
}

/// Ends the machine when one image takes too long.
struct Watch(Arc<Mutex<(Instant, String)>>);

impl Watch {
    fn new() -> Self {
        let state = Arc::new(Mutex::new((Instant::now(), String::new())));
        let watched = state.clone();
        std::thread::spawn(move || loop {
            sleep(Duration::from_secs(1));
            let Ok(state) = watched.lock() else { return };
            if !state.1.is_empty() && state.0.elapsed() > PATIENCE {
                println!("not ok hostile: it hangs: {}", state.1);
                let _ = std::io::stdout().flush();
                let _ = fs::write("/proc/sysrq-trigger", "w");
                let _ = fs::write("/proc/sysrq-trigger", "l");
                let _ = Command::new("vm-crash").arg("121").status();
                std::process::abort();
            }
        });
        Self(state)
    }

    fn begin(&self, what: &str) {
        if let Ok(mut state) = self.0.lock() {
            *state = (Instant::now(), what.to_owned());
        }
        // If the machine stops here, its log tells where.
        let _ = fs::write("/dev/kmsg", format!("<2>{what}\n"));
    }

    fn end(&self) {
        self.begin("");
    }
}

struct Place {
    stage: Stage,
    /// The disk that the COW device is on, where, and what stood beside it.
    around: (PathBuf, u64, u64, Vec<u8>),
    /// The one that is tried.
    image: Image,
    seed: Random,
    watch: Watch,
    log: Log,
    tainted: String,
    /// What went wrong with which images of the case that runs.
    harm: Vec<String>,
}

fn tainted() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/tainted")?)
}

/// Spoils a block of a kind, and looks what comes of it.
type Try = fn(&mut Place, Kind, &mut Random, &str) -> Result<Outcome>;

impl Place {
    fn new(disks: &Disks) -> Result<Self> {
        let seed = Random::from_environment("hostile");
        let stage = Stage::new(disks, &mut seed.clone())?;
        let cow = &stage.beds[0].world.store.cow;
        let (disk, start) = cow.place();
        let around = (disk.to_owned(), start, cow.sectors());
        let bytes = surroundings(&around.0, around.1, around.2)?;
        for state in &stage.states {
            println!("# hostile: {}: {}", state.name, show(&state.image));
        }
        Ok(Self {
            image: stage.old.clone(),
            stage,
            around: (around.0, around.1, around.2, bytes),
            seed,
            watch: Watch::new(),
            log: Log::from_now()?,
            tainted: tainted()?,
            harm: Vec::new(),
        })
    }

    /// The store that no rollback is going on in.
    fn calm(&self) -> &World {
        &self.stage.beds[0].world
    }

    fn state(&self, state: usize) -> &Image {
        &self.stage.states[state].image
    }

    /// As many images of each kind of block, in turn.
    fn try_images(&mut self, what: &str, salt: u64, usual: u64, run: Try) -> Result<()> {
        let mut kinds = self.stage.kinds();
        if salt == DAMAGED {
            kinds.retain(|kind| *kind != Kind::LastBatch);
        }
        let usual = (usual / from_environment("TEST_SLOW", 1)).max(1);
        let each = from_environment("TEST_IMAGES", usual);
        let number = kinds.len() as u64;
        let first = from_environment("TEST_FIRST", 0);
        let begin = Instant::now();
        let mut tally = Tally::default();
        for n in first..each * number {
            let kind = kinds[(n % number) as usize];
            let mut random = Random::new(self.seed.clone().number() ^ ((n << 8) | salt));
            let name = format!("{what} image {n}");
            let outcome = match run(self, kind, &mut random, &name) {
                Ok(outcome) => outcome,
                Err(e) => {
                    self.note(format!("{e:#}"));
                    self.judge(&name)?;
                    Outcome::Harm
                }
            };
            tally.add(kind, outcome);
            if n % 5000 == 4999 {
                println!("# hostile: {what}: {} of {}", n + 1, each * number);
            }
        }
        tally.print(what);
        println!(
            "# hostile: {what}: {:.1} a second",
            (each * number).saturating_sub(first) as f32 / begin.elapsed().as_secs_f32(),
        );
        let harm = std::mem::take(&mut self.harm);
        if let Some(first) = harm.first() {
            bail!("{} images did harm; the first: {first}", harm.len());
        }
        tally.ensure(&kinds, each.saturating_sub(first.div_ceil(number)))
    }

    /// Each tree in the place of each other one with values of another size, whose place it leaves to
    /// that one; and in two places at once.
    fn try_other_trees(&mut self) -> Result<()> {
        self.put_with_roots(&[])?;
        self.calm().co()?.remove()?;
        let trees = image::ROOTS;
        for (i, (tree, size)) in trees.into_iter().enumerate() {
            for (j, (other, other_size)) in trees.into_iter().enumerate().skip(i + 1) {
                if size != other_size {
                    let what = format!("{tree:?} and {other:?} in each other's place");
                    self.refuse_roots(&[(i, j), (j, i)], &what)?;
                }
            }
            let next = (i + 1) % trees.len();
            let what = format!("{tree:?} also in the place of {:?}", trees[next].0);
            self.refuse_roots(&[(next, i)], &what)?;
        }
        match std::mem::take(&mut self.harm).first() {
            None => Ok(()),
            Some(first) => bail!("{first}"),
        }
    }

    /// Where trees have the roots of others the store is not activated.
    fn refuse_roots(&mut self, roots: &[(usize, usize)], what: &str) -> Result<()> {
        self.watch.begin(what);
        self.put_with_roots(roots)?;
        let activated = self.calm().co();
        let is_refused = activated.is_err();
        if let Ok(co) = activated {
            co.remove()?;
        }
        self.judge(what)?;
        ensure!(is_refused, "{what}: it is activated");
        Ok(())
    }

    /// The store that was closed in order, with the first tree of each pair at the root of the second.
    fn put_with_roots(&mut self, roots: &[(usize, usize)]) -> Result<()> {
        let mut image = self.state(QUIET).clone();
        for &(tree, of) in roots {
            image.set_root(tree, self.state(QUIET).root(of));
        }
        self.stage.beds[0].put_metadata(&image)
    }

    /// Looks at what the kernel said of the image.
    fn judge(&mut self, what: &str) -> Result<()> {
        self.watch.end();
        let lines = self.log.lines()?;
        let is_bad = |line: &&String| BAD.iter().any(|bad| line.contains(bad));
        let now = tainted()?;
        if let Some(line) = lines.iter().find(is_bad) {
            self.note(format!("{what}: the kernel says {line:?}"));
        } else if now != self.tainted {
            self.note(format!("{what}: the kernel is tainted: {now}"));
        }
        self.tainted = now;
        Ok(())
    }

    /// The others are tried all the same: that tells how bad it is.
    fn note(&mut self, what: String) {
        println!("# hostile: {what}");
        self.harm.push(what);
    }

    fn check_surroundings(&self) -> Result<()> {
        let (disk, start, sectors, before) = &self.around;
        ensure!(
            surroundings(disk, *start, *sectors)? == *before,
            "something was written beside the COW device"
        );
        Ok(())
    }

    /// Whatever there may be in the journal behind what is valid must not become valid by what is
    /// written before it: a new transaction begins.
    fn check_new_transaction(&mut self) -> Result<()> {
        let mut image = self.state(LIVE).clone();
        image.cut_journal();
        self.stage.beds[0].put_metadata(&image)?;
        let co = self.calm().co()?;
        let now = Image::read(&self.calm().store.cow)?.transaction();
        co.remove()?;
        ensure!(now > image.transaction(), "still transaction {now}");
        Ok(())
    }
}

fn show(image: &Image) -> String {
    let counts: BTreeMap<Kind, u64> = image.counts();
    let words: Vec<String> = counts
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    words.join(", ")
}

/// A mebibyte on both sides of a piece.
fn surroundings(disk: &PathBuf, start: u64, sectors: u64) -> Result<Vec<u8>> {
    let disk = Disk::open(disk)?;
    let from = start.saturating_sub(MIB);
    let mut bytes = disk.read(from, start - from)?.to_vec();
    let end = (start + sectors + MIB).min(disk.sectors());
    bytes.extend_from_slice(&disk.read(start + sectors, end - start - sectors)?);
    Ok(bytes)
}
