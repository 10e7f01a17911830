// SPDX-License-Identifier: GPL-2.0

//! The engine: everything that is decided with the metadata in hand.
//!
//! One turn of the engine takes the bios that gathered, moves each as far as it goes without
//! waiting, commits if any of them needs it, and does a bounded piece of background work.

use super::allocator::{Allocator, Reservation};
use super::cleaner::{Left, Pace, Search};
use super::error::{Result, StoreError};
use super::failure::Source;
use super::job::{HasJob, Stage};
use super::merge::Merge;
use super::metadata::Meta;
use super::origin::Origin;
use super::preserve::HUNGRY_MSECS;
use super::snapshot::Snapshot;
use super::store::Store;
use crate::device::Device;
use crate::dm::bio::Op;
use crate::dm::bio_list::BioList;
use crate::dm::block_device::BlockName;
use crate::dm::plug;
use crate::dm::range_lock::RangeNode;
use crate::dm::status::Status;
use crate::dm::time;
use crate::model::batch::{Batch, Copies};
use crate::model::chain::Chain;
use crate::model::ids::{CowChunk, OriginNr, TimelineId};
use crate::model::preserve::{self, Live};
use crate::model::refusal::Refusal;
use crate::model::report::Cleaning;
use crate::model::rollback::RollbackView;
use crate::model::room::{For, Lack};
use crate::model::table::FullPolicy;
use crate::model::versions::{self, Loss};
use crate::target::{Bio, SnapMv};
use core::cell::Cell;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Changes are made durable when there are this many, though nobody waits.
const MAX_CHANGES: u32 = 1024;

/// While there is foreground work, the cleaner has one turn in so many.
const BUSY_TURNS: u32 = 8;

/// Changes that nobody waits for are committed after this time.
const COMMIT_MSECS: u32 = 1000;

/// What a row of an origin says of how many snapshots, ghosts and bookmarks there are, of the tag that
/// comes next, and of what is invalid. While that is the same they are.
pub(super) type Counts = [u32; 6];

/// The engine's side of an active origin.
pub(super) struct OriginState {
    pub(super) shared: Arc<Origin>,
    /// Devices that hold it, its snapshots' among them.
    pub(super) users: u32,
    /// False from `do` on: the device is passed through until it is removed. And before it is bound.
    pub(super) bound: bool,
    /// As what it is to be bound when a table of it is resumed.
    pub(super) to_bind: Option<KVec<u8>>,
    /// Its last device is going: no copy is begun for it any more.
    pub(super) leaving: bool,
    /// What a write must preserve for.
    pub(super) live: Option<Live>,
    pub(super) view: Option<KBox<RollbackView>>,
    pub(super) merge: Option<Merge>,
    pub(super) copies: Copies,
    /// Whether any of its snapshots or bookmarks is invalid, as it was found for a row that said this.
    pub(super) invalid: Cell<(Counts, bool)>,
}

/// The engine's side of an active snapshot.
pub(super) struct SnapshotState {
    pub(super) shared: Arc<Snapshot>,
    pub(super) users: u32,
    pub(super) chain: KBox<Chain>,
    /// Something was written to it since it is active, not necessarily flushed.
    pub(super) written: bool,
    /// The store failed, and with it what was written and not flushed may be gone: nothing goes on
    /// as if it had not, until the device is made anew.
    pub(super) lost: bool,
}

