// SPDX-License-Identifier: GPL-2.0

//! A handle to a table that may outlive it.

use super::freeze::HeldDevice;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{new_mutex, Arc, Mutex},
};

/// A target instance of a table, as long as it is there.
struct Attached(NonNull<bindings::dm_target>);

// SAFETY: What is done with it, with the lock of `Link` held, may be done from any thread.
unsafe impl Send for Attached {}

#[pin_data]
struct Link {
    /// `None` once the table has begun to go. It goes on only after that.
    #[pin]
    attached: Mutex<Option<Attached>>,
}

/// A handle to the table that an instance of a target is in. It may be kept, cloned and used for
/// as long as one likes: once the table goes it does nothing any more.
///
/// Its methods take a mutex, so process context. The table's destruction waits for them, and they
/// wait for nothing but device-mapper's own lock for events.
#[derive(Clone)]
pub(crate) struct EventHandle(Arc<Link>);

impl EventHandle {
    /// # Safety
    ///
    /// `ti` must be an instance of a table, and [`EventHandle::detach`] must be called before it
    /// goes.
    pub(super) unsafe fn new(ti: NonNull<bindings::dm_target>) -> Result<Self> {
        let link = Arc::pin_init(
            pin_init!(Link {
                attached <- new_mutex!(Some(Attached(ti)), "dm::EventHandle"),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self(link))
    }

    /// The table is about to go. Waits for those who are just using it.
    pub(super) fn detach(&self) {
        *self.0.attached.lock() = None;
    }

    fn with_table<R>(&self, f: impl FnOnce(*mut bindings::dm_table) -> R) -> Option<R> {
        let attached = self.0.attached.lock();
        let ti = attached.as_ref()?.0;
        // SAFETY: The instance is there: it is not detached, and will not be while the lock is
        // held. Its table was set before it was constructed.
        Some(f(unsafe { (*ti.as_ptr()).table }))
    }

    /// Raises an event of the mapped device: who waits for one (`dmsetup wait`) wakes up. Does
    /// nothing while the table is not the device's active one.
    pub(crate) fn raise(&self) {
        self.with_table(|table| {
            // SAFETY: The table is there for the duration of the call.
            unsafe { bindings::dm_table_event(table) }
        });
    }

    /// Whether anybody has the mapped device open; `None` once the table has gone. It may be
    /// another answer the next moment.
    pub(crate) fn is_open(&self) -> Option<bool> {
        self.with_table(|table| {
            // SAFETY: The table is there for the duration of the call, and so is its device.
            unsafe { bindings::dm_rs_md_openers(bindings::dm_table_get_md(table)) > 0 }
        })
    }

    /// Whether the mapped device is suspended; `None` once the table has gone.
    pub(crate) fn is_suspended(&self) -> Option<bool> {
        let attached = self.0.attached.lock();
        let ti = attached.as_ref()?.0;
        // SAFETY: The instance is there: see `with_table`.
        Some(unsafe { bindings::dm_suspended(ti.as_ptr()) != 0 })
    }

    /// Keeps the mapped device from going; `None` once the table has gone, or when the device is
    /// being removed.
    pub(crate) fn hold(&self) -> Option<HeldDevice> {
        self.with_table(|table| {
            // SAFETY: The table is there for the duration of the call, and so is its device.
            let md = NonNull::new(unsafe { bindings::dm_table_get_md(table) })?;
            // SAFETY: As above.
            unsafe { HeldDevice::new(md) }.ok()
        })?
    }
}
