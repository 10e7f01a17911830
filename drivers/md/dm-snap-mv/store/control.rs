// SPDX-License-Identifier: GPL-2.0

//! What messages do to a store.
//!
//! All of this runs in the process that sent the message, may sleep, and holds no lock on entry.

use super::engine::Engine;
use super::error::{Result, StoreError};
use super::merge::Merge;
use super::metadata::Meta;
use super::origin::{Origin, RollbackState};
use super::roles;
use super::store::Store;
use crate::dm::gate::Gate;
use crate::dm::text::Text;
use crate::dm::time;
use crate::model::disk::origin_row::OriginRow;
use crate::model::ids::{OriginNr, Tag, TimelineId};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::room::For;
use crate::model::{label, rollback, versions};
use kernel::prelude::*;
use kernel::sync::barrier::smp_mb;
use kernel::sync::{Arc, MutexGuard};

/// Closes a gate for as long as it lives: no write passes, and those that had passed are over.
struct Closed<'a> {
    store: &'a Store,
    gate: Arc<Gate>,
}

impl<'a> Closed<'a> {
    /// Sleeps until the writes on their way are done. The caller holds the origin's `control`.
    ///
    /// What a gate kept waiting before has its turn first, or snapshots that follow close upon one
    /// another would let no write through between them.
    fn new(store: &'a Store, gate: &Arc<Gate>) -> Self {
        let mut engine = store.engine.lock();
        while engine.turns < engine.wait_for_turn {
            store.machinery.worker.kick();
            store.rested.wait(&mut engine);
        }
        drop(engine);
        gate.close();
        gate.wait_empty();
        Self {
            store,
            gate: gate.clone(),
        }
    }
}

/// Sets fields of a version's label, in the transaction that it was taken in. A label is made for that, if
/// there is something to be said.
fn put_label(meta: &mut Meta, row: &OriginRow, tag: Tag, change: &label::Change) -> Result<()> {
    match change.is_empty() {
        true => Ok(()),
        false => label::put(meta, row, tag, change, time::random_uuid()),
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if self.gate.open().is_err() {
            pr_err!("{}: gate does not open again\n", self.store.cow.name());
        }
        let mut engine = self.store.engine.lock();
        if !engine.waiting.is_empty() {
            // One turn may have looked into the inbox already.
            engine.wait_for_turn = engine.turns + 2;
        }
        drop(engine);
        self.store.retry_waiting();
    }
}

impl Store {
    /// `so`: ends the origin's epoch, durably, and returns the new snapshot's tag, or that of a bookmark.
    pub(crate) fn take_origin_snapshot(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        memo: &[u8],
        bookmark: bool,
        label: &label::Change,
    ) -> Result<Tag> {
        let _control = origin.control.lock();
        let _closed = Closed::new(self, &origin.gate);
        // The snapshot's content is the origin device's, until a write wants it preserved: a power
        // cut must not take out of it what is still in that device's cache. Nor out of what somebody
        // else has that is the same as a bookmark.
        self.machinery.io.flush(&origin.dev)?;
        let mut engine = self.engine.lock();
        engine.want_room(For::Preserving, 1)?;
        engine.check_unsplit(self, origin.number)?;
        let taken = engine.change(self, origin, |meta, row| {
            let now = time::unix_seconds();
            let tag = match bookmark {
                true => versions::take_bookmark(meta, row, memo, now),
                false => versions::take_origin_snapshot(meta, row, memo, now),
            }?;
            put_label(meta, row, tag, label)?;
            Ok(tag)
        });
        if taken.is_err() {
            engine.doubt(origin, false);
        }
        taken
    }

    /// `ss`: ends a snapshot's epoch, durably, and returns the new snapshot's tag.
    pub(crate) fn take_snapshot_snapshot(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        parent: Tag,
        memo: &[u8],
        label: &label::Change,
    ) -> Result<Tag> {
        let _control = origin.control.lock();
        let timeline = TimelineId::of_snapshot(origin.number, parent);
        let (_closed, mut engine) = self.close_snapshot(timeline);
        engine.want_room(For::Preserving, 1)?;
        engine.change(self, origin, |meta, row| {
            let mut snapshot = meta.snapshot_row(timeline)?;
            let tag = versions::take_snapshot_snapshot(
                meta,
                row,
                &mut snapshot,
                memo,
                time::unix_seconds(),
            )?;
            meta.put_snapshot(row.number, &snapshot)?;
            put_label(meta, row, tag, label)?;
            Ok(tag)
        })
    }

    /// `label`: sets fields of a snapshot's or bookmark's label, durably.
    pub(crate) fn set_label(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        tag: Tag,
        change: &label::Change,
    ) -> Result<()> {
        let _control = origin.control.lock();
        let mut engine = self.engine.lock();
        engine.want_room(For::Preserving, 1)?;
        engine.change(self, origin, |meta, row| put_label(meta, row, tag, change))
    }

