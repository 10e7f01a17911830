// SPDX-License-Identifier: GPL-2.0

//! What can go wrong in a store: a refusal that the user can act on, or a failure below.

use crate::dm::status::Status;
use crate::model::refusal::Refusal;
use kernel::error::Error;
use kernel::prelude::*;

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreError {
    /// The request is refused; nothing has changed.
    Refused(Refusal),
    /// Memory, a device or persistent-data failed. What was being changed is not committed.
    Kernel(Error),
}

/// The result of everything in `store/`.
pub(crate) type Result<T = ()> = core::result::Result<T, StoreError>;

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        StoreError::Refused(refusal)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        // What persistent-data says of a block that does not check.
        if error.to_errno() == -(kernel::bindings::EILSEQ as i32) {
            return StoreError::Refused(Refusal::Corrupt);
        }
        StoreError::Kernel(error)
    }
}

impl From<kernel::alloc::AllocError> for StoreError {
    fn from(_: kernel::alloc::AllocError) -> Self {
        StoreError::Kernel(ENOMEM)
    }
}

impl StoreError {
    /// The reason in words, for `ti->error`, the log and the reply of `try`.
    pub(crate) fn text(&self) -> &'static CStr {
        match self {
            StoreError::Refused(refusal) => refusal.text(),
            StoreError::Kernel(e) if *e == ENOMEM => Refusal::NoMemory.text(),
            // Of the metadata: chunks are not persistent-data's business.
            StoreError::Kernel(e) if *e == ENOSPC => Refusal::NoMetadataSpace.text(),
            StoreError::Kernel(_) => Refusal::Io.text(),
        }
    }

    /// The reason as a string.
    pub(crate) fn as_str(&self) -> &'static str {
        self.text().to_str().unwrap_or("")
    }

    /// The name of the error number, as in errno(3).
    pub(crate) fn name(&self) -> &'static str {
        match self {
            StoreError::Refused(refusal) => refusal.name(),
            StoreError::Kernel(e) if *e == ENOMEM => Refusal::NoMemory.name(),
            StoreError::Kernel(e) if *e == ENOSPC => Refusal::NoSpace.name(),
            StoreError::Kernel(_) => Refusal::Io.name(),
        }
    }

    /// The kernel's error code.
    pub(crate) fn to_error(self) -> Error {
        match self {
            StoreError::Refused(refusal) => {
                Error::from_errno(refusal.errno().checked_neg().unwrap_or(-22))
            }
            StoreError::Kernel(error) => error,
        }
    }

    /// How a bio ends that met this error.
    pub(crate) fn to_status(self) -> Status {
        match self {
            StoreError::Refused(Refusal::NoSpace | Refusal::NoMetadataSpace) => Status::NOSPC,
            StoreError::Kernel(e) if e == ENOSPC => Status::NOSPC,
            _ => Status::IOERR,
        }
    }
}
