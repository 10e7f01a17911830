// SPDX-License-Identifier: GPL-2.0

//! What a device says of itself: status lines, table lines, replies.

use core::fmt;

use super::chunk_size::ChunkSize;
use super::disk::origin_row::OriginRow;
use super::escape::{word, Reader, Sink};
use super::ids::{OriginNr, Tag};
use super::refusal::Refusal;
use super::room::Lack;
use super::table::FullPolicy;

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Valid,
    /// The snapshot has lost data; for an origin: some of its snapshots have.
    Invalid,
    /// No space is left for data, and writes wait or fail for that.
    Full,
    /// None is left for metadata, which is the same to them.
    MetadataFull,
    /// The origin was unbound under the device.
    Unbound,
    /// The store has failed.
    Error,
}

impl State {
    /// That of a store of which something is full.
    pub const fn full(lack: Lack) -> State {
        match lack {
            Lack::Chunks => State::Full,
            Lack::Metadata => State::MetadataFull,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Valid => "valid",
            State::Invalid => "invalid",
            State::Full => "full",
            State::MetadataFull => "full-metadata",
            State::Unbound => "unbound",
            State::Error => "error",
        })
    }
}

/// How much of a store is used. Shown as
/// `<used>/<total metadata blocks of 4 KiB> <used>/<total data chunks> <sectors per chunk>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Metadata blocks in use.
    pub used_metadata: u64,
    /// Metadata blocks there are.
    pub total_metadata: u64,
    /// Data chunks in use.
    pub used_chunks: u64,
    /// Data chunks there are.
    pub total_chunks: u64,
    /// The size of a chunk.
    pub chunk_size: ChunkSize,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} {}/{} {}",
            self.used_metadata,
            self.total_metadata,
            self.used_chunks,
            self.total_chunks,
            self.chunk_size.sectors()
        )
    }
}

/// What is left to clean in a store. Shown as `<timelines left>:<percent of the current one>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleaning {
    /// Timelines left, the current one included.
    pub timelines: u64,
    /// Of the current one ([`super::clean::percent`]).
    pub percent: u64,
}

impl fmt::Display for Cleaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timelines, self.percent)
    }
}

/// Why a rollback stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// An I/O error. It is tried again.
    Error,
    /// There is no space to preserve what it would overwrite.
    Full,
    /// There is none for the metadata of it.
    MetadataFull,
    /// It begins when the origin is activated next.
    Deferred,
}

impl Stopped {
    /// Because something is full.
    pub const fn full(lack: Lack) -> Stopped {
        match lack {
            Lack::Chunks => Stopped::Full,
            Lack::Metadata => Stopped::MetadataFull,
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stopped::Error => "error",
            Stopped::Full => "full",
            Stopped::MetadataFull => "full-metadata",
            Stopped::Deferred => "deferred",
        })
    }
}

/// How far a rollback is. Shown as `<tag>:<chunks done>/<chunks>`, and `:<why>` behind it if it
/// stands still; as `<tag>:deferred` if it has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackProgress {
    /// The snapshot.
    pub tag: Tag,
    /// Chunks the cursor has passed.
    pub done: u64,
    /// Chunks of the snapshot.
    pub chunks: u64,
    /// Why it stands still, if it does.
    pub stopped: Option<Stopped>,
}

impl RollbackProgress {
    /// Of the rollback that runs on an origin, or is to.
    pub fn of(row: &OriginRow) -> Option<RollbackProgress> {
        let Some(rollback) = &row.rollback else {
            return row.deferred.map(|deferred| RollbackProgress {
                tag: deferred.source,
                done: 0,
                chunks: 0,
                stopped: Some(Stopped::Deferred),
            });
        };
        Some(RollbackProgress {
            tag: rollback.source,
            done: rollback.cursor.get(),
            chunks: rollback.limit.get(),
            stopped: None,
        })
    }
}

impl fmt::Display for RollbackProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stopped == Some(Stopped::Deferred) {
            return write!(f, "{}:{}", self.tag, Stopped::Deferred);
        }
        write!(f, "{}:{}/{}", self.tag, self.done, self.chunks)?;
        match self.stopped {
            Some(why) => write!(f, ":{why}"),
            None => Ok(()),
        }
    }
}

/// Shows `-` for what is not there.
pub(super) struct OrDash<T>(pub(super) Option<T>);

impl<T: fmt::Display> fmt::Display for OrDash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// The status of a `co` device. Shown as
/// `co <origin number> <state> <usage> <snapshots> <cleaning> <rollback> <bookmarks>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginStatus {
    /// Its number.
    pub number: OriginNr,
    /// How it is.
    pub state: State,
    /// Of its store.
    pub usage: Usage,
    /// How many it has.
    pub snapshots: u32,
    /// Of its store.
    pub cleaning: Option<Cleaning>,
    /// Of the origin.
    pub rollback: Option<RollbackProgress>,
    /// How many it has.
    pub bookmarks: u32,
}

impl fmt::Display for OriginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "co {} {} {} {} {} {} {}",
            self.number,
            self.state,
            self.usage,
            self.snapshots,
            OrDash(self.cleaning),
            OrDash(self.rollback),
            self.bookmarks
        )
    }
}

/// The status of a `cs` device. Shown as
/// `cs <origin number> <tag> <state> <usage> <chunks> <children> <cleaning> <rollback>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Of its origin.
    pub number: OriginNr,
    /// Its tag.
    pub tag: Tag,
    /// How it is.
    pub state: State,
    /// Of its store.
    pub usage: Usage,
    /// COW chunks that hold what was written to it.
    pub chunks: u64,
    /// Snapshots based on it.
    pub children: u32,
    /// Of its store.
    pub cleaning: Option<Cleaning>,
    /// Of its origin.
    pub rollback: Option<RollbackProgress>,
}

impl fmt::Display for SnapshotStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cs {} {} {} {} {} {} {} {}",
            self.number,
            self.tag,
            self.state,
            self.usage,
            self.chunks,
            self.children,
            OrDash(self.cleaning),
            OrDash(self.rollback)
        )
    }
}

/// Number of a block device. Shown as `<major>:<minor>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Of its driver.
    pub major: u32,
    /// Of itself.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A device's table line, as device-mapper shows it and would take it again. What binds or formats
/// is not in it, the id always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLine<'a> {
    /// Of a `cs` device; none: a `co` device.
    pub tag: Option<Tag>,
    /// The origin device.
    pub origin_device: DeviceNumber,
    /// The COW device.
    pub cow_device: DeviceNumber,
    /// The origin's id.
    pub id: &'a [u8],
    /// What happens when the store is full. It is the store's own, whatever the line that was loaded
    /// said.
    pub policy: FullPolicy,
}

impl TableLine<'_> {
    /// Appends the line.
    pub fn write(&self, out: &mut dyn Sink) -> fmt::Result {
        let (origin, cow) = (self.origin_device, self.cow_device);
        match self.tag {
            None => write!(out, "co {origin} {cow} -i ")?,
            Some(tag) => write!(out, "cs {origin} {cow} {tag} -i ")?,
        }
        word(out, Reader::DeviceMapper, self.id)?;
        match self.policy {
            FullPolicy::Invalidate => Ok(()),
            policy => write!(out, " -e {}", policy.name()),
        }
    }
}

/// The reply to a refused `try`: `refused <errno's name> <text>`.
pub fn refused(out: &mut dyn fmt::Write, refusal: Refusal) -> fmt::Result {
    write!(out, "refused {} {}", refusal.name(), refusal)
}
