// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of a snapshot device.
//!
//! A bio goes piece by piece: as far as one run of chunks reaches, then it is looked at again. A
//! write into chunks that the snapshot's current epoch has already goes in place. Else it goes to
//! new chunks, recorded when the data is there; that record is durable at the next commit, which a
//! flush waits for, as a disk's write cache would have it.

use super::allocator::Reservation;
use super::engine::Engine;
use super::error::{Result, StoreError};
use super::job::{CopyRun, HasJob, Placed, Redirected, Stage};
use super::preserve::run_sectors;
use super::snapshot::Snapshot;
use super::store::Store;
use super::zeroing::zero_part;
use crate::device::Device;
use crate::dm::bio::Op;
use crate::dm::range_lock::Mode;
use crate::dm::status::Status;
use crate::model::ids::Chunk;
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::resolve::{resolve, Location, Run};
use crate::model::room::For;
use crate::model::write::{record_written, writable, NewRun, Writable};
use crate::target::Bio;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A bio that cannot go on, and why.
pub(super) type Stopped = (Bio, StoreError);

pub(super) fn snapshot_of(bio: &Bio) -> Option<Arc<Snapshot>> {
    match bio.target().device() {
        Device::Snapshot(device) => Some(device.snapshot().clone()),
        Device::Origin(_) => None,
    }
}

impl Engine {
    /// A read of a snapshot.
    pub(super) fn snapshot_read(&mut self, cx: &Arc<Store>, bio: Bio) {
        let Some(snapshot) = snapshot_of(&bio) else {
            return bio.end(Status::IOERR);
        };
        if let Err((bio, error)) = self.read_on(cx, &snapshot, bio) {
            self.end_with_error(bio, error);
        }
    }

    fn read_on(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
    ) -> core::result::Result<(), Stopped> {
        // The part before is over.
        *bio.job().placed = None;
        loop {
            if bio.sectors() == 0 {
                self.end(bio, Status::OK);
                return Ok(());
            }
            let (first, last) = cx.chunks_of(&bio);
            let job = bio.job();
            if !job.own.is_locked()
                && !job
                    .own
                    .try_lock(&snapshot.chunks, first.get(), last.get(), Mode::Shared)
            {
                self.wait(bio);
                return Ok(());
            }
            let run = match self.snapshot_run(snapshot, first, last) {
                Ok(run) => run,
                Err(error) => return Err((bio, error)),
            };
            self.note_redirected(snapshot, &mut bio);
            let offset = cx.geometry.offset_of(bio.sector());
            let sectors = run_sectors(cx, &bio, run.len);
            *bio.job().stage = Stage::Reading;
            match run.location {
                Location::Zero => bio.zero_front(sectors),
                Location::Origin => {
                    let job = bio.job();
                    let end = first.get() + run.len - 1;
                    if !job
                        .phys
                        .try_lock(&snapshot.origin.phys, first.get(), end, Mode::Shared)
                    {
                        self.wait(bio);
                        return Ok(());
                    }
                    let sector = bio.sector();
                    bio.submit_part(
                        sectors,
                        &snapshot.origin.dev,
                        sector,
                        false,
                        &cx.machinery.bios,
                    );
                    return Ok(());
                }
                Location::Cow(cow) => {
                    *bio.job().placed = Some(Placed::new(snapshot, self.failures));
                    let sector = cx.geometry.cow_sector(cow) + offset;
                    bio.submit_part(sectors, &cx.cow, sector, false, &cx.machinery.bios);
                    return Ok(());
                }
            }
        }
    }

    #[inline(never)]
    fn snapshot_run(&self, snapshot: &Snapshot, first: Chunk, last: Chunk) -> Result<Run> {
        self.check_valid(snapshot)?;
        let meta = self.meta_ref()?;
        let view = self.origin_state(snapshot.origin_nr())?.view.as_deref();
        let state = self.snapshot_state(snapshot.timeline())?;
        let max = last.get() - first.get() + 1;
        resolve(meta, &state.chain, view, first, max)
    }

