// SPDX-License-Identifier: GPL-2.0

//! Texts: what people and programs write, what the target writes, and what `dms` reads of that.

use std::fmt;

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::origin_row::{Deferred, OriginId, OriginRow, Rollback};
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::escape::{self, Reader, Sink};
use dm_snap_mv_model::ids::{Chunk, Epoch, OriginNr, Tag};
use dm_snap_mv_model::list::{list as list_page, StoreLine};
use dm_snap_mv_model::message::{parse_memo, Message, Request};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{
    Cleaning, DeviceNumber, OriginStatus, RollbackProgress, SnapshotStatus, State, Stopped,
    TableLine, Usage,
};
use dm_snap_mv_model::table::{check_id, FullPolicy, Role, Table};
use dms::list::Page;
use dms::reply::Reply;
use dms::status::{Own, Status};
use dms::target::Line;
use dms::words;

use crate::input::Input;
use crate::store::Store;

/// Text that is put together; everything fits.
#[derive(Default)]
struct Out(Vec<u8>);

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes())
    }
}

impl Sink for Out {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Splits a line as device-mapper does: at what the kernel takes for a space, unless there is a
/// backslash before it.
fn dm_split(line: &[u8]) -> Vec<Vec<u8>> {
    let space = |b: u8| matches!(b, b' ' | b'\t'..=b'\r' | 0xa0);
    let mut words = Vec::new();
    let mut word = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                let word = word.get_or_insert_with(Vec::new);
                word.push(bytes.next().unwrap_or(b'\\'));
            }
            byte if space(byte) => words.extend(word.take()),
            byte => word.get_or_insert_with(Vec::new).push(byte),
        }
    }
    words.extend(word);
    words
}

fn refs(words: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    words.iter().map(Vec::as_slice)
}

pub fn table(data: &[u8]) {
    let words = dm_split(data);
    let Ok(table) = Table::parse(refs(&words)) else {
        return;
    };
    assert!(check_id(table.origin_id()).is_ok());
    // The line that the device shows is read as the same.
    let tag = match table.role {
        Role::Origin { bind, format } => {
            assert!(bind || format.is_none());
            None
        }
        Role::Snapshot { tag } => Some(tag),
    };
    let shown = TableLine {
        tag,
        origin_device: DeviceNumber { major: 8, minor: 1 },
        cow_device: DeviceNumber {
            major: 253,
            minor: 70000,
        },
        id: table.origin_id(),
        policy: table.policy.unwrap_or_default(),
    };
    let mut out = Out::default();
    shown.write(&mut out).expect("everything fits");
    let again = dm_split(&out.0);
    let again = Table::parse(refs(&again)).expect("a line that was shown");
    assert_eq!(again.origin_id(), table.origin_id());
    assert_eq!(
        again.policy.unwrap_or_default(),
        table.policy.unwrap_or_default()
    );
    assert!(match (again.role, tag) {
        (Role::Snapshot { tag: again }, Some(tag)) => again == tag,
        (Role::Origin { bind, format }, None) => !bind && format.is_none(),
        _ => false,
    });
    // dms reads it, too.
    let line = Line::parse(&out.0).expect("a line that was shown");
    assert_eq!(line.id, table.origin_id());
    assert_eq!(line.role.tag(), tag.map_or(0, Tag::get));
    let policy = Some(shown.policy).filter(|&policy| policy != FullPolicy::Invalidate);
    assert_eq!(line.policy.as_deref(), policy.map(FullPolicy::name));
}

pub fn message(data: &[u8]) {
    let words = dm_split(data);
    let Ok(request) = Request::parse(refs(&words)) else {
        return;
    };
    assert_eq!(request.tried, words[0] == b"try");
    match request.message {
        Message::TakeOfOrigin { memo, .. } | Message::TakeOfSnapshot { memo, .. } => {
            assert_eq!(parse_memo(memo.as_bytes()), Ok(memo));
        }
        Message::List { max, .. } | Message::Delta { max, .. } => assert!(max > 0),
        _ => {}
    }
    // The same words, joined anew by dms.
    let again = dm_split(&words::join(&words));
    if words.iter().all(|word| !word.is_empty()) {
        assert_eq!(again, words);
    }
}

pub fn escape(data: &[u8]) {
    // Any words come back, for both kinds of readers.
    let all: Vec<&[u8]> = data.split(|&b| b == 0).filter(|w| !w.is_empty()).collect();
    let mut line = Out::default();
    let mut dashed = Out::default();
    for word in &all {
        escape::word(&mut line, Reader::DeviceMapper, word).expect("everything fits");
        line.0.push(b' ');
        escape::word_or_dash(&mut dashed, Reader::People, word).expect("everything fits");
        dashed.0.push(b' ');
    }
    assert_eq!(dm_split(&line.0), all);
    assert_eq!(words::split(&dashed.0), all);
    assert_eq!(words::split(&line.0), all);
    // And any line is split, somehow.
    let mut rest = data;
    while let Some((word, tail)) = escape::split_word(rest) {
        assert!(!word.is_empty() && tail.len() + word.len() <= rest.len());
        assert!(escape::unescape(word).count() <= word.len());
        rest = tail;
    }
}

