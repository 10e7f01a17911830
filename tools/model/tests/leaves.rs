// SPDX-License-Identifier: GPL-2.0

//! What is remembered of leaves, against trees whose leaves split, move and share out their keys as
//! persistent-data's do.

use dm_snap_mv_model::leaves::{Leaf, Leaves};
use proptest::prelude::*;

/// Keys that a leaf has room for.
const ROOM: usize = 6;

/// A leaf as it is.
#[derive(Clone, Debug)]
struct Real {
    first: u64,
    block: u64,
    made_in: u64,
    keys: Vec<u64>,
}

/// A tree: its leaves in order. All keys from a leaf's first to the next one's belong there; what is
/// less than all is inserted into the first leaf, whose bound follows.
struct Tree(Vec<Real>);

struct World {
    trees: Vec<Tree>,
    transaction: u64,
    blocks: u64,
    leaves: Leaves<Vec<Leaf>>,
}

impl World {
    fn new(trees: u64, room: usize) -> World {
        let tree = |block| {
            let root = Real {
                first: 0,
                block,
                made_in: 0,
                keys: Vec::new(),
            };
            Tree(vec![root])
        };
        World {
            trees: (0..trees).map(tree).collect(),
            transaction: 1,
            blocks: trees,
            leaves: Leaves::new(vec![Leaf::default(); room]),
        }
    }

    fn index(&self, tree: usize, key: u64) -> usize {
        let behind = self.trees[tree].0.partition_point(|l| l.first <= key);
        behind.saturating_sub(1)
    }

    fn real(&self, tree: usize, i: usize) -> Leaf {
        let leaves = &self.trees[tree].0;
        Leaf {
            tree: tree as u64,
            first: leaves[i].first,
            end: leaves.get(i + 1).map(|next| next.first),
            block: leaves[i].block,
            made_in: leaves[i].made_in,
        }
    }

    /// What is known of a key is so.
    fn check(&self, tree: usize, key: u64) -> Option<Leaf> {
        let found = self.leaves.find(tree as u64, key)?;
        let real = self.real(tree, self.index(tree, key));
        assert_eq!(
            Leaf {
                made_in: 0,
                ..found
            },
            Leaf { made_in: 0, ..real },
            "of tree {tree}, key {key}"
        );
        assert!(found.first <= key);
        if found.made_in == self.transaction {
            assert_eq!(real.made_in, self.transaction, "it may not be changed");
        }
        Some(found)
    }

    fn look_up(&mut self, tree: usize, key: u64) {
        if self.check(tree, key).is_none() {
            let real = self.real(tree, self.index(tree, key));
            self.leaves.remember(Leaf { made_in: 0, ..real });
            if key >= real.first {
                assert!(self.check(tree, key).is_some(), "it was just remembered");
            }
        }
    }

    /// Each leaf that is changed is another block, once in a transaction.
    fn shadow(&mut self, tree: usize, i: usize) {
        let leaf = &mut self.trees[tree].0[i];
        if leaf.made_in != self.transaction {
            self.blocks += 1;
            leaf.block = self.blocks;
            leaf.made_in = self.transaction;
        }
    }

    fn insert(&mut self, tree: usize, key: u64, dice: u64) {
        let i = self.index(tree, key);
        // With room, and when it is known that it may be changed, nobody is asked.
        let known = self.check(tree, key);
        let is_full = self.trees[tree].0[i].keys.len() >= ROOM;
        if known.is_some_and(|leaf| leaf.made_in == self.transaction) && !is_full {
            self.put(tree, key);
            return;
        }
        if is_full {
            self.leaves.forget_near(tree as u64, key);
            self.make_room(tree, i, dice);
        }
        let i = self.index(tree, key);
        self.shadow(tree, i);
        self.put(tree, key);
        let real = self.real(tree, i);
        self.leaves.remember(real);
        assert_eq!(self.check(tree, key), Some(real));
    }

    fn put(&mut self, tree: usize, key: u64) {
        let i = self.index(tree, key);
        let leaf = &mut self.trees[tree].0[i];
        leaf.first = leaf.first.min(key);
        if let Err(at) = leaf.keys.binary_search(&key) {
            leaf.keys.insert(at, key);
        }
    }

