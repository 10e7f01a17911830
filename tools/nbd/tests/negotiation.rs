// SPDX-License-Identifier: GPL-2.0
//! What is agreed on.

mod common;

use common::*;
use dm_snap_mv_nbd::wire::{answer, export, greeting, info, option as opt};
use dm_snap_mv_nbd::{Error, Session};

const BOTH: u32 = greeting::FIXED_NEWSTYLE | greeting::NO_ZEROES;

/// What comes of options, with the kinds of answers.
fn after(options: &[(u32, Vec<u8>)]) -> (Option<Session>, Vec<u32>) {
    let mut said = hello(BOTH);
    options
        .iter()
        .for_each(|(number, data)| said.extend(option(*number, data)));
    let (session, answers) = negotiated(&said, &Memory::new(9000));
    (
        session.unwrap(),
        answers.iter().map(|answer| answer.kind).collect(),
    )
}

fn structured() -> (u32, Vec<u8>) {
    (opt::STRUCTURED_REPLY, Vec::new())
}

fn go() -> (u32, Vec<u8>) {
    (opt::GO, chosen("", &[]))
}

#[test]
fn all_that_a_client_does() {
    let names = ["base:allocation", "qemu:dirty-bitmap:since-1", "qemu:other"];
    let (session, kinds) = after(&[
        structured(),
        (opt::LIST, Vec::new()),
        (opt::LIST_META_CONTEXT, queries("7", &["qemu:"])),
        (opt::SET_META_CONTEXT, queries("7", &names)),
        (opt::INFO, chosen("7", &[info::NAME, info::DESCRIPTION])),
        (opt::GO, chosen("7", &[])),
    ]);
    let session = session.unwrap();
    assert!(session.structured);
    assert_eq!(session.contexts, [0, 1]);
    let (ack, told, context) = (answer::ACK, answer::INFO, answer::META_CONTEXT);
    let expected = [
        &[ack][..],
        &[answer::SERVER, ack],
        &[context, ack],
        &[context, context, ack],
        &[told, told, told, told, ack],
        &[told, told, ack],
    ];
    assert_eq!(kinds, expected.concat());
}

