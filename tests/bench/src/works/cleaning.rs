// SPDX-License-Identifier: GPL-2.0

//! Writes while what was deleted is cleaned away.

use anyhow::{ensure, Result};

use super::Course;
use crate::fio::{long, small, Job, AREA};
use crate::peers::ours;
use crate::sample::{Peer, Setting, Work};

/// Snapshots that are deleted, each with a whole area of chunks.
const DELETED: u32 = 4;

/// Measures it.
pub fn run(course: &Course<'_>) -> Result<()> {
    let setting = Setting {
        latency: course.latency,
        work: Work::RewriteCleaning,
        peer: Peer::Ours,
        snapshots: DELETED + 1,
        jobs: 1,
    };
    course.sample(setting, || measure(course))
}

fn measure(course: &Course<'_>) -> Result<f64> {
    let disks = course.disks;
    let stack = ours::set_up(&disks.origin, &disks.cow, 1, 0)?;
    let device = stack.path(ours::ORIGIN)?;
    for _ in 0..=DELETED {
        ours::take(&stack)?;
        long(&device, "write").run()?;
    }
    for tag in 1..=DELETED {
        stack.get(ours::ORIGIN)?.message(&format!("ds {tag}"))?;
    }
    let left = |s: &dms_tests::store::Status| s.cleaning.is_some();
    ensure!(left(&ours::status(&stack)?), "cleaned too soon");
    let job = Job {
        seconds: Some(1),
        ..small(&device, "randwrite")
    };
    let speed = job.run()?;
    let status = ours::status(&stack)?;
    if !left(&status) {
        println!("# it was all cleaned before the writes were done");
    }
    ours::wait(&stack, |status| status.cleaning.is_none())?;
    ensure!(
        ours::status(&stack)?.chunks.0 == AREA / 4096,
        "what is left: {:?}",
        ours::status(&stack)?.chunks
    );
    Ok(speed)
}
