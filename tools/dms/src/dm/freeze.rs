// SPDX-License-Identifier: GPL-2.0
//! Messages for which the kernel freezes file systems: it does that, what is asked for, and the
//! thawing in one step, so that nothing stays frozen whatever becomes of this program.

use super::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::reply::{self, Reply};
use dm_snap_mv_model::message::MAX_ABOVE;
use dm_snap_mv_model::refusal::Refusal;
use nix::poll::{poll, PollTimeout};
use std::time::{Duration, Instant};

/// How long somebody else's suspending is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before a message is sent anew, in milliseconds.
const PAUSE: u16 = 20;

/// Sends a message to `through`, for which the file system on `device` is frozen, if there is one,
/// and those on what is built on it: partitions, LUKS, logical volumes. What others do at the same
/// time is waited for.
pub fn tell(
    dm: &Dm,
    through: &Mapped,
    device: Option<&Mapped>,
    interrupt: &Interrupt,
    message: &[&[u8]],
) -> Result<Reply> {
    let begin = Instant::now();
    let mut told = false;
    // Signals that do not ask for an end would end the waiting in the kernel, too.
    let _held = interrupt.hold()?;
    loop {
        if interrupt.came() {
            return Err(interrupted());
        }
        let above = device.map(|device| above(dm, device)).unwrap_or_default();
        let mut words = message.to_vec();
        if device.is_some() {
            words.push(b"-z");
        }
        for number in &above {
            words.extend([b"-Z", number.as_bytes()]);
        }
        let reply = dm.tell(&through.name, &words)?;
        let stopped = reply.is(Refusal::InterruptedBefore);
        if stopped && interrupt.came() {
            return Err(interrupted());
        }
        let suspended = reply.is(Refusal::Suspended);
        let again = suspended
            || stopped
            || reply.is(Refusal::Suspending)
            // What was on top a moment ago is not any more.
            || reply.is(Refusal::NoDeviceAbove);
        if !again || begin.elapsed() > PATIENCE {
            return Ok(reply);
        }
        if suspended && !told {
            told = true;
            let name = device.map_or(through.name.as_str(), |device| &device.name);
            eprintln!("dms: {name} is suspended: waiting until it is resumed");
        }
        // A signal ends it.
        let _ = poll(&mut [], PollTimeout::from(PAUSE));
    }
}

/// Takes a snapshot of the origin that `origin` is a device of, as [`tell`] sends messages. Returns its tag.
///
/// # Errors
///
/// The kernel refuses it, or a signal came before anything was done.
pub fn snapshot(
    dm: &Dm,
    origin: &Mapped,
    device: Option<&Mapped>,
    interrupt: &Interrupt,
    memo: &str,
) -> Result<u32> {
    let words: [&[u8]; 3] = [b"so", b"-m", memo.as_bytes()];
    let reply = tell(dm, origin, device, interrupt, &words)?
        .done(&format!("cannot take a snapshot of {}", origin.name))?;
    reply::tag(&reply)
}

fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "interrupted before anything was done")
}

/// The devices on top of all that is built on `device`: file systems can be on these only. What
/// cannot be named is told of.
fn above(dm: &Dm, device: &Mapped) -> Vec<String> {
    let mut all = dm.sysfs.tops(device.devno);
    for dev in all.split_off(all.len().min(MAX_ABOVE)) {
        let name = dm.sysfs.short_name(dev);
        eprintln!(
            "dms: a file system on {name} is not frozen: too much is built on {}",
            device.name
        );
    }
    all.iter().map(ToString::to_string).collect()
}
