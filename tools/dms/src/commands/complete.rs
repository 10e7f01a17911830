// SPDX-License-Identifier: GPL-2.0
//! `dms complete`, which shells call for what they cannot know

use super::print;
use crate::cli::Complete;
use crate::complete::{last_of, Completes};
use crate::dm::Dm;
use crate::failure::Result;
use crate::list::List;
use crate::names::BlockDevice;
use crate::target::Role;
use dm_snap_mv_store::{Device, Store};
use std::ffi::OsStr;

/// A word that would do, and what is known of it.
type Candidate = (String, String);

/// Nobody wants to read on a half-typed command line why there are none.
pub fn run(args: &Complete) -> Result<()> {
    let Some(candidates) = last_of(&args.words).and_then(candidates) else {
        return Ok(());
    };
    let lines = candidates
        .into_iter()
        .map(|(word, about)| format!("{word}\t{about}\n"));
    print(&lines.collect::<String>())
}

fn candidates(completes: Completes) -> Option<Vec<Candidate>> {
    let dm = Dm::open().ok()?;
    match completes {
        Completes::Device => {
            let all = dm.devices().ok()?.into_iter();
            let about = |role| match role {
                Role::Origin => "origin".to_owned(),
                Role::Snapshot(tag) => format!("snapshot {tag}"),
            };
            Some(all.map(|d| (d.name, about(d.line.role))).collect())
        }
        Completes::Tag(device) => {
            let device = dm.find(&device).ok()?;
            tags(&dm, &device.name)
        }
        Completes::StoredTag { origin, cow, id } => {
            let origin = BlockDevice::find(OsStr::new(&origin), "origin", &dm.sysfs).ok()?;
            let cow = BlockDevice::find(OsStr::new(&cow), "COW device", &dm.sysfs).ok()?;
            let id = id.map_or(origin.id().to_vec(), String::into_bytes);
            let mut devices = dm.devices().ok()?.into_iter();
            match devices.find(|d| d.line.cow == cow.devno && d.line.id == id) {
                Some(device) => tags(&dm, &device.name),
                None => stored_tags(&cow, &id),
            }
        }
    }
}

/// The tags of all snapshots of the origin of a device.
fn tags(dm: &Dm, name: &str) -> Option<Vec<Candidate>> {
    let rows = List::of(dm, name).ok()?.rows.into_iter();
    let snapshots = rows.filter(|row| row.tag != 0 && !row.is_ghost());
    Some(
        snapshots
            .map(|row| (row.tag.to_string(), row.memo))
            .collect(),
    )
}

/// The same, where no device of it is active.
fn stored_tags(cow: &BlockDevice, id: &[u8]) -> Option<Vec<Candidate>> {
    let device = Device::open(&cow.node).ok()?;
    let rows = Store::read(&device, |store| match store.origin_by_id(id)? {
        Some(origin) => store.snapshots(origin.number),
        None => Ok(Vec::new()),
    })
    .ok()?;
    let snapshots = rows.into_iter().filter(|row| row.is_whole());
    Some(
        snapshots
            .map(|row| {
                let memo = String::from_utf8_lossy(row.memo.as_bytes()).into_owned();
                (row.tag.to_string(), memo)
            })
            .collect(),
    )
}
