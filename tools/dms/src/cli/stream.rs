// SPDX-License-Identifier: GPL-2.0
//! The commands for streams.

use clap::{Args, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Look at streams, or make one of two
///
/// A stream is what versions of an origin are sent in: the whole of one, or what has changed since
/// an earlier one. It can be kept in a file. None of this needs root or the module.
#[derive(Args, Debug)]
pub struct Stream {
    /// What to do
    #[command(subcommand)]
    pub command: StreamCommand,
}

/// What is done with streams. What it does stands with the arguments.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    Show(StreamShow),
    Verify(StreamVerify),
    Merge(StreamMerge),
}

/// Show what is in a stream
///
/// Which version of which origin it holds, and since which one, and how much that is. The stream is
/// read to its end and verified on the way, unless --begin is given.
#[derive(Args, Debug)]
pub struct StreamShow {
    /// The stream; - is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Only what it begins with; the rest is not read
    #[arg(long)]
    pub begin: bool,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Look whether a stream is whole and undamaged
///
/// Every checksum, every digest, and all counts are looked at, and that nothing follows its end.
#[derive(Args, Debug)]
pub struct StreamVerify {
    /// The stream; - is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Print nothing; the exit code says enough
    #[arg(short, long)]
    pub quiet: bool,
}

/// Make one stream of two that follow one another
///
/// SECOND has to begin with the version that FIRST leads to. What comes of it does the same as both
/// do, one after the other, and sets nothing twice. Both are read twice, so they have to be files.
#[derive(Args, Debug)]
pub struct StreamMerge {
    /// The earlier one
    #[arg(value_hint = ValueHint::FilePath)]
    pub first: PathBuf,
    /// The later one
    #[arg(value_hint = ValueHint::FilePath)]
    pub second: PathBuf,
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// Send a snapshot as a stream, or what has changed since another one
///
/// The stream goes to standard output, into "dms receive" here or elsewhere, or a file. Without
/// --since it is the whole snapshot with the tag TAG, from which whatever is zeroes is left out; with
/// --since only what differs from that snapshot, which whoever receives it must have.
///
/// The snapshot is activated for that where no device shows it, read-only and under a name that begins
/// with dms-send; this device goes when dms does, whatever ends it. The origin, and whatever else, can be
/// used meanwhile.
///
/// A snapshot that has been written to cannot be what is sent since: nobody could tell that the other
/// end has what it holds now. It can be sent, but it must not be written to meanwhile, nor can it
/// be gone on with. Take a snapshot of it and send that.
///
/// With --history, all snapshots of the origin go into one stream, oldest first: the first one whole, or what has
/// changed since OLD, and of each other one what has changed since the one before. Who receives that into an
/// origin has a snapshot of each then, and of any other target, the last one.
#[derive(Args, Debug)]
pub struct Send {
    /// A device of the origin, or of any of its snapshots; with --cow, the origin
    pub dm_dev: OsString,
    /// The tag of the snapshot; with --history, of the last one
    #[arg(required_unless_present = "history")]
    pub tag: Option<String>,
    /// All snapshots up to that, one after the other
    ///
    /// Snapshots of snapshots are left out, and those that have been written to, which is said.
    #[arg(short = 'R', long)]
    pub history: bool,
    /// Only what has changed since the snapshot with this tag
    #[arg(short, long, value_name = "OLD")]
    pub since: Option<String>,
    /// Only tell how much would be set; nothing is read but metadata
    #[arg(long, conflicts_with_all = ["resume", "output"])]
    pub estimate: bool,
    /// Go on from where "dms receive TARGET --position" says
    #[arg(long, value_name = "POSITION")]
    pub resume: Option<String>,
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The store on this COW device: no device of it need be active
    ///
    /// DM_DEV is the origin then: its device, its identity, or its number in the store.
    #[arg(long, value_name = "COW", value_hint = ValueHint::FilePath)]
    pub cow: Option<OsString>,
}

/// Receive a stream into a file, a plain device, or an origin
///
/// The stream is read from standard input. TARGET becomes the version that it leads to. It is noted
/// what it holds: of a file beside it, in TARGET.dms-state; of a device in /var/lib/dms/receive; or in the
/// file that is given with --state.
///
/// An origin is meant by its device, as mapper/orig. When all has been received a snapshot of it is taken,
/// with the memo of the one that was sent, and its tag is printed. That is what is to be used.
///
/// A stream of what has changed is refused, before anything is written, unless TARGET is proven to hold
/// the version that it starts from. One of a whole version is refused if there is something on TARGET,
/// unless --force is given.
///
/// A plain device or a file is proven by samples, or with --digest by all of it. An origin is proven by
/// the snapshot that was taken when it was received last: that must be there, and neither it nor the
/// origin have been written to since.
///
/// What was interrupted can be gone on with, by whatever: give it the same stream again, or one that
/// begins at the place that --position prints. Until it is done TARGET holds a mixture of both
/// versions, and it is noted that it does.
#[derive(Args, Debug)]
pub struct Receive {
    /// A file, or a block device that nobody uses: a plain one, or an origin's
    ///
    /// A file need not be there, but then there has to be a slash in its name, as in ./file: the name of a device
    /// that was mistyped is not made a file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub target: OsString,
    /// Where it is noted what TARGET holds
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub state: Option<PathBuf>,
    /// Put aside what the file holds, until all is received: by a reflink, which takes no space
    ///
    /// Then --abort brings it back. The file system has to be one that has reflinks, such as btrfs or
    /// XFS.
    #[arg(short, long)]
    pub keep: bool,
    /// Read all of TARGET, to prove what it holds and to note what it becomes
    ///
    /// Otherwise samples are read.
    #[arg(long)]
    pub digest: bool,
    /// Write over what there is; with --abort, give it up
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Give up what has been received in part
    ///
    /// An origin is rolled back to the snapshot that it was, which is waited for. What --keep has put aside
    /// comes back, and a file that was made for it goes. If TARGET held a version that was not put aside,
    /// that is lost, and --force has to be given.
    #[arg(long, conflicts_with_all = ["keep", "digest", "position", "status"])]
    pub abort: bool,
    /// Print the place to go on from, for whoever sends; nothing, if nothing was left off
    #[arg(long, conflicts_with_all = ["keep", "digest", "force", "status"])]
    pub position: bool,
    /// Show what TARGET is noted to hold
    #[arg(long, conflicts_with_all = ["keep", "digest", "force"])]
    pub status: bool,
    /// Write JSON
    #[arg(long, requires = "status")]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn what_does_not_go_together() {
        for line in [
            "receive",
            "receive x y",
            "receive x --abort --keep",
            "receive x --position --force",
            "receive x --json",
            "stream",
            "stream show",
            "stream merge x",
            "stream send x",
            "send x",
            "send x 1 2",
            "send x 1 --estimate -o y",
            "send x --since 1",
        ] {
            let error = Cli::try_parse_from(format!("dms {line}").split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
