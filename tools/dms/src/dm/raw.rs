// SPDX-License-Identifier: GPL-2.0
//! Device-mapper's ioctls.
//!
//! The structures are those of the devicemapper crate, the calls are not: it refuses all of
//! them where no udev runs. It also takes and gives text only, but an identity need not be
//! UTF-8, and a word that is must be cut up for the kernel in the middle of a character at
//! times (see [`crate::words`]). And it repeats a message whose reply did not fit, which would
//! take a second snapshot. Its way of keeping in step with udev is used ([`super::udev`]).

use crate::devno::Devno;
use devicemapper_sys as sys;
use nix::errno::Errno;
use nix::libc;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Bytes for what a request carries, either way.
const ROOM: usize = 64 * 1024;

/// The same for lists of devices, of which there may be thousands, and tables of as many lines.
const LIST_ROOM: usize = 1024 * 1024;

/// The version of the interface that has replies to messages.
const VERSION: [u32; 3] = [4, 2, 0];

/// The version that can be told to note events.
const ARM_VERSION: [u32; 3] = [4, 37, 0];

#[repr(C, align(8))]
struct Request<const N: usize> {
    header: sys::dm_ioctl,
    data: [u8; N],
}

const DATA: usize = std::mem::offset_of!(Request<ROOM>, data);

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

impl<const N: usize> Request<N> {
    /// A request about the device `name`, or about all with an empty one.
    fn new(name: &str) -> Result<Box<Self>, Errno> {
        let mut request = Box::new(Self {
            header: sys::dm_ioctl {
                version: VERSION,
                data_size: size_of::<Self>() as u32,
                data_start: DATA as u32,
                ..Default::default()
            },
            data: [0; N],
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

    fn send(&mut self, control: &File, command: u32) -> Result<(), Errno> {
        let code = nix::request_code_readwrite!(sys::DM_IOCTL, command, size_of::<sys::dm_ioctl>());
        let to: *mut Self = self;
        // SAFETY: The kernel reads and writes no more than `data_size` bytes from the
        // header's beginning, which is the size of what the pointer leads to, and any bytes
        // are valid in it.
        #[allow(unsafe_code)]
        let result = unsafe { libc::ioctl(control.as_raw_fd(), code, to) };
        Errno::result(result).map(drop)
    }

    /// Sends it, and wants the whole answer.
    fn ask(&mut self, control: &File, command: u32) -> Result<&[u8], Errno> {
        self.send(control, command)?;
        if self.flag(sys::DM_BUFFER_FULL_FLAG) {
            return Err(Errno::EOVERFLOW);
        }
        Ok(self.answer())
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

/// What is known of a device besides its table.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Its number.
    pub devno: Devno,
    /// How often it is open.
    pub opened: u32,
    /// Whether it is suspended.
    pub suspended: bool,
}

/// The names of all devices.
pub fn devices(control: &File) -> Result<Vec<String>, Errno> {
    let mut request = Request::<LIST_ROOM>::new("")?;
    Ok(device_names(
        request.ask(control, sys::DM_LIST_DEVICES_CMD)?,
    ))
}

/// The names of all types of targets that are loaded.
pub fn target_types(control: &File) -> Result<Vec<String>, Errno> {
    let mut request = Request::<ROOM>::new("")?;
    Ok(type_names(request.ask(control, sys::DM_LIST_VERSIONS_CMD)?))
}

/// What is known of device `name`.
pub fn info(control: &File, name: &str) -> Result<Info, Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    request.send(control, sys::DM_DEV_STATUS_CMD)?;
    Ok(Info {
        devno: devno(&request.header),
        opened: u32::try_from(request.header.open_count).unwrap_or(0),
        suspended: request.flag(sys::DM_SUSPEND_FLAG),
    })
}

/// Creates a device without a table; with a UUID, unless that is empty.
pub fn create(control: &File, name: &str, uuid: &str) -> Result<(), Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    // The last byte stays 0.
    if uuid.len() >= request.header.uuid.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.header.uuid.iter_mut().zip(uuid.bytes()) {
        *to = from as libc::c_char;
    }
    request.send(control, sys::DM_DEV_CREATE_CMD)
}

/// Gives a device a UUID that has none.
pub fn set_uuid(control: &File, name: &str, uuid: &str) -> Result<(), Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    request.put(&[uuid.as_bytes()])?;
    request.header.flags = sys::DM_UUID_FLAG;
    request.send(control, sys::DM_DEV_RENAME_CMD)
}

/// Resumes a device, with the table that was loaded last. `udev`: flags for udev's rules, which get
/// them with the event if there are any.
pub fn resume(control: &File, name: &str, udev: u32) -> Result<(), Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    request.header.event_nr = udev << sys::DM_UDEV_FLAGS_SHIFT;
    request.send(control, sys::DM_DEV_SUSPEND_CMD)
}

