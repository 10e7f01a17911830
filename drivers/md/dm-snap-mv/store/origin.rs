// SPDX-License-Identifier: GPL-2.0

//! One active origin: what its devices and the store's worker share.

use super::freeze::Asked;
use crate::dm::block_device::{BlockDevice, Dev};
use crate::dm::event::EventHandle;
use crate::dm::gate::Gate;
use crate::dm::number_set::NumberSet;
use crate::dm::range_lock::RangeLock;
use crate::dm::table::MappedDevice;
use crate::model::ids::{Chunk, OriginNr, Tag};
use crate::model::refusal::Refusal;
use crate::model::report::{RollbackProgress, State};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_condvar, new_mutex, new_spinlock, Arc, CondVar, Mutex, SpinLock};

/// What `dmsetup status` says of an origin, kept up to date by the worker so that reading it never
/// waits for I/O.
#[derive(Clone, Copy)]
pub(crate) struct OriginStatus {
    pub(crate) state: State,
    pub(crate) snapshots: u32,
    pub(crate) bookmarks: u32,
    pub(crate) rollback: Option<RollbackProgress>,
}

/// How a rollback that somebody waits for stands.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum RollbackState {
    Idle,
    Running,
    /// It stopped on an error; it goes on at the next activation.
    Failed,
}

/// Whether a table of an origin, or of one of its snapshots, is what its mapped device goes by.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum InForce {
    /// It was loaded, and never resumed.
    NotYet,
    /// It was resumed.
    Yes,
    /// It was, and has been suspended since.
    Suspended,
}

/// An origin that at least one active device belongs to.
///
/// Created with the engine's mutex held and shared by the devices. The fields here may be used from
/// any context; what needs the metadata is in the engine's own `OriginState`.
#[pin_data]
pub(crate) struct Origin {
    pub(crate) number: OriginNr,
    pub(crate) dev: Arc<BlockDevice>,
    /// Chunks of the origin device that are being read for a snapshot (shared) or are about to be
    /// overwritten (exclusive).
    pub(crate) phys: Arc<RangeLock>,
    /// Writes on their way to the origin device. Closed while a snapshot is taken.
    pub(crate) gate: Arc<Gate>,
    /// A write needs no look at the metadata: no live snapshot wants what it overwrites, and no
    /// rollback runs. Changes only while the gate is closed and empty, so a write that holds a
    /// pass can trust it.
    direct: Atomic<bool>,
    /// Chunks that need no look at the metadata to be written, because a durable record has what
    /// every live snapshot wants of them. Emptied only while the gate is closed and empty, so a write
    /// that holds a pass can trust it.
    preserved: NumberSet,
    /// Snapshots with lower tags are invalid: what the origin device has is not theirs any more.
    invalid_below: Atomic<u32>,
    /// A read must ask where the content is, because a rollback runs.
    redirect: Atomic<bool>,
    /// Reads on their way that a rollback sent elsewhere than to the origin device. What they read
    /// must stay until they are done.
    redirected: Atomic<i32>,
    #[pin]
    status: SpinLock<OriginStatus>,
    #[pin]
    pub(crate) rollback: Mutex<RollbackState>,
    #[pin]
    pub(crate) rollback_changed: CondVar,
    /// See [`Origin::rests`].
    rests: Atomic<bool>,
    /// Held by a message that closes gates of the origin or of one of its snapshots: one at a time.
    #[pin]
    pub(super) control: Mutex<()>,
    /// Who wants to hear of events.
    #[pin]
    pub(super) listeners: Mutex<Listeners>,
    /// Signalled, with the listeners' mutex, when somebody is through with freezing, or a device is
    /// about to be suspended.
    #[pin]
    pub(super) freezing_changed: CondVar,
}

/// One table of this origin or of one of its snapshots.
pub(super) struct Listener {
    ticket: u64,
    pub(super) events: EventHandle,
    /// The mapped device that the table is of.
    pub(super) device: MappedDevice,
    /// The snapshot that it shows; `None`: the origin itself.
    pub(super) tag: Option<Tag>,
    in_force: InForce,
    /// Whether the device is being suspended with this table, or is.
    pub(super) suspending: bool,
}

impl Listener {
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }
}

/// Who is to be told when something changes.
pub(crate) struct Listeners {
    /// Everybody's table, with the ticket that it came with.
    pub(super) tables: KVec<Listener>,
    next_ticket: u64,
    /// What is being frozen for messages, or is frozen.
    pub(super) freezing: KVec<Asked>,
}

