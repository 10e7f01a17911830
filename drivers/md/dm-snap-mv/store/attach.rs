// SPDX-License-Identifier: GPL-2.0

//! Devices come and go: joining an origin or a snapshot of an open store, and leaving it.
//!
//! Process context, from table loads and removals; may sleep.

use super::engine::{Engine, OriginState, SnapshotState};
use super::error::{Result, StoreError};
use super::identity;
use super::merge::Merge;
use super::origin::{Origin, RollbackState};
use super::registry::StoreHandle;
use super::roles::Claim;
use super::snapshot::Snapshot;
use super::store::Store;
use crate::dm::block_device::BlockDevice;
use crate::dm::time;
use crate::model::batch::Copies;
use crate::model::chain::Chain;
use crate::model::chunk_size::ChunkSize;
use crate::model::disk::origin_row::OriginRow;
use crate::model::ids::{OriginNr, Tag, TimelineId};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::room::For;
use crate::model::versions;
use core::cell::Cell;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::Arc;

/// One device's share in an active origin. Keeps the store open.
pub(crate) struct OriginHandle {
    origin: Arc<Origin>,
    store: StoreHandle,
    /// Behind the store, which writes to the origin until it is closed.
    _claim: Claim,
}

impl Deref for OriginHandle {
    type Target = Arc<Origin>;

    fn deref(&self) -> &Arc<Origin> {
        &self.origin
    }
}

impl OriginHandle {
    /// The store that the origin is bound to.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Joins an origin of a store. `claim`: that the device is this origin. `bind`: it is new to the
    /// store.
    ///
    /// Nothing becomes durable by this: see [`Store::settle`].
    pub(crate) fn attach(
        store: StoreHandle,
        id: &[u8],
        dev: Arc<BlockDevice>,
        claim: Claim,
        bind: bool,
        accept: bool,
    ) -> Result<Self> {
        check_blocks(&dev, store.geometry.chunk_size)?;
        if let Some(row) = store.row_of_resting(id)? {
            identity::compare(&store.machinery.io, claim.by(), &dev, &row, accept)?;
        }
        let mut guard = store.engine.lock();
        let engine = &mut *guard;
        if engine.shows(&dev) {
            return Err(Refusal::OriginIsOurs.into());
        }
        let size = dev.sectors();
        let (nr, to_bind) = engine.find_or_plan(id, size, bind, accept)?;
        let origin = match (engine.origin_index(nr), to_bind) {
            (Ok(index), _) => engine.join_origin(index, &dev)?,
            (Err(_), true) => engine.plan_origin(&store, nr, id, dev)?,
            (Err(_), false) => engine.add_origin(&store, nr, dev)?,
        };
        engine.publish(&store);
        drop(guard);
        store.machinery.worker.kick();
        Ok(Self {
            origin,
            store,
            _claim: claim,
        })
    }
}

/// Refuses an origin that could not be copied chunk by chunk.
pub(super) fn check_blocks(origin: &BlockDevice, chunk_size: ChunkSize) -> Result<()> {
    match u64::from(origin.logical_block_size()) > chunk_size.sectors() << 9 {
        true => Err(Refusal::OriginBlockSize.into()),
        false => Ok(()),
    }
}

impl Drop for OriginHandle {
    fn drop(&mut self) {
        let mut engine = self.store.engine.lock();
        let nr = self.origin.number;
        let mut looked = false;
        loop {
            let Ok(state) = engine.origin_state_mut(nr) else {
                return;
            };
            if state.users > 1 {
                break;
            }
            // Nothing of this origin may be on its way when its last device goes.
            state.leaving = true;
            while engine.origin_state(nr).is_ok_and(OriginState::must_rest) {
                self.store.rested.wait(&mut engine);
            }
            if looked {
                break;
            }
            // This waits for the disk, so others may come meanwhile, and go again.
            drop(engine);
            self.store.note_samples(nr, &self.origin.dev);
            looked = true;
            engine = self.store.engine.lock();
        }
        engine.leave_origin(nr);
        let _ = engine.commit(&self.store);
        engine.publish(&self.store);
    }
}

/// One device's share in an active snapshot.
pub(crate) struct SnapshotHandle {
    snapshot: Arc<Snapshot>,
    origin: OriginHandle,
}

impl Deref for SnapshotHandle {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl SnapshotHandle {
    /// The store that the snapshot is in.
    pub(crate) fn store(&self) -> &Arc<Store> {
        self.origin.store()
    }

