// SPDX-License-Identifier: GPL-2.0

//! Zeroes in a snapshot: discards and write-zeroes.
//!
//! A chunk that is all zeroes takes a record and no space. What a write-zeroes covers of a chunk in
//! part is written like other data; of a discard it stays as it is.

use super::access::{snapshot_of, whole_chunks, Stopped};
use super::engine::Engine;
use super::error::Result;
use super::job::HasJob;
use super::preserve::run_sectors;
use super::snapshot::Snapshot;
use super::store::Store;
use crate::dm::kcopyd::Region;
use crate::dm::range_lock::Mode;
use crate::dm::status::Status;
use crate::model::ids::Chunk;
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::room::For;
use crate::model::write::record_zero;
use crate::target::Bio;
use kernel::sync::Arc;

/// Chunks that are handled before others have their turn.
const STEP: u64 = 512;

impl Engine {
    /// A discard of a snapshot: the chunks it covers whole read as zeroes from then on, and the
    /// space of those that were the snapshot's own comes back.
    pub(super) fn snapshot_discard(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        let Some(snapshot) = snapshot_of(&bio) else {
            return bio.end(Status::IOERR);
        };
        if bio.sectors() == 0 {
            return self.end(bio, Status::OK);
        }
        if !self.enter(&snapshot, &mut bio) {
            return self.wait(bio);
        }
        let whole = whole_chunks(cx, &snapshot, &bio);
        if whole == 0 {
            // A discard is a hint: the part of a chunk stays as it is.
            let sectors = run_sectors(cx, &bio, 1);
            bio.skip_front(sectors);
            return cx.submit(bio);
        }
        if let Err((bio, error)) = self.zero_whole(cx, &snapshot, bio, whole) {
            self.end_with_error(bio, error);
        }
    }

    /// Records zeroes for the first of the chunks that a bio covers whole, and looks at the rest
    /// when others have had their turn.
    pub(super) fn zero_whole(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
        whole: u64,
    ) -> core::result::Result<(), Stopped> {
        let (first, _) = cx.chunks_of(&bio);
        let len = match self.changes_at_once(whole.min(STEP)) {
            Ok(len) => len,
            Err(error) => return Err((bio, error)),
        };
        let job = bio.job();
        let end = first.get() + len - 1;
        if !job
            .own
            .try_lock(&snapshot.chunks, first.get(), end, Mode::Exclusive)
        {
            self.wait(bio);
            return Ok(());
        }
        let zeroed = match self.has_room_for(For::Snapshots, len) {
            Ok(true) => self.zero(snapshot, first, len),
            Ok(false) if self.seek_space() => {
                self.starve(cx, bio);
                return Ok(());
            }
            Ok(false) => Err(Refusal::NoMetadataSpace.into()),
            Err(error) => Err(error),
        };
        let job = bio.job();
        self.retry |= job.own.unlock();
        if let Err(error) = zeroed {
            return Err((bio, error));
        }
        let sectors = run_sectors(cx, &bio, len);
        bio.skip_front(sectors);
        cx.submit(bio);
        Ok(())
    }

    #[inline(never)]
    fn zero(&mut self, snapshot: &Snapshot, first: Chunk, len: u64) -> Result<()> {
        self.check_valid(snapshot)?;
        self.alter(|meta| {
            let mut row = meta.snapshot_row(snapshot.timeline())?;
            let origin = snapshot.origin_nr();
            record_zero(meta, origin, &mut row, first, len)?;
            meta.put_snapshot(origin, &row)
        })
    }
}

/// Writes zeroes to a place on the COW device for the first sectors of a bio, and moves it past
/// them.
pub(super) fn zero_part(cx: &Arc<Store>, mut bio: Bio, sectors: u32, sector: u64) {
    bio.skip_front(sectors);
    let to = Region {
        dev: &cx.cow,
        sector,
        count: u64::from(sectors),
    };
    cx.machinery.kcopyd.zero(&to, bio);
}
