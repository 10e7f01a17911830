// SPDX-License-Identifier: GPL-2.0
//! `dms rollback`

use super::{tag, wait};
use crate::cli::Rollback;
use crate::dm::{freeze, Dm, Mapped};
use crate::failure::Result;
use crate::interrupt::Interrupt;
use dm_snap_mv_model::refusal::Refusal;

pub fn run(args: &Rollback) -> Result<()> {
    let tag = tag(&args.tag)?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let doing = format!("cannot roll back {}", device.name);
    begin(&dm, &device, tag, &["-b"], &doing)?;
    if args.background {
        return Ok(());
    }
    wait::rollback(&dm, &device)
}

/// Sends the message that begins a rollback to the snapshot `tag`. What a file system that is
/// mounted from the snapshot has not written yet goes along, as it would into a snapshot of it.
/// If the origin is in use, says how.
pub fn begin(dm: &Dm, device: &Mapped, tag: u32, options: &[&str], doing: &str) -> Result<()> {
    let number = tag.to_string();
    let mut message = vec![b"rs".as_slice(), number.as_bytes()];
    message.extend(options.iter().map(|option| option.as_bytes()));
    let later = options.contains(&"-l");
    let interrupt = Interrupt::watch()?;
    for last in [false, false, true] {
        let source = dm.snapshot_of(device, tag)?.filter(|_| !later);
        let reply = freeze::tell(dm, device, source.as_ref(), &interrupt, &message)?;
        let in_use = reply.is(Refusal::OriginInUse);
        let failure = match reply.done(doing) {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        match dm.origin_of(device)?.filter(|_| in_use) {
            Some(origin) if dm.is_in_use(&origin) => {
                return Err(dm.in_use(&origin.name, origin.devno).context(doing));
            }
            // udev or the like had it open for a moment.
            Some(_) if !last => {}
            _ => return Err(failure),
        }
    }
    Ok(())
}
