// SPDX-License-Identifier: GPL-2.0

//! Rolling an origin back: its device is brought up to date in the background, run by run.
//!
//! Each run goes the same way: have its chunks alone; preserve what the origin device holds there if
//! an older snapshot needs it, and make that durable; copy the source's content onto the origin and
//! flush it; mark the run done and make that durable; let the chunks go. A crash anywhere repeats
//! the run, which changes nothing that anybody can read. So does an error: the run is begun anew
//! after a while, or when a device is resumed.

use super::allocator::Reservation;
use super::cleaner::Search;
use super::engine::Engine;
use super::error::{Result, StoreError};
use super::job::CopyRun;
use super::merge_copy::MergeCopy;
use super::origin::{Origin, RollbackState};
use super::preserve::HUNGRY_MSECS;
use super::store::Store;
use crate::dm::range_lock::Mode;
use crate::dm::time;
use crate::model::ids::{Chunk, OriginNr};
use crate::model::preserve::{self, Live};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::report::Stopped;
use crate::model::resolve::Location;
use crate::model::rollback;
use crate::model::room::{For, Lack};
use crate::model::table::FullPolicy;
use crate::model::versions::Loss;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Chunks of which one look at the metadata finds those that differ.
const LOOK_AHEAD: u64 = 1 << 16;

/// The longest run that is merged at once, in sectors: enough to keep a disk streaming. A write of
/// any of its chunks waits for all of it.
const MAX_MERGE_SECTORS: u64 = 8192;

/// The longest run that is merged when a write waits for it.
const MAX_URGENT_SECTORS: u64 = 1024;

/// After an error a run is begun anew after twice this time, and twice as much each time it fails
/// again, up to 2^[`MOST_DOUBLINGS`] times this.
const RETRY_MSECS: u32 = 1000;
const MOST_DOUBLINGS: u32 = 6;

/// What is being merged.
#[derive(Clone, Copy)]
struct MergeRun {
    start: Chunk,
    len: u64,
    from: Location,
}

/// Where the merge of an origin stands.
#[derive(Clone, Copy)]
enum Phase {
    /// Nothing is on its way and no chunks are held.
    Find,
    /// The old content of a part of the run is being copied to the COW device.
    Preserving {
        run: MergeRun,
        copy: CopyRun,
        live: Live,
    },
    /// The new content is being copied onto the origin device.
    Merging { run: MergeRun },
    /// It is being made durable there.
    Flushing { run: MergeRun },
}

/// The background half of a rollback that runs.
pub(super) struct Merge {
    job: Arc<MergeCopy>,
    phase: Phase,
    /// A write waits for this chunk.
    urgent: Option<Chunk>,
    /// The chunks of a run could not be locked, which are waited for: what made it the next one.
    awaited: Option<Option<Chunk>>,
    /// There is no space to preserve what the rollback would overwrite.
    pub(super) stuck: Option<Lack>,
    /// An error stopped it: when, in jiffies, and how many have in a row.
    failed: Option<usize>,
    failures: u32,
}

impl Merge {
    pub(super) fn new(cx: &Arc<Store>) -> Result<Self> {
        Ok(Self {
            job: MergeCopy::new(cx.machinery.worker.clone())?,
            phase: Phase::Find,
            urgent: None,
            awaited: None,
            stuck: None,
            failed: None,
            failures: 0,
        })
    }

    /// Why it stands still, if it does.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        match (self.failed, self.stuck) {
            (Some(_), _) => Some(Stopped::Error),
            (None, Some(lack)) => Some(Stopped::full(lack)),
            (None, None) => None,
        }
    }

    /// Whether it is not yet time to try again after an error.
    fn is_waiting(&self) -> bool {
        let pause = RETRY_MSECS << self.failures.min(MOST_DOUBLINGS);
        self.failed
            .is_some_and(|since| time::msecs_since(since) < pause)
    }

    /// What the next run begins with, or none in particular. One whose chunks are waited for stays the
    /// next, whoever wants another one meanwhile: its turn is kept for it.
    fn next(&mut self) -> Option<Chunk> {
        match self.awaited.take() {
            Some(awaited) => awaited,
            None => self.urgent.take(),
        }
    }

    /// Whether no copy is on its way.
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Find)
    }
}

