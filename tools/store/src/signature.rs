// SPDX-License-Identifier: GPL-2.0
//! What other programs leave at the beginning of a device, by which they know it again: the same marks
//! that libblkid goes by, of what stands on block devices of today.

use crate::block::{Block, Blocks, BLOCK_SIZE};
use std::collections::BTreeMap;

/// A mark: what it is of, with its article, where it stands in bytes from the device's beginning, and
/// what stands there.
type Mark = (&'static str, u64, &'static [u8]);

/// The first one that is found counts: what is built on others comes first, and what has few bytes last.
const MARKS: &[Mark] = &[
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512 + 24, b"LVM2 001"),
    ("an LVM physical volume", 24, b"LVM2 001"),
    ("an LVM physical volume", 1024 + 24, b"LVM2 001"),
    ("an LVM physical volume", 1536 + 24, b"LVM2 001"),
    (
        "a member of a RAID",
        4096,
        b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00",
    ),
    ("a member of a RAID", 0, b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00"),
    (
        "a bcache device",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    (
        "a bcachefs file system",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    (
        "the COW device of a dm-snapshot",
        0,
        b"SnAp\x01\x00\x00\x00",
    ),
    (
        "the metadata of a thin pool",
        32,
        b"\xba\x52\x9c\x01\x00\x00\x00\x00",
    ),
    ("a swap space", BLOCK_SIZE as u64 - 10, b"SWAPSPACE2"),
    (
        "a swap space with a hibernated system",
        BLOCK_SIZE as u64 - 10,
        b"S1SUSPEND\0",
    ),
    ("an XFS file system", 0, b"XFSB"),
    ("a btrfs file system", 0x10040, b"_BHRfS_M"),
    ("an F2FS file system", 1024, b"\x10\x20\xf5\xf2"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 82, b"FAT32   "),
    ("a FAT file system", 54, b"FAT16   "),
    ("a FAT file system", 54, b"FAT12   "),
    ("a squashfs file system", 0, b"hsqs"),
    ("an EROFS file system", 1024, b"\xe2\xe1\xf5\xe0"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
];

/// Where the superblock of ext2 and those after it stands, and what it begins with there.
const EXT: u64 = 1024;
const EXT_MAGIC: Mark = ("", EXT + 56, b"\x53\xef");

/// Behind this number of bytes nothing is looked at.
#[cfg(test)]
const END: u64 = 0x11000;

/// Blocks that have been read; those that cannot be are as good as zeroes.
struct Read<'a> {
    device: &'a dyn Blocks,
    blocks: BTreeMap<u64, Box<Block>>,
}

impl Read<'_> {
    /// Whether a mark is there. None crosses the end of its block.
    fn has(&mut self, (_, at, bytes): &Mark) -> bool {
        self.bytes(*at, bytes.len())
            .is_some_and(|found| found == *bytes)
    }

    fn bytes(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        let (nr, at) = (at / BLOCK_SIZE as u64, (at % BLOCK_SIZE as u64) as usize);
        let device = self.device;
        let read = || device.read(nr).unwrap_or_else(|_| Block::zeroed());
        let block = self.blocks.entry(nr).or_insert_with(read);
        block.0.get(at..at + len)
    }

    fn number(&mut self, at: u64) -> u32 {
        let bytes = self.bytes(at, 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }

    /// Which of them a file system is.
    fn ext(&mut self) -> &'static str {
        const COMPAT_JOURNAL: u32 = 4;
        const INCOMPAT_EXTENTS: u32 = 0x40;
        const INCOMPAT_LATER: u32 = 0x80 | 0x200;
        let (compat, incompat) = (self.number(EXT + 92), self.number(EXT + 96));
        if incompat & (INCOMPAT_EXTENTS | INCOMPAT_LATER) != 0 {
            "an ext4 file system"
        } else if compat & COMPAT_JOURNAL != 0 {
            "an ext3 file system"
        } else {
            "an ext2 file system"
        }
    }
}

/// What is on a device by the marks of others than dm-snap-mv, with its article: "an ext4 file system".
/// None: nothing that is known here. A store that was formatted where something else was before may
/// have marks of that.
pub fn of(device: &dyn Blocks) -> Option<&'static str> {
    let mut read = Read {
        device,
        blocks: BTreeMap::new(),
    };
    if let Some((what, ..)) = MARKS.iter().find(|mark| read.has(mark)) {
        return Some(what);
    }
    if read.has(&EXT_MAGIC) {
        return Some(read.ext());
    }
    // A boot sector, with a partition that is not of the sort 0. Others have these two bytes as well.
    let boot = read.has(&("", 510, b"\x55\xaa"));
    let partitions = [450, 466, 482, 498];
    let any = |read: &mut Read<'_>| {
        let sorts = partitions.map(|at| read.bytes(at, 1).is_some_and(|sort| sort != [0]));
        sorts.contains(&true)
    };
    (boot && any(&mut read)).then_some("a partition table")
}

