// SPDX-License-Identifier: GPL-2.0

//! Sets of numbers that are asked from many CPUs at once.

use core::ptr::{self, NonNull};
use kernel::{
    alloc::flags::{__GFP_NOWARN, __GFP_ZERO},
    prelude::*,
    sync::atomic::{Acquire, Atomic, Relaxed, Release},
};

/// Numbers that one [`Bits`] has a bit for: 4 KiB of bits.
const LEAF: u64 = 1 << 15;
/// [`Slot`]s of a [`Directory`].
const SLOTS: usize = 1 << 9;
/// Numbers that one [`Directory`] leads to.
const BRANCH: u64 = LEAF * SLOTS as u64;

/// A generation that no bits ever have.
const NO_GENERATION: u64 = 0;

struct Bits([Atomic<u64>; (LEAF / 64) as usize]);

struct Slot {
    /// The generation that `bits` belong to: those of another one are all stale.
    generation: Atomic<u64>,
    bits: Atomic<*mut Bits>,
}

struct Directory([Slot; SLOTS]);

/// Numbers of which something is known, 1 bit for each, in memory that is taken as it is needed.
///
/// Asking takes no lock, writes to no memory and may be done in any context. The set may forget: what
/// it is asked for and does not have may have been put into it. It never has what was not put in since
/// it was cleared last, as long as nobody asks while it is cleared.
///
/// # Invariants
///
/// Each pointer in it is null, or came from `KBox::into_raw` and stays until the set goes.
pub(crate) struct NumberSet {
    /// What counts now; [`NO_GENERATION`] when nothing is remembered.
    generation: Atomic<u64>,
    last_generation: Atomic<u64>,
    directories: KVVec<Atomic<*mut Directory>>,
}

// SAFETY: What the pointers lead to is owned by the set, and made of atomics.
unsafe impl Send for NumberSet {}
// SAFETY: As above.
unsafe impl Sync for NumberSet {}

/// Memory for what is valid when it is all zeroes.
///
/// # Safety
///
/// All zeroes must be a `T`.
unsafe fn zeroed<T>() -> Result<*mut T> {
    // No error is worth a warning: what cannot be remembered is forgotten.
    let memory = KBox::<T>::new_uninit(GFP_NOWAIT | __GFP_ZERO | __GFP_NOWARN)?;
    // SAFETY: It was allocated with `__GFP_ZERO`, so it is all zeroes, which is a `T` by the
    // function's requirements.
    Ok(KBox::into_raw(unsafe { memory.assume_init() }))
}

