// SPDX-License-Identifier: GPL-2.0

//! What has been done, and how often: what never was has not been tested.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Result};

macro_rules! kinds {
    ($($kind:ident: $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Kind {
            $(#[doc = $text] $kind,)*
        }

        const TEXTS: &[&str] = &[$($text,)*];
    };
}

kinds! {
    Io: "I/Os",
    Snapshot: "snapshots under load",
    Nested: "snapshots of idle snapshots",
    Deletion: "deletions",
    Activation: "snapshot devices made",
    Deactivation: "snapshot devices removed",
    Comparison: "snapshots compared",
    Rollback: "rollbacks",
    Later: "deferred rollbacks",
    Table: "table reloads",
    Pause: "suspensions",
    Recreation: "re-creations",
    Killed: "kills of idle devices",
    KilledInUse: "kills of devices in use",
    Question: "questions",
    Module: "module reloads",
    Bound: "origins bound",
    Unbound: "origins unbound",
    Formatted: "formattings",
    Full: "times that writes waited for space",
    Enlarged: "COW devices enlarged",
    MadeRoom: "deletions to make room",
    Failed: "times that writes failed for lack of space",
    Invalidated: "times that snapshots became invalid",
    Grown: "origins grown",
}

/// How often it was done.
pub(super) struct Counts(Vec<AtomicU64>);

impl Counts {
    pub(super) fn new() -> Self {
        Self(TEXTS.iter().map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn add(&self, kind: Kind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn each(&self) -> impl Iterator<Item = (u64, &'static str)> + '_ {
        let numbers = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        numbers.zip(TEXTS.iter().copied())
    }

    /// Whether everything has been done.
    pub(super) fn are_all(&self) -> bool {
        self.each().all(|(count, _)| count > 0)
    }

    /// Everything has been done, if there was so much time that it must have been.
    pub(super) fn ensure_all(&self, long: Duration) -> Result<()> {
        if long < LONG_ENOUGH {
            return Ok(());
        }
        let never: Vec<_> = self.each().filter(|(count, _)| *count == 0).collect();
        let never: Vec<_> = never.into_iter().map(|(_, text)| text).collect();
        ensure!(never.is_empty(), "there were no {}", never.join(", no "));
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.each().map(|(n, text)| format!("{n} {text}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// Whoever gives it so long wants everything to have its turn.
pub(super) const LONG_ENOUGH: Duration = Duration::from_secs(60);
