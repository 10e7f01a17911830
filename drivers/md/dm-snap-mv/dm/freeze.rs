// SPDX-License-Identifier: GPL-2.0

//! Freezing the file system on a mapped device, and on devices that are built on it.
//!
//! Freezing writes what is dirty through that very device, and so may take as long as the device is
//! suspended. Who asks for it in a message must not wait that long, for suspending waits for the
//! message. So it is a work item with references of its own that freezes, and thaws whatever becomes
//! of who asked: nothing stays frozen, and nobody waits who has been called off.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::block_device::{BlockDevice, BlockName, Dev};
use crate::bindings;
use core::ptr::{self, NonNull};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Release},
        new_condvar, new_mutex, Arc, CondVar, CondVarTimeoutResult, Mutex,
    },
    time::msecs_to_jiffies,
    workqueue::Queue,
};

/// How often freezing is tried where a file system is just being mounted or unmounted, and the pause
/// between, in milliseconds.
const TRIES: u32 = 100;
const PAUSE_MSECS: u32 = 10;

/// The queue of all that freezes: any number at once, each of which may wait for long.
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(ptr::null_mut());

/// There can be freezing as long as this lives: one for the module, dropped when none of its tables
/// is left.
pub(crate) struct Freezer(());

impl Freezer {
    /// Process context; sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when there is one.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The name is valid. Whether it worked is looked at.
        let queue =
            unsafe { bindings::dm_rs_alloc_long_workqueue(c"dm-snap-mv-freeze".as_char_ptr()) };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        if QUEUE
            .cmpxchg(ptr::null_mut(), queue.as_ptr(), Release)
            .is_err()
        {
            // SAFETY: It is ours, and empty.
            unsafe { bindings::destroy_workqueue(queue.as_ptr()) };
            return Err(EBUSY);
        }
        Ok(Self(()))
    }
}

impl Drop for Freezer {
    /// Waits for the last steps of what has run there.
    fn drop(&mut self) {
        let queue = QUEUE.xchg(ptr::null_mut(), Acquire);
        if !queue.is_null() {
            // SAFETY: It was made by `new`. Nobody queues anything any more: messages alone do, and
            // there is no table left to send one to.
            unsafe { bindings::destroy_workqueue(queue) };
        }
    }
}

/// Keeps the module: its code is still needed when the tables have gone.
struct InUse(());

impl InUse {
    /// In a callback of a table, which has a reference of its own.
    fn new() -> Self {
        // SAFETY: The caller is code of this module, which a table uses.
        unsafe { bindings::dm_rs_module_get() };
        Self(())
    }
}

impl Drop for InUse {
    /// What comes after this on the work queue is waited for by [`Freezer`].
    fn drop(&mut self) {
        // SAFETY: `new` has got the reference.
        unsafe { bindings::dm_rs_module_put() };
    }
}

/// A mapped device that cannot go. Nothing keeps its tables, and it is not open.
pub(crate) struct HeldDevice(NonNull<bindings::mapped_device>);

// SAFETY: A mapped device may be used, and its references may be put, from any thread.
unsafe impl Send for HeldDevice {}
// SAFETY: As above.
unsafe impl Sync for HeldDevice {}

impl HeldDevice {
    /// # Safety
    ///
    /// `md` must be there for the duration of the call.
    ///
    /// # Errors
    ///
    /// `EBUSY` when it is being removed.
    pub(super) unsafe fn new(md: NonNull<bindings::mapped_device>) -> Result<Self> {
        // SAFETY: By the function's requirements.
        to_result(unsafe { bindings::dm_hold(md.as_ptr()) })?;
        Ok(Self(md))
    }

    /// Its block device, which is there for as long as `self`.
    fn as_bdev(&self) -> *mut bindings::block_device {
        // SAFETY: The device is held.
        unsafe { bindings::dm_rs_md_bdev(self.0.as_ptr()) }
    }

    /// Whether its file system, if there is one, is frozen already, so that freezing it once more is
    /// a matter of counting. It may be another answer the next moment.
    pub(crate) fn is_frozen(&self) -> bool {
        // SAFETY: The device is held, and its block device with it.
        unsafe { bindings::dm_rs_bdev_is_frozen(self.as_bdev()) }
    }
}

