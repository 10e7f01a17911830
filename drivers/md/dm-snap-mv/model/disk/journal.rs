// SPDX-License-Identifier: GPL-2.0

//! The journal: what has changed since the superblock was written.
//!
//! A change is durable when its entries are, long before the trees it was made in are written. The
//! entries of one transaction stand in the blocks of the journal's region in their order, from the
//! first block on. Those that go into one write are a *batch*: all of them are valid, or none. A batch
//! is written when the one before it is durable, so one that is not whole is the last one or damaged.
//! The next superblock makes the journal empty, since its blocks name the transaction they continue.

use super::super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::super::record_key::{child_epoch, child_key, RecordKey, RecordValue};
use super::super::refusal::Refusal;
use super::bytes::{Reader, Writer};
use super::origin_row::OriginRow;
use super::snapshot_row::SnapshotRow;
use super::superblock::{Checksum, BLOCK_SIZE, CHECKED_FROM};

/// What a journal block's checksum is mixed with: `dm_bm_checksum(bytes 4..4096, this)`.
pub const CHECKSUM_XOR: u32 = 0x6a6f_7572;

/// The most blocks of one batch.
pub const BATCH_BLOCKS: usize = 16;

/// How many blocks from where the journal ends are to be looked at for later batches: enough to see one
/// behind a batch that is damaged.
pub const BEHIND_BLOCKS: usize = 2 * BATCH_BLOCKS;

/// Where a block's entries begin.
const HEADER: usize = 64;

/// The block ends a batch.
const LAST: u32 = 1;

/// A block.
pub type Block = [u8; BLOCK_SIZE];

/// One change.
// It is made, written and forgotten again: there is nothing that a box could be good for.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
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

/// What the key of the same epoch's record grows by from one chunk to the next.
const KEY_STEP: u64 = 1 << 24;

/// The key of a record `distance` chunks behind that with key `raw`, of the same epoch.
pub fn key_behind(raw: u64, distance: u64) -> Option<u64> {
    raw.checked_add(distance.checked_mul(KEY_STEP)?)
}

impl Entry {
    /// Bytes that it takes.
    const fn size(&self) -> usize {
        1 + match self {
            Entry::Records { .. } => 28,
            Entry::Use { .. } => 16,
            Entry::Origin(_) => OriginRow::SIZE,
            Entry::Snapshot(..) => 4 + SnapshotRow::SIZE,
            Entry::Child { .. } | Entry::Done { .. } => 20,
        }
    }

