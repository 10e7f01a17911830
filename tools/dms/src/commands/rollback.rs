// SPDX-License-Identifier: GPL-2.0
//! `dms rollback`

use super::{tag, wait};
use crate::cli::Rollback;
use crate::dm::{Dm, Mapped};
use crate::failure::Result;
use dm_snap_mv_model::refusal::Refusal;

pub fn run(args: &Rollback) -> Result<()> {
    let tag = tag(&args.tag)?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let doing = format!("cannot roll back {}", device.name);
    begin(&dm, &device, &["rs", &tag.to_string(), "-b"], &doing)?;
    if args.background {
        return Ok(());
    }
    wait::rollback(&dm, &device)
}

/// Sends the message that begins a rollback. If the origin is in use, says how.
pub fn begin(dm: &Dm, device: &Mapped, message: &[&str], doing: &str) -> Result<()> {
    let reply = dm.tell(&device.name, message)?;
    let in_use = reply.is(Refusal::OriginInUse);
    match reply.done(doing) {
        Err(failure) if in_use => Err(match dm.origin_of(device)? {
            Some(origin) if dm.is_in_use(&origin) => {
                dm.in_use(&origin.name, origin.devno).context(doing)
            }
            _ => failure,
        }),
        other => other.map(|_| ()),
    }
}
