// SPDX-License-Identifier: GPL-2.0
//! Device numbers.

use std::fmt;
use std::str::FromStr;

/// The number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Devno {
    /// Of its driver.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
}

impl Devno {
    /// As the C library packs it.
    pub fn of_dev_t(dev: u64) -> Self {
        Self {
            major: nix::sys::stat::major(dev) as u32,
            minor: nix::sys::stat::minor(dev) as u32,
        }
    }

    /// Packed as the C library does.
    pub fn dev_t(self) -> u64 {
        nix::sys::stat::makedev(self.major.into(), self.minor.into())
    }
}

impl fmt::Display for Devno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Not of the form MAJOR:MINOR.
#[derive(Debug, PartialEq, Eq)]
pub struct NoDevno;

impl FromStr for Devno {
    type Err = NoDevno;

    fn from_str(text: &str) -> Result<Self, NoDevno> {
        let (major, minor) = text.split_once(':').ok_or(NoDevno)?;
        let number = |part: &str| {
            // "+1" parses as a number too.
            if part.bytes().all(|b| b.is_ascii_digit()) {
                part.parse().ok()
            } else {
                None
            }
        };
        Ok(Self {
            major: number(major).ok_or(NoDevno)?,
            minor: number(minor).ok_or(NoDevno)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let devno: Devno = "259:65537".parse().unwrap();
        assert_eq!(devno.to_string(), "259:65537");
        assert_eq!(Devno::of_dev_t(devno.dev_t()), devno);
        for wrong in ["", "8", "8:", ":1", "8:1:2", "+8:1", "8: 1", "4294967296:0"] {
            assert!(wrong.parse::<Devno>().is_err(), "{wrong}");
        }
    }
}
