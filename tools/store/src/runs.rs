// SPDX-License-Identifier: GPL-2.0
//! All records of a store, or of some timelines, as runs.

use crate::error::Result;
use crate::live::{corrupt, Live};
use crate::store::Store;
use dm_snap_mv_model::ids::{Chunk, Epoch, TimelineId};
use dm_snap_mv_model::record_key::{RecordKey, RecordValue};

/// Records of chunks that follow one another, of one epoch, with what follows in the value
/// ([`RecordValue::follows`]), and no other record of the timeline in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRun {
    /// Whose records.
    pub timeline: TimelineId,
    /// The chunk of the first one.
    pub chunk: Chunk,
    /// Their epoch.
    pub epoch: Epoch,
    /// The value of the first one.
    pub value: RecordValue,
    /// How many chunks.
    pub len: u64,
}

/// A timeline, and a key in it.
type Place = (u64, u64);

/// Goes through the records of timelines, in the order of timelines and keys.
pub struct Records {
    /// The next timeline, and the next key in it.
    at: Option<Place>,
    last: u64,
}

impl Records {
    /// Of the timelines from one on up to another (inclusive).
    pub fn of(first: u64, last: u64) -> Self {
        Self {
            at: Some((first, 0)),
            last,
        }
    }

    /// Further runs; perhaps none yet. `None`: that was all. Runs do not go on over several calls.
    ///
    /// Each call's are of one transaction. So records of a timeline that is gone in a later one may have
    /// been returned in part.
    pub fn more(&mut self, live: &mut Live<'_>) -> Result<Option<Vec<RecordRun>>> {
        let Some(at) = self.at else { return Ok(None) };
        let last = self.last;
        let (runs, next) = live.batch(|store, leaves| part(store, at, last, leaves))?;
        self.at = next;
        Ok(Some(runs))
    }
}

/// Runs from a timeline and a key on, of some leaves, and where to go on.
fn part(
    store: &Store<'_>,
    from: Place,
    last: u64,
    leaves: usize,
) -> Result<(Vec<RecordRun>, Option<Place>)> {
    let mut runs = Vec::new();
    let (mut t, mut key) = from;
    let mut left = leaves.max(1);
    while left > 0 {
        let Some(found) = timeline(store, t)?.filter(|&found| found <= last) else {
            return Ok((runs, None));
        };
        if found != t {
            (t, key) = (found, 0);
        }
        let timeline = TimelineId::new(t).ok_or_else(corrupt)?;
        let tree = store.records(timeline)?;
        let part = tree.part(key, left, &|_, _| true)?;
        join(store, timeline, &tree.entries(&part)?, &mut runs)?;
        left = left.saturating_sub(part.leaves().max(1));
        (t, key) = match (part.next(), t.checked_add(1)) {
            (Some(next), _) => (t, next),
            (None, Some(next)) => (next, 0),
            (None, None) => return Ok((runs, None)),
        };
    }
    Ok((runs, Some((t, key))))
}

/// The first timeline from `from` on that has a tree of records, or gets one.
fn timeline(store: &Store<'_>, from: u64) -> Result<Option<u64>> {
    let tree = store.all_records();
    let mut at = from;
    let in_tree = loop {
        let part = tree.part(at, 1, &|_, _| true)?;
        match (tree.entries(&part)?.first(), part.next()) {
            (Some(&(t, _)), _) => break Some(t),
            (None, Some(next)) => at = next,
            (None, None) => break None,
        }
    };
    let journaled = store.journaled_from(from).next();
    Ok(in_tree.into_iter().chain(journaled).min())
}

fn join(
    store: &Store<'_>,
    timeline: TimelineId,
    entries: &[(u64, u64)],
    runs: &mut Vec<RecordRun>,
) -> Result<()> {
    let mut last: Option<RecordRun> = None;
    for &(key, value) in entries {
        let (chunk, epoch) = RecordKey::decode(timeline, key)?;
        let value = RecordValue::decode(value, store.superblock().layout.data_chunks)?;
        let first = value.first_of(timeline, chunk)?;
        match &mut last {
            Some(run)
                if run.epoch == epoch
                    && run.chunk.plus(run.len) == chunk
                    && value.follows(run.value, run.len) =>
            {
                run.len += 1;
            }
            _ => runs.extend(last.replace(RecordRun {
                timeline,
                chunk: first,
                epoch,
                value,
                len: chunk.since(first) + 1,
            })),
        }
    }
    runs.extend(last);
    Ok(())
}
