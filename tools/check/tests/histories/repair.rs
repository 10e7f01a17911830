// SPDX-License-Identifier: GPL-2.0

//! What can be made anew is repaired, at whatever moment that is interrupted; what cannot is left
//! as it is.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use dm_snap_mv_check::{check, plan, plan_for, Finding, Kind, Options, Step, Wanted};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::ids::{Chunk, Epoch, Tag, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};
use dm_snap_mv_store::btree::Btree;
use dm_snap_mv_store::{node, Block};

use crate::damage::{
    edit_origin, edit_snapshot, large, look, lying, rolling, with, with_superblock, BITMAP, INDEX,
};
use crate::image::{Image, Logged, SECTORS};
use crate::random::Random;
use crate::rich::rich;
use crate::store::Store;

fn entries(image: &Image, root: u64, size: usize) -> BTreeMap<u64, Vec<u8>> {
    let mut all = BTreeMap::new();
    Btree::new(image, root, size, 1024)
        .walk(0, &mut |key, value| {
            all.insert(key, value.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

fn two_levels(image: &Image, root: u64) -> BTreeMap<(u64, u64), Vec<u8>> {
    let mut all = BTreeMap::new();
    for (key, value) in entries(image, root, 8) {
        let root = u64::from_le_bytes(value.try_into().unwrap());
        for (second, value) in entries(image, root, 8) {
            all.insert((key, second), value);
        }
    }
    all
}

/// All that versions are read by, without the counts in rows.
#[derive(Debug, PartialEq)]
pub struct Content {
    records: BTreeMap<(u64, u64), Vec<u8>>,
    children: BTreeMap<(u64, u64), Vec<u8>>,
    marks: BTreeMap<(u64, u64), Vec<u8>>,
    origins: Vec<OriginRow>,
    snapshots: Vec<(u64, SnapshotRow)>,
}

impl Content {
    /// Has a record more.
    pub fn put_record(&mut self, keys: (u64, u64), value: u64) {
        self.records.insert(keys, value.to_le_bytes().to_vec());
    }
}

pub fn content(image: &Image) -> Content {
    let roots = image.superblock().roots;
    let origins = entries(image, roots.origins, OriginRow::SIZE);
    let snapshots = entries(image, roots.snapshots, SnapshotRow::SIZE);
    Content {
        records: two_levels(image, roots.records),
        children: two_levels(image, roots.children),
        marks: two_levels(image, roots.done),
        origins: origins
            .into_values()
            .map(|value| {
                let mut row = OriginRow::decode(&value.try_into().unwrap()).unwrap();
                (row.snapshots, row.ghosts, row.chunks) = (0, 0, 0);
                row
            })
            .collect(),
        snapshots: snapshots
            .into_iter()
            .map(|(key, value)| {
                let mut row = SnapshotRow::decode(&value.try_into().unwrap()).unwrap();
                (row.children, row.chunks) = (0, 0);
                (key, row)
            })
            .collect(),
    }
}

fn words(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.what.as_str()).collect()
}

/// Repairs an image, and looks at what each crash meanwhile leaves.
fn repair(name: &str, image: &Image, random: &mut Random) -> Image {
    repair_to(name, image, &content(image), random)
}

/// The same when other content comes of it: what is in the journal is made.
pub fn repair_to(name: &str, image: &Image, expected: &Content, random: &mut Random) -> Image {
    repair_as(name, image, Wanted::default(), expected, random)
}

/// The same when that is to be given up of which rows count less than there is.
pub fn recount_to(name: &str, image: &Image, expected: &Content, random: &mut Random) -> Image {
    refuse(name, image);
    let wanted = Wanted {
        give_up: true,
        superblock: false,
    };
    repair_as(name, image, wanted, expected, random)
}

fn repair_as(
    name: &str,
    image: &Image,
    wanted: Wanted,
    expected: &Content,
    random: &mut Random,
) -> Image {
    let plan =
        |device: &Logged, findings: &mut Vec<Finding>| plan_for(device, SECTORS, wanted, findings);
    let (before, _) = look(image);
    let kept = content(image);
    let mut findings = Vec::new();
    let device = Logged::new(image);
    let (report, found) = plan(&device, &mut findings);
    assert_eq!(findings, before);
    let Some(found) = found else {
        panic!("{name}: no plan for {findings:?}");
    };
    let possible = report.is_repairable() || report.is_clean();
    assert!(
        possible || wanted.give_up && report.can_be_given_up(),
        "{name}"
    );
    found.carry_out(&device).unwrap();
    let log = device.log.take();
    let after = device.image();
    assert_eq!(look(&after).0, [], "{name}");
    assert_eq!(content(&after), *expected, "{name}");
    assert!(after.superblock().transaction > image.superblock().transaction);

    // All is flushed, then the superblock, which is flushed.
    // The backup comes last.
    let [log @ .., Some((backup, _)), None] = log.as_slice() else {
        panic!("{name}: no backup");
    };
    assert_eq!(after.superblock().backup(), Some(*backup));
    let writes: Vec<_> = log.iter().flatten().collect();
    assert_eq!(writes.last().unwrap().0, 0);
    let n = log.len();
    assert!(log[n - 1].is_none() && log[n - 2].is_some() && log[n - 3].is_none());
    let unflushed = &writes[..writes.len() - 1];
    assert!(unflushed.iter().all(|(nr, _)| *nr != 0));
    for _ in 0..12 {
        let mut crashed = image.clone();
        for (nr, block) in unflushed {
            if random.once_in(2) {
                crashed.blocks.insert(*nr, block.clone());
            }
        }
        assert_eq!(words(&look(&crashed).0), words(&before), "{name}: a crash");
        assert_eq!(content(&crashed), kept, "{name}: a crash");
        // And it can be repaired then.
        let device = Logged::new(&crashed);
        let (_, plan) = plan(&device, &mut Vec::new());
        plan.unwrap().carry_out(&device).unwrap();
        assert_eq!(look(&device.image()).0, [], "{name}: after a crash");
    }
    // Writes that fail at some time.
    for last in 0..writes.len() {
        let device = Logged::new(image);
        device.last.set(last);
        assert!(found.carry_out(&device).is_err());
        let image = device.image();
        assert_eq!(words(&look(&image).0), words(&before), "{name}: an error");
    }
    after
}

/// The same where something is given up for it, which is not done unasked.
pub fn give_up(name: &str, image: &Image) -> Image {
    refuse(name, image);
    let device = Logged::new(image);
    let wanted = Wanted {
        give_up: true,
        superblock: false,
    };
    let (report, plan) = plan_for(&device, SECTORS, wanted, &mut Vec::new());
    assert!(report.can_be_given_up(), "{name}");
    plan.expect(name).carry_out(&device).unwrap();
    let after = device.image();
    assert_eq!(look(&after).0, [], "{name}");
    after
}

/// What mkfs and the like leave of a superblock.
fn overwritten(image: &Image, with: u8) -> Image {
    let mut image = image.clone();
    image.blocks.get_mut(&0).unwrap().0.fill(with);
    image
}

#[test]
fn a_superblock_is_brought_back() {
    let store = rich();
    let mut good = with_superblock(&store, |s| s.clean = false);
    let place = crate::journal::place(&store);
    let record = crate::journal::records(place, RecordValue::Zero, 1);
    good.journal(0, &[record]);
    assert_eq!(look(&good).0, []);
    let wanted = Wanted {
        give_up: false,
        superblock: true,
    };
    let mut torn = good.clone();
    torn.blocks.get_mut(&0).unwrap().0[700] ^= 1;
    for image in [overwritten(&good, 0), overwritten(&good, 0x53), torn] {
        let report = check(&image, SECTORS, Options::default(), &mut Vec::new());
        let found = report.found.expect("a backup");
        assert_eq!((found.errors, found.superblock.uuid), (0, [7; 16]));
        refuse_quietly(&image);
        let device = Logged::new(&image);
        let (_, plan) = plan_for(&device, SECTORS, wanted, &mut Vec::new());
        plan.unwrap().carry_out(&device).unwrap();
        let after = device.image();
        let same = |(a, b): ((&u64, &Block), (&u64, &Block))| a.0 == b.0 && a.1 .0 == b.1 .0;
        assert_eq!(after.blocks.len(), good.blocks.len());
        assert!(after.blocks.iter().zip(&good.blocks).all(same));
    }
    // One that is behind, or of which more is gone than the superblock, is none.
    let mut image = overwritten(&good, 0x53);
    let mut old = good.superblock();
    old.transaction -= 1;
    image.put_backup(&old);
    let mut more = overwritten(&good, 0);
    more.blocks
        .get_mut(&good.superblock().roots.records)
        .unwrap()
        .0
        .fill(0);
    for image in [image, more] {
        let device = Logged::new(&image);
        let (report, plan) = plan_for(&device, SECTORS, wanted, &mut Vec::new());
        assert!(report.found.unwrap().errors > 0 && plan.is_none());
    }
    // Nothing is left.
    let mut image = overwritten(&good, 0);
    let number = good.superblock().backup().unwrap();
    image.blocks.remove(&number);
    let device = Logged::new(&image);
    let (report, plan) = plan_for(&device, SECTORS, wanted, &mut Vec::new());
    assert!(report.found.is_none() && plan.is_none());

    // The superblock of the commit before.
    let mut old = Image::of(&store);
    let newer = old.superblock();
    let mut superblock = newer.clone();
    superblock.transaction -= 1;
    old.put_superblock(&superblock);
    old.put_backup(&newer);
    let (findings, _) = look(&old);
    let words = |words: &str| findings.iter().any(|f| f.what.contains(words));
    assert!(words("older than its backup"), "{findings:?}");
    refuse("an old one", &old);
    // And one that is not what it was.
    let mut other = Image::of(&store);
    let mut superblock = newer.clone();
    superblock.next_origin += 1;
    other.put_superblock(&superblock);
    other.put_backup(&newer);
    let (findings, _) = look(&other);
    assert!(
        findings.iter().any(|f| f.what.contains("differ")),
        "{findings:?}"
    );
    // What a crash leaves of a backup is no error.
    for edit in [
        |i: &mut Image, s: &Superblock| {
            i.blocks.remove(&s.backup().unwrap());
        },
        |i: &mut Image, s: &Superblock| {
            let mut old = s.clone();
            old.transaction -= 1;
            i.put_backup(&old);
        },
    ] {
        let mut image = Image::of(&store);
        let superblock = image.superblock();
        edit(&mut image, &superblock);
        assert_eq!(look(&image).0, []);
    }
}

/// Without being asked to, nothing is done.
fn refuse_quietly(image: &Image) {
    let device = Logged::new(image);
    let (report, plan) = plan(&device, SECTORS, &mut Vec::new());
    assert!(report.found.is_some() && plan.is_none());
    assert!(device.log.take().is_empty());
}

#[test]
fn what_is_missing_is_given_up_when_asked() {
    let store = rich();
    let filled = |(_, row): &(&u64, &SnapshotRow)| row.chunks > 0 && !row.ghost;
    let (&t, row) = store.snapshots.iter().find(filled).unwrap();
    // The tree of a timeline's records is empty, and what it had is still there.
    let mut image = Image::of(&store);
    let root = image.records_of(TimelineId::new(t).unwrap());
    let kept = image.blocks[&root].clone();
    image.blocks.insert(root, *node::make(true, 8, &[], root));
    let words = format!("it counts {} COW chunks, there are 0", row.chunks);
    let (findings, _) = look(&image);
    let found = |kind: Kind, words: &str| {
        let mut all = findings.iter();
        all.any(|f| f.kind == kind && f.what.contains(words))
    };
    assert!(found(Kind::Missing, &words), "{findings:?}");
    assert!(found(Kind::LeakedChunk, "are not") || found(Kind::LeakedChunk, "is not"));
    let after = give_up("records", &image);
    let rows = entries(
        &after,
        after.superblock().roots.snapshots,
        SnapshotRow::SIZE,
    );
    let row = SnapshotRow::decode(&rows[&t].clone().try_into().unwrap()).unwrap();
    assert_eq!(row.chunks, 0);
    // With what was there all is in order again, as nothing has been freed.
    image.blocks.insert(root, kept);
    assert_eq!(look(&image).0, []);
    // Something leads to an empty root instead of that.
    let image = with_superblock(&store, |s| s.roots.records = s.roots.cleaning);
    refuse("a root", &image);
    // Marks that are gone: the rollback would copy over what was written since.
    let mut image = Image::of(&store);
    let empty = 1000;
    image.blocks.insert(empty, *node::make(true, 8, &[], empty));
    let mut superblock = image.superblock();
    superblock.roots.done = empty;
    image.put_superblock(&superblock);
    refuse("marks", &image);
    assert!(look(&image).0.iter().any(|f| f.kind == Kind::Missing));
}

fn refuse(name: &str, image: &Image) {
    let device = Logged::new(image);
    let (report, plan) = plan(&device, SECTORS, &mut Vec::new());
    assert!(!report.is_clean() && plan.is_none(), "{name}");
    assert!(device.log.take().is_empty(), "{name}");
}

#[test]
fn what_can_be_made_anew_is_repaired() {
    let store = rich();
    let mut random = Random::new(1);
    let random = &mut random;
    let good = Image::of(&store);
    let damage = |edit: fn(&mut Image)| {
        let mut image = good.clone();
        edit(&mut image);
        image
    };

    let used: Vec<_> = (0..store.used().len())
        .filter(|&chunk| store.used()[chunk])
        .map(|chunk| (chunk as u64, false))
        .collect();
    for (name, image) in [
        (
            "needs check",
            with_superblock(&store, |s| s.needs_check = true),
        ),
        ("full", with_superblock(&store, |s| s.cow_full = true)),
        ("unclean", with_superblock(&store, |s| s.clean = false)),
        ("leaks", lying(&store, &[(900, true)], &[(1000, true)])),
        ("free", lying(&store, &used[..3], &[])),
        (
            "free",
            lying(&store, &[], &[(1, false), (2, false), (3, false)]),
        ),
        (
            "a size",
            damage(|i| i.set_data_root(|root| root.blocks -= 3)),
        ),
        (
            "a size",
            damage(|i| i.set_metadata_root(|root| root.blocks = 1)),
        ),
        (
            "a count",
            damage(|i| i.set_data_root(|root| root.allocated = 0)),
        ),
        (
            "an index",
            damage(|i| i.set_data_root(|root| root.index = 0)),
        ),
        (
            "an index",
            damage(|i| i.set_metadata_root(|root| root.index = 5)),
        ),
        (
            "counts",
            damage(|i| i.set_metadata_root(|root| root.counts = u64::MAX)),
        ),
        (
            "an unreadable bitmap",
            damage(|i| {
                let block = i.data_entry().block;
                i.broken.insert(block);
            }),
        ),
        (
            "a bitmap in a tree",
            damage(|i| {
                let root = i.superblock().roots.records;
                i.set_data_entry(|entry| entry.block = root);
            }),
        ),
        (
            "a bitmap",
            damage(|i| {
                let block = i.data_entry().block;
                i.put(block, BITMAP, 16, &[0xff; 500]);
            }),
        ),
        (
            "an entry of the index",
            damage(|i| {
                let index = i.metadata_root().index;
                i.put(index, INDEX, 16, &[0xff; 16]);
            }),
        ),
        (
            "identities",
            damage(|i| {
                let root = i.superblock().roots.origin_ids;
                i.broken.insert(root);
            }),
        ),
    ] {
        repair(name, &image, random);
    }

    let ids: Vec<_> = store.ids.iter().map(|(id, _)| id.clone()).collect();
    let other = *store.ids.get(&ids[1]).unwrap();
    let image = with(&store, |s| {
        s.ids.remove(&ids[0]);
        s.ids.insert(b"other".to_vec(), other);
    });
    repair("an identity", &image, random);
    let (rolling, other) = rolling(&store);
    let image = with(&store, |s| {
        for nr in [rolling, other] {
            edit_origin(s, nr, |row| (row.snapshots, row.ghosts) = (0, 0));
        }
        let all: Vec<u64> = s.snapshots.iter().map(|(&t, _)| t).collect();
        for t in all {
            edit_snapshot(s, t, |row| row.children = 0);
        }
    });
    let after = recount_to("counts", &image, &content(&image), random);
    let roots = after.superblock().roots;
    assert_eq!(
        entries(&after, roots.snapshots, SnapshotRow::SIZE),
        entries(&good, good.superblock().roots.snapshots, SnapshotRow::SIZE),
    );
    assert_eq!(
        entries(&after, roots.origins, OriginRow::SIZE),
        entries(&good, good.superblock().roots.origins, OriginRow::SIZE),
    );
    repair("of several nodes", &with_large(&store), random);
    garbage(&store);
}

/// Damage to the space maps of a store with trees of several nodes.
fn with_large(store: &Store) -> Image {
    let (store, _) = large(store, 9000);
    lying(&store, &[(800, true)], &[(7, false), (999, true)])
}

/// Garbage that nothing would remove is queued for cleaning, as the module does it, when asked.
fn garbage(store: &Store) {
    let (nr, _) = rolling(store);
    let t = TimelineId::new(u64::from(nr) << 32).unwrap();
    // Beyond every epoch that something is based on, and so found by nothing.
    let store = {
        let mut store = store.clone();
        let oldest = store.children.iter().filter(|((of, _), _)| *of == t.get());
        let oldest = oldest
            // Of a snapshot, or of a bookmark.
            .map(|((_, key), _)| (1 << 24) - 1 - (key & u64::from(u32::MAX)))
            .min()
            .unwrap();
        assert!(oldest > 1, "the first epoch is still needed");
        let epoch = Epoch::new(oldest as u32 - 1).unwrap();
        for chunk in 0..3 {
            let key = RecordKey::new(t, Chunk::new(chunk).unwrap(), epoch);
            store
                .records
                .insert((t.get(), key.get()), RecordValue::Zero.encode());
        }
        if store.cleaning.get(&t.get()).is_some() {
            store.cleaning.remove(&t.get());
        }
        store
    };
    let image = Image::of(&store);
    let (findings, _) = look(&image);
    assert!(
        findings.iter().all(|f| f.kind == Kind::Garbage),
        "{findings:?}"
    );
    let after = give_up("garbage", &image);
    let rows = entries(&after, after.superblock().roots.cleaning, 32);
    assert!(rows.contains_key(&t.get()));
}

#[test]
fn what_cannot_is_left_alone() {
    let store = rich();
    let good = Image::of(&store);
    let roots = good.superblock().roots;
    for (name, nr) in [
        ("records", roots.records),
        ("origins", roots.origins),
        ("snapshots", roots.snapshots),
        ("marks", roots.done),
        ("cleanings", roots.cleaning),
    ] {
        let mut image = good.clone();
        image.broken.insert(nr);
        refuse(name, &image);
        // What could be repaired is not, either.
        image.set_data_root(|root| root.allocated += 1);
        refuse(name, &image);
    }
    let key = *store.snapshots.iter().next().unwrap().0;
    let image = with(&store, |s| {
        edit_snapshot(s, key, |row| row.tag = Tag::new(5000).unwrap())
    });
    refuse("a row", &image);
    let mut image = good.clone();
    image.blocks.get_mut(&0).unwrap().0[200] ^= 1;
    refuse("superblock", &image);
    let mut chunks = store
        .records
        .iter()
        .map(|(_, v)| *v)
        .filter(|v| v >> 62 == 0);
    let (first, (place, _)) = (chunks.next().unwrap(), store.records.iter().last().unwrap());
    let image = with(&store, |s| s.records.insert(*place, first));
    refuse("a shared chunk", &image);

    // Nothing is wrong: nothing to do.
    let device = Logged::new(&good);
    let (report, plan) = plan(&device, SECTORS, &mut Vec::new());
    assert!(report.is_clean() && plan.is_none());
}

#[test]
fn without_room_nothing_is_changed() {
    let store = rich();
    let full = |records| {
        let image = lying(&large(&store, records).0, &[(700, true)], &[]);
        let free = (1..1024).filter(|nr| !image.blocks.contains_key(nr));
        (free.count() as u64, image)
    };
    let most = 252 * 900;
    let (free, _) = full(most);
    let (free, image) = full(most + 252 * (free - 4));
    assert!((1..=4).contains(&free), "{free} free blocks");
    let (before, _) = look(&image);
    let device = Logged::new(&image);
    let (_, plan) = plan(&device, SECTORS, &mut Vec::new());
    let plan = plan.unwrap();
    assert!(plan.steps().any(|step| step == Step::DataSpace));
    let error = plan.carry_out(&device).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(look(&device.image()).0, before);
}
