// SPDX-License-Identifier: GPL-2.0

//! Metadata blocks: whatever is let in, a commit can follow it, what the journal stands for can be done
//! again, and preserving finds what snapshots have left to it.

use dm_snap_mv_model::room::{Blocks, For};
use proptest::prelude::*;

/// Records that a leaf has at least when they come in any order.
const LEAST_IN_LEAF: u64 = 126;

/// A store whose trees take as much for each change as they may.
#[derive(Clone, Debug)]
struct Sim {
    /// As it is in the running transaction.
    now: Blocks,
    /// What comes free with the next commit.
    replaced: u64,
    /// Copies under way.
    copies: Vec<u64>,
    /// Records, for which leaves are half full.
    records: u64,
    leaves: u64,
    /// Leaves that are full: a record more, and there are two.
    full: u64,
    /// What would be taken by doing again what the journal stands for.
    journaled: u64,
}

#[derive(Clone, Debug)]
enum Op {
    /// Zeroes of a snapshot, of so many chunks.
    Zeroes(u64),
    /// A copy begins.
    Copy(bool, u64),
    /// One of those under way is recorded, by steps of no more than this.
    Record(usize, u64),
    /// A rollback's marks.
    Marks(u64),
    /// Something is taken away.
    Clean,
    /// The journal is written, or the trees if that is not enough.
    Persist,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1u64..3000).prop_map(Op::Zeroes),
        6 => (any::<bool>(), 1u64..1025).prop_map(|(origin, len)| Op::Copy(origin, len)),
        6 => (any::<usize>(), 1u64..2000).prop_map(|(i, most)| Op::Record(i, most)),
        2 => (1u64..2000).prop_map(Op::Marks),
        1 => Just(Op::Clean),
        3 => Just(Op::Persist),
    ]
}

impl Sim {
    fn new(total: u64, chunks: u64, full: u64) -> Sim {
        let free = total - 16 - full;
        Sim {
            now: Blocks {
                total,
                free,
                free_at_first: free,
                rows: 0,
                chunks,
                free_chunks: chunks,
                runs: 0,
                run_chunks: 0,
            },
            replaced: 0,
            copies: Vec::new(),
            records: 0,
            leaves: 1,
            full,
            journaled: 0,
        }
    }

    fn take(&mut self, blocks: u64) {
        assert!(blocks <= self.now.free, "no block is left: {self:?}");
        self.now.free -= blocks;
    }

    fn commit(&mut self) {
        self.take(self.now.commit_needs());
        // It has replaced as many.
        self.now.free += self.now.commit_needs() + self.replaced;
        self.now.rows = 0;
        self.now.free_at_first = self.now.free;
        (self.replaced, self.journaled) = (0, 0);
    }

    fn have(&mut self, enough: impl Fn(&Blocks) -> bool) -> bool {
        if !enough(&self.now) {
            self.commit();
        }
        enough(&self.now)
    }

    /// Changes so many records: each takes a leaf anew, and the leaves there are get more as they must.
    fn change(&mut self, new: u64, changed: u64, split: u64) {
        self.records += new;
        let leaves = self.records.div_ceil(LEAST_IN_LEAF).max(self.leaves);
        let split = self.full.min(split);
        let grown = leaves - self.leaves + split;
        self.full -= split;
        let anew = (changed * 3).min(self.leaves + grown) + 8;
        self.take(grown + anew);
        self.leaves = leaves;
        self.replaced += anew;
        self.now.rows = (self.now.rows + 1).min(4);
    }

