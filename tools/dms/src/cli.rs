// SPDX-License-Identifier: GPL-2.0
//! The command line. Help, the manual and the completions are all made from this.

mod apply;
mod documents;
mod label;
mod nbd;
mod reading;
mod stream;
mod sync;

pub use apply::Apply;
pub use documents::{Complete, Completions, Docs};
pub use label::{Label, LabelFields};
pub use nbd::Nbd;
pub use reading::{diff_exit_codes, Diff, Dump};
pub use stream::{Receive, Send, Stream, StreamCommand, StreamMerge, StreamShow, StreamVerify};
pub use sync::{Migrate, Serve, Sync, Verify};

use crate::failure::{fsck, EXIT_CODES};
use clap::{Args, Parser, Subcommand, ValueHint};
use std::ffi::OsString;

/// Snapshots of block devices, in place.
///
/// dms works with the dm-snap-mv target of device-mapper. It takes snapshots of a block device
/// that is there already, keeps all of them on one other block device (the COW device), and
/// gives each version a device-mapper device: the origin as it is now, and every snapshot, all
/// of them readable and writable at the same time.
#[derive(Debug, Parser)]
#[command(
    name = "dms",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "See \"dms COMMAND --help\" and dms(8).",
    after_long_help = exit_codes(),
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The part of the help that lists the exit codes.
pub fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in EXIT_CODES {
        text += &format!("  {code:>3}  {meaning}\n");
    }
    text + "\ndms check and dms repair have those of fsck(8), dms diff those of diff(1). See dms(8) for more."
}

/// The same, for the commands that have those of fsck.
pub fn fsck_exit_codes() -> String {
    let mut text = String::from("Exit codes, which are those of fsck(8):\n");
    for (code, meaning) in fsck::EXIT_CODES {
        text += &format!("  {code:>3}  {meaning}\n");
    }
    text + "\nSee dms(8) for more."
}

/// The commands. What they do stands with their arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(visible_alias = "c")]
    Create(Create),
    #[command(visible_alias = "r")]
    Remove(Remove),
    #[command(visible_alias = "s")]
    Snapshot(Snapshot),
    Label(Label),
    #[command(visible_alias = "d")]
    Delete(Delete),
    #[command(visible_alias = "b")]
    Rollback(Rollback),
    #[command(visible_alias = "l")]
    List(List),
    Status(Status),
    Wait(Wait),
    Merge(Merge),
    Diff(Diff),
    Dump(Dump),
    Check(Check),
    Repair(Repair),
    Send(Send),
    Receive(Receive),
    Stream(Stream),
    Sync(Sync),
    Migrate(Migrate),
    Serve(Serve),
    Verify(Verify),
    Apply(Apply),
    Nbd(Nbd),
    Completions(Completions),
    /// Print the manual page
    #[command(hide = true)]
    Man,
    #[command(hide = true, alias = "gen-docs")]
    Docs(Docs),
    #[command(hide = true)]
    Complete(Complete),
}

/// Create the device of an origin, or of a snapshot
///
/// Without TAG, /dev/mapper/DM_DEV will show ORIGIN as it is now. From then on ORIGIN must be
/// written through it alone. With TAG it will show that snapshot of ORIGIN.
///
/// A COW device needs -f the first time it is used, and an origin needs -b the first time it
/// is used with a COW device. Several origins can share one.
///
/// A device that somebody else uses is refused, and named: mounted, swap space, under another device,
/// in a volume group that is in use, or shown by a loop device. So it is where only a part of it is
/// used, or the disk that it is a part of. No option overrides that.
///
/// If it is interrupted, there is no device, and no origin has been bound; but with -f or -F the COW
/// device may be formatted already.
#[derive(Args, Debug)]
pub struct Create {
    /// The name of the device to create
    pub dm_dev: String,
    /// The origin device; /dev/ may be left out, and vg/lv is a logical volume
    #[arg(value_hint = ValueHint::FilePath)]
    pub origin: OsString,
    /// The COW device, where snapshots are kept; named likewise
    #[arg(value_hint = ValueHint::FilePath)]
    pub cow: OsString,
    /// The tag of the snapshot to show
    pub tag: Option<String>,
    /// Bind ORIGIN to the COW device, when it is used with it for the first time
    #[arg(short, long, conflicts_with = "tag")]
    pub bind: bool,
    /// Format the COW device, if there is nothing on it; what there is is named
    #[arg(short, long, requires = "bind", conflicts_with = "tag")]
    pub format: bool,
    /// Format the COW device; whatever is on it is lost
    #[arg(short = 'F', long, requires = "bind", conflicts_with_all = ["format", "tag"])]
    pub force_format: bool,
    /// Chunk size for the format, in pages of 4 KiB: a power of two from 1 to 256
    ///
    /// Larger chunks take less metadata and copy more than was written. [default: 1]
    #[arg(short, long, value_name = "PAGES", conflicts_with = "tag")]
    pub chunk_size: Option<String>,
    /// What becomes of a write to the origin when the COW device is full
    ///
    /// "invalidate" lets it through, and all snapshots of the origin are lost; "error" lets it
    /// fail; "queue" lets it wait for space a while before it fails. [default: invalidate]
    #[arg(short = 'e', long, value_name = "POLICY")]
    #[arg(value_parser = ["invalidate", "error", "queue"])]
    pub on_full: Option<String>,
    /// Accept that ORIGIN is another disk than it was when it was last used
    ///
    /// Its snapshots show what the disk holds wherever nothing was preserved for them: they are right
    /// if it is a copy of the former one, made while that was not in use, and else are not.
    #[arg(short, long, conflicts_with_all = ["tag", "bind"])]
    pub accept_device: bool,
    /// Do not ask before what is on the COW device is destroyed
    #[arg(short, long, requires = "force_format")]
    pub yes: bool,
    /// How the COW device knows the origin [default: its path]
    ///
    /// Give one of your own if the origin's path may change, as /dev/sdb1 does when disks are
    /// added, and give it each time.
    #[arg(short, long)]
    pub id: Option<OsString>,
}