impl Drop for HeldDevice {
    fn drop(&mut self) {
        // SAFETY: The reference is ours.
        unsafe { bindings::dm_put(self.0.as_ptr()) };
    }
}

/// Why there is nothing frozen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfrozen {
    /// A signal came, or the time was over.
    Interrupted,
    /// [`Freezing::call_off`].
    CalledOff,
    /// A device on top could not be opened.
    NoDevice,
    /// Freezing has failed.
    Failed(Error),
}

#[derive(Clone, Copy)]
enum Stage {
    /// It is being frozen.
    Freezing,
    /// All of it is frozen, for as long as it is wanted.
    Frozen,
    /// It could not be frozen, and nothing of it is.
    Failed(Unfrozen),
    /// All is thawed.
    Over,
}

struct State {
    stage: Stage,
    wanted: bool,
    called_off: bool,
}

/// A mapped device that is being frozen, is frozen, or was.
#[pin_data]
pub(crate) struct Freezing {
    device: HeldDevice,
    /// Devices that are built on it, what is on top first.
    above: KVec<Dev>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    changed: CondVar,
}

impl Freezing {
    /// Prepares to freeze `device`, and before it those `above`, in this order.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: HeldDevice, above: KVec<Dev>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                above,
                state <- new_mutex!(State {
                    stage: Stage::Freezing,
                    wanted: true,
                    called_off: false,
                }, "dm::Freezing"),
                changed <- new_condvar!("dm::Freezing"),
            }),
            GFP_KERNEL,
        )
    }

    /// Begins: from here on [`Freezing::release`] must be called some time. `over` is called, in the
    /// work item, when all is thawed and nobody needs it any more. In a callback of a table; may
    /// sleep, but waits for no I/O.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: then nothing has begun.
    pub(crate) fn begin(self: &Arc<Self>, over: impl FnOnce() + Send + 'static) -> Result {
        let queue = QUEUE.load(Acquire);
        if queue.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: It is there for as long as there are tables.
        let queue = unsafe { Queue::from_raw(queue) };
        let this = self.clone();
        let in_use = InUse::new();
        queue.try_spawn(GFP_KERNEL, move || {
            this.run();
            over();
            drop(this);
            drop(in_use);
        })?;
        Ok(())
    }

    /// Nobody waits for it any more: it is thawed as soon as it is frozen. Process context.
    pub(crate) fn call_off(&self) {
        let mut state = self.state.lock();
        state.called_off = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until it is frozen. `msecs`: no longer than that. Interruptible, with no locks held.
    pub(crate) fn wait_frozen(&self, msecs: Option<u32>) -> core::result::Result<(), Unfrozen> {
        let mut state = self.state.lock();
        loop {
            match state.stage {
                Stage::Frozen => return Ok(()),
                Stage::Failed(why) => return Err(why),
                Stage::Over => return Err(Unfrozen::CalledOff),
                Stage::Freezing if state.called_off => return Err(Unfrozen::CalledOff),
                Stage::Freezing => {}
            }
            let woken = match msecs {
                None => !self.changed.wait_interruptible(&mut state),
                Some(msecs) => match self
                    .changed
                    .wait_interruptible_timeout(&mut state, msecs_to_jiffies(msecs))
                {
                    CondVarTimeoutResult::Woken { .. } => true,
                    CondVarTimeoutResult::Timeout => return Err(Unfrozen::CalledOff),
                    CondVarTimeoutResult::Signal { .. } => false,
                },
            };
            if !woken {
                return Err(Unfrozen::Interrupted);
            }
        }
    }

    /// It need not be frozen any longer. Process context.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        state.wanted = false;
        drop(state);
        self.changed.notify_all();
    }

    /// After [`Freezing::release`], waits until it is thawed, is called off, or a signal comes: it is
    /// thawed all the same. With no locks held.
    pub(crate) fn wait_thawed(&self) {
        let mut state = self.state.lock();
        while !matches!(state.stage, Stage::Over | Stage::Failed(_)) && !state.called_off {
            if self.changed.wait_interruptible(&mut state) {
                return;
            }
        }
    }

    fn set(&self, stage: Stage) {
        self.state.lock().stage = stage;
        self.changed.notify_all();
    }

    /// Whether it is still to be frozen.
    fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.wanted && !state.called_off
    }

    /// The work item: freezes, waits until that is no longer wanted, and thaws.
    fn run(&self) {
        let mut opened = KVec::new();
        let all = self.freeze_above(&mut opened);
        let own = self.device.as_bdev();
        let result = all.and_then(|()| self.freeze(own));
        let end = match result {
            Ok(()) => {
                self.set(Stage::Frozen);
                let mut state = self.state.lock();
                while state.wanted {
                    self.changed.wait(&mut state);
                }
                drop(state);
                // SAFETY: The device is held, and was frozen here.
                unsafe { thaw(own) };
                Stage::Over
            }
            // It stays so: who asked may look only now.
            Err(why) => Stage::Failed(why),
        };
        while let Some(device) = opened.pop() {
            // SAFETY: It is open, and was frozen here.
            unsafe { thaw(device.as_raw()) };
            device.close();
        }
        self.set(end);
    }

    /// Freezes what is built on the device. Those that are frozen are put into `opened`.
    fn freeze_above(&self, opened: &mut KVec<BlockDevice>) -> core::result::Result<(), Unfrozen> {
        let no_memory = |_| Unfrozen::Failed(ENOMEM);
        opened
            .reserve(self.above.len(), GFP_KERNEL)
            .map_err(no_memory)?;
        for &dev in &self.above {
            let device = BlockDevice::open(dev, false).map_err(|_| Unfrozen::NoDevice)?;
            let bdev = device.as_raw();
            // There is room for all.
            opened
                .push_within_capacity(device)
                .map_err(|_| Unfrozen::Failed(ENOMEM))?;
            if let Err(why) = self.freeze(bdev) {
                if let Some(device) = opened.pop() {
                    device.close();
                }
                return Err(why);
            }
        }
        Ok(())
    }

    /// Freezes the file system on a block device that is there for the duration of the call; without
    /// one, what has been written to the device itself is written back.
    fn freeze(&self, bdev: *mut bindings::block_device) -> core::result::Result<(), Unfrozen> {
        let mut tries = 0;
        loop {
            if !self.is_wanted() {
                return Err(Unfrozen::CalledOff);
            }
            // SAFETY: The block device is there. What is frozen is thawed by `run`.
            match to_result(unsafe { bindings::bdev_freeze(bdev) }) {
                Ok(()) => return Ok(()),
                // Its file system is coming or going.
                Err(EINVAL) if tries < TRIES => {
                    tries += 1;
                    // SAFETY: A work item may sleep.
                    unsafe { bindings::msleep(PAUSE_MSECS) };
                }
                Err(error) => return Err(Unfrozen::Failed(error)),
            }
        }
    }
}

/// Undoes freezing, once.
///
/// # Safety
///
/// The block device must be there, and have been frozen by `bdev_freeze`.
unsafe fn thaw(bdev: *mut bindings::block_device) {
    for tried in 0..TRIES {
        // SAFETY: By the function's requirements.
        match to_result(unsafe { bindings::bdev_thaw(bdev) }) {
            Ok(()) => return,
            // Nothing is frozen: somebody else has thawed it, or a file system was about to come and
            // has seen that it cannot. The block layer still counts us, and would take the file
            // system for frozen for ever.
            Err(EINVAL) => {
                // SAFETY: By the function's requirements it is counted.
                unsafe { bindings::dm_rs_bdev_forget_freeze(bdev) };
                return;
            }
            // A file system could not write what it has to. It may be able to yet.
            Err(error) if tried + 1 == TRIES => {
                // SAFETY: By the function's requirements.
                let name = unsafe { BlockName::of(bdev) };
                pr_err!("{name}: its file system stays frozen ({error:?}): fsfreeze -u thaws it\n");
            }
            // SAFETY: A work item may sleep.
            Err(_) => unsafe { bindings::msleep(PAUSE_MSECS) },
        }
    }
}
