// SPDX-License-Identifier: GPL-2.0
//! The ioctls that the devicemapper crate cannot be used for.
//!
//! It takes and gives text, but an identity need not be UTF-8, and a word that is must be cut
//! up for the kernel in the middle of a character at times (see [`crate::words`]). And it
//! repeats a message whose reply did not fit, which would take a second snapshot.

use crate::devno::Devno;
use devicemapper_sys as sys;
use nix::errno::Errno;
use nix::libc;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Bytes for what a request carries, either way.
const ROOM: usize = 64 * 1024;

/// The version of the interface that has replies to messages.
const VERSION: [u32; 3] = [4, 2, 0];

#[repr(C, align(8))]
struct Request {
    header: sys::dm_ioctl,
    data: [u8; ROOM],
}

const DATA: usize = std::mem::offset_of!(Request, data);

#[allow(unsafe_code)]
mod call {
    use super::{sys, Request};

    nix::ioctl_readwrite_bad!(
        message,
        nix::request_code_readwrite!(
            sys::DM_IOCTL,
            sys::DM_TARGET_MSG_CMD,
            size_of::<sys::dm_ioctl>()
        ),
        Request
    );
    nix::ioctl_readwrite_bad!(
        load,
        nix::request_code_readwrite!(
            sys::DM_IOCTL,
            sys::DM_TABLE_LOAD_CMD,
            size_of::<sys::dm_ioctl>()
        ),
        Request
    );
    nix::ioctl_readwrite_bad!(
        status,
        nix::request_code_readwrite!(
            sys::DM_IOCTL,
            sys::DM_TABLE_STATUS_CMD,
            size_of::<sys::dm_ioctl>()
        ),
        Request
    );
}

type Call = unsafe fn(libc::c_int, *mut Request) -> nix::Result<libc::c_int>;

/// One line of a table, or of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The first sector.
    pub start: u64,
    /// The number of sectors.
    pub sectors: u64,
    /// The type's name.
    pub kind: Vec<u8>,
    /// The target's own words.
    pub params: Vec<u8>,
}

impl Request {
    fn new(name: &str) -> Result<Box<Self>, Errno> {
        let mut request = Box::new(Self {
            header: sys::dm_ioctl {
                version: VERSION,
                data_size: size_of::<Self>() as u32,
                data_start: DATA as u32,
                ..Default::default()
            },
            data: [0; ROOM],
        });
        // The last byte stays 0.
        if name.len() >= request.header.name.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        for (to, from) in request.header.name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(request)
    }

    /// Puts `parts` one after the other where the data begin; a 0 follows.
    fn put(&mut self, parts: &[&[u8]]) -> Result<(), Errno> {
        let all = parts.concat();
        let place = self.data.get_mut(..all.len()).ok_or(Errno::E2BIG)?;
        place.copy_from_slice(&all);
        match self.data.get(all.len()) {
            Some(0) => Ok(()),
            _ => Err(Errno::E2BIG),
        }
    }

    fn send(&mut self, control: &File, call: Call) -> Result<(), Errno> {
        // SAFETY: The kernel reads and writes no more than `data_size` bytes from the
        // header's beginning, which is the size of what the pointer leads to, and any bytes
        // are valid in it.
        #[allow(unsafe_code)]
        unsafe {
            call(control.as_raw_fd(), self)?;
        }
        Ok(())
    }

    fn flag(&self, flag: u32) -> bool {
        self.header.flags & flag != 0
    }

