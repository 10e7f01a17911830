// SPDX-License-Identifier: GPL-2.0

//! What a workload does, and when it was asked for and answered.

/// A run of sectors that hold one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first sector.
    pub start: u64,
    /// How many.
    pub count: u64,
    /// Which write.
    pub generation: u32,
}

impl Extent {
    /// Whether a sector may hold this because of it.
    pub fn explains(&self, sector: u64, generation: u32) -> bool {
        self.generation == generation && (self.start..self.start + self.count).contains(&sector)
    }
}

/// Something that was asked for. Origins are named by their place, and tag 0 is the origin
/// itself.
#[derive(Clone, Debug)]
pub enum Op {
    /// The COW device was formatted, and an origin bound.
    Format { origin: usize },
    /// An origin was bound.
    Bind { origin: usize },
    /// An origin was unbound.
    Unbind { origin: usize },
    /// A version was written, discarded or zeroed.
    Write {
        origin: usize,
        tag: u32,
        /// What may be there while it is not answered.
        tried: Extent,
        /// What was there when it was answered.
        done: Vec<Extent>,
        /// It was FUA.
        durable: bool,
        /// All snapshots of the origin became invalid.
        invalidates: bool,
    },
    /// A version was flushed.
    Flush { origin: usize, tag: u32 },
    /// A snapshot was taken.
    Take {
        origin: usize,
        parent: u32,
        tag: u32,
        /// What it held, if there were writes on their way.
        content: Option<Vec<u32>>,
    },
    /// A bookmark was taken of an origin.
    Mark { origin: usize, tag: u32 },
    /// A snapshot became a bookmark.
    Keep { origin: usize, tag: u32 },
    /// A snapshot or a bookmark was deleted.
    Delete { origin: usize, tag: u32 },
    /// A rollback began; with `merge` the snapshot goes when it is over.
    Rollback {
        origin: usize,
        tag: u32,
        merge: bool,
        /// Snapshots of the origin may become invalid for it.
        invalidates: bool,
    },
    /// A rollback is to begin when the origin is activated next.
    Defer {
        origin: usize,
        tag: u32,
        merge: bool,
    },
    /// An origin was activated.
    Activate { origin: usize },
    /// An origin has grown.
    GrowOrigin { origin: usize, sectors: u64 },
    /// The COW device has grown.
    GrowCow { sectors: u64 },
}

/// With the marks before and after it; an operation that was never answered has `u32::MAX`.
#[derive(Clone, Debug)]
pub struct Record {
    /// What.
    pub op: Op,
    /// The mark before it was asked for.
    pub begin: u32,
    /// The mark after it was answered.
    pub end: u32,
}
