// SPDX-License-Identifier: GPL-2.0

//! Direct I/O: every call is a bio or a few, and nothing is answered from the page cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::content::SECTOR;
use crate::sys;

/// What any memory of direct I/O is aligned to.
const ALIGN: usize = 4096;

/// Memory for direct I/O.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many bytes, all zero.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0u8; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// An open block device. All places and lengths are in sectors.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
}

impl Disk {
    /// Opens a block device for direct I/O.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), libc::O_DIRECT, true)
    }

    /// The same for reading alone.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), libc::O_DIRECT, false)
    }

    /// The same so that every write is FUA.
    pub fn open_fua(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), libc::O_DIRECT | libc::O_DSYNC, true)
    }

    fn open_with(path: &Path, flags: i32, write: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(path)?;
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR as u64;
        Ok(Self { file, sectors })
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The open file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads `count` sectors.
    pub fn read(&self, sector: u64, count: u64) -> io::Result<Buffer> {
        let mut buffer = Buffer::new(count as usize * SECTOR);
        self.read_into(sector, &mut buffer)?;
        Ok(buffer)
    }

    /// Fills a buffer.
    pub fn read_into(&self, sector: u64, buffer: &mut Buffer) -> io::Result<()> {
        self.file.read_exact_at(buffer, sector * SECTOR as u64)
    }

    /// Writes a buffer.
    pub fn write(&self, sector: u64, buffer: &Buffer) -> io::Result<()> {
        self.file.write_all_at(buffer, sector * SECTOR as u64)
    }

    /// Discards.
    pub fn discard(&self, sector: u64, count: u64) -> io::Result<()> {
        sys::discard(&self.file, sector * SECTOR as u64, count * SECTOR as u64)
    }

    /// Writes zeroes, as the device does it best.
    pub fn zero_out(&self, sector: u64, count: u64) -> io::Result<()> {
        sys::zero_out(&self.file, sector * SECTOR as u64, count * SECTOR as u64)
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// How many of this program's threads sleep in a [`Disk::write`].
pub fn writes_waiting() -> io::Result<usize> {
    waiting("/proc/self/task", libc::SYS_pwrite64)
}

/// How many of this program's threads sleep in a [`Disk::read`].
pub fn reads_waiting() -> io::Result<usize> {
    waiting("/proc/self/task", libc::SYS_pread64)
}

/// How many of this program's threads sleep in an ioctl.
pub fn ioctls_waiting() -> io::Result<usize> {
    waiting("/proc/self/task", libc::SYS_ioctl)
}

/// Whether a process sleeps in an ioctl.
pub fn is_in_ioctl(pid: u32) -> io::Result<bool> {
    Ok(waiting(&format!("/proc/{pid}/task"), libc::SYS_ioctl)? > 0)
}

/// How many threads of a process sleep in a system call.
fn waiting(tasks: &str, call: libc::c_long) -> io::Result<usize> {
    let mut count = 0;
    for task in fs::read_dir(tasks)? {
        // Of a thread that does not sleep it is "running". One that has just ended is gone.
        let Ok(text) = fs::read_to_string(task?.path().join("syscall")) else {
            continue;
        };
        let number = text.split_whitespace().next().map(str::parse);
        count += usize::from(number == Some(Ok(call)));
    }
    Ok(count)
}
