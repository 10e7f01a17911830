// SPDX-License-Identifier: GPL-2.0

//! Whether a world is as it must be.

use std::collections::{BTreeMap, BTreeSet};

use dm_snap_mv_model::ids::{Chunk, Epoch, Tag, TimelineId};
use dm_snap_mv_model::record_key::{
    bookmark_epoch, child_epoch, is_behind_children, RecordKey, RecordValue,
};

use crate::oracle::CHUNK_SECTORS;
use crate::world::World;

/// Compares a range of one version with its full copy. Invalid snapshots have none.
pub fn content(w: &mut World, o: usize, tag: Option<u32>, start: usize, end: usize) {
    let origin = &w.oracle.origins[o];
    let expected = match tag {
        None => &origin.head,
        Some(tag) => match &origin.snapshots[&tag] {
            snapshot if snapshot.valid => &snapshot.content,
            _ => return,
        },
    };
    let end = end.min(expected.len());
    let start = start.min(end);
    let expected = expected[start..end].to_vec();
    let found = w.read(o, tag, start, end).expect("a readable version");
    assert_eq!(
        found, expected,
        "origin {o}, tag {tag:?}, chunks {start}..{end}"
    );
}

/// Compares all of all versions.
pub fn all_content(w: &mut World) {
    for o in 0..w.disks.len() {
        content(w, o, None, 0, usize::MAX);
        let tags: Vec<u32> = w.oracle.origins[o].snapshots.keys().copied().collect();
        for tag in tags {
            content(w, o, Some(tag), 0, usize::MAX);
        }
    }
}

/// Compares what each version is said to have changed since each other one with what has.
pub fn all_deltas(w: &mut World) {
    for o in 0..w.disks.len() {
        if w.disks[o].nr.is_some() {
            deltas(w, o);
        }
    }
}

fn deltas(w: &mut World, o: usize) {
    let origin = &w.oracle.origins[o];
    let mut versions = vec![(None, origin.head.clone(), origin.size)];
    for (&tag, snapshot) in origin.snapshots.iter().filter(|(_, s)| s.valid) {
        versions.push((Some(tag), snapshot.content.clone(), snapshot.size));
    }
    for (&tag, bookmark) in origin.bookmarks.iter().filter(|(_, b)| b.valid) {
        versions.push((Some(tag), bookmark.content.clone(), bookmark.size));
    }
    // Each with each, or some of these: there are many.
    let all = w.random.once_in(8);
    for (i, (from, old, size)) in versions.iter().enumerate() {
        for (j, (to, new, wanted)) in versions.iter().enumerate() {
            let near = i.abs_diff(j) < 2 || j == 0;
            if !all && !near && !w.random.once_in(8) {
                continue;
            }
            let delta = w.delta(o, *from, *to).expect("a delta");
            let chunks = wanted.div_ceil(CHUNK_SECTORS) as usize;
            assert_eq!(delta.len(), chunks, "{from:?} to {to:?}");
            let whole = match size < wanted {
                true => (size / CHUNK_SECTORS) as usize,
                false => chunks,
            };
            for (c, &changed) in delta.iter().enumerate() {
                let differs = c >= whole || old[c] != new[c];
                assert!(
                    changed || !differs,
                    "origin {o}: chunk {c} differs between {from:?} and {to:?}"
                );
                assert!(
                    differs || !changed || !w.exact || old[c] == 0,
                    "origin {o}: chunk {c} does not differ between {from:?} and {to:?}"
                );
            }
            w.oracle.counts.deltas += 1;
            w.oracle.counts.exact += u64::from(w.exact);
            w.oracle.counts.changed += delta.iter().filter(|&&changed| changed).count() as u64;
        }
    }
}

