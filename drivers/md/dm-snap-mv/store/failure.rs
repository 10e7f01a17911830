// SPDX-License-Identifier: GPL-2.0

//! When changing the metadata fails.
//!
//! The last commit stands. It is read again, so that what needs no change goes on: reads, and
//! writes of chunks that are preserved. Everything that needs one is refused until the store is
//! opened anew, as a device of it is loaded or resumed. If the metadata contradict themselves, the
//! superblock says so from then on, and that is not before a repair.
//!
//! Which commit was the last is not known when the device failed in the midst of one: it may be the
//! one that was reported as failed. So nothing is decided by what is remembered, only by what is
//! read, after a flush that makes it durable if it was not. As long as that cannot be done nothing
//! is known at all, and whatever needs the metadata fails.

use super::cleaner::Search;
use super::engine::Engine;
use super::error::{Result, StoreError};
use super::job::{HasJob, Stage};
use super::journal::End;
use super::merge::Merge;
use super::metadata::Meta;
use super::open::{self, Purpose};
use super::origin::{Origin, RollbackState};
use super::store::Store;
use crate::dm::block_device::BlockDevice;
use crate::dm::io::DmIo;
use crate::dm::noio::NoIo;
use crate::dm::time;
use crate::model::ids::OriginNr;
use crate::model::refusal::Refusal;
use crate::model::table::FullPolicy;
use crate::model::versions::Loss;
use crate::target::Bio;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::{delay::fsleep, Delta};

/// A store that fails again within this time has failed for good: see [`Engine::rescue`]. After an
/// attempt in vain none is made for so long.
const RESCUE_MSECS: u32 = 5000;

/// How long opening a store anew waits for what is on its way to the COW device.
const SETTLE_MSECS: u32 = 5000;

/// What metadata are read again with. Process context where it is dropped.
pub(super) struct Source {
    pub(super) io: DmIo,
    pub(super) cow: Arc<BlockDevice>,
    pub(super) uuid: [u8; 16],
    /// Where the journal ended when the metadata were in core last: nobody has been told that anything
    /// behind that is durable.
    pub(super) known: Option<End>,
}

impl Source {
    /// The metadata as they are on the device, durably.
    fn load(&self, purpose: Purpose) -> Result<KBox<Meta>> {
        let meta = open::load(&self.io, &self.cow, purpose, self.known)?;
        if meta.superblock.uuid != self.uuid {
            // Somebody has put another store there.
            return Err(Refusal::Corrupt.into());
        }
        Ok(meta)
    }
}

impl Engine {
    /// Ends all changes until the store is opened anew, and goes back to the last commit.
    pub(super) fn fail(&mut self, error: StoreError) {
        let Some(meta) = &mut self.meta else {
            return;
        };
        if self.failed {
            return;
        }
        meta.abandon();
        if meta.corrupt || matches!(error, StoreError::Refused(Refusal::Corrupt)) {
            match meta.mark_needs_check() {
                Ok(()) => pr_err!(
                    "{}: metadata is corrupt: the store needs a check from now on\n",
                    self.label
                ),
                Err(e) => pr_err!(
                    "{}: metadata is corrupt, and cannot be marked ({})\n",
                    self.label,
                    e.name()
                ),
            }
        }
        self.failed = true;
        self.failures = self.failures.wrapping_add(1);
        pr_err!(
            "{}: metadata change failed ({}): the store takes no more changes, its last commit stands\n",
            self.label,
            error.name()
        );
        for state in self.snapshots.iter_mut() {
            state.lost |= state.written;
        }
        if let Err(error) = self.reload(Purpose::Look) {
            pr_err!(
                "{}: metadata cannot be read ({})\n",
                self.label,
                error.name()
            );
        }
        self.cleaning = false;
        self.cleaned = None;
        self.search = Search::Open;
        self.feed();
        // Before anybody is told, or what it fails ends.
        self.publish_failure();
        self.tell_all();
    }

