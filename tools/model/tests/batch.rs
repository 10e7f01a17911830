// SPDX-License-Identifier: GPL-2.0

//! What waits for a commit waits for the copies that it must, and for no others.

use std::collections::VecDeque;

use dm_snap_mv_model::batch::{Batch, Copies};
use proptest::collection::vec;
use proptest::prelude::*;

const ORIGINS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// A copy of an origin begins: a short one, or a long one.
    Begin(usize, bool),
    /// The oldest of its copies ends.
    End(usize),
    /// One of its writes joins the batch.
    Join(usize),
    /// Something else does.
    MustGo,
    /// What is in the batch waits no longer.
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..ORIGINS, prop::bool::weighted(0.8)).prop_map(|(o, short)| Op::Begin(o, short)),
        4 => (0..ORIGINS).prop_map(Op::End),
        3 => (0..ORIGINS).prop_map(Op::Join),
        1 => Just(Op::MustGo),
        1 => Just(Op::Commit),
    ]
}

/// A copy by its number, and whether it is short.
type Copy = (u64, bool);

/// All that is under way, and for which of it each origin's writes wait.
#[derive(Default)]
struct Oracle {
    next: u64,
    under_way: [VecDeque<Copy>; ORIGINS],
    waits_for: [Option<Vec<u64>>; ORIGINS],
    must_go: bool,
}

impl Oracle {
    fn join(&mut self, origin: usize) {
        let short = self.under_way[origin].iter().filter(|copy| copy.1);
        let numbers = short.map(|copy| copy.0).collect();
        self.waits_for[origin].get_or_insert(numbers);
    }

    fn is_whole(&self) -> bool {
        let is_through = |list: &Option<Vec<u64>>| list.as_ref().is_some_and(Vec::is_empty);
        self.must_go || self.waits_for.iter().any(is_through)
    }
}

fn sectors(short: bool) -> u64 {
    if short {
        64
    } else {
        65
    }
}

proptest! {
    #[test]
    fn a_batch_is_whole_when_what_it_began_with_has_ended(ops in vec(op(), 1..200)) {
        let mut batch = Batch::new();
        let mut copies = [Copies::default(); ORIGINS];
        let mut oracle = Oracle::default();
        for op in ops {
            match op {
                Op::Begin(o, short) => {
                    copies[o].begin(sectors(short));
                    oracle.under_way[o].push_back((oracle.next, short));
                    oracle.next += 1;
                }
                Op::End(o) => {
                    let Some((number, short)) = oracle.under_way[o].pop_front() else {
                        continue;
                    };
                    copies[o].end(sectors(short), &mut batch);
                    if let Some(list) = &mut oracle.waits_for[o] {
                        list.retain(|&n| n != number);
                    }
                }
                Op::Join(o) => {
                    copies[o].join(&mut batch);
                    oracle.join(o);
                }
                Op::MustGo => {
                    batch.must_go();
                    oracle.must_go = true;
                }
                Op::Commit => {
                    batch.end();
                    oracle.waits_for = Default::default();
                    oracle.must_go = false;
                }
            }
            prop_assert_eq!(batch.is_whole(), oracle.is_whole());
        }
    }
}
