// SPDX-License-Identifier: GPL-2.0
//! `dms delete`

use super::{tag, wait};
use crate::cli::Delete;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use dm_snap_mv_model::refusal::Refusal;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long it is waited for the kernel, when it is removing a device that showed the snapshot.
const GOING: Duration = Duration::from_secs(10);

pub fn run(args: &Delete) -> Result<()> {
    let tag = args.tag.as_deref().map(tag).transpose()?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    match tag {
        Some(tag) => snapshot(&dm, &device, tag, args.keep_bookmark),
        None => origin(&dm, &device),
    }
}

/// Deletes a snapshot or a bookmark; perhaps a bookmark stays.
pub(super) fn snapshot(dm: &Dm, device: &Mapped, tag: u32, keep_bookmark: bool) -> Result<()> {
    let tag_word = tag.to_string();
    let mut words = vec!["ds", &tag_word];
    if keep_bookmark {
        words.push("-k");
    }
    let begin = Instant::now();
    loop {
        let reply = dm.tell(&device.name, &words)?;
        let in_use = reply.is(Refusal::SnapshotInUse) || reply.is(Refusal::SnapshotActive);
        let done = reply.done(&format!("cannot delete snapshot {tag} of {}", device.name));
        let failure = match done {
            Err(failure) if in_use => failure,
            other => return other.map(|_| ()),
        };
        match dm.snapshot_of(device, tag)? {
            Some(shown) => return Err(shown_by(dm, failure, &shown)),
            // One that the kernel is removing has no name any more.
            None if begin.elapsed() < GOING => sleep(Duration::from_millis(20)),
            None => return Err(failure),
        }
    }
}

/// Adds which device it is, and who uses that.
fn shown_by(dm: &Dm, failure: Failure, shown: &Mapped) -> Failure {
    let name = &shown.name;
    if dm.is_in_use(shown) {
        let why = dm.in_use(name, shown.devno);
        let first = why.hint.map_or(String::new(), |hint| format!("{hint}\n"));
        failure.hint(format!("{}\n{first}dms remove {name}", why.what))
    } else {
        failure.hint(format!("{name} shows it: dms remove {name}"))
    }
}

fn origin(dm: &Dm, device: &Mapped) -> Result<()> {
    let doing = format!("cannot unbind the origin of {}", device.name);
    if dm.is_in_use(device) {
        return Err(dm.in_use(&device.name, device.devno).context(doing));
    }
    let interrupt = Interrupt::watch()?;
    // Whether there may be an end to the cleaning.
    let mut goes_on = true;
    loop {
        let reply = dm.tell(&device.name, &["do"])?;
        let unclean = reply.is(Refusal::StillCleaning);
        if unclean && goes_on {
            // Its snapshots were deleted but a moment ago.
            goes_on = wait::cleaning(dm, device)?;
            if interrupt.came() {
                return Err(Failure::new(Kind::Interrupted, "interrupted").context(doing));
            }
            continue;
        }
        return match reply.done(&doing) {
            Ok(_) => dm.remove(&device.name, device.devno),
            Err(failure) if unclean => Err(failure.hint(format!(
                "cleaning has stopped: the kernel log (dmesg) says why\n\
                 it is tried again when the device is resumed: \
                 dmsetup suspend {name}; dmsetup resume {name}",
                name = device.name
            ))),
            Err(failure) => Err(failure),
        };
    }
}
