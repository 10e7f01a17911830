// SPDX-License-Identifier: GPL-2.0
//! Nodes in /dev/mapper where there is no udev that makes them.

use super::udev;
use crate::devno::Devno;
use nix::sys::stat::{mknod, Mode, SFlag};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const DIR: &str = "/dev/mapper";
/// Through it device-mapper is spoken to.
pub const CONTROL: &str = "/dev/mapper/control";

/// The node of device `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Sees to it that the node of `name` is there and leads to `devno`. Where udev runs, it has
/// made the node by the time a device is resumed, so that there is nothing left to do.
pub fn make(name: &str, devno: Devno) -> io::Result<()> {
    let path = path(name);
    match fs::metadata(&path) {
        Ok(meta) if is(&meta, devno) => return Ok(()),
        // A link or a node of a device that is gone.
        Ok(meta) if meta.file_type().is_block_device() => fs::remove_file(&path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else has that name",
            ))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(&path).is_ok() {
                fs::remove_file(&path)?;
            }
        }
        Err(e) => return Err(e),
    }
    fs::create_dir_all(DIR)?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mknod(&path, SFlag::S_IFBLK, mode, devno.dev_t()).map_err(io::Error::from)
}

/// Removes the node of the device `name`, which was `devno` and is gone, unless udev does.
pub fn remove(name: &str, devno: Devno) {
    let path = path(name);
    if udev::runs() {
        return;
    }
    // If it stays, nothing is lost but tidiness.
    if fs::metadata(&path).is_ok_and(|meta| is(&meta, devno)) {
        let _ = fs::remove_file(&path);
    }
}

fn is(meta: &fs::Metadata, devno: Devno) -> bool {
    meta.file_type().is_block_device() && Devno::of_dev_t(meta.rdev()) == devno
}

/// Makes the node that device-mapper is spoken to through, if it is missing. The kernel
/// tells its minor number.
pub fn make_control() -> io::Result<()> {
    if Path::new(CONTROL).exists() {
        return Ok(());
    }
    let misc = fs::read_to_string("/proc/misc")?;
    let minor = control_minor(&misc).ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(DIR)?;
    let devno = Devno { major: 10, minor };
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mknod(Path::new(CONTROL), SFlag::S_IFCHR, mode, devno.dev_t()).map_err(io::Error::from)
}

fn control_minor(misc: &str) -> Option<u32> {
    misc.lines().find_map(|line| {
        let (minor, name) = line.trim().split_once(' ')?;
        (name.trim() == "device-mapper").then(|| minor.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_node_is_listed() {
        let misc = "130 watchdog\n236 device-mapper\n  1 psaux\n";
        assert_eq!(control_minor(misc), Some(236));
        assert_eq!(control_minor("130 watchdog\n"), None);
    }
}