    /// What a snapshot reads while a rollback runs may come from the rollback's source, which must
    /// stay until then.
    fn note_redirected(&self, snapshot: &Snapshot, bio: &mut Bio) {
        let job = bio.job();
        if self.reads_source(snapshot.origin_nr()) && job.redirected.is_none() {
            *job.redirected = Some(Redirected::new(&snapshot.origin));
        }
    }

    /// Refuses a snapshot that a full COW device has cost its content.
    pub(super) fn check_valid(&self, snapshot: &Snapshot) -> Result<()> {
        let meta = self.meta_ref()?;
        let invalid_below = meta.of_origin(snapshot.origin_nr(), |row| row.invalid_below)?;
        if snapshot.tag.get() < invalid_below {
            return Err(Refusal::InvalidSnapshot.into());
        }
        Ok(())
    }

    /// A write or write-zeroes of a snapshot, at whatever stage it has reached.
    pub(super) fn snapshot_write(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        let Some(snapshot) = snapshot_of(&bio) else {
            return bio.end(Status::IOERR);
        };
        let result = match *bio.job().stage {
            Stage::Filling => self.filled(cx, &snapshot, bio),
            Stage::WritingNew => match self.written(&snapshot, &mut bio) {
                Ok(()) => self.write_on(cx, &snapshot, bio),
                Err(error) => Err((bio, error)),
            },
            Stage::WritingInPlace => {
                let job = bio.job();
                self.retry |= job.own.unlock();
                if job.status.is_ok() {
                    self.write_on(cx, &snapshot, bio)
                } else {
                    Err((bio, StoreError::Kernel(EIO)))
                }
            }
            _ => self.write_on(cx, &snapshot, bio),
        };
        if let Err((bio, error)) = result {
            self.end_with_error(bio, error);
        }
    }

    fn write_on(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
    ) -> core::result::Result<(), Stopped> {
        *bio.job().stage = Stage::New;
        // The part before is over.
        *bio.job().placed = None;
        if bio.sectors() == 0 {
            return self.finish_write(bio);
        }
        if !self.enter(snapshot, &mut bio) {
            self.wait(bio);
            return Ok(());
        }
        let whole = whole_chunks(cx, snapshot, &bio);
        let zeroes = bio.op() == Op::WriteZeroes;
        if zeroes && whole > 0 {
            return self.zero_whole(cx, snapshot, bio, whole);
        }
        let (first, last) = cx.chunks_of(&bio);
        let max = match zeroes {
            // Whole chunks may follow, which are not written.
            true => 1,
            false => last.get() - first.get() + 1,
        };
        let found = match self.find_writable(snapshot, first, max) {
            Ok(found) => found,
            Err(error) => return Err((bio, error)),
        };
        match found {
            Writable::InPlace { cow, len } => {
                let job = bio.job();
                let end = first.get() + len - 1;
                if !job
                    .own
                    .try_lock(&snapshot.chunks, first.get(), end, Mode::Shared)
                {
                    self.wait(bio);
                    return Ok(());
                }
                *job.stage = Stage::WritingInPlace;
                *job.placed = Some(Placed::new(snapshot, self.failures));
                let sectors = run_sectors(cx, &bio, len);
                let sector = cx.geometry.cow_sector(cow) + cx.geometry.offset_of(bio.sector());
                if zeroes {
                    zero_part(cx, bio, sectors, sector);
                } else {
                    let fua = bio.is_fua();
                    bio.submit_part(sectors, &cx.cow, sector, fua, &cx.machinery.bios);
                }
                Ok(())
            }
            Writable::New(run) if whole > 0 => {
                let run = NewRun {
                    len: whole.min(run.len),
                    ..run
                };
                self.write_new(cx, snapshot, bio, run, None)
            }
            Writable::New(run) => match self.snapshot_run(snapshot, first, first) {
                Ok(Run {
                    location: Location::Zero,
                    ..
                }) if zeroes => {
                    let sectors = run_sectors(cx, &bio, 1);
                    bio.skip_front(sectors);
                    cx.submit(bio);
                    Ok(())
                }
                Ok(base) => {
                    let run = NewRun { len: 1, ..run };
                    self.write_new(cx, snapshot, bio, run, Some(base.location))
                }
                Err(error) => Err((bio, error)),
            },
        }
    }

