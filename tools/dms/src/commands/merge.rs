// SPDX-License-Identifier: GPL-2.0
//! `dms merge`

use super::{need_snapshot, print, rollback, tag, wait};
use crate::cli::Merge;
use crate::dm::Dm;
use crate::failure::{Failure, Kind, Result};

pub fn run(args: &Merge) -> Result<()> {
    let tag = args.tag.as_deref().map(tag).transpose()?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let Some(tag) = tag else {
        let doing = format!(
            "cannot call off the merge into the origin of {}",
            device.name
        );
        return dm.tell(&device.name, &["rs", "-l"])?.done(&doing).map(drop);
    };
    let doing = format!("cannot merge snapshot {tag} of {}", device.name);
    if args.defer {
        rollback::begin(&dm, &device, tag, &["-d", "-l"], &doing)?;
        return print(&format!(
            "the merge begins when the origin's device is activated next; \
             to call it off: dms merge {} --call-off\n",
            device.name
        ));
    }
    need_snapshot(&dm, &device, tag).map_err(|failure| failure.context(doing.as_str()))?;
    if let Some(origin) = dm.origin_of(&device)?.filter(|origin| dm.is_in_use(origin)) {
        let failure = dm.in_use(&origin.name, origin.devno).context(doing);
        let defer = format!(
            "or let it begin when the device is activated next: dms merge {} {tag} --defer",
            device.name
        );
        return Err(match failure.hint.clone() {
            Some(hint) => failure.hint(format!("{hint}\n{defer}")),
            None => failure.hint(defer),
        });
    }
    if let Some(shown) = dm.snapshot_of(&device, tag)? {
        let name = shown.name;
        return Err(Failure::new(
            Kind::Busy,
            format!("{doing}: the device {name} shows it, and it will be deleted"),
        )
        .hint(if name == device.name {
            format!("create the origin's device, then: dms remove {name}; dms merge DM_DEV {tag}")
        } else {
            format!("dms remove {name}")
        }));
    }
    rollback::begin(&dm, &device, tag, &["-b", "-d"], &doing)?;
    if args.background {
        return Ok(());
    }
    wait::rollback(&dm, &device)
}
