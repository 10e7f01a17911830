// SPDX-License-Identifier: GPL-2.0

//! What status lines say, kept where reading it never waits for I/O.

use super::engine::{Engine, OriginState, SnapshotState};
use super::merge::Merge;
use super::metadata::Meta;
use super::origin::OriginStatus;
use super::snapshot::SnapshotStatus;
use super::store::Store;
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::snapshot_row::SnapshotRow;
use crate::model::ids::TimelineId;
use crate::model::records::Metadata;
use crate::model::report::{RollbackProgress, State, Stopped, Usage};
use kernel::prelude::*;
use kernel::sync::Arc;

/// From this many percent of its chunks in use on, a COW device counts as nearly full.
const LOW_WATER: u64 = 90;

impl Engine {
    /// Whether the COW device has become nearly full, which is news once each time. What is on its
    /// way counts: with much of that at once there may be nothing left before any of it has come.
    fn watch_low_water(&mut self, usage: &Usage) -> bool {
        let (used, total) = (usage.used_chunks, usage.total_chunks);
        let used = used.saturating_add(self.alloc.held());
        let low = total > 0 && used.saturating_mul(100) >= total.saturating_mul(LOW_WATER);
        let news = low && !self.low_water;
        self.low_water = low;
        if news {
            pr_warn!(
                "{}: COW device nearly full: {} of {} chunks are in use\n",
                self.label,
                used,
                total
            );
        }
        news
    }

    /// The store has failed: what else was said of it is out of date.
    pub(super) fn publish_failure(&self) {
        for state in self.origins.iter() {
            let status = state.shared.status();
            let stopped = state.merge.as_ref().and_then(Merge::stopped);
            state.shared.set_status(OriginStatus {
                state: State::Error,
                rollback: status.rollback.map(|progress| match progress.stopped {
                    Some(Stopped::Deferred) => progress,
                    _ => RollbackProgress {
                        stopped,
                        ..progress
                    },
                }),
                ..status
            });
        }
        for state in self.snapshots.iter() {
            let status = state.shared.status();
            state.shared.set_status(SnapshotStatus {
                state: State::Error,
                ..status
            });
        }
    }

    /// Brings what all status lines say up to date.
    #[inline(never)]
    pub(super) fn publish(&mut self, cx: &Arc<Store>) {
        let news = self.publish_store(cx);
        self.publish_snapshots();
        // Who is told looks at what has been published.
        if news {
            self.tell_all();
        }
    }

    /// As [`Engine::publish`], but of the snapshots only those whose rows have changed: there may be
    /// a thousand active ones.
    #[inline(never)]
    pub(super) fn publish_changes(&mut self, cx: &Arc<Store>) {
        let news = self.publish_store(cx);
        while let Some((key, row)) = self.meta.as_mut().and_then(|m| m.snapshots.take_untold()) {
            let state = TimelineId::new(key).and_then(|t| self.snapshot_state(t).ok());
            if let (Some(state), Some(meta)) = (state, &self.meta) {
                publish_snapshot(meta, state, &row, self.is_failed());
            }
        }
        if news {
            self.tell_all();
        }
    }

    fn publish_snapshots(&self) {
        let Some(meta) = &self.meta else {
            return;
        };
        for state in self.snapshots.iter() {
            if let Ok(row) = meta.snapshot_row(state.shared.timeline()) {
                publish_snapshot(meta, state, &row, self.is_failed());
            }
        }
    }

    /// What is said of the store and its origins. Returns whether there are news to tell.
    fn publish_store(&mut self, cx: &Arc<Store>) -> bool {
        self.notice_failure();
        let failed = self.is_failed();
        let mut status = cx.status();
        status.failed = failed;
        status.cleaning = self.cleaned;
        if let Ok(meta) = self.meta_ref() {
            if let (Ok(metadata), Ok(data)) = (meta.metadata_usage(), meta.data_usage()) {
                status.usage = Usage {
                    used_metadata: metadata.0,
                    total_metadata: metadata.1,
                    used_chunks: data.0,
                    total_chunks: data.1,
                    chunk_size: cx.geometry.chunk_size,
                };
            }
        }
        let mut news = self.watch_low_water(&status.usage);
        // Space has come back, whether anybody has asked for it since or not.
        self.full = self.full.and(self.lacks());
        cx.set_status(status);
        if core::mem::replace(&mut self.told_full, self.full) != self.full {
            if let Some(lack) = self.full {
                pr_warn!(
                    "{}: {}: writes that need space fail or wait\n",
                    self.label,
                    lack.refusal().as_str()
                );
            }
            news = true;
        }
        self.publish_origins(failed);
        news
    }

    fn publish_origins(&self, failed: bool) {
        let Some(meta) = &self.meta else {
            return self.publish_failure();
        };
        for state in self.origins.iter() {
            let row = meta.peek_origin(state.shared.number).copied();
            let of_row = |row: &OriginRow| match self.full {
                _ if any_invalid(meta, state, row) => State::Invalid,
                Some(lack) => State::full(lack),
                None => State::Valid,
            };
            state.shared.set_status(OriginStatus {
                state: match &row {
                    _ if failed => State::Error,
                    Some(row) if state.bound => of_row(row),
                    _ => State::Unbound,
                },
                snapshots: row.as_ref().map_or(0, |row| row.snapshots),
                bookmarks: row.as_ref().map_or(0, |row| row.bookmarks),
                rollback: row.as_ref().and_then(RollbackProgress::of).map(|progress| {
                    RollbackProgress {
                        stopped: progress
                            .stopped
                            .or(state.merge.as_ref().and_then(Merge::stopped)),
                        ..progress
                    }
                }),
            });
        }
    }
}

fn publish_snapshot(meta: &Meta, state: &SnapshotState, row: &SnapshotRow, failed: bool) {
    let invalid_below = meta
        .peek_origin(state.shared.origin_nr())
        .map_or(0, |origin| origin.invalid_below);
    state.shared.set_status(SnapshotStatus {
        state: if failed || state.lost {
            State::Error
        } else if row.tag.get() < invalid_below {
            State::Invalid
        } else {
            State::Valid
        },
        chunks: row.chunks,
        children: row.children,
    });
}

/// As [`has_invalid`], which may have to look at many rows: not each time that anything is published.
fn any_invalid(meta: &Meta, state: &OriginState, row: &OriginRow) -> bool {
    let counts = [
        row.snapshots,
        row.ghosts,
        row.bookmarks,
        row.next_tag.get(),
        row.invalid_below,
        row.forgotten_below,
    ];
    let (of, invalid) = state.invalid.get();
    if of == counts {
        return invalid;
    }
    let invalid = has_invalid(meta, row);
    state.invalid.set((counts, invalid));
    invalid
}

/// Whether any snapshot of an origin is invalid: the oldest, if any. Or any bookmark.
fn has_invalid(meta: &Meta, row: &OriginRow) -> bool {
    if row.invalid_below <= 1 || row.snapshots == 0 && row.bookmarks == 0 {
        return false;
    }
    let mut from = row.timeline().next();
    while let Some(t) = from {
        match meta.snapshot_from(t) {
            Ok(Some((t, snapshot))) if t.origin() == row.number && row.is_invalid(snapshot.tag) => {
                let forgotten = snapshot.bookmark && row.is_forgotten(snapshot.tag);
                if forgotten || snapshot.is_whole() {
                    return true;
                }
                from = t.next();
            }
            // None that follows is.
            _ => return false,
        }
    }
    false
}
