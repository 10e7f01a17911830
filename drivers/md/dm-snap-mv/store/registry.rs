// SPDX-License-Identifier: GPL-2.0

//! The stores in use, by COW device: all devices of one COW device share one.

use super::attach::check_blocks;
use super::engine::Engine;
use super::error::Result;
use super::failure::Source;
use super::open;
use super::roles::Claim;
use super::store::{Farewell, Geometry, Store};
use crate::dm::block_device::{BlockDevice, Dev};
use crate::dm::global::Global;
use crate::dm::io::DmIo;
use crate::model::refusal::Refusal;
use crate::model::table::{Format, FullPolicy};
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_mutex, Arc, CondVar, Mutex};

/// What is known of a COW device.
enum State {
    /// The store on it is just being opened or closed, which waits for the device.
    Changing,
    Open {
        store: Arc<Store>,
        users: usize,
    },
}

struct Entry {
    cow: Dev,
    state: State,
    turn: Arc<Turn>,
}

/// What others wait for while the store on a COW device is being opened or closed.
#[pin_data]
struct Turn {
    #[pin]
    is_changing: Mutex<bool>,
    #[pin]
    changed: CondVar,
}

impl Turn {
    /// It begins with being opened.
    fn new() -> Result<Arc<Self>> {
        Ok(Arc::pin_init(
            pin_init!(Self {
                is_changing <- new_mutex!(true),
                changed <- new_condvar!(),
            }),
            GFP_KERNEL,
        )?)
    }

    fn begin(&self) {
        *self.is_changing.lock() = true;
    }

    fn end(&self) {
        *self.is_changing.lock() = false;
        self.changed.notify_all();
    }

    /// Interruptible; no locks held.
    fn wait(&self) -> Result<()> {
        let mut is_changing = self.is_changing.lock();
        while *is_changing {
            if self.changed.wait_interruptible(&mut is_changing) {
                return Err(Refusal::CowChanging.into());
            }
        }
        Ok(())
    }
}

/// Held only to look and to note, never while a device is waited for: a COW device that does not answer
/// is nobody's business but of those who want that one.
static STORES: Global<KVec<Entry>> = Global::new(KVec::new());

/// That the store on a COW device is being opened or closed, by whom has this. Dropped, it says that
/// there is none any more.
struct Changing {
    cow: Dev,
    turn: Arc<Turn>,
}

impl Changing {
    /// The store is open from now on, with one user.
    fn opened(self, store: &Arc<Store>) {
        for entry in STORES.lock().iter_mut().filter(|e| e.cow == self.cow) {
            entry.state = State::Open {
                store: store.clone(),
                users: 1,
            };
        }
        self.turn.end();
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut stores = STORES.lock();
        stores.retain(|entry| entry.cow != self.cow || !matches!(entry.state, State::Changing));
        if stores.is_empty() {
            *stores = KVec::new();
        }
        drop(stores);
        self.turn.end();
    }
}

