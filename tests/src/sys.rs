// SPDX-License-Identifier: GPL-2.0

//! The system calls that the standard library does not have. Everything unsafe of this
//! crate is here.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// Size of `struct dm_ioctl`, which every buffer of [`device_mapper`] begins with.
pub const DM_HEADER: usize = 312;

/// Where `struct dm_ioctl` holds the size of the whole buffer.
pub const DM_DATA_SIZE: usize = 12;

/// One of device-mapper's ioctls. `buffer` is a `struct dm_ioctl` and what follows it; the
/// kernel writes its answer there.
pub fn device_mapper(control: &File, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    assert!(buffer.len() >= DM_HEADER);
    let size = u32::try_from(buffer.len()).expect("a small buffer");
    buffer[DM_DATA_SIZE..DM_DATA_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
    // _IOWR(0xfd, command, struct dm_ioctl)
    let request = (3 << 30) | ((DM_HEADER as libc::c_ulong) << 16) | (0xfd << 8);
    // SAFETY: The kernel reads and writes at most as many bytes as `data_size` says, which
    // was set to the length of the buffer just now.
    let rc = unsafe {
        libc::ioctl(
            control.as_raw_fd(),
            request | libc::c_ulong::from(command),
            buffer.as_mut_ptr(),
        )
    };
    result(rc)
}

/// Writes to a block device in such a way that the call fails rather than waits before the write
/// has been submitted. Returns how many bytes were written.
pub fn write_nowait(disk: &File, bytes: &[u8], start: u64) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let start = libc::off_t::try_from(start).map_err(io::Error::other)?;
    // SAFETY: The kernel reads one iovec and the bytes that it stands for, which are there.
    let done = unsafe { libc::pwritev2(disk.as_raw_fd(), &part, 1, start, libc::RWF_NOWAIT) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Discards `length` bytes from `start` of a block device.
pub fn discard(disk: &File, start: u64, length: u64) -> io::Result<()> {
    range(disk, BLKDISCARD, start, length)
}

/// Writes zeroes to `length` bytes from `start` of a block device.
pub fn zero_out(disk: &File, start: u64, length: u64) -> io::Result<()> {
    range(disk, BLKZEROOUT, start, length)
}

fn range(disk: &File, request: libc::c_ulong, start: u64, length: u64) -> io::Result<()> {
    let range = [start, length];
    // SAFETY: These requests read two u64 and write nothing.
    let rc = unsafe { libc::ioctl(disk.as_raw_fd(), request, range.as_ptr()) };
    result(rc)
}

/// A request of the network block device's driver that takes a number.
pub fn nbd(device: &File, request: u8, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: None of the driver's requests takes its argument for an address.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            0xab00 | libc::c_ulong::from(request),
            argument,
        )
    };
    result(rc)
}

/// Unloads a module, unless somebody uses it (`EAGAIN`).
pub fn delete_module(name: &CStr) -> io::Result<()> {
    // SAFETY: The name is a C string, and is only read.
    let rc = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    result(rc as libc::c_int)
}

fn result(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
