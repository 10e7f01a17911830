// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of an origin device.
//!
//! A write holds its chunks exclusively from the look at their records until it goes down to the
//! device. So whoever finds a record of a chunk knows that it is durable, and a snapshot read that
//! was sent to the origin device is over before the chunk changes.

use super::allocator::Reservation;
use super::engine::Engine;
use super::error::{Result, StoreError};
use super::job::{CopyRun, HasJob, Redirected, Stage};
use super::origin::Origin;
use super::store::Store;
use crate::device::Device;
use crate::dm::range_lock::Mode;
use crate::dm::status::Status;
use crate::dm::time;
use crate::model::ids::{Chunk, Epoch, OriginNr};
use crate::model::preserve::{self, Live};
use crate::model::refusal::Refusal;
use crate::model::resolve::{resolve_head, Location};
use crate::model::rollback;
use crate::model::room::{For, Lack};
use crate::model::table::FullPolicy;
use crate::model::versions::Loss;
use crate::target::Bio;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The longest piece that is preserved in one copy, in sectors: enough to keep a disk streaming,
/// short enough that a huge write-zeroes does not hold the COW device's whole bandwidth in one job.
const MAX_COPY_SECTORS: u64 = 8192;

/// How long `-e queue` lets a write wait for space before it fails.
const QUEUE_MSECS: u32 = 60_000;

/// How often what waits for space is looked at again.
pub(super) const HUNGRY_MSECS: u32 = 1000;

/// What is to be done next for an origin write.
enum Next {
    /// The chunks it covers are preserved as far as anybody needs them.
    Ready,
    /// These chunks must be preserved first.
    Preserve(preserve::Gap),
    /// It must be recorded first, at an epoch, that these change.
    Note(preserve::Gap, Epoch),
    /// A rollback has to bring this chunk up to date first.
    Merge(Chunk),
}

impl Engine {
    /// A read of an origin while a rollback runs; otherwise reads never come here.
    pub(super) fn origin_read(&mut self, cx: &Arc<Store>, bio: Bio) {
        let Device::Origin(device) = bio.target().device() else {
            return bio.end(Status::IOERR);
        };
        let origin = device.origin().clone();
        if let Err((bio, error)) = self.read_head(cx, &origin, bio) {
            self.end_with_error(bio, error);
        }
    }

    #[inline(never)]
    fn read_head(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        mut bio: Bio,
    ) -> core::result::Result<(), (Bio, StoreError)> {
        loop {
            if bio.sectors() == 0 {
                self.end(bio, Status::OK);
                return Ok(());
            }
            let (first, last) = cx.chunks_of(&bio);
            let found = self.head_run(origin, first, last);
            let run = match found {
                Ok(run) => run,
                Err(error) => return Err((bio, error)),
            };
            let offset = cx.geometry.offset_of(bio.sector());
            let sectors = run_sectors(cx, &bio, run.len);
            let reads_source = self.reads_source(origin.number);
            let job = bio.job();
            *job.stage = Stage::Reading;
            if reads_source && job.redirected.is_none() {
                *job.redirected = Some(Redirected::new(origin));
            }
            let (location, sectors) = self.within_source(origin, &bio, run.location, sectors);
            match location {
                Location::Zero => bio.zero_front(sectors),
                Location::Origin => {
                    let sector = bio.sector();
                    bio.submit_part(sectors, &origin.dev, sector, false, &cx.machinery.bios);
                    return Ok(());
                }
                Location::Cow(cow) => {
                    let sector = cx.geometry.cow_sector(cow) + offset;
                    bio.submit_part(sectors, &cx.cow, sector, false, &cx.machinery.bios);
                    return Ok(());
                }
            }
        }
    }

    /// As much of the next so many sectors as is of the snapshot that the origin is rolled back to, or is
    /// behind its end: there it is the origin device's.
    fn within_source(
        &self,
        origin: &Arc<Origin>,
        bio: &Bio,
        location: Location,
        sectors: u32,
    ) -> (Location, u32) {
        let state = self.origin_state(origin.number).ok();
        let Some(view) = state.and_then(|state| state.view.as_deref()) else {
            return (location, sectors);
        };
        match u32::try_from(view.size.saturating_sub(bio.sector())) {
            Ok(0) => (Location::Origin, sectors),
            Ok(left) if location != Location::Origin => (location, sectors.min(left)),
            _ => (location, sectors),
        }
    }

    fn head_run(
        &self,
        origin: &Arc<Origin>,
        first: Chunk,
        last: Chunk,
    ) -> Result<crate::model::resolve::Run> {
        let meta = self.meta_ref()?;
        let row = meta.origin_row(origin.number)?;
        let state = self.origin_state(origin.number)?;
        let max = last.get() - first.get() + 1;
        resolve_head(meta, &row, state.view.as_deref(), first, max)
    }

