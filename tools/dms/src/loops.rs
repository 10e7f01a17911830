// SPDX-License-Identifier: GPL-2.0
//! Loop devices: a file or a device that is one is as good as in use, though nobody has claimed it.

use crate::devno::Devno;
use dm_snap_mv_store::DevicePlace;
use nix::errno::Errno;
use nix::libc;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the loop devices are looked for.
pub struct Loops {
    sysfs: PathBuf,
    dev: PathBuf,
}

impl Default for Loops {
    fn default() -> Self {
        Self::at("/sys", "/dev")
    }
}

/// The kernel's `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const LOOP_GET_STATUS64: u32 = 0x4c05;

impl Loops {
    /// With sysfs and the nodes of devices, or what looks like them, there.
    pub fn at(sysfs: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self {
            sysfs: sysfs.into(),
            dev: dev.into(),
        }
    }

    /// All loop devices that have something behind them, by name.
    pub fn all(&self) -> Vec<Attached> {
        let mut all: Vec<_> = fs::read_dir(self.sysfs.join("block"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with("loop"))
            .filter_map(|name| self.attached(name))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What is behind a loop device, if anything is.
    fn attached(&self, name: String) -> Option<Attached> {
        let place = self.sysfs.join("block").join(&name);
        let path = fs::read_to_string(place.join("loop/backing_file")).ok()?;
        let number = |file: &str| fs::read_to_string(place.join(file)).ok();
        let devno = number("dev")?.trim().parse().ok()?;
        let offset = || number("loop/offset")?.trim().parse().ok();
        // The device knows the file whatever has become of its name: the file may have been
        // renamed or unlinked, or mounted in another namespace. But not everybody may ask it.
        let (behind, offset) = match ask(&self.dev.join(&name)) {
            Some(known) => known,
            None => {
                let meta = fs::metadata(Path::new(path.trim_end_matches('\n'))).ok()?;
                let rdev = meta.file_type().is_block_device().then(|| meta.rdev());
                let behind = Behind::new(meta.dev(), meta.ino(), rdev.unwrap_or(0));
                (behind, offset().unwrap_or(0))
            }
        };
        Some(Attached {
            name,
            devno,
            behind,
            offset,
        })
    }
}

/// What a loop device shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behind {
    /// A block device.
    Device(Devno),
    /// A file: the number of the device that it is on, and of its inode.
    File(u64, u64),
}

impl Behind {
    fn new(dev: u64, inode: u64, rdev: u64) -> Self {
        match rdev {
            0 => Self::File(dev, inode),
            rdev => Self::Device(Devno::of_dev_t(rdev)),
        }
    }
}

impl From<DevicePlace> for Behind {
    fn from(place: DevicePlace) -> Self {
        match place {
            DevicePlace::Device(rdev) => Self::Device(Devno::of_dev_t(rdev)),
            DevicePlace::File(dev, inode) => Self::File(dev, inode),
        }
    }
}

/// A loop device with something behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's name of it.
    pub name: String,
    /// Its number.
    pub devno: Devno,
    /// What it shows.
    pub behind: Behind,
    /// Where it begins there, in bytes.
    pub offset: u64,
}

/// What a loop device shows and where that begins, from itself.
fn ask(node: &Path) -> Option<(Behind, u64)> {
    let device = File::open(node).ok()?;
    let mut info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let to: *mut Info = &mut info;
    // SAFETY: The kernel writes one `struct loop_info64` to where the pointer leads, which has
    // room for that, and any bytes are valid in it. Devices of other drivers do not know the
    // request.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64.into(), to) };
    Errno::result(result).ok()?;
    let behind = Behind::new(info.device, info.inode, info.rdevice);
    Some((behind, info.offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_writes_so_much() {
        assert_eq!(size_of::<Info>(), 232);
    }

    #[test]
    fn what_is_behind_them() {
        let dir = std::env::temp_dir().join(format!("dms-loops-{}", std::process::id()));
        let attached = |name: &str, file: &str| {
            let place = dir.join("block").join(name);
            fs::create_dir_all(place.join("loop")).unwrap();
            fs::write(place.join("dev"), "7:2\n").unwrap();
            fs::write(place.join("loop/offset"), "8192\n").unwrap();
            fs::write(place.join("loop/backing_file"), format!("{file}\n")).unwrap();
        };
        fs::create_dir_all(dir.join("block/loop0")).unwrap();
        fs::create_dir_all(dir.join("block/sda/loop")).unwrap();
        fs::write(dir.join("one"), "").unwrap();
        fs::hard_link(dir.join("one"), dir.join("other")).unwrap();
        attached("loop1", "/dms/no/such/file (deleted)");
        attached("loop2", dir.join("one").to_str().unwrap());
        let meta = fs::metadata(dir.join("other")).unwrap();
        let found = Attached {
            name: "loop2".into(),
            devno: Devno { major: 7, minor: 2 },
            behind: Behind::File(meta.dev(), meta.ino()),
            offset: 8192,
        };
        assert_eq!(Loops::at(&dir, dir.join("dev")).all(), [found]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
