// SPDX-License-Identifier: GPL-2.0

//! Stores that nobody uses, looked at as `dms check` does.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{bail, Context, Result};
use dm_snap_mv_check::{check, Finding, Options, Outcome, Report};
use dm_snap_mv_store::Device;

/// What came of a check, and what was found in words.
pub struct Checked {
    /// The report.
    pub report: Report,
    /// All that is wrong.
    pub findings: Vec<Finding>,
}

/// Checks the store on a device that nobody has claimed.
pub fn examine(device: &Path) -> Result<Checked> {
    let context = || format!("open {} to check it", device.display());
    let open = Device::open_exclusive(device).with_context(context)?;
    let sectors = open.sectors().with_context(context)?;
    let mut findings = Vec::new();
    let report = check(&open, sectors, Options::default(), &mut findings);
    Ok(Checked { report, findings })
}

/// What was found where nobody asked.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Checks a device that goes, if there is a store on it and nobody uses it. What is wrong is told
/// at the case's end.
pub fn in_passing(device: &Path) {
    let Ok(Checked { report, findings }) = examine(device) else {
        return;
    };
    if report.outcome != Outcome::Checked || report.is_clean() {
        return;
    }
    if let Ok(mut complaints) = COMPLAINTS.lock() {
        complaints.push(in_words(&report, &findings));
    }
}

/// Whether there were any complaints since it was asked last.
pub fn complaints() -> Result<()> {
    let all = COMPLAINTS.lock().map(|mut all| std::mem::take(&mut *all));
    let all = all.unwrap_or_default();
    anyhow::ensure!(all.is_empty(), "{}", all.join("; "));
    Ok(())
}

fn in_words(report: &Report, findings: &[Finding]) -> String {
    let some: Vec<_> = findings.iter().take(10).map(|f| f.what.as_str()).collect();
    format!("check: {} errors: {}", report.errors(), some.join("; "))
}

/// Checks the store on a device that nobody has claimed; it must be in order.
pub fn clean(device: &Path) -> Result<Report> {
    let Checked { report, findings } = examine(device)?;
    if report.outcome != Outcome::Checked {
        bail!("check: {:?}", report.outcome);
    }
    if !report.is_clean() {
        bail!(in_words(&report, &findings));
    }
    Ok(report)
}