#[test]
fn what_is_told() {
    let mut said = hello(BOTH);
    said.extend(option(opt::LIST, b""));
    said.extend(option(
        opt::INFO,
        &chosen("", &[info::NAME, info::DESCRIPTION]),
    ));
    said.extend(option(opt::STRUCTURED_REPLY, b""));
    said.extend(option(opt::GO, &chosen("7", &[])));
    let (_, answers) = negotiated(&said, &Memory::new(9000));
    let data: Vec<_> = answers
        .iter()
        .map(|answer| answer.data.as_slice())
        .collect();
    assert_eq!(data[0], b"\0\0\0\x017seven");
    let flags = export::HAS_FLAGS | export::READ_ONLY | export::SEND_FLUSH;
    let flags = flags | export::CAN_MULTI_CONN | export::SEND_CACHE;
    let of = |flags: u16| [&[0, 0][..], &9000u64.to_be_bytes(), &flags.to_be_bytes()].concat();
    assert_eq!(data[2], of(flags));
    assert_eq!(data[3], b"\0\x017");
    assert_eq!(data[4], b"\0\x02seven");
    assert_eq!(data[5], [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(data[8], of(flags | export::SEND_DF));
}

#[test]
fn by_the_name_alone() {
    for (flags, len) in [(greeting::FIXED_NEWSTYLE, 134), (BOTH, 10)] {
        let mut said = hello(flags);
        said.extend(option(opt::EXPORT_NAME, b"7"));
        let (session, answers) = negotiated(&said, &Memory::new(9000));
        assert_eq!(session.unwrap().unwrap(), Session::default());
        assert_eq!(answers[0].data.len(), len);
        assert_eq!(answers[0].data[..8], 9000u64.to_be_bytes());
    }
    assert_eq!(
        after(&[(opt::EXPORT_NAME, b"8".to_vec())]),
        (None, Vec::new())
    );
}

#[test]
fn contexts_are_those_of_the_export_that_is_chosen() {
    let set = |names: &[&str]| (opt::SET_META_CONTEXT, queries("", names));
    let contexts = |options: &[(u32, Vec<u8>)]| after(options).0.unwrap().contexts;
    let base = "base:allocation";
    assert_eq!(contexts(&[structured(), set(&[base]), go()]), [0]);
    // The last one counts, and so it does if it fails.
    assert!(contexts(&[structured(), set(&[base]), set(&[]), go()]).is_empty());
    let failed = (opt::SET_META_CONTEXT, queries("8", &[base]));
    assert!(contexts(&[structured(), set(&[base]), failed, go()]).is_empty());
    let other = (opt::GO, chosen("7", &[]));
    assert!(contexts(&[structured(), set(&[base]), other]).is_empty());
    // Only listing knows what all have in common.
    assert!(contexts(&[structured(), set(&["base:", "qemu:"]), go()]).is_empty());
    let (_, kinds) = after(&[structured(), (opt::LIST_META_CONTEXT, queries("", &[]))]);
    let context = answer::META_CONTEXT;
    assert_eq!(kinds, [answer::ACK, context, context, answer::ACK]);
    // Listing chooses nothing.
    let list = (opt::LIST_META_CONTEXT, queries("", &["qemu:"]));
    assert_eq!(contexts(&[structured(), set(&[base]), list, go()]), [0]);
}

#[test]
fn what_is_refused_and_then_gone_on_with() {
    for (number, data, kind) in [
        (5, Vec::new(), answer::ERR_UNSUP),
        (11, Vec::new(), answer::ERR_UNSUP),
        (0xffff_ffff, vec![1; 100], answer::ERR_UNSUP),
        (4, vec![1; 100], answer::ERR_UNSUP),
        (opt::LIST, vec![1], answer::ERR_INVALID),
        (opt::STRUCTURED_REPLY, vec![1], answer::ERR_INVALID),
        (opt::GO, chosen("8", &[]), answer::ERR_UNKNOWN),
        (opt::INFO, chosen("8", &[]), answer::ERR_UNKNOWN),
        (opt::GO, chosen(&"x".repeat(4097), &[]), answer::ERR_INVALID),
        (opt::GO, vec![0; 5], answer::ERR_INVALID),
        (opt::GO, vec![0xff; 6], answer::ERR_INVALID),
        (opt::INFO, vec![0; 70_000], answer::ERR_TOO_BIG),
        (opt::SET_META_CONTEXT, queries("", &[]), answer::ERR_INVALID),
    ] {
        let (session, kinds) = after(&[(number, data), go()]);
        assert!(session.is_some(), "{number}");
        let told = [kind, answer::INFO, answer::INFO, answer::ACK];
        assert_eq!(kinds, told, "{number}");
    }
    for (data, kind) in [
        (queries("8", &[]), answer::ERR_UNKNOWN),
        (
            vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            answer::ERR_INVALID,
        ),
    ] {
        let (_, kinds) = after(&[structured(), (opt::LIST_META_CONTEXT, data)]);
        assert_eq!(kinds, [answer::ACK, kind]);
    }
}

#[test]
fn whoever_goes_and_whoever_makes_no_sense() {
    assert_eq!(after(&[]), (None, Vec::new()));
    let abort = (opt::ABORT, Vec::new());
    assert_eq!(after(&[abort, go()]), (None, vec![answer::ACK]));
    let export = Memory::new(9000);
    assert!(matches!(negotiated(b"", &export).0, Ok(None)));
    let broken = |said: &[u8]| matches!(negotiated(said, &export).0, Err(Error::Broken(_)));
    assert!(broken(&hello(4)));
    assert!(broken(&[&hello(BOTH)[..], &[0; 16]].concat()));
    let mut long = option(opt::LIST, b"");
    long[12..].copy_from_slice(&0x0200_0001u32.to_be_bytes());
    assert!(broken(&[&hello(BOTH)[..], &long].concat()));
    let name = option(opt::EXPORT_NAME, &[b'x'; 70_000]);
    assert!(broken(&[&hello(BOTH)[..], &name].concat()));
    let whole = [&hello(BOTH)[..], &option(opt::GO, &chosen("7", &[1]))].concat();
    for len in 5..whole.len() {
        assert!(
            matches!(negotiated(&whole[..len], &export).0, Err(Error::Io(_))),
            "{len}"
        );
    }
}