impl Engine {
    /// Whether a read may lead to the source of a rollback of an origin, which must stay until it is
    /// over. Not when all is merged: who reads then does not hold up the end.
    pub(super) fn reads_source(&self, nr: OriginNr) -> bool {
        let state = self.origin_state(nr).ok();
        let view = state.and_then(|state| state.view.as_deref());
        view.is_some_and(|view| view.cursor < view.limit)
    }

    /// Whether a copy of the rollback of an origin is on its way.
    pub(super) fn has_copies(&self, nr: OriginNr) -> bool {
        let state = self.origin_state(nr).ok();
        let merge = state.and_then(|state| state.merge.as_ref());
        merge.is_some_and(|merge| !merge.is_resting())
    }

    /// A write waits for a chunk: it is merged next.
    pub(super) fn urge_merge(&mut self, nr: OriginNr, chunk: Chunk) {
        if let Ok(state) = self.origin_state_mut(nr) {
            if let Some(merge) = &mut state.merge {
                merge.urgent = Some(chunk);
            }
        }
    }

    /// Whether writes that wait for the rollback of an origin wait in vain, and why.
    pub(super) fn merge_trouble(&self, nr: OriginNr) -> Option<StoreError> {
        match self.origin_state(nr) {
            Ok(state) => match &state.merge {
                None => Some(StoreError::Kernel(EIO)),
                Some(merge) if merge.failed.is_some() || self.is_failed() => {
                    Some(StoreError::Kernel(EIO))
                }
                Some(merge) if self.policy != FullPolicy::Invalidate => {
                    merge.stuck.map(|lack| lack.refusal().into())
                }
                Some(_) => None,
            },
            Err(error) => Some(error),
        }
    }

