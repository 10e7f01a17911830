// SPDX-License-Identifier: GPL-2.0
//! Trees that are read in parts, and blocks that are read ahead.

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::superblock::{Roots, Superblock, CHECKSUM_XOR};
use dm_snap_mv_store::{checksum, node, Block, Blocks, Device, Store};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

#[derive(Default)]
struct Memory {
    blocks: BTreeMap<u64, Box<Block>>,
    next: u64,
}

impl Blocks for Memory {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let block = self.blocks.get(&nr).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(block.clone())
    }
}

fn number(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

impl Memory {
    fn node(&mut self, leaf: bool, entries: &[(u64, Vec<u8>)]) -> u64 {
        self.next += 1;
        let block = node::make(leaf, 8, entries, self.next);
        self.blocks.insert(self.next, block);
        self.next
    }

    /// A tree of `height` levels above the leaves, each node with five below it, and of three entries in
    /// each leaf: keys are even. Returns its root.
    fn tree(&mut self, height: u32, first: u64) -> u64 {
        if height == 0 {
            return self.node(true, &[0, 2, 4].map(|i| (first + i, number(first + i + 1))));
        }
        let keys = 6 * 5u64.pow(height - 1);
        let firsts = [0, 1, 2, 3, 4].map(|i| first + i * keys);
        let below = firsts.map(|first| (first, number(self.tree(height - 1, first))));
        self.node(false, &below)
    }

    fn put_superblock(&mut self, records: u64) {
        let superblock = Superblock {
            clean: true,
            needs_check: false,
            cow_full: false,
            uuid: [7; 16],
            compat: 0,
            ro_compat: 0,
            incompat: 1,
            layout: Layout::new(1 << 20, ChunkSize::from_pages(1).unwrap(), None).unwrap(),
            transaction: 1,
            next_origin: 1,
            nr_origins: 0,
            roots: Roots {
                records,
                ..Roots::default()
            },
            metadata_space: [0; 128],
            data_space: [0; 128],
            strange: [0; 64],
        };
        let mut block = Block::zeroed();
        superblock.encode(&mut block.0);
        Superblock::seal(&mut block.0, |covered| {
            checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
        });
        self.blocks.insert(0, block);
    }
}

#[test]
fn parts_make_a_whole() {
    for height in 0..4 {
        let mut memory = Memory::default();
        let root = memory.tree(height, 0);
        memory.put_superblock(root);
        let store = Store::open(&memory).unwrap();
        let tree = store.all_records();
        let end = 6 * 5u64.pow(height);
        let all: Vec<_> = (0..end / 2).map(|i| (2 * i, 2 * i + 1)).collect();
        for from in (0..=end).step_by(1 + height as usize * 7) {
            for most in (1..10).chain([50, 100, 200, 1000]) {
                let mut at = Some(from);
                let mut found = Vec::new();
                while let Some(from) = at {
                    let part = tree.part(from, most, &|_, _| true).unwrap();
                    assert!(part.leaves() <= most);
                    let entries = tree.entries(&part).unwrap();
                    let below = |next| entries.iter().all(|&(key, _)| key < next);
                    assert!(part.next().is_none_or(below));
                    assert!(part.next().is_none_or(|next| next > from));
                    found.extend(entries);
                    at = part.next();
                }
                let rest = all.partition_point(|&(key, _)| key < from);
                assert_eq!(found, all[rest..], "{height}: from {from}, {most} leaves");
            }
        }
    }
}

#[test]
fn blocks_come_in_the_order_in_which_they_are_asked_for() {
    let path = std::env::temp_dir().join(format!("dms-ahead-{}", std::process::id()));
    let mut bytes = Vec::new();
    for nr in 0..1000u64 {
        bytes.extend(nr.to_le_bytes().repeat(512));
    }
    std::fs::write(&path, bytes).unwrap();
    let device = Device::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Some of them are not there.
    let numbers: Vec<_> = (0..900).map(|i| i * 607 % 1009).collect();
    for most in [1, 31, 32, 33, 400, 899, 900] {
        let mut found = Vec::new();
        device.read_ahead(&numbers, &mut |block| {
            let nr = block.map(|block| u64::from_le_bytes(*block.0.last_chunk().unwrap()));
            found.push(nr.ok());
            match found.len() == most {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let there = |&nr: &u64| Some(nr).filter(|&nr| nr < 1000);
        let expected: Vec<_> = numbers.iter().take(most).map(there).collect();
        assert_eq!(found, expected, "{most}");
    }
}
