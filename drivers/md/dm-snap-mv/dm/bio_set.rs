// SPDX-License-Identifier: GPL-2.0

//! Where the parts of bios are allocated from.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::gate::{Gate, Pass};
use crate::bindings;
use kernel::{error::to_result, prelude::*, types::Opaque};

/// A set of bios with a reserve, for [`TargetBio::submit_part`](super::bio::TargetBio::submit_part).
///
/// Dropping it waits for those of its bios that are in flight, and sleeps. Process context.
#[pin_data(PinnedDrop)]
pub(crate) struct BioSet {
    #[pin]
    set: Opaque<bindings::bio_set>,
    /// Passed by each bio in flight.
    #[pin]
    in_flight: Gate,
}

// SAFETY: A bio set may be used from many threads at once.
unsafe impl Send for BioSet {}
// SAFETY: As above.
unsafe impl Sync for BioSet {}

impl BioSet {
    /// With a reserve of `reserve` bios: as many can always be in flight, at the least. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(reserve: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            in_flight <- Gate::new(),
            set <- Opaque::try_ffi_init(move |slot: *mut bindings::bio_set| {
                // SAFETY: `slot` is valid for writes, and `bioset_init` wants it zeroed. It is
                // pinned, so the pointers back to it that the set keeps stay valid.
                to_result(unsafe {
                    slot.write_bytes(0, 1);
                    bindings::bioset_init(slot, reserve.max(1), 0, 0)
                })
            }),
        })
    }

    /// Counts a bio that is about to be allocated. `None` only while the set is being dropped.
    pub(super) fn enter(&self) -> Option<Pass> {
        self.in_flight.try_enter()
    }

    /// What C calls it. Valid for as long as `self`.
    pub(super) fn as_raw(&self) -> *mut bindings::bio_set {
        self.set.get()
    }
}

#[pinned_drop]
impl PinnedDrop for BioSet {
    fn drop(self: Pin<&mut Self>) {
        self.in_flight.close();
        self.in_flight.wait_empty();
        // SAFETY: The set was initialised, and all its bios have been put: each had passed the
        // gate, and did not leave earlier.
        unsafe { bindings::bioset_exit(self.set.get()) };
    }
}
