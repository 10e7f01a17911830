// SPDX-License-Identifier: GPL-2.0

//! Those who only ask, and those who ask for what is refused, while everything goes on.

use std::io;
use std::sync::{RwLock, RwLockWriteGuard};

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

/// Held for writing while an origin has no snapshots, so that "do" would be obeyed.
static BARE: RwLock<()> = RwLock::new(());

/// As long as this is held, nobody tries to unbind anything.
pub(super) fn nobody_unbinds() -> RwLockWriteGuard<'static, ()> {
    BARE.write().expect("no panic")
}

/// Whether a device is that of an origin that has been unbound, or has gone itself.
fn is_unbound(name: &str) -> bool {
    let status = dm::status(name).ok();
    let status = status.and_then(|text| Status::parse(&text).ok());
    status.is_none_or(|status| status.state == "unbound")
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
        what => return ask_in_vain(random, name, what == 6),
    };
    match answer {
        Err(e) if !is_gone(&e) && !is_unbound(name) => {
            Err(e).with_context(|| format!("{what} of {name}"))
        }
        _ => Ok(()),
    }
}

/// Asks for what is refused; `plainly` if not by `try`.
fn ask_in_vain(random: &mut Random, name: &str, plainly: bool) -> Result<()> {
    let Ok(_bound) = BARE.try_read() else {
        return Ok(());
    };
    if is_new(name) {
        return Ok(());
    }
    let message = *random.one_of(REFUSED);
    if plainly {
        return match dm::message(name, message) {
            Ok(reply) => bail!("{message:?} was obeyed: {reply:?}"),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                Err(e).with_context(|| message.to_owned())
            }
            Err(_) => Ok(()),
        };
    }
    match dm::message(name, &format!("try {message}")) {
        Ok(reply) => {
            ensure!(
                reply.starts_with("refused "),
                "{message:?} was tried: {reply:?}"
            );
            Ok(())
        }
        Err(e) if is_gone(&e) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("try {message} of {name}")),
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
