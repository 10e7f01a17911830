// SPDX-License-Identifier: GPL-2.0
//! Signals that ask the program to end, noted rather than obeyed at once: a device that was
//! suspended must be resumed first.

use crate::failure::{Failure, Kind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::SigId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// While this lives, the signals are noted.
pub struct Interrupt {
    flag: Arc<AtomicBool>,
    ids: Vec<SigId>,
}

impl Interrupt {
    /// Begins to note.
    pub fn watch() -> Result<Self> {
        let mut watch = Self {
            flag: Arc::default(),
            ids: Vec::new(),
        };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let id = signal_hook::flag::register(signal, Arc::clone(&watch.flag))
                .map_err(|e| Failure::new(Kind::Refused, format!("cannot catch signals: {e}")))?;
            watch.ids.push(id);
        }
        Ok(watch)
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
