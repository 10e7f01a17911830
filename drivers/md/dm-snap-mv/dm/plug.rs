// SPDX-License-Identifier: GPL-2.0

//! Requests that set out together.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use crate::bindings;
use core::mem::MaybeUninit;

/// Runs `work`. What it sends to devices sets out together when it returns, or when it sleeps: where
/// many bios are sent one behind the other, devices are told of them once. Nests. Process context.
pub(crate) fn together<T>(work: impl FnOnce() -> T) -> T {
    let mut plug = MaybeUninit::<bindings::blk_plug>::uninit();
    // SAFETY: It is initialised here. The task points to it until it is finished below, on the same
    // stack: nothing unwinds in the kernel.
    unsafe { bindings::blk_start_plug(plug.as_mut_ptr()) };
    let result = work();
    // SAFETY: It was started above, by this task.
    unsafe { bindings::blk_finish_plug(plug.as_mut_ptr()) };
    result
}
