// SPDX-License-Identifier: GPL-2.0

//! Stores that nobody uses, looked at as `dms check` does.

use std::path::Path;

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

/// Checks the store on a device that nobody has claimed; it must be in order.
pub fn clean(device: &Path) -> Result<Report> {
    let Checked { report, findings } = examine(device)?;
    if report.outcome != Outcome::Checked {
        bail!("check: {:?}", report.outcome);
    }
    if !report.is_clean() {
        let some: Vec<_> = findings.iter().take(10).map(|f| f.what.as_str()).collect();
        bail!("check: {} errors: {}", report.errors(), some.join("; "));
    }
    Ok(report)
}