    /// Raises an event on all devices of the store.
    pub(super) fn tell_all(&self) {
        for state in self.origins.iter() {
            state.shared.raise_event();
        }
    }

    /// Sees to the store failing if an operation on the metadata has left them half changed.
    pub(super) fn seen_through<T>(&mut self, result: Result<T>) -> Result<T> {
        self.notice_failure();
        result
    }

    /// As [`Engine::seen_through`], for what nobody looked at.
    pub(super) fn notice_failure(&mut self) {
        if !self.failed && self.meta.as_ref().is_some_and(|meta| meta.is_poisoned()) {
            self.fail(StoreError::Kernel(EIO));
        }
    }

    /// Reads the metadata anew. After an error there are none.
    #[inline(never)]
    fn reload(&mut self, purpose: Purpose) -> Result<()> {
        // Others may hold what it takes to free memory.
        let _noio = NoIo::enter();
        let source = self.source.as_mut().ok_or(Refusal::StoreFailed)?;
        if let Some(meta) = &self.meta {
            source.known = meta.journal_end();
        }
        // There must not be two of them at a time.
        self.meta = None;
        self.alloc.forget();
        let mut meta = source.load(purpose)?;
        for state in self.origins.iter_mut().filter(|state| state.bound) {
            match meta.cache_origin(state.shared.number) {
                Ok(()) => {}
                Err(StoreError::Refused(Refusal::NotBound)) => {
                    // It was unbound, which was reported as failed.
                    state.bound = false;
                    state.live = None;
                    state.view = None;
                    state.shared.set_redirect(false);
                    state.shared.set_direct(true);
                }
                Err(error) => return Err(error),
            }
        }
        for state in self.snapshots.iter_mut() {
            match meta.cache_snapshot(state.shared.timeline()) {
                Ok(()) => {}
                Err(StoreError::Refused(Refusal::UnknownTag)) => state.lost = true,
                Err(error) => return Err(error),
            }
        }
        self.meta = Some(meta);
        let refreshed = self.refresh_all();
        if refreshed.is_err() {
            self.meta = None;
        }
        refreshed
    }

    fn refresh_all(&mut self) -> Result<()> {
        for index in 0..self.origins.len() {
            let state = self.origins.get(index).filter(|state| state.bound);
            if let Some(nr) = state.map(|state| state.shared.number) {
                self.refresh(nr)?;
            }
        }
        Ok(())
    }

    /// Opens a store anew that has failed, unless it needs a check. Process context, or the worker.
    pub(super) fn revive(&mut self, cx: &Arc<Store>) -> Result<()> {
        self.revive_unless(cx, true)
    }

    /// Whether nothing is on its way any more to chunks that the failure has given back: who gets
    /// them next must not be written over, nor be read by others. That is not only what lost snapshots
    /// have written. An older snapshot reads what was preserved of the origin, and that it was need not
    /// have become durable.
    ///
    /// What was sent since goes by what is durable, and a rollback's own reads always do.
    fn is_settled(&self) -> bool {
        !self.failed
            || self
                .snapshots
                .iter()
                .all(|state| state.shared.nothing_placed_before(self.failures))
    }

    /// As [`Engine::revive`]; with `heed` false, a store that needs a check too.
    #[inline(never)]
    fn revive_unless(&mut self, cx: &Arc<Store>, heed: bool) -> Result<()> {
        self.notice_failure();
        if !self.failed {
            return Ok(());
        }
        if !self.is_settled() {
            return Err(Refusal::StoreFailed.into());
        }
        let reloaded = self.reload(if heed {
            Purpose::Change
        } else {
            Purpose::ChangeAnyway
        });
        if let Err(error) = reloaded {
            // What can be read of it still can, if the device can but not be written.
            let _ = self.reload(Purpose::Look);
            return Err(error);
        }
        let marked = |meta: &KBox<Meta>| meta.superblock.needs_check;
        if heed && self.meta.as_ref().is_some_and(marked) {
            return Err(Refusal::NeedsCheck.into());
        }
        self.failed = false;
        self.retry = true;
        self.begin_cleaning();
        self.resume_merges();
        pr_info!(
            "{}: the store works again, from its last commit on\n",
            self.label
        );
        self.publish(cx);
        self.tell_all();
        cx.machinery.worker.kick();
        Ok(())
    }

