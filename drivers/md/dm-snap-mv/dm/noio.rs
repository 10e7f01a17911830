// SPDX-License-Identifier: GPL-2.0

//! Memory without I/O.

use crate::bindings;
use kernel::types::NotThreadSafe;

/// While this lives, what this task allocates with `GFP_KERNEL` is allocated with `GFP_NOIO`.
///
/// To be held wherever an allocation could wait for I/O that waits for us: in workers that serve
/// bios, and between suspend and resume. Nests. Process context.
pub(crate) struct NoIo {
    saved: u32,
    _task: NotThreadSafe,
}

impl NoIo {
    /// Begins such a scope.
    pub(crate) fn enter() -> Self {
        Self {
            // SAFETY: It sets a flag of the current task.
            saved: unsafe { bindings::dm_rs_noio_save() },
            _task: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: It sets the flag to what it was. This is still the task that saved it, since
        // the guard is not `Send`.
        unsafe { bindings::dm_rs_noio_restore(self.saved) };
    }
}
