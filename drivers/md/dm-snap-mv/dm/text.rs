// SPDX-License-Identifier: GPL-2.0

//! What status and messages answer.

use core::{fmt, marker::PhantomData};
use kernel::prelude::*;

/// A buffer of device-mapper's, to be filled with text.
///
/// It always ends in NUL. What does not fit is cut off, and device-mapper notices: it tells the
/// user that the buffer was too small, and the user's library tries again with a larger one. (So
/// a message that changes something must see to it that its reply fits any buffer.)
///
/// # Invariants
///
/// `start` is valid for reads and writes of `size` bytes for the lifetime `'a`, `len < size`, and
/// byte `len` is NUL. With a `size` of 0 nothing is written, and `len` is 0.
pub(crate) struct Text<'a> {
    start: *mut u8,
    size: usize,
    len: usize,
    _buffer: PhantomData<&'a mut [u8]>,
}

impl<'a> Text<'a> {
    /// An empty text.
    ///
    /// # Safety
    ///
    /// `start` must be valid for reads and writes of `size` bytes for `'a`, and nothing else may
    /// use them meanwhile.
    pub(super) unsafe fn new(start: *mut c_char, size: usize) -> Self {
        let start: *mut u8 = start.cast();
        if size > 0 {
            // SAFETY: By the function's requirements there is room for one byte.
            unsafe { start.write(0) };
        }
        // INVARIANT: The requirements of this function, and the NUL just written.
        Self {
            start,
            size,
            len: 0,
            _buffer: PhantomData,
        }
    }

    /// How many bytes have been written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes can be written such that device-mapper does not take the text to be cut off.
    pub(crate) fn remaining(&self) -> usize {
        // The NUL, and one more: a text that fills the buffer counts as one that was too long.
        self.size.saturating_sub(self.len).saturating_sub(2)
    }

    /// Forgets what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            // SAFETY: By the invariants `len < self.len < size`.
            unsafe { self.start.add(len).write(0) };
        }
    }

    /// Appends bytes; fails when not all of them fit, and then fills the buffer with those that do.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        let room = self.size.saturating_sub(self.len).saturating_sub(1);
        let fits = bytes.len().min(room);
        if fits > 0 {
            // SAFETY: By the invariants there are `room` bytes and one for NUL from `len` on. The
            // buffer is not `bytes`, since only `self` may use it.
            unsafe {
                let end = self.start.add(self.len);
                end.copy_from_nonoverlapping(bytes.as_ptr(), fits);
                end.add(fits).write(0);
            }
            self.len += fits;
        }
        if fits == bytes.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}
