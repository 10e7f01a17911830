// SPDX-License-Identifier: GPL-2.0
//! What is written is read as it was, whole or from any mark on.

mod common;

use common::*;
use dm_snap_mv_stream::begin::Begin;
use dm_snap_mv_stream::source::count;
use dm_snap_mv_stream::{Encoder, Fault, Options, Position, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "[ -~äλ]{0,30}"
}

prop_compose! {
    fn version()(
        tag in any::<u32>(),
        uuid in option::of(any::<[u8; 16]>()),
        group in option::of(any::<[u8; 16]>()),
        content in option::of(vec(any::<u8>(), 0..=32)),
        created in option::of(any::<u64>()),
        name in option::of(text()),
        memo in option::of(text()),
    ) -> Version {
        Version { tag, uuid, group, content, created, name, memo }
    }
}

prop_compose! {
    fn any_begin()(
        size in 1..1u64 << 54,
        from in option::of((1..1u64 << 54, version())),
        chunk in 3..=11u32,
        store in any::<[u8; 16]>(),
        origin in any::<u32>(),
        identity in vec(any::<u8>(), 0..=255),
        to in version(),
        compat in any::<u32>(),
    ) -> Begin {
        Begin {
            compat,
            size,
            from_size: from.as_ref().map_or(0, |(size, _)| *size),
            chunk: 1 << chunk,
            store,
            origin,
            identity,
            to,
            from: from.map(|(_, version)| version),
            ..Begin::default()
        }
    }
}

proptest! {
    #[test]
    fn what_a_segment_is_of(begin in any_begin(), sectors in any::<u64>()) {
        let begin = Begin { sectors: sectors % begin.size, ..begin };
        let count = begin.sectors.min(1);
        let begin = Begin { ranges: count, chunks: count, ..begin };
        let bytes = begin.encode().unwrap();
        let decoded = Begin::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded, &begin);
        for cut in 0..bytes.len() {
            let decoded = Begin::decode(&bytes[..cut]);
            // At the end of an optional field it is another one.
            prop_assert!(decoded.map_or(true, |other| other != begin), "{}", cut);
        }
    }

    #[test]
    fn versions_and_their_differences(
        seed in 1..u64::MAX,
        sectors in 1..400u64,
        later in 1..400u64,
        level in 0..4i32,
        mark_every in 512..40_000u64,
        frame in 9..=20u32,
    ) {
        let options = Options { level, mark_every, frame: 1 << frame };
        let random = &mut Random(seed);
        let old = disk(random, sectors);
        let (new, pieces) = change(random, &old, later);
        let segments = [full(1, &old), delta((1, &old), (2, &new), pieces)];
        let bytes = resumed(&segments, None, options);
        let mut target = Disk::new();
        apply(&bytes, &mut target);
        prop_assert!(target == new);
        // And what each says alone.
        let mut target = Disk::new();
        apply(&resumed(&segments[..1], None, options), &mut target);
        prop_assert!(target == old);

        // From any mark on: what was set behind it is the same, and to the same digest.
        let alone = resumed(&segments[1..], None, options);
        let (all, _) = said(&alone);
        for (nr, mark) in all.iter().enumerate() {
            let Said::Mark(position) = mark else { continue };
            let rest = resumed(&segments[1..], Some(position), options);
            let (rest, ended) = said(&rest);
            prop_assert!(ended.is_ok());
            prop_assert!(rest[1..] == all[nr + 1..]);
        }
    }

    #[test]
    fn however_data_are_handed_over(seed in 1..u64::MAX, sectors in 1..200u64) {
        let random = &mut Random(seed);
        let disk = disk(random, sectors);
        let segment = full(1, &disk);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
        encoder.begin(&segment.begin).unwrap();
        let mut at = 0;
        while at < sectors {
            let some = (8 + random.below(3) * 8 - at % 8).min(sectors - at);
            encoder.data(at, &disk[at as usize * S..][..some as usize * S]).unwrap();
            at += some;
        }
        encoder.end().unwrap();
        encoder.finish().unwrap();
        prop_assert!(bytes == stream(&[segment]));
    }
}