/// The mutable half of a store, under its mutex.
pub(crate) struct Engine {
    /// `None` once the store is closed, and when it has failed and cannot even be read. When it has
    /// failed and can, this is the last commit, to be read only.
    pub(super) meta: Option<KBox<Meta>>,
    /// Where the metadata are read from again after a failure; `None` once the store is closed.
    pub(super) source: Option<Source>,
    /// The COW device, for the log.
    pub(super) label: BlockName,
    /// It takes no changes until it is opened anew.
    pub(super) failed: bool,
    /// How often it has failed.
    pub(super) failures: u32,
    /// When it was last opened anew for the sake of a write, in jiffies.
    pub(super) rescued: Option<usize>,
    /// When that, or giving up snapshots, was last tried in vain.
    pub(super) lost_cause: Option<usize>,
    pub(super) alloc: Allocator,
    /// Sorted by number.
    pub(super) origins: KVec<OriginState>,
    /// Sorted by timeline.
    pub(super) snapshots: KVec<SnapshotState>,
    /// Bios that wait for a range or a gate.
    pub(super) waiting: BioList<SnapMv>,
    /// Bios that wait for space.
    pub(super) hungry: BioList<SnapMv>,
    /// Bios that go on when what they recorded is durable.
    committing: BioList<SnapMv>,
    /// When these are.
    pub(super) batch: Batch,
    /// A range was let go in this turn that somebody waits for.
    pub(super) retry: bool,
    pub(super) policy: FullPolicy,
    /// No background work is begun any more.
    pub(super) closing: bool,
    /// There may be something to clean.
    pub(super) cleaning: bool,
    pub(super) cleaned: Option<Cleaning>,
    /// Turns so far.
    pub(super) turns: u64,
    /// The next gate is not closed before so many.
    pub(super) wait_for_turn: u64,
    /// A write found no space, and none has since: what there is none of.
    pub(super) full: Option<Lack>,
    /// What it has been told is full.
    pub(super) told_full: Option<Lack>,
    /// It has been told that space runs low.
    pub(super) low_water: bool,
    /// Something was cleaned, and nobody has been told of its end.
    pub(super) has_cleaned: bool,
    /// Now that has ended.
    pub(super) clean_end: bool,
    pub(super) left: Left,
    /// The timeline to look at next.
    pub(super) clean_from: TimelineId,
    pub(super) cleaner: Pace,
    pub(super) search: Search,
    /// Requests of snapshots that have become invalid may be on their way.
    pub(super) invalid_moves: bool,
    dirty_since: Option<usize>,
    /// When what waits for space was looked at last.
    fed: usize,
    /// Turns in a row that had bios.
    busy_turns: u32,
    /// Bios that wait for a reservation to come back, in the order in which they get one.
    pub(super) patient: BioList<SnapMv>,
    /// The one that is at work is the first of those.
    serving: bool,
    /// Copies under way have all the metadata that there are for copies: until one comes back.
    crowded: bool,
}

impl Engine {
    pub(super) fn new(meta: KBox<Meta>, source: Source, policy: FullPolicy) -> Result<Self> {
        let mut engine = Self {
            label: source.cow.name(),
            failed: meta.superblock.needs_check,
            meta: Some(meta),
            source: Some(source),
            failures: 0,
            rescued: None,
            lost_cause: None,
            alloc: Allocator::new()?,
            origins: KVec::new(),
            snapshots: KVec::new(),
            waiting: BioList::new(),
            hungry: BioList::new(),
            committing: BioList::new(),
            batch: Batch::new(),
            retry: false,
            policy,
            closing: false,
            cleaning: false,
            cleaned: None,
            turns: 0,
            wait_for_turn: 0,
            full: None,
            told_full: None,
            low_water: false,
            has_cleaned: false,
            clean_end: false,
            left: Left::default(),
            clean_from: TimelineId::LOWEST,
            cleaner: Pace::default(),
            search: Search::Open,
            invalid_moves: false,
            dirty_since: None,
            fed: time::jiffies(),
            busy_turns: 0,
            patient: BioList::new(),
            serving: false,
            crowded: false,
        };
        engine.begin_cleaning();
        Ok(engine)
    }

    /// The metadata of a store that works, to be changed.
    pub(super) fn meta(&mut self) -> Result<&mut Meta> {
        if self.failed {
            return Err(self.why_failed());
        }
        self.meta_to_keep()
    }

    /// Why nothing can be changed.
    fn why_failed(&self) -> StoreError {
        match &self.meta {
            Some(meta) if meta.superblock.needs_check => Refusal::NeedsCheck.into(),
            _ => Refusal::StoreFailed.into(),
        }
    }

    /// The metadata, for what is kept of them in core. Of a store that has failed too.
    pub(super) fn meta_to_keep(&mut self) -> Result<&mut Meta> {
        match &mut self.meta {
            Some(meta) if !meta.is_poisoned() => Ok(meta),
            _ => Err(StoreError::Refused(Refusal::StoreFailed)),
        }
    }

