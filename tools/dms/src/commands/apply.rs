// SPDX-License-Identifier: GPL-2.0
//! `dms apply`

use super::instant;
use super::into::Into;
use super::pass::pass;
use super::print;
use super::send::versions;
use super::verify::{differing, snapshot, Side};
use crate::cli::Apply;
use crate::devno::Devno;
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::names::BlockDevice;
use crate::peer::words::{Held, Holds};
use crate::peer::{Peer, Place};
use crate::plan::{position, Base, Plan};
use crate::sender::Sender;
use crate::shared;
use crate::show::stream::uuid;
use crate::stack::Stack;
use crate::streams::refused;
use crate::thing::Thing;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_stream::digest::of_begin;
use dm_snap_mv_stream::receive::proof::Samples;
use dm_snap_mv_stream::receive::{
    Failure as Stopped, Notes, Options, Receiver, Refusal, State, Target, Whole,
};
use dm_snap_mv_stream::{Content, Position};
use std::ffi::OsStr;

pub fn run(args: &Apply) -> Result<()> {
    if let Some(name) = &args.finish {
        return instant::finish(name);
    }
    if let Some(name) = &args.abandon {
        return instant::abandon(name);
    }
    let (Some(dm_dev), Some(tag), Some(onto)) = (&args.dm_dev, &args.tag, &args.onto) else {
        return Err(Failure::usage("an origin, a tag and a target are needed"));
    };
    let (to, since) = versions(tag, args.since.as_deref())?;
    let interrupt = Interrupt::watch()?;
    let into = Into::find(onto)?;
    let sender = Sender::find(dm_dev, args.cow.as_deref(), interrupt.clone())?;
    need_another(&sender, &into)?;
    let plan = sender.plan(to, since.map(Base::of))?;
    if args.instant {
        return instant::start(args, dm_dev, since, &sender, &plan, &into, &interrupt);
    }
    if let (true, Some(base)) = (args.verify, since) {
        compare(args, dm_dev, base, &plan, &into, &interrupt)?;
    }
    copy(args, onto, &sender, &plan, &into)
}

/// The target must not be what the snapshot is kept on.
fn need_another(sender: &Sender, into: &Into) -> Result<()> {
    let shown = into.path.display();
    let ours = into.origin.as_ref().zip(sender.device.as_ref());
    if ours.is_some_and(|(target, device)| target.same_origin(device)) {
        let what = format!("{shown} is the origin of the snapshot itself");
        let hint = format!("to have it be that again: dms rollback {shown} TAG");
        return Err(Failure::new(Kind::Refused, what).hint(hint));
    }
    let (Some(onto), None) = (into.device, &into.origin) else {
        return Ok(());
    };
    let sysfs = &sender.dm.sysfs;
    let cow = BlockDevice::find(sender.opened.path.as_os_str(), "COW device", sysfs);
    let origin = sender.origin_device();
    let stack = Stack::look(sysfs, Some(&sender.dm));
    for (role, device) in [("origin", origin), ("COW", cow)] {
        let is = |other: Devno| other == onto || shared::in_common(&stack, other, onto);
        if device.is_ok_and(|device| is(device.devno)) {
            let what = format!("{shown} has blocks of the {role} device of the snapshot itself");
            return Err(Failure::new(Kind::Refused, what));
        }
    }
    Ok(())
}