    /// By steps; false if there was no room for all.
    fn record(&mut self, len: u64, most: u64) -> bool {
        let mut left = len;
        // A run lies in leaves that follow one another: the first of them may be full.
        let mut split = 1;
        while left > 0 {
            let wanted = left.min(most);
            if !self.have(|b| b.changes() >= wanted.min(4)) && self.now.changes() == 0 {
                return false;
            }
            let part = self.now.changes().min(wanted);
            self.change(part, part, split);
            split = 0;
            left -= part;
        }
        true
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Zeroes(len) => {
                if self.have(|b| b.admit(For::Snapshots, len)) {
                    assert!(self.record(len, u64::MAX), "let in, and no room: {self:?}");
                }
            }
            Op::Copy(origin, len) => {
                let purpose = [For::Snapshots, For::Preserving][usize::from(origin)];
                let len = len.min(self.now.free_chunks);
                if len > 0 && self.copies.len() < 512 && self.have(|b| b.admit(purpose, len)) {
                    self.copies.push(len);
                    self.now.runs += 1;
                    self.now.run_chunks += len;
                    self.now.free_chunks -= len;
                }
            }
            Op::Record(i, most) => {
                if self.copies.is_empty() {
                    return;
                }
                let len = self.copies.swap_remove(i % self.copies.len());
                self.now.runs -= 1;
                self.now.run_chunks -= len;
                assert!(self.record(len, most), "promised, and no room: {self:?}");
            }
            Op::Marks(len) => {
                if self.have(|b| b.admit(For::Preserving, len)) {
                    assert!(self.record(len, u64::MAX), "let in, and no room: {self:?}");
                }
            }
            Op::Clean => {
                assert!(self.have(|b| b.changes() > 0), "upkeep has none: {self:?}");
                self.change(0, 1, 0);
            }
            Op::Persist => {
                if !self.now.can_be_replayed() {
                    return self.commit();
                }
                self.journaled = self.now.free_at_first - self.now.free;
                // Done again, it may take twice as much, and a commit.
                let needed = 2 * self.journaled + self.now.commit_needs();
                assert!(
                    needed <= self.now.free_at_first,
                    "{needed} blocks: {self:?}"
                );
            }
        }
        // It can always be closed.
        self.clone().commit();
    }
}

/// Metadata blocks, and data chunks for which they were made.
fn sizes() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (1024u64..1025, 16u64..65536),
        (1024u64..70_000).prop_map(|blocks| (blocks, blocks * 64)),
        // The device has grown.
        (1024u64..4096).prop_map(|blocks| (blocks, blocks * 1000)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_meets_the_end(
        (total, chunks) in sizes(),
        full in 0u64..800,
        ops in prop::collection::vec(op(), 1..300),
        copies in 0usize..512,
    ) {
        let mut sim = Sim::new(total, chunks, full);
        for op in &ops {
            sim.apply(op);
        }
        // As many at once as are let in.
        for _ in 0..copies {
            sim.apply(&Op::Copy(true, 1));
        }
        while !sim.copies.is_empty() {
            sim.apply(&Op::Record(0, 1));
        }
        // As many marks as there is room for, and then what gives room back.
        for len in [1500, 200, 20, 1] {
            while sim.have(|b| b.admit(For::Preserving, len)) {
                sim.apply(&Op::Marks(len));
            }
        }
        sim.apply(&Op::Clean);
    }

    /// Whatever snapshots have written before, all chunks that are free can be preserved into, one by
    /// one, each record in a leaf that is as empty as one can be.
    #[test]
    fn preserving_finds_its_part(
        (total, chunks) in prop_oneof![
            (1024u64..1025, 16u64..40_000),
            (1024u64..3000).prop_map(|blocks| (blocks, blocks * 60)),
        ],
        ops in prop::collection::vec(op(), 0..60),
    ) {
        let mut sim = Sim::new(total, chunks, 0);
        for op in ops.iter().filter(|op| !matches!(op, Op::Marks(_))) {
            sim.apply(op);
        }
        while !sim.copies.is_empty() {
            sim.apply(&Op::Record(0, u64::MAX));
        }
        // As many zeroes as there is room for, and nothing else.
        for len in [2048, 512, 64, 1] {
            while sim.have(|b| b.admit(For::Snapshots, len)) {
                sim.apply(&Op::Zeroes(len));
            }
        }
        while sim.now.free_chunks > 0 {
            let before = sim.now.free_chunks;
            sim.apply(&Op::Copy(true, 1));
            prop_assert!(sim.now.free_chunks < before, "preserving has no room: {sim:?}");
            sim.apply(&Op::Record(0, 1));
        }
    }

    /// What is let in for a snapshot would be for preserving.
    #[test]
    fn snapshots_never_have_more(total in 1024u64..1 << 22, free in 0u64..1 << 22, first in 0u64..1 << 22,
                                 chunks in 0u64..1 << 40, used in 0u64..1 << 40, rows in 0u64..2000,
                                 runs in 0u64..513, each in 0u64..1025, len in 0u64..1 << 20) {
        let blocks = Blocks {
            total,
            free: free.min(total),
            free_at_first: first.max(free).min(total),
            rows,
            chunks,
            free_chunks: chunks.saturating_sub(used),
            runs,
            run_chunks: runs * each,
        };
        prop_assert!(!blocks.admit(For::Snapshots, len) || blocks.admit(For::Preserving, len));
        prop_assert!(blocks.changes() * 8 <= blocks.free);
        prop_assert!(blocks.kept_for_preserving() <= total / 2);
    }
}