    /// A write needs something preserved, and the store has failed. If the origin goes first the
    /// store is opened anew for it, even if it needs a check; and if it fails again, the snapshots
    /// are given up, durably or not at all. `Ok(false)`: that has to wait for what is on its way.
    pub(super) fn rescue(&mut self, cx: &Arc<Store>, nr: OriginNr) -> Result<bool> {
        let recent =
            |when: Option<usize>| when.is_some_and(|when| time::msecs_since(when) < RESCUE_MSECS);
        if self.policy != FullPolicy::Invalidate || recent(self.lost_cause) {
            return Err(Refusal::StoreFailed.into());
        }
        if !self.is_settled() {
            return Ok(false);
        }
        let again = recent(self.rescued.replace(time::jiffies()));
        let rescued = match (self.revive_unless(cx, false), again) {
            (Ok(()), true) => self.invalidate(cx, nr, Refusal::Io, Loss::Everything),
            (revived, _) => revived,
        };
        if rescued.is_err() {
            self.lost_cause = Some(time::jiffies());
        }
        rescued.map(|()| true)
    }

    /// A message has failed that closed the gate of an origin, and perhaps not really. If that
    /// cannot be read, nothing may pass that relies on what was so before. The gate is closed.
    pub(super) fn doubt(&mut self, origin: &Origin, reads: bool) {
        if self.meta.is_none() {
            origin.set_direct(false);
            origin.none_preserved();
            if reads {
                origin.set_redirect(true);
            }
        }
    }

    /// Has a write start over that had come somewhere when the store failed.
    pub(super) fn begin_anew(&mut self, mut bio: Bio) {
        let failures = self.failures;
        let job = bio.job();
        *job.failures = failures;
        *job.stage = Stage::New;
        *job.recorded = false;
        *job.live = None;
        self.retry = true;
        self.wait(bio);
    }

    /// Ends a write that cannot go on, unless the store has failed under it: then it starts over,
    /// once, to be judged by what is still there.
    pub(super) fn give_up(&mut self, mut bio: Bio, error: StoreError) {
        if *bio.job().failures != self.failures {
            self.begin_anew(bio);
        } else {
            self.end_with_error(bio, error);
        }
    }

    /// Sees to every rollback that runs having somebody to do it. One may have begun though it was
    /// said that it had not.
    pub(super) fn adopt_merges(&mut self, cx: &Arc<Store>) {
        for state in self.origins.iter_mut() {
            if state.view.is_none() || state.merge.is_some() {
                continue;
            }
            if let Ok(merge) = Merge::new(cx) {
                state.merge = Some(merge);
                state.shared.set_rollback(RollbackState::Running);
            }
        }
    }
}

impl Store {
    /// Opens the store anew if it has failed, and has what an error stopped tried again. Process
    /// context; may sleep.
    ///
    /// # Errors
    ///
    /// Why it still cannot be used: then it stays as it was.
    pub(crate) fn revive(self: &Arc<Self>) -> Result<()> {
        let mut engine = self.engine.lock();
        engine.notice_failure();
        let begin = time::jiffies();
        while !engine.is_settled() && time::msecs_since(begin) < SETTLE_MSECS {
            drop(engine);
            fsleep(Delta::from_millis(10));
            engine = self.engine.lock();
        }
        engine.revive(self)?;
        engine.resume_merges();
        if !engine.cleaning {
            engine.begin_cleaning();
        }
        drop(engine);
        self.machinery.worker.kick();
        Ok(())
    }
}
