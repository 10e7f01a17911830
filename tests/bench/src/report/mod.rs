// SPDX-License-Identifier: GPL-2.0

//! Tables and charts of what was measured.

mod chart;
mod figures;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sample::{Sample, Setting};

/// Sorts values and returns the one in the middle; 0 if there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// All that was measured, by what and by round.
#[derive(Default)]
pub struct Results(BTreeMap<Setting, BTreeMap<u32, f64>>);

impl Results {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut results = Self::default();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let sample: Sample = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let rounds = results.0.entry(sample.setting).or_default();
            rounds.insert(sample.round, sample.value);
        }
        Ok(results)
    }

    /// The median, least and greatest of a setting.
    pub fn spread(&self, setting: &Setting) -> Option<[f64; 3]> {
        let mut values: Vec<f64> = self.0.get(setting)?.values().copied().collect();
        let middle = median(&mut values);
        Some([middle, *values.first()?, *values.last()?])
    }

    /// How many times as much as the other, round by round: the median, least and greatest.
    pub fn ratio(&self, this: &Setting, other: &Setting) -> Option<[f64; 3]> {
        let (this, other) = (self.0.get(this)?, self.0.get(other)?);
        let in_both = this.iter().filter_map(|(round, value)| {
            let other = other.get(round)?;
            Some(value / other)
        });
        let mut ratios: Vec<f64> = in_both.collect();
        let middle = median(&mut ratios);
        Some([middle, *ratios.first()?, *ratios.last()?])
    }

    /// All settings, in their order.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.0.keys()
    }
}

/// Prints tables, and writes charts into the folder.
pub fn run(samples: &Path, folder: &Path) -> Result<()> {
    let results = Results::read(samples)?;
    println!(
        "{:>6}  {:<44} {:<11} {:>9} {:>4} {:>10} {:>21}",
        "latency", "work", "target", "snapshots", "jobs", "median", "least to greatest"
    );
    for setting in results.settings() {
        let Some([middle, least, greatest]) = results.spread(setting) else {
            continue;
        };
        println!(
            "{:>4} µs  {:<44} {:<11} {:>9} {:>4} {:>10.1} {:>9.1} to {:>9.1} {}",
            setting.latency,
            setting.work.title(),
            setting.peer.name(),
            setting.snapshots,
            setting.jobs,
            middle,
            least,
            greatest,
            setting.work.unit()
        );
    }
    println!();
    figures::print(&results);
    for (name, drawing) in chart::all(&results) {
        let path = folder.join(name);
        fs::write(&path, drawing).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
