// SPDX-License-Identifier: GPL-2.0

//! The machine is killed in the middle of everything; the next boot looks at what is there, and goes
//! on with it to the next cut.
//!
//! Three threads change the origin, each a part of it, and its snapshots. What they begin and what
//! was acknowledged is noted down on a third disk, with what everything held before. Now and then the
//! store is formatted anew, with much room or with too little, or formatted again and again until the
//! cut comes. `TEST_SEED` says what happens, as far as the threads' order does not.

mod after;
mod before;
mod log;
mod model;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::disks::{linear, Disks};
use crate::dm::{Mapped, Table};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::store::{co_line, cs_line, Device, TARGET};

const ORIGIN: &str = "/dev/vdb";
const COW: &str = "/dev/vdc";

/// So many steps are acknowledged before the machine may be killed.
const FIRST_STEPS: u64 = 20;

/// Runs until the machine stops. Not to get there is a failure.
pub fn before(subject: &mut Subject, _disks: &Disks) {
    subject.case("until the machine is killed", before::run);
}

/// Compares what is there with what was acknowledged.
pub fn after(subject: &mut Subject, _disks: &Disks) {
    subject.counted_case("what was acknowledged is there", after::run);
}

fn random(run: u32) -> Result<Random> {
    let seed: u64 = std::env::var("TEST_SEED")
        .context("TEST_SEED is needed by all boots")?
        .parse()?;
    Ok(Random::new(seed.wrapping_add(u64::from(run) << 32)))
}

/// Generations that no other boot uses.
struct Generations(AtomicU32);

impl Generations {
    /// Of a run, and of what comes after it.
    fn new(run: u32, after: bool) -> Self {
        Self(AtomicU32::new((run << 20) | (u32::from(after) << 19) | 1))
    }

    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The origin, and as much of the COW device as the store is to have.
struct Place {
    cow: Mapped,
    sectors: u64,
    /// The store is too small for what is done.
    little: bool,
}

impl Place {
    fn new(cow: u64) -> Result<Self> {
        Ok(Self {
            cow: Mapped::create("cow", &linear(Path::new(COW), 0, cow))?,
            sectors: Disk::open(ORIGIN)?.sectors(),
            little: cow < Disk::open(COW)?.sectors(),
        })
    }

    fn co(&self, options: &str) -> Result<Device> {
        // With little room nothing is lost either: what finds none is refused.
        let policy = if self.little { "-e error" } else { "" };
        let options = format!("-i o {policy} {options}");
        let line = co_line(Path::new(ORIGIN), &self.cow.path(), &options);
        let mapped = Mapped::create("co", &Table::new(self.sectors, TARGET, line));
        Ok(Device(mapped.context("a device of the origin")?))
    }

    fn cs(&self, tag: u32) -> Result<Device> {
        let line = cs_line(Path::new(ORIGIN), &self.cow.path(), tag, "-i o");
        let mapped = Mapped::create("cs", &Table::new(self.sectors, TARGET, line));
        Ok(Device(
            mapped.with_context(|| format!("a device of snapshot {tag}"))?,
        ))
    }

    /// Whether a refusal is for lack of space, as it may be.
    fn is_full(&self, error: &anyhow::Error) -> bool {
        let errno = error.downcast_ref::<std::io::Error>();
        self.little && errno.and_then(std::io::Error::raw_os_error) == Some(libc::ENOSPC)
    }
}
