// SPDX-License-Identifier: GPL-2.0
//! Streams that are damaged, cut, forged, or of other versions: nothing wrong is ever handed over
//! as if it were right.

mod common;

use common::*;
use dm_snap_mv_stream::frame::{kind, Header, COMPRESSED, HEADER, OPTIONAL};
use dm_snap_mv_stream::{Begin, Decoder, Encoder, Event, Fault};

/// A small one with all there is: two segments, every kind of frame.
fn small() -> (Vec<Segment>, Vec<u8>) {
    let random = &mut Random(11);
    let old = disk(random, 20);
    let (new, pieces) = change(random, &old, 28);
    let segments = vec![full(1, &old), delta((1, &old), (2, &new), pieces)];
    let bytes = stream(&segments);
    let (all, ended) = said(&bytes);
    ended.unwrap();
    let has = |what: fn(&Said) -> bool| assert!(all.iter().any(what));
    has(|s| matches!(s, Said::Data(..)));
    has(|s| matches!(s, Said::Zero(..)));
    has(|s| matches!(s, Said::Mark(_)));
    let packed = |frame: &Frame| frame.header.flags == COMPRESSED;
    let frames = frames(&bytes);
    assert!(frames.iter().any(packed) && frames.len() < 60);
    (segments, bytes)
}

/// It is an error, and what was said before is how the right one begins.
fn seen(bytes: &[u8], right: &[Said], what: &str) -> Fault {
    let (all, ended) = said(bytes);
    let error = ended.expect_err(what);
    assert!(right.starts_with(&all), "{what}: {all:?}");
    assert!(error.offset <= bytes.len() as u64);
    error.fault
}

/// The bits of the byte with this number that are tried: each in turn, or all.
fn bits(at: usize) -> Vec<usize> {
    match std::env::var_os("TEST_LONG") {
        Some(_) => (0..8).collect(),
        None => vec![at % 8, (at + 3) % 8],
    }
}

#[test]
fn every_byte_and_every_cut() {
    let (segments, bytes) = small();
    let (right, _) = said(&bytes);
    for at in 0..bytes.len() {
        for bit in bits(at) {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            let fault = seen(&other, &right, &format!("bit {bit} of byte {at}"));
            assert!(matches!(
                fault,
                Fault::Damaged(_) | Fault::NoStream | Fault::Cut
            ));
        }
        let fault = seen(&bytes[..at], &right, &format!("cut at {at}"));
        assert!(matches!(fault, Fault::Cut), "{at}: {fault:?}");
    }
    // And of one that was resumed.
    let Some(position) = right.iter().rev().find_map(|said| match said {
        Said::Mark(position) => Some(position),
        _ => None,
    }) else {
        panic!("no mark")
    };
    let rest = resumed(&segments[1..], Some(position), SMALL);
    let (right, _) = said(&rest);
    for at in 0..rest.len() {
        for bit in bits(at) {
            let mut other = rest.clone();
            other[at] ^= 1 << bit;
            seen(&other, &right, &format!("resumed, bit {bit} of byte {at}"));
        }
        seen(&rest[..at], &right, &format!("resumed, cut at {at}"));
    }
}

#[test]
fn frames_lost_doubled_and_swapped() {
    let (_, bytes) = small();
    let (right, _) = said(&bytes);
    let frames = frames(&bytes);
    let joined = |frames: &[Frame]| {
        let bytes = frames.iter().flat_map(|frame| frame.bytes.clone());
        bytes.collect::<Vec<_>>()
    };
    for a in 0..frames.len() {
        let mut other = frames.clone();
        other.remove(a);
        seen(&joined(&other), &right, &format!("{a} lost"));
        for b in 0..frames.len() {
            let mut other = frames.clone();
            other.insert(b, frames[a].clone());
            // Behind the end nothing is looked at.
            if (a, b) == (frames.len() - 1, a) {
                continue;
            }
            seen(&joined(&other), &right, &format!("{a} once more at {b}"));
            if frames[a] != frames[b] {
                let mut other = frames.clone();
                other.swap(a, b);
                seen(&joined(&other), &right, &format!("{a} and {b} swapped"));
            }
        }
    }
}

