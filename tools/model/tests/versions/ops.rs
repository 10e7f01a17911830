// SPDX-License-Identifier: GPL-2.0

//! Operations, in any order: whatever came before, each of them means something.

use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::label;
use dm_snap_mv_model::message::{Message, Request};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::rollback;
use dm_snap_mv_model::versions::{
    bind, find_snapshot, grow, take_bookmark, take_origin_snapshot, take_snapshot_snapshot, unbind,
    Loss,
};

use crate::check;
use crate::oracle::{Counts, Origin, CHUNK_SECTORS};
use crate::random::Random;
use crate::world::{chunk_size, Disk, Stop, World};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    WriteOrigin,
    WriteSnapshot,
    ZeroSnapshot,
    DiscardOrigin,
    TakeOfOrigin,
    TakeOfSnapshot,
    TakeBookmark,
    KeepBookmark,
    Delete,
    Clean,
    Commit,
    RollBack,
    ContinueRollback,
    Defer,
    Grow,
    BindOrUnbind,
    Invalidate,
    Crash,
}

const KINDS: [(Kind, u64); 18] = [
    (Kind::WriteOrigin, 60),
    (Kind::WriteSnapshot, 50),
    (Kind::ZeroSnapshot, 12),
    (Kind::DiscardOrigin, 12),
    (Kind::TakeOfOrigin, 12),
    (Kind::TakeOfSnapshot, 12),
    (Kind::TakeBookmark, 5),
    (Kind::KeepBookmark, 8),
    (Kind::Delete, 16),
    (Kind::Clean, 24),
    (Kind::Commit, 8),
    (Kind::RollBack, 6),
    (Kind::ContinueRollback, 30),
    (Kind::Defer, 2),
    (Kind::Grow, 1),
    (Kind::BindOrUnbind, 4),
    (Kind::Invalidate, 1),
    (Kind::Crash, 2),
];

/// One operation. What its numbers mean depends on its kind and on what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Op {
    pub kind: Kind,
    /// Which origin, which snapshot.
    pub origin: u32,
    pub pick: u32,
    /// Where, how much.
    pub start: u32,
    pub len: u32,
    /// More to choose from.
    pub extra: u32,
    /// After so many steps the machine crashes; 0: it does not.
    pub crash: u32,
}

/// What all operations of a run have in common.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    pub cow_chunks: usize,
    /// Chunks of each origin.
    pub origins: Vec<usize>,
    /// Most snapshots of each.
    pub snapshots: usize,
    pub invalidates: bool,
    /// All of a world is checked each time after so many operations.
    pub check_every: usize,
}

/// A run: its configuration and its operations.
pub fn generate(seed: u64, len: usize) -> (Config, Vec<Op>) {
    let mut random = Random::new(seed);
    let origins = (0..1 + random.below(3)).map(|_| 4 + random.below(20) as usize);
    let config = Config {
        seed,
        origins: origins.collect(),
        cow_chunks: if random.once_in(3) {
            16 + random.below(64) as usize
        } else {
            512
        },
        snapshots: 2 + random.below(10) as usize,
        invalidates: random.once_in(2),
        check_every: 8 + random.below(40) as usize,
    };
    // Each run has its own taste.
    let weights =
        KINDS.map(|(kind, weight)| (kind, weight * [0, 1, 1, 2, 4][random.below(5) as usize]));
    let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let crashes = [0, 10, 30][random.below(3) as usize];
    let ops = (0..len).map(|_| {
        let mut at = random.below(total.max(1));
        let kind = weights.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let mut number = || random.next() as u32;
        let mut op = Op {
            kind: kind.map_or(Kind::WriteOrigin, |(kind, _)| *kind),
            origin: number(),
            pick: number(),
            start: number(),
            len: number(),
            extra: number(),
            crash: 0,
        };
        if crashes > 0 && random.once_in(crashes) {
            op.crash = 1 + random.below(10) as u32;
        }
        op
    });
    (config.clone(), ops.collect())
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub ops: u64,
    pub crashes: u64,
    pub refusals: u64,
    pub counts: Counts,
}

impl Stats {
    pub fn add(&mut self, other: Stats) {
        self.ops += other.ops;
        self.crashes += other.crashes;
        self.refusals += other.refusals;
        let (counts, others) = (&mut self.counts, other.counts);
        counts.taken += others.taken;
        counts.deleted += others.deleted;
        counts.invalidated += others.invalidated;
        counts.rollbacks += others.rollbacks;
        counts.rolled_back += others.rolled_back;
        counts.discarded += others.discarded;
        counts.left_alone += others.left_alone;
        counts.bookmarked += others.bookmarked;
        counts.deltas += others.deltas;
        counts.changed += others.changed;
        counts.exact += others.exact;
    }
}