    /// The metadata, to look only: those of a store that has failed are its last commit.
    pub(super) fn meta_ref(&self) -> Result<&Meta> {
        match &self.meta {
            Some(meta) if !meta.is_poisoned() => Ok(meta),
            _ => Err(StoreError::Refused(Refusal::StoreFailed)),
        }
    }

    /// The metadata and the allocator at once.
    pub(super) fn parts(&mut self) -> Result<(&mut Meta, &mut Allocator)> {
        match &mut self.meta {
            Some(meta) if !meta.is_poisoned() && !self.failed => Ok((meta, &mut self.alloc)),
            _ => Err(StoreError::Refused(Refusal::StoreFailed)),
        }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed || self.meta.as_ref().is_none_or(|meta| meta.is_poisoned())
    }

    /// Takes the metadata away, for good, and what they are read with.
    pub(super) fn close(&mut self) -> (Option<KBox<Meta>>, Option<Source>) {
        (self.meta.take(), self.source.take())
    }

    /// Moves everything on as far as it goes. Returns whether there is more to do at once.
    pub(super) fn turn(&mut self, cx: &Arc<Store>, bios: BioList<SnapMv>, retry: bool) -> bool {
        let mut bios = bios;
        let busy = !bios.is_empty();
        if !self.hungry.is_empty() && time::msecs_since(self.fed) >= HUNGRY_MSECS {
            self.feed();
        }
        if retry || self.retry {
            self.retry = false;
            let mut all = self.waiting.take();
            all.append(&mut bios);
            bios = all;
        }
        plug::together(|| self.step_all(cx, bios));
        self.adopt_merges(cx);
        self.merge_all(cx);
        if self.commit_is_due() {
            let _ = self.commit(cx);
        }
        self.release_committed(cx);
        if !busy && self.wants_trees() {
            let _ = self.commit_trees();
        }
        let mut again = self.retry || self.can_serve() && !self.patient.is_empty();
        if self.cleaning && !self.closing {
            // Foreground work comes first, but must not keep the cleaner out for ever.
            self.busy_turns = if busy { self.busy_turns + 1 } else { 0 };
            again |= match self.cleaner_rests() {
                0 if self.busy_turns % BUSY_TURNS == 0 => self.clean(cx),
                0 => true,
                msecs => {
                    cx.machinery.worker.kick_after(msecs);
                    false
                }
            };
        }
        if !self.hungry.is_empty() {
            cx.machinery.worker.kick_after(HUNGRY_MSECS);
        }
        self.arm_commit(cx);
        self.publish_changes(cx);
        self.tell_clean_end();
        self.turns += 1;
        cx.rested.notify_all();
        again
    }

    /// Continues bios, and those that wait for a reservation.
    #[inline(never)]
    fn step_all(&mut self, cx: &Arc<Store>, mut bios: BioList<SnapMv>) {
        while let Some(bio) = bios.pop_front() {
            self.step(cx, bio);
        }
        self.serve(cx);
    }

    /// Continues as many of those that wait for a reservation as there are to be had.
    ///
    /// Were they all looked at whenever one comes back, a flood of writes, such as a system makes
    /// that runs out of memory, would take time with its square.
    fn serve(&mut self, cx: &Arc<Store>) {
        self.serving = true;
        while self.can_serve() {
            let Some(bio) = self.patient.pop_front() else {
                break;
            };
            self.step(cx, bio);
        }
        self.serving = false;
    }

    /// Whether there may be a reservation to be had.
    fn can_serve(&self) -> bool {
        self.alloc.has_room() && !self.crowded
    }

    /// Continues one bio.
    #[inline(never)]
    pub(super) fn step(&mut self, cx: &Arc<Store>, mut bio: Bio) {
        if self.is_lost(&bio) {
            if let Some(run) = bio.job().run.take() {
                self.release(run.cow);
            }
            return self.end(bio, Status::IOERR);
        }
        match bio.target().device() {
            Device::Origin(_) => match bio.op() {
                Op::Read => self.origin_read(cx, bio),
                Op::Discard => self.origin_discard(cx, bio),
                _ => self.origin_write(cx, bio),
            },
            Device::Snapshot(_) => match bio.op() {
                Op::Read => self.snapshot_read(cx, bio),
                Op::Write | Op::WriteZeroes => self.snapshot_write(cx, bio),
                Op::Discard => self.snapshot_discard(cx, bio),
                Op::Flush => self.snapshot_flush(cx, bio),
                _ => bio.end(Status::NOTSUPP),
            },
        }
    }

