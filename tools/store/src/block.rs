// SPDX-License-Identifier: GPL-2.0
//! Metadata blocks and where they come from.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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
        Self::open_with(path, OFlag::empty())
    }

    /// As [`Device::open`], of a device that nobody else has claimed: neither a mounted file
    /// system nor a mapped device. Until it is dropped, nobody else can. A file is not claimed
    /// by anybody.
    pub fn open_exclusive(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OFlag::O_EXCL)
    }

    fn open_with(path: &Path, flags: OFlag) -> io::Result<Self> {
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits())
                .open(path)
        };
        let file = match open(flags | OFlag::O_DIRECT) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => open(flags)?,
            other => other?,
        };
        Ok(Self { file })
    }

    /// Its size in sectors of 512 bytes.
    pub fn sectors(&self) -> io::Result<u64> {
        Ok((&self.file).seek(SeekFrom::End(0))? / 512)
    }
}

impl Blocks for Device {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        let offset = nr
            .checked_mul(BLOCK_SIZE as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut block = Block::zeroed();
        self.file.read_exact_at(&mut block.0, offset)?;
        Ok(block)
    }
}
