// SPDX-License-Identifier: GPL-2.0
//! `dms remove`

use crate::cli::Remove;
use crate::dm::Dm;
use crate::failure::Result;

pub fn run(args: &Remove) -> Result<()> {
    let dm = Dm::open()?;
    let device = dm
        .find(&args.dm_dev)
        .or_else(|failure| dm.half_made(&args.dm_dev).ok_or(failure))?;
    if dm.is_in_use(&device) {
        return Err(dm
            .in_use(&device.name, device.devno)
            .context(format!("cannot remove {}", device.name)));
    }
    dm.remove(&device.name, device.devno)
        .map_err(|failure| failure.context(format!("cannot remove {}", device.name)))
}