/// Runs operations on a new world. Panics when something is wrong; `done` counts those that are
/// done.
pub fn run(config: &Config, ops: &[Op], done: &mut usize) -> Stats {
    let mut stats = Stats::default();
    let mut w = World::new(config.cow_chunks, config.invalidates, config.seed);
    w.reclaimed = check::nothing_for_invalid_ones;
    for (o, &chunks) in config.origins.iter().enumerate() {
        let content: Vec<u64> = (0..chunks).map(|_| w.fresh()).collect();
        w.oracle.origins.push(Origin {
            head: content.clone(),
            size: chunks as u64 * CHUNK_SECTORS,
            ..Origin::default()
        });
        w.disks.push(Disk {
            id: format!("origin {o}").into_bytes(),
            nr: None,
            content,
        });
        bind_or_unbind(&mut w, o).expect("a new origin");
    }
    for op in ops {
        w.countdown = op.crash.checked_sub(1);
        let crashed = match apply(&mut w, config, op) {
            Ok(()) => false,
            Err(Stop::Crash) => true,
            Err(Stop::Refused(refusal)) => {
                assert!(
                    !refusal.is_fatal() || refusal == Refusal::NoSpace,
                    "{refusal}"
                );
                w.oracle.in_flight.clear();
                // Part of it may have been noted as changed.
                w.exact &= refusal != Refusal::NoSpace;
                stats.refusals += 1;
                false
            }
        };
        if crashed {
            w.crash();
            w.exact = false;
            stats.crashes += 1;
            check::after_crash(&mut w);
        }
        w.countdown = None;
        w.interlude = None;
        let o = op.origin as usize % w.disks.len();
        check::content(&mut w, o, None, 0, usize::MAX);
        if let Some(tag) = pick(&w, o, op.extra) {
            check::content(&mut w, o, Some(tag), 0, usize::MAX);
        }
        *done += 1;
        if *done % config.check_every == 0 {
            check::all_content(&mut w);
            check::structure(&w);
            check::all_deltas(&mut w);
        }
    }
    finish(&mut w);
    stats.ops = ops.len() as u64;
    stats.counts = w.oracle.counts;
    stats
}

/// In the end all snapshots go, and nothing may be left of them.
fn finish(w: &mut World) {
    clean_all(w);
    for o in 0..w.disks.len() {
        while w.oracle.origins[o].rollback.is_some() {
            match w.continue_rollback(o, 5) {
                Ok(()) => (),
                // Nothing is left to copy to: then there is nothing to roll back to, either.
                Err(Stop::Refused(Refusal::NoSpace)) => w.invalidates = true,
                Err(stop) => panic!("{stop:?}"),
            }
        }
        let tags: Vec<u32> = w.oracle.origins[o].snapshots.keys().copied().collect();
        for tag in tags {
            w.delete(o, tag).expect("a deletion");
            check::all_content(w);
        }
        check::structure(w);
        let tags: Vec<u32> = w.oracle.origins[o].bookmarks.keys().copied().collect();
        for tag in tags {
            // Of what only bookmarks are left of, no content is.
            clean_all(w);
            assert!(!w.holds_content(o), "content for bookmarks");
            check::all_deltas(w);
            w.delete(o, tag).expect("a deletion");
        }
        check::structure(w);
    }
    clean_all(w);
    check::structure(w);
    assert!(!w.store.used().contains(&true), "all COW chunks are free");
    assert_eq!(w.store.records.iter().count(), 0, "no record is left");
    for o in 0..w.disks.len() {
        if w.disks[o].nr.is_some() {
            bind_or_unbind(w, o).expect("nothing to keep an origin for");
        }
    }
}

fn clean_all(w: &mut World) {
    while w.clean(13).expect("cleaning") {}
    w.commit().expect("a commit");
}

/// A snapshot that there is.
fn pick(w: &World, o: usize, number: u32) -> Option<u32> {
    let tags = &w.oracle.origins[o].snapshots;
    tags.keys()
        .nth(number as usize % tags.len().max(1))
        .copied()
}

