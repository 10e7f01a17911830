// SPDX-License-Identifier: GPL-2.0

//! What is written to disk is read back as it was; what was not written so is refused.

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::label_row::{
    Consistency, LabelRow, Name, Policy, Provenance, NAME_MAX, POLICY_MAX,
};
use dm_snap_mv_model::disk::layout::{Layout, METADATA_MAX, METADATA_MIN};
use dm_snap_mv_model::disk::origin_row::{Deferred, OriginId, OriginRow, Rollback};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::disk::superblock::{
    Contents, Roots, Superblock, BLOCK_SIZE, CHECKSUM_XOR, INCOMPAT_VERSIONS,
};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, is_behind_children, RecordKey,
    RecordValue,
};
use dm_snap_mv_model::refusal::Refusal;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// `dm_bm_checksum()` as the kernel computes it.
fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes) ^ CHECKSUM_XOR
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1..=Epoch::MAX.get()).prop_map(|n| Epoch::new(n).unwrap())
}

fn chunk() -> impl Strategy<Value = Chunk> {
    (0..=Chunk::MAX.get()).prop_map(|n| Chunk::new(n).unwrap())
}

fn tag() -> impl Strategy<Value = Tag> {
    (1..=u32::MAX).prop_map(|n| Tag::new(n).unwrap())
}

fn timeline() -> impl Strategy<Value = TimelineId> {
    (1..=u32::MAX, option::of(tag()))
        .prop_map(|(nr, tag)| TimelineId::of(OriginNr::new(nr).unwrap(), tag))
}

prop_compose! {
    fn snapshot_row()(
        tags in (1..=u32::MAX, any::<u32>()),
        ghost in any::<bool>(),
        bookmark in any::<bool>(),
        base_epoch in epoch(),
        current_epoch in epoch(),
        children in any::<u32>(),
        size in 1..=u64::MAX,
        created in any::<u64>(),
        chunks in any::<u64>(),
        memo in vec(any::<u8>(), 0..=64),
    ) -> SnapshotRow {
        SnapshotRow {
            tag: Tag::new(tags.0).unwrap(),
            ghost,
            bookmark,
            parent: Tag::new(tags.1 % tags.0).filter(|_| !bookmark),
            base_epoch,
            current_epoch,
            children: if bookmark && !ghost { 0 } else { children },
            size,
            created,
            chunks: if bookmark { 0 } else { chunks },
            memo: Memo::new(&memo).unwrap(),
        }
    }
}

prop_compose! {
    fn origin_row()(
        size in 1..=u64::MAX,
        number in 1..=u32::MAX,
        epochs in (2..=Epoch::MAX.get(), any::<u32>(), epoch()),
        tags in (2..=u32::MAX, any::<u32>(), any::<u32>(), any::<u32>()),
        counts in any::<(u32, u32, u32)>(),
        created in any::<u64>(),
        chunks in any::<u64>(),
        delete_source in any::<bool>(),
        what in 0..3,
        range in (chunk(), chunk()),
        merged in any::<u64>(),
        id in vec(any::<u8>(), 1..=255),
        name in any::<Option<[u8; 12]>>(),
        samples in any::<Option<[u32; 4]>>(),
    ) -> OriginRow {
        let source = Tag::new(1 + tags.1 % (tags.0 - 1)).unwrap();
        let invalid_below = (u64::from(tags.2) % (u64::from(tags.0) + 1)) as u32;
        OriginRow {
            size,
            number: OriginNr::new(number).unwrap(),
            current_epoch: Epoch::new(epochs.0).unwrap(),
            next_tag: Tag::new(tags.0).unwrap(),
            snapshots: counts.0,
            ghosts: counts.1,
            created,
            chunks,
            invalid_below,
            bookmarks: counts.2,
            forgotten_below: (u64::from(tags.3) % (u64::from(invalid_below) + 1)) as u32,
            rollback: (what == 1).then_some(Rollback {
                source,
                source_epoch: epochs.2,
                boundary: Epoch::new(1 + epochs.1 % (epochs.0 - 1)).unwrap(),
                delete_source,
                cursor: range.0.min(range.1),
                limit: range.0.max(range.1),
                merged,
            }),
            deferred: (what == 2).then_some(Deferred { source, delete_source }),
            identity: Identity { name, samples },
            id: OriginId::new(&id).unwrap(),
        }
    }
}

