// SPDX-License-Identifier: GPL-2.0
//! How it ends: the target has all, or it is given up.

use super::metadata::metadata_of;
use super::{all_there, another, need_status};
use crate::clones::{Kept, Phase, Record};
use crate::commands::print;
use crate::devno::Devno;
use crate::dm::clone::{Is, Line};
use crate::dm::{node, Dm};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::names::dm_name;
use crate::progress::Progress;
use crate::status::Status;
use crate::streams::unopened;
use std::fs::File;

/// What is noted of a device, which has to be something.
fn begun(name: &str) -> Result<(Kept, Record)> {
    let kept = Kept::find(name)?;
    match kept.record.clone() {
        Some(record) => Ok((kept, record)),
        None => {
            let what = format!("there is no device {name} of dms apply --instant");
            Err(Failure::new(Kind::NotFound, what))
        }
    }
}

/// What the device is now that something is noted of, with its number; none: it is not active.
fn active(dm: &Dm, name: &str, record: &Record) -> Result<Option<(Devno, Is)>> {
    let there = dm.what(name)?;
    let onto = match there {
        Some((_, Is::Clone(Line { onto, .. }) | Is::Linear(onto))) => onto,
        Some((_, Is::Other)) => return Err(another(name)),
        Some((_, Is::Nothing)) | None => return Ok(there),
    };
    match dm.sysfs.lasting_name(onto) == record.onto {
        true => Ok(there),
        false => Err(another(name)),
    }
}

pub(in crate::commands) fn finish(arg: &str) -> Result<()> {
    let name = dm_name(arg)?;
    let interrupt = Interrupt::watch()?;
    let dm = Dm::open()?;
    let (mut kept, record) = begun(name)?;
    let path = node::path(name);
    let shown = path.display();
    let (line, onto) = match (active(&dm, name, &record)?, record.phase) {
        (Some((_, Is::Clone(line))), Phase::Begun | Phase::Ready) => {
            wait(&dm, name, &line, &interrupt)?;
            let flushed = File::open(&path).and_then(|file| file.sync_all());
            flushed.map_err(|e| unopened(&path, &e))?;
            // From here on nobody may go by its metadata, and they need not be there.
            kept.reach(Phase::Whole)?;
            (Some(line), line.onto)
        }
        (Some((_, Is::Clone(line))), Phase::Whole) => (Some(line), line.onto),
        (Some((_, Is::Linear(onto))), Phase::Whole) => (None, onto),
        (None, Phase::Whole) => {
            // The metadata device keeps what it has, which is nothing any more.
            metadata_of(kept, &record, None, &dm.sysfs).give_back()?;
            return print(&format!(
                "{} has all of version {}\n",
                record.onto, record.tag
            ));
        }
        _ => {
            let what = format!("{shown} is not active");
            let hint = "the same dms apply again goes on with it, and then it can be finished";
            return Err(Failure::new(Kind::NotFound, what).hint(hint));
        }
    };
    if line.is_some() {
        dm.load_linear(name, record.sectors, onto)?;
        dm.resume(name, false)?;
    }
    metadata_of(kept, &record, line, &dm.sysfs).give_back()?;
    let onto = dm.sysfs.short_name(onto);
    print(&format!(
        "{shown} is /dev/{onto} now, which has all of version {}\n",
        record.tag
    ))
}

/// Waits until all is fetched.
fn wait(dm: &Dm, name: &str, line: &Line, interrupt: &Interrupt) -> Result<()> {
    let mut progress = Progress::new();
    dm.hydrate(name)?;
    loop {
        dm.arm();
        let status = need_status(dm, name)?;
        if status.hydrated >= status.regions {
            progress.done();
            return Ok(());
        }
        progress.part(&format!("fetching {name}"), status.hydrated, status.regions);
        need_source(dm, name, line)?;
        if interrupt.came() {
            let what = "interrupted; it goes on in the background";
            return Err(Failure::new(Kind::Interrupted, what));
        }
        dm.wait_event(500);
    }
}

/// The snapshot has to be there, or dm-clone would try for ever.
fn need_source(dm: &Dm, name: &str, line: &Line) -> Result<()> {
    let mut devices = dm.devices()?.into_iter();
    let Some(source) = devices.find(|device| device.devno == line.source) else {
        return Ok(());
    };
    let state = Status::parse(&dm.status(&source.name)?)?.state;
    match state.as_str() {
        "invalid" => {
            let tag = source.line.role.tag();
            let what = format!("snapshot {tag} is invalid: what is not fetched yet is lost");
            Err(Failure::new(Kind::Damaged, what).hint(format!(
                "save what was written to {name}, and give it up: dms apply --abandon {name}"
            )))
        }
        _ => Ok(()),
    }
}

pub(in crate::commands) fn abandon(arg: &str) -> Result<()> {
    let name = dm_name(arg)?;
    let dm = Dm::open()?;
    let (kept, record) = begun(name)?;
    if record.phase == Phase::Whole {
        return Err(all_there(name));
    }
    let line = match active(&dm, name, &record)? {
        Some((devno, is)) => {
            dm.remove(name, devno)?;
            match is {
                Is::Clone(line) => Some(line),
                _ => None,
            }
        }
        None => None,
    };
    metadata_of(kept, &record, line, &dm.sysfs).give_back()
}
