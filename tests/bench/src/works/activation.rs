// SPDX-License-Identifier: GPL-2.0

//! How long it takes until a store can be used, by how much is stored.

use std::time::Instant;

use anyhow::{Context, Result};
use dms_tests::dm::Mapped;

use super::Course;
use crate::disks::{Disks, MIB};
use crate::peers::ours;
use crate::report::median;
use crate::sample::{Peer, Setting, Work};

/// Of so many the median is taken.
const TIMES: u32 = 5;

/// Measures it. The exceptions say that a chunk of a snapshot reads as zeroes: as large as any
/// other, and no data have to be written for them.
pub fn run(course: &Course<'_>) -> Result<()> {
    let setting = |work| Setting {
        latency: 0,
        work,
        peer: Peer::Ours,
        snapshots: 1,
        jobs: 1,
    };
    course.sample(setting(Work::ActivateFew), || measure(10_000))?;
    if course.large {
        course.sample(setting(Work::ActivateMany), || measure(10_000_000))?;
    }
    Ok(())
}

fn measure(exceptions: u64) -> Result<f64> {
    let (origin, cow) = Disks::sparse(64 << 10, 2 << 10)?;
    let mut stack = ours::set_up(&origin, &cow, 1, 1)?;
    ours::open_snapshot(&mut stack, &origin, &cow, 1)?;
    let snapshot = dms_tests::io::Disk::open(stack.path(ours::SNAPSHOT)?)?;
    // Every other chunk, or a later form of record might hold them all as one.
    let step = 64 * MIB / 512;
    let mut done = 0;
    let mut at = 0;
    while done < exceptions {
        let chunks = (step / 8).min(exceptions - done);
        snapshot.zero_out(at, chunks * 8)?;
        done += chunks;
        at += chunks * 8;
    }
    drop(snapshot);
    drop(stack);
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let device = Mapped::create_empty("co")?;
        let begin = Instant::now();
        device.load(&ours::origin_table(&origin, &cow, ""))?;
        device.resume()?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        device.remove().context("remove")?;
    }
    Ok(median(&mut times))
}
