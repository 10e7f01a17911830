// SPDX-License-Identifier: GPL-2.0

//! Whether a world is as it must be.

use std::collections::{BTreeMap, BTreeSet};

use dm_snap_mv_model::ids::{Chunk, Epoch, Tag, TimelineId};
use dm_snap_mv_model::record_key::{child_epoch, RecordKey, RecordValue};

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
}

/// The records of a timeline, by chunk, by epoch.
type Records = BTreeMap<Chunk, BTreeMap<Epoch, RecordValue>>;

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
    let mut live: BTreeMap<TimelineId, Vec<Epoch>> = BTreeMap::new();
    for (&(t, key), &tag) in store.children.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        if tag >= row_of(t).invalid_below {
            live.entry(t)
                .or_default()
                .push(child_epoch(key).expect("an epoch"));
        }
    }
    for (&t, row) in store.snapshots.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        if !row.ghost && !row_of(t).is_invalid(row.tag) {
            live.entry(t).or_default().push(row.current_epoch);
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
        let none = Vec::new();
        let alive = alive(*t, records, live.get(t).unwrap_or(&none));
        for (&chunk, by_epoch) in records {
            for &epoch in by_epoch.keys() {
                assert!(
                    alive.contains(&(chunk, epoch)),
                    "kept for nobody: {t:?} {chunk:?} {epoch:?}, {:?}",
                    row_of(*t),
                );
            }
        }
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

    let mut live: BTreeMap<TimelineId, Vec<Epoch>> = BTreeMap::new();
    let mut pins = 0;
    for (&(t, key), &tag) in store.children.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        let epoch = child_epoch(key).expect("an epoch");
        live.entry(t).or_default().push(epoch);
        match Tag::new(tag) {
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
    let count: BTreeMap<TimelineId, usize> = live.iter().map(|(&t, e)| (t, e.len())).collect();
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
        assert_eq!(row.snapshots as usize, of_this().count() - ghosts);
        let o = w.disks.iter().position(|disk| disk.nr == Some(row.number));
        let o = o.expect("a device");
        let usable: Vec<u32> = of_this()
            .filter(|row| !row.ghost)
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
        if !row.ghost {
            live.entry(t).or_default().push(row.current_epoch);
        }
        children += row.children as usize;
    }
    assert_eq!(
        children,
        store.children.iter().count(),
        "children without a parent"
    );
    assert_eq!(
        children,
        store.snapshots.iter().count() + pins,
        "each snapshot is a child"
    );
    for (&(nr, chunk), ()) in store.done.iter() {
        let row = store.origins.get(&nr).expect("an origin");
        let rollback = row.rollback.expect("marks of a rollback");
        assert!((rollback.cursor.get()..rollback.limit.get()).contains(&chunk));
    }
    for (&t, row) in store.cleaning.iter() {
        let t = TimelineId::new(t).expect("a timeline");
        assert_eq!(row.drop, !known.contains(&t), "cleaning of {t:?}");
    }
    for (t, records) in &records {
        if store.cleaning.get(&t.get()).is_some() {
            continue;
        }
        let none = Vec::new();
        let alive = alive(*t, records, live.get(t).unwrap_or(&none));
        for (&chunk, by_epoch) in records {
            for &epoch in by_epoch.keys() {
                assert!(
                    alive.contains(&(chunk, epoch)),
                    "leaked: {t:?} {chunk:?} {epoch:?}, records {by_epoch:?}, live {:?}, {:?}",
                    live.get(t),
                    w.row(t.origin()).rollback,
                );
            }
        }
    }
}
