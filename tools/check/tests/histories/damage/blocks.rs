// SPDX-License-Identifier: GPL-2.0

//! The superblock, and nodes of trees as such.

use dm_snap_mv_check::{Kind, Outcome};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::node;

use super::{expect, large, look, with_superblock, NODE};
use crate::image::Image;
use crate::store::Store;

pub fn superblock(store: &Store) {
    let mut image = Image::of(store);
    image.blocks.get_mut(&0).unwrap().0[100] ^= 1;
    expect("a bit", &image, Kind::Superblock, "wrong checksum");
    let image = with_superblock(store, |s| s.layout.data_chunks = 1 << 30);
    expect(
        "too long",
        &image,
        Kind::Superblock,
        "smaller than its store",
    );
    let image = with_superblock(store, |s| s.layout.journal_start = 7);
    expect(
        "a journal",
        &image,
        Kind::Superblock,
        "superblock is corrupt",
    );
    let image = with_superblock(store, |s| s.needs_check = true);
    expect("needs check", &image, Kind::Flag, "needing a check");
    let image = with_superblock(store, |s| s.cow_full = true);
    expect("full", &image, Kind::Flag, "marked as full");
    let image = with_superblock(store, |s| s.nr_origins = 0);
    expect("no origins", &image, Kind::Count, "counts 0 origins");

    // What is not there, or not understood, is no error of the store's.
    for (image, refusal) in [
        (Image::default(), Refusal::NoStore),
        (
            with_superblock(store, |s| s.incompat |= 1 << 31),
            Refusal::UnknownFeature,
        ),
        (
            with_superblock(store, |s| s.ro_compat = 4),
            Refusal::ReadOnlyFeature,
        ),
    ] {
        assert_eq!(look(&image), (Vec::new(), Outcome::Refused(refusal)));
    }
    let mut image = Image::of(store);
    image.broken.insert(0);
    assert!(matches!(look(&image), (_, Outcome::Unreadable(_))));
}

pub fn nodes(store: &Store) {
    let roots = Image::of(store).superblock().roots;
    for (name, root) in [
        ("records", roots.records),
        ("origins", roots.origins),
        ("identities", roots.origin_ids),
        ("snapshots", roots.snapshots),
        ("children", roots.children),
        ("marks", roots.done),
        ("cleanings", roots.cleaning),
    ] {
        let words = format!("tree of {name}: block {root}");
        let mut image = Image::of(store);
        image.blocks.get_mut(&root).unwrap().0[4000] ^= 1;
        let kind = match name {
            // It can be made anew.
            "identities" => Kind::Identity,
            _ => Kind::Block,
        };
        expect(name, &image, kind, &format!("{words} is damaged"));
        let mut image = Image::of(store);
        image.broken.insert(root);
        let kind = match kind {
            Kind::Block => Kind::Unreadable,
            kind => kind,
        };
        expect(name, &image, kind, &words);
    }
    let image = with_superblock(store, |s| s.roots.children = s.layout.metadata_blocks);
    expect("outside", &image, Kind::Block, "outside of the metadata");
    let image = with_superblock(store, |s| s.roots.children = 0);
    expect("block 0", &image, Kind::Block, "is the superblock");
    let image = with_superblock(store, |s| s.roots.children = s.roots.done);
    expect("shared", &image, Kind::Block, "is used twice");
    let image = with_superblock(store, |s| {
        std::mem::swap(&mut s.roots.origins, &mut s.roots.snapshots)
    });
    expect("swapped", &image, Kind::Block, "values of the wrong size");

    let (store, t) = large(store, 3000);
    let good = Image::of(&store);
    assert_eq!(look(&good).0, []);
    let root = good.records_of(t);
    let top = good.node(root);
    assert!(!top.is_leaf() && top.len() > 3);
    let (first, second) = (top.number(0).unwrap(), top.number(1).unwrap());
    let values = good.value_at(root, 0);
    let place = |i: usize| values + 8 * i;

    let mut image = good.clone();
    image.put(root, NODE, place(1), &root.to_le_bytes());
    expect("a circle", &image, Kind::Block, "is used twice");
    let mut image = good.clone();
    image.put(root, NODE, place(1), &first.to_le_bytes());
    expect("a leaf twice", &image, Kind::Block, "is used twice");
    let mut image = good.clone();
    image.put(root, NODE, place(0), &second.to_le_bytes());
    image.put(root, NODE, place(1), &first.to_le_bytes());
    expect(
        "out of order",
        &image,
        Kind::Block,
        "keys that belong elsewhere",
    );
    let mut image = good.clone();
    let key = top.key(0).unwrap().to_le_bytes();
    image.put(second, NODE, 32, &key);
    expect(
        "a low key",
        &image,
        Kind::Block,
        "keys that belong elsewhere",
    );
    let mut image = good.clone();
    image.put(second, NODE, 16, &5u32.to_le_bytes());
    expect(
        "too empty",
        &image,
        Kind::Block,
        "fewer entries than a third",
    );
    let mut image = good.clone();
    image.put(second, NODE, 8, &first.to_le_bytes());
    expect(
        "another's",
        &image,
        Kind::Block,
        "it belongs somewhere else",
    );
    let mut image = good.clone();
    image.put(second, NODE, 20, &400u32.to_le_bytes());
    expect(
        "too much room",
        &image,
        Kind::Block,
        "more entries than fit",
    );
    let mut image = good.clone();
    image.put(second, NODE, 4, &3u32.to_le_bytes());
    expect("no node", &image, Kind::Block, "no node of a tree");

    // A leaf one level further down than the others.
    let mut image = good.clone();
    let leaf = good.node(second);
    let half: Vec<_> = (0..leaf.len() / 2)
        .map(|i| (leaf.key(i).unwrap(), leaf.value(i).unwrap().to_vec()))
        .collect();
    let (spare, between) = (900, 901);
    image
        .blocks
        .insert(spare, *node::make(true, 8, &half, spare));
    let entry = (half[0].0, spare.to_le_bytes().to_vec());
    let many: Vec<_> = (0..90).map(|i| (entry.0 + i, entry.1.clone())).collect();
    image
        .blocks
        .insert(between, *node::make(false, 8, &many, between));
    image.put(root, NODE, place(1), &between.to_le_bytes());
    expect(
        "a deep leaf",
        &image,
        Kind::Block,
        "deeper down than leaves",
    );
    // And the other way round: the first leaf is deeper down than those behind it.
    let mut image = good.clone();
    let leaf = good.node(first);
    let all: Vec<_> = (0..leaf.len())
        .map(|i| (leaf.key(i).unwrap(), leaf.value(i).unwrap().to_vec()))
        .collect();
    let end = top.key(1).unwrap();
    let mut many = vec![(all[0].0, entry.1.clone())];
    many.extend((1..90).map(|i| (end - 90 + i, entry.1.clone())));
    image
        .blocks
        .insert(between, *node::make(false, 8, &many, between));
    image
        .blocks
        .insert(spare, *node::make(true, 8, &all, spare));
    image.put(root, NODE, place(0), &between.to_le_bytes());
    expect("a shallow leaf", &image, Kind::Block, "another depth");
}
