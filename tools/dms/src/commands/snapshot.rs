// SPDX-License-Identifier: GPL-2.0
//! `dms snapshot`

use super::{print, tag};
use crate::cli::Snapshot;
use crate::dm::{freeze, users, Dm, Mapped};
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
    let is_frozen = frozen
        .as_ref()
        .is_some_and(|device| is_mounted(&dm, device));
    if !label.is_empty() && args.label.consistency.is_none() && is_frozen {
        words.extend([&b"-c"[..], b"file-system"]);
    }

    let interrupt = Interrupt::watch()?;
    let reply = freeze::tell(&dm, &device, frozen.as_ref(), &interrupt, &words)?
        .done(&format!("cannot take a snapshot of {what}"))?;
    print(&format!("{}\n", String::from_utf8_lossy(&reply).trim()))
}

/// Whether there is a file system to be frozen, on the device or on what is built on it.
fn is_mounted(dm: &Dm, device: &Mapped) -> bool {
    let mut all = dm.sysfs.tops(device.devno);
    all.push(device.devno);
    users::mounted().iter().any(|(dev, _)| all.contains(dev))
}
