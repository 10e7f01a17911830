// SPDX-License-Identifier: GPL-2.0

//! What the journal is made of.

use super::super::super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::super::super::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, is_behind_children, key_behind,
    RecordKey, RecordValue,
};
use super::super::super::refusal::Refusal;
use super::super::bytes::{Reader, Writer};
use super::super::cleaning_row::CleaningRow;
use super::super::origin_row::OriginRow;
use super::super::snapshot_row::SnapshotRow;

/// One change.
// It is made, written and forgotten again: there is nothing that a box could be good for.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Many changes of a sort.
    Run(Run),
    /// A row of the tree of origins.
    Origin(OriginRow),
    /// A row of the tree of snapshots.
    Snapshot(OriginNr, SnapshotRow),
    /// A snapshot is based on an epoch.
    Child {
        /// The timeline of that epoch.
        timeline: TimelineId,
        /// That epoch.
        epoch: Epoch,
        /// The newest snapshot based on it.
        tag: u32,
    },
    /// There is a bookmark of an epoch.
    Bookmark {
        /// The timeline of that epoch.
        timeline: TimelineId,
        /// That epoch.
        epoch: Epoch,
        /// The tag.
        tag: u32,
    },
    /// A timeline is to be cleaned: a row of the tree of cleaning.
    Cleaning(TimelineId, CleaningRow),
    /// A snapshot goes: its row.
    NoSnapshot(TimelineId),
    /// Nothing is based on an epoch any more.
    NoChild {
        /// The timeline of that epoch.
        timeline: TimelineId,
        /// That epoch.
        epoch: Epoch,
    },
    /// There is no bookmark of an epoch any more.
    NoBookmark {
        /// The timeline of that epoch.
        timeline: TimelineId,
        /// That epoch.
        epoch: Epoch,
    },
}

/// What can be continued by another one of its kind, so that both are one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Records of consecutive chunks at one epoch: chunk by chunk, the next COW chunk, or all zeroes.
    Records {
        /// Whose.
        timeline: TimelineId,
        /// The key of the first.
        key: u64,
        /// The value of the first.
        value: RecordValue,
        /// How many.
        len: u32,
    },
    /// COW chunks that are in use now.
    Use {
        /// The first.
        start: CowChunk,
        /// How many.
        len: u64,
    },
    /// Chunks that a rollback is done with.
    Done {
        /// The origin that is rolled back.
        origin: OriginNr,
        /// The first.
        start: Chunk,
        /// How many.
        len: u64,
    },
}

const RECORDS: u8 = 1;
const USE: u8 = 2;
const ORIGIN: u8 = 3;
const SNAPSHOT: u8 = 4;
const CHILD: u8 = 5;
const DONE: u8 = 6;
const CLEANING: u8 = 7;
const NO_SNAPSHOT: u8 = 8;
const NO_CHILD: u8 = 9;

impl Entry {
    /// Bytes that it takes.
    pub(super) const fn size(&self) -> usize {
        match self {
            Entry::Run(run) => run.size(),
            Entry::Origin(_) => 1 + OriginRow::SIZE,
            Entry::Snapshot(..) => 5 + SnapshotRow::SIZE,
            Entry::Child { .. } | Entry::Bookmark { .. } => 21,
            Entry::Cleaning(..) => 9 + CleaningRow::SIZE,
            Entry::NoSnapshot(_) => 9,
            Entry::NoChild { .. } | Entry::NoBookmark { .. } => 17,
        }
    }

