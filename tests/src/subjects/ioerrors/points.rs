// SPDX-License-Identifier: GPL-2.0

//! Each request that an operation makes of a disk fails, one after the other.

use anyhow::{ensure, Context, Result};

use super::bench::{Bench, Perhaps};
use crate::puppet::Op;
use crate::store::Device;

/// More requests than this no operation makes.
const MOST: usize = 300;

/// What is done while something fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// A write of chunks that no snapshot has yet, with parts of chunks at both ends.
    OriginWrite,
    /// The same of chunks some of which are preserved.
    OriginRewrite,
    OriginDiscard,
    /// Whole new chunks, and a flush.
    SnapshotWrite,
    /// Parts of chunks that are the origin's, and a flush.
    SnapshotWritePart,
    /// Parts of chunks that are the parent's.
    SnapshotWritePartOfCow,
    /// In place, and a flush.
    SnapshotRewrite,
    SnapshotDiscard,
    SnapshotRead,
    Take,
    TakeOf,
    /// And the cleaning that follows.
    Delete,
    RollBack,
    Merge,
    Unbind,
    Activate,
    Format,
}

/// All of them.
pub const ACTS: &[Act] = &[
    Act::OriginWrite,
    Act::OriginRewrite,
    Act::OriginDiscard,
    Act::SnapshotWrite,
    Act::SnapshotWritePart,
    Act::SnapshotWritePartOfCow,
    Act::SnapshotRewrite,
    Act::SnapshotDiscard,
    Act::SnapshotRead,
    Act::Take,
    Act::TakeOf,
    Act::Delete,
    Act::RollBack,
    Act::Merge,
    Act::Unbind,
    Act::Activate,
    Act::Format,
];

/// Which disk fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    Origin,
    Cow,
}

/// What fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub which: Which,
    pub op: Op,
    /// The first request of this sort that fails, and how many do.
    pub first: usize,
    pub times: usize,
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

/// Which of the requests fail: from `offset` on each `stride`th in turn, and with it the next ones, so
/// that `times` do.
#[derive(Clone, Copy)]
pub struct Part {
    pub times: usize,
    pub offset: usize,
    pub stride: usize,
}

/// Fails each request of a sort that an operation makes, until it makes no more, or only some of them.
pub fn all(
    bench: &mut Bench,
    act: Act,
    policy: &'static str,
    which: Which,
    op: Op,
    part: Part,
    sum: &mut Sum,
) -> Result<()> {
    bench.prepare(policy).context("before")?;
    if act == Act::Unbind {
        let co = bench.co("")?;
        for tag in [1, 2, 3] {
            co.delete(tag)?;
        }
        co.wait_clean()?;
        bench.snapshots.clear();
        co.remove()?;
    }
    let saved = bench.save();
    for first in (part.offset..MOST).step_by(part.stride) {
        bench.restore(&saved);
        let fault = Fault {
            which,
            op,
            first,
            times: part.times,
        };
        let met = point(bench, act, policy, fault, sum)
            .with_context(|| format!("{act:?}, policy {policy}, {fault:?}"))?;
        if !met {
            return Ok(());
        }
        sum.points += 1;
    }
    anyhow::bail!("{act:?} makes more than {MOST} requests");
}

fn strike(bench: &Bench, fault: Fault) {
    let disk = match fault.which {
        Which::Origin => &bench.origin,
        Which::Cow => &bench.cow,
    };
    disk.fail(&[fault.op], fault.first, fault.times);
}

fn mend(bench: &Bench) -> usize {
    bench.origin.mend() + bench.cow.mend()
}

/// One point; false if the operation made no such request.
fn point(
    bench: &mut Bench,
    act: Act,
    policy: &'static str,
    fault: Fault,
    sum: &mut Sum,
) -> Result<bool> {
    match act {
        Act::Activate | Act::Format => creation(bench, act, fault, sum),
        _ => operation(bench, act, policy, fault, sum),
    }
}