/// One user's share in an open store. The last one to go closes it.
pub(crate) struct StoreHandle {
    store: Arc<Store>,
    /// Behind the store, so that it is dropped after it.
    farewell: Farewell,
    /// Until nothing is written to the COW device any more.
    _claim: Claim,
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
    /// `claim`: that it is a COW device. `origin`: what is to be joined next. `policy`: what counts until somebody sets another, if it is
    /// opened: a rollback goes on as soon as its origin has come.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreInUse`] when a store in use should be formatted, [`Refusal::StoreElsewhere`] when
    /// it is in use on another device, [`Refusal::CowChanging`] when a
    /// signal came while others opened or closed it, else what opening or formatting meets.
    pub(crate) fn attach(
        cow: Arc<BlockDevice>,
        claim: Claim,
        origin: &BlockDevice,
        format: Option<&Format>,
        policy: FullPolicy,
    ) -> Result<Self> {
        let changing = match Self::join(&cow, format.is_some())? {
            Joined::Open(user) => {
                let handle = user.with(claim);
                if let Err(error) = handle.revive() {
                    // What can be read is still there for the device to be made.
                    pr_err!(
                        "{}: the store stays as it is ({})\n",
                        cow.name(),
                        error.as_str()
                    );
                }
                return Ok(handle);
            }
            Joined::ToOpen(changing) => changing,
        };
        let io = DmIo::new()?;
        // To open a store is to change it already, as it is to format it.
        let found = open::identify(&io, &cow);
        if let Some(superblock) = &found {
            claim.holds(superblock.uuid)?;
        }
        match (format, &found) {
            (Some(format), _) => check_blocks(origin, format.chunk_size_or_default()?)?,
            (None, Some(found)) => check_blocks(origin, found.layout.chunk_size)?,
            (None, None) => {}
        }
        let meta = match format {
            Some(format) => open::format(&io, &cow, format)?,
            None => open::open(&io, &cow)?,
        };
        claim.holds(meta.superblock.uuid)?;
        let geometry = Geometry::new(&meta.superblock.layout);
        let source = Source {
            io: DmIo::new()?,
            cow: cow.clone(),
            uuid: meta.superblock.uuid,
            known: None,
        };
        let store = Store::new(cow, geometry, io, Engine::new(meta, source, policy)?)?;
        changing.opened(&store);
        Ok(User(store).with(claim))
    }

    /// Becomes one more user of the store on a COW device if it is open. If it is not, it is to be opened
    /// by the caller, and nobody else does. Waits, interruptibly, for those who open or close it.
    fn join(cow: &BlockDevice, to_format: bool) -> Result<Joined> {
        loop {
            let mut stores = STORES.lock();
            let turn = match stores.iter_mut().find(|e| e.cow == cow.dev()) {
                Some(Entry {
                    state: State::Open { .. },
                    ..
                }) if to_format => return Err(Refusal::StoreInUse.into()),
                Some(Entry {
                    state: State::Open { store, users },
                    ..
                }) => {
                    *users += 1;
                    return Ok(Joined::Open(User(store.clone())));
                }
                Some(entry) => entry.turn.clone(),
                None => {
                    let turn = Turn::new()?;
                    stores.push(
                        Entry {
                            cow: cow.dev(),
                            state: State::Changing,
                            turn: turn.clone(),
                        },
                        GFP_KERNEL,
                    )?;
                    let cow = cow.dev();
                    return Ok(Joined::ToOpen(Changing { cow, turn }));
                }
            };
            drop(stores);
            turn.wait()?;
        }
    }
}

/// One more user of a store, who has been counted.
struct User(Arc<Store>);

impl User {
    fn with(self, claim: Claim) -> StoreHandle {
        StoreHandle {
            store: self.0,
            farewell: Farewell::none(),
            _claim: claim,
        }
    }
}

/// What [`StoreHandle::join`] has found.
enum Joined {
    Open(User),
    ToOpen(Changing),
}

impl StoreHandle {
    /// The user goes. Returns what the last one has to close the store with.
    fn leave(&self) -> Option<Changing> {
        let mut stores = STORES.lock();
        let entry = stores.iter_mut().find(|e| e.is_of(&self.store))?;
        if let State::Open { users, .. } = &mut entry.state {
            *users -= 1;
            if *users > 0 {
                return None;
            }
        }
        entry.turn.begin();
        // Not the last reference to the store, which is this one's.
        entry.state = State::Changing;
        Some(Changing {
            cow: entry.cow,
            turn: entry.turn.clone(),
        })
    }
}

impl Entry {
    fn is_of(&self, of: &Arc<Store>) -> bool {
        matches!(&self.state, State::Open { store, .. } if Arc::ptr_eq(store, of))
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        if let Some(changing) = self.leave() {
            self.store.shut_down();
            self.farewell = Farewell::to(&self.store);
            // The next to open this device reads what was committed here.
            drop(changing);
        }
    }
}