impl Listeners {
    /// See [`Origin::rests`].
    fn rest(&self) -> bool {
        let any = |own: bool, state: InForce| {
            let is_so = |table: &Listener| table.tag.is_none() == own && table.in_force == state;
            self.tables.iter().any(is_so)
        };
        let runs =
            any(true, InForce::Yes) || !any(true, InForce::Suspended) && any(false, InForce::Yes);
        !runs
    }
}

impl Origin {
    /// `chunks`: how many the device has.
    pub(super) fn new(number: OriginNr, dev: Arc<BlockDevice>, chunks: u64) -> Result<Arc<Self>> {
        let preserved = NumberSet::new(chunks)?;
        let phys = Arc::pin_init(RangeLock::new(), GFP_KERNEL)?;
        let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                number,
                dev,
                phys,
                gate,
                direct: Atomic::new(false),
                preserved,
                invalid_below: Atomic::new(0),
                redirect: Atomic::new(false),
                redirected: Atomic::new(0),
                status <- new_spinlock!(OriginStatus {
                    state: State::Valid,
                    snapshots: 0,
                    bookmarks: 0,
                    rollback: None,
                }),
                rollback <- new_mutex!(RollbackState::Idle),
                rollback_changed <- new_condvar!(),
                rests: Atomic::new(true),
                control <- new_mutex!(()),
                listeners <- new_mutex!(Listeners {
                    tables: KVec::new(),
                    next_ticket: 0,
                    freezing: KVec::new(),
                }),
                freezing_changed <- new_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether a write that holds a pass may go straight to the origin device.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.load(Acquire)
    }