    /// What the kernel answered.
    fn answer(&self) -> &[u8] {
        let from = (self.header.data_start as usize).saturating_sub(DATA);
        let to = (self.header.data_size as usize).saturating_sub(DATA);
        self.data.get(from..to).unwrap_or_default()
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// Sends a message to the target of device `name`. The reply, if there is one.
pub fn message(control: &File, name: &str, text: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut request = Request::new(name)?;
    // Before the text stands the sector that tells which target is meant.
    request.put(&[&0u64.to_ne_bytes(), text])?;
    request.send(control, call::message)?;
    if request.flag(sys::DM_BUFFER_FULL_FLAG) {
        return Err(Errno::EOVERFLOW);
    }
    Ok(request
        .flag(sys::DM_DATA_OUT_FLAG)
        .then(|| until_nul(request.answer()).to_vec()))
}

/// Loads a table of one target into device `name`.
pub fn load(control: &File, name: &str, target: &Target) -> Result<Devno, Errno> {
    let mut request = Request::new(name)?;
    let mut kind = [0; 16];
    let place = kind
        .get_mut(..target.kind.len())
        .ok_or(Errno::ENAMETOOLONG)?;
    place.copy_from_slice(&target.kind);
    request.put(&[
        &target.start.to_ne_bytes(),
        &target.sectors.to_ne_bytes(),
        // The status, and where the next target is: there is none.
        &[0; 8],
        &kind,
        &target.params,
    ])?;
    request.header.target_count = 1;
    request.send(control, call::load)?;
    Ok(devno(&request.header))
}

/// What is asked of a table.
#[derive(Clone, Copy)]
pub enum Ask {
    /// The lines it was loaded with.
    Table,
    /// Each target's status. Nothing is flushed for it.
    Status,
}

/// The lines of the active table of device `name`, and the device's number.
pub fn lines(control: &File, name: &str, ask: Ask) -> Result<(Devno, Vec<Target>), Errno> {
    let mut request = Request::new(name)?;
    request.header.flags = match ask {
        Ask::Table => sys::DM_STATUS_TABLE_FLAG,
        Ask::Status => sys::DM_NOFLUSH_FLAG,
    };
    request.send(control, call::status)?;
    if request.flag(sys::DM_BUFFER_FULL_FLAG) {
        return Err(Errno::EOVERFLOW);
    }
    let targets = targets(request.answer(), request.header.target_count as usize);
    Ok((devno(&request.header), targets))
}

fn devno(header: &sys::dm_ioctl) -> Devno {
    Devno::of_dev_t(header.dev)
}

/// Takes the answer to a status request apart. What does not fit into it is left out.
fn targets(answer: &[u8], count: usize) -> Vec<Target> {
    const HEAD: usize = 40;
    let mut targets = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let Some(head) = answer.get(at..at + HEAD) else {
            break;
        };
        let u64_at = |at: usize| {
            let bytes = head.get(at..at + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let next = head
            .get(20..24)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_ne_bytes);
        let (Some(start), Some(sectors), Some(next)) = (u64_at(0), u64_at(8), next) else {
            break;
        };
        targets.push(Target {
            start,
            sectors,
            kind: until_nul(head.get(24..HEAD).unwrap_or_default()).to_vec(),
            params: until_nul(answer.get(at + HEAD..).unwrap_or_default()).to_vec(),
        });
        // It counts from the beginning of the answer.
        if next as usize <= at {
            break;
        }
        at = next as usize;
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_the_kernels() {
        assert_eq!(size_of::<sys::dm_ioctl>(), 312);
        assert_eq!(DATA, 312);
    }

    #[test]
    fn a_name_must_fit() {
        assert!(Request::new(&"x".repeat(127)).is_ok());
        assert!(Request::new(&"x".repeat(128)).is_err());
    }

    #[test]
    fn data_must_leave_room_for_a_nul() {
        let mut request = Request::new("x").unwrap();
        assert!(request.put(&[&[1; ROOM - 1]]).is_ok());
        assert!(request.put(&[&[1; ROOM]]).is_err());
    }

    fn line(start: u64, sectors: u64, next: u32, kind: &str, params: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(start.to_ne_bytes());
        bytes.extend(sectors.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend(kind.bytes());
        bytes.resize(40, 0);
        bytes.extend(params.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let first = line(0, 8, 56, "linear", "8:17 0");
        let mut answer = first.clone();
        assert_eq!(answer.len(), 48);
        answer.resize(56, 0);
        answer.extend(line(8, 16, 0, "dm-snap-mv", "co 1"));
        let targets = targets(&answer, 2);
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[0].kind, b"linear");
        assert_eq!(targets[1].params, b"co 1");
        assert_eq!(targets[1].sectors, 16);
        assert_eq!(super::targets(&answer[..30], 2), []);
        assert_eq!(super::targets(&first, 5).len(), 1);
    }
}
