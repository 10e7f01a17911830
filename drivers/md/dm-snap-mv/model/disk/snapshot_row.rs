// SPDX-License-Identifier: GPL-2.0

//! What is known of a snapshot.

use super::super::ids::{Epoch, OriginNr, Tag, TimelineId};
use super::super::refusal::Refusal;
use super::bytes::{Reader, ShortBytes, Writer};

/// Most bytes of a memo.
pub const MEMO_MAX: usize = 64;

/// A memo: UTF-8 without control characters.
pub type Memo = ShortBytes<MEMO_MAX>;

/// Row of the snapshots tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its tag.
    pub tag: Tag,
    /// Deleted, and there only for the snapshots that are based on it.
    pub ghost: bool,
    /// It is a bookmark: its content is not kept, but what has changed since. As a ghost, it was a
    /// snapshot, and becomes nothing else when that has gone.
    pub bookmark: bool,
    /// The snapshot it is based on; none: the origin.
    pub parent: Option<Tag>,
    /// The epoch of that one's timeline it is based on.
    pub base_epoch: Epoch,
    /// The epoch in which its writes are recorded now.
    pub current_epoch: Epoch,
    /// Snapshots based on it, and the pin of a rollback to it.
    pub children: u32,
    /// Size in sectors.
    pub size: u64,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// COW chunks held by its timeline.
    pub chunks: u64,
    /// What its maker wrote about it.
    pub memo: Memo,
}

impl SnapshotRow {
    /// Bytes of a row.
    pub const SIZE: usize = 128;

    const GHOST: u32 = 1;
    const BOOKMARK: u32 = 2;

    /// Its timeline, as a snapshot of origin `nr`.
    pub const fn timeline(&self, nr: OriginNr) -> TimelineId {
        TimelineId::of_snapshot(nr, self.tag)
    }

    /// Whether it is there as a snapshot: nobody has deleted it, or kept a bookmark of it only.
    pub const fn is_whole(&self) -> bool {
        !self.ghost && !self.bookmark
    }

    /// The timeline it is based on.
    pub const fn parent_timeline(&self, nr: OriginNr) -> TimelineId {
        TimelineId::of(nr, self.parent)
    }

    /// Writes the row.
    pub fn encode(&self, buffer: &mut [u8; Self::SIZE]) {
        let flags = [(self.ghost, Self::GHOST), (self.bookmark, Self::BOOKMARK)];
        let flags = flags.iter().filter(|(set, _)| *set);
        let mut w = Writer::new(buffer);
        w.u32(self.tag.get());
        w.u32(flags.fold(0, |all, (_, bit)| all | bit));
        w.u32(self.parent.map_or(0, Tag::get));
        w.u32(self.base_epoch.get());
        w.u32(self.current_epoch.get());
        w.u32(self.children);
        w.u64(self.size);
        w.u64(self.created);
        w.u64(self.chunks);
        w.u8(self.memo.len());
        w.zeroes(7);
        w.bytes(self.memo.padded());
        w.end();
    }

    /// Reads a row; [`Refusal::Corrupt`] when it is none.
    pub fn decode(buffer: &[u8; Self::SIZE]) -> Result<SnapshotRow, Refusal> {
        let mut r = Reader::new(buffer);
        let tag = Tag::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let flags = r.u32()?;
        let parent = Tag::new(r.u32()?);
        let base_epoch = Epoch::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let current_epoch = Epoch::new(r.u32()?).ok_or(Refusal::Corrupt)?;
        let children = r.u32()?;
        let size = r.u64()?;
        let created = r.u64()?;
        let chunks = r.u64()?;
        let memo_len = r.u8()?;
        r.zeroes(7)?;
        let memo = Memo::from_parts(memo_len, r.array()?)?;
        r.end()?;
        // A parent is older than its child, so following parents ends.
        let orphan = parent.is_some_and(|parent| parent >= tag);
        let (ghost, bookmark) = (flags & Self::GHOST != 0, flags & Self::BOOKMARK != 0);
        // A bookmark is of the origin, has nothing of its own, and but for a ghost nothing is based on it.
        let odd = bookmark && (parent.is_some() || chunks > 0 || !ghost && children > 0);
        if flags & !(Self::GHOST | Self::BOOKMARK) != 0 || orphan || odd || size == 0 {
            return Err(Refusal::Corrupt);
        }
        Ok(SnapshotRow {
            tag,
            ghost,
            bookmark,
            parent,
            base_epoch,
            current_epoch,
            children,
            size,
            created,
            chunks,
            memo,
        })
    }
}
