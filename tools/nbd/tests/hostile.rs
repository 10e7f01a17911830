// SPDX-License-Identifier: GPL-2.0
//! Clients that mean no good: whatever they say, nothing panics, and what they get is bounded by what
//! they have said.

mod common;

use common::*;
use dm_snap_mv_nbd::wire::{self, command, option as opt};
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::LazyLock;

/// All of a conversation.
fn talk(said: &[u8], threads: usize) -> usize {
    static EXPORT: LazyLock<Memory> = LazyLock::new(|| Memory::new(200_000));
    let export = &*EXPORT;
    let mut from = said;
    let mut to = Vec::new();
    let session = dm_snap_mv_nbd::negotiate(&mut from, &mut to, export);
    let Ok(Some(session)) = session else {
        return to.len();
    };
    let (_, replies) = transmitted(from, &session, export, threads);
    to.len() + replies.len()
}

/// One in which all is well.
fn whole() -> Vec<u8> {
    let mut said = hello(3);
    for (number, data) in [
        (opt::STRUCTURED_REPLY, Vec::new()),
        (opt::LIST, Vec::new()),
        (
            opt::SET_META_CONTEXT,
            queries("7", &["base:allocation", "qemu:dirty-bitmap:since-1"]),
        ),
        (opt::GO, chosen("7", &[1, 2, 3])),
    ] {
        said.extend(option(number, &data));
    }
    for (number, offset) in [command::READ, command::BLOCK_STATUS, command::WRITE]
        .iter()
        .zip([5, 9, 0])
    {
        said.extend(request(*number, 0, offset, offset, 100));
    }
    said.extend([7; 100]);
    said.extend(request(command::DISC, 0, 0, 0, 0));
    said
}

/// What a byte can bring about: a read of all there is, in chunks for each block.
fn bound(said: usize) -> usize {
    1000 + said * 20_000
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise(said in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(talk(&said, 1) <= bound(said.len()));
    }

    #[test]
    fn noise_behind_what_is_right(
        upto: Index,
        noise in prop::collection::vec(any::<u8>(), 0..300),
        threads in 1..4usize,
    ) {
        let mut said = whole();
        said.truncate(upto.index(said.len() + 1));
        said.extend(&noise);
        prop_assert!(talk(&said, threads) <= bound(said.len()));
    }

    #[test]
    fn bytes_that_were_changed(
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut said = whole();
        for (at, byte) in changes {
            let at = at.index(said.len());
            said[at] = byte;
        }
        prop_assert!(talk(&said, 1) <= bound(said.len()));
    }

    #[test]
    fn numbers_that_make_no_sense(
        all in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u64>(), any::<u32>()), 1..20),
        small: bool,
    ) {
        let mut said = hello(3);
        said.extend(option(opt::STRUCTURED_REPLY, b""));
        said.extend(option(opt::SET_META_CONTEXT, &queries("", &["base:allocation"])));
        said.extend(option(opt::GO, &chosen("", &[])));
        for (number, flags, offset, len) in all {
            let (number, flags) = if small { (number % 9, flags & 12) } else { (number, flags) };
            let offset = if small { offset % 300_000 } else { offset };
            said.extend(request(number, flags, 1, offset, len >> if small { 15 } else { 0 }));
        }
        prop_assert!(talk(&said, 1) <= bound(said.len()));
    }
}

#[test]
fn lengths_that_nothing_follows() {
    let before = hello(3);
    for number in 0..13 {
        for len in [
            1,
            1 << 16,
            (1 << 16) + 1,
            wire::MOST,
            wire::MOST + 1,
            u32::MAX,
        ] {
            let mut said = before.clone();
            let mut head = option(number, b"");
            head[12..16].copy_from_slice(&len.to_be_bytes());
            said.extend(head);
            assert!(talk(&said, 1) < 1000, "{number} {len}");
        }
    }
}