/// Frames that are right by themselves, but not those that belong there: no end is reached, and no
/// mark behind them.
#[test]
fn forged_frames_do_not_get_past_the_next_mark() {
    let (_, bytes) = small();
    let (right, _) = said(&bytes);
    let parts: Vec<_> = frames(&bytes)
        .iter()
        .map(|frame| (frame.header, frame.payload().to_vec()))
        .collect();
    assert_eq!(join(&parts), bytes);
    let mut tried = 0;
    let mut try_with = |parts: &[(Header, Vec<u8>)], what: &str| {
        let (all, ended) = said(&join(parts));
        assert!(ended.is_err(), "{what}");
        let sure = |all: &[Said]| {
            let firm = |said: &&Said| !matches!(said, Said::Data(..) | Said::Zero(..));
            all.iter().filter(firm).cloned().collect::<Vec<_>>()
        };
        // But for what segments say of themselves, which nothing else proves.
        if !what.contains("frame 0") {
            assert!(sure(&right).starts_with(&sure(&all)), "{what}");
        }
        tried += 1;
    };
    for nr in 1..parts.len() {
        let name = format!("frame {nr}");
        let mut lost = parts.clone();
        lost.remove(nr);
        try_with(&lost, &format!("{name} lost"));
        if nr + 1 < parts.len() {
            let mut twice = parts.clone();
            twice.insert(nr, parts[nr].clone());
            try_with(&twice, &format!("{name} twice"));
        }
        if parts[nr].0.kind == kind::BEGIN {
            continue;
        }
        for bit in 0..64 {
            let mut other = parts.clone();
            other[nr].0.a ^= 1 << bit;
            try_with(&other, &format!("{name}, bit {bit} of a"));
            let mut other = parts.clone();
            other[nr].0.b ^= 1 << bit;
            try_with(&other, &format!("{name}, bit {bit} of b"));
        }
        for bit in 0..8 {
            let mut other = parts.clone();
            other[nr].0.flags ^= 1 << bit;
            try_with(&other, &format!("{name}, flag {bit}"));
        }
        for at in 0..parts[nr].1.len() {
            let mut other = parts.clone();
            other[nr].1[at] ^= 1 << (at % 8);
            // zstd's own frames have bits that say nothing.
            let packed = parts[nr].0.flags == COMPRESSED;
            if !packed || said(&join(&other)).0 != right {
                try_with(&other, &format!("{name}, byte {at}"));
            }
        }
    }
    assert!(tried > 5_000, "{tried}");
}

/// The digest at a position is where that of the next mark starts from.
#[test]
fn forged_positions_do_not_get_past_the_next_mark() {
    let (segments, bytes) = small();
    let (right, _) = said(&bytes);
    let position = right.iter().find_map(|said| match said {
        Said::Mark(position) => Some(position),
        _ => None,
    });
    let rest = resumed(&segments, position, SMALL);
    let header = Header::decode(0, rest.first_chunk().unwrap()).unwrap();
    let (first, behind) = rest.split_at(HEADER + header.len as usize);
    for at in 0..120 {
        let mut payload = first[HEADER..].to_vec();
        payload[at] ^= 1 << (at % 8);
        let forged = [&Frame::sealed(header, &payload, 0), behind].concat();
        let (all, ended) = said(&forged);
        assert!(ended.is_err(), "byte {at}");
        assert!(!all.contains(&Said::End), "byte {at}");
    }
}

/// The first frames of a stream, with something behind that is right but for what it says.
fn with(begin: &Begin, frames: &[(Header, &[u8])]) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
    encoder.begin(begin).unwrap();
    for (nr, (header, payload)) in frames.iter().enumerate() {
        bytes.extend(Frame::sealed(*header, payload, 1 + nr as u64));
    }
    let (_, ended) = said(&bytes);
    match ended.map_err(|error| error.fault) {
        Err(Fault::Cut) => Ok(()),
        other => other,
    }
}