impl NumberSet {
    /// An empty one that remembers nothing before [`NumberSet::clear`], and then only numbers below
    /// `limit`. Allocates 8 bytes for every 16,777,216 of them. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(limit: u64) -> Result<Self> {
        let count = usize::try_from(limit.div_ceil(BRANCH)).map_err(|_| ENOMEM)?;
        let mut directories = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            directories.push(Atomic::new(ptr::null_mut()), GFP_KERNEL)?;
        }
        // INVARIANT: All pointers are null.
        Ok(Self {
            generation: Atomic::new(NO_GENERATION),
            last_generation: Atomic::new(NO_GENERATION),
            directories,
        })
    }

    /// Takes all numbers out. What is put in from now on is remembered.
    ///
    /// Whoever has asked, and not yet done what the answer was for, is not stopped: the caller sees to
    /// it that there is nobody. Any context.
    pub(crate) fn clear(&self) {
        let next = self.last_generation.fetch_add(1, Relaxed).wrapping_add(1);
        self.generation.store(next, Release);
    }

    /// As [`NumberSet::clear`], and nothing is remembered until that is called.
    pub(crate) fn stop(&self) {
        self.generation.store(NO_GENERATION, Release);
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        let directory = usize::try_from(number / BRANCH).ok()?;
        let directory = NonNull::new(self.directories.get(directory)?.load(Acquire))?;
        // SAFETY: By the invariants it is there for as long as the set is.
        let directory = unsafe { directory.as_ref() };
        directory.0.get((number / LEAF) as usize % SLOTS)
    }

    /// Whether all of `first..=last` are known to be in the set. Any context.
    pub(crate) fn has_all(&self, first: u64, last: u64) -> bool {
        let generation = self.generation.load(Acquire);
        if generation == NO_GENERATION || last < first {
            return false;
        }
        let mut at = first;
        loop {
            let Some(slot) = self.slot(at) else {
                return false;
            };
            if slot.generation.load(Acquire) != generation {
                return false;
            }
            let Some(bits) = NonNull::new(slot.bits.load(Acquire)) else {
                return false;
            };
            // SAFETY: By the invariants it is there for as long as the set is.
            let bits = unsafe { bits.as_ref() };
            for (word, mask) in words(at, last) {
                let Some(word) = bits.0.get(word) else {
                    return false;
                };
                if word.load(Acquire) & mask != mask {
                    return false;
                }
            }
            match next_leaf(at) {
                Some(next) if next <= last => at = next,
                _ => return true,
            }
        }
    }

    /// Puts `first..=last` into the set, as far as there is memory. One caller at a time, or what one
    /// puts in another may take out again. Process context; does not sleep for memory.
    pub(crate) fn insert(&self, first: u64, last: u64) {
        let generation = self.generation.load(Acquire);
        if generation == NO_GENERATION {
            return;
        }
        let mut at = first;
        while at <= last {
            if self.insert_leaf(generation, at, last).is_none() {
                return;
            }
            match next_leaf(at) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// Puts those of `first..=last` in that share a leaf with `first`. `None` if there is no memory.
    fn insert_leaf(&self, generation: u64, first: u64, last: u64) -> Option<()> {
        let directory = usize::try_from(first / BRANCH).ok()?;
        let directory = self.directories.get(directory)?;
        if directory.load(Acquire).is_null() {
            // SAFETY: It is made of numbers and pointers, for which zero and null will do.
            let new = unsafe { zeroed::<Directory>() }.ok()?;
            if directory.cmpxchg(ptr::null_mut(), new, Release).is_err() {
                // SAFETY: It came from `KBox::into_raw`, and nobody else has seen it.
                drop(unsafe { KBox::from_raw(new) });
            }
        }
        let slot = self.slot(first)?;
        if slot.bits.load(Acquire).is_null() {
            // SAFETY: It is made of numbers, for which zero will do.
            let new = unsafe { zeroed::<Bits>() }.ok()?;
            if slot.bits.cmpxchg(ptr::null_mut(), new, Release).is_err() {
                // SAFETY: It came from `KBox::into_raw`, and nobody else has seen it.
                drop(unsafe { KBox::from_raw(new) });
            }
        }
        let bits = NonNull::new(slot.bits.load(Acquire))?;
        // SAFETY: By the invariants it is there for as long as the set is.
        let bits = unsafe { bits.as_ref() };
        if slot.generation.load(Relaxed) != generation {
            slot.generation.store(NO_GENERATION, Release);
            for word in &bits.0 {
                word.store(0, Relaxed);
            }
            // Who sees this generation sees no older bits.
            slot.generation.store(generation, Release);
        }
        for (word, mask) in words(first, last) {
            let word = bits.0.get(word)?;
            word.store(word.load(Relaxed) | mask, Release);
        }
        Some(())
    }
}

impl Drop for NumberSet {
    fn drop(&mut self) {
        for directory in self.directories.iter() {
            let directory = directory.load(Acquire);
            if directory.is_null() {
                continue;
            }
            // SAFETY: By the invariants it came from `KBox::into_raw`; nobody uses the set any more.
            let directory = unsafe { KBox::from_raw(directory) };
            for slot in &directory.0 {
                let bits = slot.bits.load(Acquire);
                if !bits.is_null() {
                    // SAFETY: As above.
                    drop(unsafe { KBox::from_raw(bits) });
                }
            }
        }
    }
}

/// The first number of the next leaf.
fn next_leaf(number: u64) -> Option<u64> {
    (number / LEAF).checked_add(1)?.checked_mul(LEAF)
}

/// The words, of the leaf that `first` is in, and which of their bits are for `first..=last`.
fn words(first: u64, last: u64) -> impl Iterator<Item = (usize, u64)> {
    let leaf = first / LEAF;
    let from = first % LEAF;
    let to = if last / LEAF == leaf {
        last % LEAF
    } else {
        LEAF - 1
    };
    (from / 64..=to / 64).map(move |word| {
        let low = if word == from / 64 { from % 64 } else { 0 };
        let high = if word == to / 64 { to % 64 } else { 63 };
        (word as usize, (u64::MAX << low) & (u64::MAX >> (63 - high)))
    })
}