    /// `label` without options: appends what it says. Process context; may sleep to read metadata.
    pub(crate) fn label(&self, origin: &Arc<Origin>, tag: Tag, out: &mut Text<'_>) -> Result<()> {
        let engine = self.engine.lock();
        engine.check_bound(origin.number)?;
        let meta = engine.meta_ref()?;
        let row = label::get(meta, &meta.origin_row(origin.number)?, tag)?;
        label::write(out, &row).map_err(|_| Refusal::ReplyTooLong)?;
        Ok(())
    }

    /// Stops the writes of a snapshot, and locks the engine: if the snapshot is not active it does not
    /// become so while that is locked. The gate must not be opened before the engine is let go.
    fn close_snapshot(&self, timeline: TimelineId) -> (Option<Closed<'_>>, MutexGuard<'_, Engine>) {
        let mut closed: Option<Closed<'_>> = None;
        loop {
            let engine = self.engine.lock();
            let state = engine.snapshot_state(timeline).ok();
            let gate = state.map(|state| state.shared.gate.clone());
            let is_closed = match (&gate, &closed) {
                (Some(gate), Some(closed)) => Arc::ptr_eq(gate, &closed.gate),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if is_closed {
                return (closed, engine);
            }
            drop(engine);
            // It has become active, perhaps anew, while its gate was being closed or nothing was.
            drop(closed.take());
            closed = gate.map(|gate| Closed::new(self, &gate));
        }
    }

    /// `ds`: ends a snapshot's tag, or a bookmark's, or has a snapshot's go on as that of a bookmark. Its
    /// space comes back in the background.
    pub(crate) fn delete_snapshot(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        tag: Tag,
        keep_bookmark: bool,
    ) -> Result<()> {
        let _control = origin.control.lock();
        let timeline = TimelineId::of_snapshot(origin.number, tag);
        let mut engine = self.engine.lock();
        if engine.snapshot_state(timeline).is_ok() {
            return Err(Refusal::SnapshotInUse.into());
        }
        engine.change(self, origin, |meta, row| match keep_bookmark {
            true => versions::keep_bookmark(meta, row, tag),
            false => versions::delete_snapshot(meta, row, tag),
        })?;
        engine.begin_cleaning_later();
        engine.publish(self);
        drop(engine);
        self.machinery.worker.kick();
        Ok(())
    }

    /// `do`: takes an origin out of the store. Its device is passed through from then on.
    pub(crate) fn unbind(self: &Arc<Self>, origin: &Arc<Origin>) -> Result<()> {
        let _control = origin.control.lock();
        let _closed = Closed::new(self, &origin.gate);
        let mut engine = self.engine.lock();
        let nr = origin.number;
        engine.check_bound(nr)?;
        engine.alter(|meta| versions::unbind(meta, nr))?;
        engine.commit(self)?;
        let state = engine.origin_state_mut(nr)?;
        state.bound = false;
        state.live = None;
        state.shared.set_direct(true);
        engine.publish(self);
        Ok(())
    }

    /// `rs`: from the instant this returns the origin reads as the snapshot. The rest goes on in
    /// the background; see [`Origin::wait_for_rollback`].
    pub(crate) fn roll_back(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        source: Tag,
        delete_source: bool,
    ) -> Result<()> {
        let _control = origin.control.lock();
        let timeline = TimelineId::of_snapshot(origin.number, source);
        roles::check_unmapped(origin.dev.dev(), &origin.dev)?;
        let _closed = Closed::new(self, &origin.gate);
        let merge = Merge::new(self)?;
        let (_closed_source, mut engine) = self.close_snapshot(timeline);
        // Whoever opens the origin from here on reads by way of the engine, and so what it is then.
        let redirected = origin.redirects_reads();
        origin.set_redirect(true);
        smp_mb();
        let begun = engine.begin_roll_back(self, origin, source, delete_source);
        if let Err(error) = begun {
            let state = engine.origin_state(origin.number);
            origin.set_redirect(state.map_or(redirected, |state| state.view.is_some()));
            engine.doubt(origin, true);
            return Err(error);
        }
        let state = engine.origin_state_mut(origin.number)?;
        state.merge = Some(merge);
        origin.set_rollback(RollbackState::Running);
        drop(engine);
        self.machinery.worker.kick();
        Ok(())
    }

    /// `rs -l`: has the rollback begin when the origin is activated next.
    pub(crate) fn defer_roll_back(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        source: Tag,
        delete_source: bool,
    ) -> Result<()> {
        let _control = origin.control.lock();
        let mut engine = self.engine.lock();
        let chunk_size = self.geometry.chunk_size;
        engine.change(self, origin, |meta, row| {
            rollback::defer(meta, row, source, delete_source, chunk_size)
        })?;
        drop(engine);
        pr_info!(
            "{}: rollback of origin {} ({}) to snapshot {} is put off until the origin is activated next\n",
            self.cow.name(),
            origin.number.get(),
            origin.dev.name(),
            source.get()
        );
        Ok(())
    }

    /// `commit`: writes all that has been changed into the trees, durably. Returns the number of their
    /// transaction. If there is nothing, that of the last one.
    pub(crate) fn commit_all(self: &Arc<Self>) -> Result<u64> {
        let mut engine = self.engine.lock();
        if !engine.meta()?.is_committed() {
            engine.commit_trees()?;
        }
        Ok(engine.meta_ref()?.superblock.transaction)
    }

    /// `rs -x`, or `rs -l` without a tag: what [`Store::defer_roll_back`] has put off does not happen.
    pub(crate) fn call_off_roll_back(self: &Arc<Self>, origin: &Arc<Origin>) -> Result<()> {
        let _control = origin.control.lock();
        let mut engine = self.engine.lock();
        engine.change(self, origin, rollback::call_off)
    }

    /// Begins a deferred rollback of an origin that is being activated, if there is one. One that
    /// has become impossible is forgotten; one that somebody's use of the origin stands against, an
    /// error, or a lack of space waits for the next activation.
    pub(crate) fn begin_deferred(self: &Arc<Self>, origin: &Arc<Origin>) {
        let deferred = {
            let engine = self.engine.lock();
            let row = engine
                .meta_ref()
                .and_then(|meta| meta.origin_row(origin.number));
            row.ok().and_then(|row| row.deferred)
        };
        let Some(deferred) = deferred else {
            return;
        };
        let (cow, name, nr) = (self.cow.name(), origin.dev.name(), origin.number.get());
        match self.roll_back(origin, deferred.source, deferred.delete_source) {
            Ok(()) => pr_info!("{cow}: deferred rollback of origin {nr} ({name}) begins\n"),
            Err(
                error @ (StoreError::Kernel(_)
                | StoreError::Refused(
                    Refusal::OriginInUse
                    | Refusal::OriginMapped
                    | Refusal::SnapshotInUse
                    | Refusal::NoMetadataSpace
                    | Refusal::StoreFailed
                    | Refusal::NeedsCheck,
                )),
            ) => pr_warn!(
                "{cow}: deferred rollback of origin {nr} ({name}) waits for the next activation: {}\n",
                error.as_str()
            ),
            Err(error) => {
                pr_warn!(
                    "{cow}: deferred rollback of origin {nr} ({name}) does not begin: {}\n",
                    error.as_str()
                );
                let _control = origin.control.lock();
                let mut engine = self.engine.lock();
                let _ = engine.change(self, origin, rollback::forget_deferred);
            }
        }
    }
}

impl Engine {
    /// Begins a rollback, durably, unless somebody's use stands against it.
    fn begin_roll_back(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        source: Tag,
        delete_source: bool,
    ) -> Result<()> {
        let timeline = TimelineId::of_snapshot(origin.number, source);
        self.check_bound(origin.number)?;
        // What there is not is said before what stands against it.
        let meta = self.meta_ref()?;
        versions::find_snapshot(meta, &meta.origin_row(origin.number)?, source)?;
        if origin.is_open() {
            return Err(Refusal::OriginInUse.into());
        }
        if delete_source && self.snapshot_state(timeline).is_ok() {
            return Err(Refusal::SnapshotInUse.into());
        }
        self.want_room(For::Preserving, 1)?;
        let chunk_size = cx.geometry.chunk_size;
        self.change(cx, origin, |meta, row| {
            // It is written from now on, if only by this.
            row.identity.samples = None;
            rollback::begin(meta, row, source, delete_source, chunk_size)
        })
    }

