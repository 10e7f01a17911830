// SPDX-License-Identifier: GPL-2.0

//! Mapped devices: where a bio goes that needs no look at the metadata, and what becomes of one
//! that comes back.
//!
//! * [`origin`]: `co`, an origin as its users see it;
//! * [`snapshot`]: `cs`, one of its snapshots.

pub(crate) mod origin;
pub(crate) mod snapshot;

pub(crate) use origin::OriginDevice;
pub(crate) use snapshot::SnapshotDevice;

use crate::dm::action::MapAction;
use crate::dm::shortcut::{Glance, Shortcut};
use crate::dm::status::Status;
use crate::store::job::{HasJob, Stage};
use crate::store::{Origin, Store};
use crate::target::{Bio, SnapMv};
use kernel::prelude::*;
use kernel::sync::Arc;

/// One mapped device.
pub(crate) enum Device {
    /// `co`
    Origin(OriginDevice),
    /// `cs`
    Snapshot(SnapshotDevice),
}

impl Device {
    /// The store it belongs to.
    pub(crate) fn store(&self) -> &Arc<Store> {
        match self {
            Device::Origin(device) => device.store(),
            Device::Snapshot(device) => device.store(),
        }
    }

    /// The origin it is or is a snapshot of.
    pub(crate) fn origin(&self) -> &Arc<Origin> {
        match self {
            Device::Origin(device) => device.origin(),
            Device::Snapshot(device) => &device.snapshot().origin,
        }
    }

    /// Where a new bio goes, if it needs no more than that. Does not sleep.
    #[inline]
    pub(crate) fn shortcut(&self, bio: &Glance<'_>) -> Option<Shortcut<'_>> {
        match self {
            Device::Origin(device) => device.shortcut(bio),
            Device::Snapshot(_) => None,
        }
    }

    /// Sends a new bio on its way. Does not sleep.
    pub(crate) fn map(&self, bio: Bio) -> MapAction<SnapMv> {
        match self {
            Device::Origin(device) => device.map(bio),
            Device::Snapshot(device) => device.map(bio),
        }
    }
}

/// Whether a part that came back was read from the origin device for a snapshot that has become
/// invalid since: writes may have gone past it.
fn has_lost_its_origin(bio: &mut Bio) -> bool {
    let job = bio.job();
    let of_origin = *job.stage == Stage::Reading && job.phys.is_locked();
    match bio.target().device() {
        Device::Snapshot(device) if of_origin => {
            let snapshot = device.snapshot();
            snapshot.origin.is_invalid(snapshot.tag)
        }
        _ => false,
    }
}

/// A part of a bio came back. Any context.
///
/// Who waits for a range is woken before the bio ends: afterwards the device may be gone.
pub(crate) fn part_done(mut bio: Bio, status: Status) {
    let rest = bio.sectors();
    let fua = bio.is_fua();
    let status = match status.is_ok() && has_lost_its_origin(&mut bio) {
        true => Status::IOERR,
        false => status,
    };
    let job = bio.job();
    let (retry, over) = match *job.stage {
        Stage::Reading => {
            let over = rest == 0 || !status.is_ok();
            let mut retry = job.phys.unlock();
            if over {
                retry |= job.own.unlock();
            }
            (retry, over)
        }
        Stage::WritingInPlace => {
            // A FUA write may have to wait for the record of the chunk it wrote.
            let over = !status.is_ok() || (rest == 0 && !fua);
            (job.own.unlock(), over)
        }
        Stage::Discarding => (false, rest == 0 || !status.is_ok()),
        _ => (false, false),
    };
    *job.status = status;
    let target = bio.target();
    if retry {
        target.device().store().retry_waiting();
    }
    if over {
        bio.end(status);
    } else {
        let store = target.device().store().clone();
        store.submit(bio);
    }
}

/// A copy made for a bio is done. Process context.
pub(crate) fn copied(mut bio: Bio, result: Result) {
    let job = bio.job();
    *job.unreadable = result == Err(ENXIO);
    *job.status = if result.is_ok() {
        Status::OK
    } else {
        Status::IOERR
    };
    let store = bio.target().device().store().clone();
    store.submit(bio);
}