/// The same for marks at the end of a device of so many sectors of 512 bytes, which are those of a
/// RAID: of version 1.0, in the last 8 KiB, and of version 0.90, in the last whole 64 KiB.
pub fn at_end(device: &dyn Blocks, sectors: u64) -> Option<&'static str> {
    const MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";
    let blocks = |sectors: u64| sectors / (BLOCK_SIZE as u64 / 512);
    let newer = sectors.checked_sub(16).map(|sector| (blocks(sector), 1));
    let older = (sectors & !127).checked_sub(128);
    let older = older.map(|sector| (blocks(sector), 0));
    let has = |(nr, version): (u64, u32)| {
        device.read(nr).is_ok_and(|block| {
            block.0.get(..4) == Some(MAGIC) && block.0.get(4..8) == Some(&version.to_le_bytes())
        })
    };
    let found = [newer, older].into_iter().flatten().any(has);
    found.then_some("a member of a RAID")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A device of which only the beginning is not zeroes.
    struct Begins(Vec<u8>);

    impl Blocks for Begins {
        fn read(&self, nr: u64) -> io::Result<Box<Block>> {
            let mut block = Block::zeroed();
            let begin = nr as usize * BLOCK_SIZE;
            let Some(bytes) = self.0.get(begin..begin + BLOCK_SIZE) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            block.0.copy_from_slice(bytes);
            Ok(block)
        }
    }

    fn with(marks: &[(u64, &[u8])]) -> Option<&'static str> {
        let mut bytes = vec![0; END as usize];
        for (at, mark) in marks {
            let at = *at as usize;
            bytes[at..at + mark.len()].copy_from_slice(mark);
        }
        of(&Begins(bytes))
    }

    #[test]
    fn each_mark_is_known() {
        for (what, at, bytes) in MARKS {
            assert_eq!(with(&[(*at, bytes)]), Some(*what));
            assert!(*at % BLOCK_SIZE as u64 + bytes.len() as u64 <= BLOCK_SIZE as u64);
            assert!(at + bytes.len() as u64 <= END);
        }
        assert_eq!(with(&[]), None);
        // A device that is shorter.
        assert_eq!(of(&Begins(vec![0; BLOCK_SIZE])), None);
    }

    #[test]
    fn marks_at_the_end() {
        let with = |at: usize, version: u8, sectors: u64| {
            let mut bytes = vec![0; sectors as usize / 8 * BLOCK_SIZE];
            bytes[at..at + 5].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, version]);
            at_end(&Begins(bytes), sectors)
        };
        let raid = Some("a member of a RAID");
        // With 100 sectors behind the last whole 64 KiB.
        assert_eq!(with(4 * 65536, 0, 5 * 128 + 100), raid);
        assert_eq!(with(4 * 65536, 1, 5 * 128 + 100), None);
        assert_eq!(with((5 * 128 + 100 - 20) * 512, 1, 5 * 128 + 100), raid);
        assert_eq!(with(4 * 65536, 0, 5 * 128), raid);
        assert_eq!(with(5 * 65536 - 8192, 1, 5 * 128), raid);
        assert_eq!(with(0, 1, 5 * 128), None);
        assert_eq!(at_end(&Begins(Vec::new()), 0), None);
        assert_eq!(at_end(&Begins(Vec::new()), 15), None);
    }

    #[test]
    fn of_a_family_the_right_one() {
        let (_, at, magic) = EXT_MAGIC;
        let ext = |compat: u8, incompat: u8| {
            with(&[(at, magic), (EXT + 92, &[compat]), (EXT + 96, &[incompat])])
        };
        assert_eq!(ext(0, 2), Some("an ext2 file system"));
        assert_eq!(ext(4, 2), Some("an ext3 file system"));
        assert_eq!(ext(4, 0xc2), Some("an ext4 file system"));
        let boot: (u64, &[u8]) = (510, b"\x55\xaa");
        assert_eq!(with(&[boot]), None);
        assert_eq!(with(&[boot, (466, b"\x83")]), Some("a partition table"));
        // In front of a GPT there is one that protects it.
        let gpt: (u64, &[u8]) = (512, b"EFI PART");
        assert_eq!(
            with(&[boot, (450, b"\xee"), gpt]),
            Some("a GPT partition table")
        );
    }
}