    /// Has a bio go on once everything recorded so far is durable.
    pub(super) fn after_commit(&mut self, mut bio: Bio) {
        *bio.job().failures = self.failures;
        let preserved = *bio.job().stage == Stage::Preserved;
        match bio.target().device() {
            Device::Origin(device) if preserved => self.join_batch(device.origin().number),
            _ => self.batch.must_go(),
        }
        self.committing.push_back(bio);
    }

    /// A write of an origin that has preserved something waits for a commit.
    fn join_batch(&mut self, nr: OriginNr) {
        let mut batch = self.batch;
        match self.origin_state_mut(nr) {
            Ok(state) => state.copies.join(&mut batch),
            Err(_) => batch.must_go(),
        }
        self.batch = batch;
    }

    /// Lets a range go; whoever waits for it is looked at again.
    pub(super) fn unlock(&mut self, node: &RangeNode) {
        self.retry |= node.unlock();
    }

    /// Whether there is anything that is not durable.
    fn is_dirty(&self) -> bool {
        self.meta_ref().is_ok_and(|meta| meta.is_dirty())
    }

    /// Whether the trees are to be written when there is time. Not while all devices are suspended.
    fn wants_trees(&self) -> bool {
        self.meta_ref().is_ok_and(Meta::wants_commit)
            && !self.origins.iter().all(|state| state.shared.rests())
    }

    fn commit_is_due(&self) -> bool {
        let Ok(meta) = self.meta_ref() else {
            return false;
        };
        if self.batch.is_whole() || meta.volatile() >= MAX_CHANGES {
            return true;
        }
        meta.is_dirty()
            && self
                .dirty_since
                .is_some_and(|since| time::msecs_since(since) >= COMMIT_MSECS)
    }

    fn arm_commit(&mut self, cx: &Arc<Store>) {
        if !self.is_dirty() {
            self.dirty_since = None;
            // The trees are written when there is time for it, which nobody else may tell of.
            if !self.is_failed() && self.wants_trees() {
                cx.machinery.worker.kick_after(COMMIT_MSECS);
            }
            return;
        }
        let since = *self.dirty_since.get_or_insert_with(time::jiffies);
        // A timer that was set for something else may have come early.
        let left = COMMIT_MSECS.saturating_sub(time::msecs_since(since));
        cx.machinery.worker.kick_after(left.max(1));
    }

    /// Makes all changes durable. After an error the store has failed: it keeps the last commit,
    /// and whatever needs the metadata ends in an error.
    #[inline(never)]
    pub(super) fn commit(&mut self, _cx: &Arc<Store>) -> Result<()> {
        if self.meta()?.is_dirty() {
            self.commit_by(Meta::persist)?;
        }
        Ok(())
    }

    /// Writes the trees, whatever the journal has room for: blocks and chunks that were freed can be
    /// used again.
    #[inline(never)]
    pub(super) fn commit_trees(&mut self) -> Result<()> {
        self.commit_by(|meta| meta.commit(false))
    }

    fn commit_by(&mut self, make_durable: fn(&mut Meta) -> Result<()>) -> Result<()> {
        let meta = self.meta()?;
        let freed = !meta.freed().is_empty();
        let result = make_durable(meta);
        self.dirty_since = None;
        if let Err(error) = result {
            self.fail(error);
            return Err(error);
        }
        if freed && !self.hungry.is_empty() {
            self.feed();
        }
        Ok(())
    }

    /// Whether a bio is of a snapshot that may have lost writes.
    fn is_lost(&self, bio: &Bio) -> bool {
        match bio.target().device() {
            Device::Origin(_) => false,
            Device::Snapshot(device) => self
                .snapshot_state(device.snapshot().timeline())
                .is_ok_and(|state| state.lost),
        }
    }

    /// Looks again at what waited for space.
    pub(super) fn feed(&mut self) {
        self.fed = time::jiffies();
        self.waiting.append(&mut self.hungry);
        self.retry = true;
    }

