// SPDX-License-Identifier: GPL-2.0

//! How long it takes until a store can be used, by how much is stored, and what memory that takes.

use std::fs;
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

/// MiB of the devices: no more memory is taken than is written, and the metadata of such a COW
/// device have room for eleven million exceptions.
const ORIGIN: u64 = 64 << 10;
const COW: u64 = 16 << 10;

/// Measures it. The exceptions say that a chunk of a snapshot reads as zeroes, as a discard of it
/// makes them: as large as any other, and no data have to be written for them. Write-zeroes would
/// not do: device-mapper passes none on for null_blk, and the zeroes would be written.
pub fn run(course: &Course<'_>) -> Result<()> {
    let setting = |work| Setting {
        latency: 0,
        work,
        peer: Peer::Ours,
        snapshots: 1,
        jobs: 1,
    };
    if course.wanted(Work::ActivateFew.title()) {
        let [time, _] = measure(10_000)?;
        course.tell(setting(Work::ActivateFew), time)?;
    }
    if course.large && course.wanted(Work::ActivateMany.title()) {
        let [time, memory] = measure(course.many)?;
        course.tell(setting(Work::ActivateMany), time)?;
        course.tell(setting(Work::HoldMany), memory)?;
    }
    Ok(())
}

/// Free memory, in MiB, when all is given up that can be.
fn free_memory() -> Result<f64> {
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")?;
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find(|line| line.starts_with("MemFree:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: f64 = kib.context("MemFree")?.parse()?;
    Ok(kib / 1024.0)
}

/// Microseconds, and MiB.
fn measure(exceptions: u64) -> Result<[f64; 2]> {
    let (origin, cow) = Disks::sparse(ORIGIN, COW)?;
    let mut stack = ours::set_up(&origin, &cow, 1, 1)?;
    ours::open_snapshot(&mut stack, &origin, &cow, 1)?;
    let snapshot = dms_tests::io::Disk::open(stack.path(ours::SNAPSHOT)?)?;
    let step = 64 * MIB / 512;
    let mut done = 0;
    let mut at = 0;
    while done < exceptions {
        let chunks = (step / 8).min(exceptions - done);
        snapshot.discard(at, chunks * 8)?;
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
    let before = free_memory()?;
    let _device = Mapped::create("co", &ours::origin_table(&origin, &cow, ""))?;
    Ok([median(&mut times), before - free_memory()?])
}
