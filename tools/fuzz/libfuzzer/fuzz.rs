// SPDX-License-Identifier: GPL-2.0

//! Feeds the target that `FUZZ_TARGET` names. The arguments are libFuzzer's. See scripts/fuzz.

#![no_main]

use dm_snap_mv_fuzz::{target, Target, TARGETS};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// The target, or the end.
fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        for (name, _) in TARGETS {
            eprintln!("{name}");
        }
        eprintln!("FUZZ_TARGET is none of these");
        std::process::exit(2);
    })
}

fuzz_target!(|data: &[u8]| {
    CHOSEN.get_or_init(chosen)(data);
});
