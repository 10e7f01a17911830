// SPDX-License-Identifier: GPL-2.0

//! What is known of an origin.

use super::super::ids::{Chunk, Epoch, OriginNr, Tag, TimelineId};
use super::super::refusal::Refusal;
use super::bytes::{Reader, ShortBytes, Writer};
use super::identity::Identity;

/// Most bytes of an origin id.
pub const ID_MAX: usize = 255;

/// An origin id: bytes without control characters, at least one.
pub type OriginId = ShortBytes<ID_MAX>;

/// A rollback that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The snapshot that the origin is to become.
    pub source: Tag,
    /// The epoch of its timeline that is pinned for this.
    pub source_epoch: Epoch,
    /// The origin's epoch that ended when the rollback began.
    pub boundary: Epoch,
    /// The snapshot is deleted when the rollback is done.
    pub delete_source: bool,
    /// Chunks below this are done.
    pub cursor: Chunk,
    /// The end of the chunks that take part; there are none behind a smaller snapshot's end.
    pub limit: Chunk,
    /// Chunks copied so far.
    pub merged: u64,
}

/// A rollback that is to begin when the origin is activated next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// The snapshot that the origin is to become.
    pub source: Tag,
    /// The snapshot is deleted when the rollback is done.
    pub delete_source: bool,
}

/// Row of the origins tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRow {
    /// Size in sectors.
    pub size: u64,
    /// Its number in the store.
    pub number: OriginNr,
    /// The epoch that the next snapshot ends.
    pub current_epoch: Epoch,
    /// The tag of the next snapshot; `u32::MAX`: there is none left.
    pub next_tag: Tag,
    /// Snapshots, ghosts and bookmarks not counted.
    pub snapshots: u32,
    /// Deleted snapshots that others are based on.
    pub ghosts: u32,
    /// When it was bound, in seconds since 1970.
    pub created: u64,
    /// COW chunks held by its timeline.
    pub chunks: u64,
    /// Snapshots with a smaller tag are invalid: something they need was overwritten.
    pub invalid_below: u32,
    /// Bookmarks, ghosts among them.
    pub bookmarks: u32,
    /// Bookmarks with a smaller tag are invalid: a change could not be noted. Never more than
    /// `invalid_below`.
    pub forgotten_below: u32,
    /// The rollback that runs.
    pub rollback: Option<Rollback>,
    /// The rollback that is to come; never while one runs.
    pub deferred: Option<Deferred>,
    /// What disk it is on; nothing in a store without
    /// [`Superblock::has_identities`](super::superblock::Superblock::has_identities).
    pub identity: Identity,
    /// What it was bound as.
    pub id: OriginId,
}

impl OriginRow {
    /// Bytes of a row.
    pub const SIZE: usize = 512;

    const ROLLBACK: u32 = 1;
    const DEFERRED: u32 = 2;
    const DELETE_SOURCE: u32 = 1;

    /// Its own timeline.
    pub const fn timeline(&self) -> TimelineId {
        TimelineId::of_origin(self.number)
    }

    /// The timeline of one of its snapshots.
    pub const fn timeline_of(&self, tag: Tag) -> TimelineId {
        TimelineId::of_snapshot(self.number, tag)
    }

    /// Whether the snapshot with this tag has lost data: reads of it fail.
    pub const fn is_invalid(&self, tag: Tag) -> bool {
        tag.get() < self.invalid_below
    }

    /// Whether the bookmark with this tag has missed a change.
    pub const fn is_forgotten(&self, tag: Tag) -> bool {
        tag.get() < self.forgotten_below
    }