    #[inline(never)]
    fn find_writable(&self, snapshot: &Snapshot, first: Chunk, max: u64) -> Result<Writable> {
        self.check_valid(snapshot)?;
        let meta = self.meta_ref()?;
        let row = meta.snapshot_row(snapshot.timeline())?;
        writable(meta, snapshot.origin_nr(), &row, first, max)
    }

    /// Gives chunks new places: those of a run that the bio covers entirely, or the one it begins in,
    /// with what its `base` has for the rest.
    #[inline(never)]
    fn write_new(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
        new: NewRun,
        base: Option<Location>,
    ) -> core::result::Result<(), Stopped> {
        let first = new.start;
        let job = bio.job();
        let end = first.get() + new.len - 1;
        if !job
            .own
            .try_lock(&snapshot.chunks, first.get(), end, Mode::Exclusive)
        {
            self.wait(bio);
            return Ok(());
        }
        if base == Some(Location::Origin)
            && !job.phys.try_lock(
                &snapshot.origin.phys,
                first.get(),
                first.get(),
                Mode::Shared,
            )
        {
            self.retry |= job.own.unlock();
            self.wait(bio);
            return Ok(());
        }
        let (cow, len) = match self.reserve(For::Snapshots, new.len) {
            Ok(Reservation::Run { start, len }) => (start, len),
            Ok(Reservation::Later) => {
                let job = bio.job();
                self.retry |= job.phys.unlock();
                self.retry |= job.own.unlock();
                self.patient.push_back(bio);
                return Ok(());
            }
            Ok(Reservation::Full(_)) if self.seek_space() => {
                self.starve(cx, bio);
                return Ok(());
            }
            Ok(Reservation::Full(lack)) => return Err((bio, lack.refusal().into())),
            Err(error) => return Err((bio, error)),
        };
        let run = CopyRun {
            start: first,
            cow,
            len,
            sectors: len.saturating_mul(cx.geometry.chunk_sectors()),
            unrecorded: new.unrecorded,
        };
        *bio.job().run = Some(run);
        match base {
            Some(base) => self.fill(cx, snapshot, bio, run, base),
            None => self.submit_new(cx, bio, run),
        }
        Ok(())
    }

    /// Copies what the rest of a chunk holds that is written in part only.
    fn fill(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
        run: CopyRun,
        base: Location,
    ) {
        self.note_redirected(snapshot, &mut bio);
        *bio.job().stage = Stage::Filling;
        let size = cx.geometry.chunk_sectors();
        match base {
            Location::Origin => {
                let from = cx.origin_region(&snapshot.origin, run.start, 1, snapshot.size);
                let to = cx.cow_region(run.cow, from.count);
                cx.machinery.kcopyd.copy(&from, &to, bio);
            }
            Location::Cow(cow) => {
                let from = cx.cow_region(cow, size);
                cx.machinery
                    .kcopyd
                    .copy(&from, &cx.cow_region(run.cow, size), bio);
            }
            Location::Zero => cx.machinery.kcopyd.zero(&cx.cow_region(run.cow, size), bio),
        }
    }

    /// The rest of a chunk has been copied: now the write itself.
    fn filled(
        &mut self,
        cx: &Arc<Store>,
        snapshot: &Arc<Snapshot>,
        mut bio: Bio,
    ) -> core::result::Result<(), Stopped> {
        let job = bio.job();
        self.retry |= job.phys.unlock();
        let copied = *job.status;
        *job.status = Status::OK;
        let Some(run) = *job.run else {
            return self.write_on(cx, snapshot, bio);
        };
        let filled = match copied {
            // What it was copied from is nobody's business any more if the snapshot has become invalid.
            Status::OK => self.check_valid(snapshot),
            _ => Err(StoreError::Kernel(EIO)),
        };
        if let Err(error) = filled {
            *bio.job().run = None;
            self.release(run.cow);
            return Err((bio, error));
        }
        self.submit_new(cx, bio, run);
        Ok(())
    }

