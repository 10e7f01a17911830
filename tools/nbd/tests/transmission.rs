// SPDX-License-Identifier: GPL-2.0
//! What is replied.

mod common;

use common::*;
use dm_snap_mv_nbd::wire::{chunk, command, errno, flag, MOST};
use dm_snap_mv_nbd::{Error, Export, Session, PIECE};
use proptest::prelude::*;

const STRUCTURED: bool = true;

fn session(structured: bool) -> Session {
    Session {
        structured,
        contexts: if structured { vec![0, 1] } else { Vec::new() },
    }
}

/// The replies to a request.
fn replies(structured: bool, request: &[u8], export: &Memory) -> Vec<Reply> {
    let (done, bytes) = transmitted(request, &session(structured), export, 1);
    done.unwrap();
    let len = u32::from_be_bytes(request[24..28].try_into().unwrap()) as usize;
    let reads = request[6..8] == command::READ.to_be_bytes();
    Reply::all(&bytes, &|_| if reads { len } else { 0 })
}

/// What the replies to a read say that is there; none where that failed.
fn content(replies: &[Reply], offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    let mut set = 0;
    for reply in replies {
        if reply.error != 0 {
            return None;
        }
        let at = || u64::from_be_bytes(reply.data[..8].try_into().unwrap());
        let from = || (at() - offset) as usize;
        match reply.kind {
            None => return Some(reply.data.clone()),
            Some(chunk::OFFSET_DATA) => {
                let data = &reply.data[8..];
                bytes[from()..from() + data.len()].copy_from_slice(data);
                set += data.len();
            }
            Some(chunk::OFFSET_HOLE) => {
                let many = u32::from_be_bytes(reply.data[8..12].try_into().unwrap()) as usize;
                assert!(many > 0);
                bytes[from()..from() + many].fill(0);
                set += many;
            }
            Some(chunk::NONE) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(set, len);
    let lasts: Vec<_> = replies.iter().map(|reply| reply.last).collect();
    assert!(lasts
        .split_last()
        .is_some_and(|(last, rest)| *last && !rest.contains(&true)));
    Some(bytes)
}

#[test]
fn errors() {
    let export = Memory::new(9000);
    let one = |structured, command, flags, offset, len| {
        let all = replies(
            structured,
            &request(command, flags, 5, offset, len),
            &export,
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].cookie, 5);
        assert!(all[0].last);
        all[0].error
    };
    let (read, status) = (command::READ, command::BLOCK_STATUS);
    for structured in [false, STRUCTURED] {
        assert_eq!(one(structured, read, 0, 9000, 1), errno::INVAL);
        assert_eq!(one(structured, read, 0, u64::MAX, 2), errno::INVAL);
        assert_eq!(one(structured, read, 0x20, 0, 1), errno::INVAL);
        assert_eq!(one(structured, command::CACHE, 0, 0, 9001), errno::INVAL);
        assert_eq!(one(structured, command::CACHE, 0, 0, 9000), 0);
        assert_eq!(one(structured, command::FLUSH, 0, 0, 0), 0);
        assert_eq!(one(structured, command::TRIM, 0, 0, 512), errno::PERM);
        assert_eq!(
            one(structured, command::WRITE_ZEROES, 0, 0, 512),
            errno::PERM
        );
        assert_eq!(one(structured, 8, 0, 0, 512), errno::INVAL);
        assert_eq!(one(structured, 0xffff, 0, 0, 512), errno::INVAL);
        assert_eq!(one(structured, status, 0, 0, 0), errno::INVAL);
        assert_eq!(one(structured, read, 0, 9000, 0), 0);
    }
    assert_eq!(one(false, read, flag::DF, 0, 1), errno::INVAL);
    assert_eq!(one(false, status, 0, 0, 1), errno::INVAL);
    assert_eq!(one(STRUCTURED, status, flag::DF, 0, 1), errno::INVAL);
    let (done, bytes) = transmitted(
        &request(status, 0, 5, 0, 1),
        &Session {
            structured: true,
            contexts: Vec::new(),
        },
        &export,
        1,
    );
    done.unwrap();
    assert_eq!(Reply::all(&bytes, &|_| 0)[0].error, errno::INVAL);
}

#[test]
fn what_is_large() {
    let export = Memory::new(MOST as usize + 512);
    for structured in [false, STRUCTURED] {
        let most = replies(
            structured,
            &request(command::READ, 0, 1, 511, MOST),
            &export,
        );
        let read = content(&most, 511, MOST as usize).unwrap();
        assert!(read == export.bytes[511..511 + MOST as usize]);
        let longest = most.iter().map(|reply| reply.data.len()).max();
        assert!(!structured || longest <= Some(PIECE + 8));
        let more = replies(
            structured,
            &request(command::READ, 0, 1, 0, MOST + 1),
            &export,
        );
        assert_eq!(more[0].error, errno::INVAL);
    }
    let at_once = |len| {
        replies(
            STRUCTURED,
            &request(command::READ, flag::DF, 1, 3, len),
            &export,
        )
    };
    assert_eq!(at_once(PIECE as u32).len(), 1);
    assert!(content(&at_once(PIECE as u32), 3, PIECE).unwrap() == export.bytes[3..PIECE + 3]);
    assert_eq!(at_once(PIECE as u32 + 1)[0].error, errno::OVERFLOW);
    assert_eq!(at_once(0)[0].kind, Some(chunk::NONE));
}

#[test]
fn zeroes_that_nobody_knew_of_are_not_sent() {
    let mut export = Memory::new(0);
    export.bytes = vec![0; 300_000];
    export.bytes[70_000] = 1;
    export.marks[0].insert(0, 0);
    let all = replies(
        STRUCTURED,
        &request(command::READ, 0, 1, 0, 300_000),
        &export,
    );
    let kinds: Vec<_> = all.iter().map(|reply| reply.kind.unwrap()).collect();
    let (data, hole) = (chunk::OFFSET_DATA, chunk::OFFSET_HOLE);
    assert_eq!(kinds, [hole, data, hole, data]);
    assert!(content(&all, 0, 300_000).unwrap() == export.bytes);
    // Those who want it in one get it in one.
    let all = replies(
        STRUCTURED,
        &request(command::READ, flag::DF, 1, 0, 300_000),
        &export,
    );
    assert_eq!(all.len(), 1);
}

#[test]
fn what_cannot_be_read() {
    let mut export = Memory::new(3 * PIECE);
    export.bad = Some(PIECE as u64 + 500);
    let bytes = request(command::READ, 0, 1, 0, 3 * PIECE as u32);
    let all = replies(STRUCTURED, &bytes, &export);
    let last = all.last().unwrap();
    assert_eq!(
        (last.kind, last.error),
        (Some(chunk::ERROR_OFFSET), errno::IO)
    );
    assert!(all
        .iter()
        .rev()
        .skip(1)
        .all(|reply| !reply.last && reply.error == 0));
    // Once data have been announced there is no other way than to hang up.
    let (done, _) = transmitted(&bytes, &session(false), &export, 1);
    assert!(matches!(done, Err(Error::Io(_))));
    let first = request(command::READ, 0, 1, PIECE as u64, 4096);
    assert_eq!(replies(false, &first, &export)[0].error, errno::IO);
    let flags = flag::DF;
    let first = request(command::READ, flags, 1, PIECE as u64, 4096);
    assert_eq!(replies(STRUCTURED, &first, &export)[0].error, errno::IO);
}

#[test]
fn writes_are_passed_over() {
    let export = Memory::new(9000);
    let mut bytes = request(command::WRITE, 1, 7, 0, 1000);
    bytes.extend([0x25; 1000]);
    bytes.extend(request(command::READ, 0, 8, 0, 10));
    let (done, bytes) = transmitted(&bytes, &session(STRUCTURED), &export, 1);
    done.unwrap();
    let all = Reply::all(&bytes, &|_| 0);
    assert_eq!((all[0].cookie, all[0].error), (7, errno::PERM));
    assert_eq!((all[1].cookie, all[1].error), (8, 0));
    let long = request(command::WRITE, 0, 7, 0, MOST + 1);
    let (done, bytes) = transmitted(&long, &session(STRUCTURED), &export, 1);
    assert!(matches!(done, Err(Error::Broken(_))) && bytes.is_empty());
}

#[test]
fn the_end() {
    let export = Memory::new(9000);
    for threads in [1, 8] {
        let whole = request(command::READ, 0, 1, 0, 100);
        for len in 1..whole.len() {
            let (done, bytes) = transmitted(&whole[..len], &session(false), &export, threads);
            assert!(
                matches!(done, Err(Error::Io(_))) && bytes.is_empty(),
                "{len}"
            );
        }
        let mut after = request(command::DISC, 0, 1, 0, 0);
        after.extend(&whole);
        let (done, bytes) = transmitted(&after, &session(false), &export, threads);
        assert!(done.is_ok() && bytes.is_empty());
        let (done, _) = transmitted(&[0x25; 28], &session(false), &export, threads);
        assert!(matches!(done, Err(Error::Broken(_))));
    }
}

#[test]
fn a_context_for_each_and_one_extent_if_asked_for() {
    let export = Memory::new(9000);
    let all = replies(
        STRUCTURED,
        &request(command::BLOCK_STATUS, flag::REQ_ONE, 1, 500, 3000),
        &export,
    );
    let data: Vec<_> = all
        .iter()
        .map(|reply| (reply.last, reply.data.as_slice()))
        .collect();
    assert_eq!(
        data[0],
        (false, &[0, 0, 0, 1, 0, 0, 1, 0xf4, 0, 0, 0, 0][..])
    );
    assert_eq!(
        data[1],
        (true, &[0, 0, 0, 2, 0, 0, 1, 0xf4, 0, 0, 0, 1][..])
    );
    assert_eq!(data.len(), 2);
}

proptest! {
    #[test]
    fn reads_are_what_is_there(
        asked in prop::collection::vec((0..300_000u64, 0..200_000u32, any::<bool>()), 1..20),
        structured: bool,
        threads in 1..9usize,
    ) {
        let export = Memory::new(300_000);
        let mut requests = Vec::new();
        for (cookie, (offset, len, at_once)) in asked.iter().enumerate() {
            let flags = if *at_once && structured { flag::DF } else { 0 };
            requests.extend(request(command::READ, flags, cookie as u64, *offset, *len));
        }
        let (done, bytes) = transmitted(&requests, &session(structured), &export, threads);
        done.unwrap();
        let all = Reply::all(&bytes, &|cookie| asked[cookie as usize].1 as usize);
        for (cookie, (offset, len, _)) in asked.iter().enumerate() {
            let of: Vec<_> = all.iter().filter(|r| r.cookie == cookie as u64).cloned().collect();
            let end = offset + u64::from(*len);
            let expected = export.bytes.get(*offset as usize..end as usize);
            let read = content(&of, *offset, *len as usize);
            prop_assert_eq!(read.as_deref(), expected);
        }
    }

    #[test]
    fn status_is_what_was_said(offset in 0..300_000u64, len in 1..400_000u32, one: bool) {
        let export = Memory::new(300_000);
        let flags = if one { flag::REQ_ONE } else { 0 };
        let all = replies(STRUCTURED, &request(command::BLOCK_STATUS, flags, 1, offset, len), &export);
        if offset + u64::from(len) > export.size() {
            prop_assert_eq!(all[0].error, errno::INVAL);
            return Ok(());
        }
        for (context, reply) in all.iter().enumerate() {
            prop_assert_eq!(reply.last, context == 1);
            prop_assert_eq!(&reply.data[..4], &(context as u32 + 1).to_be_bytes());
            let words: Vec<_> = reply.data[4..].chunks(4)
                .map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
            let mut at = offset;
            for pair in words.chunks(2) {
                prop_assert!(pair[0] > 0);
                for byte in [at, at + u64::from(pair[0]) - 1] {
                    prop_assert_eq!(export.says(context, byte), pair[1]);
                }
                at += u64::from(pair[0]);
            }
            let all = match one {
                true => words.len() == 2,
                false => at == offset + u64::from(len),
            };
            prop_assert!(all);
        }
    }
}
