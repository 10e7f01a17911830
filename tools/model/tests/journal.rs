// SPDX-License-Identifier: GPL-2.0

//! What is noted in the journal is read back, batch by batch; what was not written is not.

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::journal::{
    batches, entries, is_behind, look, Batch, Block, Entry, Place, Run, BATCH_BLOCKS,
    BEHIND_BLOCKS, CHECKSUM_XOR,
};
use dm_snap_mv_model::disk::origin_row::{OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{key_behind, RecordKey, RecordValue};
use dm_snap_mv_model::refusal::Refusal;
use proptest::collection::vec;
use proptest::prelude::*;

const DATA_CHUNKS: u64 = 1 << 20;
const FIRST_BLOCK: u64 = 1024;

fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes) ^ CHECKSUM_XOR
}

fn place(index: u64) -> Place {
    Place {
        uuid: *b"0123456789abcdef",
        transaction: 7,
        first_block: FIRST_BLOCK,
        index,
    }
}

fn nr(number: u32) -> OriginNr {
    OriginNr::new(number).unwrap()
}

fn origin_row(chunks: u64) -> OriginRow {
    OriginRow {
        number: nr(1),
        size: 1 << 30,
        current_epoch: Epoch::new(9).unwrap(),
        next_tag: Tag::new(9).unwrap(),
        snapshots: 3,
        ghosts: 1,
        created: 1_000_000_000,
        chunks,
        invalid_below: 0,
        bookmarks: 0,
        forgotten_below: 0,
        rollback: None,
        deferred: None,
        identity: Identity::UNKNOWN,
        id: OriginId::new(b"/dev/sdb1").unwrap(),
    }
}

fn snapshot_row(chunks: u64) -> SnapshotRow {
    SnapshotRow {
        tag: Tag::new(5).unwrap(),
        ghost: false,
        bookmark: false,
        parent: None,
        base_epoch: Epoch::new(3).unwrap(),
        current_epoch: Epoch::new(1).unwrap(),
        children: 0,
        size: 1 << 20,
        created: 1_000_000_001,
        chunks,
        memo: Memo::new(b"memo").unwrap(),
    }
}

/// Entries whose numbers are small, so that many continue one another.
fn entry() -> impl Strategy<Value = Entry> {
    let small = 0..32u64;
    prop_oneof![
        8 => (1..3u32, small.clone(), 1..3u32, small.clone(), 0..4u32).prop_map(
            |(origin, chunk, epoch, cow, zero)| {
                let timeline = TimelineId::of(nr(origin), Tag::new(zero / 3));
                let chunk = Chunk::new(chunk).unwrap();
                let epoch = Epoch::new(epoch).unwrap();
                Entry::Run(Run::Records {
                    timeline,
                    key: RecordKey::new(timeline, chunk, epoch).get(),
                    value: match zero {
                        0 => RecordValue::Cow(CowChunk::new(cow).unwrap()),
                        1 => RecordValue::Zero,
                        2 => RecordValue::Mark,
                        _ => RecordValue::zeroes(1 + cow.min(chunk.get())),
                    },
                    len: 1,
                })
            }
        ),
        4 => (small.clone(), 1..9u64).prop_map(|(start, len)| Entry::Run(Run::Use {
            start: CowChunk::new(start).unwrap(),
            len,
        })),
        4 => (1..3u32, small, 1..9u64).prop_map(|(origin, start, len)| Entry::Run(Run::Done {
            origin: nr(origin),
            start: Chunk::new(start).unwrap(),
            len,
        })),
        1 => any::<u64>().prop_map(|chunks| Entry::Origin(origin_row(chunks))),
        1 => any::<u64>().prop_map(|chunks| Entry::Snapshot(nr(1), snapshot_row(chunks))),
        1 => (1..100u32, any::<u32>()).prop_map(|(epoch, tag)| Entry::Child {
            timeline: TimelineId::of(nr(1), None),
            epoch: Epoch::new(epoch).unwrap(),
            tag,
        }),
        1 => (1..100u32, any::<u32>()).prop_map(|(epoch, tag)| Entry::Bookmark {
            timeline: TimelineId::of(nr(1), None),
            epoch: Epoch::new(epoch).unwrap(),
            tag,
        }),
        1 => (1..100u32, any::<[u64; 2]>(), any::<[bool; 2]>()).prop_map(
            |(tag, [cursor, freed], [again, drop])| {
                let t = TimelineId::of(nr(2), Tag::new(tag));
                Entry::Cleaning(t, CleaningRow { cursor, again, drop, freed })
            }
        ),
        1 => (1..100u32).prop_map(|tag| {
            Entry::NoSnapshot(TimelineId::of_snapshot(nr(2), Tag::new(tag).unwrap()))
        }),
        1 => (1..100u32).prop_map(|epoch| Entry::NoBookmark {
            timeline: TimelineId::of(nr(1), None),
            epoch: Epoch::new(epoch).unwrap(),
        }),
        1 => (1..100u32).prop_map(|epoch| Entry::NoChild {
            timeline: TimelineId::of(nr(1), None),
            epoch: Epoch::new(epoch).unwrap(),
        }),
    ]
}

