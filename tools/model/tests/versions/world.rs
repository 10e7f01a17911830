// SPDX-License-Identifier: GPL-2.0

//! A store with its devices, driven as the kernel drives them, and what it must hold.
//!
//! Each function here keeps to the order that the model asks for: copy, record, commit, overwrite.
//! Between any two of these steps the machine can crash.

use std::collections::BTreeSet;

use dm_snap_mv_model::chain::Chain;
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::clean::{clean_step, seek_invalid};
use dm_snap_mv_model::delta::{Delta, Version};
use dm_snap_mv_model::discard::{first_part, Does};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::preserve::{
    newest_live, next_unpreserved, record_changed, record_preserved, Gap, Live,
};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::resolve::{resolve, Location};
use dm_snap_mv_model::rollback::{
    self, is_done, mark_done, newest_needed, next_pending, RollbackView,
};
use dm_snap_mv_model::versions::{delete_snapshot, find_snapshot, invalidate, keep_bookmark, Loss};
use dm_snap_mv_model::write::{record_written, record_zeroes, writable, NewRun, Writable};

use crate::oracle::Oracle;
use crate::random::Random;
use crate::store::Store;

/// Why an operation did not come to its end.
#[derive(Debug, PartialEq)]
pub enum Stop {
    Crash,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// An origin device.
pub struct Disk {
    pub id: Vec<u8>,
    pub nr: Option<OriginNr>,
    pub content: Vec<u64>,
}

pub struct World {
    pub store: Store,
    pub disks: Vec<Disk>,
    pub cow: Vec<u64>,
    /// What COW chunks held before they were written, since the last commit. A crash brings back
    /// some of it.
    cow_undo: Vec<(usize, u64)>,
    pub oracle: Oracle,
    pub random: Random,
    /// Steps until the machine crashes.
    pub countdown: Option<u32>,
    /// A snapshot or bookmark (origin, tag) to be deleted while an operation is on its way, or to be kept
    /// as a bookmark only.
    pub interlude: Option<(usize, u32, bool)>,
    clean_from: TimelineId,
    /// Origins with records, marks or a cursor that are not durable. Whoever relies on these must
    /// see to a commit, even if somebody else made them: a write that was refused later, say.
    lazy: BTreeSet<OriginNr>,
    /// When space runs out, snapshots become invalid; else writes fail.
    pub invalidates: bool,
    /// Nothing has happened so far after which a chunk may count as changed that is as it was: no write
    /// that did not take place, and no rollback.
    pub exact: bool,
    /// Looks at what is there when what invalid snapshots held has been cleaned away.
    pub reclaimed: fn(&World),
    next_value: u64,
}

pub fn chunk_size() -> ChunkSize {
    ChunkSize::from_pages(1).expect("a chunk size")
}

fn chunk(n: usize) -> Chunk {
    Chunk::new(n as u64).expect("a chunk")
}

fn index(chunk: Chunk) -> usize {
    chunk.get() as usize
}

impl World {
    pub fn new(cow_chunks: usize, invalidates: bool, seed: u64) -> World {
        World {
            store: Store::new(cow_chunks),
            disks: Vec::new(),
            cow: vec![u64::MAX; cow_chunks],
            cow_undo: Vec::new(),
            oracle: Oracle::default(),
            random: Random::new(seed),
            countdown: None,
            interlude: None,
            clean_from: TimelineId::LOWEST,
            lazy: BTreeSet::new(),
            invalidates,
            exact: true,
            reclaimed: |_| (),
            next_value: 0,
        }
    }

