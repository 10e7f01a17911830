// SPDX-License-Identifier: GPL-2.0
//! What the kernel tells of block devices in sysfs.

use crate::devno::Devno;
use std::fs;
use std::path::{Path, PathBuf};

/// Where sysfs is mounted.
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// Sysfs, or what looks like it, at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn dir(&self, dev: Devno) -> PathBuf {
        self.root.join("dev/block").join(dev.to_string())
    }

    fn line(&self, dev: Devno, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir(dev).join(file)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// The size in sectors of 512 bytes.
    pub fn sectors(&self, dev: Devno) -> Option<u64> {
        self.line(dev, "size")?.parse().ok()
    }

    /// The name the kernel has for it, as `sdb1` or `dm-3`.
    pub fn kernel_name(&self, dev: Devno) -> Option<String> {
        let uevent = self.line(dev, "uevent")?;
        let name = uevent.lines().find_map(|l| l.strip_prefix("DEVNAME="))?;
        Some(name.to_owned())
    }

    /// The name of a device-mapper device.
    pub fn dm_name(&self, dev: Devno) -> Option<String> {
        self.line(dev, "dm/name").filter(|name| !name.is_empty())
    }

    /// The UUID of a device-mapper device.
    pub fn dm_uuid(&self, dev: Devno) -> Option<String> {
        self.line(dev, "dm/uuid")
    }

    /// The volume group and logical volume that a device is, if it is one of LVM's and no
    /// hidden part of another.
    pub fn volume(&self, dev: Devno) -> Option<(String, String)> {
        if !self.dm_uuid(dev)?.starts_with("LVM-") {
            return None;
        }
        let mut parts = unhyphen(&self.dm_name(dev)?).into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(group), Some(volume), None) => Some((group, volume)),
            _ => None,
        }
    }

    /// What people call a device: `vg/lv`, `mapper/name`, or the kernel's name. Without
    /// sysfs, its number.
    pub fn short_name(&self, dev: Devno) -> String {
        if let Some((group, volume)) = self.volume(dev) {
            return format!("{group}/{volume}");
        }
        if let Some(name) = self.dm_name(dev) {
            return format!("mapper/{name}");
        }
        self.kernel_name(dev).unwrap_or_else(|| dev.to_string())
    }

    /// A name of a device that stays over reboots, whatever it is called then: its WWID or serial number, with the
    /// number of the partition; its UUID if device-mapper has made it; the file of a loop device. Without any of
    /// these, what it is called.
    pub fn lasting_name(&self, dev: Devno) -> String {
        let known = |file: &str| self.line(dev, file).filter(|text| !text.is_empty());
        let of_disk = |up: &str| {
            let files = ["wwid", "device/wwid", "serial", "device/serial"];
            files.iter().find_map(|file| known(&format!("{up}{file}")))
        };
        let part = known("partition");
        let up = if part.is_some() { "../" } else { "" };
        let disk = of_disk(up).map(|disk| disk.split_whitespace().collect::<Vec<_>>().join("_"));
        let file = known("loop/backing_file");
        match (known("dm/uuid").or(file), disk, part) {
            (Some(own), ..) => own,
            (None, Some(disk), Some(part)) => format!("{disk}-part{part}"),
            (None, Some(disk), None) => disk,
            (None, None, _) => self.short_name(dev),
        }
    }

    /// The devices built on top of one, by their kernel names.
    pub fn holders(&self, dev: Devno) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir(dev).join("holders"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .map(|name| self.holder_name(name))
            .collect();
        names.sort();
        names
    }

    /// The devices on top of all that is built on one; none if nothing is.
    pub fn tops(&self, dev: Devno) -> Vec<Devno> {
        let mut tops = Vec::new();
        let mut seen = vec![dev];
        let mut left = self.holder_devices(dev);
        while let Some(next) = left.pop() {
            if seen.contains(&next) {
                continue;
            }
            seen.push(next);
            match self.holder_devices(next) {
                above if above.is_empty() => tops.push(next),
                above => left.extend(above),
            }
        }
        tops.sort();
        tops
    }

    /// The numbers of the devices built directly on one.
    fn holder_devices(&self, dev: Devno) -> Vec<Devno> {
        self.linked(dev, "holders")
    }

    /// The numbers of the devices that one of its folders names.
    fn linked(&self, dev: Devno, folder: &str) -> Vec<Devno> {
        fs::read_dir(self.dir(dev).join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let number = self
                    .root
                    .join("class/block")
                    .join(entry.file_name())
                    .join("dev");
                fs::read_to_string(number).ok()?.trim().parse().ok()
            })
            .collect()
    }

    /// The devices that one is directly built on, apart from the disk that a partition is of.
    pub fn slaves(&self, dev: Devno) -> Vec<Devno> {
        self.linked(dev, "slaves")
    }

    /// Of a partition: the disk, and the sector that it begins at there.
    pub fn partition_of(&self, dev: Devno) -> Option<(Devno, u64)> {
        self.line(dev, "partition")?;
        let disk = self.line(dev, "../dev")?.parse().ok()?;
        Some((disk, self.line(dev, "start")?.parse().ok()?))
    }

    fn holder_name(&self, kernel: String) -> String {
        let dir = Path::new("class/block").join(&kernel).join("dm/name");
        match fs::read_to_string(self.root.join(dir)) {
            Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => kernel,
        }
    }
}

