// SPDX-License-Identifier: GPL-2.0
//! Loop devices: a file that is one is as good as in use, though nobody has claimed it.

use nix::errno::Errno;
use nix::libc;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
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

    /// The name of a loop device whose content is the file with this device number and inode.
    pub fn of(&self, file: (u64, u64)) -> Option<String> {
        fs::read_dir(self.sysfs.join("block"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find(|name| name.starts_with("loop") && self.backing(name) == Some(file))
    }

    /// The file behind a loop device, if it has one.
    fn backing(&self, name: &str) -> Option<(u64, u64)> {
        let place = self.sysfs.join("block").join(name);
        let path = fs::read_to_string(place.join("loop/backing_file")).ok()?;
        // The device knows the file whatever has become of its name: the file may have been
        // renamed or unlinked, or mounted in another namespace. But not everybody may ask it.
        if let Some(file) = ask(&self.dev.join(name)) {
            return Some(file);
        }
        let meta = fs::metadata(Path::new(path.trim_end_matches('\n'))).ok()?;
        Some((meta.dev(), meta.ino()))
    }
}

fn ask(node: &Path) -> Option<(u64, u64)> {
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
    Some((info.device, info.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_writes_so_much() {
        assert_eq!(size_of::<Info>(), 232);
    }

    #[test]
    fn a_file_is_found_by_any_name() {
        let dir = std::env::temp_dir().join(format!("dms-loops-{}", std::process::id()));
        let attached = |name: &str, file: &str| {
            let place = dir.join("block").join(name).join("loop");
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("backing_file"), format!("{file}\n")).unwrap();
        };
        fs::create_dir_all(dir.join("block/loop0")).unwrap();
        fs::create_dir_all(dir.join("block/sda/loop")).unwrap();
        for name in ["one", "two"] {
            fs::write(dir.join(name), "").unwrap();
        }
        fs::hard_link(dir.join("one"), dir.join("other")).unwrap();
        attached("loop1", "/dms/no/such/file (deleted)");
        attached("loop2", dir.join("one").to_str().unwrap());
        let loops = Loops::at(&dir, dir.join("dev"));
        let of = |name: &str| {
            let meta = fs::metadata(dir.join(name)).unwrap();
            loops.of((meta.dev(), meta.ino()))
        };
        assert_eq!(of("one").as_deref(), Some("loop2"));
        assert_eq!(of("other").as_deref(), Some("loop2"));
        assert_eq!(of("two"), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