#[test]
fn hostile_sizes() {
    let begin = Begin {
        size: 1 << 20,
        from_size: 1 << 20,
        from: Some(version(1)),
        chunk: 8,
        ranges: 1 << 17,
        chunks: 1 << 17,
        sectors: 1 << 20,
        ..Begin::default()
    };
    let header = |kind, flags, a, b| Header {
        kind,
        flags,
        a,
        b,
        ..Header::default()
    };
    let sector = vec![1; S];
    let most = vec![1; 1 << 20];
    let bomb = |len: usize| zstd::bulk::compress(&vec![0; len], 3).unwrap();
    let data = |a, b| header(kind::DATA, 0, a, b);
    let packed = |a, b| header(kind::DATA, COMPRESSED, a, b);
    with(&begin, &[(data(0, 1), &sector), (data(1, 2048), &most)]).unwrap();
    with(&begin, &[(packed(0, 2048), &bomb(1 << 20))]).unwrap();
    with(&begin, &[(header(kind::ZERO, 0, 0, 1 << 20), &[])]).unwrap();
    let last = (1 << 20) - 1;
    with(&begin, &[(data(last, 1), &sector)]).unwrap();
    let wrong: &[&[(Header, &[u8])]] = &[
        &[(data(0, 0), &[])],
        &[(data(0, 2), &sector)],
        &[(data(0, 1), &most)],
        &[(data(0, 1), &[])],
        &[(data(1 << 20, 1), &sector)],
        &[(data(last, 2), &most[..1024])],
        &[(data(u64::MAX, 1), &sector)],
        &[(data(0, u64::MAX), &sector)],
        &[(data(0, 1 << 55), &sector)],
        &[(data(1, 1), &sector), (data(1, 1), &sector)],
        &[(data(1, 1), &sector), (data(0, 1), &sector)],
        &[(header(kind::ZERO, 0, 0, 0), &[])],
        &[(header(kind::ZERO, 0, 1, 1 << 20), &[])],
        &[(header(kind::ZERO, 0, u64::MAX, u64::MAX), &[])],
        &[(header(kind::ZERO, 0, 0, 8), &sector)],
        &[(header(kind::ZERO, COMPRESSED, 0, 8), &[])],
        // More than it says, and less.
        &[(packed(0, 2048), &bomb(1 << 26))],
        &[(packed(0, 2048), &bomb((1 << 20) - 512))],
        &[(packed(0, 1), &bomb(1 << 20))],
        &[(packed(0, 4096), &bomb(1 << 21))],
        &[(packed(0, 1 << 17), &bomb(1 << 26))],
        &[(packed(0, 1), &sector)],
        &[(packed(0, 1), &[])],
        &[(header(kind::MARK, 0, 1, 0), &[0; 64])],
        &[(header(kind::END, 0, 0, 0), &[0; 64])],
        &[(header(kind::LAST, 0, 0, 0), &[0; 32])],
        &[(header(kind::BEGIN, 0, 0, 0), &[0; 32])],
        &[(header(kind::RESUME, 0, 0, 0), &[0; 32])],
        &[(header(0, 0, 0, 0), &[])],
    ];
    for (nr, frames) in wrong.iter().enumerate() {
        assert!(with(&begin, frames).is_err(), "{nr}");
    }
    // 64 MiB without a mark, and a little more.
    let mut many: Vec<(Header, &[u8])> = (0..64)
        .map(|nr| (data(nr * 2048, 2048), &most[..]))
        .collect();
    with(&begin, &many).unwrap();
    many.push((data(64 * 2048, 1), &sector));
    assert!(matches!(
        with(&begin, &many),
        Err(Fault::Damaged("a mark is missing"))
    ));
}

#[test]
fn counts_are_exact() {
    let begin = |ranges, chunks, sectors| Begin {
        size: 64,
        from_size: 64,
        from: Some(version(1)),
        chunk: 8,
        ranges,
        chunks,
        sectors,
        ..Begin::default()
    };
    let zero = |a, b| {
        let header = Header {
            kind: kind::ZERO,
            a,
            b,
            ..Header::default()
        };
        (header, &[][..])
    };
    let frames = [zero(7, 2), zero(9, 1), zero(12, 1), zero(40, 1)];
    with(&begin(3, 3, 5), &frames).unwrap();
    assert!(with(&begin(2, 3, 5), &frames).is_err());
    assert!(with(&begin(3, 2, 5), &frames).is_err());
    assert!(with(&begin(3, 3, 4), &frames).is_err());
    // And not less, in the end.
    let end = Header {
        kind: kind::END,
        ..Header::default()
    };
    for (ranges, chunks, sectors) in [(4, 3, 5), (3, 4, 5), (3, 3, 6)] {
        let with_end = [&frames[..], &[(end, &[0; 64])]].concat();
        assert!(matches!(
            with(&begin(ranges, chunks, sectors), &with_end),
            Err(Fault::Damaged(
                "there is less than the segment's beginning says"
            ))
        ));
    }
    // Behind the end of the version before, nothing is left out.
    let grown = Begin {
        from_size: 8,
        ..begin(2, 3, 5)
    };
    with(&grown, &[zero(3, 1), zero(8, 1)]).unwrap();
    let left_out = "sectors behind the end of the version before are left out";
    let tried = with(&grown, &[zero(3, 1), zero(9, 1)]);
    assert!(matches!(tried, Err(Fault::Damaged(what)) if what == left_out));
    let grown = Begin {
        from_size: 8,
        ..begin(1, 1, 1)
    };
    let tried = with(&grown, &[zero(8, 1), (end, &[0; 64])]);
    assert!(matches!(tried, Err(Fault::Damaged(what)) if what == left_out));
}

