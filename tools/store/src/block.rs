// SPDX-License-Identifier: GPL-2.0
//! Metadata blocks and where they come from.

use crate::ahead::{self, Each};
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a metadata block.
pub const BLOCK_SIZE: usize = 4096;

/// One metadata block. Aligned as direct I/O wants its memory.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK_SIZE]);

impl Block {
    /// A block of zeroes.
    pub fn zeroed() -> Box<Self> {
        Box::new(Self([0; BLOCK_SIZE]))
    }
}

/// Something that holds metadata blocks.
pub trait Blocks {
    /// Reads block `nr`. It is an error when there is no such block.
    fn read(&self, nr: u64) -> io::Result<Box<Block>>;

    /// Reads several blocks, and returns them in the order in which they were asked for.
    fn read_many(&self, numbers: &[u64]) -> Vec<io::Result<Box<Block>>> {
        numbers.iter().map(|&nr| self.read(nr)).collect()
    }

    /// Gives several blocks to `each`, in the order in which they were asked for, until it breaks. Where
    /// that makes sense, others are being read meanwhile.
    fn read_ahead(&self, numbers: &[u64], each: Each<'_>) {
        for block in self.read_many(numbers) {
            if each(block).is_break() {
                break;
            }
        }
    }
}

/// The same that can be written.
pub trait WritableBlocks: Blocks {
    /// Writes block `nr`, which there must be.
    fn write(&self, nr: u64, block: &Block) -> io::Result<()>;

    /// Has all that was written on stable storage.
    fn flush(&self) -> io::Result<()>;
}

/// What a [`Device`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePlace {
    /// A block device with this number, as the C library packs it.
    Device(u64),
    /// A file: the number of the device that it is on, and of its inode.
    File(u64, u64),
}

/// A COW device, or an image of one in a file.
pub struct Device {
    file: File,
}

impl Device {
    /// Opens `path` for reading only.
    ///
    /// The kernel writes metadata past the page cache of the device's node, so pages that
    /// were cached earlier may be stale for as long as anybody has the device open. Hence
    /// direct I/O, except where a file system does not offer it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, false, OFlag::empty())
    }

    /// As [`Device::open`], of a device that nobody else has claimed: neither a mounted file
    /// system nor a mapped device. Until it is dropped, nobody else can. A file is not claimed
    /// by anybody, not even if a loop device has it: see [`Device::place`].
    pub fn open_exclusive(path: &Path) -> io::Result<Self> {
        Self::open_with(path, false, OFlag::O_EXCL)
    }

    /// As [`Device::open_exclusive`], for writing as well.
    pub fn open_for_repair(path: &Path) -> io::Result<Self> {
        Self::open_with(path, true, OFlag::O_EXCL)
    }

    fn open_with(path: &Path, write: bool, flags: OFlag) -> io::Result<Self> {
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(flags.bits())
                .open(path)
        };
        let file = match open(flags | OFlag::O_DIRECT) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => open(flags)?,
            other => other?,
        };
        Ok(Self { file })
    }

    /// What it is.
    pub fn place(&self) -> io::Result<DevicePlace> {
        let meta = self.file.metadata()?;
        Ok(match meta.file_type().is_block_device() {
            true => DevicePlace::Device(meta.rdev()),
            false => DevicePlace::File(meta.dev(), meta.ino()),
        })
    }

    /// Its size in sectors of 512 bytes.
    pub fn sectors(&self) -> io::Result<u64> {
        Ok((&self.file).seek(SeekFrom::End(0))? / 512)
    }
}

fn offset(nr: u64) -> io::Result<u64> {
    nr.checked_mul(BLOCK_SIZE as u64)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Blocks for Device {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let mut block = Block::zeroed();
        self.file.read_exact_at(&mut block.0, offset(nr)?)?;
        Ok(block)
    }

    /// One request for those that stand side by side.
    fn read_many(&self, numbers: &[u64]) -> Vec<io::Result<Box<Block>>> {
        let mut order: Vec<(u64, usize)> = numbers.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut all: Vec<_> = numbers.iter().map(|_| None).collect();
        for run in order.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0)) {
            let Some(&(first, _)) = run.first() else {
                continue;
            };
            let blocks = match self.read_run(first, run.len()) {
                Some(blocks) => blocks.into_iter().map(Ok).collect(),
                // Perhaps not all of them are bad.
                None => run.iter().map(|&(nr, _)| self.read(nr)).collect::<Vec<_>>(),
            };
            for (&(_, place), block) in run.iter().zip(blocks) {
                if let Some(place) = all.get_mut(place) {
                    *place = Some(block);
                }
            }
        }
        let missing = || Err(io::ErrorKind::InvalidInput.into());
        all.into_iter()
            .map(|block| block.unwrap_or_else(missing))
            .collect()
    }

    fn read_ahead(&self, numbers: &[u64], each: Each<'_>) {
        ahead::read(self, numbers, each);
    }
}

impl Device {
    /// Reads `count` blocks from `first` on, if all of them can be read at once.
    fn read_run(&self, first: u64, count: usize) -> Option<Vec<Box<Block>>> {
        if count < 2 {
            return None;
        }
        let mut blocks: Vec<_> = (0..count).map(|_| Block::zeroed()).collect();
        let mut parts: Vec<_> = blocks
            .iter_mut()
            .map(|block| io::IoSliceMut::new(&mut block.0))
            .collect();
        let at = i64::try_from(offset(first).ok()?).ok()?;
        let read = nix::sys::uio::preadv(&self.file, &mut parts, at).ok()?;
        (read == count * BLOCK_SIZE).then_some(blocks)
    }
}

impl WritableBlocks for Device {
    fn write(&self, nr: u64, block: &Block) -> io::Result<()> {
        self.file.write_all_at(&block.0, offset(nr)?)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
