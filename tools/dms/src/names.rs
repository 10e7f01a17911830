// SPDX-License-Identifier: GPL-2.0
//! Names: of block devices as people type them, and of device-mapper devices.

use crate::devno::Devno;
use crate::failure::{Failure, Kind, Result};
use crate::sysfs::{self, Sysfs};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// The longest name device-mapper takes, in bytes.
const NAME_MAX: usize = 127;

/// Checks a name for a device-mapper device, which may be given with its folder.
///
/// Other characters than these are possible, but the tools write them in hexadecimal in
/// /dev/mapper, each in its own manner.
pub fn dm_name(arg: &str) -> Result<&str> {
    let name = arg.strip_prefix("/dev/mapper/").unwrap_or(arg);
    let plain = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    if name.is_empty() || name == "." || name == ".." {
        return Err(Failure::usage(format!("\"{arg}\" is no name for a device")));
    }
    if name.len() > NAME_MAX {
        return Err(Failure::usage(format!(
            "the name \"{name}\" is too long: {NAME_MAX} bytes at most"
        )));
    }
    if name == "control" || !name.chars().all(plain) {
        return Err(
            Failure::usage(format!("\"{arg}\" cannot be the name of a device"))
                .hint("use letters, digits and any of # + - . : = @ _"),
        );
    }
    Ok(name)
}

/// The device that is meant by a path: of its node, or of what is mounted there. `None` for what is
/// no path, or leads nowhere, or to another place than a device.
pub fn devno_at(arg: &str) -> Option<Devno> {
    // What is below /dev/mapper is a name, and may be there without a node.
    if !arg.contains('/') || arg.starts_with("/dev/mapper/") {
        return None;
    }
    let meta = fs::metadata(arg).ok()?;
    match meta.file_type().is_block_device() {
        true => Some(Devno::of_dev_t(meta.rdev())),
        false => Some(Devno::of_dev_t(meta.dev())).filter(|devno| devno.major != 0),
    }
}

/// The path meant by `arg`: absolute, and the same however it was typed.
///
/// `sdb1` is /dev/sdb1 and `vg/lv` is /dev/vg/lv. Links are not followed: the link is what
/// stays when devices are renumbered.
pub fn normalise(arg: &OsStr, cwd: &Path) -> PathBuf {
    let given = Path::new(arg);
    let from = match given.components().next() {
        Some(Component::RootDir) => Path::new("/"),
        Some(Component::CurDir | Component::ParentDir) => cwd,
        _ => Path::new("/dev"),
    };
    let mut path = PathBuf::new();
    for part in from.join(given).components() {
        // Components leave out doubled slashes, but "/a/./b" only after the first.
        if part != Component::CurDir {
            path.push(part);
        }
    }
    path
}

/// A block device that a command was told to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// How it is known to the store: its normalised path.
    pub identity: PathBuf,
    /// Where its node is. Differs where somebody wrote a logical volume's other name.
    pub node: PathBuf,
    /// Its number.
    pub devno: Devno,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
}

impl BlockDevice {
    /// Finds the device that `arg` names; `role` is what it is to be, for what is said when
    /// it is not there.
    pub fn find(arg: &OsStr, role: &str, sysfs: &Sysfs) -> Result<Self> {
        let shown = arg.to_string_lossy();
        if arg.is_empty() {
            return Err(Failure::usage(format!("the name of the {role} is empty")));
        }
        if let Some(devno) = arg.to_str().and_then(|s| s.parse::<Devno>().ok()) {
            let Some(name) = sysfs.kernel_name(devno) else {
                return Err(missing(role, &shown, None));
            };
            return Self::known(Path::new("/dev").join(name), devno, sysfs);
        }
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let path = normalise(arg, &cwd);
        for node in [Some(path.clone()), other_node(&path)]
            .into_iter()
            .flatten()
        {
            match fs::metadata(&node) {
                Ok(meta) if meta.file_type().is_block_device() => {
                    return Self::known(node, Devno::of_dev_t(meta.rdev()), sysfs);
                }
                Ok(meta) => {
                    let failure = Failure::new(
                        Kind::NotFound,
                        format!("the {role} {} is not a block device", node.display()),
                    );
                    return Err(if meta.is_file() {
                        failure.hint(format!(
                            "attach the file to a loop device: losetup --find --show {}",
                            node.display()
                        ))
                    } else {
                        failure
                    });
                }
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(Failure::new(
                        Kind::Unable,
                        format!("cannot look at the {role} {}: {e}", node.display()),
                    ));
                }
                Err(_) => {}
            }
        }
        Err(missing(role, &shown, Some(&path)))
    }

    fn known(node: PathBuf, devno: Devno, sysfs: &Sysfs) -> Result<Self> {
        let Some(sectors) = sysfs.sectors(devno) else {
            return Err(Failure::new(
                Kind::NotFound,
                format!("there is no device behind {}", node.display()),
            ));
        };
        let identity = identity(&node, devno, sysfs);
        Ok(Self {
            identity,
            node,
            devno,
            sectors,
        })
    }

    /// The identity as the table line has it.
    pub fn id(&self) -> &[u8] {
        self.identity.as_os_str().as_bytes()
    }

    /// The name people use: without /dev/.
    pub fn short(&self) -> String {
        short(&self.identity)
    }
}

