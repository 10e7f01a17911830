// SPDX-License-Identifier: GPL-2.0

//! Everything at once, at random, for as long as `TEST_SECONDS` says (25, or 60 in the long run).
//!
//! Three origins in two stores, each with an active device and some active snapshots. Threads
//! do I/O to all of them, one more for each origin sends it messages, removes and re-creates its
//! devices, kills and suspends them, reloads their tables, and now and then the module. Others ask for status
//! and lists all the time, send what is refused, and try to take the module away. Every sector that
//! is read is compared, and in the end all of everything.
//!
//! One more origin is bound to one of the stores now and then, and unbound again. A third store is
//! too small for its only origin: writes wait for space there, or fail, or cost the snapshots their
//! content; both devices grow, and the store is formatted anew.
//!
//! In the end it is told how often everything was done. A minute is enough for all, or the machine is
//! given some more.
//!
//! Two threads never write one sector at the same time, but they do write one chunk: a device's
//! sectors are divided into regions that have nothing to do with chunks, each with a lock. What
//! changes what a device must hold as a whole keeps I/O out meanwhile, except for snapshots,
//! which are mostly taken while writes are on their way; then each sector of the snapshot must
//! be one of those that it can be.

mod active;
mod changes;
mod counts;
mod everything;
mod guest;
mod small;
mod unordered;
mod volume;
mod watch;
mod writers;

use std::time::Duration;

use everything::everything;
use unordered::unordered;
pub(super) use watch::ask;

use crate::disks::{Disks, MIB};
use crate::effort::usual_or_long;
use crate::random::Random;
use crate::report::Subject;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let seconds = std::env::var("TEST_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(usual_or_long(25, 60));
    let random = Random::from_environment("stress");
    let long = Duration::from_secs(seconds);
    subject.case("everything at random", || {
        everything(disks, random.clone(), long)
    });
    subject.case("an origin that was unbound says so", || {
        guest::unbound(disks)
    });
    subject.case("writes in no order", || {
        unordered(disks, random.clone(), long / 10)
    });
}

/// Sectors of an origin: no multiple of a chunk.
const SECTORS: u64 = 4 * MIB + 3;