/// Remove a device; what it showed stays
///
/// Only the device goes: origin, snapshots and store stay as they are, and "dms create" brings
/// the device back. One that a "dms create" left half made, because it was killed, can be removed
/// as well; no other command knows it.
#[derive(Args, Debug)]
pub struct Remove {
    /// The device to remove
    pub dm_dev: String,
}

/// Take a snapshot of an origin, or of a snapshot, and print its tag
///
/// A file system that is mounted from the device is frozen for that moment, so that the
/// snapshot of it is clean.
#[derive(Args, Debug)]
pub struct Snapshot {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// Take it of the snapshot with this tag rather than of the origin
    pub tag: Option<String>,
    /// A note to keep with it: at most 64 bytes of UTF-8
    #[arg(short, long)]
    pub memo: Option<OsString>,
    /// Take a bookmark of the origin: only what has changed since is kept, not the content
    #[arg(short = 'k', long, conflicts_with = "tag")]
    pub bookmark: bool,
    #[command(flatten)]
    pub label: LabelFields,
}

/// Delete a snapshot, or unbind an origin from its COW device
///
/// With TAG, that snapshot is deleted. It is gone at once; its space comes back in the
/// background ("dms wait DM_DEV --cleaning" waits for that). With -k, a bookmark of it stays: it
/// takes no space for data, and tells which chunks have changed since. TAG can be a bookmark, too.
///
/// Without TAG, the origin is unbound from its COW device and DM_DEV is removed. All of its
/// snapshots must have been deleted before.
#[derive(Args, Debug)]
pub struct Delete {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// The tag of the snapshot
    pub tag: Option<String>,
    /// Keep a bookmark of it
    #[arg(short = 'k', long, requires = "tag")]
    pub keep_bookmark: bool,
}

/// Roll an origin back to a snapshot
///
/// The origin reads as the snapshot from the first moment on, while the content is copied in
/// the background; the command waits for that unless -b is given. All snapshots are kept. The
/// origin's device must not be mounted or otherwise open when this begins.
#[derive(Args, Debug)]
pub struct Rollback {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// The tag of the snapshot
    pub tag: String,
    /// Do not wait until it is done
    #[arg(short, long)]
    pub background: bool,
}

