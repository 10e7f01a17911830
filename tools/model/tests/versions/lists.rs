// SPDX-License-Identifier: GPL-2.0

//! What is reported, word by word.

use std::fmt;

use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::escape::{split_word, unescape, Sink};
use dm_snap_mv_model::ids::{OriginNr, Tag};
use dm_snap_mv_model::label;
use dm_snap_mv_model::list::{list, StoreLine};
use dm_snap_mv_model::message::{Message, Request};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{
    refused, Cleaning, OriginStatus, RollbackProgress, SnapshotStatus, State, Usage,
};
use dm_snap_mv_model::rollback;
use dm_snap_mv_model::versions::{
    delete_snapshot, find_snapshot, invalidate, take_origin_snapshot, take_snapshot_snapshot, Loss,
};

use crate::limits::bound;
use crate::store::Store;
use crate::world::chunk_size;

/// A buffer of a size, as the kernel has one.
struct Buffer {
    bytes: Vec<u8>,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Buffer {
        Buffer {
            bytes: Vec::new(),
            size,
        }
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes).unwrap()
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

impl Sink for Buffer {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.bytes.extend_from_slice(bytes);
        match self.bytes.len() <= self.size {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

fn usage() -> Usage {
    Usage {
        used_metadata: 12,
        total_metadata: 1024,
        used_chunks: 34,
        total_chunks: 5678,
        chunk_size: chunk_size(),
    }
}

fn store_line() -> StoreLine {
    StoreLine {
        uuid: *b"\x01\x23\x45\x67\x89\xab\xcd\xef\0\x11\x22\x33\x44\x55\x66\x77",
        usage: usage(),
        state: State::Valid,
        cleaning: Some(Cleaning {
            timelines: 2,
            percent: 50,
        }),
    }
}

fn page(
    store: &Store,
    row: &OriginRow,
    start: u32,
    max: u32,
    room: usize,
) -> Result<String, Refusal> {
    let mut out = Buffer::new(room);
    list(store, &store_line(), row, start, max, room, &mut out)?;
    Ok(out.text())
}

#[test]
fn labels() {
    let (mut store, row) = example();
    let tag = |n| Tag::new(n).unwrap();
    let mut put = |n, words: &str| {
        let line = format!("label {n} {words}");
        let words = line.split(' ').map(str::as_bytes);
        let request = Request::parse(words).unwrap();
        let Message::Label { change, .. } = request.message else {
            panic!("{request:?}");
        };
        label::put(&mut store, &row, tag(n), &change, [n as u8; 16])
    };
    // That one has been deleted, and is there for its child.
    assert_eq!(put(1, "-n x"), Err(Refusal::UnknownTag));
    assert_eq!(put(9, "-n x"), Err(Refusal::UnknownTag));
    put(2, "-n -").unwrap();
    put(
        3,
        "-n à -c application -e 12 -p daily -g 0123456F-89ab-cdef-0011-223344556677",
    )
    .unwrap();
    put(3, "-f 01234567-89AB-cdef-0011-223344556677/4294967295/7 -e 13 -u 00000000-0000-0000-0000-000000000001").unwrap();
    let shown = |n| {
        let mut out = Buffer::new(600);
        let row = label::get(&store, &row, tag(n))?;
        label::write(&mut out, &row).unwrap();
        Ok(out.text())
    };
    assert_eq!(
        shown(2).unwrap(),
        "02020202-0202-0202-0202-020202020202 - crash - - - -"
    );
    assert_eq!(
        shown(3).unwrap(),
        "00000000-0000-0000-0000-000000000001 0123456f-89ab-cdef-0011-223344556677 application 13 \
         daily 01234567-89ab-cdef-0011-223344556677/4294967295/7 à"
    );
    assert_eq!(shown(4), Err(Refusal::NoLabel));
    assert_eq!(shown(1), Err(Refusal::UnknownTag));
    let page = page(&store, &row, 2, 2, 4096).unwrap();
    let flags = page
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').nth(3));
    assert_eq!(flags.collect::<Vec<_>>(), ["IL", "RL"]);
}

/// An origin with snapshots of all kinds.
fn example() -> (Store, OriginRow) {
    let (mut store, mut row) = bound(64, 800);
    let first = take_origin_snapshot(&mut store, &mut row, b"first one", 100).unwrap();
    let mut parent = find_snapshot(&store, &row, first).unwrap();
    take_snapshot_snapshot(&mut store, &mut row, &mut parent, b"-", 101).unwrap();
    delete_snapshot(&mut store, &mut row, first).unwrap();
    invalidate(&mut store, &mut row, Loss::Content).unwrap();
    let third = take_origin_snapshot(&mut store, &mut row, "à".as_bytes(), 102).unwrap();
    rollback::begin(&mut store, &mut row, third, false, chunk_size()).unwrap();
    take_origin_snapshot(&mut store, &mut row, b"", 103).unwrap();
    (store, row)
}

#[test]
fn lists() {
    let (store, row) = example();
    let first = "store 01234567-89ab-cdef-0011-223344556677 12/1024 34/5678 8 valid 2:50 3:0/100 \
                 1 800 origin\n";
    let rows = [
        "0 - - . 1 800 0 3 -\n",
        "1 0 1 GI 100 800 0 1 first\\ one\n",
        "2 1 1 I 101 800 0 0 \\-\n",
        "3 0 2 R 102 800 0 1 à\n",
        "4 0 4 . 103 800 0 0 -\n",
    ];
    let all = format!("{first}{}end\n", rows.concat());
    assert_eq!(page(&store, &row, 0, u32::MAX, 4096), Ok(all.clone()));
    assert_eq!(
        page(&store, &row, 0, 2, 4096),
        Ok(format!("{first}{}{}next 2\n", rows[0], rows[1]))
    );
    assert_eq!(
        page(&store, &row, 0, 1, 4096),
        Ok(format!("{first}{}next 1\n", rows[0]))
    );
    assert_eq!(
        page(&store, &row, 2, 3, 4096),
        Ok(format!("{first}{}{}{}end\n", rows[2], rows[3], rows[4]))
    );
    assert_eq!(page(&store, &row, 5, 1, 4096), Ok(format!("{first}end\n")));
    assert_eq!(
        page(&store, &row, u32::MAX, 1, 4096),
        Ok(format!("{first}end\n"))
    );
    // In buffers of any size that is enough for a row the pages make up the whole.
    let mut fits = 0;
    for room in 0..all.len() + 32 {
        let mut rest = 0;
        let mut found = String::new();
        loop {
            let text = match page(&store, &row, rest, u32::MAX, room) {
                Ok(text) => text,
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::ReplyTooLong);
                    break;
                }
            };
            assert!(text.len() <= room);
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            assert_eq!(lines[0], first);
            found += &lines[1..lines.len() - 1].concat();
            match lines[lines.len() - 1] {
                "end\n" => {
                    assert_eq!(found, rows.concat());
                    fits += 1;
                    break;
                }
                next => rest = next.trim().strip_prefix("next ").unwrap().parse().unwrap(),
            }
        }
    }
    assert!(fits > 100, "{fits}");
}

/// The longest rows there can be fit a page of 2 KiB.
#[test]
fn a_page_always_has_room_for_a_row() {
    let (mut store, mut row) = bound(64, 800);
    let memo = [b' '; 64];
    let tag = take_origin_snapshot(&mut store, &mut row, &memo, u64::MAX).unwrap();
    let mut snap = find_snapshot(&store, &row, tag).unwrap();
    snap.chunks = u64::MAX;
    snap.size = u64::MAX;
    snap.children = u32::MAX;
    store.put_snapshot(row.number, &snap).unwrap();
    row.id = dm_snap_mv_model::disk::origin_row::OriginId::new(&[b' '; 255]).unwrap();
    row.size = u64::MAX;
    row.chunks = u64::MAX;
    let text = page(&store, &row, 1, 1, 2048).unwrap();
    let line = text.lines().nth(1).unwrap().as_bytes();
    let mut rest = line;
    let mut last = Vec::new();
    while let Some((word, behind)) = split_word(rest) {
        last = unescape(word).collect();
        rest = behind;
    }
    assert_eq!(last, memo);
    assert!(store.origin(row.number).unwrap().is_some());
}

#[test]
fn status_lines() {
    let number = OriginNr::new(7).unwrap();
    let tag = Tag::new(3).unwrap();
    let cleaning = Some(Cleaning {
        timelines: 2,
        percent: 99,
    });
    let rollback = Some(RollbackProgress {
        tag,
        done: 10,
        chunks: 100,
        stopped: None,
    });
    let mut origin = OriginStatus {
        number,
        state: State::Valid,
        usage: usage(),
        snapshots: 4,
        cleaning: None,
        rollback: None,
        bookmarks: 9,
    };
    assert_eq!(origin.to_string(), "co 7 valid 12/1024 34/5678 8 4 - - 9");
    origin.state = State::Full;
    origin.cleaning = cleaning;
    origin.rollback = rollback;
    assert_eq!(
        origin.to_string(),
        "co 7 full 12/1024 34/5678 8 4 2:99 3:10/100 9"
    );
    let mut snapshot = SnapshotStatus {
        number,
        tag,
        state: State::Invalid,
        usage: usage(),
        chunks: 5,
        children: 6,
        cleaning: None,
        rollback: None,
    };
    assert_eq!(
        snapshot.to_string(),
        "cs 7 3 invalid 12/1024 34/5678 8 5 6 - -"
    );
    snapshot.state = State::Error;
    snapshot.cleaning = cleaning;
    snapshot.rollback = rollback;
    assert_eq!(
        snapshot.to_string(),
        "cs 7 3 error 12/1024 34/5678 8 5 6 2:99 3:10/100"
    );
    assert_eq!(State::Unbound.to_string(), "unbound");
    let mut text = String::new();
    refused(&mut text, Refusal::RollbackRunning).unwrap();
    assert_eq!(
        text,
        "refused EBUSY a rollback of the origin is already running"
    );
}