    /// Joins a snapshot. `device` tells mapped devices apart: a reload of the same one may join.
    pub(crate) fn attach(origin: OriginHandle, tag: Tag, device: usize) -> Result<Self> {
        let timeline = TimelineId::of_snapshot(origin.number, tag);
        let mut engine = origin.store.engine.lock();
        let meta = engine.meta_ref()?;
        let origin_row = meta.origin_row(origin.number)?;
        let row = versions::find_snapshot(meta, &origin_row, tag)?;
        let rollback = origin_row.rollback;
        if rollback.is_some_and(|rollback| rollback.source == tag && rollback.delete_source) {
            // It will be deleted at the end, and its device would show what is not there.
            return Err(Refusal::DuringRollback.into());
        }
        let snapshot = match engine.snapshot_index(timeline) {
            Ok(index) => engine.join_snapshot(index, device)?,
            Err(_) => engine.add_snapshot(&origin, tag, row.size, device)?,
        };
        engine.publish(&origin.store);
        drop(engine);
        Ok(Self { snapshot, origin })
    }
}

impl Drop for SnapshotHandle {
    fn drop(&mut self) {
        let store = &self.origin.store;
        let mut engine = store.engine.lock();
        engine.leave_snapshot(self.snapshot.timeline());
        let _ = engine.commit(store);
    }
}

impl OriginState {
    /// Whether a copy of a rollback is on its way that its last device has to wait for.
    fn must_rest(&self) -> bool {
        self.leaving && self.merge.as_ref().is_some_and(|merge| !merge.is_resting())
    }
}

impl Engine {
    /// Whether a block device is one of the store's own mapped devices.
    fn shows(&self, dev: &BlockDevice) -> bool {
        self.origins
            .iter()
            .any(|state| state.shared.is_shown_by(dev.dev()))
    }

    /// The number of an origin that is bound, or is to be bound: then it is promised, and the second is
    /// true. All that can be refused without a change is refused here.
    fn find_or_plan(
        &mut self,
        id: &[u8],
        size: u64,
        bind: bool,
        accept: bool,
    ) -> Result<(OriginNr, bool)> {
        match (self.meta_ref()?.origin_by_id(id)?, bind) {
            (Some(_), true) => Err(Refusal::AlreadyBound.into()),
            (None, false) => Err(Refusal::NotBound.into()),
            (Some(nr), false) => {
                let meta = self.meta_ref()?;
                let row = meta.origin_row(nr)?;
                if size < row.size {
                    if !accept {
                        return Err(Refusal::OriginShrunk.into());
                    }
                    versions::check_shrink(meta, &row, size)?;
                }
                Ok((nr, false))
            }
            (None, true) => {
                let is_planned = |state: &&OriginState| {
                    state
                        .to_bind
                        .as_ref()
                        .is_some_and(|planned| planned[..] == *id)
                };
                if let Some(state) = self.origins.iter().find(is_planned) {
                    return Ok((state.shared.number, true));
                }
                let meta = self.meta()?;
                let chunk_size = meta.superblock.layout.chunk_size;
                versions::check_bind(meta, id, size, chunk_size)?;
                let next = meta.next_origin_nr()?;
                self.want_room(For::Preserving, 1)?;
                // Others may have been promised numbers.
                let promised = self.origins.iter().filter(|state| state.to_bind.is_some());
                let last = promised.map(|state| state.shared.number).max();
                let after = last.and_then(|last| OriginNr::new(last.get().checked_add(1)?));
                Ok((after.map_or(next, |after| after.max(next)), true))
            }
        }
    }

    fn join_origin(&mut self, index: usize, dev: &BlockDevice) -> Result<Arc<Origin>> {
        let state = self.origins.get_mut(index).ok_or(Refusal::NotBound)?;
        if state.shared.dev.dev() != dev.dev() {
            return Err(Refusal::OriginDeviceDiffers.into());
        }
        state.users += 1;
        state.leaving = false;
        Ok(state.shared.clone())
    }

    /// Adds an origin that is bound.
    fn add_origin(
        &mut self,
        cx: &Arc<Store>,
        nr: OriginNr,
        dev: Arc<BlockDevice>,
    ) -> Result<Arc<Origin>> {
        let shared = self.insert_origin(cx, nr, dev, None)?;
        if let Err(error) = self.take_up(cx, nr) {
            self.leave_origin(nr);
            return Err(error);
        }
        Ok(shared)
    }

