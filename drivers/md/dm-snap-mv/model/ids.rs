// SPDX-License-Identifier: GPL-2.0

//! The numbers everything is called by. Each type holds only values that fit its field on disk.

use core::fmt;

/// Chunk of a device, counted from its start; also the end of a range of chunks.
///
/// At most 2^40 - 1, so that the end of the longest device is a `Chunk` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk(u64);

impl Chunk {
    /// The first chunk of a device.
    pub const ZERO: Chunk = Chunk(0);
    /// The end of the longest device.
    pub const MAX: Chunk = Chunk((1 << 40) - 1);

    /// The chunk with number `n`, if that fits.
    pub const fn new(n: u64) -> Option<Chunk> {
        if n <= Self::MAX.0 {
            Some(Chunk(n))
        } else {
            None
        }
    }

    /// The chunk with number `n`, or [`Chunk::MAX`].
    pub const fn saturating(n: u64) -> Chunk {
        if n <= Self::MAX.0 {
            Chunk(n)
        } else {
            Self::MAX
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// `len` chunks further on, or [`Chunk::MAX`].
    pub const fn plus(self, len: u64) -> Chunk {
        Self::saturating(self.0.saturating_add(len))
    }

    /// How many chunks lie from `start` up to this one; 0 when it does not lie behind.
    pub const fn since(self, start: Chunk) -> u64 {
        self.0.saturating_sub(start.0)
    }
}

/// Epoch of a timeline: 1 to 2^24 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch every timeline begins with.
    pub const FIRST: Epoch = Epoch(1);
    /// The last epoch a timeline can have. In a look-up it also stands for "now".
    pub const MAX: Epoch = Epoch((1 << 24) - 1);

    /// The epoch with number `n`, if there is one.
    pub const fn new(n: u32) -> Option<Epoch> {
        if n >= 1 && n <= Self::MAX.0 {
            Some(Epoch(n))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one, unless this is the last.
    pub const fn next(self) -> Option<Epoch> {
        Self::new(self.0 + 1)
    }

    /// The epoch before this one, unless this is the first.
    pub const fn previous(self) -> Option<Epoch> {
        Self::new(self.0 - 1)
    }
}

/// Number of an origin in its store; 1 and up, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginNr(u32);

impl OriginNr {
    /// The origin with number `n`, if there can be one.
    pub const fn new(n: u32) -> Option<OriginNr> {
        if n >= 1 {
            Some(OriginNr(n))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for OriginNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tag of a snapshot; 1 and up, never used twice for one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

impl Tag {
    /// The tag of an origin's first snapshot.
    pub const FIRST: Tag = Tag(1);

    /// The snapshot with tag `n`, if there can be one.
    pub const fn new(n: u32) -> Option<Tag> {
        if n >= 1 {
            Some(Tag(n))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A timeline: an origin's own, or that of one of its snapshots. Unique for the life of a store.
///
/// Ordered by origin, and within an origin its own timeline first, then by tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(u64);

impl TimelineId {
    /// Below every timeline there is: where a walk over all of them starts.
    pub const LOWEST: TimelineId = TimelineId(1 << 32);

    /// The timeline of origin `nr` itself.
    pub const fn of_origin(nr: OriginNr) -> TimelineId {
        TimelineId((nr.0 as u64) << 32)
    }

    /// The timeline of the snapshot `tag` of origin `nr`.
    pub const fn of_snapshot(nr: OriginNr, tag: Tag) -> TimelineId {
        TimelineId(((nr.0 as u64) << 32) | tag.0 as u64)
    }

    /// The timeline of the snapshot `tag`, or of the origin when there is none.
    pub const fn of(nr: OriginNr, tag: Option<Tag>) -> TimelineId {
        match tag {
            Some(tag) => Self::of_snapshot(nr, tag),
            None => Self::of_origin(nr),
        }
    }

    /// The timeline with this number on disk, if there can be one.
    pub const fn new(raw: u64) -> Option<TimelineId> {
        if raw >= Self::LOWEST.0 {
            Some(TimelineId(raw))
        } else {
            None
        }
    }

    /// The number on disk.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The origin it belongs to.
    pub const fn origin(self) -> OriginNr {
        OriginNr((self.0 >> 32) as u32)
    }

    /// The snapshot it belongs to; none for the origin's own.
    pub const fn snapshot(self) -> Option<Tag> {
        Tag::new(self.0 as u32)
    }

    /// Whether it is an origin's own.
    pub const fn is_origin(self) -> bool {
        self.0 as u32 == 0
    }

    /// The timeline after this one, in order; none after the last there can be.
    pub const fn next(self) -> Option<TimelineId> {
        match self.0.checked_add(1) {
            Some(raw) => Some(TimelineId(raw)),
            None => None,
        }
    }

    /// The timeline of the origin after this one's; none after the last there can be.
    pub const fn next_origin(self) -> Option<TimelineId> {
        TimelineId(self.0 | u32::MAX as u64).next()
    }
}

/// Chunk of the COW device's data region, counted from the start of that; below 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CowChunk(u64);

impl CowChunk {
    /// The last there can be.
    pub const MAX: CowChunk = CowChunk((1 << 48) - 1);

    /// The COW chunk with number `n`, if that fits.
    pub const fn new(n: u64) -> Option<CowChunk> {
        if n <= Self::MAX.0 {
            Some(CowChunk(n))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The chunk `n` further on, if there can be one.
    pub const fn checked_add(self, n: u64) -> Option<CowChunk> {
        match self.0.checked_add(n) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }
}