/// A snapshot or a bookmark that there is.
fn pick_any(w: &World, o: usize, number: u32) -> Option<u32> {
    let origin = &w.oracle.origins[o];
    let tags = origin.snapshots.keys().chain(origin.bookmarks.keys());
    let many = origin.snapshots.len() + origin.bookmarks.len();
    tags.copied().nth(number as usize % many.max(1))
}

/// A range of a device of so many chunks.
fn range(op: &Op, chunks: usize) -> (usize, usize) {
    let start = op.start as usize % chunks;
    let most = (chunks - start).min(1 + op.extra as usize % 8);
    (start, 1 + op.len as usize % most)
}

fn apply(w: &mut World, config: &Config, op: &Op) -> Result<(), Stop> {
    let o = op.origin as usize % w.disks.len();
    if op.extra & 0x700 == 0 {
        w.interlude = pick_any(w, o, op.extra >> 12).map(|tag| (o, tag, op.extra & 0x800 == 0));
    }
    let bound = w.disks[o].nr.is_some();
    match op.kind {
        Kind::WriteOrigin => {
            // Behind the size that the store knows, its device does not lead to the disk.
            let chunks = w.oracle.origins[o].size.div_ceil(CHUNK_SECTORS) as usize;
            let (start, len) = range(op, chunks);
            let values: Vec<u64> = (0..len).map(|_| w.fresh()).collect();
            return w.write_origin(o, start, &values);
        }
        Kind::Commit => return w.commit(),
        Kind::Crash => return Err(Stop::Crash),
        Kind::Clean => return w.clean(1 + u64::from(op.len % 9)).map(|_| ()),
        Kind::BindOrUnbind => return bind_or_unbind(w, o),
        _ if !bound => return Ok(()),
        _ => (),
    }
    let mut row = w.row(w.disks[o].nr.expect("bound"));
    let tag = pick(w, o, op.pick);
    let many = w.oracle.origins[o].snapshots.len() >= config.snapshots;
    match (op.kind, tag) {
        (Kind::WriteSnapshot, Some(tag)) if valid(w, o, tag) => {
            // A snapshot that is in use is not deleted.
            w.interlude = w.interlude.filter(|&(_, other, _)| other != tag);
            let (start, len) = range(op, w.oracle.origins[o].snapshots[&tag].content.len());
            let values: Vec<u64> = (0..len).map(|_| w.fresh()).collect();
            w.write_snapshot(o, tag, start, &values)
        }
        (Kind::ZeroSnapshot, Some(tag)) if valid(w, o, tag) => {
            let chunks = w.oracle.origins[o].snapshots[&tag].content.len();
            let (start, len) = match op.extra % 5 {
                // Many at once.
                0 => (0, chunks),
                1 => (
                    op.start as usize % chunks,
                    chunks - op.start as usize % chunks,
                ),
                _ => range(op, chunks),
            };
            w.zero_snapshot(o, tag, start, len)
        }
        (Kind::DiscardOrigin, _) => {
            let chunks = w.oracle.origins[o].size.div_ceil(CHUNK_SECTORS) as usize;
            let (start, len) = range(op, chunks);
            w.discard_origin(o, start, len)
        }
        (Kind::TakeOfOrigin, _) if !many => {
            let taken = w.durably(
                |store| take_origin_snapshot(store, &mut row, b"memo", 1),
                |oracle, tag| assert_eq!(oracle.take(o, None), tag.get()),
            );
            taken?;
            name(w, o, &row, op)
        }
        (Kind::TakeOfSnapshot, Some(tag)) if !many => take_of_snapshot(w, o, &mut row, tag),
        (Kind::TakeBookmark, _) if w.oracle.origins[o].bookmarks.len() < config.snapshots => {
            let taken = w.durably(
                |store| take_bookmark(store, &mut row, b"mark", 1),
                |oracle, tag| assert_eq!(oracle.take_bookmark(o), tag.get()),
            );
            taken?;
            name(w, o, &row, op)
        }
        (Kind::KeepBookmark, Some(tag)) => keep(w, o, tag),
        (Kind::Delete | Kind::TakeBookmark, _) if pick_any(w, o, op.pick).is_some() => {
            w.delete(o, pick_any(w, o, op.pick).expect("one"))
        }
        (Kind::TakeOfOrigin | Kind::TakeOfSnapshot, Some(tag)) => w.delete(o, tag),
        (Kind::Delete, None) => {
            // A tag that was, or will be, or is a ghost's.
            let refused = w.delete(o, op.pick % (w.oracle.origins[o].next_tag + 1));
            assert_eq!(refused, Err(Stop::Refused(Refusal::UnknownTag)));
            refused
        }
        (Kind::RollBack, _) => roll_back(w, o, &mut row, op),
        (Kind::ContinueRollback, _) => w.continue_rollback(o, 1 + u64::from(op.len % 7)),
        (Kind::Defer, Some(tag)) => {
            let expected = refused_rollback(w, o, tag);
            let delete = op.extra % 2 == 0;
            let typed = Tag::new(tag).expect("a tag");
            let size = chunk_size();
            let result = w.durably(
                |store| rollback::defer(store, &mut row, typed, delete, size),
                |oracle, ()| oracle.origins[o].deferred = Some((tag, delete)),
            );
            expect(expected, result)
        }
        (Kind::Grow, _) => grow_origin(w, o, &mut row, op),
        (Kind::Invalidate, _) => {
            let loss = match op.extra % 2 {
                0 => Loss::Content,
                _ => Loss::Everything,
            };
            w.durably(
                |store| dm_snap_mv_model::versions::invalidate(store, &mut row, loss),
                |oracle, ()| oracle.invalidate(o, loss),
            )
        }
        _ => Ok(()),
    }
}

