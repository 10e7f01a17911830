// SPDX-License-Identifier: GPL-2.0
//! The commands, a file each.

mod apply;
mod check;
mod common;
mod complete;
mod completions;
mod create;
mod delete;
mod diff;
mod docs;
mod dump;
mod formatting;
mod instant;
pub(crate) mod into;
mod label;
mod list;
mod merge;
mod migrate;
mod nbd;
mod pass;
pub(crate) mod receive;
mod remove;
mod repair;
mod reverse;
mod rollback;
mod send;
mod serve;
mod snapshot;
mod status;
mod stream;
mod sync;
mod verify;
mod wait;

pub(crate) use create::nobody_else_has;
pub(crate) use rollback::begin as roll_back;
pub(crate) use wait::rollback as wait_for_rollback;

use crate::cli::Command;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::list as lists;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::table;
use std::io::{self, Write};

/// Does what the command line says. Returns the exit code.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Verify(args) => verify::run(&args),
        other => act(other).map(|()| 0),
    }
}

/// The commands that either succeed or fail.
fn act(command: Command) -> Result<()> {
    match command {
        // They are not of these.
        Command::Check(_) | Command::Repair(_) | Command::Diff(_) | Command::Verify(_) => Ok(()),
        Command::Create(args) => create::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Label(args) => label::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::List(args) => list::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Receive(args) => receive::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Stream(args) => stream::run(&args.command),
        Command::Sync(args) => sync::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Nbd(args) => nbd::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Complete(args) => complete::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man => docs::man(),
        Command::Docs(args) => docs::run(&args),
    }
}

/// A tag as it was typed.
fn tag(word: &str) -> Result<u32> {
    table::parse_tag(word.as_bytes())
        .map(|tag| tag.get())
        .map_err(hints::failure)
}

/// Whether there is a snapshot. To be asked before anything else is found to stand against what is
/// to be done with it.
fn need_snapshot(dm: &Dm, device: &Mapped, tag: u32) -> Result<()> {
    let page = lists::page(dm, &device.name, tag)?;
    match page.rows.iter().any(|row| row.tag == tag) {
        true => Ok(()),
        false => Err(hints::failure(Refusal::UnknownTag)),
    }
}

/// Prints to where the output goes. That nobody reads it is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Kind::Refused,
            format!("cannot write the output: {e}"),
        )),
        _ => Ok(()),
    }
}
