// SPDX-License-Identifier: GPL-2.0
//! `dms apply --instant`: a target that is usable before it has all, by dm-clone.
//!
//! What the target holds already need not be fetched: where both versions are the same, the clone is told to take
//! the target's sectors as they are. That is done by discards, which do not reach the target. What is noted on the
//! way, and in which order, decides what a crash leaves: see [`Phase`].

mod end;
mod metadata;

pub(super) use end::{abandon, finish};

use self::metadata::{is_unused, Metadata};
use super::apply::compare;
use super::into::Into;
use super::print;
use crate::cli::Apply;
use crate::clones::{Kept, Phase, Record};
use crate::devno::Devno;
use crate::dm::clone::{take_as_is, Is, Line, Status};
use crate::dm::{node, Dm};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::names::{dm_name, BlockDevice};
use crate::plan::Plan;
use crate::sender::Sender;
use crate::show::stream::uuid;
use crate::streams::{refused, unopened};
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_stream::receive::{Notes, Options, Receiver};
use dm_snap_mv_stream::Piece;
use nix::libc;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// More regions a clone cannot have.
const REGIONS_MOST: u64 = 1 << 31;

pub(super) fn start(
    args: &Apply,
    dm_dev: &OsStr,
    since: Option<Tag>,
    sender: &Sender,
    plan: &Plan,
    into: &Into,
    interrupt: &Interrupt,
) -> Result<()> {
    let name = dm_name(args.name.as_deref().unwrap_or_default())?;
    let dm = &sender.dm;
    let onto = need_device(into, plan)?;
    let metadata = args.metadata.as_deref();
    let metadata = metadata.map(|arg| BlockDevice::find(arg, "metadata device", &dm.sysfs));
    let metadata = metadata.transpose()?;
    dm.need_clone()?;
    let begin = &plan.begin;
    let wanted = Record {
        store: uuid(&begin.store),
        origin: begin.origin,
        tag: begin.to.tag,
        since: since.map(Tag::get),
        onto: dm.sysfs.lasting_name(onto),
        sectors: begin.size,
        region: region(begin.chunk.into(), begin.size),
        metadata: metadata
            .as_ref()
            .map(|device| dm.sysfs.lasting_name(device.devno)),
        phase: Phase::Begun,
    };
    let mut kept = Kept::find(name)?;
    let before = match &kept.record {
        Some(record) if !record.is(&wanted) => return Err(taken(name, record)),
        Some(record) => Some(record.phase),
        None => None,
    };
    let there = dm.what(name)?;
    match (before, there) {
        (Some(Phase::Whole), _) => return Err(all_there(name)),
        (Some(_), Some((_, Is::Clone(line)))) if line.onto == onto => {
            return get_ready(dm, name, &mut kept, plan, &into.path);
        }
        // Whoever made it was killed.
        (Some(_), Some((devno, Is::Nothing))) => dm.remove(name, devno)?,
        (_, Some(_)) => return Err(another(name)),
        (_, None) => {}
    }
    let mut memory = Metadata { metadata, kept };
    let path = memory.path()?;
    let fresh = match (&path, before) {
        (None, Some(Phase::Ready)) => return Err(lost(name)),
        (None, _) => true,
        (Some(path), Some(_)) => match (is_unused(path)?, before) {
            (true, Some(Phase::Ready)) => return Err(lost(name)),
            (unused, _) => unused,
        },
        // A file that is there was left by one that is over.
        (Some(_), None) => true,
    };
    if fresh {
        prove(args, dm_dev, since, plan, into, interrupt)?;
        memory.make(&wanted, onto, dm)?;
    } else {
        // Nobody may have it, or it would not be what it was.
        drop(into.open()?);
    }
    let done = assemble(args, name, onto, sender, plan, into, &mut memory, interrupt);
    if done.is_err() && fresh && matches!(dm.what(name), Ok(None)) {
        // Nothing has come of it.
        let _ = memory.give_back();
    }
    done?;
    get_ready(dm, name, &mut memory.kept, plan, &into.path)
}