/// Gives a version a name, perhaps, or one that there is not.
fn name(w: &mut World, o: usize, row: &OriginRow, op: &Op) -> Result<(), Stop> {
    if op.extra % 3 == 0 {
        return Ok(());
    }
    let tag = op.pick % (w.oracle.origins[o].next_tag + 1);
    let origin = &w.oracle.origins[o];
    let is_there = origin.snapshots.contains_key(&tag) || origin.bookmarks.contains_key(&tag);
    let expected = (!is_there).then_some(Refusal::UnknownTag);
    let Some(typed) = Tag::new(tag) else {
        return Ok(());
    };
    let name = format!("name {}", op.extra);
    let words = ["label".as_bytes(), b"1", b"-n", name.as_bytes()];
    let request = Request::parse(words).expect("a message");
    let Message::Label { change, .. } = request.message else {
        panic!("{request:?}");
    };
    let result = w.durably(
        |store| label::put(store, row, typed, &change, [1; 16]),
        |oracle, ()| {
            oracle.origins[o].names.insert(tag, name.clone());
        },
    );
    match expect(expected, result) {
        // The snapshot has been taken all the same.
        Err(Stop::Refused(Refusal::UnknownTag)) => Ok(()),
        other => other,
    }
}

/// Whether an operation was refused when it had to be, and for the right reason.
fn expect<T>(expected: Option<Refusal>, result: Result<T, Stop>) -> Result<(), Stop> {
    let refused = match &result {
        Err(Stop::Refused(refusal)) => Some(*refusal),
        Err(Stop::Crash) => return Err(Stop::Crash),
        Ok(_) => None,
    };
    assert_eq!(refused, expected);
    result.map(|_| ())
}

fn valid(w: &World, o: usize, tag: u32) -> bool {
    w.oracle.origins[o].snapshots[&tag].valid
}

fn take_of_snapshot(w: &mut World, o: usize, row: &mut OriginRow, tag: u32) -> Result<(), Stop> {
    let expected = (!valid(w, o, tag)).then_some(Refusal::InvalidSnapshot);
    let typed = Tag::new(tag).expect("a tag");
    let mut parent = find_snapshot(&w.store, row, typed)?;
    let result = w.durably(
        |store| take_snapshot_snapshot(store, row, &mut parent, b"", 2),
        |oracle, new| assert_eq!(oracle.take(o, Some(tag)), new.get()),
    );
    expect(expected, result)
}

fn keep(w: &mut World, o: usize, tag: u32) -> Result<(), Stop> {
    let row = w.row(w.disks[o].nr.expect("bound"));
    let typed = Tag::new(tag).expect("a tag");
    let parent = find_snapshot(&w.store, &row, typed)?.parent;
    let expected = match parent {
        Some(_) => Some(Refusal::NotOfOrigin),
        None => (!valid(w, o, tag)).then_some(Refusal::InvalidSnapshot),
    };
    let result = w.keep(o, tag);
    // Whether anything was written to it is not known here after a crash.
    match result {
        Err(Stop::Refused(Refusal::SnapshotWritten)) if expected.is_none() => result,
        result => expect(expected, result),
    }
}

