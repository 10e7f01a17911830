// SPDX-License-Identifier: GPL-2.0

//! Blocks that are lost, that cannot be read, that hold what they held before, or what belongs
//! elsewhere.

use dm_snap_mv_model::disk::journal;
use dm_snap_mv_store::{checksum, Block};

use super::places::{Places, Used};
use super::stores::Subject;
use crate::image::Image;
use crate::random::Random;

/// With so many others each block is exchanged, unless it is with all.
const OTHERS: usize = 3;

/// An image with a fault, and what that is.
pub struct Fault {
    pub what: String,
    /// What it is in, of one block or two, and the sort of it.
    pub of: Vec<&'static str>,
    pub sort: &'static str,
    pub image: Image,
}

/// Has a block say where it stands.
fn moved(block: &Block, xor: u32, to: &Used, image: &Image) -> Box<Block> {
    let bytes = &block.0;
    let mut block = Block::zeroed();
    block.0.copy_from_slice(bytes);
    block.0[8..16].copy_from_slice(&to.block.to_le_bytes());
    if xor == journal::CHECKSUM_XOR {
        let begin = image.superblock().layout.journal_start;
        block.0[40..48].copy_from_slice(&to.block.wrapping_sub(begin).to_le_bytes());
    }
    let sum = checksum::of_block(&block, xor).to_le_bytes();
    block.0[..4].copy_from_slice(&sum);
    block
}

/// Has an image hold a block. In place, for blocks are large, and aligned as none on a stack should be.
fn put(image: &mut Image, nr: u64, block: &Block) {
    match image.blocks.get_mut(&nr) {
        Some(place) => place.0.copy_from_slice(&block.0),
        None => unreachable!("block {nr} is one of the image's"),
    }
}

/// All of them, or some.
pub fn faults(subject: &Subject, all: bool, random: &mut Random, each: &mut dyn FnMut(Fault)) {
    let good = &subject.image;
    let blocks = Places::of(good).blocks;
    for used in &blocks {
        let nr = used.block;
        let mut fault = |of: &[&'static str], sort, what: &str, edit: &dyn Fn(&mut Image)| {
            let mut image = good.clone();
            edit(&mut image);
            each(Fault {
                what: format!("{}: block {nr} {what}", used.of),
                of: [&[used.of], of].concat(),
                sort,
                image,
            });
        };
        fault(&[], "lost", "is lost", &|image| {
            image.blocks.get_mut(&nr).unwrap().0.fill(0);
        });
        fault(&[], "lost", "cannot be read", &|image| {
            image.broken.insert(nr);
        });
        fault(&[], "lost", "is something else", &|image| {
            image.blocks.get_mut(&nr).unwrap().0.fill(0x53);
        });
        for (i, earlier) in subject.earlier.iter().enumerate() {
            let before = earlier.blocks.get(&nr);
            if let Some(before) = before.filter(|before| before.0 != good.blocks[&nr].0) {
                fault(&[], "old", &format!("is {} commits old", i + 1), &|image| {
                    put(image, nr, before);
                });
            }
        }
        let mut others: Vec<_> = blocks.iter().filter(|other| other.block != nr).collect();
        while !all && others.len() > OTHERS {
            others.swap_remove(random.below(others.len() as u64) as usize);
        }
        for other in others {
            let its = moved(&good.blocks[&other.block], other.xor, used, good);
            let ours = moved(&good.blocks[&nr], used.xor, other, good);
            fault(
                &[],
                "exchanged",
                &format!("holds what is {} in block {}", other.of, other.block),
                &|image| {
                    put(image, nr, &its);
                },
            );
            fault(
                &[other.of],
                "exchanged",
                &format!("and {} in block {} are exchanged", other.of, other.block),
                &|image| {
                    put(image, nr, &its);
                    put(image, other.block, &ours);
                },
            );
        }
    }
}
