// SPDX-License-Identifier: GPL-2.0
//! Who is using a block device, so that "busy" need not be all that is said.

use crate::devno::Devno;
use crate::sysfs::Sysfs;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// A user of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A file system is mounted from it, there.
    Mount(String),
    /// It is swap space.
    Swap,
    /// A device is built on it.
    Holder(String),
    /// A process has it open.
    Process(u32, String),
}

impl User {
    /// Whether it will go by itself: udev and the like open devices for a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Process(..))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(place) => write!(f, "mounted on {place}"),
            Self::Swap => f.write_str("used as swap space"),
            Self::Holder(name) => write!(f, "used by the device {name}"),
            Self::Process(pid, name) => write!(f, "open in process {pid} ({name})"),
        }
    }
}

/// What is known of a device's users.
pub fn of(dev: Devno, sysfs: &Sysfs) -> Vec<User> {
    let mut users = Vec::new();
    let places = mounted().into_iter().filter(|(of, _)| *of == dev);
    users.extend(places.map(|(_, place)| User::Mount(place)));
    if swapping().contains(&dev) {
        users.push(User::Swap);
    }
    users.extend(sysfs.holders(dev).into_iter().map(User::Holder));
    users.extend(openers(dev));
    users
}

/// The same as a sentence's end: "it is mounted on /mnt and open in process 5 (dd)".
pub fn phrase(users: &[User]) -> String {
    match users.split_last() {
        None => "it is open, but by whom cannot be seen from here".to_owned(),
        Some((last, [])) => format!("it is {last}"),
        Some((last, others)) => {
            let others: Vec<_> = others.iter().map(User::to_string).collect();
            format!("it is {} and {last}", others.join(", "))
        }
    }
}

/// The commands that end what file systems are mounted among `users`, a line each.
pub fn unmount(users: &[User]) -> Option<String> {
    let commands: Vec<_> = users
        .iter()
        .filter_map(|user| match user {
            User::Mount(place) => Some(format!("umount {place}")),
            _ => None,
        })
        .collect();
    (!commands.is_empty()).then(|| commands.join("\n"))
}

/// Where something is mounted from a device, or from what is built on it.
pub fn mounted_above(dev: Devno, sysfs: &Sysfs) -> Vec<String> {
    let mut all = sysfs.tops(dev);
    all.push(dev);
    let places = mounted().into_iter().filter(|(of, _)| all.contains(of));
    places.map(|(_, place)| place).collect()
}

/// All that is mounted from block devices, and where, in this namespace.
pub fn mounted() -> Vec<(Devno, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts(&text)
}

/// All devices that are swap space.
pub fn swapping() -> Vec<Devno> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps(&text).filter_map(devno_of).collect()
}

/// What is mounted where, according to the text of a mountinfo file.
fn mounts(text: &str) -> Vec<(Devno, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let number = fields.next()?.parse::<Devno>().ok()?;
            let place = fields.nth(1)?;
            // btrfs and a few others mount under a number of their own; then the source,
            // after the separator, tells.
            let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
            let dev = match number.major {
                0 if source.starts_with('/') => devno_of(&unescape(source))?,
                0 => return None,
                _ => number,
            };
            Some((dev, unescape(place)))
        })
        .collect()
}

fn swaps(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .skip(1)
        .filter_map(|l| l.split_ascii_whitespace().next())
}

fn devno_of(path: &str) -> Option<Devno> {
    let meta = fs::metadata(path).ok()?;
    meta.file_type()
        .is_block_device()
        .then(|| Devno::of_dev_t(meta.rdev()))
}

/// Undoes what the kernel does to white space in such files: three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Processes other than this one that have `dev` open, with their names. What is open here was
/// so when the program began.
fn openers(dev: Devno) -> Vec<User> {
    let mut found = Vec::new();
    let own = std::process::id();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let open = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| {
                fs::metadata(fd.path()).is_ok_and(|meta| {
                    meta.file_type().is_block_device() && Devno::of_dev_t(meta.rdev()) == dev
                })
            });
        if open && pid != own {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(User::Process(pid, name.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: Devno = Devno {
        major: 253,
        minor: 2,
    };

    #[test]
    fn mounts_are_found_by_number() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 253:2 / /mnt/a\\040b rw shared:5 - ext4 /dev/mapper/orig rw
91 22 253:2 /sub /srv rw - ext4 /dev/mapper/orig rw
92 22 0:45 / /tmp rw - tmpfs tmpfs rw
";
        let sda1 = Devno { major: 8, minor: 1 };
        let at = |dev, place: &str| (dev, place.to_owned());
        assert_eq!(
            mounts(text),
            [at(sda1, "/"), at(DEV, "/mnt/a b"), at(DEV, "/srv")]
        );
    }

    #[test]
    fn phrases() {
        assert_eq!(
            phrase(&[]),
            "it is open, but by whom cannot be seen from here"
        );
        let mount = |place: &str| User::Mount(place.into());
        assert_eq!(phrase(&[mount("/a")]), "it is mounted on /a");
        assert_eq!(
            phrase(&[mount("/a"), mount("/b"), User::Process(5, "dd".into())]),
            "it is mounted on /a, mounted on /b and open in process 5 (dd)"
        );
    }

    #[test]
    fn swaps_are_listed_after_a_heading() {
        let text = "Filename\tType\tSize\n/dev/dm-1   partition\t8\n";
        assert_eq!(swaps(text).collect::<Vec<_>>(), ["/dev/dm-1"]);
    }

    #[test]
    fn octal_is_undone() {
        assert_eq!(unescape(r"/a\040b\134"), r"/a b\");
        assert_eq!(unescape(r"/a\9"), r"/a\9");
    }
}
