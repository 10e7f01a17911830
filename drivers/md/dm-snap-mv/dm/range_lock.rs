// SPDX-License-Identifier: GPL-2.0

//! Locks on ranges of numbers.

use super::irq_lock::{new_irq_spinlock, IrqSpinLock};
use crate::bindings;
use core::{marker::PhantomPinned, ptr};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
    types::Opaque,
};

/// How a range is locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Others may lock what overlaps, shared.
    Shared,
    /// Nobody else may lock what overlaps.
    Exclusive,
}

struct Ranges {
    root: bindings::rb_root_cached,
    /// Somebody could not lock, and waits.
    waiting: bool,
    /// What somebody wants to lock exclusively, and waits for since. Others let it be until there has
    /// been a chance to lock it, or those who share it could have it for ever, one after the other.
    wanted: Option<(u64, u64)>,
}

impl Ranges {
    /// Whether somebody else goes first.
    fn is_wanted(&self, start: u64, last: u64) -> bool {
        self.wanted
            .is_some_and(|(from, to)| start <= to && from <= last)
    }
}

// SAFETY: The nodes in the tree may be reached from any thread: each is a `RangeNode`, which is
// `Send` and `Sync`.
unsafe impl Send for Ranges {}

/// Ranges that are locked, each by a [`RangeNode`] that its user provides. Nothing is allocated,
/// and nothing sleeps: who cannot lock is told so, and has to try again.
///
/// All of it may be used in any context but NMI. One spin lock protects it.
#[pin_data]
pub(crate) struct RangeLock {
    #[pin]
    ranges: IrqSpinLock<Ranges>,
}

impl RangeLock {
    /// With nothing locked.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            ranges <- new_irq_spinlock!(
                Ranges {
                    root: bindings::rb_root_cached::default(),
                    waiting: false,
                    wanted: None,
                },
                "dm::RangeLock::ranges"
            ),
        })
    }

    /// Whether nothing is locked.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.lock().root.rb_root.rb_node.is_null()
    }
}

/// The [`RangeNode::owner`] of a node that some thread is just working on.
const BUSY: *mut RangeLock = ptr::without_provenance_mut(1);

/// One range that is locked, or none. It lives where its user wants it: in a bio's data, say.
///
/// Dropping it unlocks. (And nobody is told whether others wait: see [`RangeNode::unlock`].)
///
/// # Invariants
///
/// `owner` is null, [`BUSY`], or what `Arc::into_raw` returned. In the last case `node` is in
/// that lock's tree, and only then. Whoever set it to `BUSY` has the right to use `node`, and the
/// reference, if it was not null.
#[pin_data(PinnedDrop)]
pub(crate) struct RangeNode {
    node: Opaque<bindings::dm_rs_range>,
    owner: Atomic<*mut RangeLock>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: By the type's invariants the node is used by one thread at a time, or under the lock.
unsafe impl Send for RangeNode {}
// SAFETY: As above.
unsafe impl Sync for RangeNode {}

impl RangeNode {
    /// One that has nothing locked.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: `owner` is null, and the node is in no tree.
        pin_init!(Self {
            node: Opaque::uninit(),
            owner: Atomic::new(ptr::null_mut()),
            _pin: PhantomPinned,
        })
    }

    /// Locks `start..=last`, unless somebody holds what does not go with it. An empty range
    /// (`last < start`) and a node that has something locked already are refused too.
    ///
    /// When this returns `false` for a conflict, a mark is left at the lock: somebody waits. The
    /// next [`RangeNode::unlock`] takes the mark away and reports it. It may do so before the
    /// caller has put what is to be tried again where the retrying looks for it, so the caller
    /// must do that and then see to one retry itself (or try once more).
    pub(crate) fn try_lock(
        &self,
        lock: &Arc<RangeLock>,
        start: u64,
        last: u64,
        mode: Mode,
    ) -> bool {
        if last < start {
            return false;
        }
        // INVARIANT: The node is in no tree, and from here on it is ours.
        if self.owner.cmpxchg(ptr::null_mut(), BUSY, Acquire).is_err() {
            return false;
        }
        let exclusive = mode == Mode::Exclusive;

        let mut ranges = lock.ranges.lock();
        let root = &raw mut ranges.root;
        // Whoever is let go first finds what it wants unlocked when somebody unlocks, for until then
        // somebody has it locked.
        let stand_back = !exclusive && ranges.is_wanted(start, last);
        // SAFETY: The tree is well-formed, and protected by the lock that is held.
        if stand_back || unsafe { bindings::dm_rs_range_conflicts(root, start, last, exclusive) } {
            ranges.waiting = true;
            if exclusive && ranges.wanted.is_none() {
                ranges.wanted = Some((start, last));
            }
            drop(ranges);
            // INVARIANT: The node is in no tree.
            self.owner.store(ptr::null_mut(), Release);
            return false;
        }
        // SAFETY: The node is ours, so it may be written. It is pinned, and does not go without
        // being removed, so it may be in the tree, which is protected by the lock that is held.
        unsafe {
            self.node.get().write(bindings::dm_rs_range {
                start,
                last,
                exclusive,
                ..Default::default()
            });
            bindings::dm_rs_range_insert(self.node.get(), root);
        }
        drop(ranges);
        // INVARIANT: The node is in this tree.
        self.owner
            .store(Arc::into_raw(lock.clone()).cast_mut(), Release);
        true
    }

    /// Unlocks. Returns whether somebody waits who should try again now. Does nothing, and returns
    /// `false`, when nothing is locked.
    pub(crate) fn unlock(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        if owner.is_null() || owner == BUSY {
            return false;
        }
        // INVARIANT: From here on node and reference are ours.
        if self.owner.cmpxchg(owner, BUSY, Acquire).is_err() {
            return false;
        }
        // SAFETY: By the type's invariants it came from `Arc::into_raw`, and is ours.
        let lock = unsafe { Arc::from_raw(owner.cast_const()) };

        let mut ranges = lock.ranges.lock();
        let root = &raw mut ranges.root;
        // SAFETY: By the type's invariants the node is in this tree, which is protected by the
        // lock that is held.
        unsafe { bindings::dm_rs_range_remove(self.node.get(), root) };
        let waiting = core::mem::take(&mut ranges.waiting);
        ranges.wanted = None;
        drop(ranges);
        // INVARIANT: The node is in no tree.
        self.owner.store(ptr::null_mut(), Release);
        waiting
    }

    /// Whether it has something locked.
    pub(crate) fn is_locked(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        !owner.is_null() && owner != BUSY
    }
}

#[pinned_drop]
impl PinnedDrop for RangeNode {
    fn drop(self: Pin<&mut Self>) {
        // Nobody else is at it, so this leaves the node in no tree.
        self.unlock();
    }
}