fn chunk_size() -> impl Strategy<Value = ChunkSize> {
    (0u32..=8).prop_map(|shift| ChunkSize::from_pages(1 << shift).unwrap())
}

prop_compose! {
    fn label_row()(
        uuids in any::<([u8; 16], Option<[u8; 16]>, Option<[u8; 16]>)>(),
        numbers in (any::<u64>(), 1..=u32::MAX, 1..=u32::MAX),
        consistency in 0usize..3,
        policy in vec(any::<u8>(), 0..=POLICY_MAX),
        name in vec(any::<u8>(), 0..=NAME_MAX),
    ) -> LabelRow {
        let words = [&b"crash"[..], b"file-system", b"application"];
        let none = [0; 16];
        let (keep_until, origin, tag) = numbers;
        let store = uuids.2.filter(|uuid| *uuid != none);
        LabelRow {
            uuid: if uuids.0 == none { [1; 16] } else { uuids.0 },
            group: uuids.1.filter(|uuid| *uuid != none),
            keep_until,
            from: store.map(|store| Provenance {
                store,
                origin: OriginNr::new(origin).unwrap(),
                tag: Tag::new(tag).unwrap(),
            }),
            consistency: Consistency::of(words[consistency]).unwrap(),
            policy: Policy::new(&policy).unwrap(),
            name: Name::new(&name).unwrap(),
        }
    }
}

prop_compose! {
    fn superblock()(
        flags in any::<(bool, bool, bool)>(),
        uuid in any::<[u8; 16]>(),
        features in (any::<u32>(), any::<u32>()),
        device in 16 * METADATA_MIN..1 << 45,
        chunk_size in chunk_size(),
        transaction in any::<u64>(),
        origins in (1..=u32::MAX, any::<u32>()),
        roots in any::<[u64; 8]>(),
        spaces in (vec(any::<u8>(), 128), vec(any::<u8>(), 128)),
    ) -> Superblock {
        let [records, origins_root, origin_ids, snapshots, children, done, cleaning, labels] = roots;
        let versions = if features.0 & 2 != 0 { INCOMPAT_VERSIONS } else { 0 };
        let labels = if versions != 0 { labels } else { 0 };
        let layout = Layout::new(device * 8, chunk_size, None).unwrap();
        Superblock {
            clean: flags.0,
            needs_check: flags.1,
            cow_full: flags.2,
            uuid,
            compat: features.0,
            ro_compat: features.1,
            incompat: Superblock::incompat_of(&layout) | versions,
            layout,
            transaction,
            next_origin: origins.0,
            nr_origins: origins.1 % origins.0,
            roots: Roots {
                records, origins: origins_root, origin_ids, snapshots, children, done, cleaning,
                labels,
            },
            metadata_space: spaces.0.try_into().unwrap(),
            data_space: spaces.1.try_into().unwrap(),
            strange: if features.0 > 1 { [7; 64] } else { [0; 64] },
        }
    }
}

fn encoded(superblock: &Superblock) -> [u8; BLOCK_SIZE] {
    let mut block = [0xff; BLOCK_SIZE];
    superblock.encode(&mut block);
    Superblock::seal(&mut block, checksum);
    block
}

