// SPDX-License-Identifier: GPL-2.0

//! The stores in use, by COW device: all devices of one COW device share one.

use super::engine::Engine;
use super::error::Result;
use super::failure::Source;
use super::open;
use super::store::{Farewell, Geometry, Store};
use crate::dm::block_device::BlockDevice;
use crate::dm::global::Global;
use crate::dm::io::DmIo;
use crate::model::refusal::Refusal;
use crate::model::table::{Format, FullPolicy};
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::Arc;

struct Entry {
    store: Arc<Store>,
    users: usize,
}

/// Held while a store is opened and closed, so that a device is never opened twice.
static STORES: Global<KVec<Entry>> = Global::new(KVec::new());

/// One user's share in an open store. The last one to go closes it.
pub(crate) struct StoreHandle {
    store: Arc<Store>,
    /// Behind the store, so that it is dropped after it.
    farewell: Farewell,
}

impl Deref for StoreHandle {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        &self.store
    }
}

impl StoreHandle {
    /// Opens the store on a COW device, or joins those who have. Process context; may sleep.
    ///
    /// `policy`: what counts until somebody sets another, if it is opened: a rollback goes on as soon
    /// as its origin has come.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreInUse`] when a store in use should be formatted, else what opening or
    /// formatting meets.
    pub(crate) fn attach(
        cow: Arc<BlockDevice>,
        format: Option<&Format>,
        policy: FullPolicy,
    ) -> Result<Self> {
        let mut stores = STORES.lock();
        if let Some(entry) = stores.iter_mut().find(|e| e.store.cow.dev() == cow.dev()) {
            if format.is_some() {
                return Err(Refusal::StoreInUse.into());
            }
            if let Err(error) = entry.store.revive() {
                // What can be read is still there for the device to be made.
                pr_err!("the store stays as it is ({})\n", error.as_str());
            }
            entry.store.grow(&cow)?;
            entry.users += 1;
            return Ok(Self::new(entry.store.clone()));
        }
        stores.reserve(1, GFP_KERNEL)?;
        let io = DmIo::new()?;
        let meta = match format {
            Some(format) => open::format(&io, &cow, format)?,
            None => open::open(&io, &cow)?,
        };
        let geometry = Geometry::new(&meta.superblock.layout);
        let source = Source {
            io: DmIo::new()?,
            cow: cow.clone(),
            uuid: meta.superblock.uuid,
            known: None,
        };
        let store = Store::new(cow, geometry, io, Engine::new(meta, source, policy)?)?;
        stores.push(
            Entry {
                store: store.clone(),
                users: 1,
            },
            GFP_KERNEL,
        )?;
        Ok(Self::new(store))
    }

    fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            farewell: Farewell::none(),
        }
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        let mut stores = STORES.lock();
        let Some(index) = stores
            .iter()
            .position(|e| Arc::ptr_eq(&e.store, &self.store))
        else {
            return;
        };
        let Some(entry) = stores.get_mut(index) else {
            return;
        };
        entry.users -= 1;
        if entry.users == 0 {
            // Still under the lock: the next to open this device reads what is committed here.
            self.store.shut_down();
            self.farewell = Farewell::to(&self.store);
            let _ = stores.remove(index);
        }
        if stores.is_empty() {
            *stores = KVec::new();
        }
    }
}