    /// A content that no other chunk has had.
    pub fn fresh(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// A moment at which the machine can crash.
    fn step(&mut self) -> Result<(), Stop> {
        match &mut self.countdown {
            Some(0) => Err(Stop::Crash),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn commit(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.store.commit();
        self.cow_undo.clear();
        self.oracle.commit();
        self.lazy.clear();
        Ok(())
    }

    fn commit_if_lazy(&mut self, nr: OriginNr) -> Result<(), Stop> {
        match self.lazy.contains(&nr) {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Makes a change durable that `change` makes in the metadata, and then in the oracle.
    pub fn durably<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> Result<T, Refusal>,
        told: impl FnOnce(&mut Oracle, &T),
    ) -> Result<T, Stop> {
        let before = self.store.changes();
        let result = change(&mut self.store);
        if let Err(refusal) = result {
            assert!(!refusal.is_fatal(), "{refusal}");
            assert_eq!(
                before,
                self.store.changes(),
                "refused with a change: {refusal}"
            );
        }
        let value = result?;
        self.commit()?;
        told(&mut self.oracle, &value);
        self.step()?;
        Ok(value)
    }

    /// Loses what is not durable.
    pub fn crash(&mut self) {
        self.countdown = None;
        self.interlude = None;
        self.store.abort();
        let mut kept = BTreeSet::new();
        for (chunk, old) in std::mem::take(&mut self.cow_undo).into_iter().rev() {
            // The writes to one chunk come back from the last one on, and none behind one that
            // stays.
            if kept.contains(&chunk) || self.random.once_in(2) {
                kept.insert(chunk);
            } else {
                self.cow[chunk] = old;
            }
        }
        self.lazy.clear();
        self.clean_from = TimelineId::LOWEST;
        for disk in &mut self.disks {
            let nr = self.store.ids.get(&disk.id);
            disk.nr = nr.and_then(|&nr| OriginNr::new(nr));
        }
    }

    pub fn row(&self, nr: OriginNr) -> OriginRow {
        self.store.origins.get(&nr.get()).copied().expect("a row")
    }

    pub fn view(&self, nr: OriginNr) -> Option<RollbackView> {
        RollbackView::of(&self.store, &self.row(nr)).expect("a view")
    }

    /// The content of a location, `distance` chunks behind its first.
    pub fn at(&self, o: usize, location: Location, first: usize, distance: usize) -> u64 {
        match location {
            Location::Origin => self.disks[o].content[first + distance],
            Location::Cow(cow) => self.cow[cow.get() as usize + distance],
            Location::Zero => 0,
        }
    }

    fn write_cow(&mut self, cow: CowChunk, distance: usize, value: u64) {
        let chunk = cow.get() as usize + distance;
        self.cow_undo.push((chunk, self.cow[chunk]));
        self.cow[chunk] = value;
    }

    /// Deletes a snapshot and cleans a little while something else is half done.
    fn play_interlude(&mut self) -> Result<(), Stop> {
        if let Some((o, tag, keep)) = self.interlude.take() {
            let origin = &self.oracle.origins[o];
            let is_there = origin.snapshots.contains_key(&tag);
            if is_there && keep {
                match self.keep(o, tag) {
                    Ok(()) => {}
                    Err(Stop::Crash) => return Err(Stop::Crash),
                    Err(_) => self.delete(o, tag)?,
                }
            } else if is_there || origin.bookmarks.contains_key(&tag) {
                self.delete(o, tag)?;
            }
            for _ in 0..3 {
                self.clean(7)?;
            }
        }
        Ok(())
    }

    pub fn delete(&mut self, o: usize, tag: u32) -> Result<(), Stop> {
        let mut row = self.row(self.disks[o].nr.expect("bound"));
        let tag = Tag::new(tag).ok_or(Refusal::UnknownTag)?;
        self.durably(
            |store| delete_snapshot(store, &mut row, tag),
            |oracle, ()| oracle.delete(o, tag.get()),
        )
    }

    /// Has a snapshot go on as a bookmark.
    pub fn keep(&mut self, o: usize, tag: u32) -> Result<(), Stop> {
        let mut row = self.row(self.disks[o].nr.expect("bound"));
        let tag = Tag::new(tag).ok_or(Refusal::UnknownTag)?;
        self.durably(
            |store| keep_bookmark(store, &mut row, tag),
            |oracle, ()| oracle.keep(o, tag.get()),
        )
    }

    pub fn clean(&mut self, budget: u64) -> Result<bool, Stop> {
        let before = self.store.used().iter().filter(|&&used| used).count() as u64;
        let step = clean_step(&mut self.store, self.clean_from, budget)?;
        let after = self.store.used().iter().filter(|&&used| used).count() as u64;
        assert_eq!(before - after, step.freed);
        assert!(step.examined <= budget);
        self.clean_from = step.next;
        self.step()?;
        Ok(step.timeline.is_some())
    }

    /// Cleans away what invalid snapshots hold. Returns whether any chunk has come free by that, or by
    /// what else there was to be cleaned.
    fn reclaim(&mut self) -> Result<bool, Stop> {
        let used = |w: &World| w.store.used().iter().filter(|&&used| used).count();
        let before = used(self);
        let mut from = Some(TimelineId::LOWEST);
        while let Some(at) = from {
            from = seek_invalid(&mut self.store, at, 2)?;
            self.step()?;
        }
        while self.clean(3)? {}
        self.commit()?;
        (self.reclaimed)(self);
        Ok(used(self) < before)
    }

    /// What there is to do about a store that is full. The space of those that are invalid goes first.
    fn full(&mut self, o: usize) -> Result<(), Stop> {
        if self.reclaim()? {
            return Ok(());
        }
        if !self.invalidates {
            return Err(Refusal::NoSpace.into());
        }
        let mut row = self.row(self.disks[o].nr.expect("bound"));
        self.durably(
            |store| invalidate(store, &mut row, Loss::Content),
            |oracle, ()| oracle.invalidate(o, Loss::Content),
        )
    }

    /// Copies the origin's content of a run, or of its first part, to the COW device, and records
    /// it. `upto` is the boundary for a merge. None: no space. Some(0): look again.
    fn copy_out(
        &mut self,
        o: usize,
        live: Live,
        gap: Gap,
        upto: Epoch,
    ) -> Result<Option<u64>, Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let hint = self.random.next() as usize % self.cow.len();
        let Some((cow, len)) = self.store.allocate(hint, gap.len) else {
            return Ok(None);
        };
        for i in 0..len as usize {
            let value = self.disks[o].content[index(gap.start) + i];
            self.write_cow(cow, i, value);
        }
        self.step()?;
        if self.interlude.is_some() {
            self.play_interlude()?;
            // What was freed may have been taken.
            let row = self.row(nr);
            if self.needed(&row, upto)? != Some(live) {
                return Ok(Some(0));
            }
        }
        let mut row = self.row(nr);
        record_preserved(
            &mut self.store,
            nr,
            &mut row.chunks,
            live.epoch,
            gap.start,
            cow,
            len,
        )?;
        if upto == Epoch::MAX {
            mark_done(&mut self.store, &row, gap.start, len)?;
        }
        self.store.put_origin(&row)?;
        self.lazy.insert(nr);
        self.step()?;
        Ok(Some(len))
    }

    /// Records that a run changes.
    fn note_change(&mut self, o: usize, live: Live, gap: Gap, upto: Epoch) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        record_changed(&mut self.store, nr, live.epoch, gap.start, gap.len)?;
        if upto == Epoch::MAX {
            let row = self.row(nr);
            mark_done(&mut self.store, &row, gap.start, gap.len)?;
        }
        self.lazy.insert(nr);
        self.step()
    }

    /// What a write has to preserve for, or the merge up to an epoch.
    fn needed(&self, row: &OriginRow, upto: Epoch) -> Result<Option<Live>, Stop> {
        Ok(match upto {
            Epoch::MAX => newest_live(&self.store, row)?,
            _ => newest_needed(&self.store, row)?,
        })
    }

    /// Preserves what a write of a range needs, or the merge of one.
    fn preserve(&mut self, o: usize, upto: Epoch, start: Chunk, end: Chunk) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let mut at = start;
        while at < end {
            let row = self.row(nr);
            let Some(live) = self.needed(&row, upto)? else {
                break;
            };
            let gap = next_unpreserved(&self.store, nr, live, upto, at, end)?;
            let Some(gap) = gap else { break };
            if !gap.content {
                self.note_change(o, live, gap, upto)?;
                at = gap.start.plus(gap.len);
                continue;
            }
            match self.copy_out(o, live, gap, upto)? {
                Some(0) => (),
                Some(len) => at = gap.start.plus(len),
                // There is space then, or nothing needs any.
                None => self.full(o)?,
            }
        }
        Ok(())
    }

    /// Brings pending chunks of a range onto the origin device.
    fn merge(&mut self, o: usize, start: Chunk, end: Chunk) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let Some(view) = self.view(nr) else {
            return Ok(());
        };
        let mut at = start;
        loop {
            // In parts, now and then.
            let most = if self.random.once_in(4) { 1 } else { u64::MAX };
            let found = next_pending(&self.store, &view, at, end, most)?;
            let Some((first, len, from)) = found else {
                break;
            };
            let behind = first.plus(len);
            self.preserve(o, view.boundary, first, behind)?;
            self.commit_if_lazy(nr)?;
            for i in 0..len as usize {
                self.step()?;
                let value = self.at(o, from, index(first), i);
                self.disks[o].content[index(first) + i] = value;
            }
            self.step()?;
            let mut row = self.row(nr);
            mark_done(&mut self.store, &row, first, len)?;
            if let Some(rollback) = &mut row.rollback {
                rollback.merged += len;
            }
            self.store.put_origin(&row)?;
            self.lazy.insert(nr);
            at = behind;
        }
        Ok(())
    }

