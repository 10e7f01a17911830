// SPDX-License-Identifier: GPL-2.0

//! What the journal says when a store in memory has changed.

use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::ids::{Chunk, CowChunk, OriginNr, TimelineId};
use dm_snap_mv_model::record_key::{bookmark_epoch, child_epoch, is_behind_children, RecordValue};

use crate::image::{has_versions, has_zeroes};
use crate::store::Store;

fn timeline(raw: u64) -> TimelineId {
    TimelineId::new(raw).expect("a timeline")
}

/// The entries by which one store becomes another; `None` if there are none for what has changed.
pub fn entries(old: &Store, new: &Store) -> Option<Vec<Entry>> {
    let mut all = Vec::new();
    let ids = |store: &Store| store.ids.iter().map(|(id, &nr)| (id.clone(), nr)).collect();
    let before: Vec<_> = ids(old);
    let next = |store: &Store| store.next_origin.get(&()).copied();
    if before != ids(new) || next(old) != next(new) || old.used().len() != new.used().len() {
        return None;
    }
    for (chunk, (&was, &is)) in old.used().iter().zip(new.used()).enumerate() {
        match (was, is) {
            (true, false) => return None,
            (false, true) => all.push(Entry::Run(Run::Use {
                start: CowChunk::new(chunk as u64)?,
                len: 1,
            })),
            _ => {}
        }
    }
    let chunks = new.used().len() as u64;
    if old
        .records
        .iter()
        .any(|(key, _)| new.records.get(key).is_none())
    {
        return None;
    }
    // The superblock must say first that there are such.
    let unsaid = |has: fn(&Store) -> bool| has(new) && !has(old);
    if unsaid(has_zeroes) || unsaid(has_versions) {
        return None;
    }
    for (key, &raw) in new.records.iter() {
        let value = RecordValue::decode(raw, chunks).ok()?;
        match old.records.get(key) {
            Some(&was) if was == raw => continue,
            // What it was of is free, or somebody else's.
            Some(&was) if was < RecordValue::Zero.encode() => return None,
            _ => all.push(Entry::Run(Run::Records {
                timeline: timeline(key.0),
                key: key.1,
                value,
                len: 1,
            })),
        }
    }
    if old.done.iter().any(|(key, ())| new.done.get(key).is_none()) {
        return None;
    }
    for (key, ()) in new
        .done
        .iter()
        .filter(|(key, ())| old.done.get(key).is_none())
    {
        all.push(Entry::Run(Run::Done {
            origin: OriginNr::new(key.0)?,
            start: Chunk::new(key.1)?,
            len: 1,
        }));
    }
    rows(old, new, &mut all)?;
    Some(all)
}

fn rows(old: &Store, new: &Store, all: &mut Vec<Entry>) -> Option<()> {
    for (nr, row) in new.origins.iter() {
        if old.origins.get(nr) != Some(row) {
            all.push(Entry::Origin(*row));
        }
    }
    for (t, row) in new.snapshots.iter() {
        if old.snapshots.get(t) != Some(row) {
            all.push(Entry::Snapshot(timeline(*t).origin(), *row));
        }
    }
    for (t, row) in old.snapshots.iter() {
        if new.snapshots.get(t).is_none() {
            // One that a crash takes back is not deleted.
            let nr = timeline(*t).origin().get();
            let was_there = new.origins.get(&nr).is_some_and(|o| o.next_tag > row.tag);
            match row.bookmark && !row.ghost {
                true => was_there.then_some(())?,
                false => new.cleaning.get(t).filter(|row| row.drop).map(drop)?,
            }
            all.push(Entry::NoSnapshot(timeline(*t)));
        }
    }
    for (key, &tag) in new.children.iter() {
        if old.children.get(key) != Some(&tag) {
            let timeline = timeline(key.0);
            all.push(match is_behind_children(key.1) {
                false => Entry::Child {
                    timeline,
                    epoch: child_epoch(key.1).ok()?,
                    tag,
                },
                true => Entry::Bookmark {
                    timeline,
                    epoch: bookmark_epoch(key.1).ok()?,
                    tag,
                },
            });
        }
    }
    for (key, _) in old.children.iter() {
        if new.children.get(key).is_none() {
            let timeline = timeline(key.0);
            all.push(match is_behind_children(key.1) {
                false => Entry::NoChild {
                    timeline,
                    epoch: child_epoch(key.1).ok()?,
                },
                true => Entry::NoBookmark {
                    timeline,
                    epoch: bookmark_epoch(key.1).ok()?,
                },
            });
        }
    }
    if old
        .cleaning
        .iter()
        .any(|(t, _)| new.cleaning.get(t).is_none())
    {
        return None;
    }
    for (t, row) in new.cleaning.iter() {
        if old.cleaning.get(t) != Some(row) {
            all.push(Entry::Cleaning(timeline(*t), *row));
        }
    }
    Some(())
}