    /// Moves every rollback on as far as it goes.
    pub(super) fn merge_all(&mut self, cx: &Arc<Store>) {
        for index in 0..self.origins.len() {
            let Some(state) = self.origins.get(index) else {
                return;
            };
            if state.merge.is_none() {
                continue;
            }
            let origin = state.shared.clone();
            loop {
                match self.merge_step(cx, &origin) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        self.merge_failed(cx, &origin, error);
                        break;
                    }
                }
            }
        }
    }

    fn merge_failed(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>, error: StoreError) {
        let Ok(state) = self.origin_state_mut(origin.number) else {
            return;
        };
        let rolling = state.view.is_some();
        let Some(merge) = &mut state.merge else {
            return;
        };
        merge.job.node.unlock();
        merge.phase = Phase::Find;
        merge.failed = Some(time::jiffies());
        merge.failures = merge.failures.saturating_add(1);
        let first = merge.failures == 1;
        if !rolling {
            state.merge = None;
        }
        // Writes that wait for a merge must hear that there is none.
        self.retry = true;
        cx.machinery.worker.kick_after(RETRY_MSECS);
        if first {
            pr_err!(
                "{}: rollback of origin {} ({}) stopped ({}); it is tried again\n",
                self.label,
                origin.number.get(),
                origin.dev.name(),
                error.name()
            );
            self.publish(cx);
            origin.set_rollback(RollbackState::Failed);
            origin.raise_event();
        }
    }

    /// Has rollbacks that an error stopped tried again at once.
    pub(super) fn resume_merges(&mut self) {
        for state in self.origins.iter_mut() {
            if let Some(merge) = &mut state.merge {
                merge.failed = None;
                merge.failures = 0;
                state.shared.set_rollback(RollbackState::Running);
            }
        }
    }

    /// A run is through, or nothing was left to be done.
    fn merge_goes_on(&mut self, nr: OriginNr) {
        let label = self.label;
        let Ok(state) = self.origin_state_mut(nr) else {
            return;
        };
        let Some(merge) = &mut state.merge else {
            return;
        };
        merge.failed = None;
        merge.stuck = None;
        if core::mem::take(&mut merge.failures) > 0 {
            state.shared.set_rollback(RollbackState::Running);
            let name = state.shared.dev.name();
            pr_info!(
                "{}: rollback of origin {} ({}) goes on\n",
                label,
                nr.get(),
                name
            );
        }
    }

    /// One step of a merge. `Ok(true)`: call again; `Ok(false)`: something must come back first.
    #[inline(never)]
    fn merge_step(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>) -> Result<bool> {
        let nr = origin.number;
        let Some(merge) = &self.origin_state(nr)?.merge else {
            return Ok(false);
        };
        let job = merge.job.clone();
        match merge.phase {
            Phase::Find => {
                if self.closing || origin.rests() {
                    // Nor are any chunks waited for, which would hold up who reads them.
                    self.unlock(&job.node);
                    return Ok(false);
                }
                if merge.is_waiting() {
                    cx.machinery.worker.kick_after(RETRY_MSECS);
                    return Ok(false);
                }
                if self.is_failed() {
                    // For whatever reason: who waits for the rollback waits in vain.
                    return Err(Refusal::StoreFailed.into());
                }
                self.merge_find(cx, origin, &job)
            }
            Phase::Preserving { run, copy, live } => {
                let Some(ok) = job.outcome() else {
                    return Ok(false);
                };
                self.release(copy.cow);
                if !ok {
                    return Err(StoreError::Kernel(EIO));
                }
                match self.merge_record(nr, copy, live) {
                    Ok(()) => self.merge_run(cx, origin, &job, run),
                    Err(StoreError::Refused(Refusal::NoMetadataSpace)) => {
                        self.merge_full(cx, origin, &job, Lack::Metadata)
                    }
                    Err(error) => Err(error),
                }
            }
            Phase::Merging { run } => {
                let Some(ok) = job.outcome() else {
                    return Ok(false);
                };
                if !ok {
                    return Err(StoreError::Kernel(EIO));
                }
                self.set_phase(nr, Phase::Flushing { run })?;
                // Not by the worker itself: what the origin device lies on may be served by it.
                job.flush(&cx.machinery.kcopyd, &origin.dev);
                Ok(false)
            }
            Phase::Flushing { run } => {
                let Some(ok) = job.outcome() else {
                    return Ok(false);
                };
                if !ok {
                    return Err(StoreError::Kernel(EIO));
                }
                self.merge_done(cx, origin, run)?;
                self.merge_goes_on(nr);
                self.unlock(&job.node);
                // Writes wait for chunks to be done, not only for them to be let go.
                self.retry = true;
                self.set_phase(nr, Phase::Find)?;
                Ok(true)
            }
        }
    }

    fn set_phase(&mut self, nr: OriginNr, phase: Phase) -> Result<()> {
        if let Some(merge) = &mut self.origin_state_mut(nr)?.merge {
            merge.phase = phase;
        }
        Ok(())
    }

    /// Looks for the next run that differs, takes its chunks, and begins with it.
    #[inline(never)]
    fn merge_find(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        job: &Arc<MergeCopy>,
    ) -> Result<bool> {
        let nr = origin.number;
        // What is done out of order must be marked.
        let marks = cx.geometry.chunk_size.whole_chunks(MAX_URGENT_SECTORS);
        let can_mark = self.has_room_for(For::Preserving, marks.max(1))?;
        let state = self.origin_state_mut(nr)?;
        if state.leaving {
            return Ok(false);
        }
        let Some(view) = &state.view else {
            state.merge = None;
            return Ok(false);
        };
        let (cursor, limit) = (view.cursor, view.limit);
        if cursor >= limit {
            self.unlock(&job.node);
            return self.merge_finish(cx, origin);
        }
        let urgent = state.merge.as_mut().and_then(Merge::next);
        let urgent = urgent.filter(|_| can_mark);
        let start = urgent.unwrap_or(cursor);
        // Taking marks away writes metadata anew, for which there may be little room.
        let ahead = self.changes_at_once(LOOK_AHEAD / 64)? * 64;
        let end = start.plus(ahead).min(limit);
        let meta = self.meta_ref()?;
        let view = self.view(nr)?;
        let most = match urgent {
            Some(_) => MAX_URGENT_SECTORS,
            None => MAX_MERGE_SECTORS,
        };
        let most = cx.geometry.chunk_size.whole_chunks(most).max(1);
        let found = rollback::next_pending(meta, view, start, end, most)?;
        let Some((chunk, len, from)) = found else {
            self.unlock(&job.node);
            if urgent.is_none() {
                self.move_cursor(nr, end)?;
            } else {
                self.retry = true;
            }
            return Ok(true);
        };
        if urgent.is_none() && chunk > cursor {
            self.move_cursor(nr, chunk)?;
        }
        let run = MergeRun {
            start: chunk,
            len,
            from,
        };
        let last = run.start.get() + run.len - 1;
        if !job
            .node
            .try_lock(&origin.phys, run.start.get(), last, Mode::Exclusive)
        {
            if let Some(merge) = &mut self.origin_state_mut(nr)?.merge {
                merge.awaited = Some(urgent);
            }
            return Ok(false);
        }
        self.merge_run(cx, origin, job, run)
    }

    /// Preserves the next part of a run that an older snapshot needs, or copies the run. What only a
    /// bookmark needs is noted on the way.
    #[inline(never)]
    fn merge_run(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        job: &Arc<MergeCopy>,
        run: MergeRun,
    ) -> Result<bool> {
        let nr = origin.number;
        while let Some((live, gap)) = self.merge_gap(nr, run)? {
            if gap.content {
                return self.merge_preserve(cx, origin, job, run, gap, live);
            }
            // A gap may be as long as the run, so this ends soon.
            if !self.merge_note(nr, gap, live)? {
                return self.merge_full(cx, origin, job, Lack::Metadata);
            }
        }
        // What was preserved must be durable before it is overwritten.
        self.commit(cx)?;
        self.set_phase(nr, Phase::Merging { run })?;
        // What the origin has behind the source's end stays.
        let to = cx.origin_region(origin, run.start, run.len, self.view(nr)?.size);
        match run.from {
            Location::Cow(cow) => {
                let from = cx.cow_region(cow, to.count);
                job.copy(&cx.machinery.kcopyd, &from, &to);
            }
            Location::Zero => job.zero(&cx.machinery.kcopyd, &to),
            // Chunks that resolve to the origin device do not differ from it.
            Location::Origin => return Err(Refusal::Corrupt.into()),
        }
        Ok(false)
    }

    /// The first chunks of a run that are still to be preserved, and for what.
    fn merge_gap(&self, nr: OriginNr, run: MergeRun) -> Result<Option<(Live, preserve::Gap)>> {
        let meta = self.meta_ref()?;
        let row = meta.origin_row(nr)?;
        let boundary = self.view(nr)?.boundary;
        let Some(live) = rollback::newest_needed(meta, &row)? else {
            return Ok(None);
        };
        let end = run.start.plus(run.len);
        let gap = preserve::next_unpreserved(meta, nr, live, boundary, run.start, end)?;
        Ok(gap.map(|gap| (live, gap)))
    }

    /// Records that chunks change; `false` if there is no room for that.
    #[inline(never)]
    fn merge_note(&mut self, nr: OriginNr, gap: preserve::Gap, live: Live) -> Result<bool> {
        if !self.has_room_for(For::Preserving, gap.len)? {
            return Ok(false);
        }
        let done = self.alter_by_parts(gap.len, 1, |meta, skip, len| {
            preserve::record_changed(meta, nr, live.epoch, gap.start.plus(skip), len)
        })?;
        Ok(done == gap.len)
    }

    #[inline(never)]
    fn merge_preserve(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        job: &Arc<MergeCopy>,
        run: MergeRun,
        gap: preserve::Gap,
        live: Live,
    ) -> Result<bool> {
        let nr = origin.number;
        let size = self.origin_size(nr)?;
        match self.reserve(For::Preserving, gap.len)? {
            Reservation::Run { start, len } => {
                let from = cx.origin_region(origin, gap.start, len, size);
                let copy = CopyRun {
                    start: gap.start,
                    cow: start,
                    len,
                    sectors: from.count,
                    unrecorded: false,
                };
                self.set_stuck(nr, None);
                self.set_phase(nr, Phase::Preserving { run, copy, live })?;
                let to = cx.cow_region(start, from.count);
                job.copy(&cx.machinery.kcopyd, &from, &to);
                Ok(false)
            }
            Reservation::Full(lack) => self.merge_full(cx, origin, job, lack),
            Reservation::Later => {
                self.unlock(&job.node);
                self.set_phase(nr, Phase::Find)?;
                cx.machinery.worker.kick_after(HUNGRY_MSECS);
                Ok(false)
            }
        }
    }

    /// There is none left of what it takes to preserve what a run would overwrite.
    #[inline(never)]
    fn merge_full(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        job: &Arc<MergeCopy>,
        lack: Lack,
    ) -> Result<bool> {
        let nr = origin.number;
        self.unlock(&job.node);
        self.set_phase(nr, Phase::Find)?;
        let coming = self.seek_space();
        if !coming && self.policy == FullPolicy::Invalidate {
            let loss = match lack {
                Lack::Chunks => Loss::Content,
                Lack::Metadata => Loss::Everything,
            };
            self.invalidate(cx, nr, lack.refusal(), loss)?;
            return Ok(true);
        }
        if !coming {
            self.full = Some(lack);
            if self.set_stuck(nr, Some(lack)) {
                self.publish(cx);
                origin.raise_event();
                // Writes that wait for it must hear of it.
                self.retry = true;
            }
        }
        cx.machinery.worker.kick_after(HUNGRY_MSECS);
        Ok(false)
    }

    /// Whether it becomes stuck by this.
    fn set_stuck(&mut self, nr: OriginNr, stuck: Option<Lack>) -> bool {
        let state = self.origin_state_mut(nr).ok();
        let merge = state.and_then(|state| state.merge.as_mut());
        let stuck_before = merge.map(|merge| core::mem::replace(&mut merge.stuck, stuck));
        stuck_before == Some(None) && stuck.is_some()
    }

    /// Records what has been preserved, unless the snapshot it was for has gone meanwhile.
    #[inline(never)]
    fn merge_record(&mut self, nr: OriginNr, copy: CopyRun, live: Live) -> Result<()> {
        let done = self.alter_by_parts(copy.len, 1, |meta, skip, len| {
            let mut row = meta.origin_row(nr)?;
            if rollback::newest_needed(meta, &row)? != Some(live) {
                return Ok(());
            }
            let (start, cow) = (copy.start.plus(skip), copy.cow.checked_add(skip));
            let cow = cow.ok_or(Refusal::Corrupt)?;
            preserve::record_preserved(meta, nr, &mut row.chunks, live.epoch, start, cow, len)?;
            meta.put_origin(&row)
        })?;
        match done < copy.len {
            true => Err(Refusal::NoMetadataSpace.into()),
            false => Ok(()),
        }
    }

    /// A run holds the source's content: it is done, durably.
    #[inline(never)]
    fn merge_done(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>, run: MergeRun) -> Result<()> {
        let nr = origin.number;
        let cursor = self.view(nr)?.cursor;
        let ordered = run.start == cursor;
        let mut left = run.len;
        if !ordered {
            // If there is room for some only, the others are merged once more.
            let done = self.alter_by_parts(run.len, 1, |meta, skip, len| {
                let row = meta.origin_row(nr)?;
                rollback::mark_done(meta, &row, run.start.plus(skip), len)
            });
            left = done?;
        }
        self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            if let Some(rollback) = &mut row.rollback {
                rollback.merged = rollback.merged.saturating_add(left);
            }
            meta.put_origin(&row)
        })?;
        if ordered {
            self.move_cursor(nr, run.start.plus(run.len))?;
        }
        self.commit(cx)
    }

    #[inline(never)]
    fn move_cursor(&mut self, nr: OriginNr, cursor: Chunk) -> Result<()> {
        self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            rollback::advance(meta, &mut row, cursor)?;
            meta.put_origin(&row)
        })?;
        if let Some(view) = &mut self.origin_state_mut(nr)?.view {
            view.cursor = cursor;
        }
        Ok(())
    }

    /// Everything is merged: the rollback is over as soon as nobody reads from its source.
    #[inline(never)]
    fn merge_finish(&mut self, cx: &Arc<Store>, origin: &Arc<Origin>) -> Result<bool> {
        let nr = origin.number;
        if !origin.nothing_redirected() {
            cx.machinery.worker.kick_after(20);
            return Ok(false);
        }
        self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            rollback::finish(meta, &mut row)?;
            meta.put_origin(&row)
        })?;
        self.commit(cx)?;
        self.origin_state_mut(nr)?.merge = None;
        self.refresh(nr)?;
        // What it has kept of invalid snapshots is needed no more.
        self.search = Search::Open;
        self.begin_cleaning();
        self.retry = true;
        pr_info!(
            "{}: rollback of origin {} ({}) is done\n",
            self.label,
            nr.get(),
            origin.dev.name()
        );
        // Who is woken finds the status as it is now.
        self.publish(cx);
        origin.set_rollback(RollbackState::Idle);
        origin.raise_event();
        Ok(false)
    }

    fn view(&self, nr: OriginNr) -> Result<&crate::model::resolve::RollbackView> {
        self.origin_state(nr)?
            .view
            .as_deref()
            .ok_or(StoreError::Refused(Refusal::Corrupt))
    }
}