fn superblock_value() -> Superblock {
    let chunk_size = ChunkSize::from_pages(4).unwrap();
    Superblock {
        clean: true,
        needs_check: false,
        cow_full: true,
        uuid: *b"0123456789abcdef",
        compat: 0,
        ro_compat: 0,
        incompat: 1,
        layout: Layout::new(1 << 21, chunk_size, None).unwrap(),
        transaction: 7,
        next_origin: 3,
        nr_origins: 2,
        roots: Roots {
            records: 11,
            origins: 12,
            origin_ids: 13,
            snapshots: 14,
            children: 15,
            done: 16,
            cleaning: 17,
            labels: 0,
        },
        metadata_space: [0xaa; 128],
        data_space: [0xbb; 128],
        strange: [0; 64],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn snapshot_rows(row in snapshot_row()) {
        let mut bytes = [0xff; SnapshotRow::SIZE];
        row.encode(&mut bytes);
        prop_assert_eq!(SnapshotRow::decode(&bytes), Ok(row));
    }

    #[test]
    fn origin_rows(row in origin_row()) {
        let mut bytes = [0xff; OriginRow::SIZE];
        row.encode(&mut bytes);
        prop_assert_eq!(OriginRow::decode(&bytes), Ok(row));
    }

    #[test]
    fn cleaning_rows(
        cursor in any::<u64>(),
        again in any::<bool>(),
        drop in any::<bool>(),
        freed in any::<u64>(),
    ) {
        let row = CleaningRow { cursor, again, drop, freed };
        let mut bytes = [0xff; CleaningRow::SIZE];
        row.encode(&mut bytes);
        prop_assert_eq!(CleaningRow::decode(&bytes), Ok(row));
    }

    #[test]
    fn label_rows(row in label_row()) {
        let mut bytes = [0xff; LabelRow::SIZE];
        row.encode(&mut bytes);
        prop_assert_eq!(LabelRow::decode(&bytes), Ok(row));
    }

    /// What is accepted is encoded to the same bytes.
    #[test]
    fn changed_label_rows(row in label_row(), at in 0..LabelRow::SIZE, by in 1u8..) {
        let mut bytes = [0; LabelRow::SIZE];
        row.encode(&mut bytes);
        bytes[at] ^= by;
        if let Ok(other) = LabelRow::decode(&bytes) {
            prop_assert_ne!(row, other);
            let mut again = [0xff; LabelRow::SIZE];
            other.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn superblocks(superblock in superblock()) {
        let block = encoded(&superblock);
        prop_assert_eq!(Superblock::decode(&block, checksum), Ok(superblock));
    }

    /// A row that is accepted is one that encodes to the same bytes.
    #[test]
    fn changed_rows(
        snapshot in snapshot_row(),
        origin in origin_row(),
        changes in vec((any::<usize>(), any::<u8>()), 1..4),
        bytes in any::<[u8; CleaningRow::SIZE]>(),
    ) {
        let mut changed = [0; SnapshotRow::SIZE];
        snapshot.encode(&mut changed);
        for &(at, byte) in &changes {
            changed[at % SnapshotRow::SIZE] = byte;
        }
        if let Ok(row) = SnapshotRow::decode(&changed) {
            let mut again = [0; SnapshotRow::SIZE];
            row.encode(&mut again);
            prop_assert_eq!(again, changed);
        }
        let mut changed = [0; OriginRow::SIZE];
        origin.encode(&mut changed);
        for &(at, byte) in &changes {
            changed[at % OriginRow::SIZE] = byte;
        }
        if let Ok(row) = OriginRow::decode(&changed) {
            let mut again = [0; OriginRow::SIZE];
            row.encode(&mut again);
            prop_assert_eq!(again, changed);
        }
        if let Ok(row) = CleaningRow::decode(&bytes) {
            let mut again = [0; CleaningRow::SIZE];
            row.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    /// Any bytes are refused or understood, whatever their checksum.
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), BLOCK_SIZE), flips in vec((0..512usize, any::<u8>()), 0..5)) {
        let block: [u8; BLOCK_SIZE] = bytes.clone().try_into().unwrap();
        prop_assert_eq!(Superblock::decode(&block, checksum), Err(Refusal::ForeignData));
        let mut block = encoded(&superblock_value());
        for (at, byte) in flips {
            block[at] = byte;
        }
        Superblock::seal(&mut block, checksum);
        if let Ok(superblock) = Superblock::decode(&block, checksum) {
            let again = encoded(&superblock);
            prop_assert_eq!(again, block);
        }
        let _ = SnapshotRow::decode(bytes[..SnapshotRow::SIZE].try_into().unwrap());
        let _ = OriginRow::decode(bytes[..OriginRow::SIZE].try_into().unwrap());
    }

    #[test]
    fn record_keys(t in timeline(), a in (chunk(), epoch()), b in (chunk(), epoch())) {
        let (key, other) = (RecordKey::new(t, a.0, a.1), RecordKey::new(t, b.0, b.1));
        prop_assert_eq!(RecordKey::decode(t, key.get()), Ok(a));
        prop_assert_eq!(RecordKey::chunk_of(key.get()), a.0);
        let order = match t.is_origin() {
            true => a.cmp(&b),
            false => (a.0, b.1).cmp(&(b.0, a.1)),
        };
        prop_assert_eq!(key.get().cmp(&other.get()), order);
        prop_assert_eq!(child_epoch(child_key(a.1)), Ok(a.1));
        prop_assert_eq!(child_key(a.1).cmp(&child_key(b.1)), b.1.cmp(&a.1));
        prop_assert_eq!(bookmark_epoch(bookmark_key(a.1)), Ok(a.1));
        prop_assert_eq!(bookmark_key(a.1).cmp(&bookmark_key(b.1)), b.1.cmp(&a.1));
        prop_assert!(child_key(a.1) < bookmark_key(b.1));
        prop_assert!(is_behind_children(bookmark_key(a.1)) && !is_behind_children(child_key(a.1)));
        prop_assert_eq!(child_epoch(bookmark_key(a.1)), Err(Refusal::Corrupt));
        prop_assert_eq!(bookmark_epoch(child_key(a.1)), Err(Refusal::Corrupt));
    }

    #[test]
    fn record_values(raw in any::<u64>(), chunks in any::<u64>(), small in 0..1u64 << 48) {
        let zeroes = (1 << 63) | (raw >> (raw & 63));
        for raw in [raw, raw & ((1 << 48) - 1), small, zeroes, 1 << 62, (1 << 62) | small] {
            match RecordValue::decode(raw, chunks) {
                Ok(value) => {
                    prop_assert_eq!(value.encode(), raw);
                    match value {
                        RecordValue::Cow(_) => prop_assert!(raw < chunks),
                        RecordValue::Zero => prop_assert_eq!(value, RecordValue::zeroes(1)),
                        RecordValue::Mark => prop_assert_eq!(raw, 1 << 62),
                        RecordValue::Zeroes(before) => {
                            prop_assert_eq!(value, RecordValue::zeroes(before + 1));
                        }
                    }
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::Corrupt);
                    prop_assert!(raw >= chunks.min(1 << 48));
                }
            }
        }
    }

    #[test]
    fn chunks_of_a_record(t in timeline(), last in chunk(), before in any::<u64>()) {
        for before in [before, before >> 24, before % (last.get() + 2)] {
            let value = RecordValue::zeroes(before.saturating_add(1));
            let several = value != RecordValue::Zero;
            let right = !several || !t.is_origin() && before <= last.get();
            let first = last.get().saturating_sub(if several { before } else { 0 });
            let expected = right.then(|| Chunk::new(first).unwrap());
            prop_assert_eq!(value.first_of(t, last).ok(), expected);
            prop_assert_eq!(value.plus(0), Some(value));
            prop_assert_eq!(value.plus(1).is_none(), several);
        }
    }

    #[test]
    fn layouts(
        device in any::<u64>(),
        size in chunk_size(),
        metadata in option::of(0..2 * METADATA_MAX),
    ) {
        for device in [device, device >> 20, device >> 40] {
            let Ok(layout) = Layout::new(device, size, metadata) else {
                continue;
            };
            prop_assert!(metadata.is_none_or(|blocks| blocks == layout.metadata_blocks));
            prop_assert!((METADATA_MIN..=METADATA_MAX).contains(&layout.metadata_blocks));
            prop_assert_eq!(layout.data_start % size.sectors(), 0);
            prop_assert!(layout.metadata_blocks * 8 <= layout.data_start);
            prop_assert!(layout.data_chunks >= 16);
            prop_assert_eq!(layout.check_device(device), Ok(()));
            prop_assert_eq!(layout.grown(device), None);
            let end = layout.data_start + layout.data_chunks * size.sectors();
            prop_assert!(end <= device);
            prop_assert_eq!(layout.check_device(end - 1), Err(Refusal::CowShrunk));
            if layout.data_chunks < 1 << 40 {
                let more = device.saturating_add(3 * size.sectors());
                prop_assert_eq!(layout.grown(more), Some(layout.data_chunks + 3));
            }
            let last = CowChunk::new(layout.data_chunks - 1).unwrap();
            prop_assert_eq!(layout.sector_of(last), end - size.sectors());
        }
    }
}

/// The format, byte by byte: this may change only with the version number.
#[test]
fn superblock_bytes() {
    let superblock = superblock_value();
    let block = encoded(&superblock);
    let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
    assert_eq!(u32_at(0), checksum(&block[4..]));
    assert_eq!(u32_at(4), 1 | 4);
    assert_eq!(u64_at(8), 0);
    assert_eq!(&block[16..32], b"0123456789abcdef");
    assert_eq!(&block[32..40], b"dmsnapmv");
    assert_eq!(
        [u32_at(40), u32_at(44), u32_at(48), u32_at(52)],
        [1, 0, 0, 1]
    );
    assert_eq!([u32_at(56), u32_at(60)], [8, 4]);
    let layout = superblock.layout;
    assert_eq!(
        [
            u64_at(64),
            u64_at(72),
            u64_at(80),
            u64_at(88),
            u64_at(96),
            u64_at(104)
        ],
        [
            0,
            layout.metadata_blocks,
            layout.metadata_blocks,
            layout.journal_blocks,
            layout.data_start,
            layout.data_chunks
        ]
    );
    assert_eq!(u64_at(112), 7);
    assert_eq!([u32_at(120), u32_at(124)], [3, 2]);
    let roots: Vec<u64> = (0..7).map(|i| u64_at(128 + 8 * i)).collect();
    assert_eq!(roots, [11, 12, 13, 14, 15, 16, 17]);
    assert!(block[184..256].iter().all(|&b| b == 0));
    assert!(block[256..384].iter().all(|&b| b == 0xaa));
    assert!(block[384..512].iter().all(|&b| b == 0xbb));
    assert!(block[512..].iter().all(|&b| b == 0));
}

#[test]
fn superblock_refusals() {
    let superblock = superblock_value();
    let good = encoded(&superblock);
    // A block with a few bytes changed, and a checksum that is right for it.
    let with = |at: usize, bytes: &[u8]| {
        let mut block = good;
        block[at..at + bytes.len()].copy_from_slice(bytes);
        Superblock::seal(&mut block, checksum);
        Superblock::decode(&block, checksum)
    };
    assert_eq!(
        Superblock::decode(&[0; BLOCK_SIZE], checksum),
        Err(Refusal::NoStore)
    );
    assert_eq!(Superblock::probe(&[0; BLOCK_SIZE]), Contents::Blank);
    assert_eq!(with(32, b"x"), Err(Refusal::ForeignData));
    assert_eq!(with(40, &[2]), Err(Refusal::UnknownVersion));
    assert_eq!(with(52, &[17]), Err(Refusal::UnknownFeature));
    assert_eq!(with(52, &[15]).map(|s| s.incompat), Ok(15));
    let mut broken = good;
    broken[300] ^= 1;
    assert_eq!(
        Superblock::decode(&broken, checksum),
        Err(Refusal::BadChecksum)
    );
    assert_eq!(Superblock::probe(&broken), Contents::Store);
    // Flags, block number, block size, chunk size, regions, counts, reserved bytes.
    let bad: [(usize, &[u8]); 17] = [
        (4, &[8]),
        (8, &[1]),
        // A journal that is not spoken of, and one that is not there.
        (52, &[0]),
        (52, &[2]),
        (88, &[0, 0]),
        (56, &[4]),
        (60, &[3]),
        (60, &[0]),
        (64, &[1]),
        (72, &[0, 0, 0]),
        (80, &[0, 0, 0]),
        (88, &[1, 0, 0, 0, 0, 0, 0, 0x80]),
        (96, &[0, 0, 0]),
        (104, &[0, 0, 0, 0]),
        (111, &[0xff]),
        (120, &[0]),
        (4000, &[1]),
    ];
    for (at, bytes) in bad {
        assert_eq!(
            with(at, bytes),
            Err(Refusal::BadSuperblock),
            "{bytes:?} at {at}"
        );
    }
    let with_features = with(48, &[1]).unwrap();
    assert_eq!(
        with_features.check_writable(),
        Err(Refusal::ReadOnlyFeature)
    );
    assert_eq!(superblock.check_writable(), Ok(()));
    assert_eq!(
        with(4, &[3]).unwrap().check_writable(),
        Err(Refusal::NeedsCheck)
    );
    // What this version need not understand may be in use where it is 0 otherwise.
    assert_eq!(with(44, &[2]).unwrap().compat, 2);
    // It stays as it is.
    let mut block = encoded(&superblock);
    block[44] = 2;
    block[200] = 9;
    Superblock::seal(&mut block, checksum);
    let strange = Superblock::decode(&block, checksum).unwrap();
    assert_eq!(encoded(&strange), block);
    // A backup is one nowhere but where it belongs.
    let backup = Superblock {
        compat: 1,
        ..superblock.clone()
    };
    let number = backup.backup().unwrap();
    assert_eq!(number, backup.layout.journal_end());
    assert!((number + 1) * 8 <= backup.layout.data_start);
    let mut block = [0; BLOCK_SIZE];
    backup.encode_at(&mut block, number);
    Superblock::seal(&mut block, checksum);
    let found = Superblock::decode_at(&block, number, checksum);
    assert_eq!(found, Ok(backup.clone()));
    for other in [0, number - 1, number + 1] {
        let found = Superblock::decode_at(&block, other, checksum);
        assert_eq!(found, Err(Refusal::BadSuperblock));
    }
    let mut tight = backup;
    tight.layout.journal_blocks += 1;
    let found = Superblock::decode(&encoded(&tight), checksum);
    assert_eq!(found, Err(Refusal::BadSuperblock));
}

#[test]
fn layout_examples() {
    let pages = |n| ChunkSize::from_pages(n).unwrap();
    let gib = 1 << 21;
    // 1 TiB with chunks of 4 KiB: 1.6 % is for metadata.
    let layout = Layout::new(1024 * gib, pages(1), None).unwrap();
    assert_eq!(layout.metadata_blocks, METADATA_MAX);
    let layout = Layout::new(512 * gib, pages(1), None).unwrap();
    assert_eq!(layout.metadata_blocks, 512 * gib / 8 / 64);
    // Larger chunks need less.
    let layout = Layout::new(512 * gib, pages(16), None).unwrap();
    assert_eq!(layout.metadata_blocks, 512 * gib / 8 / 64 / 16);
    let layout = Layout::new(gib, pages(256), None).unwrap();
    assert_eq!(layout.metadata_blocks, METADATA_MIN);
    assert_eq!(layout.journal_blocks, 1023);
    assert_eq!((layout.data_start, layout.data_chunks), (16384, 1016));
    // The smallest device.
    let least = (METADATA_MIN + 64) * 8 + 16 * 8;
    assert_eq!(Layout::new(least, pages(1), None).unwrap().data_chunks, 16);
    assert_eq!(
        Layout::new(least - 1, pages(1), None),
        Err(Refusal::CowTooSmall)
    );
    assert_eq!(Layout::new(0, pages(1), None), Err(Refusal::CowTooSmall));
    assert_eq!(
        Layout::new(gib, pages(1), Some(METADATA_MIN - 1)),
        Err(Refusal::MetadataSize)
    );
    assert_eq!(
        Layout::new(u64::MAX, pages(1), None).unwrap().data_chunks,
        1 << 48
    );
}

#[test]
fn rows_byte_by_byte() {
    let tag = |n| Tag::new(n).unwrap();
    let epoch = |n| Epoch::new(n).unwrap();
    let row = SnapshotRow {
        tag: tag(0x11121314),
        ghost: true,
        bookmark: false,
        parent: Some(tag(0x01020304)),
        base_epoch: epoch(0x212223),
        current_epoch: epoch(0x313233),
        children: 0x41424344,
        size: 0x5152535455565758,
        created: 0x6162636465666768,
        chunks: 0x7172737475767778,
        memo: Memo::new(b"memo").unwrap(),
    };
    let mut bytes = [0xff; SnapshotRow::SIZE];
    row.encode(&mut bytes);
    let mut expected = vec![0x14, 0x13, 0x12, 0x11, 1, 0, 0, 0, 4, 3, 2, 1];
    expected.extend([
        0x23, 0x22, 0x21, 0, 0x33, 0x32, 0x31, 0, 0x44, 0x43, 0x42, 0x41,
    ]);
    expected.extend(0x5152535455565758u64.to_le_bytes());
    expected.extend(0x6162636465666768u64.to_le_bytes());
    expected.extend(0x7172737475767778u64.to_le_bytes());
    expected.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend(b"memo");
    expected.resize(SnapshotRow::SIZE, 0);
    assert_eq!(bytes[..], expected);

    let row = OriginRow {
        size: 0x0102030405060708,
        number: OriginNr::new(0x11121314).unwrap(),
        current_epoch: epoch(0x212223),
        next_tag: tag(0x31323334),
        snapshots: 5,
        ghosts: 6,
        created: 7,
        chunks: 8,
        invalid_below: 9,
        bookmarks: 16,
        forgotten_below: 8,
        rollback: Some(Rollback {
            source: tag(10),
            source_epoch: epoch(11),
            boundary: epoch(12),
            delete_source: true,
            cursor: Chunk::new(13).unwrap(),
            limit: Chunk::new(14).unwrap(),
            merged: 15,
        }),
        deferred: None,
        identity: Identity {
            name: Some(*b"twelve bytes"),
            samples: Some([0x41424344, 0, 0x51525354, 1]),
        },
        id: OriginId::new(b"/dev/vdb").unwrap(),
    };
    let mut bytes = [0xff; OriginRow::SIZE];
    row.encode(&mut bytes);
    let mut expected = 0x0102030405060708u64.to_le_bytes().to_vec();
    for field in [
        0x11121314u32,
        1,
        0x212223,
        0x31323334,
        5,
        6,
        7,
        0,
        8,
        0,
        9,
        16,
        10,
        11,
        12,
        1,
    ] {
        expected.extend(field.to_le_bytes());
    }
    for field in [13u64, 14, 15] {
        expected.extend(field.to_le_bytes());
    }
    expected.extend(3u32.to_le_bytes());
    expected.extend(b"twelve bytes");
    for field in [0x41424344u32, 0, 0x51525354, 1] {
        expected.extend(field.to_le_bytes());
    }
    expected.extend(8u32.to_le_bytes());
    expected.resize(255, 0);
    expected.push(8);
    expected.extend(b"/dev/vdb");
    expected.resize(OriginRow::SIZE, 0);
    assert_eq!(bytes[..], expected);
}

#[test]
fn row_refusals() {
    let mut bytes = [0; SnapshotRow::SIZE];
    assert_eq!(SnapshotRow::decode(&bytes), Err(Refusal::Corrupt));
    let row = SnapshotRow {
        tag: Tag::FIRST,
        ghost: false,
        bookmark: false,
        parent: None,
        base_epoch: Epoch::FIRST,
        current_epoch: Epoch::FIRST,
        children: 0,
        size: 1,
        created: 0,
        chunks: 0,
        memo: Memo::EMPTY,
    };
    row.encode(&mut bytes);
    assert_eq!(SnapshotRow::decode(&bytes), Ok(row));
    // A tag, flag, parent, epoch, memo length, memo, reserved byte that cannot be.
    for (at, byte) in [
        (0, 0),
        (4, 4),
        (8, 1),
        (12, 0),
        (15, 1),
        (48, 65),
        (60, 1),
        (50, 1),
        (120, 1),
    ] {
        let mut bad = bytes;
        bad[at] = byte;
        assert_eq!(
            SnapshotRow::decode(&bad),
            Err(Refusal::Corrupt),
            "{byte} at {at}"
        );
    }
    // A bookmark is of the origin, and has nothing.
    let bookmark = SnapshotRow {
        tag: Tag::new(7).unwrap(),
        bookmark: true,
        ..row
    };
    let refused = |row: SnapshotRow| {
        let mut bytes = [0; SnapshotRow::SIZE];
        row.encode(&mut bytes);
        SnapshotRow::decode(&bytes) == Err(Refusal::Corrupt)
    };
    let children = SnapshotRow {
        children: 1,
        ..bookmark
    };
    let ghost = SnapshotRow {
        ghost: true,
        ..children
    };
    let parent = Some(Tag::FIRST);
    assert!(!refused(bookmark) && !refused(ghost) && refused(children));
    assert!(refused(SnapshotRow { parent, ..bookmark }));
    assert!(refused(SnapshotRow { chunks: 1, ..ghost }));
    assert_eq!(Memo::new(&[0; 65]), None);
    assert_eq!(OriginId::new(&[0; 256]), None);
    let t = TimelineId::new(1 << 32).unwrap();
    assert_eq!(TimelineId::new((1 << 32) - 1), None);
    assert_eq!(RecordKey::decode(t, 5 << 24), Err(Refusal::Corrupt));
    assert_eq!(
        RecordKey::decode(t.next().unwrap(), (6 << 24) - 1),
        Err(Refusal::Corrupt)
    );
    assert_eq!(child_epoch(1 << 24), Err(Refusal::Corrupt));
    assert_eq!(child_epoch((1 << 24) - 1), Err(Refusal::Corrupt));
    assert_eq!(bookmark_epoch(1 << 33), Err(Refusal::Corrupt));
    assert_eq!(bookmark_epoch(3 << 32), Err(Refusal::Corrupt));
    for value in [RecordValue::Mark, RecordValue::Zero] {
        assert_eq!(value.first_of(t, Chunk::ZERO), Ok(Chunk::ZERO));
    }
    let snapshot = t.next().unwrap();
    let first = RecordValue::Mark.first_of(snapshot, Chunk::ZERO);
    assert_eq!(
        first,
        Err(Refusal::Corrupt),
        "a mark in a snapshot's timeline"
    );
}

#[test]
fn chunk_sizes() {
    for pages in 0..=1024 {
        let valid = [1, 2, 4, 8, 16, 32, 64, 128, 256].contains(&pages);
        assert_eq!(ChunkSize::from_pages(pages).is_ok(), valid, "{pages}");
    }
    let size = ChunkSize::from_pages(4).unwrap();
    assert_eq!(
        (size.pages(), size.sectors(), size.sector_shift()),
        (4, 32, 5)
    );
    assert_eq!(size.chunk_of(95).get(), 2);
    assert_eq!(size.sector_of(Chunk::new(3).unwrap()), 96);
    assert_eq!(size.end_of(96).unwrap().get(), 3);
    assert_eq!(size.end_of(97).unwrap().get(), 4);
    let most = Chunk::MAX.get() * 32;
    assert_eq!(size.end_of(most), Ok(Chunk::MAX));
    assert_eq!(size.end_of(most + 1), Err(Refusal::OriginTooLarge));
    assert_eq!(size.end_of(u64::MAX), Err(Refusal::OriginTooLarge));
}
