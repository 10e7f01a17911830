// SPDX-License-Identifier: GPL-2.0

//! What is said to differ between two versions, beside where each of their chunks is, and full copies.

use std::cell::Cell;

use dm_snap_mv_model::chain::Chain;
use dm_snap_mv_model::delta::{self as model, Version};
use dm_snap_mv_model::ids::{Chunk, OriginNr, Tag};
use dm_snap_mv_model::resolve::{resolve, resolve_head, Location};
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::runs::Records;
use dm_snap_mv_store::{Blocks, Changed, Delta, Live, Result};

use crate::image::Image;
use crate::world::{chunk_size, World};

thread_local! {
    /// Pairs of versions looked at, chunks in which they differ, such that are zeroes, and pairs whose older
    /// one is a bookmark.
    pub static SEEN: Cell<[u64; 4]> = const { Cell::new([0; 4]) };
}

/// The content of a version, if it is valid, and where its chunks are; of a bookmark, where nothing is.
pub struct Copy {
    pub size: u64,
    pub content: Vec<u64>,
    pub places: Vec<Location>,
}

impl Copy {
    /// Of origin `o`: of a snapshot, or as it is.
    pub fn of(w: &World, o: usize, tag: Option<u32>) -> Option<Copy> {
        let row = w.row(w.disks[o].nr?);
        let origin = &w.oracle.origins[o];
        let (size, content) = match tag {
            None => (row.size, &origin.head),
            Some(tag) => match (origin.snapshots.get(&tag), origin.bookmarks.get(&tag)) {
                (Some(snapshot), _) if snapshot.valid => (snapshot.size, &snapshot.content),
                (_, Some(bookmark)) if bookmark.valid => (bookmark.size, &bookmark.content),
                _ => return None,
            },
        };
        let end = chunk_size().end_of(size).unwrap().get();
        let view = w.view(row.number);
        let is_bookmark = tag.is_some_and(|tag| origin.bookmarks.contains_key(&tag));
        let chain = tag.filter(|_| !is_bookmark).and_then(Tag::new);
        let chain = chain.map(|tag| Chain::of_snapshot(&w.store, &row, tag).unwrap());
        let place = |chunk| {
            let chunk = Chunk::new(chunk).unwrap();
            let run = match &chain {
                Some(chain) => resolve(&w.store, chain, view.as_ref(), chunk, 1),
                None => resolve_head(&w.store, &row, view.as_ref(), chunk, 1),
            };
            run.unwrap().location
        };
        Some(Copy {
            size,
            content: content[..end as usize].to_vec(),
            places: (0..end).map(place).filter(|_| !is_bookmark).collect(),
        })
    }

    /// What there is to be said of each chunk of a newer version: nothing if it is the same, or
    /// whether it is zeroes; and whether the content differs.
    pub fn beside(&self, new: &Copy) -> Vec<(Option<bool>, bool)> {
        let whole = (self.size / 8) as usize;
        let one = |chunk: usize| {
            // The last chunk of a smaller one holds only a part.
            let there = chunk < self.content.len() && (self.size >= new.size || chunk < whole);
            let same = there && self.places.get(chunk) == Some(&new.places[chunk]);
            let changed = (!same).then(|| new.places[chunk] == Location::Zero);
            let differs = !there || self.content[chunk] != new.content[chunk];
            (changed, differs)
        };
        (0..new.places.len()).map(one).collect()
    }
}

/// What the model says has changed since a bookmark, in the same form.
fn since(w: &World, o: usize, bookmark: u32, new: Option<u32>, is: &Copy) -> Vec<Option<bool>> {
    let row = w.row(w.disks[o].nr.unwrap());
    let view = w.view(row.number);
    let find = |tag: Option<u32>| Version::find(&w.store, &row, tag.and_then(Tag::new)).unwrap();
    let (from, to) = (find(Some(bookmark)), find(new));
    let delta = model::Delta::new(&from, &to, chunk_size()).unwrap();
    let one = |(chunk, place): (usize, &Location)| {
        let chunk = Chunk::new(chunk as u64).unwrap();
        let part = delta.part(&w.store, view.as_ref(), chunk, 1).unwrap();
        part.changed.then_some(*place == Location::Zero)
    };
    is.places.iter().enumerate().map(one).collect()
}

/// All of a difference, as a value for each chunk, and the sizes.
pub fn read(live: Live<'_>, versions: Versions) -> Result<(Vec<Option<bool>>, Sizes)> {
    all_of(Delta::begin(live, versions)?)
}

fn all_of(mut delta: Delta<'_>) -> Result<(Vec<Option<bool>>, Sizes)> {
    let sizes = delta.sizes();
    let mut all: Vec<Option<bool>> = Vec::new();
    let mut last: Option<Changed> = None;
    while let Some(runs) = delta.more()? {
        for run in runs {
            assert!(run.len > 0 && run.first >= all.len() as u64);
            let touches = last.filter(|last| last.first + last.len == run.first);
            assert!(
                touches.is_none_or(|last| last.zero != run.zero),
                "two runs that are one"
            );
            all.resize(run.first as usize, None);
            all.resize((run.first + run.len) as usize, Some(run.zero));
            last = Some(run);
        }
    }
    let end = sizes.end()?;
    assert!(all.len() as u64 <= end);
    all.resize(end as usize, None);
    assert_eq!(delta.progress(), (end, end));
    Ok((all, sizes))
}

