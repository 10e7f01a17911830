// SPDX-License-Identifier: GPL-2.0
//! What the kernel's log says of a table that it refused: the ioctl itself gives no more
//! than an error number.

use crate::devno::Devno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// A place in the kernel's log.
pub struct Log {
    file: Option<File>,
}

impl Log {
    /// The log's end as it is now. Where the log cannot be read, nothing will be found in it.
    pub fn mark() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")
            .and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file))
            .ok();
        Self { file }
    }

    /// What was logged since, one message a line.
    pub fn since(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.file else {
            return lines;
        };
        // Each read gives one record.
        let mut record = [0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(n) => lines.extend(record.get(..n).and_then(text)),
                // Records were dropped before they were read.
                Err(e) if e.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        lines
    }
}

/// The message of a record "priority,sequence,time,flags;message", which further lines may
/// follow.
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    Some(text.lines().next()?.to_owned())
}

/// Why a table was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    /// The target's own words, or device-mapper's.
    pub text: String,
    /// The error's name, as `EBUSY`, if the log has it.
    pub errno: Option<String>,
    /// What the target said before: who has a device, and the like.
    pub detail: Option<String>,
}

/// What the module said last of `device` in `lines`.
pub fn told(lines: &[String], device: Devno) -> Option<String> {
    let ours = format!("dm_snap_mv: {device}: ");
    let last = lines.iter().rev().find_map(|l| l.strip_prefix(&ours))?;
    Some(last.to_owned())
}

/// Finds in `lines` why the table of `device` was refused by the target `kind`.
pub fn table_refused(lines: &[String], device: Devno, kind: &str) -> Option<Reason> {
    let ours = format!("device-mapper: table: {device}: ");
    let mut rest = lines.iter().rev().filter_map(|l| l.strip_prefix(&ours));
    let found = rest.next()?;
    let found = found.strip_prefix(&format!("{kind}: ")).unwrap_or(found);
    match found.rsplit_once(" (-") {
        Some((text, errno)) if errno.ends_with(')') => Some(Reason {
            text: text.to_owned(),
            errno: Some(errno.trim_end_matches(')').to_owned()),
            detail: told(lines, device),
        }),
        _ => Some(Reason {
            text: found.to_owned(),
            errno: None,
            detail: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_a_message() {
        let record = b"3,812,9471236,-;device-mapper: ioctl: x\n SUBSYSTEM=block\n";
        assert_eq!(text(record).unwrap(), "device-mapper: ioctl: x");
        assert_eq!(text(b"nonsense"), None);
    }

    fn refused(lines: &[&str]) -> Option<Reason> {
        let lines: Vec<_> = lines.iter().map(|l| l.to_string()).collect();
        let device = Devno {
            major: 253,
            minor: 0,
        };
        table_refused(&lines, device, "dm-snap-mv")
    }

    #[test]
    fn the_reason_is_found_among_other_lines() {
        let reason = refused(&[
            "usb 1-1: new device",
            "device-mapper: table: 253:0: dm-snap-mv: no store (use -f) (-ENODATA)",
            "device-mapper: table: 253:1: dm-snap-mv: another device (-EBUSY)",
            "device-mapper: ioctl: error adding target to table",
        ]);
        assert_eq!(
            reason,
            Some(Reason {
                text: "no store (use -f)".into(),
                errno: Some("ENODATA".into()),
                detail: None,
            })
        );
    }

    #[test]
    fn the_last_one_counts() {
        let reason = refused(&[
            "device-mapper: table: 253:0: dm-snap-mv: first (-EINVAL)",
            "device-mapper: table: 253:0: dm-snap-mv: second (-EINVAL)",
        ]);
        assert_eq!(reason.unwrap().text, "second");
    }

    #[test]
    fn who_has_a_device_is_told_before() {
        let reason = refused(&[
            "dm_snap_mv: 253:1: vdc is in use by another (253:7)",
            "dm_snap_mv: 253:0: vdb is in use by vg-lv (253:3)",
            "device-mapper: table: 253:0: dm-snap-mv: in use (-EBUSY)",
        ]);
        let detail = reason.and_then(|reason| reason.detail);
        assert_eq!(detail.as_deref(), Some("vdb is in use by vg-lv (253:3)"));
    }

    #[test]
    fn device_mapper_itself_may_refuse() {
        let reason = refused(&["device-mapper: table: 253:0: unknown target type"]);
        assert_eq!(reason.as_ref().unwrap().text, "unknown target type");
        assert_eq!(reason.unwrap().errno, None);
        assert_eq!(refused(&["device-mapper: table: 253:01: no"]), None);
    }
}
