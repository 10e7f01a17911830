// SPDX-License-Identifier: GPL-2.0

//! What the devices must hold: a full copy of every version, one number per chunk.

use std::collections::BTreeMap;

use dm_snap_mv_model::versions::Loss;

/// Sectors in the chunks of all tests here.
pub const CHUNK_SECTORS: u64 = 8;

#[derive(Clone)]
pub struct Snapshot {
    pub content: Vec<u64>,
    pub size: u64,
    pub valid: bool,
}

/// What the origin was when a bookmark was taken.
#[derive(Clone)]
pub struct Bookmark {
    pub content: Vec<u64>,
    pub size: u64,
    pub valid: bool,
}

#[derive(Default)]
pub struct Origin {
    pub bound: bool,
    pub size: u64,
    pub head: Vec<u64>,
    /// Those that can be used, by tag.
    pub snapshots: BTreeMap<u32, Snapshot>,
    pub bookmarks: BTreeMap<u32, Bookmark>,
    /// Names by tag, those of what has gone, too: tags are not given anew.
    pub names: BTreeMap<u32, String>,
    pub next_tag: u32,
    /// The snapshot that a rollback goes to, and whether that is deleted at the end.
    pub rollback: Option<(u32, bool)>,
    pub deferred: Option<(u32, bool)>,
}

#[derive(Default)]
pub struct Oracle {
    pub origins: Vec<Origin>,
    /// Chunks of snapshots (origin, tag, chunk) that were written since the last commit: what may
    /// be there after a crash.
    pub unsure: BTreeMap<(usize, u32, usize), Vec<u64>>,
    /// Chunks of an origin (origin, chunk) that are being written: what was there, what will be.
    pub in_flight: BTreeMap<(usize, usize), [u64; 2]>,
    pub counts: Counts,
}

/// How much there was of what takes many operations to come about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub taken: u64,
    pub deleted: u64,
    pub invalidated: u64,
    pub rollbacks: u64,
    pub rolled_back: u64,
    /// Chunks of origins that a discard was passed on for, and those that it left alone.
    pub discarded: u64,
    pub left_alone: u64,
    pub bookmarked: u64,
    /// Deltas that were looked at, and chunks in them.
    pub deltas: u64,
    pub changed: u64,
    /// Deltas that had to have nothing in them but what differs.
    pub exact: u64,
}

impl Oracle {
    /// Notes that a snapshot's chunk becomes `value`, perhaps not durably.
    pub fn write_snapshot(&mut self, o: usize, tag: u32, chunk: usize, value: u64) {
        let snapshot = self.origins[o].snapshots.get_mut(&tag).expect("a snapshot");
        let old = std::mem::replace(&mut snapshot.content[chunk], value);
        let may_be = self
            .unsure
            .entry((o, tag, chunk))
            .or_insert_with(|| vec![old]);
        may_be.push(value);
    }

    /// All is durable.
    pub fn commit(&mut self) {
        self.unsure.clear();
    }

    pub fn take(&mut self, o: usize, of: Option<u32>) -> u32 {
        self.counts.taken += 1;
        let origin = &mut self.origins[o];
        let snapshot = match of {
            Some(tag) => origin.snapshots[&tag].clone(),
            None => Snapshot {
                content: origin.head[..origin.size.div_ceil(CHUNK_SECTORS) as usize].to_vec(),
                size: origin.size,
                valid: true,
            },
        };
        origin.next_tag += 1;
        origin.snapshots.insert(origin.next_tag - 1, snapshot);
        origin.next_tag - 1
    }

    /// A bookmark of the origin as it is.
    pub fn take_bookmark(&mut self, o: usize) -> u32 {
        let tag = self.take(o, None);
        self.keep(o, tag);
        tag
    }

    /// A snapshot becomes a bookmark.
    pub fn keep(&mut self, o: usize, tag: u32) {
        self.counts.bookmarked += 1;
        let snapshot = self.origins[o].snapshots[&tag].clone();
        self.delete(o, tag);
        let bookmark = Bookmark {
            content: snapshot.content,
            size: snapshot.size,
            valid: true,
        };
        self.origins[o].bookmarks.insert(tag, bookmark);
    }

    pub fn delete(&mut self, o: usize, tag: u32) {
        self.counts.deleted += 1;
        let origin = &mut self.origins[o];
        if origin.bookmarks.remove(&tag).is_some() {
            return;
        }
        origin.snapshots.remove(&tag).expect("a snapshot");
        if origin.deferred.is_some_and(|(source, _)| source == tag) {
            origin.deferred = None;
        }
    }

    pub fn invalidate(&mut self, o: usize, loss: Loss) {
        self.counts.invalidated += 1;
        for snapshot in self.origins[o].snapshots.values_mut() {
            snapshot.valid = false;
        }
        if loss == Loss::Everything {
            for bookmark in self.origins[o].bookmarks.values_mut() {
                bookmark.valid = false;
            }
        }
    }

    pub fn roll_back(&mut self, o: usize, tag: u32, delete: bool) {
        self.counts.rollbacks += 1;
        let origin = &mut self.origins[o];
        let content = &origin.snapshots[&tag].content;
        origin.head[..content.len()].copy_from_slice(content);
        origin.rollback = Some((tag, delete));
        origin.deferred = None;
    }

    pub fn rolled_back(&mut self, o: usize) {
        self.counts.rolled_back += 1;
        if let Some((tag, true)) = self.origins[o].rollback.take() {
            if self.origins[o].snapshots.contains_key(&tag) {
                self.delete(o, tag);
            }
        }
    }
}
