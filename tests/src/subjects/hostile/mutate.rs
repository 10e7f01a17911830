// SPDX-License-Identifier: GPL-2.0

//! Ways to spoil an image.

use dm_snap_mv_store::block::Block;

use super::image::{self, le32, le64, put32, put64, Image, Kind, Tree, BLOCK, ENTRIES, HEADER};
use crate::random::Random;

/// Where the superblock has fields of 8 bytes.
const WIDE: &[usize] = &[
    64, 72, 80, 88, 96, 104, 112, 128, 136, 144, 152, 160, 168, 176, 256, 264, 272, 280, 384, 392,
    400, 408,
];
/// And of 4.
const NARROW: &[usize] = &[4, 40, 44, 48, 52, 56, 60, 120, 124];

/// Spoils a block of this kind so that a checksum tells. Returns what was done.
pub fn damage(image: &mut Image, kind: Kind, random: &mut Random) -> String {
    let number = pick_of(image, kind, random);
    let block = &mut image.blocks[number as usize];
    let what = match random.pick(0..4) {
        0 | 1 => {
            let bit = random.pick(0..BLOCK as u64 * 8);
            block.0[bit as usize / 8] ^= 1 << (bit % 8);
            format!("bit {bit}")
        }
        2 => {
            // A sector that was not written.
            let at = random.pick(0..8) as usize * 512;
            block.0[at..at + 512].fill(0);
            format!("no sector {at}")
        }
        _ => {
            let from = pick(image, random).0;
            image.blocks[number as usize] = image.blocks[from as usize].clone();
            format!("block {from} in its place")
        }
    };
    format!("block {number}, {kind}: {what}")
}

/// Spoils a block of this kind, and sometimes more of them, with right checksums. `old` is an
/// earlier image.
pub fn forge(image: &mut Image, old: &Image, kind: Kind, random: &mut Random) -> String {
    let times = match random.pick(0..8) {
        0..=5 => 1,
        6 => 2,
        _ => 4,
    };
    let number = pick_of(image, kind, random);
    let mut done = vec![forge_one(image, old, (number, kind), random)];
    for _ in 1..times {
        let another = pick(image, random);
        done.push(forge_one(image, old, another, random));
    }
    done.join("; ")
}

/// A block in use: each kind as often as any other.
fn pick(image: &Image, random: &mut Random) -> (u64, Kind) {
    let mut kinds: Vec<Kind> = image.counts().into_keys().collect();
    kinds.retain(|kind| *kind != Kind::LastBatch);
    let kind = *random.one_of(&kinds);
    (pick_of(image, kind, random), kind)
}

/// One of the blocks of a kind that there are some of.
fn pick_of(image: &Image, kind: Kind, random: &mut Random) -> u64 {
    let of_kind = image.kinds.iter().filter(|(_, k)| **k == kind);
    let blocks: Vec<u64> = of_kind.map(|(&number, _)| number).collect();
    *random.one_of(&blocks)
}

fn forge_one(
    image: &mut Image,
    old: &Image,
    (number, kind): (u64, Kind),
    random: &mut Random,
) -> String {
    let mut block = image.blocks[number as usize].clone();
    let what = match random.pick(0..16) {
        0 => {
            let bit = random.pick(128..BLOCK as u64 * 8);
            block.0[bit as usize / 8] ^= 1 << (bit % 8);
            format!("bit {bit}")
        }
        1 => {
            let at = random.pick(16..BLOCK as u64) as usize;
            block.0[at] = random.number() as u8;
            format!("byte {at}")
        }
        2 => {
            let from = pick(image, random).0;
            block = image.blocks[from as usize].clone();
            format!("content of block {from}")
        }
        3 => match old.blocks.get(number as usize) {
            Some(before) => {
                block = before.clone();
                "an old one".to_owned()
            }
            None => {
                block = Block::zeroed();
                "zeroes".to_owned()
            }
        },
        4 => {
            let from = random.pick(16..BLOCK as u64) as usize;
            block.0[from..].fill(0);
            format!("zeroes from {from}")
        }
        5 => {
            for byte in &mut block.0[16..] {
                *byte = random.number() as u8;
            }
            "random".to_owned()
        }
        _ => match kind {
            Kind::Superblock => superblock(image, &mut block, random),
            Kind::Node(tree, level, leaf) => {
                node(image, &mut block, number, (tree, level, leaf), random)
            }
            Kind::MetadataIndex => index_entry(image, &mut block, random),
            Kind::MetadataBitmap | Kind::DataBitmap => bitmap(image, &mut block, kind, random),
            Kind::Journal | Kind::LastBatch => journal(image, &mut block, random),
        },
    };
    image::seal(&mut block, number, kind);
    image.blocks[number as usize] = block;
    format!("block {number}, {kind}: {what}")
}

