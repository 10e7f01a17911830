// SPDX-License-Identifier: GPL-2.0
//! A bar that shows how far a rollback or cleaning is, where somebody can see it.

use crate::fields::{Cleaning, Rollback};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

const TEMPLATE: &str = "{prefix} [{bar:30}] {percent:>3}% {msg} {elapsed}";

/// The bar.
pub struct Progress {
    bar: ProgressBar,
    seen: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar on standard error, or none if that is no terminal.
    pub fn new() -> Self {
        let seen = std::io::stderr().is_terminal();
        let target = if seen {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, seen }
    }

    /// Whether there is somebody to watch.
    pub fn is_seen(&self) -> bool {
        self.seen
    }

    /// Shows how far a rollback is, or cleaning when there is none.
    pub fn show(&self, rollback: Option<Rollback>, cleaning: Option<Cleaning>) {
        if let Some(rollback) = rollback {
            self.bar
                .set_prefix(format!("rolling back to {}", rollback.tag));
            self.bar.set_length(rollback.chunks.total);
            self.bar.set_position(rollback.chunks.used);
            self.bar.set_message("");
        } else if let Some(cleaning) = cleaning {
            self.bar.set_prefix("cleaning");
            self.bar.set_length(100);
            self.bar.set_position(cleaning.percent);
            self.bar.set_message(format!("({} left)", cleaning.left));
        }
    }

    /// Takes the bar away.
    pub fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}