/// What entries mean, whatever they were joined to: kind by kind, since only entries of one kind can
/// speak of the same thing.
#[derive(Debug, Default, PartialEq)]
struct Meaning {
    records: Vec<(TimelineId, u64, RecordValue)>,
    chunks: Vec<u64>,
    done: Vec<(OriginNr, u64)>,
    rows: Vec<Entry>,
}

impl Meaning {
    fn of(entries: &[Entry]) -> Meaning {
        let mut meaning = Meaning::default();
        for entry in entries {
            match *entry {
                Entry::Run(Run::Records {
                    timeline,
                    key,
                    value,
                    len,
                }) => {
                    for i in 0..u64::from(len) {
                        let key = key_behind(key, i).unwrap();
                        let value = value.plus(i).unwrap();
                        meaning.records.push((timeline, key, value));
                    }
                }
                Entry::Run(Run::Use { start, len }) => {
                    meaning.chunks.extend((0..len).map(|i| start.get() + i));
                }
                Entry::Run(Run::Done { origin, start, len }) => {
                    let chunks = (0..len).map(|i| (origin, start.get() + i));
                    meaning.done.extend(chunks);
                }
                row => meaning.rows.push(row),
            }
        }
        meaning
    }
}

/// A journal of batches, as it lies on a device, and the block that each batch ends before.
fn write(batches: &[Vec<Entry>]) -> (Vec<Block>, Vec<usize>) {
    let mut device = Vec::new();
    let mut ends = Vec::new();
    // What was there before must not matter.
    let mut blocks = vec![[0xa5; 4096]; BATCH_BLOCKS];
    for batch in batches {
        let mut writer = Batch::new();
        for entry in batch {
            assert!(writer.push(&mut blocks, entry));
        }
        let expected = writer.blocks();
        let count = writer.seal(&mut blocks, &place(device.len() as u64), checksum);
        assert_eq!(count, expected);
        device.extend_from_slice(&blocks[..count]);
        ends.push(device.len());
    }
    (device, ends)
}

/// All whole batches, and how many blocks they take.
fn read(device: &[Block]) -> (Vec<Entry>, usize) {
    let mut all = Vec::new();
    let gather = |entry: &Entry| {
        all.push(*entry);
        Ok::<(), Refusal>(())
    };
    let count = batches(device, &place(0), checksum, DATA_CHUNKS, gather).unwrap();
    (all, count)
}