/// A number of an interesting size.
fn number(input: &mut Input<'_>) -> u64 {
    let bits = input.u8() % 65;
    let number = input.u64();
    number.checked_shr(64 - u32::from(bits)).unwrap_or(0)
}

fn usage(input: &mut Input<'_>) -> Usage {
    Usage {
        used_metadata: number(input),
        total_metadata: number(input),
        used_chunks: number(input),
        total_chunks: number(input),
        chunk_size: ChunkSize::from_pages(1 << (input.u8() % 9)).expect("a chunk size"),
    }
}

fn state(input: &mut Input<'_>) -> State {
    let all = [
        State::Valid,
        State::Invalid,
        State::Full,
        State::MetadataFull,
        State::Unbound,
        State::Error,
    ];
    all[usize::from(input.u8()) % all.len()]
}

fn cleaning(input: &mut Input<'_>) -> Option<Cleaning> {
    (input.u8() % 2 == 0).then(|| Cleaning {
        timelines: number(input),
        percent: number(input) % 101,
    })
}

fn tag(input: &mut Input<'_>) -> Tag {
    Tag::new(number(input) as u32).unwrap_or(Tag::FIRST)
}

fn epoch(input: &mut Input<'_>) -> Epoch {
    Epoch::new(number(input) as u32 & 0xff_ffff).unwrap_or(Epoch::FIRST)
}

pub fn status(data: &[u8]) {
    let _ = Status::parse(data);
    let mut input = Input(data);
    let number_of = OriginNr::new(input.u32().max(1)).expect("a number");
    let progress = (input.u8() % 2 == 0).then(|| RollbackProgress {
        tag: tag(&mut input),
        done: number(&mut input),
        chunks: number(&mut input),
        stopped: [
            None,
            Some(Stopped::Error),
            Some(Stopped::Full),
            Some(Stopped::MetadataFull),
        ][usize::from(input.u8() % 4)],
    });
    let origin = OriginStatus {
        number: number_of,
        state: state(&mut input),
        usage: usage(&mut input),
        snapshots: input.u32(),
        cleaning: cleaning(&mut input),
        rollback: progress,
        bookmarks: input.u32(),
    };
    let read = Status::parse(origin.to_string().as_bytes()).expect("what the target says");
    assert_eq!(read.origin, origin.number.get());
    assert_eq!(read.state, origin.state.to_string());
    assert_eq!(read.chunks.total, origin.usage.total_chunks);
    assert_eq!(read.metadata_blocks.used, origin.usage.used_metadata);
    assert_eq!(
        read.rollback
            .map(|r| (r.tag, r.chunks.used, r.chunks.total)),
        progress.map(|p| (p.tag.get(), p.done, p.chunks))
    );
    assert_eq!(
        read.cleaning.map(|c| (c.left, c.percent)),
        origin.cleaning.map(|c| (c.timelines, c.percent))
    );
    let own = Own::Origin {
        snapshots: origin.snapshots.into(),
        bookmarks: origin.bookmarks.into(),
    };
    assert_eq!(read.own, own);
    let snapshot = SnapshotStatus {
        number: number_of,
        tag: tag(&mut input),
        state: origin.state,
        usage: origin.usage,
        chunks: number(&mut input),
        children: input.u32(),
        cleaning: origin.cleaning,
        rollback: progress,
    };
    let read = Status::parse(snapshot.to_string().as_bytes()).expect("what the target says");
    assert_eq!(
        read.own,
        Own::Snapshot {
            tag: snapshot.tag.get(),
            own_chunks: snapshot.chunks,
            children: snapshot.children.into(),
        }
    );
    let refusal = Refusal::ALL[usize::from(input.u8()) % Refusal::ALL.len()];
    let mut text = String::new();
    dm_snap_mv_model::report::refused(&mut text, refusal).expect("everything fits");
    assert!(Reply::parse(text.as_bytes()).is_some_and(|reply| reply.is(refusal)));
}

pub fn page(data: &[u8]) {
    let _ = Page::parse(data);
}

pub fn line(data: &[u8]) {
    let _ = Line::parse(data);
    let _ = Reply::parse(data);
    for word in words::split(data) {
        assert!(!words::join(&[word]).is_empty());
    }
}

