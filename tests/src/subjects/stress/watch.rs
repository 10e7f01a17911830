// SPDX-License-Identifier: GPL-2.0

//! Those who only ask, and those who ask for what is refused, while everything goes on.

use std::io;

use anyhow::{bail, ensure, Context, Result};

use super::volume::Volume;
use crate::dm;
use crate::random::Random;
use crate::store::Status;
use crate::sys;

/// What no origin here obeys.
const REFUSED: &[&str] = &[
    "ds 4000000000",
    "ss 4000000000",
    "rs 4000000000 -b",
    "rs 4000000000 -b -d",
    "do",
    "so -m",
    "ds 0",
    "list x",
    "nonsense",
];

/// Whether an error says that the device has gone, or has no table just now (which messages are
/// told by `EINVAL`).
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        None | Some(libc::ENXIO | libc::ENODEV | libc::EINVAL)
    )
}

/// Whether a device is that of an origin that may have no snapshot yet: it obeys "do" then.
fn is_new(name: &str) -> bool {
    let status = dm::status(name).ok();
    let status = status.and_then(|text| Status::parse(&text).ok());
    status.is_none_or(|status| status.snapshots == Some(0))
}

/// Asks any device something.
pub fn ask(random: &mut Random) -> Result<()> {
    let mut names = dm::devices()?;
    names.retain(|name| name.starts_with("co-") || name.starts_with("cs-"));
    if names.is_empty() {
        return Ok(());
    }
    let name = random.one_of(&names);
    let (what, answer) = match random.pick(0..8) {
        0..=2 => ("status", dm::status(name)),
        3 => ("table", dm::table(name)),
        4..=5 => ("list", dm::message(name, "list")),
        _ if is_new(name) => return Ok(()),
        6 => {
            let message = *random.one_of(REFUSED);
            return match dm::message(name, message) {
                Ok(reply) => bail!("{message:?} was obeyed: {reply:?}"),
                Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                    Err(e).with_context(|| message.to_owned())
                }
                Err(_) => Ok(()),
            };
        }
        _ => {
            let message = format!("try {}", random.one_of(REFUSED));
            match dm::message(name, &message) {
                Ok(reply) => {
                    ensure!(reply.starts_with("refused "), "{message:?}: {reply:?}");
                    return Ok(());
                }
                answer => ("try", answer),
            }
        }
    };
    match answer {
        Err(e) if !is_gone(&e) => Err(e).with_context(|| format!("{what} of {name}")),
        _ => Ok(()),
    }
}

/// Tries to take the module away while an origin is in use.
pub(super) fn try_unload(origin: &Volume) -> Result<()> {
    let active = origin.active.read().expect("no panic");
    if active.devices.is_empty() {
        return Ok(());
    }
    match sys::delete_module(c"dm_snap_mv") {
        Ok(()) => bail!("the module went while it was in use"),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(()),
        Err(e) => Err(e).context("unload"),
    }
}
