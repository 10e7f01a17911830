// SPDX-License-Identifier: GPL-2.0
//! What is received into: found by its name, opened so that nobody else has it, and where it is noted what it
//! holds.

use super::check::{busy, not_alone};
use crate::devno::Devno;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::loops::Behind;
use crate::names::{normalise, BlockDevice};
use crate::replica;
use crate::shared;
use crate::stack::Stack;
use crate::streams::unopened;
use crate::sysfs::Sysfs;
use crate::target::Role;
use dm_snap_mv_stream::receive::{Plain, StateFile};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A target that was found.
pub(super) struct Into {
    /// Its path; of a file, which may not be there yet.
    pub(super) path: PathBuf,
    /// Its number, if it is a device.
    pub(super) device: Option<Devno>,
    /// Device-mapper, if it is a device and this is there.
    pub(super) dm: Option<Dm>,
    /// The device of ours that it is, if it is an origin's.
    pub(super) origin: Option<Mapped>,
}

impl Into {
    /// Finds the target that an argument names. A snapshot's device is refused.
    pub(super) fn find(arg: &OsStr) -> Result<Self> {
        let path = find(arg)?;
        let device = device_at(&path);
        let dm = device.and_then(|_| Dm::if_there());
        if dm.is_none() && device.is_some_and(is_ours) {
            let what = format!("{} is a device of dm-snap-mv", path.display());
            return Err(Failure::new(Kind::Unable, what).hint("run dms as root"));
        }
        let origin = match &dm {
            Some(dm) => origin(dm, &path)?,
            None => None,
        };
        Ok(Self {
            path,
            device,
            dm,
            origin,
        })
    }

    /// Where it is noted what it holds: in a file that was named, or where that is by itself.
    pub(super) fn notes(&self, state: Option<&Path>) -> Result<StateFile> {
        Ok(StateFile::new(match (state, &self.dm, &self.origin) {
            (Some(state), ..) => state.to_owned(),
            (None, Some(dm), Some(origin)) => replica::notes(dm, origin)?,
            (None, ..) => match self.device {
                Some(devno) => replica::notes_of_device(&Sysfs::default(), devno),
                None => beside(&self.path),
            },
        }))
    }

    /// Has a place for the notes, if nobody has named one.
    pub(super) fn need_place(&self, state: Option<&Path>) -> Result<()> {
        match (state, self.device) {
            (None, Some(_)) => replica::make_folder(),
            _ => Ok(()),
        }
    }

    /// Opens it, if nobody else has any of it.
    pub(super) fn open(&self) -> Result<Plain> {
        open(&self.path)
    }
}

/// The target that is meant: a device if there is one, else a file.
pub(crate) fn find(arg: &OsStr) -> Result<PathBuf> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let named = normalise(arg, &cwd);
    let is_device =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    let here = Path::new(arg);
    if is_device(&named) || arg.to_str().is_some_and(|a| a.parse::<Devno>().is_ok()) {
        return BlockDevice::find(arg, "target", &Sysfs::default()).map(|found| found.node);
    }
    if is_device(here) {
        return Ok(here.to_owned());
    }
    let path = if here.starts_with("/") {
        named
    } else {
        here.to_owned()
    };
    if path.exists() {
        return Ok(path);
    }
    let shown = arg.to_string_lossy();
    let missing = |what| {
        Failure::new(
            Kind::NotFound,
            format!("there is no device {shown}, {what}"),
        )
    };
    let below_dev = path.starts_with("/dev") && !path.starts_with("/dev/shm");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if below_dev || folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(missing("and no place for a file"));
    }
    // The name of a device that was mistyped would fill the disk that one happens to be on.
    if !arg.as_bytes().contains(&b'/') {
        let hint = format!("lsblk shows the devices there are; if a file is to be made: ./{shown}");
        return Err(missing("nor a file").hint(hint));
    }
    Ok(path)
}

/// The number of the device there.
fn device_at(path: &Path) -> Option<Devno> {
    let meta = fs::metadata(path).ok()?;
    let is_device = meta.file_type().is_block_device();
    is_device.then(|| Devno::of_dev_t(meta.rdev()))
}

/// Whether it is most likely a device of dm-snap-mv, for who may not ask device-mapper.
fn is_ours(devno: Devno) -> bool {
    let uuid = fs::read_to_string(format!("/sys/dev/block/{devno}/dm/uuid"));
    uuid.is_ok_and(|uuid| uuid.starts_with("SNAPMV-"))
}

/// If the target is a device of dm-snap-mv, that has to be one of an origin.
pub(crate) fn origin(dm: &Dm, path: &Path) -> Result<Option<Mapped>> {
    let devno = device_at(path);
    let mut devices = dm.devices()?.into_iter();
    let Some(device) = devices.find(|device| Some(device.devno) == devno) else {
        return Ok(None);
    };
    match device.line.role {
        Role::Origin => Ok(Some(device)),
        Role::Snapshot(tag) => {
            let what = format!("{} shows snapshot {tag}", path.display());
            Err(Failure::new(Kind::Refused, what)
                .hint("what is received into is the origin, of which a snapshot is taken then"))
        }
    }
}

/// Where it is noted what a file holds: beside it, not beside a link to it.
fn beside(path: &Path) -> PathBuf {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.into_os_string();
    name.push(".dms-state");
    name.into()
}

pub(crate) fn open(path: &Path) -> Result<Plain> {
    let shown = path.display();
    let devno = device_at(path);
    // As for whatever else is written to past the kernel's target.
    let (sysfs, dm) = (Sysfs::default(), Dm::if_there());
    let stack = Stack::look(&sysfs, dm.as_ref());
    let plain = Plain::open(path).map_err(|error| match (error.kind(), devno) {
        (io::ErrorKind::ResourceBusy, Some(_)) => busy(path, &stack),
        (io::ErrorKind::ResourceBusy, None) => {
            let what = format!("{shown} is in use: something else is being received into it");
            Failure::new(Kind::Busy, what)
        }
        (io::ErrorKind::InvalidInput, _) => {
            let what = format!("{shown} is neither a block device nor a file");
            Failure::new(Kind::Refused, what)
        }
        _ => unopened(path, &error),
    })?;
    let inode = plain.inode().map_err(|error| unopened(path, &error))?;
    let place = match (devno, inode) {
        (Some(devno), _) => Behind::Device(devno),
        (None, Some((dev, inode))) => Behind::File(dev, inode),
        // It is not there yet.
        (None, None) => return Ok(plain),
    };
    match shared::with(&stack, place) {
        Some(other) => Err(not_alone(path, place, &other)),
        None => Ok(plain),
    }
}