    /// A write or write-zeroes of an origin, at whatever stage it has reached.
    pub(super) fn origin_write(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        let Device::Origin(device) = bio.target().device() else {
            return bio.end(Status::IOERR);
        };
        let origin = device.origin().clone();
        let lost = self.forget_what_was_lost(&mut bio);
        let advanced = match *bio.job().stage {
            Stage::Preserving => self.preserved(cx, &origin, &mut bio),
            _ => Ok(true),
        };
        if lost {
            *bio.job().live = None;
        }
        match advanced {
            Err(error) => return self.give_up(bio, error),
            Ok(false) => return self.not_preserved(cx, &origin, bio),
            Ok(true) => {}
        }
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
        let next = loop {
            match self.next_for(&origin, &mut bio, first, last) {
                Ok(Next::Note(gap, epoch)) if !self.failed => {
                    if let Err(error) = self.note_change(&origin, &mut bio, gap, epoch) {
                        break Err(error);
                    }
                }
                next => break next,
            }
        };
        match next {
            Err(StoreError::Refused(Refusal::NoMetadataSpace)) => {
                self.no_space(cx, &origin, bio, Lack::Metadata)
            }
            Err(_) if self.failed && self.meta.is_none() => self.be_rescued(cx, origin.number, bio),
            Err(error) => self.give_up(bio, error),
            Ok(Next::Merge(chunk)) => {
                if let Some(error) = self.merge_trouble(origin.number) {
                    return self.end_with_error(bio, error);
                }
                self.urge_merge(origin.number, chunk);
                self.stand_back(cx, bio);
            }
            Ok(Next::Preserve(_) | Next::Note(..)) if self.failed => {
                self.be_rescued(cx, origin.number, bio)
            }
            // That is done in the loop.
            Ok(Next::Note(..)) => self.give_up(bio, Refusal::Corrupt.into()),
            Ok(Next::Preserve(gap)) => self.copy_out(cx, &origin, bio, gap),
            Ok(Next::Ready) => {
                let recorded = match self.mark_written(&origin, &mut bio, first, last) {
                    Ok(recorded) => recorded,
                    Err(StoreError::Refused(Refusal::NoMetadataSpace)) => {
                        return self.no_room_for_marks(cx, origin.number, bio)
                    }
                    Err(error) => return self.give_up(bio, error),
                };
                *bio.job().stage = Stage::Preserved;
                if recorded {
                    self.after_commit(bio);
                } else {
                    self.issue(cx, bio);
                }
            }
        }
    }

    /// A write needs something preserved, or that cannot be found out, and the store has failed.
    fn be_rescued(&mut self, cx: &Arc<Store>, nr: OriginNr, bio: Bio) {
        match self.rescue(cx, nr) {
            Ok(true) => self.begin_anew(bio),
            Ok(false) => self.starve(cx, bio),
            Err(error) => self.end_with_error(bio, error),
        }
    }

    /// What a write has found and recorded counts only as long as the store has not failed. Returns
    /// whether it has. For which epoch a copy was made that has come back is still to be seen then.
    fn forget_what_was_lost(&mut self, bio: &mut Bio) -> bool {
        let job = bio.job();
        let lost = *job.failures != self.failures;
        if lost {
            *job.recorded = false;
            *job.failures = self.failures;
        }
        lost
    }

    /// The copy of a run that must be preserved has failed. If the COW device cannot be written it
    /// is tried once more, to another place; then it is as if there were no space.
    fn not_preserved(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>, mut bio: Bio) {
        let job = bio.job();
        if *job.unreadable {
            // The origin's own trouble: no snapshot is given up for it.
            return self.end_with_error(bio, StoreError::Kernel(EIO));
        }
        if !core::mem::replace(job.retried, true) {
            return self.origin_write(cx, bio);
        }
        if self.policy != FullPolicy::Invalidate {
            return self.end_with_error(bio, StoreError::Kernel(EIO));
        }
        match self.invalidate(cx, origin.number, Refusal::Io, Loss::Content) {
            Ok(()) => self.origin_write(cx, bio),
            Err(error) => self.give_up(bio, error),
        }
    }

