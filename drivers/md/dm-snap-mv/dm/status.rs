// SPDX-License-Identifier: GPL-2.0

//! How a bio ended.
//!
//! C header: [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h)

use crate::bindings;
use kernel::prelude::*;

/// The status with which a bio ends (`blk_status_t`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Status(bindings::blk_status_t);

impl Status {
    /// It went well.
    pub(crate) const OK: Self = Self(bindings::DM_RS_STS_OK);
    /// The device does not support it.
    pub(crate) const NOTSUPP: Self = Self(bindings::DM_RS_STS_NOTSUPP);
    /// There is no space left.
    pub(crate) const NOSPC: Self = Self(bindings::DM_RS_STS_NOSPC);
    /// No memory, or something like it; trying again may help.
    pub(crate) const RESOURCE: Self = Self(bindings::DM_RS_STS_RESOURCE);
    /// It failed.
    pub(crate) const IOERR: Self = Self(bindings::DM_RS_STS_IOERR);
    /// Device-mapper is to keep it and try again after the next resume. Only while a suspend
    /// without flush is going on (see `Instance::noflush_suspending`); at other times it becomes
    /// [`Status::IOERR`]. Until the device is suspended it may as well come back at once, to be
    /// requeued again.
    pub(crate) const DM_REQUEUE: Self = Self(bindings::DM_RS_STS_DM_REQUEUE);
    /// It was not to wait and would have had to.
    pub(crate) const AGAIN: Self = Self(bindings::DM_RS_STS_AGAIN);

    /// What C calls it.
    pub(super) const fn from_raw(raw: bindings::blk_status_t) -> Self {
        Self(raw)
    }

    /// What C calls it.
    pub(super) const fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// Whether it went well.
    pub(crate) fn is_ok(self) -> bool {
        self == Self::OK
    }

    /// As a result, with the `errno` that the block layer has for this status.
    pub(crate) fn to_result(self) -> Result {
        if self.is_ok() {
            return Ok(());
        }
        // SAFETY: It looks up a table, and knows what to say of a number that is not in it.
        Err(Error::from_errno(unsafe {
            bindings::blk_status_to_errno(self.0)
        }))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // SAFETY: It looks up a table, and knows what to say of a number that is not in it.
        Self(unsafe { bindings::errno_to_blk_status(error.to_errno()) })
    }
}

impl From<Result> for Status {
    fn from(result: Result) -> Self {
        match result {
            Ok(()) => Self::OK,
            Err(error) => error.into(),
        }
    }
}
