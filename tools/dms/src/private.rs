// SPDX-License-Identifier: GPL-2.0
//! Snapshots to be read: by the device that shows one, or by a device of our own, which goes with us.

use crate::commands::nobody_else_has;
use crate::devno::Devno;
use crate::dm::users::{self, User};
use crate::dm::{node, Dm};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::names::BlockDevice;
use crate::reply;
use crate::stack::Stack;
use crate::target::{Role, Wanted};
use nix::libc;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How the names of such devices begin. The number of the process follows.
const PREFIX: &str = "dms-send-";

/// What memory for direct I/O begins at a multiple of, and how much is read so at most.
const ALIGN: usize = 4096;

/// How long it is waited for the kernel to remove one that nobody has open.
const GOES: Duration = Duration::from_secs(60);
/// And for one that somebody else has opened.
const OTHERS: Duration = Duration::from_secs(5);

/// What is to be read.
pub struct Wants<'a> {
    /// The origin device; not looked at where a device shows the snapshot already.
    pub origin: &'a dyn Fn() -> Result<BlockDevice>,
    /// The COW device.
    pub cow: Devno,
    /// How the store knows the origin.
    pub id: &'a [u8],
    /// Its number there.
    pub number: u32,
    /// The tag of the snapshot.
    pub tag: u32,
    /// Its size in sectors.
    pub sectors: u64,
    /// It has been written to, so that nobody may do so again while it is read.
    pub written: bool,
}

/// A snapshot that can be read.
pub struct Shown {
    /// To read it from, by direct I/O.
    pub file: Arc<File>,
    /// The name of the device.
    pub name: String,
    own: Option<Own>,
}

/// A device of our own.
struct Own {
    name: String,
    /// What keeps it there: when nobody has it open, it is gone.
    hold: Option<File>,
}

impl Shown {
    /// Finds the device that shows a snapshot, or makes one.
    pub fn find(dm: &Dm, wants: &Wants<'_>, interrupt: &Interrupt) -> Result<Self> {
        clean_up(dm);
        let role = Role::Snapshot(wants.tag);
        let mut devices = dm.devices()?.into_iter();
        let active = devices.find(|device| {
            let line = &device.line;
            line.cow == wants.cow && line.id == wants.id && line.role == role
        });
        if let Some(device) = active {
            let ours = device.name.starts_with(PREFIX);
            let alone = if wants.written && !ours {
                libc::O_EXCL
            } else {
                0
            };
            let file = open(dm, &device.name, device.devno, alone).map_err(|failure| {
                match failure.kind {
                    Kind::Busy => dm.in_use(&device.name, device.devno).hint(format!(
                        "snapshot {0} has been written to, and would have to stay as it is while it \
                         is read;\ntake a snapshot of it, and give that: dms snapshot {1} {0}",
                        wants.tag, device.name
                    )),
                    _ => failure,
                }
            })?;
            return Ok(Self {
                file: Arc::new(file),
                name: device.name,
                own: None,
            });
        }
        Self::make(dm, wants, interrupt)
    }

    fn make(dm: &Dm, wants: &Wants<'_>, interrupt: &Interrupt) -> Result<Self> {
        dm.need_target()?;
        let origin = (wants.origin)()?;
        let cow = BlockDevice::find(wants.cow.to_string().as_ref(), "COW device", &dm.sysfs)?;
        let doing = format!("cannot activate snapshot {}", wants.tag);
        {
            let stack = Stack::look(&dm.sysfs, Some(dm));
            nobody_else_has(&stack, &origin, &cow).map_err(|failure| failure.context(&doing))?;
        }
        let line = Wanted {
            tag: Some(wants.tag.to_string()),
            origin: origin.devno.to_string(),
            cow: cow.devno.to_string(),
            id: wants.id.to_vec(),
            policy: dm.policy(cow.devno)?,
            ..Wanted::default()
        }
        .line()?;
        let name = format!(
            "{PREFIX}{}-{}-{}",
            std::process::id(),
            wants.number,
            wants.tag
        );
        let held = interrupt.hold()?;
        dm.create(&name, None)?;
        // From here on it goes when this does.
        let mut own = Own { name, hold: None };
        let name = own.name.clone();
        let devno = dm.load(&name, wants.sectors, line).map_err(|reason| {
            let failure = reply::failure(&reason.errno.unwrap_or_default(), &reason.text);
            match (&reason.detail, &failure.hint) {
                (Some(detail), None) => failure.hint(detail.clone()),
                _ => failure,
            }
            .context(&doing)
        });
        let made = devno.and_then(|devno| {
            // Opened before it is of any use, so that nothing stays whenever we are killed.
            own.hold = Some(open(dm, &name, devno, 0)?);
            dm.remove_when_closed(&name)?;
            dm.resume_private(&name)?;
            // Once more, for it had no size before.
            let file = open(dm, &name, devno, 0)?;
            crate::dm::make_read_only(&file)?;
            Ok(file)
        });
        drop(held);
        let file = match made {
            Ok(file) => file,
            Err(failure) => {
                own.give_up(dm);
                return Err(failure);
            }
        };
        Ok(Self {
            file: Arc::new(file),
            name,
            own: Some(own),
        })
    }