    /// Finds out what a write of these chunks needs.
    #[inline(never)]
    fn next_for(
        &mut self,
        origin: &Arc<Origin>,
        bio: &mut Bio,
        first: Chunk,
        last: Chunk,
    ) -> Result<Next> {
        let end = last.plus(1);
        let meta = self.meta_ref()?;
        let state = self.origin_state(origin.number)?;
        if let Some(view) = state.view.as_deref() {
            if let Some((chunk, _, _)) = rollback::next_pending(meta, view, first, end, 1)? {
                return Ok(Next::Merge(chunk));
            }
        }
        let job = bio.job();
        let Some(live) = state.live else {
            *job.live = None;
            return Ok(Next::Ready);
        };
        let from = if *job.live == Some(live) {
            Chunk::new(*job.next).unwrap_or(first).max(first)
        } else {
            first
        };
        *job.live = Some(live);
        *job.next = from.get();
        if from >= end {
            return Ok(Next::Ready);
        }
        let gap = preserve::next_unpreserved(meta, origin.number, live, Epoch::MAX, from, end)?;
        Ok(match gap {
            Some(gap) if gap.content => Next::Preserve(gap),
            Some(gap) => Next::Note(gap, live.epoch),
            None => {
                *job.next = end.get();
                Next::Ready
            }
        })
    }

    /// Starts the copy of a run that must be preserved.
    #[inline(never)]
    fn copy_out(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        mut bio: Bio,
        gap: preserve::Gap,
    ) {
        let chunk_size = cx.geometry.chunk_size;
        let most = chunk_size.whole_chunks(MAX_COPY_SECTORS).max(1);
        let (cow, len) = match self.reserve(For::Preserving, gap.len.min(most)) {
            Ok(Reservation::Run { start, len }) => (start, len),
            Ok(Reservation::Later) => {
                let bio = self.let_go(cx, bio);
                return self.patient.push_back(bio);
            }
            Ok(Reservation::Full(lack)) => return self.no_space(cx, origin, bio, lack),
            Err(error) => return self.give_up(bio, error),
        };
        let size = match self.origin_size(origin.number) {
            Ok(size) => size,
            Err(error) => {
                self.release(cow);
                return self.give_up(bio, error);
            }
        };
        let from = cx.origin_region(origin, gap.start, len, size);
        let job = bio.job();
        *job.stage = Stage::Preserving;
        *job.waiting_since = None;
        *job.run = Some(CopyRun {
            start: gap.start,
            cow,
            len,
            sectors: from.count,
            unrecorded: false,
        });
        let to = cx.cow_region(cow, from.count);
        if let Ok(state) = self.origin_state_mut(origin.number) {
            state.copies.begin(len.saturating_mul(chunk_size.sectors()));
        }
        cx.machinery.kcopyd.copy(&from, &to, bio);
    }

    /// How large an origin is, in sectors, as far as its snapshots can go.
    pub(super) fn origin_size(&self, nr: OriginNr) -> Result<u64> {
        self.meta_ref()?.of_origin(nr, |row| row.size)
    }

    /// Puts a write aside that has to start over later. It lets its chunks go, so what it has
    /// recorded is made durable first: who finds a record relies on that.
    fn stand_back(&mut self, cx: &Arc<Store>, bio: Bio) {
        let bio = self.let_go(cx, bio);
        self.wait(bio);
    }

    fn let_go(&mut self, cx: &Arc<Store>, mut bio: Bio) -> Bio {
        if *bio.job().recorded && self.commit(cx).is_ok() {
            *bio.job().recorded = false;
        }
        let job = bio.job();
        self.retry |= job.phys.unlock();
        *job.stage = Stage::New;
        *job.live = None;
        bio
    }

    /// Nothing is left to preserve with: the policy says what becomes of the write.
    #[inline(never)]
    fn no_space(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>, mut bio: Bio, lack: Lack) {
        if self.seek_space() {
            return self.starve(cx, bio);
        }
        if self.policy != FullPolicy::Invalidate && self.full.is_none() {
            self.full = Some(lack);
            // Before the write ends.
            self.publish(cx);
        }
        match self.policy {
            FullPolicy::Invalidate => {
                // Bookmarks need no chunk, but to have it noted that one changes.
                let loss = match lack {
                    Lack::Chunks => Loss::Content,
                    Lack::Metadata => Loss::Everything,
                };
                match self.invalidate(cx, origin.number, lack.refusal(), loss) {
                    Ok(()) => {
                        *bio.job().stage = Stage::New;
                        self.origin_write(cx, bio);
                    }
                    Err(error) => self.give_up(bio, error),
                }
            }
            FullPolicy::Error => self.end_with_error(bio, lack.refusal().into()),
            FullPolicy::Queue => self.starve_a_while(cx, bio, lack),
        }
    }

    /// As [`Engine::starve`], but not for ever.
    pub(super) fn starve_a_while(&mut self, cx: &Arc<Store>, mut bio: Bio, lack: Lack) {
        let since = *bio.job().waiting_since.get_or_insert_with(time::jiffies);
        if time::msecs_since(since) >= QUEUE_MSECS || self.closing {
            self.end_with_error(bio, lack.refusal().into());
        } else {
            self.starve(cx, bio);
        }
    }

