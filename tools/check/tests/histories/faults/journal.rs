// SPDX-License-Identifier: GPL-2.0

//! A journal that is cut: blocks without their last entries, without what is behind a block, and
//! without what is between two of them.

use dm_snap_mv_model::disk::journal::CHECKSUM_XOR;
use dm_snap_mv_store::{checksum, Block};

use super::blocks::Fault;
use super::fields::ENTRIES;
use super::stores::Subject;

fn seal(block: &mut Block) {
    let sum = checksum::of_block(block, CHECKSUM_XOR).to_le_bytes();
    block.0[..4].copy_from_slice(&sum);
}

fn used(block: &Block) -> usize {
    u32::from_le_bytes(block.0[48..52].try_into().unwrap()) as usize
}

/// Where the entries of a block begin, and where they end.
fn bounds(block: &Block) -> Vec<usize> {
    let end = used(block);
    let mut at = 64;
    let mut all = Vec::new();
    while at < end {
        all.push(at);
        at += ENTRIES[usize::from(block.0[at]) - 1].1;
    }
    all
}

/// All cuts of a subject's journal.
pub fn cuts(subject: &Subject, each: &mut dyn FnMut(Fault)) {
    let good = &subject.image;
    let start = good.superblock().layout.journal_start;
    let count = (start..)
        .take_while(|nr| good.blocks.contains_key(nr))
        .count() as u64;
    for nr in start..start + count {
        for at in bounds(&good.blocks[&nr]) {
            let mut image = good.clone();
            let block = image.blocks.get_mut(&nr).unwrap();
            block.0[at..].fill(0);
            block.0[48..52].copy_from_slice(&(at as u32).to_le_bytes());
            seal(block);
            each(Fault {
                what: format!("journal: block {nr} is cut at byte {at}"),
                of: vec!["journal"],
                sort: "cut",
                image,
            });
        }
        // Without this block and some behind it.
        for end in nr + 1..=start + count {
            let mut image = good.clone();
            for nr in nr..end {
                image.blocks.get_mut(&nr).unwrap().0.fill(0);
            }
            let last = end == start + count;
            each(Fault {
                what: format!("journal: blocks {nr} to {} are lost", end - 1),
                of: vec!["journal"],
                sort: if last { "end" } else { "hole" },
                image,
            });
        }
        // And what is behind them takes their place.
        let mut image = good.clone();
        for to in nr..start + count {
            let Some(next) = good
                .blocks
                .get(&(to + 1))
                .filter(|_| to + 1 < start + count)
            else {
                image.blocks.remove(&to);
                continue;
            };
            let mut next = next.clone();
            next.0[8..16].copy_from_slice(&to.to_le_bytes());
            next.0[40..48].copy_from_slice(&(to - start).to_le_bytes());
            seal(&mut next);
            image.blocks.insert(to, next);
        }
        each(Fault {
            what: format!("journal: block {nr} is left out"),
            of: vec!["journal"],
            sort: "left out",
            image,
        });
    }
}