    pub(super) fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Release);
    }

    /// Whether a write of chunks `first..=last` that holds a pass may go straight to the origin device,
    /// as nothing there is left to preserve. May say no although it might. Any context.
    pub(crate) fn is_preserved(&self, first: Chunk, last: Chunk) -> bool {
        self.preserved.has_all(first.get(), last.get())
    }

    /// Remembers that. With the engine's mutex held; the records are durable.
    pub(super) fn set_preserved(&self, first: Chunk, last: Chunk) {
        self.preserved.insert(first.get(), last.get());
    }

    /// Forgets what is preserved: a newer snapshot wants all chunks again. While the gate is closed
    /// and empty, or nothing is known.
    pub(super) fn none_preserved(&self) {
        self.preserved.clear();
    }

    /// As [`Origin::none_preserved`], and learns nothing until that is called: a rollback runs, for
    /// which each write has to be noted.
    pub(super) fn preserved_unknown(&self) {
        self.preserved.stop();
    }

    /// Whether a snapshot is invalid. If not, a read of the origin device for it that is over has got
    /// what it had to, for writes do not go past such reads before this says yes. Any context.
    pub(crate) fn is_invalid(&self, tag: Tag) -> bool {
        tag.get() < self.invalid_below.load(Acquire)
    }

    /// To be called before writes are let past reads on their way.
    pub(super) fn set_invalid_below(&self, tag: u32) {
        self.invalid_below.store(tag, Release);
    }

    /// Whether reads of the origin must ask for the way.
    pub(crate) fn redirects_reads(&self) -> bool {
        self.redirect.load(Acquire)
    }

    pub(super) fn set_redirect(&self, redirect: bool) {
        self.redirect.store(redirect, Release);
    }

    pub(super) fn redirected_begins(&self) {
        self.redirected.fetch_add(1, Relaxed);
    }

    /// Any context.
    pub(super) fn redirected_ends(&self) {
        self.redirected.fetch_sub(1, Release);
    }

    pub(super) fn nothing_redirected(&self) -> bool {
        self.redirected.load(Acquire) == 0
    }

    pub(crate) fn status(&self) -> OriginStatus {
        *self.status.lock()
    }

    pub(super) fn set_status(&self, status: OriginStatus) {
        *self.status.lock() = status;
    }

    /// Raises a device-mapper event on every device of this origin. Process context.
    pub(super) fn raise_event(&self) {
        let listeners = self.listeners.lock();
        for listener in listeners.tables.iter() {
            listener.events.raise();
        }
    }

    /// Says how the rollback stands, and wakes who waits for it.
    pub(super) fn set_rollback(&self, state: RollbackState) {
        *self.rollback.lock() = state;
        self.rollback_changed.notify_all();
    }

    /// Waits until no rollback runs, or the table that this is for is being suspended, which waits
    /// for its messages: `is_suspended` says so, and [`Origin::end_waits`] has it asked again.
    /// Interruptible; process context, no locks held.
    ///
    /// # Errors
    ///
    /// [`Refusal::Interrupted`] when a signal came first and [`Refusal::RollbackGoesOn`] when the
    /// suspension did (the rollback goes on), [`Refusal::Io`] when it stopped on an error.
    pub(crate) fn wait_for_rollback(
        &self,
        is_suspended: impl Fn() -> bool,
    ) -> super::error::Result<()> {
        let mut state = self.rollback.lock();
        loop {
            match *state {
                RollbackState::Idle => return Ok(()),
                RollbackState::Failed => return Err(Refusal::Io.into()),
                RollbackState::Running if self.rests() || is_suspended() => {
                    return Err(Refusal::RollbackGoesOn.into());
                }
                RollbackState::Running => {
                    if self.rollback_changed.wait_interruptible(&mut state) {
                        return Err(Refusal::Interrupted.into());
                    }
                }
            }
        }
    }

    /// Has those who wait for the rollback ask whether they may go on waiting. Process context.
    pub(crate) fn end_waits(&self) {
        // With the lock held, so that who has just asked is waiting already, and wakes.
        let _state = self.rollback.lock();
        self.rollback_changed.notify_all();
    }

    /// Whether somebody has the origin's own device open: a file system is mounted on it, say.
    /// Process context.
    pub(super) fn is_open(&self) -> bool {
        let listeners = self.listeners.lock();
        listeners
            .tables
            .iter()
            .any(|listener| listener.tag.is_none() && listener.events.is_open() == Some(true))
    }

    /// Has a table told of events, until [`Origin::remove_listener`] gets the ticket. `tag`: of the
    /// snapshot that the mapped device shows; without one it is the origin's own. Only one can be,
    /// though a reload has two tables of it for a moment. Process context.
    ///
    /// # Errors
    ///
    /// [`Refusal::OriginActive`] when another mapped device is the origin's own.
    pub(crate) fn add_listener(
        &self,
        events: &EventHandle,
        device: MappedDevice,
        tag: Option<Tag>,
    ) -> super::error::Result<u64> {
        let mut listeners = self.listeners.lock();
        let another = |listener: &Listener| listener.tag.is_none() && listener.device != device;
        if tag.is_none() && listeners.tables.iter().any(another) {
            return Err(Refusal::OriginActive.into());
        }
        let ticket = listeners.next_ticket;
        listeners.next_ticket += 1;
        let listener = Listener {
            ticket,
            events: events.clone(),
            device,
            tag,
            in_force: InForce::NotYet,
            suspending: false,
        };
        listeners.tables.push(listener, GFP_KERNEL)?;
        Ok(ticket)
    }

    /// A table has been resumed or suspended; `ticket` is what [`Origin::add_listener`] gave it.
    /// Process context.
    pub(crate) fn set_in_force(&self, ticket: u64, in_force: InForce) {
        let mut listeners = self.listeners.lock();
        for table in listeners.tables.iter_mut() {
            if table.ticket == ticket {
                table.in_force = in_force;
            }
        }
        self.rests.store(listeners.rest(), Release);
    }

    /// Whether nothing is to be done for the origin that nobody waits for, a rollback and cleaning
    /// above all: its own device is suspended, or it has none and all of its snapshots' are. A
    /// snapshot's device alone does not count beside the origin's: who suspends it must not hold up
    /// those who write to the origin. Any context.
    pub(crate) fn rests(&self) -> bool {
        self.rests.load(Acquire)
    }

    /// Whether a block device is one of those mapped devices. Process context.
    pub(super) fn is_shown_by(&self, dev: Dev) -> bool {
        let listeners = self.listeners.lock();
        listeners
            .tables
            .iter()
            .any(|listener| listener.device.dev() == dev)
    }

    /// Ends what [`Origin::add_listener`] began.
    pub(crate) fn remove_listener(&self, ticket: u64) {
        let mut listeners = self.listeners.lock();
        listeners
            .tables
            .retain(|listener| listener.ticket != ticket);
        self.rests.store(listeners.rest(), Release);
    }
}
