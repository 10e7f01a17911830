// SPDX-License-Identifier: GPL-2.0

//! One COW device in use, shared by all its devices.
//!
//! A bio that needs the metadata is handed to the store's worker, the only place where metadata
//! decide about I/O. The worker takes what has gathered, looks it up, starts copies, commits once
//! for all that wait for it, and lets them go: while one commit runs the next batch gathers.
//!
//! Messages and table loads change metadata too, from their own process; the engine's mutex keeps
//! them and the worker apart. `map()` never takes it.

use super::engine::Engine;
use super::origin::Origin;
use crate::dm::bio_list::BioList;
use crate::dm::bio_set::BioSet;
use crate::dm::block_device::BlockDevice;
use crate::dm::io::DmIo;
use crate::dm::irq_lock::{new_irq_spinlock, IrqSpinLock};
use crate::dm::kcopyd::{Kcopyd, Region};
use crate::dm::worker::{WorkItem, Worker};
use crate::model::chunk_size::ChunkSize;
use crate::model::disk::layout::Layout;
use crate::model::ids::{Chunk, CowChunk};
use crate::model::report::{Cleaning, Usage};
use crate::model::table::FullPolicy;
use crate::target::{Bio, SnapMv};
use kernel::prelude::*;
use kernel::sync::{
    new_condvar, new_mutex, new_spinlock, Arc, Completion, CondVar, Mutex, SpinLock,
};

/// Where things are on the COW device. All in sectors of 512 bytes unless named otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(super) chunk_size: ChunkSize,
    /// Where COW chunk 0 begins.
    data_start: u64,
}

impl Geometry {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            chunk_size: layout.chunk_size,
            data_start: layout.data_start,
        }
    }

    pub(crate) fn chunk_sectors(&self) -> u64 {
        self.chunk_size.sectors()
    }

    /// The chunk that a sector of a device lies in.
    pub(super) fn chunk_of(&self, sector: u64) -> Chunk {
        self.chunk_size.chunk_of(sector)
    }

    /// The offset of a sector in its chunk.
    pub(super) fn offset_of(&self, sector: u64) -> u64 {
        sector & (self.chunk_sectors() - 1)
    }

    /// The first sector of a chunk of a device.
    pub(super) fn sector_of(&self, chunk: Chunk) -> u64 {
        self.chunk_size.sector_of(chunk)
    }

    /// The first sector of a COW chunk on the COW device.
    pub(super) fn cow_sector(&self, cow: CowChunk) -> u64 {
        self.data_start + (cow.get() << self.chunk_size.sector_shift())
    }
}

/// Parts of bios that can be on their way when there is no memory left.
const RESERVED_BIOS: u32 = 128;

/// What waits for the worker.
pub(super) struct Inbox {
    pub(super) bios: BioList<SnapMv>,
    /// Something that others wait for was let go: look at all that wait.
    pub(super) retry: bool,
}

/// What status lines say of a store.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct StoreStatus {
    pub(crate) usage: Usage,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) failed: bool,
    /// What becomes of writes that need space when there is none.
    pub(crate) policy: FullPolicy,
}

/// What a store works with. Taking it down sleeps, so it is kept apart from the store itself, whose
/// last reference may go in an interrupt.
#[pin_data]
pub(super) struct Machinery {
    pub(super) kcopyd: Kcopyd,
    pub(super) io: DmIo,
    #[pin]
    pub(super) bios: BioSet,
    pub(super) worker: Arc<Worker<Store>>,
}

/// Says, when it is dropped, that the store has gone.
pub(super) struct Gone(Arc<Completion>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.complete_all();
    }
}

/// A store in use.
#[pin_data]
pub(crate) struct Store {
    pub(super) machinery: Arc<Machinery>,
    pub(crate) cow: Arc<BlockDevice>,
    pub(crate) geometry: Geometry,
    #[pin]
    pub(super) inbox: IrqSpinLock<Inbox>,
    #[pin]
    pub(super) engine: Mutex<Engine>,
    /// Signalled, with the engine's mutex, after each turn: background work may have come to rest.
    #[pin]
    pub(super) rested: CondVar,
    #[pin]
    status: SpinLock<StoreStatus>,
    /// The last field, so that all others have been dropped when it tells.
    gone: Gone,
}

/// Waits, when it is dropped, until a store has gone that is closed, and takes its machinery down.
/// Process context, and not from anything that the machinery runs.
pub(super) struct Farewell(Option<(Arc<Machinery>, Arc<Completion>)>);

impl Farewell {
    /// Nothing to wait for yet.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// To `store`, which the caller will let go of before this is dropped.
    pub(super) fn to(store: &Store) -> Self {
        Self(Some((store.machinery.clone(), store.gone.0.clone())))
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some((machinery, gone)) = self.0.take() {
            gone.wait_for_completion();
            drop(machinery);
        }
    }
}