/// A path without /dev/.
pub fn short(path: &Path) -> String {
    path.strip_prefix("/dev")
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

/// The name of a device that is the same after the next boot. The numbers of device-mapper
/// devices are not, and a logical volume has several names.
fn identity(node: &Path, devno: Devno, sysfs: &Sysfs) -> PathBuf {
    let Ok(name) = node.strip_prefix("/dev") else {
        return node.to_owned();
    };
    let numbered = name
        .to_str()
        .and_then(|n| n.strip_prefix("dm-"))
        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let mapped = name.starts_with("mapper");
    if numbered || mapped {
        if let Some((group, volume)) = sysfs.volume(devno) {
            return Path::new("/dev").join(group).join(volume);
        }
    }
    if numbered {
        if let Some(name) = sysfs.dm_name(devno) {
            return Path::new("/dev/mapper").join(name);
        }
    }
    node.to_owned()
}

/// The other name of /dev/GROUP/VOLUME, which is there even if no udev rule made the first.
fn other_node(path: &Path) -> Option<PathBuf> {
    let mut parts = path.strip_prefix("/dev").ok()?.iter();
    match (
        parts.next()?.to_str()?,
        parts.next()?.to_str()?,
        parts.next(),
    ) {
        ("mapper" | "disk", _, _) => None,
        (group, volume, None) => Some(Path::new("/dev/mapper").join(sysfs::hyphen(group, volume))),
        _ => None,
    }
}

fn missing(role: &str, shown: &str, path: Option<&Path>) -> Failure {
    let failure = match path {
        Some(path) => Failure::new(
            Kind::NotFound,
            format!("the {role} {} does not exist", path.display()),
        ),
        None => Failure::new(
            Kind::NotFound,
            format!("there is no block device {shown} for the {role}"),
        ),
    };
    failure.hint("lsblk shows the block devices there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(arg: &str) -> String {
        normalise(OsStr::new(arg), Path::new("/somewhere"))
            .display()
            .to_string()
    }

    #[test]
    fn dev_may_be_left_out() {
        assert_eq!(norm("sdb1"), "/dev/sdb1");
        assert_eq!(norm("/dev/sdb1"), "/dev/sdb1");
        assert_eq!(norm("//dev//./sdb1/"), "/dev/sdb1");
        assert_eq!(norm("vg/lv"), "/dev/vg/lv");
        assert_eq!(norm("mapper/x"), "/dev/mapper/x");
        assert_eq!(norm("disk/by-id/x"), "/dev/disk/by-id/x");
        assert_eq!(norm("./disk.img"), "/somewhere/disk.img");
        assert_eq!(norm("./a/./b"), "/somewhere/a/b");
        assert_eq!(norm("../disk.img"), "/somewhere/../disk.img");
    }

    #[test]
    fn the_short_name_is_what_may_be_typed() {
        assert_eq!(short(Path::new("/dev/sdb1")), "sdb1");
        assert_eq!(short(Path::new("/dev/vg/lv")), "vg/lv");
        assert_eq!(short(Path::new("/elsewhere/x")), "/elsewhere/x");
    }

    #[test]
    fn volumes_have_another_node() {
        assert_eq!(
            other_node(Path::new("/dev/vg-0/lv")),
            Some(PathBuf::from("/dev/mapper/vg--0-lv"))
        );
        assert_eq!(other_node(Path::new("/dev/mapper/x")), None);
        assert_eq!(other_node(Path::new("/dev/sdb1")), None);
        assert_eq!(other_node(Path::new("/dev/disk/by-id/x")), None);
    }

    /// A sysfs with one device in it.
    fn sysfs(test: &str, files: &[(&str, &str)]) -> (Sysfs, PathBuf) {
        let root = std::env::temp_dir().join(format!("dms-{test}-{}", std::process::id()));
        for (file, text) in files {
            let path = root.join("dev/block/253:7").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (Sysfs::at(&root), root)
    }

    const DM: Devno = Devno {
        major: 253,
        minor: 7,
    };

    #[test]
    fn a_volume_has_one_identity() {
        let (sysfs, root) = sysfs(
            "volume",
            &[("dm/name", "vg--0-lv\n"), ("dm/uuid", "LVM-abc\n")],
        );
        for node in ["/dev/dm-7", "/dev/mapper/vg--0-lv", "/dev/vg-0/lv"] {
            assert_eq!(
                identity(Path::new(node), DM, &sysfs),
                Path::new("/dev/vg-0/lv")
            );
        }
        assert_eq!(sysfs.short_name(DM), "vg-0/lv");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn numbers_of_mapped_devices_do_not_stay() {
        let (sysfs, root) = sysfs("dm", &[("dm/name", "crypt\n"), ("dm/uuid", "CRYPT-x\n")]);
        assert_eq!(
            identity(Path::new("/dev/dm-7"), DM, &sysfs),
            Path::new("/dev/mapper/crypt")
        );
        assert_eq!(
            identity(Path::new("/dev/mapper/crypt"), DM, &sysfs),
            Path::new("/dev/mapper/crypt")
        );
        assert_eq!(sysfs.short_name(DM), "mapper/crypt");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_no_block_device_is_said() {
        let sysfs = Sysfs::at("/nowhere");
        let find = |arg: &str| BlockDevice::find(OsStr::new(arg), "origin device", &sysfs);
        let failure = find("dms-no-such-device").unwrap_err();
        assert_eq!(failure.kind, Kind::NotFound);
        assert_eq!(
            failure.what,
            "the origin device /dev/dms-no-such-device does not exist"
        );
        let failure = find("null").unwrap_err();
        assert_eq!(
            failure.what,
            "the origin device /dev/null is not a block device"
        );
        assert_eq!(find("").unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn names_of_devices() {
        assert_eq!(dm_name("orig"), Ok("orig"));
        assert_eq!(dm_name("/dev/mapper/orig"), Ok("orig"));
        for wrong in ["", "a b", "a/b", "control", "..", "/dev/sdb", "ä"] {
            assert_eq!(dm_name(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
        assert!(dm_name(&"x".repeat(127)).is_ok());
        assert!(dm_name(&"x".repeat(128)).is_err());
    }
}