/// A number that some code may not be prepared for; `now` is what it is.
fn number(image: &Image, now: u64, own: u64, random: &mut Random) -> u64 {
    match random.pick(0..16) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => now.wrapping_add(1),
        4 => now.wrapping_sub(1),
        5 => random.number(),
        6 => 1 << random.pick(0..64),
        7 => (1 << random.pick(0..64)) - 1,
        8 => now ^ (1 << random.pick(0..64)),
        // Blocks: itself, any that is in use, one that is not, those at the ends.
        9 => own,
        10..=12 => pick(image, random).0,
        13 => random.pick(0..image.room),
        14 => image.room - 1 + random.pick(0..3),
        _ => now << random.pick(1..32),
    }
}

fn superblock(image: &Image, block: &mut Block, random: &mut Random) -> String {
    if random.once_in(4) {
        let at = *random.one_of(NARROW);
        let value = number(image, le32(block, at).into(), 0, random) as u32;
        put32(block, at, value);
        return format!("{at}: {value:#x}");
    }
    let at = *random.one_of(WIDE);
    let value = match random.once_in(3) {
        true => le64(block, *random.one_of(WIDE)),
        false => number(image, le64(block, at), 0, random),
    };
    put64(block, at, value);
    format!("{at}: {value:#x}")
}

fn node(
    image: &Image,
    block: &mut Block,
    own: u64,
    (tree, level, leaf): (Tree, u8, bool),
    random: &mut Random,
) -> String {
    let keys = image::keys(block);
    let room = le32(block, 20);
    match random.pick(0..10) {
        0 | 1 => {
            // The header.
            let at = *random.one_of(&[4usize, 16, 16, 16, 20, 20, 24, 24, 28]);
            let now = le32(block, at);
            let value = match random.pick(0..8) {
                0 => now.wrapping_add(1),
                1 => now.wrapping_sub(1),
                2 => room,
                3 => 3,
                4 => *random.one_of(&[1, 2, 4, 8, 16, 32, 128, 512, 4064]),
                5 => random.pick(0..u64::from(room.max(1)) + 2) as u32,
                6 => now ^ 3,
                _ => number(image, now.into(), own, random) as u32,
            };
            put32(block, at, value);
            format!("{at}: {value:#x}")
        }
        2 if keys.len() > 1 => {
            // Two keys in the wrong order, or twice the same.
            let (a, b) = (*random.one_of(&keys), *random.one_of(&keys));
            let (ka, kb) = (le64(block, a), le64(block, b));
            put64(block, a, kb);
            if random.once_in(2) {
                put64(block, b, ka);
            }
            format!("keys at {a} and {b}")
        }
        3 | 4 if !keys.is_empty() => {
            let at = *random.one_of(&keys);
            let value = number(image, le64(block, at), own, random);
            put64(block, at, value);
            format!("key at {at}: {value:#x}")
        }
        5 => {
            // As another kind of node.
            let from = &image.blocks[pick(image, random).0 as usize];
            block.0[4..8].copy_from_slice(&from.0[4..8]);
            block.0[16..HEADER].copy_from_slice(&from.0[16..HEADER]);
            "another one's header".to_owned()
        }
        6 => {
            // A node that all its entries lead to itself or to one other.
            let to = number(image, own, own, random);
            for value in image::values(block) {
                put64(block, value.start, to);
            }
            format!("all lead to {to:#x}")
        }
        _ => {
            let values = image::values(block);
            if values.is_empty() {
                // Something in an empty leaf.
                put32(block, 16, 1 + random.pick(0..u64::from(room.max(1))) as u32);
                return format!("{} entries", le32(block, 16));
            }
            let value = random.one_of(&values).clone();
            let plain = leaf && value.len() > 8 && tree != Tree::DataIndex;
            if plain && random.once_in(2) {
                let at = value.start + random.pick(0..value.len() as u64 / 4) as usize * 4;
                let n = number(image, le32(block, at).into(), own, random) as u32;
                put32(block, at, n);
                return format!("4 bytes at {at}, level {level}: {n:#x}");
            }
            let at = match plain {
                true => value.start + random.pick(0..value.len() as u64 / 8) as usize * 8,
                false => value.start,
            };
            // Of two values, one that belongs to another entry.
            let n = match random.once_in(3) {
                true => le64(block, random.one_of(&values).start),
                false => number(image, le64(block, at), own, random),
            };
            put64(block, at, n);
            format!("value at {at}, level {level}: {n:#x}")
        }
    }
}

