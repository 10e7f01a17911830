// SPDX-License-Identifier: GPL-2.0
//! `dms merge`

use super::{print, rollback, tag, wait};
use crate::cli::Merge;
use crate::dm::Dm;
use crate::failure::Result;

pub fn run(args: &Merge) -> Result<()> {
    let tag = tag(&args.tag)?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let doing = format!("cannot merge snapshot {tag} of {}", device.name);
    let number = tag.to_string();
    if args.defer {
        rollback::begin(&dm, &device, &["rs", &number, "-d", "-l"], &doing)?;
        return print("the merge begins when the origin's device is activated next\n");
    }
    let later = |failure: crate::failure::Failure| {
        if failure.kind != crate::failure::Kind::Busy {
            return failure;
        }
        let defer = format!(
            "or let it begin when the device is activated next: dms merge {} {tag} --defer",
            device.name
        );
        match failure.hint.clone() {
            Some(hint) => failure.hint(format!("{hint}\n{defer}")),
            None => failure.hint(defer),
        }
    };
    rollback::begin(&dm, &device, &["rs", &number, "-b", "-d"], &doing).map_err(later)?;
    if args.background {
        return Ok(());
    }
    wait::rollback(&dm, &device)
}