/// Why a rollback has to be refused.
fn refused_rollback(w: &World, o: usize, tag: u32) -> Option<Refusal> {
    let origin = &w.oracle.origins[o];
    if origin.rollback.is_some() {
        return Some(Refusal::RollbackRunning);
    }
    match origin.snapshots.get(&tag) {
        None if origin.bookmarks.contains_key(&tag) => Some(Refusal::IsBookmark),
        None => Some(Refusal::UnknownTag),
        Some(snapshot) if !snapshot.valid => Some(Refusal::InvalidSnapshot),
        Some(snapshot) if snapshot.size == origin.size => None,
        Some(snapshot) if snapshot.size % CHUNK_SECTORS == 0 => None,
        Some(_) => Some(Refusal::RollbackSize),
    }
}

fn roll_back(w: &mut World, o: usize, row: &mut OriginRow, op: &Op) -> Result<(), Stop> {
    let origin = &w.oracle.origins[o];
    let (tag, delete) = match (origin.deferred, pick(w, o, op.pick)) {
        (Some(deferred), _) if op.extra % 3 == 0 => deferred,
        (_, Some(tag)) if op.extra % 16 > 0 => (tag, op.extra % 2 == 0),
        _ => (1 + op.pick % (origin.next_tag + 1), false),
    };
    let expected = refused_rollback(w, o, tag);
    let typed = Tag::new(tag).expect("a tag");
    let size = chunk_size();
    let result = w.durably(
        |store| rollback::begin(store, row, typed, delete, size),
        |oracle, ()| oracle.roll_back(o, tag, delete),
    );
    w.exact &= result.is_err();
    expect(expected, result)
}

fn grow_origin(w: &mut World, o: usize, row: &mut OriginRow, op: &Op) -> Result<(), Stop> {
    let old = w.oracle.origins[o].size;
    // Mostly by whole chunks; too large ones would only make all slow.
    let size = match op.len % 4 {
        0 => old.saturating_sub(u64::from(op.start % 3)),
        1 => old + u64::from(op.start % 20),
        _ => old.next_multiple_of(CHUNK_SECTORS) + CHUNK_SECTORS * u64::from(op.start % 3),
    };
    let size = size.clamp(1, 40 * CHUNK_SECTORS);
    let expected = (size < old).then_some(Refusal::OriginShrunk);
    let chunks = size.div_ceil(CHUNK_SECTORS) as usize;
    let mut content = w.disks[o].content.clone();
    while content.len() < chunks {
        content.push(w.fresh());
    }
    // The device has grown before, and whatever becomes of this.
    let new = content[w.disks[o].content.len()..].to_vec();
    let chunk_size = chunk_size();
    w.disks[o].content.extend(&new);
    w.oracle.origins[o].head.extend(&new);
    let result = w.durably(
        |store| grow(store, row, size, chunk_size),
        |oracle, ()| oracle.origins[o].size = size,
    );
    expect(expected, result)
}

fn bind_or_unbind(w: &mut World, o: usize) -> Result<(), Stop> {
    let id = w.disks[o].id.clone();
    let origin = &w.oracle.origins[o];
    let size = origin.size;
    let chunk_size = chunk_size();
    let Some(nr) = w.disks[o].nr else {
        let nr = w.durably(
            |store| bind(store, &id, size, chunk_size, 3),
            |oracle, _| {
                let origin = &mut oracle.origins[o];
                origin.bound = true;
                origin.next_tag = 1;
                origin.names.clear();
            },
        );
        w.disks[o].nr = nr.as_ref().ok().copied();
        return nr.map(|_| ());
    };
    let again = w.durably(|store| bind(store, &id, size, chunk_size, 3), |_, _| ());
    assert_eq!(again, Err(Stop::Refused(Refusal::AlreadyBound)));
    let origin = &w.oracle.origins[o];
    let own = |t: u64| t >> 32 == u64::from(nr.get());
    let to_clean = w.store.cleaning.iter().filter(|(&t, _)| own(t)).count() > 0;
    let expected = if origin.rollback.is_some() {
        Some(Refusal::DuringRollback)
    } else if !origin.snapshots.is_empty() {
        Some(Refusal::SnapshotsExist)
    } else if !origin.bookmarks.is_empty() {
        Some(Refusal::BookmarksExist)
    } else {
        to_clean.then_some(Refusal::StillCleaning)
    };
    let result = w.durably(
        |store| unbind(store, nr),
        |oracle, ()| oracle.origins[o].bound = false,
    );
    if result.is_ok() {
        w.disks[o].nr = None;
    }
    expect(expected, result)
}