fn need_device(into: &Into, plan: &Plan) -> Result<Devno> {
    let shown = into.path.display();
    let refused = |what: String, hint: String| Err(Failure::new(Kind::Refused, what).hint(hint));
    match (into.device, &into.origin) {
        (None, _) => refused(
            format!("{shown} is no device, and cannot be used at once"),
            format!("attach it to one (losetup --find --show {shown}), or leave out --instant"),
        ),
        (_, Some(_)) => refused(
            format!("{shown} is an origin, and what it holds is proven by its snapshots"),
            "leave out --instant".to_owned(),
        ),
        _ if plan.written => refused(
            format!("snapshot {} has been written to", plan.begin.to.tag),
            "it could change while it is fetched: take a snapshot of it, and apply that".to_owned(),
        ),
        (Some(devno), None) => Ok(devno),
    }
}

fn taken(name: &str, record: &Record) -> Failure {
    let what = format!(
        "{name} is of another apply: version {} onto {}",
        record.tag, record.onto
    );
    Failure::new(Kind::Busy, what).hint(format!(
        "take another name, or end that first: dms apply --finish {name}, or --abandon {name}"
    ))
}

fn another(name: &str) -> Failure {
    let what = format!("there is a device {name} already, which is something else");
    Failure::new(Kind::Busy, what).hint("take another name")
}

fn all_there(name: &str) -> Failure {
    let what = format!("all that {name} was to have has been fetched");
    Failure::new(Kind::Refused, what).hint(format!("end it: dms apply --finish {name}"))
}

fn lost(name: &str) -> Failure {
    let what =
        format!("the metadata of {name} are gone: nobody knows what has been fetched or written");
    Failure::new(Kind::Damaged, what).hint(format!(
        "give it up (dms apply --abandon {name}), and have all of it written, with --force"
    ))
}

/// Sectors of a region: a chunk, or more where a clone could not have as many of them.
fn region(chunk: u64, sectors: u64) -> u64 {
    let mut region = chunk.max(8);
    while sectors.div_ceil(region) > REGIONS_MOST {
        region *= 2;
    }
    region
}

/// Whether the target holds what it has to.
fn prove(
    args: &Apply,
    dm_dev: &OsStr,
    since: Option<Tag>,
    plan: &Plan,
    into: &Into,
    interrupt: &Interrupt,
) -> Result<()> {
    if let (true, Some(base)) = (args.verify, since) {
        compare(args, dm_dev, base, plan, into, interrupt)?;
    }
    let failed = |failure| refused(&into.path, failure);
    let options = Options {
        force: args.force,
        ..Options::default()
    };
    let notes = into.notes(args.state.as_deref())?;
    let mut receiver = Receiver::new(into.open()?, notes, options).map_err(failed)?;
    receiver.look(&plan.begin).map_err(failed)
}

/// Makes the device, which shows the snapshot from its first moment.
#[allow(clippy::too_many_arguments)]
fn assemble(
    args: &Apply,
    name: &str,
    onto: Devno,
    sender: &Sender,
    plan: &Plan,
    into: &Into,
    memory: &mut Metadata,
    interrupt: &Interrupt,
) -> Result<()> {
    let dm = &sender.dm;
    let Some(record) = memory.kept.record.clone() else {
        return Err(lost(name));
    };
    let metadata = memory.path()?.ok_or_else(|| lost(name))?;
    let metadata = BlockDevice::find(metadata.as_os_str(), "metadata device", &dm.sysfs)?;
    // A device of our own goes when the clone does not need it any more, which has it open by then.
    let shown = sender.show(plan)?;
    let line = Line {
        metadata: metadata.devno,
        onto,
        source: dm.info(&shown.name)?.devno,
        region: record.region,
    };
    let mut notes = into.notes(args.state.as_deref())?;
    let _held = interrupt.hold()?;
    if let Err(failure) = dm.create(name, None) {
        shown.close(dm);
        return Err(failure);
    }
    let made = dm
        .load_clone(name, record.sectors, &line)
        .and_then(|devno| {
            // From here on it is not what it was.
            notes.remove().map_err(|e| unopened(notes.path(), &e))?;
            dm.resume(name, true)?;
            node::make(name, devno).map_err(|e| unopened(&node::path(name), &e))
        });
    match made {
        Ok(()) => {
            drop(shown);
            Ok(())
        }
        Err(failure) => {
            if let Ok(info) = dm.info(name) {
                let _ = dm.remove(name, info.devno);
            }
            shown.close(dm);
            Err(failure)
        }
    }
}