    /// Writes the origin.
    pub fn write_origin(&mut self, o: usize, start: usize, values: &[u64]) -> Result<(), Stop> {
        let (first, end) = (chunk(start), chunk(start + values.len()));
        if let Some(nr) = self.disks[o].nr {
            self.merge(o, first, end)?;
            self.preserve(o, Epoch::MAX, first, end)?;
            if let Some(view) = self.view(nr) {
                let mut all_done = true;
                for at in start..start + values.len() {
                    all_done &= is_done(&self.store, &view, chunk(at))?;
                }
                if !all_done {
                    let row = self.row(nr);
                    mark_done(&mut self.store, &row, first, values.len() as u64)?;
                    self.lazy.insert(nr);
                }
            }
            self.commit_if_lazy(nr)?;
        }
        for (i, &value) in values.iter().enumerate() {
            let old = self.oracle.origins[o].head[start + i];
            self.oracle.in_flight.insert((o, start + i), [old, value]);
        }
        for (i, &value) in values.iter().enumerate() {
            self.step()?;
            self.disks[o].content[start + i] = value;
        }
        self.oracle.in_flight.clear();
        self.oracle.origins[o].head[start..start + values.len()].copy_from_slice(values);
        self.step()
    }

    /// Discards a part of the origin: zeroes where that is passed on, else nothing.
    pub fn discard_origin(&mut self, o: usize, start: usize, len: usize) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let used = self.store.used().to_vec();
        let (mut at, end) = (chunk(start), chunk(start + len));
        while at < end {
            let row = self.row(nr);
            let view = self.view(nr);
            let live = newest_live(&self.store, &row)?;
            let part = first_part(&self.store, nr, live, view.as_ref(), at, end)?;
            let behind = at.plus(part.len);
            assert!(part.len >= 1 && behind <= end);
            if let (Does::Note, Some(live)) = (part.does, live) {
                record_changed(&mut self.store, nr, live.epoch, at, part.len)?;
                self.lazy.insert(nr);
            }
            if part.does != Does::Leave {
                // What was preserved by a write that was refused need not be durable.
                self.commit_if_lazy(nr)?;
                for at in index(at)..index(behind) {
                    let old = self.oracle.origins[o].head[at];
                    self.oracle.in_flight.insert((o, at), [old, 0]);
                    self.step()?;
                    self.disks[o].content[at] = 0;
                    self.oracle.origins[o].head[at] = 0;
                    self.oracle.in_flight.clear();
                    self.oracle.counts.discarded += 1;
                }
            } else {
                self.oracle.counts.left_alone += part.len;
            }
            at = behind;
        }
        assert!(self.store.used() == used, "a discard takes no space");
        self.step()
    }

