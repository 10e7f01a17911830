// SPDX-License-Identifier: GPL-2.0
//! `dms status`

use super::print;
use crate::cli;
use crate::dm::{Dm, Mapped};
use crate::failure::Result;
use crate::list::List;
use crate::show::held::Held;
use crate::show::status::{self, Device};
use crate::show::{json, Shown};
use crate::status::{Own, Status};

pub fn run(args: &cli::Status) -> Result<()> {
    let dm = Dm::open()?;
    let devices = match &args.dm_dev {
        Some(arg) => vec![dm.find(arg)?],
        None => dm.devices()?,
    };
    let mut shown = Vec::new();
    for mapped in devices {
        shown.push(device(&dm, mapped)?);
    }
    if args.json {
        return print(&json::text(&shown)?);
    }
    let texts: Vec<_> = shown.iter().map(status::format).collect();
    print(&texts.join("\n"))?;
    if texts.is_empty() {
        eprintln!("dms: no dm-snap-mv device is active");
    }
    Ok(())
}

fn device(dm: &Dm, mapped: Mapped) -> Result<Device> {
    let info = dm.info(&mapped.name)?;
    let status = Status::parse(&dm.status(&mapped.name)?)?;
    // The store is asked for that, so only one that works. Without an answer there is all else to show.
    let works = matches!(status.own, Own::Origin { .. }) && status.state != "error";
    let list = works && !info.suspended;
    let list = list.then(|| List::of(dm, &mapped.name).ok()).flatten();
    Ok(Device {
        bytes: mapped.sectors.saturating_mul(512),
        opened: info.opened,
        suspended: info.suspended,
        origin_device: Shown::origin(mapped.line.origin, &mapped.line.id, &dm.sysfs),
        id: String::from_utf8_lossy(&mapped.line.id).into_owned(),
        cow_device: Shown::new(mapped.line.cow, &dm.sysfs),
        policy: match mapped.line.policy {
            Some(policy) => policy,
            None => dm
                .policy(mapped.line.cow)?
                .unwrap_or_else(|| "invalidate".to_owned()),
        },
        status,
        held: list.map(|list| Held::of(&list.rows)),
        name: mapped.name,
    })
}
