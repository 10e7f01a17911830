// SPDX-License-Identifier: GPL-2.0
//! Two increments merged do what both did.

mod common;

use common::*;
use dm_snap_mv_stream::merge::{plan, write, Failure, Which};
use dm_snap_mv_stream::{Decoder, Encoder};
use proptest::prelude::*;

fn merged(first: &[u8], second: &[u8]) -> Result<Vec<u8>, Failure> {
    let open = |bytes| Decoder::new(bytes).unwrap();
    let begin = plan(open(first), open(second))?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, SMALL).unwrap();
    write(&begin, open(first), open(second), &mut encoder, &mut |_| {})?;
    encoder.finish().unwrap();
    Ok(bytes)
}

proptest! {
    #[test]
    fn the_same_as_both(
        seed in 1..u64::MAX,
        sizes in [1..300u64, 1..300, 1..300],
        begins_whole in any::<bool>(),
    ) {
        let random = &mut Random(seed);
        let [a, b, c] = sizes;
        let first = disk(random, a);
        let (second, pieces) = change(random, &first, b);
        let one = match begins_whole {
            true => full(2, &second),
            false => delta((1, &first), (2, &second), pieces),
        };
        let (third, pieces) = change(random, &second, c);
        let two = delta((2, &second), (3, &third), pieces);
        let bytes = merged(&stream(&[one.clone()]), &stream(&[two.clone()])).unwrap();
        let mut target = first.clone();
        apply(&bytes, &mut target);
        prop_assert!(target == third);
        let parts = frames(&bytes);
        let begin = dm_snap_mv_stream::Begin::decode(parts[0].payload()).unwrap();
        prop_assert_eq!(&begin.from, &one.begin.from);
        prop_assert_eq!(&begin.to, &two.begin.to);
        // No more is set than either set.
        prop_assert!(begin.sectors <= one.begin.sectors + two.begin.sectors);
    }
}

#[test]
fn what_does_not_follow() {
    let random = &mut Random(4);
    let first = disk(random, 50);
    let (second, pieces) = change(random, &first, 60);
    let one = delta((1, &first), (2, &second), pieces.clone());
    let (third, pieces) = change(random, &second, 70);
    let two = delta((2, &second), (3, &third), pieces);
    let streams = |one: &Segment, two: &Segment| (stream(&[one.clone()]), stream(&[two.clone()]));
    let tried = |change: &dyn Fn(&mut Segment)| {
        let mut other = two.clone();
        change(&mut other);
        let (a, b) = streams(&one, &other);
        merged(&a, &b)
    };
    assert!(tried(&|_| {}).is_ok());
    let apart = |result| matches!(result, Err(Failure::Apart(_)));
    assert!(apart(tried(&|s| s.begin.store[3] = 1)));
    assert!(apart(tried(&|s| s.begin.origin = 2)));
    assert!(apart(tried(&|s| s.begin.from = Some(version(1)))));
    assert!(apart(tried(&|s| *s = full(3, &third))));
    let (a, b) = streams(&one, &two);
    assert!(apart(merged(&b, &a)));
    assert!(apart(merged(&a, &a)));
    let both = stream(&[one.clone(), two.clone()]);
    let not_one = |result, which| matches!(result, Err(Failure::NotOne(w)) if w == which);
    assert!(not_one(merged(&a, &both), Which::Second) || apart(merged(&a, &both)));
    assert!(not_one(merged(&both, &b), Which::First));
    for cut in 0..a.len() {
        let cut = merged(&a[..cut], &b);
        assert!(matches!(cut, Err(Failure::Stream(Which::First, _))));
    }
    for cut in 0..b.len() {
        let cut = merged(&a, &b[..cut]);
        assert!(matches!(cut, Err(Failure::Stream(Which::Second, _))));
    }
}