    fn write(&self, bytes: &mut [u8]) {
        let mut w = Writer::new(bytes);
        match self {
            Entry::Records {
                timeline,
                key,
                value,
                len,
            } => {
                w.u8(RECORDS);
                w.u64(timeline.get());
                w.u64(*key);
                w.u64(value.encode());
                w.u32(*len);
            }
            Entry::Use { start, len } => {
                w.u8(USE);
                w.u64(start.get());
                w.u64(*len);
            }
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
            } => {
                w.u8(CHILD);
                w.u64(timeline.get());
                w.u64(child_key(*epoch));
                w.u32(*tag);
            }
            Entry::Done { origin, start, len } => {
                w.u8(DONE);
                w.u32(origin.get());
                w.u64(start.get());
                w.u64(*len);
            }
        }
    }

    fn read(r: &mut Reader<'_>, data_chunks: u64) -> Result<Entry, Refusal> {
        let timeline = |raw| TimelineId::new(raw).ok_or(Refusal::Corrupt);
        let origin = |raw| OriginNr::new(raw).ok_or(Refusal::Corrupt);
        match r.u8()? {
            RECORDS => {
                let timeline = timeline(r.u64()?)?;
                let key = r.u64()?;
                let value = RecordValue::decode(r.u64()?, data_chunks)?;
                let len = r.u32()?;
                // The last record must make sense too.
                let distance = u64::from(len).checked_sub(1).ok_or(Refusal::Corrupt)?;
                RecordKey::decode(timeline, key)?;
                let last = key_behind(key, distance).ok_or(Refusal::Corrupt)?;
                RecordKey::decode(timeline, last)?;
                if let RecordValue::Cow(cow) = value {
                    check_run(cow, u64::from(len), data_chunks)?;
                }
                Ok(Entry::Records {
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
                Ok(Entry::Use { start, len })
            }
            ORIGIN => Ok(Entry::Origin(OriginRow::decode(&r.array()?)?)),
            SNAPSHOT => Ok(Entry::Snapshot(
                origin(r.u32()?)?,
                SnapshotRow::decode(&r.array()?)?,
            )),
            CHILD => Ok(Entry::Child {
                timeline: timeline(r.u64()?)?,
                epoch: child_epoch(r.u64()?)?,
                tag: r.u32()?,
            }),
            DONE => {
                let origin = origin(r.u32()?)?;
                let start = Chunk::new(r.u64()?).ok_or(Refusal::Corrupt)?;
                let len = r.u64()?;
                let last = len
                    .checked_sub(1)
                    .and_then(|distance| start.get().checked_add(distance));
                last.and_then(Chunk::new).ok_or(Refusal::Corrupt)?;
                Ok(Entry::Done { origin, start, len })
            }
            _ => Err(Refusal::Corrupt),
        }
    }
}

/// An entry of one of the kinds that can be continued, without room for the others, which are large.
#[derive(Clone, Copy, Debug)]
enum Run {
    Records {
        timeline: TimelineId,
        key: u64,
        value: RecordValue,
        len: u32,
    },
    Use {
        start: CowChunk,
        len: u64,
    },
    Done {
        origin: OriginNr,
        start: Chunk,
        len: u64,
    },
}

impl Run {
    fn of(entry: &Entry) -> Option<Run> {
        match *entry {
            Entry::Records {
                timeline,
                key,
                value,
                len,
            } => Some(Run::Records {
                timeline,
                key,
                value,
                len,
            }),
            Entry::Use { start, len } => Some(Run::Use { start, len }),
            Entry::Done { origin, start, len } => Some(Run::Done { origin, start, len }),
            _ => None,
        }
    }

    /// Writes it again where it stands.
    fn write(&self, bytes: &mut [u8]) {
        match *self {
            Run::Records {
                timeline,
                key,
                value,
                len,
            } => Entry::Records {
                timeline,
                key,
                value,
                len,
            }
            .write(bytes),
            Run::Use { start, len } => Entry::Use { start, len }.write(bytes),
            Run::Done { origin, start, len } => Entry::Done { origin, start, len }.write(bytes),
        }
    }

    /// Both as one, if the other continues this one.
    fn joined(&self, other: &Run) -> Option<Run> {
        match (*self, *other) {
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
            ) if timeline == t
                && key_behind(key, u64::from(len)) == Some(k)
                && v.follows(value, u64::from(len)) =>
            {
                Some(Run::Records {
                    timeline,
                    key,
                    value,
                    len: len.checked_add(more)?,
                })
            }
            (
                Run::Use { start, len },
                Run::Use {
                    start: s,
                    len: more,
                },
            ) if start.checked_add(len) == Some(s) => Some(Run::Use {
                start,
                len: len.checked_add(more)?,
            }),
            (
                Run::Done { origin, start, len },
                Run::Done {
                    origin: o,
                    start: s,
                    len: more,
                },
            ) if origin == o && start.get().checked_add(len) == Some(s.get()) => Some(Run::Done {
                origin,
                start,
                len: len.checked_add(more)?,
            }),
            _ => None,
        }
    }
}

fn check_run(start: CowChunk, len: u64, data_chunks: u64) -> Result<(), Refusal> {
    match start.get().checked_add(len) {
        Some(end) if len > 0 && end <= data_chunks => Ok(()),
        _ => Err(Refusal::Corrupt),
    }
}

