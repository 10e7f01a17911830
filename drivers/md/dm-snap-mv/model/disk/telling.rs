// SPDX-License-Identifier: GPL-2.0

//! What in the first block of a disk tells it from others, and stays when what is on it is used.
//!
//! A file system that is mounted and unmounted again writes its superblock, be it only to count that. On a
//! disk that holds little else it is the only block of a sample that is not blank, and so all that
//! there is to go by. What stays is its UUID. What is not known here counts as a whole.

/// Where a superblock that is not at the disk's beginning is looked for, if that is blank: in sectors.
pub const LATE_SECTOR: u64 = 128;

/// How something is recognised, and where it says which one it is: in bytes of the block.
struct Kind {
    magic: (usize, &'static [u8]),
    id: (usize, usize),
}

/// Partition tables last: they can stand in what else is made for booting.
const KINDS: [Kind; 11] = [
    // XFS, and its UUID.
    Kind {
        magic: (0, b"XFSB"),
        id: (32, 16),
    },
    // LUKS, both versions.
    Kind {
        magic: (0, b"LUKS\xba\xbe"),
        id: (168, 40),
    },
    // A physical volume of LVM, its label in the second sector.
    Kind {
        magic: (512, b"LABELONE"),
        id: (544, 32),
    },
    // ext2, ext3, ext4.
    Kind {
        magic: (1080, b"\x53\xef"),
        id: (1128, 16),
    },
    // btrfs, in the block at LATE_SECTOR: the UUID of the device.
    Kind {
        magic: (64, b"_BHRfS_M"),
        id: (267, 16),
    },
    // Swap space.
    Kind {
        magic: (4086, b"SWAPSPACE2"),
        id: (1036, 16),
    },
    // Serial numbers and names: exFAT, NTFS, FAT32, FAT12 and FAT16.
    Kind {
        magic: (3, b"EXFAT   "),
        id: (100, 4),
    },
    Kind {
        magic: (3, b"NTFS    "),
        id: (72, 8),
    },
    Kind {
        magic: (82, b"FAT32   "),
        id: (67, 15),
    },
    Kind {
        magic: (54, b"FAT1"),
        id: (39, 15),
    },
    // GPT, in blocks of 512 bytes.
    Kind {
        magic: (512, b"EFI PART"),
        id: (568, 16),
    },
];

/// The part of a disk's first block that tells which disk it is; all of it, if nothing in it is known.
pub fn telling(block: &[u8]) -> &[u8] {
    let part = |at: usize, len: usize| block.get(at..)?.get(..len);
    let known = KINDS
        .iter()
        .filter(|kind| part(kind.magic.0, kind.magic.1.len()) == Some(kind.magic.1))
        .find_map(|kind| part(kind.id.0, kind.id.1))
        // Of one that has none, nothing is told by that.
        .filter(|id| id.iter().any(|byte| *byte != 0));
    known.unwrap_or(block)
}