    /// Adds one that is to be bound.
    fn plan_origin(
        &mut self,
        cx: &Arc<Store>,
        nr: OriginNr,
        id: &[u8],
        dev: Arc<BlockDevice>,
    ) -> Result<Arc<Origin>> {
        let mut as_what = KVec::new();
        as_what.extend_from_slice(id, GFP_KERNEL)?;
        self.insert_origin(cx, nr, dev, Some(as_what))
    }

    fn insert_origin(
        &mut self,
        cx: &Arc<Store>,
        nr: OriginNr,
        dev: Arc<BlockDevice>,
        to_bind: Option<KVec<u8>>,
    ) -> Result<Arc<Origin>> {
        let chunks = cx.geometry.chunk_of(dev.sectors()).get() + 1;
        let shared = Origin::new(nr, dev, chunks)?;
        self.origins.reserve(1, GFP_KERNEL)?;
        let index = self
            .origins
            .iter()
            .position(|state| state.shared.number > nr)
            .unwrap_or(self.origins.len());
        let state = OriginState {
            shared: shared.clone(),
            users: 1,
            bound: to_bind.is_none(),
            to_bind,
            leaving: false,
            live: None,
            view: None,
            merge: None,
            copies: Copies::default(),
            invalid: Cell::default(),
        };
        self.origins
            .insert_within_capacity(index, state)
            .map_err(|_| StoreError::Kernel(ENOMEM))?;
        Ok(shared)
    }

    /// Has an origin that is bound go by what the metadata say of it.
    fn take_up(&mut self, cx: &Arc<Store>, nr: OriginNr) -> Result<()> {
        let merge = Merge::new(cx)?;
        self.meta_to_keep()?.cache_origin(nr)?;
        self.refresh(nr)?;
        let state = self.origin_state_mut(nr)?;
        if state.view.is_some() {
            state.merge = Some(merge);
            state.shared.set_rollback(RollbackState::Running);
        }
        Ok(())
    }

    /// Binds an origin that is to be, durably. Returns whether it was.
    fn bind_origin(&mut self, cx: &Arc<Store>, nr: OriginNr) -> Result<bool> {
        let state = self.origin_state_mut(nr)?;
        let Some(id) = state.to_bind.take() else {
            return Ok(false);
        };
        let size = state.shared.dev.sectors();
        let chunk_size = cx.geometry.chunk_size;
        let now = time::unix_seconds();
        let bound = self
            .want_room(For::Preserving, 1)
            .and_then(|()| self.alter(|m| versions::bind_as(m, nr, &id, size, chunk_size, now)))
            .and_then(|()| self.commit(cx))
            .and_then(|()| self.take_up(cx, nr));
        let state = self.origin_state_mut(nr)?;
        match bound {
            Ok(()) => state.bound = true,
            // To be tried again.
            Err(_) => state.to_bind = Some(id),
        }
        bound.map(|()| true)
    }

    /// Notes another size of an origin. It may only have grown, unless [`versions::check_shrink`] says so.
    fn resize_origin(&mut self, cx: &Arc<Store>, nr: OriginNr, size: u64) -> Result<()> {
        let chunk_size = self.meta_ref()?.superblock.layout.chunk_size;
        self.alter(|meta| {
            let mut row = meta.origin_row(nr)?;
            if size < row.size {
                versions::check_shrink(meta, &row, size)?;
                row.size = size;
            }
            versions::grow(meta, &mut row, size, chunk_size)?;
            meta.put_origin(&row)
        })?;
        self.commit(cx)
    }

    fn leave_origin(&mut self, nr: OriginNr) {
        let Ok(index) = self.origin_index(nr) else {
            return;
        };
        let Some(state) = self.origins.get_mut(index) else {
            return;
        };
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        let _ = self.origins.remove(index);
        if let Ok(meta) = self.meta_to_keep() {
            let _ = meta.uncache_origin(nr);
        }
    }

    fn join_snapshot(&mut self, index: usize, device: usize) -> Result<Arc<Snapshot>> {
        let state = self.snapshots.get_mut(index).ok_or(Refusal::UnknownTag)?;
        if state.shared.device != device {
            return Err(Refusal::SnapshotActive.into());
        }
        state.users += 1;
        Ok(state.shared.clone())
    }