proptest! {
    #[test]
    fn what_is_written_is_read(written in vec(vec(entry(), 1..200), 1..5)) {
        let (device, _) = write(&written);
        let whole: Vec<Entry> = written.concat();
        let (entries, count) = read(&device);
        prop_assert_eq!(count, device.len());
        prop_assert_eq!(Meaning::of(&entries), Meaning::of(&whole));
    }

    #[test]
    fn a_batch_that_is_not_whole_is_not_there_or_damaged(
        written in vec(vec(entry(), 1..600), 1..4),
        lost in any::<prop::sample::Index>(),
        at in 0..4096usize,
        bit in 0..8u8,
    ) {
        let (mut device, ends) = write(&written);
        let lost = lost.index(device.len());
        device[lost][at] ^= 1u8 << bit;
        let whole = ends.iter().filter(|&&end| end <= lost).count();
        let there: Vec<Entry> = written[..whole].concat();
        let (entries, count) = read(&device);
        prop_assert_eq!(Meaning::of(&entries), Meaning::of(&there));
        // The last one may not have been written in whole. Any other was.
        let (end, behind) = (count as u64, &device[count..]);
        let behind = &behind[..behind.len().min(BEHIND_BLOCKS)];
        let damaged = is_behind(behind, &place(end), end, checksum);
        prop_assert_eq!(damaged, whole + 1 < ends.len());
    }

    /// Whoever writes the journal anew must not do it within the same transaction, or what is left
    /// of a batch that was not written in whole seems to follow. Even so it is not taken for a batch.
    #[test]
    fn the_rest_of_a_batch_is_none(batch in vec(entry(), 300..600), short in vec(entry(), 1..9)) {
        let (mut device, _) = write(&[batch]);
        let (first, _) = write(&[short.clone()]);
        device[..first.len()].copy_from_slice(&first);
        let (entries, count) = read(&device);
        prop_assert_eq!(count, first.len());
        prop_assert_eq!(Meaning::of(&entries), Meaning::of(&short));
    }

    #[test]
    fn a_block_of_another_place_is_not_taken(batch in vec(entry(), 1..9), index in 1..9u64) {
        let (device, _) = write(&[batch]);
        let right = place(0);
        prop_assert!(look(&device[0], &right, checksum).is_some());
        let others = [
            Place { index, ..right },
            Place { transaction: 8, ..right },
            Place { uuid: [0; 16], ..right },
            Place { first_block: FIRST_BLOCK + index, ..right },
        ];
        for other in others {
            prop_assert_eq!(look(&device[0], &other, checksum), None);
        }
    }

    /// Any bytes with a right header: entries or an error, and no panic.
    #[test]
    fn bytes_are_entries_or_refused(bytes in vec(any::<u8>(), 0..600), kind in 0..8u8) {
        let (mut device, _) = write(&[vec![Entry::Run(Run::Use { start: CowChunk::new(0).unwrap(), len: 1 })]]);
        let block = &mut device[0];
        block[64] = kind;
        block[65..65 + bytes.len()].copy_from_slice(&bytes);
        block[48..52].copy_from_slice(&(65 + bytes.len() as u32).to_le_bytes());
        let sum = checksum(&block[4..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        look(block, &place(0), checksum).unwrap();
        let _ = entries::<Refusal>(block, DATA_CHUNKS, |entry| {
            if let Entry::Run(Run::Records { timeline, key, value, len }) = *entry {
                let last = u64::from(len) - 1;
                let (chunk, _) = RecordKey::decode(timeline, key)?;
                RecordKey::decode(timeline, key_behind(key, last).unwrap())?;
                value.first_of(timeline, chunk).unwrap();
                if let RecordValue::Cow(cow) = value.plus(last).unwrap() {
                    assert!(cow.get() < DATA_CHUNKS);
                }
            }
            Ok(())
        });
    }
}

#[test]
fn runs_take_one_entry() {
    let mut blocks = vec![[0; 4096]; BATCH_BLOCKS];
    let mut batch = Batch::new();
    let timeline = TimelineId::of(nr(1), None);
    for i in 0..100_000 {
        let chunk = Chunk::new(i).unwrap();
        let cow = CowChunk::new(1000 + i).unwrap();
        let entry = Entry::Run(Run::Records {
            timeline,
            key: RecordKey::new(timeline, chunk, Epoch::FIRST).get(),
            value: RecordValue::Cow(cow),
            len: 1,
        });
        assert!(batch.push(&mut blocks, &entry));
        assert!(batch.push(&mut blocks, &Entry::Run(Run::Use { start: cow, len: 1 })));
    }
    assert_eq!(batch.blocks(), 1);
}

#[test]
fn a_full_batch_says_so_and_keeps_what_it_has() {
    let mut blocks = vec![[0; 4096]; 2];
    let mut batch = Batch::new();
    let mut pushed = 0;
    while batch.push(&mut blocks, &Entry::Origin(origin_row(pushed))) {
        pushed += 1;
    }
    assert_eq!(pushed, 14);
    assert!(!batch.push(&mut blocks, &Entry::Origin(origin_row(pushed))));
    assert_eq!(batch.seal(&mut blocks, &place(0), checksum), 2);
    assert_eq!(read(&blocks).0.len(), 14);
}

#[test]
fn the_chunk_size_does_not_matter_to_the_region() {
    use dm_snap_mv_model::disk::layout::Layout;
    for pages in [1, 16, 256] {
        let size = ChunkSize::from_pages(pages).unwrap();
        let small = Layout::new(1 << 16, size, None).unwrap();
        let large = Layout::new(1 << 40, size, None).unwrap();
        assert_eq!((small.journal_blocks, large.journal_blocks), (63, 4095));
        let end = (small.journal_end() + 1) * 8;
        assert!(end <= small.data_start && small.data_start - end < size.sectors());
    }
}