    /// Reads at most 4 KiB of whole sectors from the given one on.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are not there.
    pub fn read(&self, start: u64, into: &mut [u8]) -> io::Result<()> {
        // Direct I/O wants memory that begins at such a place.
        let mut buffer = vec![0; 2 * ALIGN];
        let first = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        let end = first.saturating_add(into.len());
        let bytes = buffer
            .get_mut(first..end)
            .filter(|bytes| bytes.len() <= ALIGN);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        self.file.read_exact_at(bytes, start.saturating_mul(512))?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// Closes it. If it is a device of our own, it is gone then, unless somebody else has opened it.
    pub fn close(self, dm: &Dm) {
        drop(self.file);
        if let Some(own) = self.own {
            own.give_up(dm);
        }
    }
}

impl Own {
    fn give_up(mut self, dm: &Dm) {
        match self.hold.take() {
            Some(hold) => {
                let meta = hold.metadata();
                drop(hold);
                if let Ok(meta) = meta {
                    self.wait_until_gone(dm, Devno::of_dev_t(meta.rdev()));
                }
            }
            None => {
                if let Ok(info) = dm.info(&self.name) {
                    // What was wrong first is what counts.
                    let _ = dm.remove(&self.name, info.devno);
                }
            }
        }
    }

    /// The kernel removes it in its own time, and whoever is told that all is done may want to delete the
    /// snapshot in the same moment. It takes the name away first, then the target, then the disk. Somebody
    /// else who has opened it, udev before all, is not waited for as long.
    fn wait_until_gone(&self, dm: &Dm, devno: Devno) {
        let myself = std::process::id();
        let is_ours = |user: &User| matches!(user, User::Process(pid, _) if *pid == myself);
        let begin = Instant::now();
        loop {
            let limit = match dm.info(&self.name) {
                Ok(info) if info.opened == 0 => GOES,
                Ok(_) if users::of(devno, &dm.sysfs).iter().any(is_ours) => GOES,
                Ok(_) => OTHERS,
                Err(_) if self.has_disk(dm, devno) => GOES,
                Err(_) => break,
            };
            if begin.elapsed() > limit {
                break;
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Whether the number is still that of our disk, which has a name no more.
    fn has_disk(&self, dm: &Dm, devno: Devno) -> bool {
        let named = dm.sysfs.dm_name(devno);
        dm.sysfs.kernel_name(devno).is_some() && named.is_none_or(|name| name == self.name)
    }
}

/// Removes what was left half made by one that was killed in the moment before it could be said that it
/// is to go.
fn clean_up(dm: &Dm) {
    for device in dm.tables() {
        let pid = device.name.strip_prefix(PREFIX);
        let pid = pid.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let left = pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists());
        if left && dm.info(&device.name).is_ok_and(|info| info.opened == 0) {
            let _ = dm.remove(&device.name, device.devno);
        }
    }
}

/// Opens a mapped device to be read past the page cache.
fn open(dm: &Dm, name: &str, devno: Devno, flags: i32) -> Result<File> {
    let of_kernel = dm.sysfs.kernel_name(devno);
    let of_kernel = of_kernel.map(|name| PathBuf::from("/dev").join(name));
    let is_it = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_block_device() && Devno::of_dev_t(meta.rdev()) == devno
        })
    };
    let path = of_kernel.filter(is_it).unwrap_or_else(|| node::path(name));
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT | flags)
        .open(&path);
    opened.map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::ResourceBusy => Kind::Busy,
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Refused,
        };
        Failure::new(kind, format!("cannot open {}: {e}", path.display()))
    })
}
