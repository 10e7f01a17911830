// SPDX-License-Identifier: GPL-2.0
//! What is printed, for people and for programs.

pub mod checked;
pub mod difference;
pub mod dumped;
pub mod held;
pub mod json;
pub mod listing;
pub mod status;
pub mod stream;
pub mod syncs;

use crate::devno::Devno;
use crate::names;
use crate::sysfs::Sysfs;
use serde::Serialize;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A block device as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name, without /dev/.
    pub name: String,
    /// Its number.
    pub devno: Devno,
}

impl Shown {
    /// A device, under the name that the kernel or LVM has for it.
    pub fn new(devno: Devno, sysfs: &Sysfs) -> Self {
        Self {
            name: sysfs.short_name(devno),
            devno,
        }
    }

    /// An origin: under its identity, as long as that is a name which leads to it.
    pub fn origin(devno: Devno, id: &[u8], sysfs: &Sysfs) -> Self {
        let path = Path::new(OsStr::from_bytes(id));
        let leads = fs::metadata(path).is_ok_and(|meta| {
            meta.file_type().is_block_device() && Devno::of_dev_t(meta.rdev()) == devno
        });
        if leads && path.is_absolute() {
            Self {
                name: names::short(path),
                devno,
            }
        } else {
            Self::new(devno, sysfs)
        }
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.devno)
    }
}

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut object = to.serialize_struct("Shown", 2)?;
        object.serialize_field("device", &self.name)?;
        object.serialize_field("number", &self.devno.to_string())?;
        object.end()
    }
}

/// A number of bytes for people: with a unit in which it is a whole number or nearly so.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).unwrap_or(&"");
    if value.fract() == 0.0 {
        format!("{value} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(1 << 20), "1 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(0), "0 KiB");
    }

    #[test]
    fn an_identity_that_leads_nowhere_is_not_shown_as_a_name() {
        let devno = Devno {
            major: 8,
            minor: 17,
        };
        let sysfs = Sysfs::at("/nowhere");
        let shown = Shown::origin(devno, b"/dev/null", &sysfs);
        assert_eq!(shown.to_string(), "8:17 (8:17)");
    }
}