/// Which block of which journal a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The store.
    pub uuid: [u8; 16],
    /// The transaction that the superblock shows.
    pub transaction: u64,
    /// The block on the device that the journal begins with.
    pub first_block: u64,
    /// The number of the block within the journal.
    pub index: u64,
}

impl Place {
    /// Of a block that many behind this one.
    pub const fn plus(&self, blocks: usize) -> Place {
        Place {
            index: self.index.saturating_add(blocks as u64),
            ..*self
        }
    }
}

/// Gathers entries in blocks of the caller's, which always are the same ones, at least one and at
/// most [`BATCH_BLOCKS`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Blocks that are full.
    full: usize,
    /// Bytes in use of the next, its header included; 0 if it has not been begun.
    used: usize,
    /// The last entries of those kinds that can be continued, and where they stand in the block at
    /// work.
    records: Option<(usize, Run)>,
    chunks: Option<(usize, Run)>,
    done: Option<(usize, Run)>,
}

impl Batch {
    /// Without entries.
    pub const fn new() -> Batch {
        Batch {
            full: 0,
            used: 0,
            records: None,
            chunks: None,
            done: None,
        }
    }

    /// Blocks with entries.
    pub const fn blocks(&self) -> usize {
        self.full + (self.used != 0) as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.blocks() == 0
    }

    /// Adds an entry; `false` if there is no room for it, and what is there is as before.
    ///
    /// An entry may come to stand before others that were added earlier, but never one for the same
    /// row, record or chunk.
    #[must_use]
    pub fn push(&mut self, blocks: &mut [Block], entry: &Entry) -> bool {
        let run = Run::of(entry);
        if run.is_some_and(|run| self.extend(blocks, &run, entry.size())) {
            return true;
        }
        let size = entry.size();
        if self.used != 0 && self.used + size > BLOCK_SIZE {
            if self.full + 1 >= blocks.len() {
                return false;
            }
            self.close(blocks);
        }
        let Some(block) = blocks.get_mut(self.full) else {
            return false;
        };
        if self.used == 0 {
            block.fill(0);
            self.used = HEADER;
        }
        let Some(place) = block.get_mut(self.used..self.used + size) else {
            return false;
        };
        entry.write(place);
        if let Some(run) = run {
            *self.last_of(&run) = Some((self.used, run));
        }
        self.used += size;
        true
    }

    fn last_of(&mut self, run: &Run) -> &mut Option<(usize, Run)> {
        match run {
            Run::Records { .. } => &mut self.records,
            Run::Use { .. } => &mut self.chunks,
            Run::Done { .. } => &mut self.done,
        }
    }

    /// Makes an entry of `size` bytes part of the last of its kind.
    fn extend(&mut self, blocks: &mut [Block], run: &Run, size: usize) -> bool {
        let full = self.full;
        let Some((at, last)) = self.last_of(run) else {
            return false;
        };
        let Some(both) = last.joined(run) else {
            return false;
        };
        // All of a kind have the same size.
        let end = *at + size;
        let Some(place) = blocks.get_mut(full).and_then(|b| b.get_mut(*at..end)) else {
            return false;
        };
        both.write(place);
        *last = both;
        true
    }

    fn close(&mut self, blocks: &mut [Block]) {
        if let Some(block) = blocks.get_mut(self.full) {
            set_u32(block, USED_AT, self.used as u32);
        }
        *self = Batch {
            full: self.full + 1,
            ..Batch::new()
        };
    }

    /// Completes the blocks to be written as blocks `place.index` and following. Returns how many
    /// there are; entries can be added no more.
    pub fn seal(&mut self, blocks: &mut [Block], place: &Place, checksum: Checksum) -> usize {
        if self.used != 0 {
            self.close(blocks);
        }
        let count = self.full;
        for (i, block) in blocks.iter_mut().take(count).enumerate() {
            let (stored, covered) = block.split_at_mut(CHECKED_FROM);
            let mut w = Writer::new(covered);
            w.u32(if i + 1 == count { LAST } else { 0 });
            let index = place.index + i as u64;
            w.u64(place.first_block + index);
            w.bytes(&place.uuid);
            w.u64(place.transaction);
            w.u64(index);
            set_u32(covered, NTH_AT - CHECKED_FROM, i as u32);
            stored.copy_from_slice(&checksum(covered).to_le_bytes());
        }
        count
    }
}

