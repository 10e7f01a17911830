// SPDX-License-Identifier: GPL-2.0

//! Who may take how many of the free metadata blocks.
//!
//! A block of a tree that is changed is written anew elsewhere, once in each transaction, and the old
//! one comes free only when the transaction is committed. So a change takes blocks twice: for good, as
//! far as the trees grow, and until the next commit, which takes some itself. What is free is divided
//! like this, what comes first before all others:
//!
//! 1. What the commit takes. Nobody else may have that. What the journal has made durable must be done
//!    again after a crash, in another order perhaps, and be committed then. So it may stand for no more
//!    than what has taken half of what there is besides ([`Blocks::can_be_replayed`]).
//! 2. Upkeep: what is needed to become rid of something, by cleaning, deleting, a rollback's progress,
//!    or giving up snapshots.
//! 3. What copies under way will need to be recorded ([`Blocks::promised`]).
//! 4. Preserving what writes of origins overwrite, and the marks of rollbacks.
//! 5. Snapshots' own writes and zeroes. Those must leave what it takes to preserve into all chunks that
//!    are free ([`Blocks::kept_for_preserving`]).

use super::refusal::Refusal;

/// Records that a leaf has at least, when records only come: half of what fits one, less what leads to
/// it.
const RECORDS_PER_BLOCK: u64 = 120;

/// Blocks of which a bitmap says whether they are in use.
const BLOCKS_PER_BITMAP: u64 = 16320;

/// Bitmaps of the data space map that the library writes no sooner than at a commit, at most.
const BITMAPS_CACHED: u64 = 64;

/// Blocks that lead to what a commit writes at its end: roots, indexes, and what leads to rows.
const COMMIT_BASE: u64 = 16;

/// Rows of which at least one block leads to the leaves that have them.
const ROWS_PER_BLOCK: u64 = 8;

/// Blocks that stay free for upkeep: enough for a few changes of it, each of which gives something back
/// with the next commit.
const UPKEEP: u64 = 128;

/// Blocks that the first of some changes takes: what leads to a leaf in a tree in a tree, with whatever
/// of that is split.
const FIRST_CHANGE: u64 = 24;

/// Blocks that one change takes, when nothing has to be split for it: what takes something away.
const LONE_CHANGE: u64 = 16;

/// Blocks that each of them takes at worst: a leaf, those beside it, a bitmap, and now and then one of
/// those that lead there.
const EACH_CHANGE: u64 = 8;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Data chunks.
    Chunks,
    /// Metadata blocks.
    Metadata,
}

impl Lack {
    /// What is said then.
    pub const fn refusal(self) -> Refusal {
        match self {
            Lack::Chunks => Refusal::NoSpace,
            Lack::Metadata => Refusal::NoMetadataSpace,
        }
    }

    /// What is full, by a refusal; none: that is not why.
    pub const fn of(refusal: Refusal) -> Option<Lack> {
        match refusal {
            Refusal::NoSpace => Some(Lack::Chunks),
            Refusal::NoMetadataSpace => Some(Lack::Metadata),
            _ => None,
        }
    }
}

/// What records are for, which says how many blocks they have to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Preserving, marks of a rollback, and what administrators do.
    Preserving,
    /// Writes and zeroes of a snapshot.
    Snapshots,
}

/// The metadata blocks of a store, and what they have to be enough for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// How many there are.
    pub total: u64,
    /// How many can be allocated in the running transaction.
    pub free: u64,
    /// How many could when it began.
    pub free_at_first: u64,
    /// Rows in core that a commit has yet to write into their trees.
    pub rows: u64,
    /// Data chunks that there are.
    pub chunks: u64,
    /// Those of them that are free and not on their way to be recorded.
    pub free_chunks: u64,
    /// Runs of chunks on their way to be recorded.
    pub runs: u64,
    /// How many chunks those are.
    pub run_chunks: u64,
}

/// Blocks by which trees grow at most for so many runs of so many records.
const fn growth(runs: u64, records: u64) -> u64 {
    runs.saturating_mul(2)
        .saturating_add(records.div_ceil(RECORDS_PER_BLOCK))
}

impl Blocks {
    /// What a commit takes now, at most.
    pub const fn commit_needs(&self) -> u64 {
        let metadata_bitmaps = self.total.div_ceil(BLOCKS_PER_BITMAP);
        let bitmaps = self.chunks.div_ceil(BLOCKS_PER_BITMAP);
        let cached = match bitmaps < BITMAPS_CACHED {
            true => bitmaps,
            false => BITMAPS_CACHED,
        };
        let rows = self.rows.saturating_add(self.rows / ROWS_PER_BLOCK);
        (COMMIT_BASE + metadata_bitmaps + cached).saturating_add(rows)
    }

    /// What the running transaction has taken.
    const fn taken(&self) -> u64 {
        self.free_at_first.saturating_sub(self.free)
    }

    /// Whether what has been changed in the running transaction may be made durable by the journal
    /// alone: it can be done again, and committed, even if it takes twice as much then. Leaves are
    /// split elsewhere when keys come in another order, and are half full at worst.
    pub const fn can_be_replayed(&self) -> bool {
        self.free >= self.commit_needs().saturating_add(self.taken())
    }

    /// What is left besides what the commit takes.
    const fn left(&self) -> u64 {
        self.free.saturating_sub(self.commit_needs())
    }

    /// How many records, rows or marks may be changed at once, so that a commit can follow.
    pub const fn changes(&self) -> u64 {
        match self.left().saturating_sub(FIRST_CHANGE) / EACH_CHANGE {
            0 if self.left() >= LONE_CHANGE => 1,
            changes => changes,
        }
    }

    /// How many data chunks may be added when the device has grown: for each bitmap a block, and what
    /// leads to them. Preserving and upkeep keep half of what there is.
    pub const fn chunks_to_add(&self) -> u64 {
        let bitmaps = self.left().saturating_sub(UPKEEP + FIRST_CHANGE) / 2;
        bitmaps
            .saturating_sub(bitmaps / 16)
            .saturating_mul(BLOCKS_PER_BITMAP)
    }

    /// What recording the copies under way takes for good, with a mark for each chunk.
    pub const fn promised(&self) -> u64 {
        growth(self.runs, self.run_chunks.saturating_mul(2))
    }

    /// What preserving into all free chunks takes for good, the last one too, but no more than half of all blocks: a
    /// device that has grown can have more chunks than its metadata were made for.
    pub const fn kept_for_preserving(&self) -> u64 {
        let most = self.total / 2;
        match growth(2, self.free_chunks) {
            blocks if blocks < most => blocks,
            _ => most,
        }
    }

    /// Whether a run of so many records may be added, now or when copies have come back.
    pub const fn admit(&self, purpose: For, records: u64) -> bool {
        let kept = match purpose {
            For::Preserving => UPKEEP,
            For::Snapshots => UPKEEP + self.kept_for_preserving(),
        };
        let kept = kept
            .saturating_add(self.promised())
            .saturating_add(growth(1, records));
        self.left() >= kept
    }
}