    /// The keys of some leaves, beginning with one, are shared out among `into`.
    fn share_out(&mut self, tree: usize, from: usize, many: usize, into: usize) {
        let leaves = &mut self.trees[tree].0;
        // Above the first one stands the least of its keys, once there is something above it.
        let bound = (from > 0 || into == 1).then_some(leaves[from].first);
        let mut old: Vec<Real> = leaves.drain(from..from + many).collect();
        let keys: Vec<u64> = old.iter().flat_map(|leaf| leaf.keys.clone()).collect();
        for j in 0..into {
            let part = &keys[keys.len() * j / into..keys.len() * (j + 1) / into];
            self.blocks += 1;
            let mut new = Real {
                first: bound.filter(|_| j == 0).unwrap_or(part[0]),
                block: self.blocks,
                made_in: self.transaction,
                keys: part.to_vec(),
            };
            // A block of this transaction is kept.
            if let Some(old) = old.get_mut(j).filter(|l| l.made_in == self.transaction) {
                new.block = old.block;
            }
            self.trees[tree].0.insert(from + j, new);
        }
    }

    fn make_room(&mut self, tree: usize, i: usize, dice: u64) {
        let last = self.trees[tree].0.len() - 1;
        match dice % 4 {
            0 if i > 0 => self.share_out(tree, i - 1, 2, 2),
            1 if i < last => self.share_out(tree, i, 2, 2),
            2 if i > 0 => self.share_out(tree, i - 1, 2, 3),
            3 if i < last => self.share_out(tree, i, 2, 3),
            _ => self.share_out(tree, i, 1, 2),
        }
        // Two that were full are no better off by sharing.
        let i = i.min(self.trees[tree].0.len() - 1);
        if self.trees[tree].0[i].keys.len() >= ROOM {
            self.share_out(tree, i, 1, 2);
        }
    }

    /// Keys go, and leaves with them.
    fn remove(&mut self, tree: usize, key: u64) {
        self.leaves.forget();
        let i = self.index(tree, key);
        self.shadow(tree, i);
        self.trees[tree].0[i].keys.retain(|&k| k != key);
        if self.trees[tree].0[i].keys.len() < ROOM / 3 && i > 0 {
            let many = self.trees[tree].0[i - 1].keys.len() + self.trees[tree].0[i].keys.len();
            self.share_out(tree, i - 1, 2, if many < ROOM { 1 } else { 2 });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_known_is_so(
        room in 1usize..40,
        ops in prop::collection::vec((0u8..20, 0usize..3, 0u64..400, any::<u64>()), 1..400),
    ) {
        let mut world = World::new(3, room);
        for (op, tree, key, dice) in ops {
            match op {
                0..=9 => world.insert(tree, key, dice),
                10..=16 => world.look_up(tree, key),
                17 => world.transaction += 1,
                18 => world.remove(tree, key),
                _ => world.insert(tree, key / 50, dice),
            }
            for key in (0..400).step_by(7) {
                world.check(tree, key);
            }
        }
    }
}

#[test]
fn as_many_as_there_is_room_for() {
    let leaf = |i: u64| Leaf {
        tree: 1,
        first: i * 10,
        end: Some(i * 10 + 10),
        block: i,
        made_in: 0,
    };
    let mut leaves = Leaves::new(vec![Leaf::default(); 8]);
    for i in (0..8).rev() {
        leaves.remember(leaf(i));
    }
    for i in 0..8 {
        assert_eq!(leaves.find(1, i * 10 + 9), Some(leaf(i)));
    }
    leaves.remember(leaf(8));
    assert_eq!(leaves.find(1, 80), Some(leaf(8)));
    assert_eq!(leaves.find(1, 79), None);
    assert_eq!(leaves.find(0, 80), None);
    assert_eq!(leaves.find(2, 80), None);
    leaves.forget();
    assert_eq!(leaves.find(1, 80), None);
    // Without room nothing is known.
    let mut none = Leaves::new(Vec::new());
    none.remember(leaf(1));
    assert_eq!(none.find(1, 10), None);
}
