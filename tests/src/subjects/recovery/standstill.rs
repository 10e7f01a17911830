// SPDX-License-Identifier: GPL-2.0

//! A rollback whose store fails for others.

use std::thread;

use anyhow::{ensure, Context, Result};

use super::bench::{Bench, CHUNK};
use crate::dm::Suspend;
use crate::puppet::Op;
use crate::store::until;

/// What a rollback is at when its store fails.
#[derive(Clone, Copy, PartialEq)]
pub enum At {
    /// A run is being copied.
    Copying,
    /// Somebody reads what it would overwrite next.
    Waiting,
}

/// The store fails because of a message, and cannot be read either. The rollback goes no further
/// then: whoever waits for its end is told, and so is everybody who asks.
pub fn stands(at: At) -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    let source = bench.take(&co)?;
    bench.now.write(&co.open()?, 0, 16 * CHUNK)?;
    let later = bench.take(&co)?;
    let cs = bench.cs(later)?;
    let released = bench.released();
    let reader = match at {
        At::Copying => {
            bench.origin.hold(&[Op::Write]);
            None
        }
        At::Waiting => {
            bench.origin.hold(&[Op::Read]);
            let disk = cs.open_read_only()?;
            let then = bench.snapshots[&later].clone();
            let reader = thread::spawn(move || then.check_range(&disk, 5 * CHUNK, CHUNK));
            bench.origin.wait_held(1)?;
            Some(reader)
        }
    };
    let path = co.path();
    let roll_back = thread::scope(|scope| -> Result<_> {
        let waits = scope.spawn(|| co.message(&format!("rs {source}")));
        until("the rollback to begin", || {
            Ok(co.state()?.rollback.is_some())
        })?;
        if at == At::Copying {
            bench.origin.wait_held(1)?;
        }
        bench
            .cow
            .fail(&[Op::Read, Op::Write, Op::Flush], 0, usize::MAX);
        ensure!(co.message("so").is_err(), "a snapshot was taken");
        bench.origin.release();
        until("the rollback to stand still", || {
            let rollback = co.state()?.rollback.context("it runs no more")?;
            Ok(rollback.stopped.as_deref() == Some("error"))
        })
        .with_context(|| co.status().unwrap_or_default())?;
        Ok(waits.join().expect("no panic"))
    })
    .with_context(|| format!("{}", path.display()))?;
    ensure!(roll_back.is_err(), "the rollback is said to be done");
    if let Some(reader) = reader {
        reader.join().expect("no panic").context("the reader")?;
    }
    drop(released);
    cs.remove()?;
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    co.wait_rollback()?;
    bench.now = bench.snapshots[&source].clone();
    bench.end(co)
}
