// SPDX-License-Identifier: GPL-2.0
//! `dms wait`, and the waiting of other commands

use crate::cli::Wait;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::status::Status;
use std::time::{Duration, Instant};

/// How long to wait for an event before the status is looked at again, in milliseconds: often
/// where somebody watches, and else only in case an event is missed.
const WATCHED: u16 = 200;
const UNWATCHED: u16 = 1000;

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
    until(&dm, &device, goal)
}

/// Waits for the rollback of the origin of `device`.
pub fn rollback(dm: &Dm, device: &Mapped) -> Result<()> {
    let goal = Goal {
        rollback: true,
        cleaning: false,
        timeout: None,
    };
    until(dm, device, goal)
}

/// Waits until the space of deleted snapshots is free.
pub fn cleaning(dm: &Dm, device: &Mapped) -> Result<()> {
    let goal = Goal {
        rollback: false,
        cleaning: true,
        timeout: None,
    };
    until(dm, device, goal)
}

fn until(dm: &Dm, device: &Mapped, goal: Goal) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let begin = Instant::now();
    let mut progress = Progress::new();
    loop {
        dm.arm();
        let status = Status::parse(&dm.status(&device.name)?)?;
        if status.state == "error" {
            return Err(Failure::new(
                Kind::Damaged,
                format!("the store of {} has failed", device.name),
            )
            .hint("the kernel log (dmesg) says what failed; the origin itself is not affected"));
        }
        let rollback = status.rollback.filter(|_| goal.rollback);
        let cleaning = status.cleaning.filter(|_| goal.cleaning);
        let what = match (rollback, cleaning) {
            (None, None) => {
                progress.done();
                return Ok(());
            }
            (Some(_), _) => "rollback",
            (None, Some(_)) => "cleaning",
        };
        progress.show(rollback, cleaning);
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
        dm.wait_event(pause.min(left.max(1)));
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
