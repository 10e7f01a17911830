// SPDX-License-Identifier: GPL-2.0
//! Signals that ask the program to end, noted rather than obeyed at once: a device that was
//! suspended must be resumed first.

use crate::failure::{Failure, Kind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Signals are noted, from the first time somebody watches for them to the program's end.
#[derive(Clone)]
pub struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to note.
    pub fn watch() -> Result<Self> {
        if let Some(came) = CAME.get() {
            return Ok(Self { came: came.clone() });
        }
        let came = CAME.get_or_init(Arc::default).clone();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, came.clone())
                .map_err(|e| Failure::new(Kind::Refused, format!("cannot catch signals: {e}")))?;
        }
        Ok(Self { came })
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
