// SPDX-License-Identifier: GPL-2.0

//! What tells one disk from another.

use dm_snap_mv_model::disk::identity::{
    name_of, places, sample_of, Identity, Likeness, SAMPLES, SAMPLE_SECTORS,
};
use dm_snap_mv_model::disk::telling::telling;
use proptest::prelude::*;

const A: Identity = Identity {
    name: Some([1; 12]),
    samples: Some([1, 2, 3, 4]),
};

fn known(name: Option<u8>, samples: Option<[u32; SAMPLES]>) -> Identity {
    Identity {
        name: name.map(|byte| [byte; 12]),
        samples,
    }
}

#[test]
fn likeness() {
    use Likeness::{Another, Same, Written};
    let blank = Some([0; SAMPLES]);
    for (noted, found, likeness) in [
        (A, A, Same),
        // One by its name, whatever it holds.
        (A, known(Some(1), Some([5, 6, 7, 8])), Written),
        (A, known(Some(1), None), Same),
        // Another one by its name, whatever it holds.
        (A, known(Some(2), Some([1, 2, 3, 4])), Another),
        (A, known(Some(2), None), Another),
        // Of one that is not called anything, what it holds counts.
        (A, known(None, Some([1, 2, 3, 4])), Same),
        (A, known(None, Some([1, 6, 7, 8])), Written),
        (A, known(None, Some([5, 6, 7, 8])), Another),
        (
            known(None, Some([1, 2, 3, 4])),
            known(Some(9), Some([5, 6, 7, 4])),
            Written,
        ),
        // At the same place.
        (A, known(None, Some([4, 3, 2, 1])), Another),
        // Many disks are blank somewhere.
        (
            known(None, Some([0, 0, 0, 4])),
            known(None, Some([0, 0, 0, 5])),
            Another,
        ),
        (
            known(None, Some([0, 0, 3, 4])),
            known(None, Some([0, 0, 3, 5])),
            Written,
        ),
        (known(None, blank), known(None, blank), Same),
        (known(None, blank), known(None, Some([1, 0, 0, 0])), Another),
        (
            known(Some(1), blank),
            known(Some(1), Some([1, 0, 0, 0])),
            Written,
        ),
        // Nothing is known.
        (Identity::UNKNOWN, A, Same),
        (A, Identity::UNKNOWN, Same),
    ] {
        assert_eq!(noted.of_found(&found), likeness, "{noted:?} {found:?}");
    }
}

#[test]
fn a_sample_is_blank_or_not() {
    assert_eq!(sample_of(&[0; 4096], 77), 0);
    let mut block = [0; 4096];
    block[4095] = 1;
    assert_eq!(sample_of(&block, 77), 77);
    assert_eq!(sample_of(&block, 0), 1);
}

#[test]
fn what_tells_stays_when_the_rest_changes() {
    // As the tools that make them leave them: what is recognised, and the UUID or serial number.
    let kinds: [(usize, &[u8], usize, usize); 11] = [
        (0, b"XFSB", 32, 16),
        (0, b"LUKS\xba\xbe", 168, 40),
        (512, b"LABELONE", 544, 32),
        (1080, b"\x53\xef", 1128, 16),
        (64, b"_BHRfS_M", 267, 16),
        (4086, b"SWAPSPACE2", 1036, 16),
        (3, b"EXFAT   ", 100, 4),
        (3, b"NTFS    ", 72, 8),
        (82, b"FAT32   ", 67, 15),
        (54, b"FAT16", 39, 15),
        (512, b"EFI PART", 568, 16),
    ];
    for (at, magic, id, len) in kinds {
        let mut block = [0x11; 4096];
        block[at..at + magic.len()].copy_from_slice(magic);
        block[id..id + len].fill(7);
        assert_eq!(telling(&block), vec![7; len], "{magic:?}");
        // One without a UUID is all that there is.
        block[id..id + len].fill(0);
        assert_eq!(telling(&block).len(), 4096, "{magic:?}");
    }
    assert_eq!(telling(&[1; 4096]).len(), 4096);
    assert_eq!(telling(b"XFSB"), b"XFSB");
}

#[test]
fn names() {
    // As the format has it: FNV-1a, 128 bits.
    let of_nothing = [
        0x6c, 0x62, 0x27, 0x2e, 0x07, 0xbb, 0x01, 0x42, 0x62, 0xb8, 0x21, 0x75,
    ];
    assert_eq!(name_of(b""), of_nothing);
    let of_a = [
        0xd2, 0x28, 0xcb, 0x69, 0x6f, 0x1a, 0x8c, 0xaf, 0x78, 0x91, 0x2b, 0x70,
    ];
    assert_eq!(name_of(b"a"), of_a);
    assert_ne!(name_of(b"ID3=5000c500"), name_of(b"ID3=5000c501"));
}

#[test]
fn places_by_hand() {
    assert_eq!(places(127), None);
    assert_eq!(places(128), Some([0, 0, 0, 0]));
    assert_eq!(places(1 << 17), Some([0, 2048, 65408, 130_944]));
    assert_eq!(places((1 << 17) + 127), Some([0, 2048, 65408, 130_944]));
}

proptest! {
    #[test]
    fn places_are_within(size in prop_oneof![0..10_000u64, any::<u64>()]) {
        let Some(places) = places(size) else {
            prop_assert!(size < 128);
            return Ok(());
        };
        for place in places {
            // A multiple of the largest logical block, all of which there is.
            prop_assert_eq!(place % 128, 0);
            prop_assert!(place <= size - 128);
            prop_assert!(place + SAMPLE_SECTORS <= size);
        }
    }
}