/// List origins and their snapshots
///
/// A block for each origin of which a device is active, and a line in it for each version.
/// The column R holds "." or letters: R the origin is being rolled back to this, I it is
/// invalid, G it was deleted but has snapshots of its own, B it is a bookmark.
#[derive(Args, Debug)]
pub struct List {
    /// Only the origin of this device
    pub dm_dev: Option<String>,
    /// Deleted snapshots too, which are kept for the snapshots taken of them
    #[arg(short, long)]
    pub all: bool,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Show the status of devices
#[derive(Args, Debug)]
pub struct Status {
    /// Only this device
    pub dm_dev: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Wait until a rollback or cleaning is done
///
/// Without an option, for all of it. A rollback that stands still, because the COW device is full
/// or because of an I/O error, is waited for; it is said that it does, and what to do about it.
#[derive(Args, Debug)]
pub struct Wait {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// Wait for the rollback of the origin
    #[arg(long)]
    pub rollback: bool,
    /// Wait until the space of deleted snapshots is free
    #[arg(long)]
    pub cleaning: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// Roll an origin back to a snapshot and delete the snapshot
///
/// The origin's device must not be mounted or otherwise open when this begins. With --defer it
/// may be: then the merge begins when the device is activated next.
#[derive(Args, Debug)]
pub struct Merge {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// The tag of the snapshot
    #[arg(required_unless_present = "call_off")]
    pub tag: Option<String>,
    /// Do not wait until it is done
    #[arg(short, long)]
    pub background: bool,
    /// Begin when the origin's device is activated next
    #[arg(long, conflicts_with = "background")]
    pub defer: bool,
    /// Call off what --defer has put off
    #[arg(long, conflicts_with_all = ["tag", "background", "defer"])]
    pub call_off: bool,
}

/// Check the store on a COW device
///
/// Looks whether everything in the store can be read and nothing in it contradicts itself, and
/// prints what is wrong. Nothing is written. No device of the store may be active, and nobody
/// may use any part of the device, or the file, by another way: a loop device, another mapping.
#[derive(Args, Debug)]
#[command(after_long_help = fsck_exit_codes())]
pub struct Check {
    /// The COW device, or a file that holds an image of one
    #[arg(value_hint = ValueHint::FilePath)]
    pub device: OsString,
    /// Look at the superblock only
    #[arg(long)]
    pub super_only: bool,
    /// Leave out the records of chunks, and so the space maps
    #[arg(long, conflicts_with = "super_only")]
    pub skip_records: bool,
    /// Print nothing; the exit code says enough
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Repair the store on a COW device, as far as that takes no guessing
///
/// Checks the store as "dms check" does, and says what it would do. Space maps, the way from
/// identities to origins, and flags can be made anew of what else there is. If anything
/// else is damaged nothing is changed at all, and it is said whose content is concerned. No
/// snapshot that can be read is ever given up.
///
/// Where counts and space maps show that something is missing or another's, nothing is changed
/// either: what they say is all that is left of them. Only --give-up-missing does that.
///
/// No device of the store may be active, and nobody may use any part of the device, or the file,
/// by another way: a loop device, another mapping. An interrupted repair leaves the store as it was.
#[derive(Args, Debug)]
#[command(after_long_help = fsck_exit_codes())]
pub struct Repair {
    /// The COW device, or a file that holds an image of one
    #[arg(value_hint = ValueHint::FilePath)]
    pub device: OsString,
    /// Change nothing; only say what would be done
    #[arg(short = 'n', long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Give up what is missing: counts are set to what there is, and what nothing leads to is freed
    #[arg(long)]
    pub give_up_missing: bool,
    /// Where there is no store any more, bring the superblock back from its backup, over whatever is
    /// there instead; look for it everywhere
    #[arg(long)]
    pub superblock: bool,
    /// Print nothing; the exit code says enough
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(format!("dms {line}").split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_session_parses() {
        for line in [
            "create orig sdb1 sdc1 -bF",
            "snapshot orig -m snap1",
            "create snap1 sdb1 sdc1 1",
            "snapshot orig 1 -m snap2",
            "create snap2 sdb1 sdc1 2",
            "list",
            "remove orig",
            "rollback snap2 2",
            "create orig sdb1 sdc1",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn short_forms() {
        assert!(matches!(parse("c x a b"), Ok(Command::Create(_))));
        assert!(matches!(parse("r x"), Ok(Command::Remove(_))));
        assert!(matches!(parse("s x"), Ok(Command::Snapshot(_))));
        assert!(matches!(parse("d x 1"), Ok(Command::Delete(_))));
        assert!(matches!(parse("b x 1"), Ok(Command::Rollback(_))));
        assert!(matches!(parse("l"), Ok(Command::List(_))));
    }

    #[test]
    fn options_may_stand_anywhere_and_together() {
        for line in [
            "create -bfc 4 x a b",
            "create x -b a -f b -c4",
            "create x a b -bfc4 -e queue -i id",
            "create --bind --force-format x --chunk-size=4 a b",
        ] {
            let Ok(Command::Create(create)) = parse(line) else {
                panic!("{line}");
            };
            assert!(
                create.bind && (create.format || create.force_format),
                "{line}"
            );
            assert_eq!(create.chunk_size.as_deref(), Some("4"), "{line}");
        }
    }

    #[test]
    fn what_does_not_go_together() {
        for line in [
            "create x a",
            "create x a b 1 2",
            "create x a b -f",
            "create x a b -F",
            "create x a b -bfF",
            "create x a b 1 -b",
            "create x a b 1 -c 4",
            "create x a b -e maybe",
            "create x a b -z",
            "remove",
            "remove x y",
            "snapshot",
            "rollback x",
            "merge x 1 --defer -b",
            "list x y",
            "wait",
            "wait x --timeout soon",
            "check",
            "check x y",
            "check x --super-only --skip-records",
            "check x -q --json",
            "repair",
            "repair x -n -y",
            "repair x -q --json",
            "diff",
            "diff x",
            "diff x 1 2 3",
            "diff x 1 --json --borg-map",
            "diff x 1 --bitmap - --count",
            "diff x 1 --count --sectors",
            "dump",
            "dump x --snapshot 1",
            "completions powershells",
            "frobnicate",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_and_version_everywhere() {
        for line in [
            "",
            "create ",
            "remove ",
            "snapshot ",
            "delete ",
            "rollback ",
            "list ",
        ]
        .into_iter()
        .chain([
            "status ",
            "wait ",
            "merge ",
            "diff ",
            "dump ",
            "check ",
            "repair ",
            "receive ",
            "stream ",
            "stream show ",
            "stream verify ",
            "stream merge ",
            "completions ",
        ]) {
            for option in ["-h", "--help", "-V", "--version"] {
                let error = parse(&format!("{line}{option}")).unwrap_err();
                assert_eq!(error.exit_code(), 0, "{line}{option}");
            }
        }
    }

    #[test]
    fn exit_codes_are_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("4  something is in use or busy"));
    }
}
