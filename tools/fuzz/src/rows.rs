// SPDX-License-Identifier: GPL-2.0

//! What stands on disk: what is decoded at all encodes to the same bytes.

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{self, Batch, Place};
use dm_snap_mv_model::disk::layout::{Layout, METADATA_MAX, METADATA_MIN};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, TimelineId};
use dm_snap_mv_model::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, is_behind_children, RecordKey,
    RecordValue,
};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::journal::sum as journal_sum;
use dm_snap_mv_store::node::{self, Node};
use dm_snap_mv_store::space::{Bitmap, IndexEntry, MetadataIndex, Root, ENTRIES};
use dm_snap_mv_store::{checksum, Block};

use crate::input::Input;

fn block(data: &[u8]) -> Box<Block> {
    let mut block = Block::zeroed();
    let len = data.len().min(block.0.len());
    block.0[..len].copy_from_slice(&data[..len]);
    block
}

fn seal(block: &mut Block, xor: u32) {
    let sum = checksum::of_block(block, xor).to_le_bytes();
    block.0[..4].copy_from_slice(&sum);
}

fn superblock_sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

pub fn superblock(data: &[u8]) {
    let mut block = block(data);
    let bare = Superblock::decode(&block.0, superblock_sum);
    // Nobody guesses a checksum.
    Superblock::seal(&mut block.0, superblock_sum);
    let Ok(superblock) = Superblock::decode(&block.0, superblock_sum) else {
        assert!(bare.is_err());
        return;
    };
    let layout = superblock.layout;
    assert!((METADATA_MIN..=METADATA_MAX).contains(&layout.metadata_blocks));
    assert!(superblock.nr_origins < superblock.next_origin);
    let size = layout.data_start + layout.data_chunks * layout.chunk_size.sectors();
    assert_eq!(layout.check_device(size), Ok(()));
    assert_eq!(layout.check_device(size - 1), Err(Refusal::CowShrunk));
    assert_eq!(layout.grown(size), None);
    let mut again = Block::zeroed();
    superblock.encode(&mut again.0);
    Superblock::seal(&mut again.0, superblock_sum);
    let decoded = Superblock::decode(&again.0, superblock_sum);
    assert_eq!(decoded.as_ref(), Ok(&superblock));
    assert_eq!(block.0, again.0);
}

pub fn layout(data: &[u8]) {
    let mut input = Input(data);
    let device = input.u64();
    let Ok(chunk_size) = ChunkSize::from_pages(u32::from(input.u16())) else {
        return;
    };
    let wanted = match input.u8() % 2 {
        0 => None,
        _ => Some(input.u64()),
    };
    let Ok(layout) = Layout::new(device, chunk_size, wanted) else {
        return;
    };
    assert!(wanted.is_none_or(|blocks| blocks == layout.metadata_blocks));
    assert_eq!(layout.check_device(device), Ok(()));
    assert!(layout.data_start >= layout.metadata_blocks * 8);
    assert_eq!(layout.data_start % chunk_size.sectors(), 0);
    let last = CowChunk::new(layout.data_chunks - 1).expect("a chunk");
    assert!(layout.sector_of(last) + chunk_size.sectors() <= device);
    let end = chunk_size.end_of(input.u64());
    assert!(end.is_ok() || end == Err(Refusal::OriginTooLarge));
}

/// Decodes and encodes a row of `N` bytes.
macro_rules! row {
    ($name:ident, $row:ty) => {
        pub fn $name(data: &[u8]) {
            let bytes: [u8; <$row>::SIZE] = Input(data).array();
            if let Ok(row) = <$row>::decode(&bytes) {
                let mut again = [0xff; <$row>::SIZE];
                row.encode(&mut again);
                assert_eq!(bytes, again);
                assert_eq!(<$row>::decode(&again), Ok(row));
            }
        }
    };
}
row!(origin_row, OriginRow);
row!(snapshot_row, SnapshotRow);
row!(cleaning_row, CleaningRow);

pub fn record(data: &[u8]) {
    let mut input = Input(data);
    let (raw, key, value, chunks) = (input.u64(), input.u64(), input.u64(), input.u64());
    if let Some(t) = TimelineId::new(raw) {
        assert_eq!(TimelineId::of(t.origin(), t.snapshot()), t);
        if let Ok((chunk, epoch)) = RecordKey::decode(t, key) {
            assert_eq!(RecordKey::new(t, chunk, epoch).get(), key);
            assert_eq!(RecordKey::chunk_of(key), chunk);
        }
        let chunk = Chunk::saturating(value);
        if let Some(epoch) = Epoch::new(chunks as u32) {
            let key = RecordKey::new(t, chunk, epoch);
            assert_eq!(RecordKey::decode(t, key.get()), Ok((chunk, epoch)));
            assert_eq!(child_epoch(child_key(epoch)), Ok(epoch));
        }
    }
    if let Ok(epoch) = child_epoch(key) {
        assert_eq!(child_key(epoch), key);
        assert!(!is_behind_children(key) && bookmark_epoch(key).is_err());
    }
    if let Ok(epoch) = bookmark_epoch(key) {
        assert_eq!(bookmark_key(epoch), key);
        assert!(is_behind_children(key));
    }
    if let Ok(decoded) = RecordValue::decode(value, chunks) {
        assert_eq!(decoded.encode(), value);
        assert!(match decoded {
            RecordValue::Cow(cow) => cow.get() < chunks,
            RecordValue::Zero | RecordValue::Mark => true,
            RecordValue::Zeroes(before) => RecordValue::zeroes(before + 1) == decoded,
        });
        if let (Some(t), Some(chunk)) = (TimelineId::new(raw), Chunk::new(key)) {
            match decoded.first_of(t, chunk) {
                Ok(first) => {
                    let len = chunk.since(first) + 1;
                    let several = RecordValue::zeroes(len) == decoded;
                    assert!(len == 1 || several && !t.is_origin());
                }
                Err(_) => assert!(matches!(
                    decoded,
                    RecordValue::Zeroes(_) | RecordValue::Mark
                )),
            }
        }
    }
}