/// Sees what a crash has left of what was not durable, and goes by that from now on.
pub fn after_crash(w: &mut World) {
    for ((o, tag, chunk), may_be) in std::mem::take(&mut w.oracle.unsure) {
        // A deletion may have become durable in the same moment.
        let Some(snapshot) = w.oracle.origins[o].snapshots.get(&tag) else {
            continue;
        };
        if snapshot.valid {
            let found = w
                .read(o, Some(tag), chunk, chunk + 1)
                .expect("a readable chunk")[0];
            assert!(
                may_be.contains(&found),
                "origin {o}, tag {tag}, chunk {chunk} holds {found} after a crash, not {may_be:?}"
            );
            let snapshot = w.oracle.origins[o].snapshots.get_mut(&tag);
            snapshot.expect("a snapshot").content[chunk] = found;
        }
    }
    for ((o, chunk), may_be) in std::mem::take(&mut w.oracle.in_flight) {
        let found = w.read(o, None, chunk, chunk + 1).expect("a readable chunk")[0];
        assert!(
            may_be.contains(&found),
            "origin {o}, chunk {chunk} holds {found} after a crash, not {may_be:?}"
        );
        w.oracle.origins[o].head[chunk] = found;
    }
    all_content(w);
    structure(w);
    all_deltas(w);
}

/// The records of a timeline, by chunk, by epoch.
type Records = BTreeMap<Chunk, BTreeMap<Epoch, RecordValue>>;

/// The epochs of a timeline that are live: what is needed of them.
#[derive(Default)]
struct Live {
    /// Their content.
    content: Vec<Epoch>,
    /// That it has changed.
    change: Vec<Epoch>,
}

impl Live {
    fn add(&mut self, key: u64) -> Epoch {
        match is_behind_children(key) {
            true => {
                let epoch = bookmark_epoch(key).expect("an epoch");
                self.change.push(epoch);
                epoch
            }
            false => {
                let epoch = child_epoch(key).expect("an epoch");
                self.content.push(epoch);
                epoch
            }
        }
    }

    /// Whether a record is one that has to be there, and is what it has to be.
    fn check(&self, t: TimelineId, records: &Records, what: &str) {
        let whole = alive(t, records, &self.content);
        let marks = alive(t, records, &self.change);
        for (&chunk, by_epoch) in records {
            for (&epoch, &value) in by_epoch {
                let at = (chunk, epoch);
                let right = match value {
                    RecordValue::Mark => marks.contains(&at),
                    _ => whole.contains(&at),
                };
                assert!(
                    right,
                    "{what}: {t:?} {chunk:?} {epoch:?}, records {by_epoch:?}, live {:?}, {:?}",
                    self.content, self.change
                );
            }
        }
    }
}

/// The records that a live epoch resolves to.
fn alive(t: TimelineId, records: &Records, live: &[Epoch]) -> BTreeSet<(Chunk, Epoch)> {
    let mut alive = BTreeSet::new();
    for (&chunk, by_epoch) in records {
        for &v in live {
            let found = match t.is_origin() {
                true => by_epoch.range(v..).next(),
                false => by_epoch.range(..=v).next_back(),
            };
            alive.extend(found.map(|(&epoch, _)| (chunk, epoch)));
        }
    }
    alive
}

/// Of the timelines of origins without a rollback every record is found by a valid version.
pub fn nothing_for_invalid_ones(w: &World) {
    let store = &w.store;
    let row_of = |t: TimelineId| w.row(t.origin());
    let mut live: BTreeMap<TimelineId, Live> = BTreeMap::new();
    for (&(t, key), &tag) in store.children.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        let below = match is_behind_children(key) {
            true => row_of(t).forgotten_below,
            false => row_of(t).invalid_below,
        };
        if tag >= below {
            live.entry(t).or_default().add(key);
        }
    }
    for (&t, row) in store.snapshots.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        if row.is_whole() && !row_of(t).is_invalid(row.tag) {
            live.entry(t).or_default().content.push(row.current_epoch);
        }
    }
    let mut records: BTreeMap<TimelineId, Records> = BTreeMap::new();
    for (&(t, key), &raw) in store.records.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        let (chunk, epoch) = RecordKey::decode(t, key).expect("a key");
        let value = RecordValue::decode(raw, w.cow.len() as u64).expect("a value");
        let of_chunk = records.entry(t).or_default().entry(chunk).or_default();
        of_chunk.insert(epoch, value);
    }
    for (t, records) in &records {
        if row_of(*t).rollback.is_some() {
            continue;
        }
        let none = Live::default();
        live.get(t)
            .unwrap_or(&none)
            .check(*t, records, "kept for nobody");
    }
}