/// An operation of devices that are there.
fn operation(
    bench: &mut Bench,
    act: Act,
    policy: &'static str,
    fault: Fault,
    sum: &mut Sum,
) -> Result<bool> {
    let co = bench.co("")?;
    // One error never costs a snapshot, and more only if the origin goes first.
    bench.may_invalidate = policy == "invalidate" && fault.which == Which::Cow && fault.times > 1;
    let done = act.run(bench, &co, fault);
    let hit = match fault.which {
        Which::Origin => bench.origin.failed(),
        Which::Cow => bench.cow.failed(),
    };
    if hit == 0 {
        mend(bench);
        done.context("nothing failed")?;
        co.remove()?;
        return Ok(false);
    }
    let state = co.state()?;
    if done.is_ok() {
        sum.passed += 1;
    } else {
        sum.errors += 1;
    }
    let changes = fault.which == Which::Cow && fault.op != Op::Read && fault.times == 1;
    if changes && policy == "invalidate" && matches!(act, Act::OriginWrite | Act::OriginRewrite) {
        // Nor does one that the COW device has with a write cost the origin one.
        done.context("the origin's write")?;
    }
    if state.state == "error" {
        sum.failed += 1;
    }
    if let (Act::RollBack | Act::Merge, Some(rollback)) = (act, &state.rollback) {
        ensure!(
            fault.times == 1 || state.state == "error" || rollback.stopped.is_some(),
            "{}",
            co.status()?
        );
    }
    if fault.which == Which::Cow {
        bench.look(&co, fault.first).context("while it fails")?;
    }
    mend(bench);
    if act == Act::Unbind && unbound(&co)? {
        bench.perhaps = None;
        co.remove()?;
        let co = bench.co("-b").context("bind it again")?;
        ensure!(!bench.check(&co)?, "{}", co.status()?);
        bench.use_it(&co)?;
        co.remove()?;
        return Ok(true);
    }
    bench.perhaps = bench
        .perhaps
        .take()
        .filter(|p| !matches!(p, Perhaps::Unbound));
    bench.bring_back(&co)?;
    if bench.check(&co).context("after")? {
        sum.invalid += 1;
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

/// Whether the origin was unbound though it may have been said that it was not.
fn unbound(co: &Device) -> Result<bool> {
    co.suspend(crate::dm::Suspend::Orderly)?;
    co.resume()?;
    Ok(co.state()?.state == "unbound")
}

/// The making of a device.
fn creation(bench: &mut Bench, act: Act, fault: Fault, sum: &mut Sum) -> Result<bool> {
    let options = if act == Act::Format { "-b -F" } else { "" };
    strike(bench, fault);
    let made = bench.co(options);
    let hit = mend(bench) > 0;
    if !hit {
        made.context("nothing failed")?.remove()?;
        return Ok(false);
    }
    let co = match made {
        Ok(co) => {
            sum.passed += 1;
            co
        }
        Err(_) => {
            sum.errors += 1;
            sum.remade += 1;
            bench.co(options).context("once more")?
        }
    };
    if act == Act::Format {
        bench.snapshots.clear();
    }
    ensure!(!bench.check(&co)?, "{}", co.status()?);
    bench.use_it(&co)?;
    co.remove()?;
    Ok(true)
}

impl Act {
    /// Does it while something fails.
    fn run(self, bench: &mut Bench, co: &Device, fault: Fault) -> Result<()> {
        match self {
            Act::OriginWrite | Act::OriginRewrite | Act::OriginDiscard => {
                let disk = co.open()?;
                strike(bench, fault);
                match self {
                    Act::OriginWrite => bench.now.write(&disk, 1003, 42),
                    Act::OriginRewrite => bench.now.write(&disk, 40, 80),
                    _ => {
                        let done = disk.discard(1200, 64);
                        let zero = crate::content::ZERO;
                        bench.now.wrote(1200, 64, zero, done.is_ok());
                        Ok(done?)
                    }
                }
            }
            Act::SnapshotWrite
            | Act::SnapshotWritePart
            | Act::SnapshotWritePartOfCow
            | Act::SnapshotRewrite
            | Act::SnapshotDiscard
            | Act::SnapshotRead => self.on_snapshot(bench, fault),
            Act::Take | Act::TakeOf | Act::Delete | Act::RollBack | Act::Merge | Act::Unbind => {
                strike(bench, fault);
                self.message(bench, co)
            }
            Act::Activate | Act::Format => unreachable!("not of a device that is there"),
        }
    }

    fn on_snapshot(self, bench: &mut Bench, fault: Fault) -> Result<()> {
        let tag = if self == Act::SnapshotWritePartOfCow {
            2
        } else {
            1
        };
        let cs = bench.cs(tag)?;
        let disk = cs.open()?;
        strike(bench, fault);
        let known = bench.snapshots.get_mut(&tag).context("a snapshot")?;
        let done = match self {
            Act::SnapshotWrite => known.write_durably(&disk, 1024, 64),
            Act::SnapshotWritePart => known.write_durably(&disk, 1027, 10),
            Act::SnapshotWritePartOfCow => known.write_durably(&disk, 258, 3),
            Act::SnapshotRewrite => known.write_durably(&disk, 330, 10),
            Act::SnapshotDiscard => known.discard(&disk, 320, 64),
            _ => match known.look(&disk)? {
                0 => Ok(()),
                failed => Err(anyhow::anyhow!("{failed} reads failed")),
            },
        };
        drop(disk);
        cs.remove()?;
        done
    }

    fn message(self, bench: &mut Bench, co: &Device) -> Result<()> {
        match self {
            Act::Take => match co.take() {
                Ok(tag) => {
                    bench.snapshots.insert(tag, bench.now.clone());
                    Ok(())
                }
                Err(e) => {
                    bench.perhaps = Some(Perhaps::Taken(0));
                    Err(e)
                }
            },
            Act::TakeOf => match co.take_of(1) {
                Ok(tag) => {
                    let known = bench.snapshots[&1].clone();
                    bench.snapshots.insert(tag, known);
                    Ok(())
                }
                Err(e) => {
                    bench.perhaps = Some(Perhaps::Taken(1));
                    Err(e)
                }
            },
            Act::Delete => {
                let deleted = co.delete(3);
                if deleted.is_ok() {
                    bench.snapshots.remove(&3);
                } else {
                    bench.perhaps = Some(Perhaps::Deleted(3));
                }
                co.wait_clean()?;
                deleted
            }
            Act::RollBack | Act::Merge => {
                let merge = self == Act::Merge;
                let source = if merge { 3 } else { 1 };
                let then = bench.snapshots[&source].sure.clone();
                let message = format!("rs {source}{}", if merge { " -d" } else { "" });
                let rolled = co.send(&message).map(drop);
                if rolled.is_ok() {
                    bench.now.sure = then;
                    if merge {
                        bench.snapshots.remove(&source);
                    }
                } else {
                    bench.now.or_as(&then);
                    bench.perhaps = Some(if merge {
                        Perhaps::Merged(source)
                    } else {
                        Perhaps::RolledBack
                    });
                }
                rolled
            }
            Act::Unbind => {
                let sent = co.send("do").map(drop);
                bench.perhaps = Some(Perhaps::Unbound);
                sent
            }
            _ => unreachable!("no message"),
        }
    }
}