/// A block that belongs into the journal by its head, with anything in it.
pub fn journal(data: &[u8]) {
    const DATA_CHUNKS: u64 = 1 << 20;
    let place = Place {
        uuid: [7; 16],
        transaction: 3,
        first_block: 1024,
        index: 2,
    };
    let mut input = Input(data);
    let flags = u32::from(input.u8());
    let used = u32::from(input.u16());
    let nth = flags >> 4;
    let flags = flags & 0xf;
    let mut block = Block::zeroed();
    let body = input.bytes(block.0.len() - 64);
    block.0[64..64 + body.len()].copy_from_slice(body);
    block.0[4..8].copy_from_slice(&flags.to_le_bytes());
    block.0[8..16].copy_from_slice(&1026u64.to_le_bytes());
    block.0[16..32].copy_from_slice(&place.uuid);
    block.0[32..40].copy_from_slice(&place.transaction.to_le_bytes());
    block.0[40..48].copy_from_slice(&place.index.to_le_bytes());
    block.0[48..52].copy_from_slice(&used.to_le_bytes());
    block.0[52..56].copy_from_slice(&nth.to_le_bytes());
    seal(&mut block, journal::CHECKSUM_XOR);
    let Some(found) = journal::look(&block.0, &place, journal_sum) else {
        assert!(flags > 1 || !(64..=4096).contains(&used) || u64::from(nth) > place.index);
        return;
    };
    assert_eq!((found.last, found.nth), (flags == 1, u64::from(nth)));
    let mut all = Vec::new();
    let read = journal::entries(&block.0, DATA_CHUNKS, |entry| {
        all.push(*entry);
        Ok::<_, Refusal>(())
    });
    let _ = read;
    // What was read can be written.
    for entry in all {
        let mut blocks = [[0xff; 4096]];
        let mut batch = Batch::new();
        assert!(batch.push(&mut blocks, &entry));
        assert_eq!(batch.seal(&mut blocks, &place, journal_sum), 1);
        let mut again = Vec::new();
        let gather = |entry: &journal::Entry| {
            again.push(*entry);
            Ok::<_, Refusal>(())
        };
        let read = journal::batches(&blocks, &place, journal_sum, DATA_CHUNKS, gather);
        assert_eq!(read.expect("it was sealed"), 1);
        assert_eq!(again, [entry]);
    }
}

pub fn node(data: &[u8]) {
    const XOR: u32 = 121_107;
    let mut input = Input(data);
    let nr = u64::from(input.u16());
    let mut block = block(input.0);
    block.0[8..16].copy_from_slice(&nr.to_le_bytes());
    seal(&mut block, XOR);
    let Ok(node) = Node::check(block, nr) else {
        return;
    };
    assert!(node.len() <= node.room() && (node.is_leaf() || !node.is_empty()));
    let mut entries = Vec::new();
    for i in 0..node.len() {
        let key = node.key(i).expect("a key");
        assert_eq!(node.below(key), i);
        entries.push((key, node.value(i).expect("a value").to_vec()));
    }
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(node.key(node.len()), None);
    assert_eq!(node.value(node.len()), None);
    // One made anew has the same entries, whatever else stood in the block.
    let size = node.value_size();
    if entries.len() <= node::room(size) {
        let made = node::make(node.is_leaf(), size, &entries, nr);
        let again = Node::check(made, nr).expect("a node");
        let same =
            (0..node.len()).all(|i| again.key(i) == node.key(i) && again.value(i) == node.value(i));
        assert!(same && again.len() == node.len());
    }
}

pub fn space(data: &[u8]) {
    let mut input = Input(data);
    let nr = u64::from(input.u16());
    let root = Root::decode(input.bytes(32));
    let mut bytes = [0; 32];
    root.encode(&mut bytes);
    assert_eq!(Root::decode(&bytes), root);
    let place = u64::from(input.u16()) % ENTRIES;
    let value = u32::from(input.u8() % 4);
    let mut plain = block(input.0);
    plain.0[8..16].copy_from_slice(&nr.to_le_bytes());
    let mut sealed = plain.clone();
    seal(&mut sealed, 240_779);
    let mut bitmap = Bitmap::check(sealed, nr).expect("any bytes are a bitmap");
    let before: Vec<u32> = (0..8).map(|i| bitmap.get(place ^ i)).collect();
    bitmap.set(place, value);
    assert_eq!(bitmap.get(place), value);
    for i in 1..8 {
        assert_eq!(bitmap.get(place ^ i), before[i as usize]);
    }
    assert_eq!(bitmap.get(ENTRIES + place), 0);
    let mut sealed = plain;
    seal(&mut sealed, 160_478);
    let index = MetadataIndex::check(sealed.clone(), nr).expect("any bytes are an index");
    let all: Vec<IndexEntry> = (0..255).map_while(|i| index.entry(i)).collect();
    assert_eq!(all.len(), 255);
    let made = MetadataIndex::make(&all, nr);
    assert_eq!(made.0[16..], sealed.0[16..]);
}