impl Store {
    pub(super) fn new(
        cow: Arc<BlockDevice>,
        geometry: Geometry,
        io: DmIo,
        engine: Engine,
    ) -> super::error::Result<Arc<Self>> {
        let policy = engine.policy;
        let gone = Gone(Arc::pin_init(Completion::new(), GFP_KERNEL)?);
        let kcopyd = Kcopyd::new()?;
        let worker = Worker::new(c"dm-snap-mv")?;
        let machinery = Arc::pin_init(
            try_pin_init!(Machinery {
                kcopyd,
                io,
                bios <- BioSet::new(RESERVED_BIOS),
                worker,
            }? Error),
            GFP_KERNEL,
        )?;
        let store = Arc::pin_init(
            pin_init!(Self {
                machinery,
                cow,
                geometry,
                inbox <- new_irq_spinlock!(Inbox {
                    bios: BioList::new(),
                    retry: false,
                }),
                engine <- new_mutex!(engine),
                rested <- new_condvar!(),
                status <- new_spinlock!(StoreStatus {
                    usage: Usage {
                        used_metadata: 0,
                        total_metadata: 0,
                        used_chunks: 0,
                        total_chunks: 0,
                        chunk_size: geometry.chunk_size,
                    },
                    cleaning: None,
                    failed: false,
                    policy,
                }),
                gone,
            }),
            GFP_KERNEL,
        )?;
        store.machinery.worker.start(store.clone());
        Ok(store)
    }

    /// Hands a bio to the worker. Any context.
    pub(crate) fn submit(&self, bio: Bio) {
        self.inbox.lock().bios.push_back(bio);
        self.machinery.worker.kick();
    }

    /// Has the worker look at all that waits. Any context.
    pub(crate) fn retry_waiting(&self) {
        self.inbox.lock().retry = true;
        self.machinery.worker.kick();
    }

    /// What becomes of writes that need space when there is none, from now on.
    pub(crate) fn set_policy(&self, policy: FullPolicy) {
        let mut engine = self.engine.lock();
        engine.policy = policy;
        self.set_status(StoreStatus {
            policy,
            ..self.status()
        });
    }

    /// A device is being suspended, which waits for its bios: those that wait for space end now.
    /// Process context.
    pub(crate) fn dismiss_hungry(&self, is_of: impl Fn(&Bio) -> bool) {
        self.engine.lock().dismiss(is_of);
        self.machinery.worker.kick();
    }

    /// A device of an origin has been suspended, and none of its bios is left. If the work in the
    /// background for that origin rests from now on, waits for what is on its way of it; and has all
    /// that was changed durable. Process context; sleeps.
    pub(crate) fn rest(self: &Arc<Self>, origin: &Origin) {
        // Who waits for the rollback by another of its devices.
        origin.end_waits();
        let mut engine = self.engine.lock();
        while origin.rests() && engine.has_copies(origin.number) {
            self.rested.wait(&mut engine);
        }
        // If it fails the store has, which everybody sees.
        let _ = engine.commit(self);
        engine.publish(self);
        drop(engine);
        self.machinery.worker.kick();
    }

    /// A device has been resumed, or has gone: work in the background may go on. Any context.
    pub(crate) fn go_on(&self) {
        self.machinery.worker.kick();
    }

    /// What status lines say of the store. Never waits for I/O.
    pub(crate) fn status(&self) -> StoreStatus {
        *self.status.lock()
    }

    pub(super) fn set_status(&self, status: StoreStatus) {
        *self.status.lock() = status;
    }

    /// The first and the last chunk that a bio touches. An empty one counts as one sector.
    pub(crate) fn chunks_of(&self, bio: &Bio) -> (Chunk, Chunk) {
        self.chunks_in(bio.sector(), bio.sectors())
    }

    /// The first and the last chunk that sectors are in, which are at least one.
    #[inline]
    pub(crate) fn chunks_in(&self, first: u64, sectors: u32) -> (Chunk, Chunk) {
        let last = first.saturating_add(u64::from(sectors.max(1) - 1));
        (self.geometry.chunk_of(first), self.geometry.chunk_of(last))
    }

    /// The region of chunks on the COW device.
    pub(super) fn cow_region(&self, cow: CowChunk, sectors: u64) -> Region<'_> {
        Region {
            dev: &self.cow,
            sector: self.geometry.cow_sector(cow),
            count: sectors,
        }
    }

    /// The region of chunks on an origin device, of what is `size` sectors large: the version that is
    /// copied, or the origin as its row has it. The device may have become larger, and what is behind
    /// that end is no version's.
    pub(super) fn origin_region<'a>(
        &self,
        origin: &'a Origin,
        start: Chunk,
        len: u64,
        size: u64,
    ) -> Region<'a> {
        let sector = self.geometry.sector_of(start);
        let end = self.geometry.sector_of(start.plus(len)).min(size);
        Region {
            dev: &origin.dev,
            sector,
            count: end.saturating_sub(sector),
        }
    }
}

impl WorkItem for Store {
    fn run(this: &Arc<Self>) {
        let (bios, retry) = {
            let mut inbox = this.inbox.lock();
            let retry = core::mem::replace(&mut inbox.retry, false);
            (inbox.bios.take(), retry)
        };
        let mut engine = this.engine.lock();
        let again = engine.turn(this, bios, retry);
        drop(engine);
        if again {
            this.machinery.worker.kick();
        }
    }
}
