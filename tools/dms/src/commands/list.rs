// SPDX-License-Identifier: GPL-2.0
//! `dms list`

use super::print;
use crate::cli::List;
use crate::dm::{Dm, Mapped};
use crate::failure::Result;
use crate::list;
use crate::show::listing::{self, Block};
use crate::show::{json, Shown};

pub fn run(args: &List) -> Result<()> {
    let dm = Dm::open()?;
    let mut devices = dm.devices()?;
    if let Some(arg) = &args.dm_dev {
        let device = dm.find(arg)?;
        devices.retain(|d| d.same_origin(&device));
    }
    let mut blocks = Vec::new();
    let mut failed = None;
    for group in groups(devices) {
        // Sorted by tag, so this is the origin's own device if that is active.
        let Some(first) = group.first() else { continue };
        // What can be listed is, before what cannot is told.
        match block(&dm, first, &group) {
            Ok(block) => blocks.push(block),
            Err(failure) => {
                failed.get_or_insert(failure);
            }
        }
    }
    if args.json {
        print(&json::listing(&blocks, args.all)?)?;
    } else {
        let texts: Vec<_> = blocks
            .iter()
            .map(|block| listing::format(block, args.all, listing::local_time))
            .collect();
        print(&texts.join("\n"))?;
        if texts.is_empty() && failed.is_none() {
            eprintln!("dms: no dm-snap-mv device is active");
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Devices of one origin each, in the order of COW devices, then of origins' devices.
fn groups(mut devices: Vec<Mapped>) -> Vec<Vec<Mapped>> {
    devices.sort_by(|a, b| {
        let key = |d: &Mapped| {
            (
                d.line.cow,
                d.line.origin,
                d.line.id.clone(),
                d.line.role.tag(),
            )
        };
        key(a).cmp(&key(b))
    });
    let mut groups: Vec<Vec<Mapped>> = Vec::new();
    for device in devices {
        match groups.last_mut() {
            Some(group) if group.first().is_some_and(|d| d.same_origin(&device)) => {
                group.push(device);
            }
            _ => groups.push(vec![device]),
        }
    }
    groups
}

/// What is shown of the devices of one origin. `first` is one of `group`.
fn block(dm: &Dm, first: &Mapped, group: &[Mapped]) -> Result<Block> {
    let mut list = list::List::of(dm, &first.name)?;
    list.ask_for_labels(dm, first)?;
    Ok(Block {
        origin: Shown::origin(first.line.origin, &first.line.id, &dm.sysfs),
        cow: Shown::new(first.line.cow, &dm.sysfs),
        list,
        devices: group
            .iter()
            .map(|d| (d.line.role.tag(), d.name.clone()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devno::Devno;
    use crate::target::Line;

    fn mapped(name: &str, line: &str) -> Mapped {
        Mapped {
            name: name.into(),
            devno: Devno {
                major: 253,
                minor: 0,
            },
            sectors: 8,
            line: Line::parse(line.as_bytes()).unwrap(),
        }
    }

    #[test]
    fn devices_are_grouped_by_origin_and_store() {
        let groups = groups(vec![
            mapped("a1", "cs 8:17 8:33 2 -i a"),
            mapped("c", "co 8:17 8:49 -i a"),
            mapped("b", "co 8:18 8:33 -i b"),
            mapped("a", "co 8:17 8:33 -i a"),
        ]);
        let names: Vec<Vec<_>> = groups
            .iter()
            .map(|g| g.iter().map(|d| d.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["a", "a1"], vec!["b"], vec!["c"]]);
    }
}
