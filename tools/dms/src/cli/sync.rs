// SPDX-License-Identifier: GPL-2.0
//! The commands for replication.

use super::diff_exit_codes;
use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Have another device, here or elsewhere, become what an origin is now
///
/// A snapshot of the origin is taken, with the file system on it frozen for that moment, and sent: the
/// first time as a whole, then only what has changed since the last time. Do it again and again, from cron
/// or a timer. Each time a bookmark stays, which takes no space for data, so that deleting snapshots
/// never breaks the chain; it has a memo that names TARGET, so that there can be several targets. The
/// bookmark of the time before is deleted.
///
/// Elsewhere is HOST:TARGET, reached by ssh, where "dms serve" is started; or a command of your own, given
/// with --rsh.
///
/// What was interrupted, by whatever, on either side, is gone on with the next time. It is an error when
/// TARGET is something else than what was left there, and nothing is written then.
#[derive(Args, Debug)]
pub struct Sync {
    /// A device of the origin, or of any of its snapshots
    #[arg(required_unless_present = "status")]
    pub dm_dev: Option<String>,
    /// What "dms receive" takes, or HOST: and that
    #[arg(required_unless_present = "status", value_hint = ValueHint::FilePath)]
    pub target: Option<OsString>,
    /// Where it is noted what TARGET holds, as for dms receive; on its host
    #[arg(long, value_name = "FILE")]
    pub state: Option<OsString>,
    /// Send all, over whatever TARGET holds
    #[arg(long)]
    pub full: bool,
    /// The other way round: have the origin of DM_DEV become what TARGET is now
    ///
    /// TARGET is an origin, too, which has been written to since it was received, as this one may have been. What
    /// has been written here since both were the same is lost but for a snapshot that is taken of it first, with
    /// the memo "before dms sync --reverse". What is sent is what has changed on either side since then.
    ///
    /// It is said how much will be overwritten, and asked whether to go on. Nobody may use the origin
    /// meanwhile; TARGET can be in use, with a snapshot of it being what is sent.
    #[arg(long, conflicts_with = "full")]
    pub reverse: bool,
    /// Do not ask whether to go on
    #[arg(short, long, requires = "reverse")]
    pub yes: bool,
    /// What is run to reach HOST, in place of "ssh"; HOST and a command are added
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub rsh: String,
    /// Only show how far behind targets are, as noted here
    ///
    /// Of all targets that there are, or of those of the origin of DM_DEV.
    #[arg(long, conflicts_with_all = ["target", "state", "full", "reverse"])]
    pub status: bool,
    /// Write JSON
    #[arg(long, requires = "status", conflicts_with = "prometheus")]
    pub json: bool,
    /// Write what Prometheus reads, for the textfile collector of its node exporter
    #[arg(long, requires = "status")]
    pub prometheus: bool,
}

/// Move what uses an origin to another device, here or elsewhere
///
/// TARGET is brought up to date by "dms sync" while all goes on, again and again, until little is left or it does
/// not get less. Then the command given with --stop has to end the use of the origin: stop the programs, umount.
/// The origin is made read-only, what is left is sent, and when TARGET has all, to the last byte, the command given
/// with --start is run, which begins to use TARGET, wherever that is.
///
/// The origin stays read-only, so that nobody writes to the wrong one: "blockdev --setrw" makes it
/// writable again. If it cannot be brought to the end, it is made writable again at once.
///
/// Without --stop, nobody may use the origin when little is left, or nothing more is done than that TARGET is up
/// to date. Later on, "dms sync --reverse" brings back what TARGET has become.
#[derive(Args, Debug)]
pub struct Migrate {
    /// A device of the origin
    pub dm_dev: String,
    /// As for dms sync
    #[arg(value_hint = ValueHint::FilePath)]
    pub target: OsString,
    /// How much may be left for when all is still, in bytes; with K, M, G, T for powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = size)]
    pub until: u64,
    /// What is run to end the use of the origin, by a shell
    #[arg(long, value_name = "COMMAND")]
    pub stop: Option<OsString>,
    /// What is run when TARGET has all, by a shell
    #[arg(long, value_name = "COMMAND")]
    pub start: Option<OsString>,
    /// Where it is noted what TARGET holds, as for dms receive; on its host
    #[arg(long, value_name = "FILE")]
    pub state: Option<OsString>,
    /// What is run to reach HOST, in place of "ssh"; HOST and a command are added
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub rsh: String,
}

