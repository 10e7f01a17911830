// SPDX-License-Identifier: GPL-2.0
//! Labels on the command line.

use clap::Args;
use std::ffi::OsString;

/// Fields of a label.
#[derive(Args, Clone, Debug, Default)]
pub struct LabelFields {
    /// What it is to be called: at most 128 bytes of UTF-8
    #[arg(long, value_name = "NAME")]
    pub name: Option<OsString>,
    /// What it is kept by, in your own words, as "daily": at most 32 bytes of UTF-8
    #[arg(long, value_name = "WORD")]
    pub policy: Option<OsString>,
    /// Until when it is to be kept: YYYY-MM-DD, "YYYY-MM-DD HH:MM:SS", +7d, +12h, +4w, or @SECONDS since 1970
    ///
    /// dms deletes nothing by itself: this is for the programs that do.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_until: Option<String>,
    /// In what state the data are: crash, file-system or application
    #[arg(long, value_name = "STATE")]
    pub consistency: Option<String>,
    /// The UUID of the group that it was taken with
    #[arg(long, value_name = "UUID")]
    pub group: Option<String>,
}

/// Show or change what is known of a snapshot or bookmark
///
/// A label is kept in the store, with the snapshot or bookmark that it is of, and stays where "dms delete -k"
/// keeps a bookmark. It has a UUID, and what the options say. Without options it is shown. A field that is
/// set to - is empty from then on.
#[derive(Args, Debug)]
pub struct Label {
    /// A device of the origin, or of any of its snapshots
    pub dm_dev: String,
    /// The tag of the snapshot or bookmark
    pub tag: String,
    #[command(flatten)]
    pub fields: LabelFields,
    /// Show it for programs
    #[arg(long, conflicts_with_all = ["name", "policy", "keep_until", "consistency", "group"])]
    pub json: bool,
}