    fn submit_new(&mut self, cx: &Arc<Store>, mut bio: Bio, run: CopyRun) {
        *bio.job().stage = Stage::WritingNew;
        let sectors = run_sectors(cx, &bio, run.len);
        let sector = cx.geometry.cow_sector(run.cow) + cx.geometry.offset_of(bio.sector());
        if bio.op() == Op::WriteZeroes {
            return zero_part(cx, bio, sectors, sector);
        }
        bio.submit_part(sectors, &cx.cow, sector, false, &cx.machinery.bios);
    }

    /// The data is in its new place: records it.
    fn written(&mut self, snapshot: &Arc<Snapshot>, bio: &mut Bio) -> Result<()> {
        let job = bio.job();
        let status = *job.status;
        *job.status = Status::OK;
        let Some(run) = job.run.take() else {
            return Ok(());
        };
        self.release(run.cow);
        if status != Status::OK {
            return Err(StoreError::Kernel(EIO));
        }
        // What is recorded for one that is invalid nobody would clean away.
        let recorded = self.check_valid(snapshot);
        let recorded = recorded.and_then(|()| self.record(snapshot, run));
        let job = bio.job();
        self.retry |= job.own.unlock();
        recorded
    }

    #[inline(never)]
    fn record(&mut self, snapshot: &Snapshot, run: CopyRun) -> Result<()> {
        // Others may need what is there: then a record of zeroes is cut up around that.
        let each = if run.unrecorded { 1 } else { 2 };
        let done = self.alter_by_parts(run.len, each, |meta, skip, len| {
            let mut row = meta.snapshot_row(snapshot.timeline())?;
            let origin = snapshot.origin_nr();
            let new = NewRun {
                start: run.start.plus(skip),
                len,
                unrecorded: run.unrecorded,
            };
            let cow = run.cow.checked_add(skip).ok_or(Refusal::Corrupt)?;
            record_written(meta, origin, &mut row, new, cow)?;
            meta.put_snapshot(origin, &row)
        })?;
        match done < run.len {
            true => Err(Refusal::NoMetadataSpace.into()),
            false => Ok(()),
        }
    }

    /// All parts are written. Only a write that asked for it waits until it is durable.
    fn finish_write(&mut self, mut bio: Bio) -> core::result::Result<(), Stopped> {
        let dirty = match self.meta_ref() {
            Ok(meta) => meta.is_dirty(),
            Err(error) => return Err((bio, error)),
        };
        if bio.is_fua() && dirty {
            *bio.job().stage = Stage::Ending;
            *bio.job().status = Status::OK;
            self.after_commit(bio);
        } else {
            self.end(bio, Status::OK);
        }
        Ok(())
    }

    /// Makes everything written before durable.
    pub(super) fn snapshot_flush(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        match self.meta_ref() {
            Err(error) => self.end_with_error(bio, error),
            // The commit flushes the COW device before and after.
            Ok(meta) if meta.is_dirty() => {
                *bio.job().stage = Stage::Ending;
                *bio.job().status = Status::OK;
                self.after_commit(bio);
            }
            Ok(_) => {
                *bio.job().stage = Stage::Issued;
                bio.submit_to(&cx.cow, 0);
            }
        }
    }

    /// Lets a write in, unless a snapshot is being taken just now.
    pub(super) fn enter(&mut self, snapshot: &Snapshot, bio: &mut Bio) -> bool {
        if let Ok(index) = self.snapshot_index(snapshot.timeline()) {
            if let Some(state) = self.snapshots.get_mut(index) {
                state.written = true;
            }
        }
        let job = bio.job();
        if job.pass.is_none() {
            *job.pass = snapshot.gate.try_enter();
        }
        job.pass.is_some()
    }
}

/// Chunks from the start of a bio that it covers whole; the last chunk of a device counts as whole
/// when the bio reaches the device's end.
pub(super) fn whole_chunks(cx: &Store, snapshot: &Snapshot, bio: &Bio) -> u64 {
    if cx.geometry.offset_of(bio.sector()) != 0 {
        return 0;
    }
    let end = bio.sector().saturating_add(u64::from(bio.sectors()));
    let chunk_size = cx.geometry.chunk_size;
    let sectors = u64::from(bio.sectors());
    let rest = end >= snapshot.size && !chunk_size.is_whole(sectors);
    chunk_size.whole_chunks(sectors) + u64::from(rest)
}
