// SPDX-License-Identifier: GPL-2.0

//! `dms check` and `dms repair`: stores that the module made are in order, whatever it was in the
//! middle of; damage is found, and what was repaired is used by the module with the right content.
//!
//! Every other subject's stores are checked in passing, too, when a case is done with them.

mod activation;
mod command;
mod corruption;
mod damage;
mod repairs;
mod shapes;

use std::process::Command;

use anyhow::{ensure, Context, Result};
use dm_snap_mv_check::Statistics;

use crate::checked;
use crate::disks::{Disks, Piece};
use crate::random::Random;
use crate::report::Subject;
use crate::store::Device;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    shapes::run(subject, disks);
    repairs::run(subject, disks);
    corruption::run(subject, disks);
    subject.case("what the command says and how it ends", || {
        command::command(disks)
    });
    subject.case(
        "an origin is unbound that has something left to clean",
        || command::unbinding(disks),
    );
    subject.case("activation reads as little of a large store", || {
        activation::activation(disks)
    });
}

/// The store must be in order.
fn clean(world: &World) -> Result<Statistics> {
    Ok(checked::clean(&world.store.cow.path())?.statistics)
}

/// Runs `dms`, and returns how it ended and what it printed, both ways.
fn dms(arguments: &[&str]) -> Result<(i32, String)> {
    let output = Command::new("dms").args(arguments).output();
    let output = output.context("run dms")?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("it ended by a signal")?, text))
}

/// `dms` must end so, with these words.
fn dms_says(arguments: &[&str], code: i32, words: &str) -> Result<String> {
    let (ended, text) = dms(arguments)?;
    ensure!(
        ended == code && text.contains(words),
        "dms {} ended with {ended}, not {code}: {text}",
        arguments.join(" ")
    );
    Ok(text)
}

/// All of a device's metadata.
fn metadata(piece: &Piece) -> Result<Vec<u8>> {
    Ok(piece.open()?.read(0, 1024 * 8)?.to_vec())
}

/// Goes on with a store: new snapshots, writes, a deletion.
fn use_it(world: &mut World, co: &Device) -> Result<()> {
    let mut random = Random::new(11);
    let disk = co.open()?;
    let tag = world.take(co)?;
    random_io(&mut random, &disk, &mut world.now, 30)?;
    let cs = world.cs(tag)?;
    random_io(&mut random, &cs.open()?, world.shadow(tag), 20)?;
    cs.remove()?;
    world.check_snapshots()?;
    world.delete(co, tag)?;
    co.wait_clean()
}
