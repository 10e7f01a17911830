// SPDX-License-Identifier: GPL-2.0

//! What is measured.

mod activation;
mod cleaning;
mod rollback;
mod taking;
pub mod throughput;

use anyhow::{Context, Result};

use crate::disks::Disks;
use crate::sample::{Sample, Setting};

/// Latencies of the devices in microseconds.
const LATENCIES: [u32; 2] = [0, 100];

/// How often everything is measured.
const ROUNDS: u32 = 3;

/// What is being measured, and where samples go.
pub struct Course<'a> {
    /// On these.
    pub disks: &'a Disks,
    /// Their latency in microseconds.
    pub latency: u32,
    /// Which time.
    pub round: u32,
    /// What takes minutes to set up, too: the first time, as it varies little.
    pub large: bool,
    /// So many exceptions are many.
    pub many: u64,
    only: &'a str,
}

impl Course<'_> {
    /// Measures something, if it is wanted.
    pub fn sample(&self, setting: Setting, measure: impl FnOnce() -> Result<f64>) -> Result<()> {
        let name = setting.to_string();
        if !self.wanted(&name) {
            return Ok(());
        }
        let value = measure().with_context(|| name.clone())?;
        self.tell(setting, value)
    }

    /// Whether anything of this name is wanted.
    pub fn wanted(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// Prints a sample.
    pub fn tell(&self, setting: Setting, value: f64) -> Result<()> {
        let round = self.round;
        let sample = Sample {
            setting,
            round,
            value,
        };
        println!("{}", serde_json::to_string(&sample)?);
        println!(
            "# round {round}, {setting}: {value:.1} {}",
            setting.work.unit()
        );
        Ok(())
    }
}

/// Measures all whose name has `only` in it; `quick`: no more than shows that all of it works, and
/// about how fast. `many` exceptions are what a full store has.
pub fn run(quick: bool, only: &str, many: u64) -> Result<()> {
    let (latencies, rounds) = match quick {
        true => (&LATENCIES[..1], 1),
        false => (&LATENCIES[..], ROUNDS),
    };
    for round in 1..=rounds {
        for &latency in latencies {
            let disks = Disks::new(latency)?;
            let course = Course {
                disks: &disks,
                latency,
                round,
                large: round == 1 && !quick,
                many,
                only,
            };
            throughput::run(&course)?;
            taking::run(&course)?;
            cleaning::run(&course)?;
            rollback::run(&course)?;
        }
        activation::run(&Course {
            // Has its own.
            disks: &Disks::new(0)?,
            latency: 0,
            round,
            large: round == 1 && !quick,
            many,
            only,
        })?;
    }
    Ok(())
}