    /// Refuses to take a snapshot of an origin that has grown during a rollback, as long as one chunk of
    /// it may come from two devices: a snapshot has each chunk in one place.
    fn check_unsplit(&self, cx: &Store, nr: OriginNr) -> Result<()> {
        // One that was unbound has no size.
        self.check_bound(nr)?;
        let size = self.origin_size(nr)?;
        match &self.origin_state(nr)?.view {
            Some(view) if view.splits(size, cx.geometry.chunk_size) => {
                Err(Refusal::DuringRollback.into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses an origin that was unbound while its device is there.
    pub(super) fn check_bound(&self, nr: OriginNr) -> Result<()> {
        if self.origin_state(nr)?.bound {
            Ok(())
        } else {
            Err(Refusal::Unbound.into())
        }
    }

    /// Makes a change of an origin and its snapshots, durably, and has everybody go by it. After a
    /// refusal nothing has changed.
    fn change<T>(
        &mut self,
        cx: &Arc<Store>,
        origin: &Arc<Origin>,
        change: impl FnOnce(&mut Meta, &mut OriginRow) -> Result<T>,
    ) -> Result<T> {
        let nr = origin.number;
        self.check_bound(nr)?;
        let made = self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            let made = change(meta, &mut row)?;
            meta.put_origin(&row)?;
            Ok(made)
        })?;
        self.commit(cx)?;
        if let Err(error) = self.refresh(nr) {
            // It is durable, and nobody goes by it: what is read anew is what all go by.
            self.fail(error);
            return Err(error);
        }
        self.publish(cx);
        Ok(made)
    }
}