#[test]
fn a_large_one_has_its_marks_and_its_frames() {
    let sectors = 80 * 2048 + 3;
    let mut disk = vec![0u8; sectors as usize * S];
    disk.chunks_mut(S)
        .enumerate()
        .for_each(|(nr, sector)| sector.fill(1 + (nr % 255) as u8));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, Options::default()).unwrap();
    write(&mut encoder, &full(1, &disk), None).unwrap();
    encoder.finish().unwrap();
    let (all, ended) = said(&bytes);
    ended.unwrap();
    let data = |s: &&Said| matches!(s, Said::Data(_, bytes) if bytes.len() == 1 << 20);
    assert_eq!(all.iter().filter(data).count(), 80);
    let marks = all.iter().filter(|s| matches!(s, Said::Mark(_)));
    assert_eq!(marks.count(), 1);
    assert!(bytes.len() < disk.len() / 50, "{}", bytes.len());
}

#[test]
fn zeroes_take_no_room() {
    let size = (1 << 54) - 1;
    let piece = dm_snap_mv_stream::Piece {
        start: 0,
        sectors: size,
        zero: true,
    };
    let counts = count([Ok(piece)], 8).unwrap();
    let begin = Begin {
        size,
        chunk: 8,
        ..Begin::default()
    }
    .with_counts(&counts);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
    encoder.begin(&begin).unwrap();
    encoder.zero(0, size).unwrap();
    assert_eq!(encoder.end().unwrap().sectors, size);
    encoder.finish().unwrap();
    assert!(bytes.len() < 512);
    said(&bytes).1.unwrap();
}

#[test]
fn a_sender_is_told_of_its_mistakes() {
    let random = &mut Random(5);
    let old = disk(random, 300);
    let (new, pieces) = change(random, &old, 300);
    assert!(pieces.len() > 3);
    let good = delta((1, &old), (2, &new), pieces);
    let tried = |change: &dyn Fn(&mut Segment), from: Option<Position>| {
        let mut segment = good.clone();
        change(&mut segment);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
        match write(&mut encoder, &segment, from.as_ref()) {
            Ok(()) => None,
            Err(error) => Some(matches!(error.fault, Fault::Misused(_))),
        }
    };
    assert_eq!(tried(&|_| {}, None), None);
    let wrong: &[&dyn Fn(&mut Segment)] = &[
        &|s| s.begin.sectors += 1,
        &|s| s.begin.sectors -= 1,
        &|s| s.begin.chunks -= 1,
        &|s| s.begin.ranges += 1,
        &|s| s.begin.ranges -= 1,
        &|s| s.begin.size = s.pieces[0].start,
        &|s| s.begin.size = 0,
        &|s| s.begin.chunk = 9,
        &|s| s.begin.from_size = 0,
        &|s| s.begin.to.name = Some("\n".into()),
        &|s| s.begin.identity = vec![0; 256],
        &|s| s.pieces.reverse(),
        &|s| _ = s.pieces.pop(),
        // Such a version does not reach so far.
        &|s| s.begin.from_size = 1,
    ];
    for (nr, change) in wrong.iter().enumerate() {
        assert_eq!(tried(*change, None), Some(true), "{nr}");
    }
    let (all, _) = said(&stream(&[good.clone()]));
    let position = all.iter().find_map(|said| match said {
        Said::Mark(position) => Some(*position),
        _ => None,
    });
    let position = position.expect("a mark");
    assert_eq!(tried(&|_| {}, Some(position)), None);
    assert_eq!(tried(&|s| s.begin.to.tag = 3, Some(position)), Some(true));
    let others: &[&dyn Fn(&mut Position)] = &[
        &|p| p.segment[0] ^= 1,
        &|p| p.mark = 0,
        &|p| p.sector = 301,
        &|p| p.counts.sectors = 0,
        &|p| p.counts.ranges = 0,
        &|p| p.counts.data = p.counts.sectors + 1,
    ];
    for (nr, change) in others.iter().enumerate() {
        let mut other = position;
        change(&mut other);
        assert_eq!(tried(&|_| {}, Some(other)), Some(true), "{nr}");
    }
}
