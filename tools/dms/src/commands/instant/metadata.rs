// SPDX-License-Identifier: GPL-2.0
//! Where a clone notes what it has: on a device, or in a file of our own.

use crate::clones::{Kept, Record};
use crate::commands::check::busy;
use crate::devno::Devno;
use crate::dm::clone::Line;
use crate::dm::Dm;
use crate::failure::{Failure, Kind, Result};
use crate::loops::Behind;
use crate::names::BlockDevice;
use crate::shared;
use crate::stack::Stack;
use crate::streams::unopened;
use crate::sysfs::Sysfs;
use dm_snap_mv_stream::receive::blank::is_blank;
use dm_snap_mv_stream::receive::{Plain, Target};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// The superblock of its metadata, in bytes.
const SUPERBLOCK: usize = 4096;

/// What a clone needs, in bytes: a bit for each region, in trees that are written anew before the old ones are free.
fn need(record: &Record) -> u64 {
    (2 << 20) + record.sectors.div_ceil(record.region) / 2
}

/// Where a clone has its metadata.
pub(super) struct Metadata {
    /// None: in a file.
    pub(super) metadata: Option<BlockDevice>,
    /// What is noted of it.
    pub(super) kept: Kept,
}

impl Metadata {
    /// The device, if there is one.
    pub(super) fn path(&self) -> Result<Option<PathBuf>> {
        match &self.metadata {
            Some(device) => Ok(Some(device.node.clone())),
            None => self.kept.attach_file(),
        }
    }

    /// Has an empty one, if nobody else has it, and notes what begins.
    pub(super) fn make(&mut self, record: &Record, onto: Devno, dm: &Dm) -> Result<()> {
        if let Some(device) = &self.metadata {
            free(device, record, onto, dm)?;
        }
        // First that, so that it is known whose file it is.
        self.kept.write(record.clone())?;
        match &self.metadata {
            Some(_) => Ok(()),
            None => {
                self.kept.remove_file()?;
                self.kept.make_file(need(record))
            }
        }
    }

    /// What it was is of no use any more: nothing is left of it, nor noted.
    pub(super) fn give_back(&mut self) -> Result<()> {
        match &self.metadata {
            Some(device) => blank(&device.node)?,
            None => self.kept.remove_file()?,
        }
        self.kept.remove()
    }
}

/// Whether a device can serve for that.
fn free(device: &BlockDevice, record: &Record, onto: Devno, dm: &Dm) -> Result<()> {
    let shown = device.short();
    let stack = Stack::look(&dm.sysfs, Some(dm));
    let mut plain = Plain::open(&device.node).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => busy(&device.node, &stack),
        _ => unopened(&device.node, &e),
    })?;
    let place = Behind::Device(device.devno);
    if let Some(other) = shared::with(&stack, place) {
        return Err(other.failure(&shown));
    }
    if device.devno == onto || shared::in_common(&stack, device.devno, onto) {
        let what = format!("{shown} has blocks of the target");
        return Err(
            Failure::new(Kind::Refused, what).hint("the metadata device must be another one")
        );
    }
    let (has, need) = (device.sectors * 512, need(record));
    if has < need {
        let what = format!("{shown} has {has} bytes, and the metadata need {need}");
        return Err(Failure::new(Kind::NoSpace, what));
    }
    match is_blank(&mut plain).map_err(|e| unopened(&device.node, &e))? {
        true => Ok(()),
        false => {
            let what = format!("{shown} is not blank");
            Err(Failure::new(Kind::Refused, what).hint(format!(
                "if what is there is to be lost: blkdiscard -fz {}",
                device.node.display()
            )))
        }
    }
}

/// Whether no clone has been made there yet.
pub(super) fn is_unused(path: &Path) -> Result<bool> {
    let mut first = vec![0; SUPERBLOCK];
    let read = Plain::open(path).and_then(|mut plain| plain.read(0, &mut first));
    read.map_err(|e| unopened(path, &e))?;
    Ok(first.iter().all(|byte| *byte == 0))
}

fn blank(path: &Path) -> Result<()> {
    let blanked = Plain::open(path).and_then(|mut plain| {
        plain.write(0, &[0; SUPERBLOCK])?;
        plain.sync()
    });
    blanked.map_err(|e| unopened(path, &e))
}

/// The metadata, with its device if it is not a file.
pub(super) fn metadata_of(
    kept: Kept,
    record: &Record,
    line: Option<Line>,
    sysfs: &Sysfs,
) -> Metadata {
    let device = line.filter(|_| record.metadata.is_some()).and_then(|line| {
        let number = line.metadata.to_string();
        BlockDevice::find(OsStr::new(&number), "metadata device", sysfs).ok()
    });
    Metadata {
        metadata: device,
        kept,
    }
}