/// Everything that must hold whatever the content is: nothing used twice, nothing lost, nothing
/// kept without need but what is queued for cleaning, all counts exact.
pub fn structure(w: &World) {
    let store = &w.store;
    let mut records: BTreeMap<TimelineId, Records> = BTreeMap::new();
    let mut held: BTreeMap<TimelineId, u64> = BTreeMap::new();
    let mut referenced = vec![false; w.cow.len()];
    for (&(t, key), &raw) in store.records.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        let (chunk, epoch) = RecordKey::decode(t, key).expect("a key");
        let value = RecordValue::decode(raw, w.cow.len() as u64).expect("a value");
        if let RecordValue::Cow(cow) = value {
            let place = &mut referenced[cow.get() as usize];
            assert!(!*place, "{cow:?} has two records");
            *place = true;
            *held.entry(t).or_default() += 1;
        }
        let first = value.first_of(t, chunk).expect("chunks that there are");
        let earlier = records.entry(t).or_default();
        if let RecordValue::Zeroes(_) = value {
            let others = earlier.range(first..).next();
            assert_eq!(
                others, None,
                "{t:?} {first:?} {chunk:?}: not the only record"
            );
        }
        let same = earlier.entry(chunk).or_default();
        let single = |value: &RecordValue| !matches!(value, RecordValue::Zeroes(_));
        assert!(
            same.values().all(single),
            "{t:?} {chunk:?}: a second record"
        );
        same.insert(epoch, value);
    }
    assert_eq!(
        referenced,
        store.used(),
        "used COW chunks have records, and only they"
    );

    let mut live: BTreeMap<TimelineId, Live> = BTreeMap::new();
    let mut pins = 0;
    for (&(t, key), &tag) in store.children.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        let epoch = live.entry(t).or_default().add(key);
        match Tag::new(tag) {
            Some(tag) if is_behind_children(key) => {
                assert!(t.is_origin(), "a bookmark of {t:?}");
                let bookmark = TimelineId::of_snapshot(t.origin(), tag);
                let row = store.snapshots.get(&bookmark.get()).expect("its row");
                assert_eq!((row.parent, row.base_epoch), (None, epoch));
                assert!(row.bookmark);
            }
            Some(tag) => {
                let child = TimelineId::of_snapshot(t.origin(), tag);
                let row = store.snapshots.get(&child.get()).expect("a child's row");
                assert_eq!((row.parent, row.base_epoch), (t.snapshot(), epoch));
            }
            None => {
                let rollback = w.row(t.origin()).rollback.expect("a pin's rollback");
                assert_eq!(
                    (Some(rollback.source), rollback.source_epoch),
                    (t.snapshot(), epoch)
                );
                pins += 1;
            }
        }
    }
    let count: BTreeMap<TimelineId, usize> = live
        .iter()
        .map(|(&t, live)| (t, live.content.len()))
        .collect();
    let children_of = |t| count.get(&t).copied().unwrap_or(0);
    let mut children = 0;

    let mut known = BTreeSet::new();
    for row in store.origins.iter().map(|(_, row)| row) {
        let t = row.timeline();
        known.insert(t);
        assert_eq!(
            row.chunks,
            held.get(&t).copied().unwrap_or(0),
            "chunks of {t:?}"
        );
        let of_this = || {
            let all = store.snapshots.iter();
            all.filter(|(&t, _)| t >> 32 == u64::from(row.number.get()))
                .map(|(_, row)| row)
        };
        let ghosts = of_this().filter(|row| row.ghost).count();
        assert_eq!(row.ghosts as usize, ghosts);
        let whole = of_this().filter(|row| row.is_whole()).count();
        assert_eq!(row.snapshots as usize, whole);
        let bookmarks: Vec<u32> = of_this()
            .filter(|row| row.bookmark)
            .map(|row| row.tag.get())
            .collect();
        assert_eq!(row.bookmarks as usize, bookmarks.len());
        assert_eq!(
            live.get(&t).map_or(0, |live| live.change.len()),
            bookmarks.len(),
            "bookmarks of {t:?}"
        );
        let o = w.disks.iter().position(|disk| disk.nr == Some(row.number));
        let o = o.expect("a device");
        let usable: Vec<u32> = of_this()
            .filter(|row| row.is_whole())
            .map(|row| row.tag.get())
            .collect();
        assert!(
            usable.iter().eq(w.oracle.origins[o].snapshots.keys()),
            "tags {usable:?}"
        );
        for (tag, snapshot) in &w.oracle.origins[o].snapshots {
            assert_eq!(
                snapshot.valid,
                !row.is_invalid(Tag::new(*tag).expect("a tag"))
            );
        }
        assert!(
            bookmarks.iter().eq(w.oracle.origins[o].bookmarks.keys()),
            "bookmarks {bookmarks:?}"
        );
        for (tag, bookmark) in &w.oracle.origins[o].bookmarks {
            let forgotten = row.is_forgotten(Tag::new(*tag).expect("a tag"));
            assert_eq!(bookmark.valid, !forgotten);
        }
        assert_eq!(
            row.rollback.map(|r| (r.source.get(), r.delete_source)),
            w.oracle.origins[o].rollback
        );
        assert_eq!(
            row.deferred.map(|r| (r.source.get(), r.delete_source)),
            w.oracle.origins[o].deferred
        );
        children += children_of(t);
    }
    for (&t, row) in store.snapshots.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        known.insert(t);
        assert_eq!(
            row.chunks,
            held.get(&t).copied().unwrap_or(0),
            "chunks of {t:?}"
        );
        assert_eq!(row.children as usize, children_of(t), "children of {t:?}");
        assert!(!row.ghost || row.children > 0, "{t:?} haunts nobody");
        if row.is_whole() {
            live.entry(t).or_default().content.push(row.current_epoch);
        }
        children += row.children as usize;
    }
    let based = store
        .children
        .iter()
        .filter(|((_, key), _)| !is_behind_children(*key));
    assert_eq!(children, based.count(), "children without a parent");
    let snapshots = store
        .snapshots
        .iter()
        .filter(|(_, row)| row.ghost || !row.bookmark);
    assert_eq!(
        children,
        snapshots.count() + pins,
        "each snapshot is a child"
    );
    for (&(nr, chunk), ()) in store.done.iter() {
        let row = store.origins.get(&nr).expect("an origin");
        let rollback = row.rollback.expect("marks of a rollback");
        assert!((rollback.cursor.get()..rollback.limit.get()).contains(&chunk));
    }
    for (&t, row) in store.cleaning.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        // The timeline of what a bookmark was kept of goes, and its row stays.
        let is_bookmark = store.snapshots.get(&t.get());
        let is_bookmark = is_bookmark.is_some_and(|row| row.bookmark && !row.ghost);
        let dead = !known.contains(&t) || is_bookmark;
        assert_eq!(row.drop, dead, "cleaning of {t:?}");
    }
    labels(w);
    for (t, records) in &records {
        if store.cleaning.get(&t.get()).is_some() {
            continue;
        }
        let none = Live::default();
        live.get(t).unwrap_or(&none).check(*t, records, "leaked");
    }
    no_snapshot_finds_a_mark(w, &records);
}