    fn add_snapshot(
        &mut self,
        origin: &Arc<Origin>,
        tag: Tag,
        size: u64,
        device: usize,
    ) -> Result<Arc<Snapshot>> {
        let timeline = TimelineId::of_snapshot(origin.number, tag);
        let meta = self.meta_ref()?;
        let row = meta.origin_row(origin.number)?;
        let chain = KBox::new(Chain::of_snapshot(meta, &row, tag)?, GFP_KERNEL)?;
        let shared = Snapshot::new(origin.clone(), tag, size, device)?;
        self.snapshots.reserve(1, GFP_KERNEL)?;
        self.meta_to_keep()?.cache_snapshot(timeline)?;
        let index = match self.snapshot_index(timeline) {
            Ok(index) | Err(index) => index,
        };
        let state = SnapshotState {
            shared: shared.clone(),
            users: 1,
            chain,
            written: false,
            lost: false,
        };
        self.snapshots
            .insert_within_capacity(index, state)
            .map_err(|_| StoreError::Kernel(ENOMEM))?;
        Ok(shared)
    }

    fn leave_snapshot(&mut self, timeline: TimelineId) {
        let Ok(index) = self.snapshot_index(timeline) else {
            return;
        };
        let Some(state) = self.snapshots.get_mut(index) else {
            return;
        };
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        let _ = self.snapshots.remove(index);
        if let Ok(meta) = self.meta_to_keep() {
            let _ = meta.uncache_snapshot(timeline);
        }
    }
}

impl Store {
    /// Does what a table of an origin's own device is for beyond showing it, as it comes into force: binds
    /// the origin, or takes its new size. Not when a table is loaded: it may have been the wrong one.
    /// `size`: the table's, in sectors.
    ///
    /// # Errors
    ///
    /// Why that cannot be made durable: then the table must not come into force.
    pub(crate) fn settle(self: &Arc<Self>, origin: &Origin, size: u64, accept: bool) -> Result<()> {
        let mut engine = self.engine.lock();
        let nr = origin.number;
        let is_new = engine.bind_origin(self, nr)?;
        // One that was unbound, or that cannot be read any more, is shown as it is.
        if let Ok(row) = engine.meta_ref().and_then(|meta| meta.origin_row(nr)) {
            if accept || size > row.size {
                engine.resize_origin(self, nr, size)?;
            }
            let anew = is_new || accept;
            let noted = engine.note_disk(self, nr, anew);
            // A store that cannot take a change can be used as far as it goes. What is not struck out
            // may accuse somebody wrongly after a crash, and no more.
            if anew {
                noted?;
            }
        }
        engine.publish(self);
        Ok(())
    }

    /// The row of an origin of which no device is there: of one that is in use it is known what disk it is
    /// on.
    fn row_of_resting(&self, id: &[u8]) -> Result<Option<OriginRow>> {
        let engine = self.engine.lock();
        match engine.meta_ref()?.origin_by_id(id)? {
            Some(nr) if engine.origin_index(nr).is_err() => {
                Ok(Some(engine.meta_ref()?.origin_row(nr)?))
            }
            _ => Ok(None),
        }
    }

    /// Takes what the COW device has become larger by into use.
    pub(crate) fn grow(self: &Arc<Self>) -> Result<()> {
        let mut engine = self.engine.lock();
        let Ok(meta) = engine.meta() else {
            // A store that has failed can still be joined, to reach its origins.
            return Ok(());
        };
        let Some(chunks) = meta.superblock.layout.grown(self.cow.sectors()) else {
            return Ok(());
        };
        if !engine.alter(|meta| meta.grow_data(chunks))? {
            return Ok(());
        }
        engine.commit(self)?;
        engine.feed();
        engine.publish(self);
        drop(engine);
        self.machinery.worker.kick();
        Ok(())
    }

    /// Closes the store. No device uses it any more, so no bio is on its way and no rollback runs.
    pub(super) fn shut_down(self: &Arc<Self>) {
        self.engine.lock().closing = true;
        // Neither a turn nor a delayed commit runs after this.
        self.machinery.worker.stop();
        let mut engine = self.engine.lock();
        let failed = engine.is_failed();
        let (meta, source) = engine.close();
        drop(engine);
        if let Some(mut meta) = meta.filter(|_| !failed) {
            if let Err(error) = meta.commit(true) {
                pr_err!(
                    "{}: last commit failed ({})\n",
                    self.cow.name(),
                    error.name()
                );
            }
        }
        drop(source);
    }
}
