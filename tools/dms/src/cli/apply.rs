// SPDX-License-Identifier: GPL-2.0
//! The command that brings a snapshot onto another device.

use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Have another device or a file here become what a snapshot is
///
/// With --since only what differs between that version and TAG is written, and only if it is proven that TARGET
/// holds that version: by what "dms receive", "dms sync" or an earlier "dms apply" have noted of it, or with
/// --verify by comparing all of it. Without --since all is written, and TARGET has to be blank, unless --force is
/// given. It is what "dms send DM_DEV TAG" and "dms receive TARGET" do together: it is noted what TARGET holds,
/// what was interrupted is gone on with by the same command again, and given up with "dms receive TARGET --abort".
///
/// With --instant TARGET, which has to be a device, can be used at once as /dev/mapper/NAME: dm-clone fetches what
/// differs in the background, or when it is wanted. What is written meanwhile is on TARGET. When the command
/// returns, nothing but what differs is left to be fetched. After a reboot the same command again goes on; nothing
/// must use TARGET in between. "dms apply --finish NAME" waits until all is fetched and then puts TARGET itself
/// in the place of the clone, though it may be mounted: then the snapshot is not needed any more. NAME stays until
/// "dmsetup remove NAME". What TARGET holds is not noted any more then, since it was made to be written to.
#[derive(Args, Debug)]
pub struct Apply {
    /// A device of the origin, or of any of its snapshots; with --cow, the origin
    #[arg(required_unless_present_any = ["finish", "abandon"])]
    pub dm_dev: Option<OsString>,
    /// The tag of the snapshot
    #[arg(required_unless_present_any = ["finish", "abandon"])]
    pub tag: Option<String>,
    /// What is to become that: what "dms receive" takes
    #[arg(long, value_name = "TARGET", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present_any = ["finish", "abandon"])]
    pub onto: Option<OsString>,
    /// Only what has changed since the snapshot with this tag, which TARGET has to hold
    #[arg(short, long, value_name = "OLD")]
    pub since: Option<String>,
    /// Prove that TARGET holds OLD by reading both, whatever is noted; OLD cannot be a bookmark
    #[arg(long, requires = "since")]
    pub verify: bool,
    /// Write over what there is
    #[arg(short = 'F', long, conflicts_with = "since")]
    pub force: bool,
    /// Where it is noted what TARGET holds
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// The store on this COW device: no device of it need be active
    #[arg(long, value_name = "COW", value_hint = ValueHint::FilePath)]
    pub cow: Option<OsString>,
    /// Have it usable at once, and fetch what differs in the background
    #[arg(long, requires = "name")]
    pub instant: bool,
    /// The name of the device that is to be used
    #[arg(long, value_name = "NAME", requires = "instant")]
    pub name: Option<String>,
    /// A blank device for what dm-clone has to remember: 2 MiB, and 1 MiB for each 8 GiB
    ///
    /// [default: a file in /var/lib/dms/apply]
    #[arg(long, value_name = "DEV", requires = "instant", value_hint = ValueHint::FilePath)]
    pub metadata: Option<OsString>,
    /// Wait until all is fetched for the device NAME, and have it be TARGET itself
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dm_dev", "onto", "instant", "abandon"])]
    pub finish: Option<String>,
    /// Remove the device NAME, which nobody may use, before all is fetched: TARGET is of no use then
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dm_dev", "onto", "instant"])]
    pub abandon: Option<String>,
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(format!("dms {line}").split(' '))
    }

    #[test]
    fn what_does_not_go_together() {
        for line in [
            "apply",
            "apply x",
            "apply x 3",
            "apply x 3 --onto y --verify",
            "apply x 3 --onto y --since 1 -F",
            "apply x 3 --onto y --instant",
            "apply x 3 --onto y --name z",
            "apply x 3 --onto y --metadata z",
            "apply x 3 --finish z",
            "apply --finish z --abandon z",
            "apply --finish z --onto y",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        for line in [
            "apply x 3 --onto y",
            "apply x 3 --onto y --since 1 --verify",
            "apply x 3 --onto y --since 1 --instant --name z --metadata m",
            "apply --finish z",
            "apply --abandon z",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
