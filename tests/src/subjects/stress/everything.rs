// SPDX-License-Identifier: GPL-2.0

//! Everything at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::volume::{Devices, Volume};
use super::watch;
use super::SECTORS;
use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::shadow::Shadow;
use crate::store::{Origin, Store};

#[derive(Default)]
struct Counts {
    io: AtomicU64,
    snapshots: AtomicU64,
    deleted: AtomicU64,
    rollbacks: AtomicU64,
    tables: AtomicU64,
    pauses: AtomicU64,
    questions: AtomicU64,
    modules: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Something that a message does, or what else happens to an origin's devices.
fn happening(origin: &Volume, random: &mut Random, counts: &Counts) -> Result<()> {
    match random.pick(0..100) {
        0..=29 => {
            count(&counts.snapshots);
            origin.take_under_load(random)
        }
        30..=36 => origin.take_of_inactive(random),
        37..=56 => {
            count(&counts.deleted);
            origin.delete(random)
        }
        57..=68 => origin.activate(random),
        69..=76 => origin.deactivate(),
        77..=84 => {
            if origin.roll_back(random)? {
                count(&counts.rollbacks);
            }
            Ok(())
        }
        85..=89 => {
            count(&counts.tables);
            origin.reload_tables(random)
        }
        90..=92 => origin.recreate(),
        93..=95 => {
            count(&counts.pauses);
            origin.pause(random)
        }
        _ => origin.check_one(random),
    }
}

/// Everything is removed, the module goes and comes, everything is there again.
fn reload_module(origins: &[Volume]) -> Result<()> {
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

pub(super) fn everything(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let stores = [Store::new(disks, 240 * MIB)?, Store::new(disks, 160 * MIB)?];
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
        subject.take_under_load(&mut random)?;
        origins.push(subject);
        pieces.push(origin);
    }

    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let end = Instant::now() + long;
    let running = || Instant::now() < end && !over.load(Ordering::Relaxed);
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
        for _ in 0..4 {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        let origin = random.one_of(origins);
                        count(&counts.io);
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
                        count(&counts.questions);
                        watch::ask(&mut random)?;
                        sleep(Duration::from_millis(random.pick(0..10)));
                    }
                    Ok(())
                })())
            }));
        }
        threads.push(scope.spawn(move || {
            ends_all((|| {
                let mut next = Instant::now() + long / 6;
                while running() {
                    sleep(Duration::from_millis(200));
                    watch::try_unload(&origins[0])?;
                    if Instant::now() >= next {
                        next = Instant::now() + long / 6;
                        count(&counts.modules);
                        reload_module(origins)?;
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
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "# stress: {} I/Os, {} snapshots, {} deletions, {} rollbacks, {} table and {} module reloads, \
         {} suspensions, {} questions",
        number(&counts.io),
        number(&counts.snapshots),
        number(&counts.deleted),
        number(&counts.rollbacks),
        number(&counts.tables),
        number(&counts.modules),
        number(&counts.pauses),
        number(&counts.questions)
    );
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
    Ok(())
}
