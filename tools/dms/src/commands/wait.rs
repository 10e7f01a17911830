// SPDX-License-Identifier: GPL-2.0
//! `dms wait`, and the waiting of other commands

use crate::cli::Wait;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::fields::Stopped;
use crate::interrupt::Interrupt;
use crate::list;
use crate::progress::Progress;
use crate::status::{Own, Status};
use nix::poll::{poll, PollTimeout};
use std::time::{Duration, Instant};

/// How long to wait for an event before the status is looked at again, in milliseconds: often
/// where somebody watches, and else only in case an event is missed.
const WATCHED: u16 = 200;
const UNWATCHED: u16 = 1000;

/// The least time from one look at the status to the next, in milliseconds: events, of whatever
/// device, can come so fast that nothing else would be done.
const BREATH: u16 = 100;

/// What is waited for.
#[derive(Clone, Copy)]
struct Goal {
    rollback: bool,
    cleaning: bool,
    timeout: Option<Duration>,
}

pub fn run(args: &Wait) -> Result<()> {
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    let all = !args.rollback && !args.cleaning;
    let goal = Goal {
        rollback: args.rollback || all,
        cleaning: args.cleaning || all,
        timeout: args.timeout.map(Duration::from_secs),
    };
    until(&dm, &device, goal).map(drop)
}

/// Waits for the rollback of the origin of `device`.
pub fn rollback(dm: &Dm, device: &Mapped) -> Result<()> {
    let goal = Goal {
        rollback: true,
        cleaning: false,
        timeout: None,
    };
    until(dm, device, goal).map(drop)
}

/// Waits until the space of deleted snapshots is free. Whether there was anything to wait for.
pub fn cleaning(dm: &Dm, device: &Mapped) -> Result<bool> {
    let goal = Goal {
        rollback: false,
        cleaning: true,
        timeout: None,
    };
    until(dm, device, goal)
}

/// Waits for what `goal` says. Whether there was anything to wait for.
fn until(dm: &Dm, device: &Mapped, goal: Goal) -> Result<bool> {
    let interrupt = Interrupt::watch()?;
    let begin = Instant::now();
    let mut progress = Progress::new();
    let mut waited = false;
    let mut told = None;
    loop {
        dm.arm();
        let status = Status::parse(&dm.status(&device.name)?)?;
        if status.state == "error" && store_has_failed(dm, device, &status) {
            return Err(Failure::new(
                Kind::Damaged,
                format!("the store of {} has failed", device.name),
            )
            .hint("the kernel log (dmesg) says what failed; the origin itself is not affected"));
        }
        let rollback = status
            .rollback
            .filter(|rollback| goal.rollback && !rollback.is_deferred());
        let cleaning = status.cleaning.filter(|_| goal.cleaning);
        let what = match (rollback, cleaning) {
            (None, None) => {
                progress.done();
                return Ok(waited);
            }
            (Some(_), _) => "rollback",
            (None, Some(_)) => "cleaning",
        };
        waited = true;
        progress.show(rollback, cleaning);
        if let Some(why) = rollback.and_then(|rollback| rollback.stopped) {
            // It goes on for a moment each time that it is tried again.
            if told.replace(why) != Some(why) {
                progress.aside(|| eprintln!("dms: {}", stands_still(device, why)));
            }
        }
        if interrupt.came() {
            return Err(still_going(device, Kind::Interrupted, what));
        }
        let left = match goal.timeout {
            None => Duration::MAX,
            Some(timeout) => timeout.saturating_sub(begin.elapsed()),
        };
        if left.is_zero() {
            return Err(still_going(device, Kind::TimedOut, what));
        }
        let pause = if progress.is_seen() {
            WATCHED
        } else {
            UNWATCHED
        };
        let left = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        let looked = Instant::now();
        dm.wait_event(pause.min(left.max(1)));
        let rest = Duration::from_millis(BREATH.into()).saturating_sub(looked.elapsed());
        // A signal ends it.
        let _ = poll(
            &mut [],
            PollTimeout::from(u16::try_from(rest.as_millis()).unwrap_or(BREATH)),
        );
    }
}

/// Whether it is the store whose failure a device tells of. A snapshot that was written to before
/// the store failed says the same for ever, though the store works again.
fn store_has_failed(dm: &Dm, device: &Mapped, status: &Status) -> bool {
    match status.own {
        Own::Origin { .. } => true,
        Own::Snapshot { tag, .. } => {
            list::page(dm, &device.name, tag).map_or(true, |page| page.store.state == "error")
        }
    }
}

/// Why it takes so long, and what to do about it.
fn stands_still(device: &Mapped, why: Stopped) -> Failure {
    let name = &device.name;
    let told = |what: &str| {
        let what = format!("the rollback of the origin of {name} stands still: {what}");
        Failure::new(Kind::Refused, what)
    };
    match why {
        Stopped::Full => told("the COW device is full").hint(format!(
            "it goes on by itself when there is space: delete snapshots \
             (dms delete {name} TAG) or enlarge the COW device"
        )),
        Stopped::FullMetadata => {
            told("the metadata region of the COW device is full").hint(format!(
                "it goes on by itself when there is room: delete snapshots (dms delete {name} TAG)"
            ))
        }
        Stopped::Deferred => told("it has not begun"),
        Stopped::Error => told("an I/O error").hint(
            "it is tried again by itself, after 64 seconds at the latest\n\
             the kernel log (dmesg) says what failed",
        ),
    }
}

fn still_going(device: &Mapped, kind: Kind, what: &str) -> Failure {
    let why = match kind {
        Kind::TimedOut => "the time is over",
        _ => "interrupted",
    };
    Failure::new(kind, format!("{why}; the {what} goes on in the background")).hint(format!(
        "wait for it with: dms wait {} --{what}",
        device.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devno::Devno;
    use crate::target::Line;

    #[test]
    fn what_to_do_about_a_rollback_that_stands_still() {
        let device = Mapped {
            name: "orig".to_owned(),
            devno: Devno {
                major: 253,
                minor: 0,
            },
            sectors: 8,
            line: Line::parse(b"co 8:17 8:33 -i x").unwrap(),
        };
        let text = |why| stands_still(&device, why).to_string();
        let full = text(Stopped::Full);
        assert!(full.contains("full\n  it goes on by itself") && full.contains("dms delete orig"));
        assert!(text(Stopped::FullMetadata).contains("metadata"));
        assert!(text(Stopped::Error).contains("error\n  it is tried again"));
    }
}
