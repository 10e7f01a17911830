// SPDX-License-Identifier: GPL-2.0

//! How fast an origin is rolled back, beside copying as much with dd.

use std::time::Instant;

use anyhow::Result;
use dms_tests::kernel::run as command;

use super::Course;
use crate::disks::MIB;
use crate::fio::{long, Job};
use crate::peers::ours;
use crate::sample::{Peer, Setting, Work};

/// How much is rolled back, in bytes: all of the origin.
const CHANGED: u64 = 256 * MIB;

/// Measures both.
pub fn run(course: &Course<'_>) -> Result<()> {
    let setting = |peer| Setting {
        latency: course.latency,
        work: Work::Rollback,
        peer,
        snapshots: 1,
        jobs: 1,
    };
    course.sample(setting(Peer::Ours), || measure(course))?;
    course.sample(setting(Peer::Dd), || dd(course))
}

fn measure(course: &Course<'_>) -> Result<f64> {
    let disks = course.disks;
    let stack = ours::set_up(&disks.origin, &disks.cow, 1, 1)?;
    let device = stack.path(ours::ORIGIN)?;
    Job {
        area: CHANGED,
        ..long(&device, "write")
    }
    .run()?;
    let begin = Instant::now();
    // Returns when it is done.
    stack.get(ours::ORIGIN)?.message("rs 1")?;
    Ok(CHANGED as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

fn dd(course: &Course<'_>) -> Result<f64> {
    let from = format!("if={}", course.disks.cow.path().display());
    let to = format!("of={}", course.disks.origin.path().display());
    let count = format!("count={}", CHANGED / MIB);
    let begin = Instant::now();
    command(
        "dd",
        &[
            &from,
            &to,
            "bs=1M",
            &count,
            "iflag=direct",
            "oflag=direct",
            "status=none",
        ],
    )?;
    Ok(CHANGED as f64 / 1e6 / begin.elapsed().as_secs_f64())
}