/// An id, without control characters.
fn id(input: &mut Input<'_>) -> OriginId {
    let len = 1 + usize::from(input.u8()) % 255;
    let bytes: Vec<u8> = input
        .bytes(len)
        .iter()
        .map(|&b| if b.is_ascii_control() { b'x' } else { b })
        .collect();
    match bytes.as_slice() {
        [] => OriginId::new(b"id"),
        bytes => OriginId::new(bytes),
    }
    .expect("an id")
}

fn snapshot(input: &mut Input<'_>, below: Tag) -> Option<SnapshotRow> {
    let tag = Tag::new(number(input) as u32 % below.get())?;
    let len = usize::from(input.u8()) % 65;
    let memo: String = String::from_utf8_lossy(input.bytes(len))
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    let end = (0..=64.min(memo.len()))
        .rev()
        .find(|&end| memo.is_char_boundary(end));
    let flags = input.u8();
    let (ghost, bookmark) = (flags % 4 == 0, flags % 8 >= 6);
    let parent = Tag::new(number(input) as u32 % tag.get());
    Some(SnapshotRow {
        tag,
        ghost,
        bookmark,
        parent: parent.filter(|_| !bookmark),
        base_epoch: epoch(input),
        current_epoch: epoch(input),
        children: input.u32() * u32::from(ghost || !bookmark),
        size: number(input).max(1),
        created: number(input),
        chunks: number(input) * u64::from(!bookmark),
        memo: parse_memo(memo[..end.unwrap_or(0)].as_bytes()).expect("a memo"),
    })
}

/// What the target lists in pages, dms puts together again.
pub fn list(data: &[u8]) {
    use dm_snap_mv_model::records::Metadata;
    let mut input = Input(data);
    let mut store = Store::new(0);
    let next_tag = Tag::new((number(&mut input) as u32).max(2)).expect("a tag");
    let source = Tag::new(next_tag.get() - 1).expect("a tag");
    let current = Epoch::new(5).expect("an epoch");
    let rollback = Rollback {
        source,
        source_epoch: epoch(&mut input),
        boundary: Epoch::FIRST,
        delete_source: false,
        cursor: Chunk::ZERO,
        limit: Chunk::saturating(number(&mut input)),
        merged: 0,
    };
    let deferred = Deferred {
        source,
        delete_source: true,
    };
    let kind = input.u8();
    let origin = OriginRow {
        size: number(&mut input).max(1),
        number: OriginNr::new(input.u32().max(1)).expect("a number"),
        current_epoch: current,
        next_tag,
        snapshots: input.u32(),
        ghosts: input.u32(),
        created: number(&mut input),
        chunks: number(&mut input),
        invalid_below: input.u32() % next_tag.get(),
        bookmarks: 0,
        forgotten_below: 0,
        rollback: (kind == 1).then_some(rollback),
        deferred: (kind == 2).then_some(deferred),
        identity: Identity::UNKNOWN,
        id: id(&mut input),
    };
    let line = StoreLine {
        uuid: input.array(),
        usage: usage(&mut input),
        state: state(&mut input),
        cleaning: cleaning(&mut input),
    };
    let room = 2048 + usize::from(input.u16()) % 4096;
    let max = 1 + u32::from(input.u8()) % 40;
    while !input.is_empty() {
        if let Some(row) = snapshot(&mut input, next_tag) {
            store.put_snapshot(origin.number, &row).expect("a row");
        }
    }
    let mut rows = Vec::new();
    let mut start = 0;
    loop {
        let mut out = Out::default();
        list_page(&store, &line, &origin, start, max, room, &mut out).expect("a page");
        assert!(out.0.len() <= room);
        let page = Page::parse(&out.0).expect("what the target lists");
        assert_eq!(page.store.id, origin.id.as_bytes());
        assert_eq!(page.store.origin, origin.number.get());
        assert_eq!(page.store.sectors, origin.size);
        rows.extend(page.rows);
        match page.next {
            Some(next) => {
                assert!(next > start);
                start = next;
            }
            None => break,
        }
    }
    assert_eq!(rows.remove(0).tag, 0);
    assert_eq!(rows.len(), store.snapshots.iter().count());
    for (read, (_, row)) in rows.iter().zip(store.snapshots.iter()) {
        assert_eq!(read.tag, row.tag.get());
        assert_eq!(read.parent, Some(row.parent.map_or(0, Tag::get)));
        assert_eq!(read.memo.as_bytes(), row.memo.as_bytes());
        assert_eq!(read.is_ghost(), row.ghost && !row.bookmark);
        assert_eq!(read.is_bookmark(), row.bookmark);
        let invalid = match row.bookmark {
            true => origin.is_forgotten(row.tag),
            false => origin.is_invalid(row.tag),
        };
        assert_eq!(read.flags.contains('I'), invalid);
        assert_eq!((read.sectors, read.chunks), (row.size, row.chunks));
    }
}
