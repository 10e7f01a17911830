// SPDX-License-Identifier: GPL-2.0

//! What status lines say, kept where reading it never waits for I/O.

use super::engine::Engine;
use super::origin::OriginStatus;
use super::snapshot::SnapshotStatus;
use super::store::Store;
use crate::model::report::{RollbackProgress, State, Usage};
use kernel::sync::Arc;

impl Engine {
    /// Brings what status lines say up to date.
    pub(super) fn publish(&mut self, cx: &Arc<Store>) {
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
        cx.set_status(status);
        let Some(meta) = &self.meta else {
            return;
        };
        for state in self.origins.iter() {
            let Some(row) = meta.peek_origin(state.shared.number) else {
                continue;
            };
            let invalid = row.invalid_below > 1;
            let rollback = RollbackProgress::of(row);
            state.shared.set_status(OriginStatus {
                state: if failed {
                    State::Error
                } else if !state.bound {
                    State::Unbound
                } else if invalid && row.snapshots > 0 {
                    State::Invalid
                } else {
                    State::Valid
                },
                snapshots: row.snapshots,
                rollback,
            });
        }
        for state in self.snapshots.iter() {
            let Ok(row) = meta.snapshot_row(state.shared.timeline()) else {
                continue;
            };
            let invalid_below = meta
                .peek_origin(state.shared.origin_nr())
                .map_or(0, |origin| origin.invalid_below);
            state.shared.set_status(SnapshotStatus {
                state: if failed {
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
    }
}
