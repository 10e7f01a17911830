// SPDX-License-Identifier: GPL-2.0

//! Each request that an operation makes of a disk fails, one after the other.

use std::io;

use anyhow::{bail, ensure, Context, Result};

use super::act::Act;
use super::bench::{Bench, Perhaps, Requests};
use super::documented::{self, Part, State};
use super::scenes::Saved;
use crate::dm::Suspend;
use crate::puppet::{Op, Puppet};
use crate::store::{until, Device};

/// More requests than this no operation makes.
const MOST: usize = 300;

/// Which disk fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    Origin,
    Cow,
}

impl Which {
    fn of(self, bench: &Bench) -> &Puppet {
        match self {
            Which::Origin => &bench.origin,
            Which::Cow => &bench.cow,
        }
    }
}

/// How many requests fail from the first one on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// That one.
    Once,
    /// So many.
    Next(usize),
    /// All.
    Always,
    /// All that touch what the first one was of.
    Place,
}

/// What fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub which: Which,
    pub op: Op,
    /// The first request of this sort that fails.
    pub first: usize,
    pub times: Times,
}

impl Fault {
    /// From now on.
    pub fn strike(self, bench: &mut Bench) {
        bench.before = bench.requests();
        let (disk, ops) = (self.which.of(bench), &[self.op]);
        match self.times {
            Times::Once => disk.fail(ops, self.first, 1),
            Times::Next(count) => disk.fail(ops, self.first, count),
            Times::Always => disk.fail(ops, self.first, usize::MAX),
            Times::Place => disk.fail_place(ops, self.first),
        }
    }
}

/// What became of all points.
#[derive(Default, Debug)]
pub struct Sum {
    pub points: u32,
    /// The operation succeeded all the same.
    pub passed: u32,
    /// It failed.
    pub errors: u32,
    /// The store took no more changes.
    pub failed: u32,
    /// Snapshots became invalid.
    pub invalid: u32,
    /// Devices had to be made anew.
    pub remade: u32,
}

impl Sum {
    /// Adds another.
    pub fn add(&mut self, other: &Sum) {
        self.points += other.points;
        self.passed += other.passed;
        self.errors += other.errors;
        self.failed += other.failed;
        self.invalid += other.invalid;
        self.remade += other.remade;
    }
}

/// An operation, of a store in some state.
pub struct Case<'a> {
    pub bench: &'a mut Bench,
    pub saved: Saved,
    pub act: Act,
    pub policy: &'static str,
    pub sum: Sum,
}