pub fn versions(origin: OriginNr, old: Option<u32>, new: Option<u32>) -> Versions {
    Versions {
        origin,
        old: old.and_then(Tag::new),
        new: new.and_then(Tag::new),
    }
}

/// Compares some pairs of the versions that there are with what an image of them says.
pub fn look_at(w: &World, image: &Image) {
    let [mut pairs, mut chunks, mut zeroes, mut bookmarked] = SEEN.get();
    for (o, disk) in w.disks.iter().enumerate() {
        let Some(nr) = disk.nr else { continue };
        let origin = &w.oracle.origins[o];
        let rolls = w.row(nr).rollback.is_some();
        let tags = origin.snapshots.keys().map(|&tag| Some(tag));
        let all: Vec<_> = [None].into_iter().chain(tags).collect();
        let bookmarks = origin.bookmarks.keys().map(|&tag| Some(tag));
        let older: Vec<_> = all.iter().copied().chain(bookmarks).collect();
        for (i, &old) in older.iter().enumerate() {
            // Not all, but each with some other one, another each time.
            let new = all[(i + pairs as usize) % all.len()];
            let bookmark = old.filter(|tag| origin.bookmarks.contains_key(tag));
            if let Some(tag) = bookmark {
                let turned = read(Live::new(image, None), versions(nr, new, Some(tag)));
                let words = turned.unwrap_err().to_string();
                assert!(
                    words.contains("bookmark") || words.contains("invalid"),
                    "{words}"
                );
            }
            let (Some(was), Some(is)) = (Copy::of(w, o, old), Copy::of(w, o, new)) else {
                let live = Live::new(image, None);
                let refused = read(live, versions(nr, old, new)).unwrap_err();
                let words = refused.to_string();
                assert!(words.ends_with("is invalid"), "{words}");
                continue;
            };
            let leaves = [1, 2, 1000][pairs as usize % 3];
            let live = Live::new(image, None).at_most(leaves);
            let (found, sizes) = read(live, versions(nr, old, new)).unwrap();
            assert_eq!((sizes.old, sizes.new), (was.size, is.size));
            let mut expected = was.beside(&is);
            if let Some(tag) = bookmark {
                let changed = since(w, o, tag, new, &is);
                for (expected, changed) in expected.iter_mut().zip(changed) {
                    expected.0 = changed;
                }
                bookmarked += 1;
            }
            for (chunk, (found, (expected, differs))) in found.iter().zip(&expected).enumerate() {
                assert!(
                    found.is_some() || !differs,
                    "{o}: {old:?} {new:?}: {chunk} differs"
                );
                // Where a rollback has yet to copy, the model does not ask whether the older version
                // has what it copies.
                let same_source = bookmark.is_some() && rolls && found.is_none();
                if !same_source {
                    assert_eq!(found, expected, "{o}: {old:?} {new:?}: chunk {chunk}");
                }
                chunks += u64::from(found.is_some());
                zeroes += u64::from(*found == Some(true));
            }
            assert_eq!(found.len(), expected.len());
            let live = Live::new(image, None).at_most(leaves);
            let whole = Delta::whole(live, nr, new.and_then(Tag::new)).unwrap();
            let (whole, sizes) = all_of(whole).unwrap();
            assert_eq!((sizes.old, sizes.new), (0, is.size));
            let zero = is.places.iter().map(|place| Some(*place == Location::Zero));
            assert!(zero.eq(whole), "{o}: {new:?}");
            pairs += 1;
        }
    }
    SEEN.set([pairs, chunks, zeroes, bookmarked]);
    records(w, image, [1, 3, 1000][pairs as usize % 3]);
}

/// Compares all records.
fn records(w: &World, image: &dyn Blocks, leaves: usize) {
    let mut live = Live::new(image, None).at_most(leaves);
    let mut all = Records::of(0, u64::MAX);
    let mut found = Vec::new();
    while let Some(runs) = all.more(&mut live).unwrap() {
        for run in runs {
            let several = run.value.plus(1).is_none();
            for i in 0..if several { 1 } else { run.len } {
                let chunk = run.chunk.plus(if several { run.len - 1 } else { i });
                let t = run.timeline;
                let key = dm_snap_mv_model::record_key::RecordKey::new(t, chunk, run.epoch);
                let value = run.value.plus(i).unwrap().encode();
                found.push(((t.get(), key.get()), value));
            }
        }
    }
    let expected: Vec<_> = w.store.records.iter().map(|(&key, &v)| (key, v)).collect();
    assert_eq!(found, expected);
}
