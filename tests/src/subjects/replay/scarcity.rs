// SPDX-License-Identifier: GPL-2.0

//! What a player does when there is no space.

use std::thread;

use anyhow::{bail, Context, Result};

use super::ops::Op;
use super::player::{is_full, How, Player};
use crate::store::until;

/// Of the snapshots of snapshots that take metadata.
const DEPTH: usize = 60;

impl Player<'_> {
    /// Takes snapshots of a snapshot, each of the one before as long as they may be nested, until there
    /// is no room for more metadata: what leads from one to the next is a block of its own.
    pub fn exhaust_metadata(&mut self, origin: usize, tag: u32) -> Result<()> {
        loop {
            let mut last = tag;
            for _ in 0..DEPTH {
                let (used, all) = self.co(origin)?.state()?.metadata;
                match self.take(origin, last) {
                    Err(error) if is_full(&error) => return Ok(()),
                    taken => last = taken.with_context(|| format!("{used} of {all} blocks"))?,
                }
            }
        }
    }

    /// Takes a snapshot of an origin, if there is room for it.
    pub fn take_if_it_fits(&mut self, origin: usize) -> Result<()> {
        match self.take(origin, 0) {
            Err(error) if is_full(&error) => Ok(()),
            taken => taken.map(drop),
        }
    }

    /// Something that finds no space: it must be refused, and then nothing has happened.
    pub fn refused(&mut self, what: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match what(self) {
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => bail!("there was space for it"),
        }
    }

    /// Waits until a rollback stands still because it finds no space.
    pub fn wait_stopped(&self, origin: usize) -> Result<()> {
        let co = self.co(origin)?;
        until("a rollback that finds no space", || {
            let rollback = co.state()?.rollback;
            let rollback = rollback.with_context(|| {
                let status = co.status().unwrap_or_default();
                format!("it has found enough: {status}")
            })?;
            Ok(rollback.stopped.as_deref() == Some("full"))
        })
    }

    /// Writes while there is no space, until deleting a snapshot brings some.
    pub fn write_hungry(&mut self, origin: usize, at: (u64, u64), victim: u32) -> Result<()> {
        self.close(origin, victim)?;
        let disk = self.co(origin)?.open()?;
        let co = self.co(origin)?;
        let this = &*self;
        thread::scope(|scope| -> Result<()> {
            let writer = scope
                .spawn(|| this.act(|| this.write_now(origin, 0, How::Write, at, &disk, co, true)));
            thread::sleep(std::time::Duration::from_millis(100));
            this.act(|| {
                co.delete(victim)?;
                let tag = victim;
                Ok((Op::Delete { origin, tag }, ()))
            })?;
            writer.join().expect("no panic").map(drop)
        })?;
        self.forget(origin, victim);
        Ok(())
    }
}