    /// Makes a change that nobody may see half of: when it fails after its first step, the store
    /// does. What is more than a few records asks for room before ([`Engine::changes_at_once`]).
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMetadataSpace`], before any change, if there is no room at all.
    pub(super) fn alter<T>(&mut self, change: impl FnOnce(&mut Meta) -> Result<T>) -> Result<T> {
        self.changes_at_once(1)?;
        let meta = self.meta()?;
        let before = meta.touched();
        let result = change(meta);
        if let Err(error) = &result {
            if meta.is_poisoned() || meta.touched() != before {
                self.fail(*error);
            }
        }
        result
    }

    #[inline(never)]
    fn release_committed(&mut self, cx: &Arc<Store>) {
        let store_failed = self.is_failed();
        if self.committing.is_empty() || !store_failed && self.is_dirty() {
            return;
        }
        self.batch.end();
        let mut bios = self.committing.take();
        while let Some(mut bio) = bios.pop_front() {
            let job = bio.job();
            // The store may have failed and been opened anew since, in this very turn.
            let failed = store_failed || *job.failures != self.failures;
            *job.recorded = false;
            match *job.stage {
                Stage::Preserved if !failed => self.issue(cx, bio),
                // What it recorded is not there. Perhaps it can go on all the same.
                Stage::Preserved => self.begin_anew(bio),
                Stage::Ending if !failed => {
                    let status = *job.status;
                    self.end(bio, status);
                }
                _ => self.end(bio, Status::IOERR),
            }
        }
    }

    /// Ends a bio and lets go of what it holds.
    pub(super) fn end(&mut self, mut bio: Bio, status: Status) {
        let job = bio.job();
        self.retry |= job.phys.unlock();
        self.retry |= job.own.unlock();
        bio.end(status);
    }

    /// Ends a bio with the status of an error. What was recorded for it is made durable first: a
    /// later write that finds the record must be able to trust it.
    pub(super) fn end_with_error(&mut self, mut bio: Bio, error: StoreError) {
        let job = bio.job();
        if *job.recorded && !self.is_failed() {
            *job.stage = Stage::Ending;
            *job.status = error.to_status();
            self.after_commit(bio);
        } else {
            self.end(bio, error.to_status());
        }
    }

    /// Puts a bio aside until a range or gate is let go.
    pub(super) fn wait(&mut self, bio: Bio) {
        self.waiting.push_back(bio);
    }

    pub(super) fn origin_index(&self, nr: OriginNr) -> Result<usize> {
        self.origins
            .binary_search_by_key(&nr.get(), |state| state.shared.number.get())
            .map_err(|_| StoreError::Refused(Refusal::NotBound))
    }

    pub(super) fn origin_state(&self, nr: OriginNr) -> Result<&OriginState> {
        let index = self.origin_index(nr)?;
        self.origins
            .get(index)
            .ok_or(StoreError::Refused(Refusal::NotBound))
    }

    pub(super) fn origin_state_mut(&mut self, nr: OriginNr) -> Result<&mut OriginState> {
        let index = self.origin_index(nr)?;
        self.origins
            .get_mut(index)
            .ok_or(StoreError::Refused(Refusal::NotBound))
    }

    pub(super) fn snapshot_index(&self, t: TimelineId) -> core::result::Result<usize, usize> {
        self.snapshots
            .binary_search_by_key(&t.get(), |state| state.shared.timeline().get())
    }

    pub(super) fn snapshot_state(&self, t: TimelineId) -> Result<&SnapshotState> {
        let index = self
            .snapshot_index(t)
            .map_err(|_| StoreError::Refused(Refusal::UnknownTag))?;
        self.snapshots
            .get(index)
            .ok_or(StoreError::Refused(Refusal::UnknownTag))
    }

    /// Reads again from the metadata what writes of an origin go by, after a message changed it.
    #[inline(never)]
    pub(super) fn refresh(&mut self, nr: OriginNr) -> Result<()> {
        let row = self.meta_ref()?.origin_row(nr)?;
        let meta = self.meta_ref()?;
        let live = preserve::newest_live(meta, &row)?;
        let view = match RollbackView::of(meta, &row)? {
            Some(view) => Some(KBox::new(view, GFP_KERNEL)?),
            None => None,
        };
        let invalid_below = row.invalid_below;
        let state = self.origin_state_mut(nr)?;
        let rolling = view.is_some();
        let rolled = state.view.is_some();
        let newer = live.map(|live| live.epoch) > state.live.map(|live| live.epoch);
        state.live = live;
        state.view = view;
        let shared = state.shared.clone();
        if rolling {
            shared.preserved_unknown();
        } else if newer || rolled {
            // While the live epoch gets older what is preserved stays so: the cleaner keeps the record
            // that the newest live epoch resolves to, or that there is one.
            shared.none_preserved();
        }
        shared.set_invalid_below(invalid_below);
        shared.set_redirect(rolling);
        shared.set_direct(live.is_none() && !rolling);
        Ok(())
    }

    /// Reserves up to `want` COW chunks, which with the records of them will be used for `purpose`. If
    /// there is nothing else, what was freed since the trees were written last is made free durably first.
    #[inline(never)]
    pub(super) fn reserve(&mut self, purpose: For, want: u64) -> Result<Reservation> {
        if !self.serving && !self.patient.is_empty() {
            return Ok(Reservation::Later);
        }
        if !self.has_room_for(purpose, want)? {
            // What is under way may need less than was promised to it.
            self.crowded = self.alloc.runs() > 0;
            return Ok(match self.crowded {
                true => Reservation::Later,
                false => Reservation::Full(Lack::Metadata),
            });
        }
        let found = self.reserve_once(want)?;
        if !matches!(found, Reservation::Full(_)) || self.meta_ref()?.freed().is_empty() {
            return Ok(found);
        }
        // Not by the journal, which says nothing of that.
        self.commit_trees()?;
        self.reserve_once(want)
    }

    fn reserve_once(&mut self, want: u64) -> Result<Reservation> {
        let (meta, alloc) = self.parts()?;
        let found = alloc.reserve(meta, want);
        let found = self.seen_through(found)?;
        if matches!(found, Reservation::Run { .. }) {
            self.full = None;
        }
        Ok(found)
    }

    /// Ends a reservation.
    pub(super) fn release(&mut self, cow: CowChunk) {
        self.alloc.release(cow);
        self.crowded = false;
    }

    /// Ends or gives back what waits for space on behalf of a device that is being suspended.
    pub(super) fn dismiss(&mut self, is_of: impl Fn(&Bio) -> bool) {
        let mut all = self.hungry.take();
        while let Some(bio) = all.pop_front() {
            match self.status_instead_of_waiting(&bio) {
                Some(status) if is_of(&bio) => self.end(bio, status),
                _ => self.hungry.push_back(bio),
            }
        }
    }

    /// How a bio ends that must not wait for space because its device is being suspended. Space
    /// that will come by itself is waited for even so.
    pub(super) fn status_instead_of_waiting(&self, bio: &Bio) -> Option<Status> {
        let status = bio.target().status_while_suspending()?;
        (status != Status::NOSPC || !self.space_is_coming()).then_some(status)
    }

    /// Whether a full device will have space without anybody's doing.
    pub(super) fn space_is_coming(&self) -> bool {
        self.cleaning && !self.closing && !self.is_failed()
    }

    /// Gives up the snapshots of an origin, and perhaps its bookmarks, because what they need cannot be
    /// preserved, for the reason given. Durably: when this fails they are still there.
    #[inline(never)]
    pub(super) fn invalidate(
        &mut self,
        cx: &Arc<Store>,
        nr: OriginNr,
        reason: Refusal,
        loss: Loss,
    ) -> Result<()> {
        self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            // A store that failed and was opened anew may have them still, and the write is coming.
            row.identity.samples = None;
            versions::invalidate(meta, &mut row, loss)
        })?;
        self.commit(cx)?;
        self.refresh(nr)?;
        self.search = Search::Open;
        self.invalid_moves = true;
        // Before anybody is told, or the write that it was for ends.
        self.publish(cx);
        let shared = self.origin_state(nr)?.shared.clone();
        pr_warn!(
            "{}: {}: the {} of origin {} ({}) are invalid\n",
            self.label,
            reason.as_str(),
            match loss {
                Loss::Content => "snapshots",
                Loss::Everything => "snapshots and bookmarks",
            },
            nr.get(),
            shared.dev.name()
        );
        shared.raise_event();
        Ok(())
    }
}