/// Where in a block stands how many of its bytes are in use.
const USED_AT: usize = 48;
/// And which block of its batch it is.
const NTH_AT: usize = 52;

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = bytes.get_mut(at..at + 4) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

/// What a block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// It ends a batch.
    pub last: bool,
    /// Which block of its batch it is, counted from 0.
    pub nth: u64,
}

/// Looks at a block of the journal. `None`: it is not the one that belongs there.
pub fn look(block: &Block, place: &Place, checksum: Checksum) -> Option<Found> {
    let (stored, covered) = block.split_at(CHECKED_FROM);
    if stored != checksum(covered).to_le_bytes() {
        return None;
    }
    let mut r = Reader::new(covered);
    let flags = r.u32().ok()?;
    let number = r.u64().ok()?;
    let uuid: [u8; 16] = r.array().ok()?;
    let transaction = r.u64().ok()?;
    let index = r.u64().ok()?;
    let used = r.u32().ok()? as usize;
    let nth = u64::from(r.u32().ok()?);
    r.zeroes(HEADER - NTH_AT - 4).ok()?;
    let right = flags & !LAST == 0
        && place.first_block.checked_add(place.index) == Some(number)
        && uuid == place.uuid
        && transaction == place.transaction
        && index == place.index
        && (HEADER..=BLOCK_SIZE).contains(&used)
        && nth <= index
        && nth < BATCH_BLOCKS as u64;
    right.then_some(Found {
        last: flags & LAST != 0,
        nth,
    })
}

/// Gives the entries of a block that was found to be one to `each`, in their order.
///
/// # Errors
///
/// [`Refusal::Corrupt`] when it is not made of entries, and what `each` returns.
pub fn entries<E: From<Refusal>>(
    block: &Block,
    data_chunks: u64,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<(), E> {
    let mut r = Reader::new(block.get(USED_AT..).ok_or(Refusal::Corrupt)?);
    let used = r.u32()? as usize;
    let bytes = block.get(HEADER..used).ok_or(Refusal::Corrupt)?;
    let mut r = Reader::new(bytes);
    while !r.is_empty() {
        each(&Entry::read(&mut r, data_chunks)?)?;
    }
    Ok(())
}

/// Gives the entries of the whole batches that `blocks` begin with to `each`, in their order; the first
/// block belongs at `place`. Returns how many blocks these batches take: 0 when there is none, which
/// with [`BATCH_BLOCKS`] blocks means that the journal ends there. See [`is_behind`] then.
///
/// # Errors
///
/// As for [`entries`].
pub fn batches<E: From<Refusal>>(
    blocks: &[Block],
    place: &Place,
    checksum: Checksum,
    data_chunks: u64,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<usize, E> {
    let mut batch = 0;
    for (i, block) in blocks.iter().enumerate() {
        let found = match look(block, &place.plus(i), checksum) {
            Some(found) if found.nth == (i - batch) as u64 => found,
            _ => break,
        };
        if found.last {
            for block in blocks.get(batch..=i).unwrap_or_default() {
                entries(block, data_chunks, &mut each)?;
            }
            batch = i + 1;
        }
    }
    Ok(batch)
}

/// Whether one of `blocks`, the first of which belongs at `place`, is of another batch than that which
/// would begin at block `end` of the journal. If no whole batch does, it was there, and is damaged.
pub fn is_behind(blocks: &[Block], place: &Place, end: u64, checksum: Checksum) -> bool {
    blocks.iter().enumerate().any(|(i, block)| {
        let place = place.plus(i);
        look(block, &place, checksum).is_some_and(|found| place.index - found.nth != end)
    })
}
