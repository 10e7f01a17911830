// SPDX-License-Identifier: GPL-2.0

//! Reads and writes, as much as goes through.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Course;
use crate::disks::Disks;
use crate::fio::{long, small, Job, AREA};
use crate::peers::{classic, linear, ours, thin, Stack};
use crate::sample::{Peer, Setting, Work};

/// How long what can go on for ever goes on.
const SECONDS: u32 = 1;

/// Who is measured at what, with how many snapshots and writers.
const PLAN: &[(Work, Peer, u32, u32)] = &[
    (Work::Read, Peer::Linear, 0, 1),
    (Work::Read, Peer::Ours, 64, 1),
    (Work::Rewrite, Peer::Linear, 0, 1),
    (Work::Rewrite, Peer::Ours, 64, 1),
    (Work::Rewrite, Peer::Snapshot, 1, 1),
    (Work::Rewrite, Peer::Thin, 1, 1),
    (Work::Rewrite, Peer::Linear, 0, 2),
    (Work::Rewrite, Peer::Ours, 64, 2),
    (Work::RewriteLong, Peer::Linear, 0, 1),
    (Work::RewriteLong, Peer::Ours, 64, 1),
    (Work::RewriteLong, Peer::Snapshot, 1, 1),
    (Work::First, Peer::Linear, 0, 1),
    (Work::First, Peer::Ours, 1, 1),
    (Work::First, Peer::Snapshot, 1, 1),
    (Work::First, Peer::Ours, 1000, 1),
    (Work::First, Peer::Thin, 1, 1),
    (Work::First, Peer::Ours, 4, 1),
    (Work::First, Peer::Snapshot, 4, 1),
    (Work::First, Peer::Ours, 16, 1),
    (Work::First, Peer::Snapshot, 16, 1),
    (Work::First, Peer::Linear, 0, 2),
    (Work::First, Peer::Ours, 1, 2),
    (Work::First, Peer::Snapshot, 1, 2),
    (Work::FirstLarge, Peer::Ours, 1, 1),
    (Work::FirstLarge, Peer::Thin, 1, 1),
    (Work::FirstLong, Peer::Linear, 0, 1),
    (Work::FirstLong, Peer::Ours, 1, 1),
    (Work::FirstLong, Peer::Snapshot, 1, 1),
    (Work::FirstLong, Peer::Thin, 1, 1),
    (Work::SnapshotRead, Peer::Snapshot, 1, 1),
    (Work::SnapshotRead, Peer::Ours, 1000, 1),
    (Work::OldestRead, Peer::Ours, 1000, 1),
    (Work::SnapshotWrite, Peer::Snapshot, 1, 1),
    (Work::SnapshotWrite, Peer::Ours, 1, 1),
];

/// Measures all of it once.
pub fn run(course: &Course<'_>) -> Result<()> {
    for &(work, peer, snapshots, jobs) in PLAN {
        let setting = Setting {
            latency: course.latency,
            work,
            peer,
            snapshots,
            jobs,
        };
        course.sample(setting, || measure(course, setting))?;
    }
    Ok(())
}

fn measure(course: &Course<'_>, setting: Setting) -> Result<f64> {
    let (_stack, device) = prepare(course.disks, setting)?;
    job(setting, &device).run()
}

/// The work, on this device.
pub fn job(setting: Setting, device: &Path) -> Job<'_> {
    let Setting { work, jobs, .. } = setting;
    let again = Job {
        seconds: Some(SECONDS),
        ..small(device, "randwrite")
    };
    let job = match work {
        Work::Read | Work::SnapshotRead | Work::OldestRead => Job {
            rw: "randread",
            ..again
        },
        Work::Rewrite => again,
        Work::RewriteLong => Job {
            seconds: Some(SECONDS),
            ..long(device, "write")
        },
        Work::FirstLong => long(device, "write"),
        _ => small(device, "randwrite"),
    };
    Job { jobs, ..job }
}

/// Sets a peer up so that the work can begin, on the device that is returned.
pub fn prepare(disks: &Disks, setting: Setting) -> Result<(Stack, PathBuf)> {
    let Setting {
        work, snapshots, ..
    } = setting;
    let mut stack;
    let mut index;
    match setting.peer {
        Peer::Linear => {
            stack = linear::set_up(&disks.origin)?;
            index = 0;
        }
        Peer::Snapshot => {
            stack = classic::set_up(disks, snapshots)?;
            index = classic::ORIGIN;
        }
        Peer::Thin => {
            stack = thin::set_up(disks)?;
            for number in 1..=snapshots {
                thin::take(&stack, number)?;
            }
            index = thin::VOLUME;
        }
        Peer::Ours | Peer::Dd => {
            let pages = if work == Work::FirstLarge { 16 } else { 1 };
            stack = ours::set_up(&disks.origin, &disks.cow, pages, snapshots)?;
            index = ours::ORIGIN;
        }
    }
    let origin = stack.path(index)?;
    match work {
        Work::Rewrite | Work::RewriteLong | Work::Read => {
            long(&origin, "write").run()?;
        }
        Work::SnapshotRead | Work::OldestRead => {
            // Half of it is where it was, half of it is not.
            let half = AREA / 2;
            Job {
                area: half,
                ..long(&origin, "write")
            }
            .run()?;
        }
        _ => {}
    }
    if matches!(
        work,
        Work::SnapshotRead | Work::OldestRead | Work::SnapshotWrite
    ) {
        match setting.peer {
            Peer::Snapshot => index = classic::SNAPSHOT,
            _ => {
                let tag = if work == Work::OldestRead {
                    1
                } else {
                    snapshots
                };
                ours::open_snapshot(&mut stack, &disks.origin, &disks.cow, tag)?;
                index = ours::SNAPSHOT;
            }
        }
    }
    let path = stack.path(index)?;
    Ok((stack, path))
}
