// SPDX-License-Identifier: GPL-2.0
//! Where a target is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A target, and its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// None: this one.
    pub host: Option<String>,
    /// As `dms receive` takes it there.
    pub target: OsString,
}

impl Place {
    /// `HOST:TARGET`, or `TARGET`. A colon behind a slash is none, as for rsync and scp; nor is one that the number
    /// of a device has.
    pub fn parse(word: &OsStr) -> Self {
        let here = || Self {
            host: None,
            target: word.to_owned(),
        };
        let bytes = word.as_bytes();
        let Some(colon) = bytes.iter().position(|&b| b == b':') else {
            return here();
        };
        let (host, target) = (&bytes[..colon], &bytes[colon + 1..]);
        let is_number = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
        let is_device = is_number(host) && is_number(target);
        let host = std::str::from_utf8(host).ok();
        match host.filter(|host| !host.is_empty() && !host.contains('/') && !is_device) {
            Some(host) => Self {
                host: Some(host.to_owned()),
                target: OsString::from_vec(target.to_vec()),
            },
            None => here(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}:")?;
        }
        write!(f, "{}", self.target.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_devices() {
        let parse = |word: &str| {
            let place = Place::parse(OsStr::new(word));
            assert_eq!(place.to_string(), word);
            (place.host.unwrap_or_default(), place.target)
        };
        let is = |word, host: &str, target: &str| {
            assert_eq!(parse(word), (host.into(), target.into()), "{word}");
        };
        is("backup:mapper/copy", "backup", "mapper/copy");
        is("root@backup:/dev/sdb", "root@backup", "/dev/sdb");
        is("sdb1", "", "sdb1");
        is("./a:b", "", "./a:b");
        is("/srv/a:b", "", "/srv/a:b");
        is(":x", "", ":x");
        is("8:16", "", "8:16");
        is("8:x", "8", "x");
    }
}