/// Tells the clone what it need not fetch, unless it knows, and has it fetch the rest.
fn get_ready(dm: &Dm, name: &str, kept: &mut Kept, plan: &Plan, onto: &Path) -> Result<()> {
    let (Some(record), Some(_)) = (kept.record.clone(), dm.what(name)?) else {
        return Err(lost(name));
    };
    let path = node::path(name);
    if record.phase == Phase::Begun {
        // A file system that somebody has mounted meanwhile would lose what it has in the page cache.
        let clone = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(&path);
        let clone = clone.map_err(|e| unopened(&path, &e))?;
        let mut regions = 0;
        for (start, sectors) in same(plan.ranges.iter(), record.sectors) {
            regions += whole_regions(start, sectors, record.region);
            take_as_is(&clone, start, sectors)?;
        }
        // So that it is on stable storage, with the metadata.
        clone.sync_all().map_err(|e| unopened(&path, &e))?;
        let status = need_status(dm, name)?;
        if status.hydrated < regions {
            let what = format!(
                "{name} has taken {} of {regions} regions that do not differ",
                status.hydrated
            );
            return Err(
                Failure::new(Kind::Refused, what).hint("the same command again tries it anew")
            );
        }
        kept.reach(Phase::Ready)?;
    }
    let status = need_status(dm, name)?;
    dm.hydrate(name)?;
    let left = status.regions.saturating_sub(status.hydrated) * record.region * 512;
    print(&format!(
        "{} is version {}: {left} bytes are to be fetched onto {}\n",
        path.display(),
        record.tag,
        onto.display()
    ))
}

/// What is between some pieces, up to the end: first sectors, and how many.
fn same(pieces: impl Iterator<Item = Piece>, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let last = Piece {
        start: end,
        sectors: 0,
        zero: false,
    };
    let mut at = 0;
    pieces.chain([last]).filter_map(move |piece| {
        let from = at;
        at = piece.start.saturating_add(piece.sectors);
        let sectors = piece.start.min(end).saturating_sub(from);
        (sectors > 0).then_some((from, sectors))
    })
}

/// Whole regions in so many sectors from there on.
fn whole_regions(start: u64, sectors: u64, region: u64) -> u64 {
    let end = start.saturating_add(sectors) / region;
    end.saturating_sub(start.div_ceil(region))
}

fn need_status(dm: &Dm, name: &str) -> Result<Status> {
    let status = dm.clone_status(name)?;
    status.filter(|status| status.writable).ok_or_else(|| {
        let what = format!("{name} has failed: dm-clone cannot write its metadata");
        Failure::new(Kind::Damaged, what).hint("the kernel's log tells why: dmesg")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_differ() {
        let piece = |start, sectors| Piece {
            start,
            sectors,
            zero: false,
        };
        let of = |pieces: &[Piece], end| same(pieces.iter().copied(), end).collect::<Vec<_>>();
        assert_eq!(of(&[], 64), [(0, 64)]);
        assert_eq!(of(&[piece(0, 64)], 64), []);
        assert_eq!(
            of(&[piece(8, 8), piece(24, 8)], 64),
            [(0, 8), (16, 8), (32, 32)]
        );
        assert_eq!(
            of(&[piece(0, 8), piece(8, 8), piece(60, 4)], 64),
            [(16, 44)]
        );
    }

    #[test]
    fn regions() {
        assert_eq!(region(8, 1 << 20), 8);
        assert_eq!(region(2048, 1 << 20), 2048);
        assert_eq!(region(8, 1 << 35), 16);
        assert_eq!(whole_regions(0, 64, 8), 8);
        assert_eq!(whole_regions(4, 64, 8), 7);
        assert_eq!(whole_regions(4, 4, 8), 0);
        assert_eq!(whole_regions(4, 3, 8), 0);
        assert_eq!(whole_regions(56, 7, 8), 0);
    }
}
