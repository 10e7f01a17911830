// SPDX-License-Identifier: GPL-2.0

//! What is done while something fails.

use anyhow::{Context, Result};

use super::bench::{Bench, Perhaps};
use super::points::Fault;
use super::scenes::Scene;
use crate::content::ZERO;
use crate::store::Device;

/// What is done while something fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// A write of chunks that no snapshot has yet, with parts of chunks at both ends.
    OriginWrite,
    /// The same of chunks some of which are preserved.
    OriginRewrite,
    /// The first again, when the journal is in use already.
    OriginWriteOn,
    OriginDiscard,
    OriginZero,
    /// Whole new chunks, and a flush.
    SnapshotWrite,
    /// Parts of chunks that are the origin's, and a flush.
    SnapshotWritePart,
    /// Parts of chunks that are the parent's.
    SnapshotWritePartOfCow,
    /// Parts of chunks that are zeroes.
    SnapshotWritePartOfZeroes,
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
    /// Of a store that was not closed, with a journal to replay, a rollback and cleaning to go on with.
    ActivateUnclean,
    /// The same by a device of a snapshot, and none of the origin.
    ActivateSnapshot,
    Format,
}

/// All of them.
pub const ACTS: &[Act] = &[
    Act::OriginWrite,
    Act::OriginRewrite,
    Act::OriginWriteOn,
    Act::OriginDiscard,
    Act::OriginZero,
    Act::SnapshotWrite,
    Act::SnapshotWritePart,
    Act::SnapshotWritePartOfCow,
    Act::SnapshotWritePartOfZeroes,
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
    Act::ActivateUnclean,
    Act::ActivateSnapshot,
    Act::Format,
];

impl Act {
    /// What stands on the disks before.
    pub fn scene(self) -> Scene {
        match self {
            Act::Unbind => Scene::Deleted,
            Act::Activate => Scene::Noted,
            Act::ActivateUnclean | Act::ActivateSnapshot => Scene::Interrupted,
            _ => Scene::Closed,
        }
    }

    /// Whether it is a write of the origin that has to preserve something.
    pub fn writes_origin(self) -> bool {
        matches!(
            self,
            Act::OriginWrite | Act::OriginRewrite | Act::OriginWriteOn | Act::OriginZero
        )
    }

    /// Whether it makes a device.
    pub fn creates(self) -> bool {
        matches!(
            self,
            Act::Activate | Act::ActivateUnclean | Act::ActivateSnapshot | Act::Format
        )
    }

    /// Does it while something fails.
    pub fn run(self, bench: &mut Bench, co: &Device, fault: Fault) -> Result<()> {
        match self {
            _ if self.writes_origin() || self == Act::OriginDiscard => {
                self.on_origin(bench, co, fault)
            }
            Act::SnapshotWrite
            | Act::SnapshotWritePart
            | Act::SnapshotWritePartOfCow
            | Act::SnapshotWritePartOfZeroes
            | Act::SnapshotRewrite
            | Act::SnapshotDiscard
            | Act::SnapshotRead => self.on_snapshot(bench, fault),
            Act::Take | Act::TakeOf | Act::Delete | Act::RollBack | Act::Merge | Act::Unbind => {
                fault.strike(bench);
                self.message(bench, co)
            }
            _ => unreachable!("not of a device that is there"),
        }
    }

    fn on_origin(self, bench: &mut Bench, co: &Device, fault: Fault) -> Result<()> {
        let disk = co.open()?;
        if self == Act::OriginWriteOn {
            // The first change of a store that was closed in order writes all of the trees.
            bench.now.write(&disk, 900, 8)?;
        }
        if self == Act::OriginDiscard {
            // What is not preserved is left alone.
            bench.now.write(&disk, 1200, 64)?;
        }
        fault.strike(bench);
        match self {
            Act::OriginDiscard | Act::OriginZero => {
                let done = match self {
                    Act::OriginZero => disk.zero_out(1200, 64),
                    _ => disk.discard(1200, 64),
                };
                bench.now.wrote(1200, 64, ZERO, done.is_ok());
                Ok(done?)
            }
            Act::OriginRewrite => bench.now.write(&disk, 40, 80),
            _ => bench.now.write(&disk, 1003, 42),
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
        fault.strike(bench);
        let known = bench.snapshots.get_mut(&tag).context("a snapshot")?;
        let done = match self {
            Act::SnapshotWrite => known.write_durably(&disk, 1024, 64),
            Act::SnapshotWritePart => known.write_durably(&disk, 1027, 10),
            Act::SnapshotWritePartOfCow => known.write_durably(&disk, 258, 3),
            Act::SnapshotWritePartOfZeroes => known.write_durably(&disk, 402, 3),
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