    /// Writes a snapshot, whole chunks.
    pub fn write_snapshot(
        &mut self,
        o: usize,
        tag: u32,
        start: usize,
        values: &[u64],
    ) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let typed = Tag::new(tag).expect("a tag");
        let chain = Chain::of_snapshot(&self.store, &self.row(nr), typed)?;
        let end = start + values.len();
        let mut at = start;
        while at < end {
            let view = self.view(nr);
            let view = view.as_ref();
            let snap = find_snapshot(&self.store, &self.row(nr), typed)?;
            let max = (end - at) as u64;
            let found = writable(&self.store, nr, &snap, chunk(at), max)?;
            let len = match found {
                Writable::InPlace { cow, len } => {
                    for i in 0..len as usize {
                        let value = values[at - start + i];
                        self.oracle.write_snapshot(o, tag, at + i, value);
                        self.write_cow(cow, i, value);
                        self.step()?;
                    }
                    len
                }
                Writable::New(run) => {
                    let base = resolve(&self.store, &chain, view, chunk(at), 1)?.location;
                    let expected = self.oracle.origins[o].snapshots[&tag].content[at];
                    assert_eq!(self.at(o, base, at, 0), expected, "base of chunk {at}");
                    let hint = self.random.next() as usize % self.cow.len();
                    let (cow, len) = self.store.allocate(hint, run.len).ok_or(Refusal::NoSpace)?;
                    for i in 0..len as usize {
                        self.write_cow(cow, i, values[at - start + i]);
                    }
                    self.step()?;
                    self.play_interlude()?;
                    let mut snap = find_snapshot(&self.store, &self.row(nr), typed)?;
                    let run = NewRun { len, ..run };
                    record_written(&mut self.store, nr, &mut snap, run, cow)?;
                    self.store.put_snapshot(nr, &snap)?;
                    for i in 0..len as usize {
                        self.oracle
                            .write_snapshot(o, tag, at + i, values[at - start + i]);
                    }
                    self.step()?;
                    len
                }
            };
            assert!(len >= 1 && len <= max);
            at += len as usize;
        }
        Ok(())
    }

    /// Writes zeroes to a snapshot.
    pub fn zero_snapshot(
        &mut self,
        o: usize,
        tag: u32,
        start: usize,
        len: usize,
    ) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let typed = Tag::new(tag).expect("a tag");
        let (mut at, end) = (start, start + len);
        while at < end {
            let mut snap = find_snapshot(&self.store, &self.row(nr), typed)?;
            let budget = [1, 2, 7, 1000][self.random.below(4) as usize];
            let left = (end - at) as u64;
            let done = record_zeroes(&mut self.store, nr, &mut snap, chunk(at), left, budget)?;
            assert!((1..=left).contains(&done.len) && done.looks <= budget);
            self.store.put_snapshot(nr, &snap)?;
            for _ in 0..done.len {
                self.oracle.write_snapshot(o, tag, at, 0);
                at += 1;
            }
            self.step()?;
        }
        Ok(())
    }

    /// Goes on with a rollback in the background.
    pub fn continue_rollback(&mut self, o: usize, window: u64) -> Result<(), Stop> {
        let nr = self.disks[o].nr.expect("bound");
        let Some(view) = self.view(nr) else {
            return Ok(());
        };
        let end = view.cursor.plus(window).min(view.limit);
        self.merge(o, view.cursor, end)?;
        let mut row = self.row(nr);
        rollback::advance(&mut self.store, &mut row, end)?;
        self.lazy.insert(nr);
        self.step()?;
        if end < view.limit {
            return Ok(());
        }
        self.durably(
            |store| rollback::finish(store, &mut row),
            |oracle, ()| oracle.rolled_back(o),
        )
    }

    /// Whether an origin's timeline holds any COW chunk.
    pub fn holds_content(&self, o: usize) -> bool {
        let nr = self.disks[o].nr;
        nr.is_some_and(|nr| self.row(nr).chunks > 0)
    }

    /// Which chunks of a version are said to be changed since another one, looked for in pieces.
    pub fn delta(
        &mut self,
        o: usize,
        from: Option<u32>,
        to: Option<u32>,
    ) -> Result<Vec<bool>, Refusal> {
        let row = self.row(self.disks[o].nr.expect("bound"));
        let view = RollbackView::of(&self.store, &row)?;
        let from = Version::find(&self.store, &row, from.and_then(Tag::new))?;
        let to = Version::find(&self.store, &row, to.and_then(Tag::new))?;
        let delta = Delta::new(&from, &to, chunk_size())?;
        let mut all = Vec::new();
        while all.len() < index(delta.end) {
            let max = 1 + self.random.below((index(delta.end) - all.len()) as u64);
            let at = chunk(all.len());
            let part = delta.part(&self.store, view.as_ref(), at, max)?;
            assert!(part.len >= 1 && part.len <= max);
            all.resize(all.len() + part.len as usize, part.changed);
        }
        Ok(all)
    }

    /// The content of a range of the origin's head or of a snapshot, read in pieces.
    pub fn read(
        &mut self,
        o: usize,
        tag: Option<u32>,
        start: usize,
        end: usize,
    ) -> Result<Vec<u64>, Refusal> {
        let Some(nr) = self.disks[o].nr else {
            return Ok(self.disks[o].content[start..end].to_vec());
        };
        let row = self.row(nr);
        let view = RollbackView::of(&self.store, &row)?;
        let chain = match tag.and_then(Tag::new) {
            Some(tag) => Some(Chain::of_snapshot(&self.store, &row, tag)?),
            None => None,
        };
        let mut content = Vec::new();
        let mut at = start;
        while at < end {
            let max = 1 + self.random.below((end - at) as u64);
            let run = match &chain {
                Some(chain) => resolve(&self.store, chain, view.as_ref(), chunk(at), max)?,
                None => dm_snap_mv_model::resolve::resolve_head(
                    &self.store,
                    &row,
                    view.as_ref(),
                    chunk(at),
                    max,
                )?,
            };
            assert!(
                run.len >= 1 && run.len <= max,
                "a run of {} of {max}",
                run.len
            );
            for i in 0..run.len as usize {
                content.push(self.at(o, run.location, at, i));
            }
            at += run.len as usize;
        }
        Ok(content)
    }
}