/// Removes a device.
pub fn remove(control: &File, name: &str) -> Result<(), Errno> {
    Request::<ROOM>::new(name)?.send(control, sys::DM_DEV_REMOVE_CMD)
}

/// Has a device removed as soon as nobody has it open any more, whoever that is now.
pub fn remove_when_closed(control: &File, name: &str) -> Result<(), Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    request.header.flags = sys::DM_DEFERRED_REMOVE;
    request.send(control, sys::DM_DEV_REMOVE_CMD)
}

/// Has the kernel let nobody write to a block device, or whoever may.
pub fn set_read_only(device: &File, on: bool) -> Result<(), Errno> {
    /// BLKROSET.
    const SET: libc::Ioctl = 0x125d;
    let on = libc::c_int::from(on);
    // SAFETY: The kernel reads one `int` where the pointer leads to.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(device.as_raw_fd(), SET, &on) };
    Errno::result(result).map(drop)
}

/// Discards so many bytes of a block device from there on.
pub fn discard(device: &File, start: u64, bytes: u64) -> Result<(), Errno> {
    /// BLKDISCARD.
    const DISCARD: libc::Ioctl = 0x1277;
    let range = [start, bytes];
    // SAFETY: The kernel reads two `u64` where the pointer leads to.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(device.as_raw_fd(), DISCARD, range.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Begins to note events: `control` can be polled for those from now on.
pub fn arm(control: &File) -> Result<(), Errno> {
    let mut request = Request::<ROOM>::new("")?;
    request.header.version = ARM_VERSION;
    request.send(control, sys::DM_DEV_ARM_POLL_CMD)
}

/// Sends a message to the target of device `name`. The reply, if there is one.
pub fn message(control: &File, name: &str, text: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    // Before the text stands the sector that tells which target is meant.
    request.put(&[&0u64.to_ne_bytes(), text])?;
    let answer = until_nul(request.ask(control, sys::DM_TARGET_MSG_CMD)?).to_vec();
    Ok(request.flag(sys::DM_DATA_OUT_FLAG).then_some(answer))
}

/// Loads a table of one target into device `name`.
pub fn load(control: &File, name: &str, target: &Target) -> Result<Devno, Errno> {
    let mut request = Request::<ROOM>::new(name)?;
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
    request.send(control, sys::DM_TABLE_LOAD_CMD)?;
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
    match lines_within::<ROOM>(control, name, ask) {
        // A volume in thousands of pieces.
        Err(Errno::EOVERFLOW) => lines_within::<LIST_ROOM>(control, name, ask),
        other => other,
    }
}

fn lines_within<const N: usize>(
    control: &File,
    name: &str,
    ask: Ask,
) -> Result<(Devno, Vec<Target>), Errno> {
    let mut request = Request::<N>::new(name)?;
    request.header.flags = match ask {
        Ask::Table => sys::DM_STATUS_TABLE_FLAG,
        Ask::Status => sys::DM_NOFLUSH_FLAG,
    };
    let answer = request.ask(control, sys::DM_TABLE_STATUS_CMD)?.to_vec();
    let targets = targets(&answer, request.header.target_count as usize);
    Ok((devno(&request.header), targets))
}

/// The lines of the table that was loaded into device `name`, which has none in use yet. No
/// lines if it has one in use, or none at all.
pub fn first_table(control: &File, name: &str) -> Result<(Devno, Vec<Target>), Errno> {
    let mut request = Request::<ROOM>::new(name)?;
    request.header.flags = sys::DM_STATUS_TABLE_FLAG | sys::DM_QUERY_INACTIVE_TABLE_FLAG;
    let answer = request.ask(control, sys::DM_TABLE_STATUS_CMD)?.to_vec();
    let count = match request.flag(sys::DM_ACTIVE_PRESENT_FLAG) {
        true => 0,
        false => request.header.target_count as usize,
    };
    Ok((devno(&request.header), targets(&answer, count)))
}

fn devno(header: &sys::dm_ioctl) -> Devno {
    Devno::of_dev_t(header.dev)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

fn text_at(bytes: &[u8], at: usize) -> String {
    let text = until_nul(bytes.get(at..).unwrap_or_default());
    String::from_utf8_lossy(text).into_owned()
}

/// Walks through entries that each tell, `next` bytes in, how far it is to the following one.
fn entries(answer: &[u8], next: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(answer);
    std::iter::from_fn(move || {
        let entry = rest?;
        let step = u32_at(entry, next)?;
        rest = match step {
            0 => None,
            step => entry.get(step as usize..),
        };
        Some(entry)
    })
}

/// Each entry: a u64 number, a u32 step, the name. No device has the number 0.
fn device_names(answer: &[u8]) -> Vec<String> {
    entries(answer, 8)
        .filter(|entry| u64_at(entry, 0).is_some_and(|dev| dev != 0))
        .map(|entry| text_at(entry, 12))
        .collect()
}

/// Each entry: a u32 step, three of a version, the name.
fn type_names(answer: &[u8]) -> Vec<String> {
    entries(answer, 0).map(|entry| text_at(entry, 16)).collect()
}

/// Takes the answer to a status request apart. What does not fit into it is left out.
///
/// Each entry: u64 first sector, u64 sectors, i32 status, u32 where the following one is from
/// the beginning of the answer, 16 bytes of type, parameters.
fn targets(answer: &[u8], count: usize) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut at = 0;
    while targets.len() < count {
        let entry = answer.get(at..).unwrap_or_default();
        let (Some(start), Some(sectors), Some(next)) =
            (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 20))
        else {
            break;
        };
        let Some((kind, params)) = entry.get(24..).and_then(|e| e.split_at_checked(16)) else {
            break;
        };
        targets.push(Target {
            start,
            sectors,
            kind: until_nul(kind).to_vec(),
            params: until_nul(params).to_vec(),
        });
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
        assert!(Request::<ROOM>::new(&"x".repeat(127)).is_ok());
        assert!(Request::<ROOM>::new(&"x".repeat(128)).is_err());
    }

    #[test]
    fn data_must_leave_room_for_a_nul() {
        let mut request = Request::<ROOM>::new("x").unwrap();
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

    #[test]
    fn lists_are_taken_apart() {
        let device = |dev: u64, next: u32, name: &str| {
            let mut bytes = dev.to_ne_bytes().to_vec();
            bytes.extend(next.to_ne_bytes());
            bytes.extend(name.bytes());
            bytes.resize(32, 0);
            bytes
        };
        let answer = [device(1, 32, "orig"), device(2, 0, "snap")].concat();
        assert_eq!(device_names(&answer), ["orig", "snap"]);
        assert_eq!(device_names(&device(0, 0, "")), [""; 0]);
        assert_eq!(device_names(&[]), [""; 0]);
        let kind = |next: u32, name: &str| {
            let mut bytes = next.to_ne_bytes().to_vec();
            bytes.extend([0; 12]);
            bytes.extend(name.bytes());
            bytes.resize(32, 0);
            bytes
        };
        let answer = [kind(32, "linear"), kind(0, "dm-snap-mv")].concat();
        assert_eq!(type_names(&answer), ["linear", "dm-snap-mv"]);
    }
}
