// SPDX-License-Identifier: GPL-2.0

//! Device-mapper devices by its ioctls: what the kernel answers is seen as it is, with no
//! library between, and a thousand messages take no thousand processes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sys::{self, DM_HEADER};
use crate::time::patience;

const REMOVE: u8 = 4;
const LIST_DEVICES: u8 = 2;
const CREATE: u8 = 3;
const SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const WAIT: u8 = 8;
const TABLE_LOAD: u8 = 9;
const TABLE_CLEAR: u8 = 10;
const TABLE_STATUS: u8 = 12;
const MESSAGE: u8 = 14;

const READONLY_FLAG: u32 = 1 << 0;
const SUSPEND_FLAG: u32 = 1 << 1;
const STATUS_TABLE_FLAG: u32 = 1 << 4;
const BUFFER_FULL_FLAG: u32 = 1 << 8;
const SKIP_LOCKFS_FLAG: u32 = 1 << 10;
const NOFLUSH_FLAG: u32 = 1 << 11;
const DATA_OUT_FLAG: u32 = 1 << 16;

const NAME_LEN: usize = 128;
const SPEC: usize = 40;

/// Room for an answer, as dmsetup gives.
const ROOM: usize = 16 << 10;

fn control() -> io::Result<&'static File> {
    static CONTROL: OnceLock<File> = OnceLock::new();
    if let Some(file) = CONTROL.get() {
        return Ok(file);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")?;
    Ok(CONTROL.get_or_init(|| file))
}

struct Answer {
    flags: u32,
    open_count: i32,
    event: u32,
    minor: u32,
    targets: u32,
    data: Vec<u8>,
}

