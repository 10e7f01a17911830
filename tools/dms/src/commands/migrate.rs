// SPDX-License-Identifier: GPL-2.0
//! `dms migrate`

use super::print;
use super::sync::{round, Synced};
use crate::cli::{Migrate, Sync};
use crate::dm::{self, node, Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::sender::Sender;
use crate::streams::unopened;
use crate::target::Role;
use dm_snap_mv_model::ids::Tag;
use nix::libc;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// Times that it is tried to have less left.
const ROUNDS: u32 = 30;

/// When all is still nothing is left after the first time, but for what was not flushed yet.
const LAST: u32 = 5;

/// How often it is looked whether others have gone, a tenth of a second after the last time.
const LOOKS: u32 = 20;

pub fn run(args: &Migrate) -> Result<()> {
    let sync = Sync {
        dm_dev: Some(args.dm_dev.clone()),
        target: Some(args.target.clone()),
        state: args.state.clone(),
        full: false,
        reverse: false,
        yes: false,
        rsh: args.rsh.clone(),
        status: false,
        json: false,
        prometheus: false,
    };
    let interrupt = Interrupt::watch()?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    if device.line.role != Role::Origin {
        let what = format!("{} shows a snapshot", device.name);
        return Err(Failure::usage(what).hint("it is an origin whose use is moved"));
    }
    live(args, &sync, &interrupt)?;
    if let Some(stop) = &args.stop {
        shell(stop, "--stop").map_err(|failure| {
            failure.hint(format!(
                "nothing has been switched: {} is as it was",
                device.name
            ))
        })?;
    }
    let still = Still::make(&dm, &device)?;
    let synced = match last(&device, &sync, &interrupt) {
        Ok(synced) => synced,
        Err(failure) => {
            let name = &device.name;
            let writable = match still.undo() {
                Ok(()) => format!("{name} is writable again: nothing has been switched"),
                Err(_) => format!("{name} is read-only: blockdev --setrw /dev/mapper/{name}"),
            };
            let hint = match &failure.hint {
                Some(hint) => format!("{hint}\n{writable}"),
                None => writable,
            };
            return Err(failure.hint(hint));
        }
    };
    let name = &device.name;
    if let Some(start) = &args.start {
        shell(start, "--start").map_err(|failure| {
            failure.hint(format!(
                "{} has all, and {name} is read-only\n\
                 to go on there: run that again\n\
                 or to stay here: blockdev --setrw /dev/mapper/{name}",
                synced.target
            ))
        })?;
    }
    print(&format!(
        "{} is version {}, which is all; {name} is read-only\n",
        synced.target, synced.tag
    ))
}

/// Brings the target up to date while all goes on.
fn live(args: &Migrate, sync: &Sync, interrupt: &Interrupt) -> Result<()> {
    let mut before = u64::MAX;
    for _ in 0..ROUNDS {
        let Synced {
            bytes, tag, target, ..
        } = round(sync)?;
        eprintln!("dms: {target} is version {tag}: {bytes} bytes");
        if bytes <= args.until {
            break;
        }
        if bytes > before / 4 * 3 {
            eprintln!(
                "dms: it does not get less: what has changed meanwhile is sent when all is still"
            );
            break;
        }
        before = bytes;
        if interrupt.came() {
            return Err(Failure::new(Kind::Interrupted, "interrupted"));
        }
    }
    Ok(())
}

/// Sends what is left, until it is known that nothing is.
fn last(device: &Mapped, sync: &Sync, interrupt: &Interrupt) -> Result<Synced> {
    for _ in 0..LAST {
        let synced = round(sync)?;
        let sender = Sender::find(device.name.as_ref(), None, interrupt.clone())?;
        let tag = Tag::new(synced.tag);
        let tag = tag.ok_or_else(|| Failure::new(Kind::Refused, "there is no snapshot 0"))?;
        if sender.differing(tag, None)?.is_empty() {
            return Ok(synced);
        }
    }
    let what = format!(
        "{} is being written to, though it is read-only",
        device.name
    );
    Err(Failure::new(Kind::Busy, what))
}

/// An origin that nobody uses, and nobody can write to.
struct Still {
    file: File,
}

impl Still {
    fn make(dm: &Dm, device: &Mapped) -> Result<Self> {
        let path = node::path(&device.name);
        let in_use = || {
            let failure = dm.in_use(&device.name, device.devno);
            let first = failure
                .hint
                .clone()
                .map_or(String::new(), |hint| format!("{hint}\n"));
            failure.hint(format!(
                "{first}or have that be done when it is time, with --stop; the target is up to date but for what \
                 is written now"
            ))
        };
        // What merely looks at it goes away again.
        if dm.is_in_use(device) {
            return Err(in_use());
        }
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(&path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => in_use(),
            _ => unopened(&path, &error),
        })?;
        let still = Self { file };
        dm::make_read_only(&still.file)?;
        // Whoever has come in between can still write; but what merely looks at it goes away again.
        for _ in 0..LOOKS {
            if dm.info(&device.name).is_ok_and(|info| info.opened <= 1) {
                return Ok(still);
            }
            sleep(Duration::from_millis(100));
        }
        let failure = in_use();
        still.undo()?;
        Err(failure)
    }

    fn undo(&self) -> Result<()> {
        dm::make_writable(&self.file)
    }
}

fn shell(command: &OsStr, option: &str) -> Result<()> {
    let status = Command::new("sh").arg("-c").arg(command).status();
    let shown = command.to_string_lossy();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let what = format!("what {option} gives has failed, with {status}: {shown}");
            Err(Failure::new(Kind::Refused, what))
        }
        Err(error) => Err(Failure::new(
            Kind::Refused,
            format!("cannot run what {option} gives: {error}"),
        )),
    }
}
