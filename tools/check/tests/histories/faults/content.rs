// SPDX-License-Identifier: GPL-2.0

//! What all that is in an image resolves to, chunk by chunk: read as the kernel reads it, with no
//! regard to whether that makes sense.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::Chunk;
use dm_snap_mv_model::record_key::{bookmark_key, child_key, key_behind};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::resolve::{resolve, resolve_head, Chain, Location, RollbackView};
use dm_snap_mv_store::btree::Btree;
use dm_snap_mv_store::journal;

use crate::image::Image;
use crate::store::Store;
use crate::world::chunk_size;

/// More chunks than any device here has.
const MOST: u64 = 1024;

/// A version: its size in sectors, and where the content of each of its chunks is.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub size: u64,
    pub chunks: Vec<Location>,
}

/// An origin, and all that was taken of it and can be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    pub id: Vec<u8>,
    /// Its size is not a part of it: when it is activated, its device says how large it is.
    pub head: Vec<Location>,
    /// By tag. None: it is invalid.
    pub snapshots: BTreeMap<u32, Option<Version>>,
    /// The snapshot that it is rolled back to, or will be, and whether that is deleted then.
    pub rollback: Option<(u32, bool)>,
}

/// By the origin's number.
pub type Content = BTreeMap<u32, Origin>;

type Result<T> = std::result::Result<T, String>;