/// Each version that was given a name has it as long as it is there, and nothing else has one.
fn labels(w: &World) {
    let found = w.store.labels.iter().map(|(&t, row)| {
        let name = String::from_utf8_lossy(row.name.as_bytes()).into_owned();
        (t, name)
    });
    let found: BTreeMap<u64, String> = found.collect();
    let mut expected = BTreeMap::new();
    for (o, origin) in w.oracle.origins.iter().enumerate() {
        let Some(nr) = w.disks[o].nr else { continue };
        let tags = origin.snapshots.keys().chain(origin.bookmarks.keys());
        for (tag, name) in tags.filter_map(|tag| Some((*tag, origin.names.get(tag)?))) {
            let t = TimelineId::of_snapshot(nr, Tag::new(tag).expect("a tag"));
            expected.insert(t.get(), name.clone());
        }
    }
    assert_eq!(found, expected, "labels");
}

/// What a snapshot that is valid resolves to is content, or nothing.
fn no_snapshot_finds_a_mark(w: &World, records: &BTreeMap<TimelineId, Records>) {
    for (&(t, key), &tag) in w.store.children.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        if !t.is_origin() || is_behind_children(key) || tag < w.row(t.origin()).invalid_below {
            continue;
        }
        let epoch = child_epoch(key).expect("an epoch");
        for (chunk, by_epoch) in records.get(&t).into_iter().flatten() {
            let found = by_epoch.range(epoch..).next();
            assert!(
                found.is_none_or(|(_, &value)| value != RecordValue::Mark),
                "{t:?} {chunk:?}: snapshot {tag} finds a mark: {by_epoch:?}"
            );
        }
    }
}
