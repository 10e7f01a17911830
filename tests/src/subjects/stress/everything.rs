// SPDX-License-Identifier: GPL-2.0

//! Everything at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::counts::{Counts, Kind, LONG_ENOUGH};
use super::guest::Guest;
use super::small::Small;
use super::volume::{Devices, Volume};
use super::watch;
use super::SECTORS;
use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{Origin, Store};

/// Something that a message does, or what else happens to an origin's devices.
fn happening(origin: &Volume, random: &mut Random, counts: &Counts) -> Result<()> {
    let done = |()| true;
    let (kind, happened) = match random.pick(0..100) {
        0..=28 => (Kind::Snapshot, origin.take_under_load(random)?),
        29..=35 => (Kind::Nested, origin.take_of_inactive(random)?),
        36..=54 => (Kind::Deletion, origin.delete(random)?),
        55..=65 => (Kind::Activation, origin.activate(random)?),
        66..=73 => (Kind::Deactivation, origin.deactivate()?),
        74..=81 => (Kind::Rollback, origin.roll_back(random)?),
        82..=83 => (Kind::Later, origin.roll_back_later(random)?),
        84..=88 => (Kind::Table, origin.reload_tables(random).map(done)?),
        89..=90 => (Kind::Recreation, origin.recreate(false).map(done)?),
        91..=92 => (Kind::Killed, origin.recreate(true).map(done)?),
        93..=95 => (Kind::Pause, origin.pause(random).map(done)?),
        _ => (Kind::Comparison, origin.check_one(random)?),
    };
    if happened {
        counts.add(kind);
    }
    Ok(())
}

/// Everything is removed, the module goes and comes, everything is there again. Those who hold `stay`
/// have devices that are not here.
fn reload_module(origins: &[Volume], stay: &RwLock<()>) -> Result<()> {
    let _nobody = stay.write().expect("no panic");
    let mut all: Vec<_> = origins
        .iter()
        .map(|o| o.active.write().expect("no panic"))
        .collect();
    let mut shadows = Vec::new();
    for (origin, active) in origins.iter().zip(&mut all) {
        let mut rest = origin.rest.lock().expect("no panic");
        shadows.push(origin.put_away(active, &mut rest)?);
    }
    crate::kernel::reload()?;
    for ((origin, active), shadow) in origins.iter().zip(&mut all).zip(&shadows) {
        origin.wake(active, shadow)?;
    }
    Ok(())
}

/// Three origins in two stores, each with a device and a snapshot.
fn volumes(
    disks: &Disks,
    stores: &[Store; 2],
    random: &mut Random,
) -> Result<(Vec<Origin>, Vec<Volume>)> {
    let mut pieces = Vec::new();
    let mut origins = Vec::new();
    for (i, store) in [0, 0, 1].into_iter().enumerate() {
        let origin = Origin::new(disks, &format!("origin-{i}"), SECTORS)?;
        let shadow = Shadow::filled(&origin.piece.open()?)?;
        let subject = Volume {
            store,
            origin_path: origin.piece.path(),
            cow_path: stores[store].cow.path(),
            id: origin.id.clone(),
            active: RwLock::new(Devices {
                devices: Vec::new(),
            }),
            steady: RwLock::new(()),
            rest: Mutex::default(),
        };
        let first = !origins.iter().any(|other: &Volume| other.store == store);
        let pages = [1, 4, 16][random.pick(0..3) as usize];
        let options = if first {
            format!("-b -F -c {pages}")
        } else {
            "-b".to_owned()
        };
        let device = subject.co(&options)?;
        device.remove()?;
        subject.wake(&mut subject.active.write().expect("no panic"), &shadow)?;
        ensure!(subject.take_under_load(random)?, "no snapshot at first");
        origins.push(subject);
        pieces.push(origin);
    }
    Ok((pieces, origins))
}

/// How much longer it may take until everything has had its turn.
const MORE: Duration = Duration::from_secs(600);

pub(super) fn everything(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let stores = [Store::new(disks, 240 * MIB)?, Store::new(disks, 160 * MIB)?];
    let (_pieces, origins) = volumes(disks, &stores, &mut random)?;
    let counts = Counts::new();
    let mut small = Small::new(disks, &counts)?;
    let mut guest = Guest::new(disks)?;
    let stay = RwLock::new(());
    let over = AtomicBool::new(false);
    let end = Instant::now() + long;
    // A machine that is slow, or stands still, may have done too little by then.
    let missing = || long >= LONG_ENOUGH && Instant::now() < end + MORE && !counts.are_all();
    let running = || !over.load(Ordering::Relaxed) && (Instant::now() < end || missing());
    // Whoever fails ends it for all.
    let ends_all = |result: Result<()>| {
        if result.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        result
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        let (origins, counts, running, ends_all) = (&origins, &counts, &running, &ends_all);
        let (stores, stay, small, guest) = (&stores, &stay, &mut small, &mut guest);
        for _ in 0..4 {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        let origin = random.one_of(origins);
                        counts.add(Kind::Io);
                        origin.io(&mut random).with_context(|| origin.id.clone())?;
                    }
                    Ok(())
                })())
            }));
        }
        for origin in origins {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        happening(origin, &mut random, counts)
                            .with_context(|| origin.id.clone())?;
                        sleep(Duration::from_millis(random.pick(0..60)));
                    }
                    Ok(())
                })())
            }));
        }
        for _ in 0..2 {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        counts.add(Kind::Question);
                        watch::ask(&mut random)?;
                        sleep(Duration::from_millis(random.pick(0..10)));
                    }
                    Ok(())
                })())
            }));
        }
        let mut own = Random::new(random.number());
        threads.push(scope.spawn(move || {
            ends_all((|| {
                while running() {
                    let _stays = stay.read().expect("no panic");
                    small.act(&mut own).context("the small store")?;
                }
                Ok(())
            })())
        }));
        let mut own = Random::new(random.number());
        threads.push(scope.spawn(move || {
            ends_all((|| {
                while running() {
                    let stays = stay.read().expect("no panic");
                    let visit = guest.visit(&stores[0], &mut own, counts);
                    visit.context("the guest")?;
                    drop(stays);
                    sleep(Duration::from_millis(own.pick(0..300)));
                }
                Ok(())
            })())
        }));
        threads.push(scope.spawn(move || {
            ends_all((|| {
                let mut next = Instant::now() + long / 6;
                while running() {
                    sleep(Duration::from_millis(200));
                    watch::try_unload(&origins[0])?;
                    if Instant::now() >= next {
                        next = Instant::now() + long / 6;
                        counts.add(Kind::Module);
                        reload_module(origins, stay)?;
                    }
                }
                Ok(())
            })())
        }));
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
            .collect()
    });
    println!("# stress: {counts}");
    let errors: Vec<String> = results
        .into_iter()
        .filter_map(|r| r.err().map(|e| format!("{e:#}")))
        .collect();
    if !errors.is_empty() {
        // The devices go before what they stand on.
        for origin in &origins {
            origin.active.write().expect("no panic").devices.clear();
        }
        anyhow::bail!("{}", errors.join("; and "));
    }
    for origin in &origins {
        origin.check_all().with_context(|| origin.id.clone())?;
    }
    for store in 0..stores.len() {
        let origin = origins
            .iter()
            .find(|o| o.store == store)
            .expect("each has one");
        let co = origin.co("")?;
        ensure!(
            co.state()?.chunks.0 == 0,
            "chunks are lost: {}",
            co.status()?
        );
        co.remove()?;
    }
    small.finish().context("the small store")?;
    counts.ensure_all(long)
}
