// SPDX-License-Identifier: GPL-2.0

//! Freezing the file system on an origin or a snapshot while a message does something with it.
//!
//! One at a time is frozen of each device: were they to overlap, those who write there would get no
//! turn between them. Who waits for its turn or for the freezing ends when the device through which
//! it was asked, or the one to be frozen, is about to be suspended, as suspending waits for messages
//! and freezing for the end of suspending.

use super::error::Result;
use super::origin::Origin;
use crate::dm::block_device::Dev;
use crate::dm::freeze::{Freezing, Unfrozen};
use crate::dm::table::MappedDevice;
use crate::model::ids::Tag;
use crate::model::message::Freeze;
use crate::model::refusal::Refusal;
use kernel::prelude::*;
use kernel::sync::Arc;

/// How long freezing may take where there is nothing to be written, as a suspended device's file
/// system is frozen already.
const COUNTING_MSECS: u32 = 2000;

/// What a message has asked for.
pub(super) struct Asked {
    /// The device that is frozen.
    device: MappedDevice,
    /// The one through which it was asked.
    through: MappedDevice,
    freezing: Arc<Freezing>,
}

/// A device that is frozen for as long as this lives.
pub(crate) struct Frozen(Arc<Freezing>);

impl Frozen {
    /// Thaws it, and waits for that unless it is hindered; then it is thawed later.
    pub(crate) fn thaw(self) {
        self.0.release();
        self.0.wait_thawed();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Origin {
    /// Freezes the file system on the device that shows snapshot `tag`, or without one the origin
    /// itself; before it those on the devices on top that `how` names. `None`: there is no such
    /// device, and so nothing to be frozen. `through`: the device that the message came to.
    ///
    /// In a message, with no locks held. Waits until that is done, unless a signal comes or one of
    /// the two devices is about to be suspended.
    ///
    /// # Errors
    ///
    /// [`Refusal::Suspending`], [`Refusal::Suspended`], [`Refusal::NotFrozen`],
    /// [`Refusal::NoDeviceAbove`], [`Refusal::InterruptedBefore`], `ENOMEM`: nothing is frozen then, or
    /// not for long.
    pub(crate) fn freeze(
        self: &Arc<Self>,
        through: MappedDevice,
        tag: Option<Tag>,
        how: &Freeze,
    ) -> Result<Option<Frozen>> {
        let mut above = KVec::new();
        for number in how.above() {
            let dev = Dev::new(number.major, number.minor).ok_or(Refusal::NoDeviceAbove)?;
            above.push(dev, GFP_KERNEL)?;
        }
        let mut listeners = self.listeners.lock();
        let (device, held, counting) = loop {
            let mut tables = listeners.tables.iter();
            let Some(shown) = tables.find(|table| table.tag == tag) else {
                return Ok(None);
            };
            let device = shown.device;
            let suspended = shown.events.is_suspended() == Some(true);
            let held = shown.events.hold().ok_or(Refusal::Suspending)?;
            let is_next = |table: &super::origin::Listener| {
                table.suspending && table.events.is_suspended() == Some(false)
            };
            let mut tables = listeners.tables.iter();
            if tables.any(|t| (t.device == device || t.device == through) && is_next(t)) {
                return Err(Refusal::Suspending.into());
            }
            let is_taken = listeners
                .freezing
                .iter()
                .any(|asked| asked.device == device);
            match (suspended, is_taken) {
                (true, true) if held.is_frozen() => return Err(Refusal::Suspending.into()),
                (true, false) if held.is_frozen() && above.is_empty() => {
                    break (device, held, true);
                }
                // Whoever had begun to freeze it cannot go on either.
                (true, _) => return Err(Refusal::Suspended.into()),
                (false, false) => break (device, held, false),
                (false, true) => {}
            }
            drop(held);
            if self.freezing_changed.wait_interruptible(&mut listeners) {
                return Err(Refusal::InterruptedBefore.into());
            }
        };
        let freezing = Freezing::new(held, above)?;
        let asked = Asked {
            device,
            through,
            freezing: freezing.clone(),
        };
        listeners.freezing.push(asked, GFP_KERNEL)?;
        let (origin, over) = (self.clone(), Arc::as_ptr(&freezing).addr());
        if let Err(error) = freezing.begin(move || origin.frozen_over(over)) {
            let _ = listeners.freezing.pop();
            return Err(error.into());
        }
        drop(listeners);

        let frozen = Frozen(freezing);
        match frozen.0.wait_frozen(counting.then_some(COUNTING_MSECS)) {
            Ok(()) => Ok(Some(frozen)),
            Err(Unfrozen::Interrupted) => Err(Refusal::InterruptedBefore.into()),
            Err(Unfrozen::CalledOff) => Err(Refusal::Suspending.into()),
            Err(Unfrozen::NoDevice) => Err(Refusal::NoDeviceAbove.into()),
            Err(Unfrozen::Failed(error)) if error == ENOMEM => Err(error.into()),
            Err(Unfrozen::Failed(error)) => {
                pr_warn!(
                    "the file system on a device of origin {} ({}) could not be frozen ({error:?})\n",
                    self.number.get(),
                    self.dev.name()
                );
                Err(Refusal::NotFrozen.into())
            }
        }
    }

    /// All is thawed of what is known by that address. In the work item.
    fn frozen_over(&self, freezing: usize) {
        let mut listeners = self.listeners.lock();
        let is_other = |asked: &mut Asked| Arc::as_ptr(&asked.freezing).addr() != freezing;
        listeners.freezing.retain(is_other);
        drop(listeners);
        self.freezing_changed.notify_all();
    }

    /// A table's device is about to be suspended: who waits in a message for it to be frozen, or
    /// through it for another, is to end. Process context; waits for nothing.
    pub(crate) fn suspend_begins(&self, ticket: u64) {
        let mut listeners = self.listeners.lock();
        let mut tables = listeners.tables.iter_mut();
        let Some(table) = tables.find(|table| table.ticket() == ticket) else {
            return;
        };
        table.suspending = true;
        let device = table.device;
        for asked in listeners.freezing.iter() {
            if asked.device == device || asked.through == device {
                asked.freezing.call_off();
            }
        }
        drop(listeners);
        self.freezing_changed.notify_all();
    }

    /// A table's device is to be active again, or is still.
    pub(crate) fn suspend_ends(&self, ticket: u64) {
        let mut listeners = self.listeners.lock();
        let mut tables = listeners.tables.iter_mut();
        if let Some(table) = tables.find(|table| table.ticket() == ticket) {
            table.suspending = false;
        }
    }
}
