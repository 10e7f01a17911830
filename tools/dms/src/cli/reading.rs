// SPDX-License-Identifier: GPL-2.0
//! The command line of what reads a store: what differs, and all that there is.

use crate::failure::diff;
use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Tell what differs between two versions of an origin
///
/// OLD and NEW are tags of snapshots, snapshots of snapshots among them, or 0 or "now" for the origin as
/// it is, which NEW is if it is left out. Printed are ranges of NEW, in bytes: where it starts, how
/// long it is, and "data" or, where NEW is known to have nothing but zeroes, "zero". What is left out is
/// the same in both. Nothing but metadata is read. Ranges are whole chunks, so that some of what is in
/// them may be the same; what is written to the origin, or to a device of either snapshot, meanwhile may
/// be among them or not.
///
/// Where NEW is larger than OLD, what it has more differs.
///
/// The store may be in use. A snapshot that is deleted meanwhile, or becomes invalid, makes the
/// command fail; what it has printed by then is of no use.
#[derive(Args, Debug)]
#[command(after_long_help = diff_exit_codes())]
pub struct Diff {
    /// A device of the origin, or of any of its snapshots; with --cow, the origin
    pub dm_dev: OsString,
    /// The older version
    pub old: String,
    /// The newer version [default: the origin as it is]
    pub new: Option<String>,
    /// Read the store on this COW device, or in this file: no device of it need be active
    ///
    /// DM_DEV is the origin then: its device, its identity, or its number in the store.
    #[arg(long, value_name = "COW", value_hint = ValueHint::FilePath)]
    pub cow: Option<OsString>,
    /// Write sectors of 512 bytes instead of bytes
    #[arg(long, conflicts_with_all = ["json", "bitmap", "borg_map", "count"])]
    pub sectors: bool,
    /// Write JSON: an object in each line
    #[arg(long)]
    pub json: bool,
    /// Write to FILE, or to standard output if that is "-", a bit for each chunk of NEW: 1 if it
    /// differs; the first chunk's is the lowest of the first byte
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["json", "borg_map", "count"])]
    pub bitmap: Option<PathBuf>,
    /// Write all ranges without gaps, also those that are the "same", as "borg create --map" reads them
    #[arg(long, conflicts_with_all = ["json", "count"])]
    pub borg_map: bool,
    /// Write how many ranges and bytes differ, and no ranges
    #[arg(long)]
    pub count: bool,
}

/// The part of the help that lists the exit codes.
pub fn diff_exit_codes() -> String {
    let mut text = String::from("Exit codes, which are those of diff(1):\n");
    for (code, meaning) in diff::EXIT_CODES {
        text += &format!("  {code:>3}  {meaning}\n");
    }
    text + "\nSee dms(8) for more."
}

/// Print what a store holds
///
/// The superblock, origins, rollbacks, snapshots, what is being cleaned away, and the records of where
/// chunks are: a line for each, with a word that says what it is, and fields. Records of chunks that
/// follow one another are one line. The last line is "end"; without it, something is missing. The store
/// may be in use: then lines may be of different transactions, which "end" tells the first and the last of.
#[derive(Args, Debug)]
pub struct Dump {
    /// A device of the store, or its COW device, or a file that holds an image of one
    #[arg(value_hint = ValueHint::FilePath)]
    pub device: OsString,
    /// Only what is of this origin: its device, its identity, or its number in the store
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<OsString>,
    /// Only what is of the snapshot with this tag, or for 0 what was preserved of the origin for all
    #[arg(long, value_name = "TAG", requires = "origin")]
    pub snapshot: Option<u32>,
    /// Leave out the records of chunks
    #[arg(long)]
    pub skip_records: bool,
    /// Write JSON: an object in each line
    #[arg(long)]
    pub json: bool,
}