/// Takes apart the device-mapper name of a logical volume: parts are separated by a hyphen,
/// and a hyphen within a part is doubled.
fn unhyphen(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// The device-mapper name of a logical volume.
pub fn hyphen(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_stay() {
        let root = std::env::temp_dir().join(format!("dms-lasting-{}", std::process::id()));
        let put = |file: &str, text: &str| {
            let path = root.join("dev/block").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("8:0/uevent", "DEVNAME=sda\n");
        put("8:16/device/wwid", "t10.ATA   disk  7\n");
        put("8:16/part1/partition", "1\n");
        std::os::unix::fs::symlink("8:16/part1", root.join("dev/block/8:17")).unwrap();
        put("254:0/serial", "abc\n");
        put("254:16/serial", "\n");
        put("254:16/uevent", "DEVNAME=vdb\n");
        put("253:3/dm/uuid", "LVM-xyz\n");
        put("253:4/dm/uuid", "\n");
        put("253:4/dm/name", "plain\n");
        put("7:1/loop/backing_file", "/srv/x\n");
        let sysfs = Sysfs::at(&root);
        for (dev, name) in [
            ("8:0", "sda"),
            ("8:16", "t10.ATA_disk_7"),
            ("8:17", "t10.ATA_disk_7-part1"),
            ("254:0", "abc"),
            ("254:16", "vdb"),
            ("253:3", "LVM-xyz"),
            ("253:4", "mapper/plain"),
            ("7:1", "/srv/x"),
        ] {
            assert_eq!(sysfs.lasting_name(dev.parse().unwrap()), name, "{dev}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_on_top_is_found_once() {
        let root = std::env::temp_dir().join(format!("dms-sysfs-{}", std::process::id()));
        // 1 carries 2 and 3, both of which carry 4; 3 carries 5, too.
        for (number, holders) in [
            (1, &[2, 3][..]),
            (2, &[4]),
            (3, &[4, 5]),
            (4, &[]),
            (5, &[]),
        ] {
            let dir = root.join(format!("dev/block/253:{number}/holders"));
            fs::create_dir_all(&dir).unwrap();
            for holder in holders {
                fs::write(dir.join(format!("dm-{holder}")), "").unwrap();
            }
            let class = root.join(format!("class/block/dm-{number}"));
            fs::create_dir_all(&class).unwrap();
            fs::write(class.join("dev"), format!("253:{number}\n")).unwrap();
        }
        let sysfs = Sysfs::at(&root);
        let tops = |minor| {
            let tops = sysfs.tops(Devno { major: 253, minor });
            tops.iter().map(|dev| dev.minor).collect::<Vec<_>>()
        };
        assert_eq!(tops(1), [4, 5]);
        assert_eq!(tops(2), [4]);
        assert_eq!(tops(4), [0; 0]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn names_of_volumes() {
        assert_eq!(hyphen("vg-0", "a-b"), "vg--0-a--b");
        assert_eq!(unhyphen("vg--0-a--b"), ["vg-0", "a-b"]);
        assert_eq!(unhyphen("vg-lv-real"), ["vg", "lv", "real"]);
        assert_eq!(unhyphen("a---b"), ["a-", "b"]);
    }
}