fn words(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn walk(image: &Image, root: u64, size: usize, mut each: impl FnMut(u64, &[u8])) -> Result<()> {
    let mut each = |key, value: &[u8]| {
        each(key, value);
        ControlFlow::Continue(())
    };
    let tree = Btree::new(image, root, size, 1 << 12);
    tree.walk(0, &mut each).map_err(words)
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

fn two_levels(image: &Image, root: u64, mut each: impl FnMut(u64, u64, u64)) -> Result<()> {
    let mut roots = Vec::new();
    walk(image, root, 8, |key, value| {
        roots.push((key, number(value)))
    })?;
    for (first, root) in roots {
        walk(image, root, 8, |key, value| each(first, key, number(value)))?;
    }
    Ok(())
}

/// Gives the rows of a tree to `each`, but for those in place of which the journal puts others.
fn rows<const N: usize, T>(
    image: &Image,
    root: u64,
    replaced: &BTreeSet<u64>,
    decode: fn(&[u8; N]) -> std::result::Result<T, Refusal>,
    mut each: impl FnMut(u64, T),
) -> Result<()> {
    let mut wrong = None;
    walk(image, root, N, |key, value| {
        if replaced.contains(&key) {
            return;
        }
        match decode(value.try_into().expect("a row")) {
            Ok(row) => each(key, row),
            Err(refusal) => wrong = Some(refusal),
        }
    })?;
    wrong.map_or(Ok(()), |refusal| Err(words(refusal)))
}

/// All that the trees and the journal say.
fn metadata(image: &Image) -> Result<Store> {
    let superblock = image.superblock();
    let roots = &superblock.roots;
    let mut store = Store::new(superblock.layout.data_chunks.min(1 << 16) as usize);
    two_levels(image, roots.records, |t, key, value| {
        store.records.insert((t, key), value);
    })?;
    two_levels(image, roots.children, |t, key, tag| {
        store.children.insert((t, key), tag as u32);
    })?;
    two_levels(image, roots.done, |nr, chunk, _| {
        store.done.insert((nr as u32, chunk), ());
    })?;
    let mut entries = Vec::new();
    // What a store says that was closed in order, the kernel believes.
    if !superblock.clean {
        journal::read(image, &superblock, &mut |entry| entries.push(*entry)).map_err(words)?;
    }
    let [origins, snapshots, cleanings] = replaced(&entries);
    rows(
        image,
        roots.origins,
        &origins,
        OriginRow::decode,
        |key, row| {
            store.origins.insert(key as u32, row);
        },
    )?;
    rows(
        image,
        roots.snapshots,
        &snapshots,
        SnapshotRow::decode,
        |t, row| {
            store.snapshots.insert(t, row);
        },
    )?;
    rows(
        image,
        roots.cleaning,
        &cleanings,
        CleaningRow::decode,
        |t, row| {
            store.cleaning.insert(t, row);
        },
    )?;
    for entry in &entries {
        replay(&mut store, entry);
    }
    Ok(store)
}

/// The keys of the rows of origins, snapshots and cleanings that the journal puts or removes.
fn replaced(entries: &[Entry]) -> [BTreeSet<u64>; 3] {
    let mut all = [const { BTreeSet::new() }; 3];
    for entry in entries {
        match *entry {
            Entry::Origin(row) => all[0].insert(row.number.get().into()),
            Entry::Snapshot(nr, row) => all[1].insert(row.timeline(nr).get()),
            Entry::NoSnapshot(t) => all[1].insert(t.get()),
            Entry::Cleaning(t, _) => all[2].insert(t.get()),
            _ => continue,
        };
    }
    all
}

fn replay(store: &mut Store, entry: &Entry) {
    match *entry {
        Entry::Run(Run::Records {
            timeline,
            key,
            value,
            len,
        }) => {
            for i in 0..u64::from(len) {
                let key = key_behind(key, i).expect("a key");
                let value = value.plus(i).expect("a value").encode();
                store.records.insert((timeline.get(), key), value);
            }
        }
        Entry::Run(Run::Done { origin, start, len }) => {
            for i in 0..len {
                store.done.insert((origin.get(), start.plus(i).get()), ());
            }
        }
        Entry::Run(Run::Use { .. }) => {}
        Entry::Origin(row) => store.origins.insert(row.number.get(), row),
        Entry::Snapshot(nr, row) => store.snapshots.insert(row.timeline(nr).get(), row),
        Entry::Child {
            timeline,
            epoch,
            tag,
        } => store
            .children
            .insert((timeline.get(), child_key(epoch)), tag),
        Entry::Cleaning(t, row) => store.cleaning.insert(t.get(), row),
        Entry::NoSnapshot(t) => {
            if store.snapshots.get(&t.get()).is_some() {
                store.snapshots.remove(&t.get());
            }
        }
        Entry::Bookmark {
            timeline,
            epoch,
            tag,
        } => store
            .children
            .insert((timeline.get(), bookmark_key(epoch)), tag),
        Entry::NoChild { timeline, epoch } => {
            remove_child(store, (timeline.get(), child_key(epoch)));
        }
        Entry::NoBookmark { timeline, epoch } => {
            remove_child(store, (timeline.get(), bookmark_key(epoch)));
        }
    }
}

fn remove_child(store: &mut Store, key: (u64, u64)) {
    if store.children.get(&key).is_some() {
        store.children.remove(&key);
    }
}

/// Where each chunk is of something of a size.
fn chunks(
    size: u64,
    find: impl Fn(Chunk) -> std::result::Result<Location, Refusal>,
) -> Result<Vec<Location>> {
    let end = chunk_size().end_of(size).map_err(words)?.get();
    (0..end.min(MOST))
        .map(|chunk| find(Chunk::new(chunk).expect("a chunk")).map_err(words))
        .collect()
}

fn snapshot(store: &Store, origin: &OriginRow, row: &SnapshotRow) -> Result<Version> {
    let view = RollbackView::of(store, origin).map_err(words)?;
    let chain = Chain::of_snapshot(store, origin, row.tag).map_err(words)?;
    let find = |chunk| Ok(resolve(store, &chain, view.as_ref(), chunk, 1)?.location);
    Ok(Version {
        size: row.size,
        chunks: chunks(row.size, find)?,
    })
}

/// What an image resolves to, or why the kernel would say that it cannot be read.
pub fn content(image: &Image) -> Result<Content> {
    let store = metadata(image)?;
    let mut all = Content::new();
    for (&nr, origin) in store.origins.iter() {
        let view = RollbackView::of(&store, origin).map_err(words)?;
        let head = |chunk| Ok(resolve_head(&store, origin, view.as_ref(), chunk, 1)?.location);
        let mut snapshots = BTreeMap::new();
        let of_it = store
            .snapshots
            .iter()
            .filter(|(&t, _)| t >> 32 == nr.into());
        for (_, row) in of_it.filter(|(_, row)| row.is_whole()) {
            let version = match origin.is_invalid(row.tag) {
                true => None,
                false => Some(snapshot(&store, origin, row)?),
            };
            snapshots.insert(row.tag.get(), version);
        }
        let mut head = chunks(origin.size, head)?;
        // Behind what is read elsewhere it is the device, however large that is.
        while head.last() == Some(&Location::Origin) {
            head.pop();
        }
        let now = origin.rollback.map(|r| (r.source.get(), r.delete_source));
        let deferred = origin.deferred.map(|d| (d.source.get(), d.delete_source));
        let origin = Origin {
            id: origin.id.as_bytes().to_vec(),
            head,
            snapshots,
            rollback: now.or(deferred),
        };
        all.insert(nr, origin);
    }
    Ok(all)
}