    pub(super) fn write(&self, bytes: &mut [u8]) {
        let mut w = Writer::new(bytes);
        match self {
            Entry::Run(run) => run.write(bytes),
            Entry::Origin(row) => {
                w.u8(ORIGIN);
                let mut bytes = [0; OriginRow::SIZE];
                row.encode(&mut bytes);
                w.bytes(&bytes);
            }
            Entry::Snapshot(nr, row) => {
                w.u8(SNAPSHOT);
                w.u32(nr.get());
                let mut bytes = [0; SnapshotRow::SIZE];
                row.encode(&mut bytes);
                w.bytes(&bytes);
            }
            Entry::Child {
                timeline,
                epoch,
                tag,
            } => write_child(&mut w, timeline, child_key(*epoch), *tag),
            Entry::Bookmark {
                timeline,
                epoch,
                tag,
            } => write_child(&mut w, timeline, bookmark_key(*epoch), *tag),
            Entry::Cleaning(timeline, row) => {
                w.u8(CLEANING);
                w.u64(timeline.get());
                let mut bytes = [0; CleaningRow::SIZE];
                row.encode(&mut bytes);
                w.bytes(&bytes);
            }
            Entry::NoSnapshot(timeline) => {
                w.u8(NO_SNAPSHOT);
                w.u64(timeline.get());
            }
            Entry::NoChild { timeline, epoch } => {
                write_no_child(&mut w, timeline, child_key(*epoch));
            }
            Entry::NoBookmark { timeline, epoch } => {
                write_no_child(&mut w, timeline, bookmark_key(*epoch));
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>, data_chunks: u64) -> Result<Entry, Refusal> {
        let timeline = |raw| TimelineId::new(raw).ok_or(Refusal::Corrupt);
        let origin = |raw| OriginNr::new(raw).ok_or(Refusal::Corrupt);
        Ok(match r.u8()? {
            RECORDS => {
                let timeline = timeline(r.u64()?)?;
                let key = r.u64()?;
                let value = RecordValue::decode(r.u64()?, data_chunks)?;
                let len = r.u32()?;
                // The last record must make sense too.
                let distance = u64::from(len).checked_sub(1).ok_or(Refusal::Corrupt)?;
                let (chunk, _) = RecordKey::decode(timeline, key)?;
                let last = key_behind(key, distance).ok_or(Refusal::Corrupt)?;
                RecordKey::decode(timeline, last)?;
                value.first_of(timeline, chunk)?;
                value.plus(distance).ok_or(Refusal::Corrupt)?;
                if let RecordValue::Cow(cow) = value {
                    check_run(cow, u64::from(len), data_chunks)?;
                }
                Entry::Run(Run::Records {
                    timeline,
                    key,
                    value,
                    len,
                })
            }
            USE => {
                let start = CowChunk::new(r.u64()?).ok_or(Refusal::Corrupt)?;
                let len = r.u64()?;
                check_run(start, len, data_chunks)?;
                Entry::Run(Run::Use { start, len })
            }
            ORIGIN => Entry::Origin(OriginRow::decode(&r.array()?)?),
            SNAPSHOT => Entry::Snapshot(origin(r.u32()?)?, SnapshotRow::decode(&r.array()?)?),
            CHILD => {
                let timeline = timeline(r.u64()?)?;
                let (key, tag) = (r.u64()?, r.u32()?);
                match is_behind_children(key) {
                    false => Entry::Child {
                        timeline,
                        epoch: child_epoch(key)?,
                        tag,
                    },
                    true => Entry::Bookmark {
                        timeline: of_origin(timeline)?,
                        epoch: bookmark_epoch(key)?,
                        tag,
                    },
                }
            }
            DONE => {
                let origin = origin(r.u32()?)?;
                let start = Chunk::new(r.u64()?).ok_or(Refusal::Corrupt)?;
                let len = r.u64()?;
                let last = len
                    .checked_sub(1)
                    .and_then(|distance| start.get().checked_add(distance));
                last.and_then(Chunk::new).ok_or(Refusal::Corrupt)?;
                Entry::Run(Run::Done { origin, start, len })
            }
            CLEANING => Entry::Cleaning(timeline(r.u64()?)?, CleaningRow::decode(&r.array()?)?),
            NO_SNAPSHOT => {
                let timeline = timeline(r.u64()?)?;
                if timeline.is_origin() {
                    return Err(Refusal::Corrupt);
                }
                Entry::NoSnapshot(timeline)
            }
            NO_CHILD => {
                let (timeline, key) = (timeline(r.u64()?)?, r.u64()?);
                match is_behind_children(key) {
                    false => Entry::NoChild {
                        timeline,
                        epoch: child_epoch(key)?,
                    },
                    true => Entry::NoBookmark {
                        timeline: of_origin(timeline)?,
                        epoch: bookmark_epoch(key)?,
                    },
                }
            }
            _ => return Err(Refusal::Corrupt),
        })
    }
}

impl Run {
    /// Bytes that it takes, as all of its kind do.
    pub(super) const fn size(&self) -> usize {
        1 + match self {
            Run::Records { .. } => 28,
            Run::Use { .. } => 16,
            Run::Done { .. } => 20,
        }
    }

    pub(super) fn write(&self, bytes: &mut [u8]) {
        let mut w = Writer::new(bytes);
        match *self {
            Run::Records {
                timeline,
                key,
                value,
                len,
            } => {
                w.u8(RECORDS);
                w.u64(timeline.get());
                w.u64(key);
                w.u64(value.encode());
                w.u32(len);
            }
            Run::Use { start, len } => {
                w.u8(USE);
                w.u64(start.get());
                w.u64(len);
            }
            Run::Done { origin, start, len } => {
                w.u8(DONE);
                w.u32(origin.get());
                w.u64(start.get());
                w.u64(len);
            }
        }
    }

    /// Both as one, if the other continues this one.
    pub(super) fn joined(&self, other: &Run) -> Option<Run> {
        let mut both = *self;
        match (&mut both, *other) {
            (
                Run::Records {
                    timeline,
                    key,
                    value,
                    len,
                },
                Run::Records {
                    timeline: t,
                    key: k,
                    value: v,
                    len: more,
                },
            ) if *timeline == t
                && key_behind(*key, u64::from(*len)) == Some(k)
                && v.follows(*value, u64::from(*len)) =>
            {
                *len = len.checked_add(more)?;
            }
            (
                Run::Use { start, len },
                Run::Use {
                    start: s,
                    len: more,
                },
            ) if start.checked_add(*len) == Some(s) => {
                *len = len.checked_add(more)?;
            }
            (
                Run::Done { origin, start, len },
                Run::Done {
                    origin: o,
                    start: s,
                    len: more,
                },
            ) if *origin == o && start.get().checked_add(*len) == Some(s.get()) => {
                *len = len.checked_add(more)?;
            }
            _ => return None,
        }
        Some(both)
    }
}

/// There are bookmarks of origins only.
fn of_origin(timeline: TimelineId) -> Result<TimelineId, Refusal> {
    match timeline.is_origin() {
        true => Ok(timeline),
        false => Err(Refusal::Corrupt),
    }
}

fn write_child(w: &mut Writer<'_>, timeline: &TimelineId, key: u64, tag: u32) {
    w.u8(CHILD);
    w.u64(timeline.get());
    w.u64(key);
    w.u32(tag);
}

fn write_no_child(w: &mut Writer<'_>, timeline: &TimelineId, key: u64) {
    w.u8(NO_CHILD);
    w.u64(timeline.get());
    w.u64(key);
}

fn check_run(start: CowChunk, len: u64, data_chunks: u64) -> Result<(), Refusal> {
    match start.get().checked_add(len) {
        Some(end) if len > 0 && end <= data_chunks => Ok(()),
        _ => Err(Refusal::Corrupt),
    }
}
