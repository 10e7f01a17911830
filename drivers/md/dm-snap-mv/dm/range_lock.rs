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
    /// What is locked.
    held: bindings::rb_root_cached,
    /// What somebody wants to lock exclusively, and waits for: in the order of their turns. Others let it
    /// be until then, or those who share it could have it for ever, one after the other.
    wanted: bindings::rb_root_cached,
    /// The turn of who waits next.
    next_turn: u64,
}

// SAFETY: The nodes in the trees may be reached from any thread: each is a `RangeNode`, which is
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
                    held: bindings::rb_root_cached::default(),
                    wanted: bindings::rb_root_cached::default(),
                    next_turn: 0,
                },
                "dm::RangeLock::ranges"
            ),
        })
    }

    /// Whether nothing is locked.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.lock().held.rb_root.rb_node.is_null()
    }
}

/// The [`RangeNode::owner`] of a node that some thread is just working on.
const BUSY: *mut RangeLock = ptr::without_provenance_mut(1);

/// One range that is locked or waited for, or none. It lives where its user wants it: in a bio's data,
/// say.
///
/// Dropping it unlocks. (And nobody is told whether others wait: see [`RangeNode::unlock`].)
///
/// # Invariants
///
/// `owner` is null, [`BUSY`], or what `Arc::into_raw` returned. In the last case `node` is in one of
/// that lock's trees, in `held` if `is_held` says so and else in `wanted`, and only then. Whoever set it
/// to `BUSY` has the right to use `node` and to set `is_held`, and the reference, if it was not null.
#[pin_data(PinnedDrop)]
pub(crate) struct RangeNode {
    node: Opaque<bindings::dm_rs_range>,
    owner: Atomic<*mut RangeLock>,
    is_held: Atomic<bool>,
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
            is_held: Atomic::new(false),
            _pin: PhantomPinned,
        })
    }

    /// Locks `start..=last`, unless somebody holds what does not go with it, or has waited longer for
    /// what overlaps it. An empty range (`last < start`), a node that has something locked already and
    /// one that waits for another lock are refused too.
    ///
    /// When this returns `false` for a conflict, the [`RangeNode::unlock`] of whoever is in the way
    /// reports that somebody waits, that of nobody else. It may do so before the caller has put what is to
    /// be tried again where the retrying looks for it, so the caller must do that and then see to one
    /// retry itself (or try once more).
    ///
    /// Who wants it exclusively keeps its turn: until it has tried again and got it, or has called
    /// [`RangeNode::unlock`], nobody else gets what it wants. So it must do the one or the other. It may
    /// want another range when it tries again.
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
        let owner = self.owner.load(Relaxed);
        let waits = ptr::eq(owner, Arc::as_ptr(lock));
        if !owner.is_null() && !waits {
            return false;
        }
        // INVARIANT: From here on the node is ours, and the reference, if there is one.
        if self.owner.cmpxchg(owner, BUSY, Acquire).is_err() {
            return false;
        }
        if self.is_held.load(Relaxed) {
            // INVARIANT: The node stays where it is, and the reference with it.
            self.owner.store(owner, Release);
            return false;
        }
        let exclusive = mode == Mode::Exclusive;

        let mut guard = lock.ranges.lock();
        let ranges = &mut *guard;
        let (mut turn, mut waited_for) = (u64::MAX, false);
        if waits {
            // SAFETY: By the type's invariants the node is in this tree, which is protected by the lock
            // that is held, and so can be read.
            unsafe {
                bindings::dm_rs_range_remove(self.node.get(), &raw mut ranges.wanted);
                (turn, waited_for) = ((*self.node.get()).turn, (*self.node.get()).waited_for);
            }
        }
        let (held, wanted) = (&raw mut ranges.held, &raw mut ranges.wanted);
        // SAFETY: The trees are well-formed, and protected by the lock that is held. So are the nodes in
        // them, of which one may be marked.
        let is_free = unsafe {
            let mut other = bindings::dm_rs_range_conflict(held, start, last, exclusive);
            if other.is_null() {
                other = bindings::dm_rs_range_before(wanted, start, last, turn);
            }
            if !other.is_null() {
                (*other).waited_for = true;
            }
            other.is_null()
        };
        let goes_in = is_free || exclusive;
        if goes_in {
            if !is_free && turn == u64::MAX {
                turn = ranges.next_turn;
                ranges.next_turn += 1;
            }
            // SAFETY: The node is ours, and in no tree, so it may be written. It is pinned, and does not
            // go without being removed, so it may be in a tree, which is protected by the lock that is
            // held.
            unsafe {
                self.node.get().write(bindings::dm_rs_range {
                    start,
                    last,
                    turn,
                    exclusive,
                    waited_for,
                    ..Default::default()
                });
                let root = if is_free { held } else { wanted };
                bindings::dm_rs_range_insert(self.node.get(), root);
            }
        }
        drop(guard);
        if waits {
            // SAFETY: By the type's invariants it came from `Arc::into_raw`, and is ours. It is not the
            // last, as there is `lock`.
            drop(unsafe { Arc::from_raw(owner.cast_const()) });
        }
        self.is_held.store(is_free, Relaxed);
        let owner = match goes_in {
            true => Arc::into_raw(lock.clone()).cast_mut(),
            false => ptr::null_mut(),
        };
        // INVARIANT: The node is in the tree that `is_held` names, or in none.
        self.owner.store(owner, Release);
        is_free
    }

    /// Unlocks, or waits no longer. Returns whether somebody waits for that, and should try again now.
    /// Does nothing, and returns `false`, when nothing is locked or waited for.
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
        let root = match self.is_held.load(Relaxed) {
            true => &raw mut ranges.held,
            false => &raw mut ranges.wanted,
        };
        // SAFETY: By the type's invariants the node is in this tree, which is protected by the
        // lock that is held.
        let waited_for = unsafe {
            bindings::dm_rs_range_remove(self.node.get(), root);
            (*self.node.get()).waited_for
        };
        drop(ranges);
        self.is_held.store(false, Relaxed);
        // INVARIANT: The node is in no tree.
        self.owner.store(ptr::null_mut(), Release);
        waited_for
    }

    /// Whether it has something locked.
    pub(crate) fn is_locked(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        !owner.is_null() && owner != BUSY && self.is_held.load(Relaxed)
    }
}

#[pinned_drop]
impl PinnedDrop for RangeNode {
    fn drop(self: Pin<&mut Self>) {
        // Nobody else is at it, so this leaves the node in no tree.
        self.unlock();
    }
}
