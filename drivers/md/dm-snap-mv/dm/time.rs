// SPDX-License-Identifier: GPL-2.0

//! Time, and what is as good as never the same twice.

use crate::bindings;
use kernel::{
    prelude::*,
    time::{msecs_to_jiffies, Jiffies},
};

/// Seconds since 1970, by the wall clock. Any context.
pub(crate) fn unix_seconds() -> u64 {
    // SAFETY: It reads the clock.
    let seconds = unsafe { bindings::ktime_get_real_seconds() };
    u64::try_from(seconds).unwrap_or(0)
}

/// Ticks since boot, which wrap around. Any context.
pub(crate) fn jiffies() -> Jiffies {
    // SAFETY: `jiffies` is always there. It changes under us, hence the volatile read.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// Milliseconds that have passed since `then`, as [`jiffies`] returned it; at most `u32::MAX`. Any
/// context.
pub(crate) fn msecs_since(then: Jiffies) -> u32 {
    let ticks = jiffies().wrapping_sub(then) as u64;
    let per_second = msecs_to_jiffies(1000).max(1) as u64;
    u32::try_from(ticks.saturating_mul(1000) / per_second).unwrap_or(u32::MAX)
}

/// Fills `bytes` from the kernel's random number generator. Any context.
pub(crate) fn random(bytes: &mut [u8]) {
    // SAFETY: The pointer is valid for writes of that many bytes.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast::<c_void>(), bytes.len()) };
}

/// A random UUID (version 4). Any context.
pub(crate) fn random_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    random(&mut uuid);
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    uuid
}
