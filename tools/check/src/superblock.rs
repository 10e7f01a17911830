// SPDX-License-Identifier: GPL-2.0
//! The superblock.

use crate::context::Context;
use crate::report::{Finding, Kind, Outcome, Report, Watch};
use dm_snap_mv_model::disk::superblock::{Superblock, CHECKSUM_XOR};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::{checksum, Blocks};

/// The checksum of a superblock.
pub(crate) fn sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

fn refused(refusal: Refusal) -> Box<Report> {
    Box::new(Report::new(Outcome::Refused(refusal), None))
}

fn damaged(watch: &mut dyn Watch, superblock: Option<Superblock>, what: &str) -> Box<Report> {
    let mut report = Report::new(Outcome::Checked, superblock);
    report.counts.insert(Kind::Superblock, 1);
    watch.finding(&Finding {
        kind: Kind::Superblock,
        what: what.to_owned(),
        concerns: None,
    });
    Box::new(report)
}

/// Reads it. The report is the end of the check if nothing else can be looked at.
pub(crate) fn check(
    blocks: &dyn Blocks,
    sectors: u64,
    watch: &mut dyn Watch,
) -> Result<Superblock, Box<Report>> {
    let block = match blocks.read(0) {
        Ok(block) => block,
        Err(e) => {
            let outcome = Outcome::Unreadable(e.to_string());
            return Err(Box::new(Report::new(outcome, None)));
        }
    };
    let superblock = match Superblock::decode(&block.0, sum) {
        Ok(superblock) => superblock,
        Err(refusal @ (Refusal::BadChecksum | Refusal::BadSuperblock)) => {
            return Err(damaged(watch, None, refusal.as_str()));
        }
        Err(refusal) => return Err(refused(refusal)),
    };
    // What it means is not known, and so not what contradicts it.
    if let Err(refusal @ Refusal::ReadOnlyFeature) = superblock.check_writable() {
        return Err(refused(refusal));
    }
    if let Err(refusal) = superblock.layout.check_device(sectors) {
        return Err(damaged(watch, Some(superblock), refusal.as_str()));
    }
    Ok(superblock)
}

/// Flags that say that something may be wrong.
pub(crate) fn flags(cx: &mut Context<'_>) {
    if cx.superblock.needs_check {
        cx.found(
            Kind::Flag,
            None,
            "superblock: it is marked as needing a check",
        );
    }
    if cx.superblock.cow_full {
        let what = "superblock: it is marked as full, which nothing does";
        cx.found(Kind::Flag, None, what);
    }
}
