// SPDX-License-Identifier: GPL-2.0

//! Time, on a machine that may stand still for seconds while its clock goes on.
//!
//! What must come is waited for, for [`patience`]. What must not come cannot be: there [`pass`] lets
//! enough time go by for it, and what fails nothing if it was too short is all that may follow.

use std::thread::sleep;
use std::time::Duration;

/// How many times as long as usually all takes here, as `scripts/vm` says.
pub fn slowness() -> u32 {
    let slow = std::env::var("TEST_SLOW").ok();
    slow.and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// The longest that anything may take, or stand still where it tells how far it is.
pub fn patience() -> Duration {
    const USUAL: Duration = Duration::from_secs(120);
    USUAL * slowness()
}

/// One of the steps that [`pass`] makes.
const STEP: Duration = Duration::from_millis(25);

/// Lets time go by, in many steps: when the machine stands still, however long, it is one of
/// them that has taken so long, and the others are still left for what else is to be done.
pub fn pass(long: Duration) {
    pass_until(long, || false);
}

/// The same, until something is so; tells whether it is.
pub fn pass_until(long: Duration, mut is: impl FnMut() -> bool) -> bool {
    for _ in 0..long.as_millis().div_ceil(STEP.as_millis()) {
        if is() {
            return true;
        }
        sleep(STEP);
    }
    is()
}
