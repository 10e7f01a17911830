// SPDX-License-Identifier: GPL-2.0

//! What a write of an origin has noted that is not content: that chunks change, for bookmarks, and that a
//! rollback is done with them.

use super::engine::Engine;
use super::error::Result;
use super::job::HasJob;
use super::origin::Origin;
use super::store::Store;
use crate::model::ids::{Chunk, Epoch, OriginNr};
use crate::model::preserve;
use crate::model::refusal::Refusal;
use crate::model::rollback::{self, Pending};
use crate::model::room::{For, Lack};
use crate::model::table::FullPolicy;
use crate::target::Bio;
use kernel::sync::Arc;

impl Engine {
    /// Records that a run changes, for bookmarks. It costs no copy. All of it, or as much as a commit
    /// has room for: then it is not all that the write needs.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMetadataSpace`] if there is no room to say so.
    #[inline(never)]
    pub(super) fn note_change(
        &mut self,
        origin: &Arc<Origin>,
        bio: &mut Bio,
        gap: preserve::Gap,
        epoch: Epoch,
    ) -> Result<()> {
        self.want_room(For::Preserving, gap.len)?;
        let nr = origin.number;
        let rolling = self.origin_state(nr)?.view.is_some();
        let each = 1 + u64::from(rolling);
        let done = self.alter_by_parts(gap.len, each, |meta, skip, len| {
            let start = gap.start.plus(skip);
            preserve::record_changed(meta, nr, epoch, start, len)?;
            if rolling {
                let row = meta.origin_row(nr)?;
                rollback::mark_done(meta, &row, start, len)?;
            }
            Ok(())
        })?;
        let job = bio.job();
        *job.recorded |= done > 0;
        *job.next = gap.start.get() + done;
        match done < gap.len {
            true => Err(Refusal::NoMetadataSpace.into()),
            false => Ok(()),
        }
    }

    /// During a rollback a chunk that is written is done, whether it was preserved or not. Returns
    /// whether anything awaits a commit.
    #[inline(never)]
    pub(super) fn mark_written(
        &mut self,
        origin: &Arc<Origin>,
        bio: &mut Bio,
        first: Chunk,
        last: Chunk,
    ) -> Result<bool> {
        let job = bio.job();
        let meta = self.meta_ref()?;
        let Some(view) = self.origin_state(origin.number)?.view.as_deref() else {
            return Ok(*job.recorded);
        };
        let end = last.plus(1);
        let mut at = first;
        while at < end {
            match view.pending_at(meta, at, end.since(at))? {
                Pending::Done { len } => at = at.plus(len),
                _ => break,
            }
        }
        if at < end {
            let len = end.since(at);
            self.want_room(For::Preserving, len)?;
            let done = self.alter_by_parts(len, 1, |meta, skip, len| {
                let row = meta.origin_row(origin.number)?;
                rollback::mark_done(meta, &row, at.plus(skip), len)
            })?;
            // A mark alone does no harm: it says that the origin device has the right content, which is
            // so when nothing is pending.
            *job.recorded |= done > 0;
            if done < len {
                return Err(Refusal::NoMetadataSpace.into());
            }
        }
        // A mark, or the cursor that has passed here, must be durable before the chunk changes: else
        // a crash would take the write for what the rollback has yet to replace.
        *job.recorded |= self.meta_ref()?.is_dirty();
        Ok(*job.recorded)
    }

    /// A write during a rollback has nowhere to be noted. The rollback itself gives room back as it goes
    /// on, whatever the policy; if it does not, there is nothing to wait for. Giving up snapshots would
    /// not help.
    #[inline(never)]
    pub(super) fn no_room_for_marks(&mut self, cx: &Arc<Store>, nr: OriginNr, bio: Bio) {
        let waits = self.seek_space() || self.policy == FullPolicy::Queue;
        if !waits && self.merge_trouble(nr).is_some() {
            return self.end_with_error(bio, Refusal::NoMetadataSpace.into());
        }
        self.starve_a_while(cx, bio, Lack::Metadata);
    }
}