/// Reads the target and the version that it is to hold, and if they are the same, notes that.
pub(super) fn compare(
    args: &Apply,
    dm_dev: &OsStr,
    since: Tag,
    plan: &Plan,
    into: &Into,
    interrupt: &Interrupt,
) -> Result<()> {
    let path = &into.path;
    let failed = |failure: Stopped| refused(path, failure);
    if into.origin.is_some() {
        let what = "what an origin holds is proven by its snapshots, not by --verify";
        return Err(Failure::new(Kind::Refused, what)
            .hint("receive a whole version first: leave out --since"));
    }
    let Some(content) = plan.begin.needs() else {
        return Ok(());
    };
    let state = args.state.as_deref();
    let opened = Receiver::new(into.open()?, into.notes(state)?, Options::default());
    let receiver = opened.map_err(failed)?;
    if let Some(State::Between(_) | State::Restoring(_)) = receiver.state() {
        // It is a mixture, which is gone on with, or not.
        return Ok(());
    }
    // Nobody else has it open from here on.
    let (mut target, mut notes) = receiver.into_parts();
    let has = target
        .sectors()
        .map_err(|e| failed(Stopped::Target("look at", e)))?;
    let (has, size) = (has.unwrap_or(0), content.size);
    if has < size || target.is_elastic() && has != size {
        return Err(failed(Refusal::OtherSize(has, size).into()));
    }
    let old = since.get();
    let base = snapshot(
        "the older snapshot",
        dm_dev,
        args.cow.as_deref(),
        since,
        interrupt,
    );
    let base = base.map_err(|failure| failure.context(format!("cannot read snapshot {old}")))?;
    let there = Thing::at(&path.to_string_lossy(), path, interrupt.clone())?;
    let mut sides = [Side::Here(base), Side::Here(there)];
    let ranges = differing(&mut sides, size, true, interrupt)?;
    if let Some(sector) = ranges.first() {
        let what = format!(
            "{} is not snapshot {old}: it differs at {}, in bytes, and perhaps elsewhere",
            path.display(),
            sector * 512
        );
        return Err(Failure::new(Kind::Refused, what)
            .hint("have all of it written: leave out --since and --verify, and give --force"));
    }
    drop(sides);
    let payload = plan.begin.encode().unwrap_or_default();
    let samples = Samples::take(&mut target, size, of_begin(&payload));
    let state_of = State::Whole(Whole {
        content,
        identity: plan.begin.identity.clone(),
        samples: samples.map_err(|e| failed(Stopped::Target("read", e)))?,
        ..Whole::default()
    });
    into.need_place(state)?;
    let noted = notes.store(&state_of.encode());
    noted.map_err(|e| failed(Stopped::Notes("note", e)))
}

/// Has the target receive it.
fn copy(args: &Apply, onto: &OsStr, sender: &Sender, plan: &Plan, into: &Into) -> Result<()> {
    let place = Place {
        host: None,
        target: onto.to_owned(),
    };
    let state = args.state.as_deref().map(|path| path.as_os_str());
    let mut peer = Peer::call(&place, state, "", args.force)?;
    let holds = peer.holds()?;
    let begin = &plan.begin;
    let has_it = is(&holds.holds, Some(&begin.makes())) && holds.state == "whole";
    let from = match args.force {
        true => None,
        false => left_off(plan, &holds)?,
    };
    let said = pass(sender, plan, from.as_ref(), peer, args.force)?;
    let shown = into.path.display();
    let tag = begin.to.tag;
    let taken = match said.trim() {
        "" => String::new(),
        taken => format!(", snapshot {taken} of it"),
    };
    print(&match has_it && !args.force {
        true => format!("{shown} is version {tag} already{taken}\n"),
        false => format!(
            "{shown} is version {tag}{taken}: {} bytes\n",
            begin.sectors * 512
        ),
    })
}

/// Where to go on, if the target has a part of this very thing.
fn left_off(plan: &Plan, holds: &Holds) -> Result<Option<Position>> {
    let begin = &plan.begin;
    let same = is(&holds.becomes, Some(&begin.makes())) && is(&holds.holds, begin.needs().as_ref());
    match &holds.position {
        Some(word) if holds.state == "between" && same => {
            let position = position(word)?;
            // If it is of another one, whoever receives says so.
            Ok(plan.has(&position).is_ok().then_some(position))
        }
        _ => Ok(None),
    }
}

/// Whether what is held is this content.
fn is(held: &Option<Held>, content: Option<&Content>) -> bool {
    match (held, content) {
        (Some(held), Some(content)) => {
            let of = (held.store.as_str(), held.origin, held.version.tag);
            of == (
                uuid(&content.store).as_str(),
                content.origin,
                content.version.tag,
            )
        }
        (None, None) => true,
        _ => false,
    }
}