    /// Writes the row.
    pub fn encode(&self, buffer: &mut [u8; Self::SIZE]) {
        let flags = match (&self.rollback, &self.deferred) {
            (Some(_), _) => Self::ROLLBACK,
            (None, Some(_)) => Self::DEFERRED,
            (None, None) => 0,
        };
        let mut w = Writer::new(buffer);
        w.u64(self.size);
        w.u32(self.number.get());
        w.u32(flags);
        w.u32(self.current_epoch.get());
        w.u32(self.next_tag.get());
        w.u32(self.snapshots);
        w.u32(self.ghosts);
        w.u64(self.created);
        w.u64(self.chunks);
        w.u32(self.invalid_below);
        w.u32(self.bookmarks);
        match (&self.rollback, &self.deferred) {
            (Some(rollback), _) => {
                w.u32(rollback.source.get());
                w.u32(rollback.source_epoch.get());
                w.u32(rollback.boundary.get());
                w.u32(Self::delete_flag(rollback.delete_source));
                w.u64(rollback.cursor.get());
                w.u64(rollback.limit.get());
                w.u64(rollback.merged);
            }
            (None, Some(deferred)) => {
                w.u32(deferred.source.get());
                w.zeroes(8);
                w.u32(Self::delete_flag(deferred.delete_source));
                w.zeroes(24);
            }
            (None, None) => w.zeroes(40),
        }
        self.identity.encode(&mut w);
        w.u32(self.forgotten_below);
        w.zeroes(255 - 132);
        w.u8(self.id.len());
        w.bytes(self.id.padded());
        w.end();
    }

    /// Reads a row; [`Refusal::Corrupt`] when it is none.
    pub fn decode(buffer: &[u8; Self::SIZE]) -> Result<OriginRow, Refusal> {
        let mut r = Reader::new(buffer);
        let size = r.u64()?;
        let number = OriginNr::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let flags = r.u32()?;
        let current_epoch = Epoch::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let next_tag = Tag::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let snapshots = r.u32()?;
        let ghosts = r.u32()?;
        let created = r.u64()?;
        let chunks = r.u64()?;
        let invalid_below = r.u32()?;
        let bookmarks = r.u32()?;
        let (mut rollback, mut deferred) = (None, None);
        match flags {
            0 => r.zeroes(40)?,
            Self::ROLLBACK => rollback = Some(Self::decode_rollback(&mut r)?),
            Self::DEFERRED => deferred = Some(Self::decode_deferred(&mut r)?),
            _ => return Err(Refusal::Corrupt),
        }
        let identity = Identity::decode(&mut r)?;
        let forgotten_below = r.u32()?;
        r.zeroes(255 - 132)?;
        let id_len = r.u8()?;
        let id = OriginId::from_parts(id_len, r.array()?)?;
        r.end()?;
        // Whatever was bound has a size and an id, and only snapshots that were taken are invalid
        // or rolled back to, over an epoch that has ended.
        let late = rollback.is_some_and(|rollback| {
            rollback.source >= next_tag || rollback.boundary >= current_epoch
        }) || deferred.is_some_and(|deferred| deferred.source >= next_tag);
        let lost = invalid_below > next_tag.get() || forgotten_below > invalid_below;
        if size == 0 || id_len == 0 || lost || late {
            return Err(Refusal::Corrupt);
        }
        Ok(OriginRow {
            size,
            number,
            current_epoch,
            next_tag,
            snapshots,
            ghosts,
            created,
            chunks,
            invalid_below,
            bookmarks,
            forgotten_below,
            rollback,
            deferred,
            identity,
            id,
        })
    }

    const fn delete_flag(delete_source: bool) -> u32 {
        match delete_source {
            true => Self::DELETE_SOURCE,
            false => 0,
        }
    }

    fn decode_delete_flag(r: &mut Reader<'_>) -> Result<bool, Refusal> {
        match r.u32()? {
            0 => Ok(false),
            Self::DELETE_SOURCE => Ok(true),
            _ => Err(Refusal::Corrupt),
        }
    }

    fn decode_deferred(r: &mut Reader<'_>) -> Result<Deferred, Refusal> {
        let source = Tag::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        r.zeroes(8)?;
        let delete_source = Self::decode_delete_flag(r)?;
        r.zeroes(24)?;
        Ok(Deferred {
            source,
            delete_source,
        })
    }

    fn decode_rollback(r: &mut Reader<'_>) -> Result<Rollback, Refusal> {
        let source = Tag::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let source_epoch = Epoch::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let boundary = Epoch::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let delete_source = Self::decode_delete_flag(r)?;
        let cursor = Chunk::new(r.u64()?).ok_or(Refusal::Corrupt)?;
        let limit = Chunk::new(r.u64()?).ok_or(Refusal::Corrupt)?;
        let merged = r.u64()?;
        if cursor > limit {
            return Err(Refusal::Corrupt);
        }
        Ok(Rollback {
            source,
            source_epoch,
            boundary,
            delete_source,
            cursor,
            limit,
            merged,
        })
    }
}
