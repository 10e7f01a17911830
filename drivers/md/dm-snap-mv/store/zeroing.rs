// SPDX-License-Identifier: GPL-2.0

//! Zeroes in a snapshot: discards and write-zeroes.
//!
//! Chunks that are all zeroes take one record, however many they are, and no space. What is in the way
//! is taken away first, some of it at a time. What a write-zeroes covers of a chunk in part is written like
//! other data; of a discard it stays as it is.

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
use crate::model::write::{record_zeroes, CHANGES_OF_A_LOOK};
use crate::target::Bio;
use kernel::sync::Arc;

/// Records that are looked at before others have their turn.
const STEP: u64 = 512;

/// Chunks that are handled at once. Nobody else may be at any of them.
const MOST: u64 = 1 << 14;

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
        let len = whole.min(MOST);
        let budget = match self.changes_at_once(CHANGES_OF_A_LOOK * STEP) {
            Ok(changes) => (changes.saturating_sub(2) / CHANGES_OF_A_LOOK).clamp(1, len),
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
        let zeroed = match self.has_room_for(For::Snapshots, budget) {
            Ok(true) => self.zero(snapshot, first, len, budget),
            Ok(false) if self.seek_space() => {
                self.starve(cx, bio);
                return Ok(());
            }
            Ok(false) => Err(Refusal::NoMetadataSpace.into()),
            Err(error) => Err(error),
        };
        let job = bio.job();
        self.retry |= job.own.unlock();
        let len = match zeroed {
            Ok(len) => len,
            Err(error) => return Err((bio, error)),
        };
        let sectors = run_sectors(cx, &bio, len);
        bio.skip_front(sectors);
        cx.submit(bio);
        Ok(())
    }

    /// Returns how many of the chunks are zeroes now.
    #[inline(never)]
    fn zero(&mut self, snapshot: &Snapshot, first: Chunk, len: u64, budget: u64) -> Result<u64> {
        self.check_valid(snapshot)?;
        self.alter(|meta| {
            let mut row = meta.snapshot_row(snapshot.timeline())?;
            let origin = snapshot.origin_nr();
            let zeroed = record_zeroes(meta, origin, &mut row, first, len, budget)?;
            meta.put_snapshot(origin, &row)?;
            Ok(zeroed.len)
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
