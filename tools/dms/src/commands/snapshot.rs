// SPDX-License-Identifier: GPL-2.0
//! `dms snapshot`

use super::{print, tag};
use crate::cli::Snapshot;
use crate::dm::{freeze, users, Dm};
use crate::failure::Result;
use crate::hints;
use crate::interrupt::Interrupt;
use crate::label;
use dm_snap_mv_model::message;
use std::os::unix::ffi::OsStrExt;

pub fn run(args: &Snapshot) -> Result<()> {
    let tag = args.tag.as_deref().map(tag).transpose()?;
    let memo = args
        .memo
        .as_deref()
        .map(OsStrExt::as_bytes)
        .unwrap_or_default();
    let label = label::words(&args.label)?;
    message::parse_memo(memo).map_err(hints::failure)?;

    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let (what, frozen) = match tag {
        None => (device.name.clone(), dm.origin_of(&device)?),
        Some(tag) => (
            format!("snapshot {tag} of {}", device.name),
            dm.snapshot_of(&device, tag)?,
        ),
    };
    let number = tag.map(|tag| tag.to_string());
    let mut words: Vec<&[u8]> = match &number {
        None => vec![b"so"],
        Some(number) => vec![b"ss", number.as_bytes()],
    };
    if args.bookmark {
        words.push(b"-k");
    }
    if !memo.is_empty() {
        words.extend([b"-m", memo]);
    }
    words.extend(label.iter().map(Vec::as_slice));
    // Who has a label has it said in what state the data are.
    let is_frozen = || {
        let devno = frozen.as_ref().map(|device| device.devno);
        devno.is_some_and(|devno| !users::mounted_above(devno, &dm.sysfs).is_empty())
    };
    if !label.is_empty() && args.label.consistency.is_none() && is_frozen() {
        words.extend([&b"-c"[..], b"file-system"]);
    }

    let interrupt = Interrupt::watch()?;
    let reply = freeze::tell(&dm, &device, frozen.as_ref(), &interrupt, &words)?
        .done(&format!("cannot take a snapshot of {what}"))?;
    print(&format!("{}\n", String::from_utf8_lossy(&reply).trim()))
}