/// What the first frame says of a stream of this or another version.
fn first(change: impl Fn(&mut Header, &mut Vec<u8>)) -> Result<(), Fault> {
    let (_, bytes) = small();
    let frame = frames(&bytes).remove(0);
    let (mut header, mut payload) = (frame.header, frame.payload().to_vec());
    change(&mut header, &mut payload);
    let bytes = Frame::sealed(header, &payload, 0);
    let mut decoder = Decoder::new(&bytes[..]).unwrap();
    decoder.event().map(drop).map_err(|error| error.fault)
}

#[test]
fn other_versions() {
    let field = |kind: u16| {
        let mut field = kind.to_le_bytes().to_vec();
        field.extend(2u16.to_le_bytes());
        field.extend([1, 2]);
        field
    };
    first(|_, _| {}).unwrap();
    assert!(matches!(first(|h, _| h.b = 2), Err(Fault::Version(2))));
    assert!(matches!(first(|h, _| h.b = 0), Err(Fault::Version(0))));
    assert!(matches!(first(|h, _| h.a ^= 1), Err(Fault::NoStream)));
    assert!(matches!(first(|_, p| p[4] = 2), Err(Fault::Features(2))));
    first(|_, p| p[0] = 0xff).unwrap();
    first(|_, p| p.extend(field(0x7000))).unwrap();
    let required = first(|_, p| p.extend(field(0xf000)));
    assert!(matches!(required, Err(Fault::Field(0xf000))));
    assert!(first(|_, p| p.extend(field(1))).is_err());
    assert!(first(|_, p| p[28] = 1).is_err());
    assert!(first(|_, p| p.truncate(60)).is_err());
    assert!(first(|_, p| p.extend(vec![0; 1 << 15])).is_err());
}

#[test]
fn frames_of_later_versions() {
    let random = &mut Random(3);
    let disk = disk(random, 24);
    let segment = full(1, &disk);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
    encoder.begin(&segment.begin).unwrap();
    encoder.optional(200, 1, 2, b"whatever this is").unwrap();
    encoder.data(0, &disk[..8 * S]).unwrap();
    encoder.optional(9, 1, 2, &vec![0; 1 << 20]).unwrap();
    encoder.data(8, &disk[8 * S..]).unwrap();
    encoder.end().unwrap();
    encoder.finish().unwrap();
    let mut target = Disk::new();
    apply(&bytes, &mut target);
    assert!(target == disk);
    // The digest is of them, too.
    let mut parts: Vec<_> = frames(&bytes)
        .iter()
        .map(|frame| (frame.header, frame.payload().to_vec()))
        .collect();
    parts[1].1[3] ^= 1;
    assert!(said(&join(&parts)).1.is_err());
    // What may not be overlooked is not.
    parts[1].0.flags &= !OPTIONAL;
    let (all, ended) = said(&join(&parts));
    assert!(matches!(ended.unwrap_err().fault, Fault::Frame(200)));
    assert_eq!(all.len(), 1);
}

#[test]
fn nothing_is_read_behind_the_end_or_after_an_error() {
    let (_, bytes) = small();
    let longer = [&bytes[..], b"something else"].concat();
    let mut rest = &longer[..];
    let mut decoder = Decoder::new(&mut rest).unwrap();
    while !matches!(decoder.event().unwrap(), Event::Last(_)) {}
    assert_eq!(decoder.offset(), bytes.len() as u64);
    assert!(decoder.event().is_err());
    drop(decoder);
    let mut damaged = bytes.clone();
    damaged[HEADER + 3] ^= 1;
    let mut decoder = Decoder::new(&damaged[..]).unwrap();
    assert!(decoder.event().is_err());
    assert!(decoder.event().is_err());
    for nothing in [&b""[..], b"x", b"nothing like it"] {
        assert!(matches!(said(nothing).1.unwrap_err().fault, Fault::Cut));
    }
    let (_, ended) = said(&[7; 100]);
    assert!(matches!(ended.unwrap_err().fault, Fault::NoStream));
}