/// The head of a block, or the fields of its entries: the first ones, which are where they are
/// expected, or any.
fn journal(image: &Image, block: &mut Block, random: &mut Random) -> String {
    let used = (le32(block, 48) as usize).clamp(80, BLOCK);
    let at = match random.pick(0..4) {
        0 => *random.one_of(&[4, 16, 32, 40, 48, 52, 56]),
        // A kind that there is, or nearly.
        1 => {
            block.0[64] = random.pick(0..8) as u8;
            return format!("entry of kind {}", block.0[64]);
        }
        2 => 65 + 4 * random.pick(0..4) as usize,
        _ => random.pick(64..used as u64 - 8) as usize,
    };
    if random.once_in(2) {
        let value = number(image, le32(block, at).into(), 0, random) as u32;
        put32(block, at, value);
        return format!("{at}: {value:#x}");
    }
    let value = number(image, le64(block, at), 0, random);
    put64(block, at, value);
    format!("{at}: {value:#x}")
}

fn index_entry(image: &Image, block: &mut Block, random: &mut Random) -> String {
    let at = ENTRIES + random.pick(0..4) as usize * 4;
    if random.once_in(2) {
        let value = number(image, le64(block, ENTRIES), 0, random);
        put64(block, ENTRIES, value);
        return format!("bitmap {value:#x}");
    }
    let value = number(image, le32(block, at).into(), 0, random) as u32;
    put32(block, at, value);
    format!("{at}: {value:#x}")
}

fn bitmap(image: &Image, block: &mut Block, kind: Kind, random: &mut Random) -> String {
    match random.pick(0..4) {
        0 => {
            let at = ENTRIES + random.pick(0..image.room / 32) as usize * 8;
            let value =
                *random.one_of(&[0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa]);
            put64(block, at, value);
            format!("word at {at}: {value:#x}")
        }
        1 => {
            block.0[ENTRIES..].fill(*random.one_of(&[0, 0xff, 0x55, 0xaa]));
            "all the same".to_owned()
        }
        _ => {
            // Of some that are in use, or of any.
            let mut done = Vec::new();
            for _ in 0..random.pick(1..9) {
                let n = match kind == Kind::MetadataBitmap && !random.once_in(4) {
                    true => pick(image, random).0,
                    false => random.pick(0..image.room),
                };
                let count = random.pick(0..4);
                let bit = n * 2;
                let at = ENTRIES + bit as usize / 8;
                let mask = 3u8 << (bit % 8);
                // The high bit comes first.
                let bits = (((count >> 1) | ((count & 1) << 1)) as u8) << (bit % 8);
                block.0[at] = block.0[at] & !mask | bits;
                done.push(format!("{n}={count}"));
            }
            done.join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What is spoiled may have been spoiled before, and be anything.
    #[test]
    fn anything_can_be_spoiled() {
        let mut random = Random::new(1);
        for _ in 0..300 {
            let kinds = [
                Kind::Superblock,
                Kind::Node(Tree::Records, 1, false),
                Kind::Node(Tree::Snapshots, 1, true),
                Kind::Node(Tree::DataIndex, 1, true),
                Kind::MetadataIndex,
                Kind::MetadataBitmap,
                Kind::DataBitmap,
                Kind::Journal,
            ];
            let blocks: Vec<Box<Block>> = kinds
                .iter()
                .map(|_| {
                    let mut block = Block::zeroed();
                    for byte in &mut block.0[..64] {
                        *byte = random.number() as u8;
                    }
                    block
                })
                .collect();
            let old = Image {
                blocks,
                room: 1024,
                kinds: BTreeMap::from_iter((0..).zip(kinds)),
            };
            let mut image = old.clone();
            for _ in 0..300 {
                let (_, kind) = pick(&image, &mut random);
                forge(&mut image, &old, kind, &mut random);
            }
        }
    }
}