impl Case<'_> {
    /// The requests that it makes when nothing fails.
    pub fn requests(&mut self) -> Result<Requests> {
        self.bench.restore(&self.saved);
        let never = Fault {
            which: Which::Cow,
            op: Op::Flush,
            first: usize::MAX,
            times: Times::Once,
        };
        let met = self.point(never);
        let met = met.with_context(|| format!("{:?}, nothing fails", self.act))?;
        ensure!(!met, "something fails");
        // How many there were is seen where the fault ends.
        Ok(self.bench.before)
    }

    /// Fails each `stride`th request of a sort, from number `first` on, as long as there are any, or up
    /// to number `end`. Returns how many have failed.
    pub fn each(&mut self, mut fault: Fault, stride: usize, end: Option<usize>) -> Result<u32> {
        let mut points = 0;
        while end.is_none_or(|end| fault.first < end) {
            if fault.first >= MOST {
                bail!("{:?} makes more than {MOST} requests", self.act);
            }
            self.bench.restore(&self.saved);
            let met = self.point(fault);
            if !met.with_context(|| format!("{:?}, policy {}, {fault:?}", self.act, self.policy))? {
                break;
            }
            points += 1;
            fault.first += stride;
        }
        self.sum.points += points;
        Ok(points)
    }

    /// One point; false if the operation made no such request.
    fn point(&mut self, fault: Fault) -> Result<bool> {
        match self.act {
            Act::ActivateSnapshot => self.snapshot_creation(fault),
            act if act.creates() => self.creation(fault),
            _ => self.operation(fault),
        }
    }

    /// Whether the fault was met so far.
    fn met(&mut self, fault: Fault) -> bool {
        let hits = fault.which.of(self.bench).failed();
        let now = self.bench.requests();
        self.bench.before = now.since(&self.bench.before);
        hits > 0
    }

    /// An operation of devices that are there.
    fn operation(&mut self, fault: Fault) -> Result<bool> {
        let (act, policy) = (self.act, self.policy);
        let co = self.bench.co("")?;
        // One error never costs a snapshot, and more only if the origin goes first.
        self.bench.may_invalidate =
            policy == "invalidate" && fault.which == Which::Cow && fault.times != Times::Once;
        let done = act.run(self.bench, &co, fault);
        if !self.met(fault) {
            mend(self.bench);
            done.context("nothing failed")?;
            co.remove()?;
            return Ok(false);
        }
        let state = co.state()?;
        if done.is_ok() {
            self.sum.passed += 1;
        } else {
            self.sum.errors += 1;
        }
        if state.state == "error" {
            self.sum.failed += 1;
        }
        self.compare(fault, &co, done)?;
        if let (Act::RollBack | Act::Merge, Some(rollback)) = (act, &state.rollback) {
            ensure!(
                fault.times == Times::Once || state.state == "error" || rollback.stopped.is_some(),
                "{}",
                co.status()?
            );
        }
        if fault.which == Which::Cow {
            let failed = self.bench.look(&co, fault.first);
            failed.context("while it fails")?;
        }
        mend(self.bench);
        if act == Act::Unbind && unbound(&co)? {
            self.bench.perhaps = None;
            co.remove()?;
            let co = self.bench.co("-b").context("bind it again")?;
            ensure!(!self.bench.check(&co)?, "{}", co.status()?);
            self.bench.use_it(&co)?;
            co.remove()?;
            return Ok(true);
        }
        let bench = &mut *self.bench;
        bench.perhaps = bench
            .perhaps
            .take()
            .filter(|p| !matches!(p, Perhaps::Unbound));
        bench.bring_back(&co)?;
        if bench.check(&co).context("after")? {
            self.sum.invalid += 1;
            bench.may_invalidate = false;
        }
        bench.use_it(&co).context("used again")?;
        co.remove()?;
        // What is on the disk is what was seen.
        let co = bench.co("").context("activated again")?;
        ensure!(!bench.check(&co)?, "{}", co.status()?);
        co.remove()?;
        Ok(true)
    }

    /// It ends as the documentation says, and the store is in the state that it says.
    fn compare(&self, fault: Fault, co: &Device, done: Result<()>) -> Result<()> {
        let place = fault.which.of(self.bench).failed_at();
        let part = match place {
            Some(place) if fault.op != Op::Flush => self.bench.part_of(place.start),
            _ => Part::Metadata,
        };
        let outcome = documented::outcome(self.act, self.policy, fault, part);
        match outcome.state {
            State::Either => {}
            State::Works => ensure!(co.state()?.state != "error", "{}", co.status()?),
            // Status is a little behind. And an origin may be unbound though that was said to fail.
            State::Failed => until("the state error", || {
                let state = co.state()?.state;
                Ok(state == "error" || (self.act == Act::Unbind && state == "unbound"))
            })
            .with_context(|| co.status().unwrap_or_default())?,
        }
        match (done, outcome.succeeds) {
            (Ok(()), Some(false)) => bail!("it succeeded"),
            (Err(e), Some(true)) => Err(e),
            (Err(e), _) => fails_as_it_should(e),
            _ => Ok(()),
        }
    }

    /// The making of an origin's device.
    fn creation(&mut self, fault: Fault) -> Result<bool> {
        let options = match self.act {
            Act::Format => "-b -F",
            _ => "",
        };
        fault.strike(self.bench);
        let made = self.bench.co(options);
        let met = self.met(fault);
        mend(self.bench);
        let co = match made {
            Ok(co) if !met => {
                self.after_creation(co)?;
                return Ok(false);
            }
            Err(e) if !met => return Err(e).context("nothing failed"),
            Ok(co) => {
                self.sum.passed += 1;
                co
            }
            Err(e) => {
                fails_as_it_should(e.into())?;
                self.sum.errors += 1;
                self.sum.remade += 1;
                self.bench.co(options).context("once more")?
            }
        };
        self.after_creation(co)?;
        Ok(true)
    }

    /// The making of a snapshot's device, the first one of its store.
    fn snapshot_creation(&mut self, fault: Fault) -> Result<bool> {
        const TAG: u32 = 1;
        fault.strike(self.bench);
        let made = self.bench.cs(TAG);
        let met = self.met(fault);
        mend(self.bench);
        let cs = match made {
            Ok(cs) => {
                self.sum.passed += u32::from(met);
                cs
            }
            Err(e) if !met => return Err(e).context("nothing failed"),
            Err(e) => {
                fails_as_it_should(e.into())?;
                self.sum.errors += 1;
                self.sum.remade += 1;
                self.bench.cs(TAG).context("once more")?
            }
        };
        self.bench.bring_back(&cs)?;
        let known = &self.bench.snapshots[&TAG];
        let failed = known.look(&cs.open_read_only()?)?;
        ensure!(failed == 0, "{failed} reads of the snapshot failed");
        let co = self.bench.co("").context("the origin's device")?;
        cs.remove()?;
        self.after_creation(co)?;
        Ok(met)
    }

    /// All is there, and goes on.
    fn after_creation(&mut self, co: Device) -> Result<()> {
        let bench = &mut *self.bench;
        if self.act == Act::Format {
            bench.snapshots.clear();
        }
        // What goes on in the background may have met the fault instead.
        bench.bring_back(&co)?;
        bench.look(&co, 0).context("at once")?;
        co.wait_rollback()?;
        ensure!(!bench.check(&co)?, "{}", co.status()?);
        bench.use_it(&co)?;
        co.remove()
    }
}

fn mend(bench: &Bench) {
    bench.origin.mend();
    bench.cow.mend();
}

/// Whatever fails is said to fail with EIO.
fn fails_as_it_should(error: anyhow::Error) -> Result<()> {
    let cause = error.chain().find_map(|e| e.downcast_ref::<io::Error>());
    let errno = cause.and_then(io::Error::raw_os_error);
    if errno.is_none_or(|errno| errno == libc::EIO) {
        return Ok(());
    }
    Err(error.context("not EIO"))
}

/// Whether the origin was unbound though it may have been said that it was not.
fn unbound(co: &Device) -> Result<bool> {
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    Ok(co.state()?.state == "unbound")
}
