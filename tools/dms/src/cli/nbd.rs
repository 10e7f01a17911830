// SPDX-License-Identifier: GPL-2.0
//! The command for network block devices.

use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Serve a snapshot to programs that read network block devices (NBD)
///
/// Backup programs, nbdcopy and qemu-img among them, can read the snapshot with the tag TAG through a Unix
/// socket then, several at once: all of it, or what has changed. It cannot be written to.
///
/// The socket is one that is made, with --socket, and that only its owner can connect to; or the one that
/// systemd hands over, or whoever does as systemd does: nbdinfo [ dms nbd DM_DEV TAG ].
///
/// Clients can ask which parts are known to be zeroes (base:allocation), and with --since, which ones have
/// changed since that snapshot or bookmark (qemu:dirty-bitmap:since-OLD). All of that is known beforehand, and
/// what becomes of that snapshot meanwhile does not matter.
///
/// The snapshot is activated for that where no device shows it, read-only and under a name that begins
/// with dms-send; this device goes when dms does, whatever ends it. The origin, and whatever else, can be
/// used meanwhile. Where a device shows it, nobody may write to that; if somebody does, all
/// clients are cut off, and the command fails.
///
/// The command ends when SIGTERM or SIGINT comes, and exits with 0 then; what clients have asked for they still get.
#[derive(Args, Debug)]
pub struct Nbd {
    /// A device of the origin, or of any of its snapshots; with --cow, the origin
    pub dm_dev: OsString,
    /// The tag of the snapshot
    pub tag: String,
    /// Make a Unix socket there; one that a dead server has left is replaced
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Tell what has changed since the snapshot with this tag
    #[arg(short, long, value_name = "OLD")]
    pub since: Option<String>,
    /// End when the last client that has read has gone
    #[arg(long)]
    pub once: bool,
    /// The store on this COW device: no device of it need be active
    ///
    /// DM_DEV is the origin then: its device, its identity, or its number in the store.
    #[arg(long, value_name = "COW", value_hint = ValueHint::FilePath)]
    pub cow: Option<OsString>,
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn what_is_meant() {
        let parse = |line: &str| Cli::try_parse_from(format!("dms {line}").split(' '));
        for line in [
            "nbd",
            "nbd x",
            "nbd x 1 2",
            "nbd x 1 --socket",
            "nbd x 1 --port 10809",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let parsed = parse("nbd x 2 --socket /s -s 1 --once --cow y").unwrap();
        assert!(matches!(parsed.command, Command::Nbd(nbd) if nbd.once));
    }
}
