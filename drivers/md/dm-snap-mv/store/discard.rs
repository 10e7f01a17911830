// SPDX-License-Identifier: GPL-2.0

//! Discards of an origin.
//!
//! One goes part by part: what a snapshot or a rollback still needs is left as it is and counts as
//! done, the rest is passed on, when it has been noted for a bookmark. So a discard takes no chunk, is no
//! reason to give up a snapshot, and waits for nothing but reads and writes of the same chunks.

use super::engine::Engine;
use super::error::Result;
use super::job::{HasJob, Stage};
use super::origin::Origin;
use super::preserve::run_sectors;
use super::store::Store;
use crate::device::Device;
use crate::dm::range_lock::Mode;
use crate::dm::status::Status;
use crate::model::discard::{first_part, Does, Part};
use crate::model::ids::Chunk;
use crate::model::preserve;
use crate::model::room::For;
use crate::target::Bio;
use kernel::sync::Arc;

impl Engine {
    /// A discard of an origin: a new one, or one of which a part has come back.
    pub(super) fn origin_discard(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        let Device::Origin(device) = bio.target().device() else {
            return bio.end(Status::IOERR);
        };
        let origin = device.origin().clone();
        *bio.job().pass = None;
        while bio.sectors() > 0 {
            if !self.is_bound(&origin) {
                return self.issue(cx, bio);
            }
            let (first, last) = cx.chunks_of(&bio);
            let job = bio.job();
            if !job.phys.is_locked()
                && !job
                    .phys
                    .try_lock(&origin.phys, first.get(), last.get(), Mode::Exclusive)
            {
                return self.wait(bio);
            }
            let Some(pass) = origin.gate.try_enter() else {
                // A newer snapshot may need these chunks: look again when it has been taken.
                self.retry |= job.phys.unlock();
                return self.wait(bio);
            };
            let part = match self.discard_part(cx, &origin, first, last) {
                Ok(part) => part,
                // What is needed cannot be known, so all may be.
                Err(_) => return self.end(bio, Status::OK),
            };
            let sectors = run_sectors(cx, &bio, part.len);
            if part.does == Does::Leave {
                bio.skip_front(sectors);
                continue;
            }
            let job = bio.job();
            // No snapshot reads these chunks from the origin device any more.
            self.retry |= job.phys.unlock();
            *job.pass = Some(pass);
            *job.stage = Stage::Discarding;
            let sector = bio.sector();
            return bio.submit_part(sectors, &origin.dev, sector, false, &cx.machinery.bios);
        }
        self.end(bio, Status::OK);
    }

    /// Whether an origin belongs to the store still. One that was unbound is passed through.
    pub(super) fn is_bound(&self, origin: &Origin) -> bool {
        self.origin_state(origin.number)
            .map_or(true, |state| state.bound)
    }

    /// What is to be done with the first of these chunks: they are passed on, or left alone. That they are
    /// done, if they are passed on during a rollback, is durable then, and so is it that they change. If
    /// there is no room to note that they are left alone.
    #[inline(never)]
    fn discard_part(
        &mut self,
        cx: &Arc<Store>,
        origin: &Origin,
        first: Chunk,
        last: Chunk,
    ) -> Result<Part> {
        let meta = self.meta_ref()?;
        let state = self.origin_state(origin.number)?;
        let view = state.view.as_deref();
        let rolling = view.is_some();
        let (nr, live) = (origin.number, state.live);
        let mut part = first_part(meta, nr, live, view, first, last.plus(1))?;
        if let (Does::Note, Some(live)) = (part.does, live) {
            let mut noted = 0;
            if self.has_room_for(For::Preserving, part.len)? {
                noted = self.alter_by_parts(part.len, 1, |meta, skip, len| {
                    preserve::record_changed(meta, nr, live.epoch, first.plus(skip), len)
                })?;
            }
            match noted {
                0 => part.does = Does::Leave,
                _ => part.len = noted,
            }
        }
        let noted = part.does == Does::Note;
        if noted || part.does == Does::Pass && rolling && self.meta_ref()?.is_dirty() {
            self.commit(cx)?;
        }
        Ok(part)
    }
}
