// SPDX-License-Identifier: GPL-2.0

//! The space maps.

use std::collections::BTreeMap;

use dm_snap_mv_check::Kind;
use dm_snap_mv_store::node;
use dm_snap_mv_store::space::ENTRIES;

use super::{expect, look, with_superblock, BITMAP, INDEX, NODE};
use crate::image::{Image, Lies};
use crate::store::Store;

pub fn lying(store: &Store, chunks: &[(u64, bool)], blocks: &[(u64, bool)]) -> Image {
    let lies = Lies {
        chunks: BTreeMap::from_iter(chunks.iter().copied()),
        blocks: BTreeMap::from_iter(blocks.iter().copied()),
    };
    Image::lying(store, lies)
}

pub fn data_space(store: &Store) {
    let kind = Kind::DataSpace;
    let used = store.used().iter().position(|&used| used).unwrap() as u64;
    let free = store.used().iter().rposition(|&used| !used).unwrap() as u64;
    let image = lying(store, &[(used, false)], &[]);
    expect("free", &image, kind, "is in use and marked as free");
    let image = lying(store, &[(free, true)], &[]);
    let words = format!("COW chunk {free} is marked as used, and is not");
    expect("leaked", &image, Kind::LeakedChunk, &words);
    let image = lying(store, &[(700, true), (701, true), (702, true)], &[]);
    let words = "COW chunks 700 to 702 are marked as used, and are not";
    expect("leaked", &image, Kind::LeakedChunk, words);

    let mut image = Image::of(store);
    image.set_data_root(|root| root.blocks += 1);
    expect("longer", &image, kind, "chunks, not");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.blocks = ENTRIES * 3);
    expect("longer", &image, kind, "2 of its bitmaps are missing");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.allocated += 1);
    expect("a count", &image, kind, "in use, there are");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.index = root.counts);
    expect("an index", &image, kind, "values of the wrong size");
    let mut image = Image::of(store);
    image.set_data_root(|root| root.counts = 1 << 50);
    expect("counts", &image, kind, "outside of the metadata");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.free -= 1);
    expect("free", &image, kind, "are said to be free");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.none_free_before = 900);
    expect("none free", &image, kind, "no entry before 900");
    let mut image = Image::of(store);
    image.set_data_entry(|entry| entry.block = 3);
    expect("a bitmap", &image, kind, "block 3 is used twice");
    let mut image = Image::of(store);
    let index = image.data_root().index;
    image.put(index, NODE, 32, &5u64.to_le_bytes());
    expect("a bitmap", &image, kind, "a bitmap 5 behind its end");
    let mut image = Image::of(store);
    let block = image.data_entry().block;
    image.broken.insert(block);
    expect("unreadable", &image, kind, "cannot be read");
    let mut image = Image::of(store);
    image.blocks.get_mut(&block).unwrap().0[50] ^= 4;
    expect("a bit", &image, kind, "its checksum is wrong");
    let mut image = Image::of(store);
    image.put(block, BITMAP, 4095, &[0x80]);
    expect("behind", &image, kind, "entries behind its end");
    let mut image = Image::of(store);
    image.put(block, BITMAP, 16, &[0xff]);
    expect("no count", &image, kind, "has no count");
    let mut image = Image::of(store);
    let counts = image.data_root().counts;
    let entry = [(900, 4u32.to_le_bytes().to_vec())];
    image
        .blocks
        .insert(counts, *node::make(true, 4, &entry, counts));
    expect("a count", &image, kind, "is counted and need not be");
    let mut image = Image::of(store);
    let entry = [(used, 4u32.to_le_bytes().to_vec())];
    image
        .blocks
        .insert(counts, *node::make(true, 4, &entry, counts));
    let byte = image.blocks[&block].0[16 + used as usize / 4];
    let byte = byte | (3 << (used % 4 * 2));
    image.put(block, BITMAP, 16 + used as usize / 4, &[byte]);
    expect(
        "four times",
        &image,
        kind,
        "used 4 times, it is used 1 times",
    );
    let image = with_superblock(store, |s| s.data_space[100] = 1);
    expect("padding", &image, kind, "bytes behind its root");
}

pub fn metadata_space(store: &Store) {
    let kind = Kind::MetadataSpace;
    let image = lying(store, &[], &[(2, false)]);
    expect(
        "free",
        &image,
        kind,
        "metadata block 2 is in use and marked",
    );
    let image = lying(store, &[], &[(0, false)]);
    expect(
        "free",
        &image,
        kind,
        "metadata block 0 is in use and marked",
    );
    let image = lying(store, &[], &[(1500, false)]);
    expect(
        "outside",
        &image,
        kind,
        "block 1500 is in use and marked as free",
    );
    let image = lying(store, &[], &[(1000, true), (1001, true)]);
    let words = "blocks 1000 to 1001 are marked as used, and are not";
    expect("leaked", &image, Kind::LeakedBlock, words);
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.blocks = 3);
    expect("shorter", &image, kind, "it is for 3 blocks");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.blocks = u64::MAX);
    expect("longer", &image, kind, "it is for 18446744073709551615");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.allocated -= 1);
    expect("a count", &image, kind, "in use, there are");
    let mut image = Image::of(store);
    let index = image.metadata_root().index;
    image.put(index, INDEX, 24, &[1]);
    expect("an entry", &image, kind, "are said to be free");
    let mut image = Image::of(store);
    image.blocks.get_mut(&index).unwrap().0[24] ^= 1;
    expect("an index", &image, kind, "its checksum is wrong");
    let mut image = Image::of(store);
    image.put(index, INDEX, 16, &index.to_le_bytes());
    expect("a bitmap", &image, kind, "is used twice");
    let mut image = Image::of(store);
    image.set_metadata_root(|root| root.index = 2);
    expect("an index", &image, kind, "is used twice");
    let image = with_superblock(store, |s| s.metadata_space[32] = 1);
    expect("padding", &image, kind, "bytes behind its root");
    // A leak is not told of where it may be a part of what cannot be read.
    let mut image = lying(store, &[(700, true)], &[(1000, true)]);
    let superblock = image.superblock();
    image.broken.insert(superblock.roots.records);
    let (findings, _) = look(&image);
    let kinds: Vec<_> = findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [Kind::Unreadable], "{findings:?}");
}
