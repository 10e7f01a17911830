// SPDX-License-Identifier: GPL-2.0
//! Lists, as the target's own code writes them.

mod common;

use common::Text;
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::origin_row::{OriginId, OriginRow};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::list::{list, StoreLine};
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{State, Usage};
use dms::list::Page;

/// The rows of one origin's snapshots, and nothing else: all that a list asks for.
struct Rows(Vec<SnapshotRow>);

fn origin_nr() -> OriginNr {
    OriginNr::new(1).unwrap()
}

macro_rules! not_asked_for {
    ($( fn $name:ident( $($arg:ty),* ) -> $result:ty; )* mut $( fn $name_mut:ident( $($arg_mut:ty),* ); )*) => {
        $( fn $name(&self, $(_: $arg),*) -> Result<$result, Refusal> { unreachable!() } )*
        $( fn $name_mut(&mut self, $(_: $arg_mut),*) -> Result<(), Refusal> { unreachable!() } )*
    };
}

impl Metadata for Rows {
    type Error = Refusal;

    fn snapshot_from(&self, t: TimelineId) -> Result<Option<(TimelineId, SnapshotRow)>, Refusal> {
        let mut rows = self.0.iter().map(|row| (row.timeline(origin_nr()), *row));
        Ok(rows.find(|(at, _)| *at >= t))
    }

    fn label(&self, _: TimelineId) -> Result<Option<LabelRow>, Refusal> {
        Ok(None)
    }

    fn next_origin_nr(&self) -> Result<OriginNr, Refusal> {
        unreachable!()
    }

    fn use_origin_nr(&mut self, _: OriginNr) -> Result<(), Refusal> {
        unreachable!()
    }

    not_asked_for! {
        fn record_from(TimelineId, u64) -> Option<(u64, RecordValue)>;
        fn child_at_or_before(TimelineId, Epoch) -> Option<(Epoch, u32)>;
        fn bookmark_at_or_before(TimelineId, Epoch) -> Option<(Epoch, u32)>;
        fn origin(OriginNr) -> Option<OriginRow>;
        fn origin_by_id(&[u8]) -> Option<OriginNr>;
        fn snapshot(TimelineId) -> Option<SnapshotRow>;
        fn done_from(OriginNr, Chunk) -> Option<Chunk>;
        fn cleaning(TimelineId) -> Option<CleaningRow>;
        fn cleaning_from(TimelineId) -> Option<(TimelineId, CleaningRow)>;
        mut
        fn insert_record(TimelineId, u64, RecordValue);
        fn remove_record(TimelineId, u64);
        fn drop_timeline(TimelineId);
        fn use_chunks(CowChunk, u64);
        fn free_chunks(CowChunk, u64);
        fn insert_child(TimelineId, Epoch, u32);
        fn remove_child(TimelineId, Epoch);
        fn insert_bookmark(TimelineId, Epoch, u32);
        fn remove_bookmark(TimelineId, Epoch);
        fn put_origin(&OriginRow);
        fn remove_origin(OriginNr);
        fn insert_origin_id(&[u8], OriginNr);
        fn remove_origin_id(&[u8]);
        fn put_snapshot(OriginNr, &SnapshotRow);
        fn remove_snapshot(TimelineId);
        fn put_label(TimelineId, &LabelRow);
        fn remove_label(TimelineId);
        fn insert_done(OriginNr, Chunk);
        fn remove_done(OriginNr, Chunk);
        fn drop_done(OriginNr);
        fn put_cleaning(TimelineId, &CleaningRow);
        fn remove_cleaning(TimelineId);
    }
}

fn row(tag: u32, memo: &str) -> SnapshotRow {
    SnapshotRow {
        tag: Tag::new(tag).unwrap(),
        ghost: tag % 10 == 3,
        bookmark: false,
        parent: Tag::new(tag / 2),
        base_epoch: Epoch::new(tag).unwrap(),
        current_epoch: Epoch::FIRST,
        children: 2,
        size: 4096,
        created: 1_287_409_117,
        chunks: u64::from(tag) * 3,
        memo: Memo::new(memo.as_bytes()).unwrap(),
    }
}

fn origin(id: &[u8]) -> OriginRow {
    OriginRow {
        size: 8192,
        number: origin_nr(),
        current_epoch: Epoch::new(1000).unwrap(),
        next_tag: Tag::new(1000).unwrap(),
        snapshots: 5,
        ghosts: 0,
        created: 1_287_409_000,
        chunks: 77,
        invalid_below: 2,
        bookmarks: 0,
        forgotten_below: 0,
        rollback: None,
        deferred: None,
        identity: Identity::UNKNOWN,
        id: OriginId::new(id).unwrap(),
    }
}

fn page(rows: &Rows, id: &[u8], start: u32, room: usize) -> Page {
    let store = StoreLine {
        uuid: *b"0123456789abcdef",
        usage: Usage {
            used_metadata: 12,
            total_metadata: 1024,
            used_chunks: 946,
            total_chunks: 7_865_817,
            chunk_size: ChunkSize::from_pages(4).unwrap(),
        },
        state: State::Valid,
        cleaning: None,
    };
    let mut text = Text::default();
    list(rows, &store, &origin(id), start, u32::MAX, room, &mut text).unwrap();
    assert!(text.0.len() <= room);
    Page::parse(&text.0).unwrap()
}

#[test]
fn the_first_line() {
    let page = page(&Rows(vec![]), "/dev/à la carte".as_bytes(), 0, 4096);
    let store = page.store;
    assert_eq!(store.uuid, "30313233-3435-3637-3839-616263646566");
    assert_eq!(store.metadata_blocks.total, 1024);
    assert_eq!(store.chunks.used, 946);
    assert_eq!(store.chunk_sectors, 32);
    assert_eq!(store.state, "valid");
    assert_eq!(store.origin, 1);
    assert_eq!(store.sectors, 8192);
    assert_eq!(store.id, "/dev/à la carte".as_bytes());
}

#[test]
fn rows() {
    let memos = ["", "plain", "-", r#"with "space" and \"#, "à\u{a0}é", "x"];
    let rows = memos.iter().zip(1..).map(|(memo, tag)| row(tag, memo));
    let page = page(&Rows(rows.collect()), b"x", 0, 4096);
    assert_eq!(page.next, None);
    assert_eq!(page.rows.len(), 7);
    let origin = &page.rows[0];
    assert_eq!((origin.tag, origin.parent, origin.chunks), (0, None, 77));
    assert_eq!((origin.flags.as_str(), origin.memo.as_str()), ("", ""));
    for (row, memo) in page.rows.iter().skip(1).zip(memos) {
        assert_eq!(row.memo, memo);
        assert_eq!(row.parent, Some(row.tag / 2));
        assert_eq!(row.base_epoch, Some(row.tag));
        assert_eq!(row.chunks, u64::from(row.tag) * 3);
        assert_eq!(row.sectors, 4096);
        assert_eq!(row.is_ghost(), row.tag == 3);
        assert_eq!(row.flags.contains('I'), row.tag == 1);
    }
}

#[test]
fn pages() {
    let rows = Rows(
        (1..=200)
            .map(|tag| row(tag, "a memo of some length"))
            .collect(),
    );
    let mut seen = Vec::new();
    let mut pages = 0;
    let mut next = Some(0);
    while let Some(start) = next {
        let page = page(&rows, b"x", start, 2048);
        seen.extend(page.rows.iter().map(|row| row.tag));
        next = page.next;
        pages += 1;
    }
    assert!(pages > 3);
    assert_eq!(seen, (0..=200).collect::<Vec<_>>());
}
