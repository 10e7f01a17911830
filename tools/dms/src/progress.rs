// SPDX-License-Identifier: GPL-2.0
//! A bar that shows how far something is, where somebody can see it.

use crate::fields::{Cleaning, Rollback};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

const TEMPLATE: &str = "{prefix} [{bar:30}] {percent:>3}% {msg} {elapsed}";

/// The bar.
pub struct Progress {
    bar: ProgressBar,
    seen: bool,
    /// What it shows; nothing until it has been given something.
    shown: Option<Shown>,
}

#[derive(Clone, PartialEq, Eq)]
struct Shown {
    prefix: String,
    position: u64,
    length: u64,
    message: String,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar on standard error, or none if that is no terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            bar,
            seen: std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    /// Whether there is somebody to watch.
    pub fn is_seen(&self) -> bool {
        self.seen
    }

    /// Shows how far a rollback is, or cleaning when there is none.
    pub fn show(&mut self, rollback: Option<Rollback>, cleaning: Option<Cleaning>) {
        let show = match (rollback, cleaning) {
            (Some(rollback), _) => Shown {
                prefix: format!("rolling back to {}", rollback.tag),
                position: rollback.chunks.used,
                length: rollback.chunks.total,
                message: String::new(),
            },
            (None, Some(cleaning)) => Shown {
                prefix: "cleaning".to_owned(),
                position: cleaning.percent,
                length: 100,
                message: format!("({} left)", cleaning.left),
            },
            (None, None) => return,
        };
        self.draw(show);
    }

    /// Shows how far the program itself is with something.
    pub fn part(&mut self, doing: &str, position: u64, length: u64) {
        self.draw(Shown {
            prefix: doing.to_owned(),
            position,
            length,
            message: String::new(),
        });
    }

    fn draw(&mut self, show: Shown) {
        if self.shown.as_ref() == Some(&show) {
            // Only the time goes on.
            self.bar.tick();
            return;
        }
        let first = self.shown.is_none();
        if self.shown.as_ref().map(|s| (&s.prefix, &s.message))
            != Some((&show.prefix, &show.message))
        {
            self.bar.set_prefix(show.prefix.clone());
            self.bar.set_message(show.message.clone());
        }
        self.bar.update(|state| {
            state.set_len(show.length);
            state.set_pos(show.position);
        });
        // Not before there is something to be seen on it.
        if first && self.seen {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.shown = Some(show);
    }

    /// Prints something without disturbing the bar.
    pub fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the bar away.
    pub fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}
