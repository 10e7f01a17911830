// SPDX-License-Identifier: GPL-2.0

//! Writes that nobody orders.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::write;
use crate::world::World;

/// Threads write the same places at the same time, and snapshots are taken meanwhile: each
/// sector of a snapshot is of before, or of one of the writes since.
pub(super) fn unordered(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 200, 4)?;
    let end = Instant::now() + long;
    while Instant::now() < end {
        let first = next_generation();
        let before = world.now.clone();
        let seeds: Vec<u64> = (0..4).map(|_| random.number()).collect();
        let tags = thread::scope(|scope| -> Result<Vec<u32>> {
            let writers: Vec<_> = seeds
                .into_iter()
                .map(|seed| {
                    let path = co.path();
                    scope.spawn(move || -> Result<()> {
                        let disk = Disk::open(path)?;
                        let mut random = Random::new(seed);
                        for _ in 0..12 {
                            // In one quarter, so that they meet.
                            let (start, count) = random.extent(MIB);
                            write(&disk, start, count)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let mut tags = Vec::new();
            for _ in 0..3 {
                sleep(Duration::from_millis(random.pick(1..40)));
                tags.push(co.take()?);
            }
            for writer in writers {
                writer.join().expect("no panic")?;
            }
            Ok(tags)
        })?;
        let last = next_generation();
        let possible = |sector: u64, found: u32| {
            found == before.generation(sector) || (first..last).contains(&found)
        };
        for tag in tags {
            let device = world.store.cs(&world.origin, tag)?;
            let mut seen = before.clone();
            seen.learn(&device.open_read_only()?, possible)
                .with_context(|| format!("snapshot {tag}"))?;
            device.remove()?;
            world.snapshots.insert(tag, seen);
        }
        world
            .now
            .learn(&co.open_read_only()?, possible)
            .context("the origin")?;
        world.check(&co)?;
        for tag in world.snapshots.keys().copied().collect::<Vec<_>>() {
            world.delete(&co, tag)?;
        }
    }
    co.remove()
}