/// A number of bytes.
fn size(word: &str) -> Result<u64, String> {
    let (digits, shift) = match word.char_indices().last() {
        Some((at, 'K' | 'k')) => (word.get(..at), 10),
        Some((at, 'M' | 'm')) => (word.get(..at), 20),
        Some((at, 'G' | 'g')) => (word.get(..at), 30),
        Some((at, 'T' | 't')) => (word.get(..at), 40),
        _ => (Some(word), 0),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "it is no number of bytes, such as 65536 or 64K".to_owned())
}

/// Serve "dms sync" and "dms verify" on standard input and output
///
/// It is what they start on another host. It receives into the targets that are given
/// with --receive, and into nothing else; it sends origins that are given with --send, as "dms sync --reverse" asks
/// it to, for which it takes snapshots of them, and nothing else; and it deletes nothing, nor does it write over anything that is
/// not what the other side left there, unless --overwrite is given. So it can be the command that a key of
/// ssh is bound to, whatever whoever has that key asks for, as in a line of authorized_keys that begins with
/// command="dms serve --stdio --receive mapper/copy",restrict
#[derive(Args, Debug)]
pub struct Serve {
    /// By standard input and output; there is no other way
    #[arg(long, required = true)]
    pub stdio: bool,
    /// What may be received into; can be given several times
    #[arg(long, value_name = "TARGET", value_hint = ValueHint::FilePath)]
    pub receive: Vec<OsString>,
    /// The origin that may be sent; can be given several times
    ///
    /// For "dms sync --reverse" it has to be given with --receive, too: what is noted of it says then what it has
    /// in common with the other side.
    #[arg(long, value_name = "DM_DEV")]
    pub send: Vec<OsString>,
    /// What may be looked at by "dms verify", beside that; can be given several times
    #[arg(long, value_name = "WHAT")]
    pub verify: Vec<String>,
    /// Where it is noted what the target holds, if there is one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// Let the other side write over what a target holds
    #[arg(long)]
    pub overwrite: bool,
}

/// Tell whether two things hold the same
///
/// Each is a device or a file; DM_DEV@TAG, a snapshot of the origin that DM_DEV is a device of; DM_DEV@now, that
/// origin; or HOST: and one of these. Both are read at the same time, each where it is, and digests
/// of it are compared (BLAKE3). Printed are ranges that differ, in bytes: where one starts, and how long it is, in
/// blocks of 4 KiB. What one of them has more, because it is larger, differs.
#[derive(Args, Debug)]
#[command(after_long_help = diff_exit_codes())]
pub struct Verify {
    /// One of them
    #[arg(value_hint = ValueHint::FilePath)]
    pub one: String,
    /// The other one
    #[arg(value_hint = ValueHint::FilePath)]
    pub other: String,
    /// Print nothing, and stop where the first difference is; the exit code says enough
    #[arg(short, long)]
    pub quiet: bool,
    /// What is run to reach HOST, in place of "ssh"; HOST and a command are added
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub rsh: String,
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn sizes() {
        assert_eq!(super::size("0"), Ok(0));
        assert_eq!(super::size("64K"), Ok(65536));
        assert_eq!(super::size("3g"), Ok(3 << 30));
        for word in ["", "K", "-1", "1.5M", "99999999999999T", "1KB", "é"] {
            assert!(super::size(word).is_err(), "{word}");
        }
    }

    #[test]
    fn what_does_not_go_together() {
        for line in [
            "sync",
            "sync x",
            "sync x y --status",
            "sync x y --full --reverse",
            "sync x y --yes",
            "sync x --status --reverse",
            "sync --json",
            "sync --status --json --prometheus",
            "serve",
            "serve --receive x",
        ] {
            let error = Cli::try_parse_from(format!("dms {line}").split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        for line in ["sync --status", "sync x --status", "sync x a:b"] {
            assert!(Cli::try_parse_from(format!("dms {line}").split(' ')).is_ok());
        }
    }
}