    /// Puts a bio aside until there is space. It lets its chunks go meanwhile.
    pub(super) fn starve(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        if *bio.job().recorded && self.commit(cx).is_ok() {
            *bio.job().recorded = false;
        }
        let suspending = self.status_instead_of_waiting(&bio);
        let job = bio.job();
        self.retry |= job.phys.unlock();
        self.retry |= job.own.unlock();
        *job.stage = Stage::New;
        *job.live = None;
        if let Some(status) = suspending {
            return self.end(bio, status);
        }
        self.hungry.push_back(bio);
        cx.machinery.worker.kick_after(HUNGRY_MSECS);
    }

    /// A run has been copied out, or not: records it. `Ok(false)` when the copy failed.
    #[inline(never)]
    fn preserved(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>, bio: &mut Bio) -> Result<bool> {
        let job = bio.job();
        *job.stage = Stage::New;
        let Some(run) = job.run.take() else {
            return Ok(true);
        };
        let sectors = run.len.saturating_mul(cx.geometry.chunk_sectors());
        let mut batch = self.batch;
        if let Ok(state) = self.origin_state_mut(origin.number) {
            state.copies.end(sectors, &mut batch);
        }
        self.batch = batch;
        let copied = *job.status;
        *job.status = Status::OK;
        self.release(run.cow);
        if copied != Status::OK {
            return Ok(false);
        }
        if self.failed {
            // Nothing can be recorded. What is to be done is found out anew.
            *job.live = None;
            return Ok(true);
        }
        let state = self.origin_state(origin.number)?;
        let rolling = state.view.is_some();
        let needs = |live: &Live| {
            live.snapshot.is_some() && job.live.is_none_or(|earlier| live.includes(&earlier))
        };
        let Some(live) = state.live.filter(needs) else {
            // The snapshot it was for has been deleted, or only a bookmark of it is left. An older one may
            // have the chunk already.
            *job.live = None;
            return Ok(true);
        };
        let nr = origin.number;
        let size = self.origin_size(nr)?;
        let whole = cx.origin_region(origin, run.start, run.len, size).count;
        if run.sectors < whole && *job.live != Some(live) {
            // The origin has grown since, and the snapshot that was taken meanwhile with it.
            *job.live = None;
            return Ok(true);
        }
        let each = 1 + u64::from(rolling);
        let done = self.alter_by_parts(run.len, each, |meta, skip, len| {
            let (start, cow) = (run.start.plus(skip), run.cow.checked_add(skip));
            let cow = cow.ok_or(Refusal::Corrupt)?;
            let mut chunks = meta.of_origin(nr, |row| row.chunks)?;
            preserve::record_preserved(meta, nr, &mut chunks, live.epoch, start, cow, len)?;
            meta.set_origin_chunks(nr, chunks)?;
            if rolling {
                let row = meta.origin_row(nr)?;
                rollback::mark_done(meta, &row, start, len)?;
            }
            Ok(())
        })?;
        // What there was no room for is preserved once more, or not, as the policy says.
        *job.recorded |= done > 0;
        if *job.live == Some(live) {
            *job.next = run.start.get() + done;
        }
        Ok(true)
    }

    /// Sends a write on to the origin device, unless a snapshot is being taken just now.
    #[inline(never)]
    pub(super) fn issue(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        let Device::Origin(device) = bio.target().device() else {
            return bio.end(Status::IOERR);
        };
        let origin = device.origin().clone();
        let current = match self.origin_state(origin.number) {
            Ok(state) => !state.bound || state.live == *bio.job().live,
            Err(_) => true,
        };
        let job = bio.job();
        self.retry |= job.phys.unlock();
        let pass = if current {
            origin.gate.try_enter()
        } else {
            None
        };
        let Some(pass) = pass else {
            // A newer snapshot may want this chunk too: look again when it has been taken.
            *job.stage = Stage::New;
            *job.live = None;
            if current {
                self.wait(bio);
            } else {
                cx.submit(bio);
            }
            return;
        };
        *job.pass = Some(pass);
        *job.stage = Stage::Issued;
        if job.live.is_some() {
            let (first, last) = cx.chunks_of(&bio);
            origin.set_preserved(first, last);
        }
        let sector = bio.sector();
        bio.submit_to(&origin.dev, sector);
    }
}

/// Sectors from the start of a bio that lie in the first `len` chunks it touches.
pub(super) fn run_sectors(cx: &Store, bio: &Bio, len: u64) -> u32 {
    let offset = cx.geometry.offset_of(bio.sector());
    let most = len
        .saturating_mul(cx.geometry.chunk_sectors())
        .saturating_sub(offset);
    u32::try_from(most).map_or(bio.sectors(), |most| bio.sectors().min(most))
}