/// One ioctl: `payload` follows the header, and the answer may be `room` bytes long.
fn call(
    command: u8,
    name: &str,
    flags: u32,
    event: u32,
    payload: &[u8],
    room: usize,
) -> io::Result<Answer> {
    let mut buffer = vec![0u8; DM_HEADER + payload.len().max(room)];
    for (i, word) in [4u32, 0, 0, 0, DM_HEADER as u32].iter().enumerate() {
        buffer[i * 4..i * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    if command == TABLE_LOAD {
        buffer[20..24].copy_from_slice(&1u32.to_ne_bytes());
    }
    buffer[28..32].copy_from_slice(&flags.to_ne_bytes());
    buffer[32..36].copy_from_slice(&event.to_ne_bytes());
    assert!(name.len() < NAME_LEN);
    buffer[48..48 + name.len()].copy_from_slice(name.as_bytes());
    buffer[DM_HEADER..DM_HEADER + payload.len()].copy_from_slice(payload);
    sys::device_mapper(control()?, command, &mut buffer)?;
    let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("4 bytes"));
    let dev = word(40);
    let start = (word(16) as usize).min(buffer.len());
    let end = (word(12) as usize).clamp(start, buffer.len());
    Ok(Answer {
        flags: word(28),
        open_count: word(24) as i32,
        event: word(32),
        minor: (dev & 0xff) | ((dev >> 12) & 0xfff00),
        targets: word(20),
        data: buffer[start..end].to_vec(),
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A table of one line.
#[derive(Clone, Debug)]
pub struct Table {
    /// In sectors.
    pub length: u64,
    /// The target's name.
    pub target: &'static str,
    /// What the target is told.
    pub arguments: String,
}

impl Table {
    /// A line of `length` sectors.
    pub fn new(length: u64, target: &'static str, arguments: impl Into<String>) -> Self {
        Self {
            length,
            target,
            arguments: arguments.into(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; SPEC];
        bytes[8..16].copy_from_slice(&self.length.to_ne_bytes());
        bytes[24..24 + self.target.len()].copy_from_slice(self.target.as_bytes());
        bytes.extend_from_slice(self.arguments.as_bytes());
        bytes.push(0);
        let next = bytes.len().next_multiple_of(8);
        bytes.resize(next, 0);
        bytes[20..24].copy_from_slice(&(next as u32).to_ne_bytes());
        bytes
    }
}

/// How to suspend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suspend {
    /// The file system is frozen and I/O ends first.
    Orderly,
    /// I/O waits where it is, as for a device that is to be replaced.
    NoFlush,
}

/// A device of ours. It is removed when it goes out of scope.
#[derive(Debug)]
pub struct Mapped {
    name: String,
    minor: u32,
    gone: bool,
}

impl Mapped {
    /// A device with a fresh name that begins with `kind`, active.
    pub fn create(kind: &str, table: &Table) -> io::Result<Self> {
        Self::create_named(&fresh_name(kind), table)
    }

    /// A device of this very name, active.
    pub fn create_named(name: &str, table: &Table) -> io::Result<Self> {
        let device = Self::create_empty(name)?;
        device.load(table)?;
        device.resume()?;
        Ok(device)
    }

    /// A device with no table yet.
    pub fn create_empty(name: &str) -> io::Result<Self> {
        let answer = call(CREATE, name, 0, 0, &[], 0)?;
        Ok(Self {
            name: name.to_owned(),
            minor: answer.minor,
            gone: false,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its node, which devtmpfs makes.
    pub fn path(&self) -> PathBuf {
        format!("/dev/dm-{}", self.minor).into()
    }

    /// Its name in sysfs.
    pub fn kernel_name(&self) -> String {
        format!("dm-{}", self.minor)
    }

    /// Loads a table, which [`Mapped::resume`] makes the active one.
    pub fn load(&self, table: &Table) -> io::Result<()> {
        call(TABLE_LOAD, &self.name, 0, 0, &table.encode(), 0).map(drop)
    }

    /// Loads a table for a read-only device.
    pub fn load_read_only(&self, table: &Table) -> io::Result<()> {
        let payload = table.encode();
        call(TABLE_LOAD, &self.name, READONLY_FLAG, 0, &payload, 0).map(drop)
    }

    /// Throws away a table that was loaded and is not active.
    pub fn clear(&self) -> io::Result<()> {
        call(TABLE_CLEAR, &self.name, 0, 0, &[], 0).map(drop)
    }

    /// Stops I/O.
    pub fn suspend(&self, how: Suspend) -> io::Result<()> {
        let flags = match how {
            Suspend::Orderly => SUSPEND_FLAG,
            Suspend::NoFlush => SUSPEND_FLAG | NOFLUSH_FLAG | SKIP_LOCKFS_FLAG,
        };
        call(SUSPEND, &self.name, flags, 0, &[], 0).map(drop)
    }

    /// Makes the loaded table active, if there is one, and lets I/O go on.
    pub fn resume(&self) -> io::Result<()> {
        call(SUSPEND, &self.name, 0, 0, &[], 0).map(drop)
    }

    /// Another table in place of the active one.
    pub fn replace(&self, how: Suspend, table: &Table) -> io::Result<()> {
        self.load(table)?;
        self.suspend(how)?;
        self.resume()
    }

    /// Sends a message and returns its reply, which is empty if there is none.
    pub fn message(&self, message: &str) -> io::Result<String> {
        self.message_in(message, ROOM)
    }

    /// The same with so much room for the reply.
    pub fn message_in(&self, message: &str, room: usize) -> io::Result<String> {
        self.message_bytes(message.as_bytes(), room)
    }

    /// The same for a message that is not text.
    pub fn message_bytes(&self, message: &[u8], room: usize) -> io::Result<String> {
        send(&self.name, message, room)
    }

    /// Has it fail all I/O from now on, and its table go: what `dmsetup remove --force` does
    /// first.
    pub fn kill(&self) -> io::Result<()> {
        self.load(&Table::new(self.length()?, "error", ""))?;
        self.resume()
    }

    /// Sectors of its active table.
    fn length(&self) -> io::Result<u64> {
        let answer = call(TABLE_STATUS, &self.name, 0, 0, &[], ROOM)?;
        let length = answer.data.get(8..16).and_then(|b| b.try_into().ok());
        length.map(u64::from_ne_bytes).ok_or_else(no_table)
    }

    /// What `dmsetup status` prints behind the target's name.
    pub fn status(&self) -> io::Result<String> {
        status(&self.name)
    }

    /// What `dmsetup table` prints behind the target's name.
    pub fn table(&self) -> io::Result<String> {
        table(&self.name)
    }

    /// The number of the last event.
    pub fn event(&self) -> io::Result<u32> {
        Ok(call(DEV_STATUS, &self.name, 0, 0, &[], 0)?.event)
    }

    /// Waits for an event after number `last`; for ever if none comes, so call it where a
    /// thread may be left behind.
    pub fn wait_event(name: &str, last: u32) -> io::Result<u32> {
        Ok(call(WAIT, name, 0, last, &[], ROOM)?.event)
    }

    /// Whether it is suspended: no bio is left, though the target may not be at rest yet.
    pub fn is_suspended(&self) -> io::Result<bool> {
        let answer = call(DEV_STATUS, &self.name, 0, 0, &[], 0)?;
        Ok(answer.flags & SUSPEND_FLAG != 0)
    }

    /// How often it is open.
    pub fn open_count(&self) -> io::Result<i32> {
        Ok(call(DEV_STATUS, &self.name, 0, 0, &[], 0)?.open_count)
    }

    /// Removes it, once.
    pub fn remove_now(&self) -> io::Result<()> {
        remove_once(&self.name)
    }

    /// Removes it. Whoever still has it open has a few seconds to close it.
    pub fn remove(mut self) -> io::Result<()> {
        self.gone = true;
        remove(&self.name)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if !self.gone {
            // A case that failed leaves its devices so. What stays is found and told by
            // whoever runs the cases.
            let _ = remove(&self.name);
        }
    }
}

fn send(name: &str, message: &[u8], room: usize) -> io::Result<String> {
    let mut payload = vec![0u8; 8];
    payload.extend_from_slice(message);
    payload.push(0);
    let answer = call(MESSAGE, name, 0, 0, &payload, room)?;
    if answer.flags & BUFFER_FULL_FLAG != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if answer.flags & DATA_OUT_FLAG == 0 {
        return Ok(String::new());
    }
    Ok(text(&answer.data))
}

fn no_table() -> io::Error {
    io::Error::other("no table")
}

fn status_of(name: &str, flags: u32) -> io::Result<String> {
    let answer = call(TABLE_STATUS, name, flags, 0, &[], ROOM)?;
    if answer.targets != 1 || answer.data.len() < SPEC {
        return Err(no_table());
    }
    Ok(text(&answer.data[SPEC..]))
}

/// The status of a device by its name, which may go any moment.
pub fn status(name: &str) -> io::Result<String> {
    status_of(name, 0)
}

/// The table of a device by its name.
pub fn table(name: &str) -> io::Result<String> {
    status_of(name, STATUS_TABLE_FLAG)
}

/// Sends a message to a device by its name.
pub fn message(name: &str, message: &str) -> io::Result<String> {
    send(name, message.as_bytes(), ROOM)
}

/// Removes a device by its name.
pub fn remove_once(name: &str) -> io::Result<()> {
    call(REMOVE, name, 0, 0, &[], 0).map(drop)
}

/// The same with some patience.
pub fn remove(name: &str) -> io::Result<()> {
    let end = Instant::now() + patience();
    loop {
        match remove_once(name) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Whether there is a device of this name.
pub fn exists(name: &str) -> io::Result<bool> {
    Ok(devices()?.iter().any(|device| device == name))
}

/// The names of all devices.
pub fn devices() -> io::Result<Vec<String>> {
    let answer = call(LIST_DEVICES, "", 0, 0, &[], 256 << 10)?;
    let mut names = Vec::new();
    let mut rest = answer.data.as_slice();
    // struct dm_name_list: dev u64, next u32, name
    while rest.len() > 12 && rest[..8] != [0; 8] {
        names.push(text(&rest[12..]));
        let next = u32::from_ne_bytes(rest[8..12].try_into().expect("4 bytes")) as usize;
        if next == 0 || next > rest.len() {
            break;
        }
        rest = &rest[next..];
    }
    Ok(names)
}

fn fresh_name(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
