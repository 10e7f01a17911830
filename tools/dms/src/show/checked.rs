// SPDX-License-Identifier: GPL-2.0
//! What came of looking at a store.

use super::json;
use super::stream::uuid;
use crate::failure::{Failure, Result};
use dm_snap_mv_check::{Backup, Finding, Outcome, Plan, Report, State};
use dm_snap_mv_model::ids::{Tag, TimelineId};
use dm_snap_mv_model::refusal::Refusal;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A report, and the findings that were told of.
pub struct Checked<'a> {
    /// The device.
    pub device: &'a Path,
    /// What was found.
    pub report: &'a Report,
    /// The same in words, but not very many of one kind.
    pub findings: &'a [Finding],
}

impl Checked<'_> {
    /// The versions whose content is concerned.
    fn concerned(&self) -> BTreeSet<TimelineId> {
        let all = self.findings.iter();
        all.filter_map(|finding| finding.concerns).collect()
    }

    /// Findings that were only counted.
    fn left_out(&self) -> u64 {
        let told = self.findings.len() as u64;
        self.report.errors().saturating_sub(told)
    }
}

fn plural(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// What a version is called.
fn name(t: TimelineId) -> String {
    match t.snapshot() {
        Some(tag) => format!("snapshot {tag} of origin {}", t.origin()),
        None => format!("origin {} with all of its snapshots", t.origin()),
    }
}

/// The last lines of what is printed.
pub fn summary(checked: &Checked<'_>) -> String {
    let device = checked.device.display();
    let report = checked.report;
    let statistics = &report.statistics;
    let mut text = String::new();
    if checked.left_out() > 0 {
        text += &format!("and {} more\n", checked.left_out());
    }
    if let Some(found) = &report.found {
        return text + &lost(&device.to_string(), report, found);
    }
    if report.is_clean() {
        let layout = report.superblock.as_ref().map(|s| s.layout);
        text += &format!(
            "{device}: clean, {}, {}, {}/{} chunks, {}/{} metadata blocks\n",
            plural(statistics.origins, "origin", "origins"),
            plural(statistics.snapshots, "snapshot", "snapshots"),
            statistics.chunks,
            layout.map_or(0, |layout| layout.data_chunks),
            statistics.metadata_blocks,
            layout.map_or(0, |layout| layout.metadata_blocks),
        );
        if statistics.journaled > 0 {
            text += &format!(
                "{device}: {} in the journal, for its next activation\n",
                plural(statistics.journaled, "change", "changes")
            );
        }
        return text;
    }
    let errors = plural(report.errors(), "error", "errors");
    if report.is_repairable() {
        text +=
            &format!("{device}: {errors}, no content is concerned; \"dms repair\" can repair it\n");
        return text;
    }
    text += &format!("{device}: {errors}\n");
    if report.can_be_given_up() {
        text += &format!(
            "{device}: something is missing, or is another's; nothing is freed or changed unless \
             \"dms repair --give-up-missing\" is asked to\n"
        );
    }
    for t in checked.concerned() {
        text += &format!("{device}: concerned: {}\n", name(t));
    }
    text
}

/// What there is where there is no superblock, but a backup of one.
fn lost(device: &str, report: &Report, found: &Backup) -> String {
    let why = match (&report.outcome, report.instead) {
        (_, Some(what)) => format!("it holds {what} now"),
        (Outcome::Refused(Refusal::NoStore), _) => "its first block is empty".to_owned(),
        (Outcome::Refused(_), _) => "it holds something else now".to_owned(),
        (Outcome::Unreadable(why), _) => format!("the superblock cannot be read: {why}"),
        _ => "the superblock is damaged".to_owned(),
    };
    let uuid = uuid(&found.superblock.uuid);
    let (block, transaction) = (found.block, found.superblock.transaction);
    let what = match found.errors {
        0 => "all that it leads to is in order; \"dms repair --superblock\" brings it back, over what \
              has taken its place, which is lost by that"
            .to_owned(),
        errors => format!(
            "what it leads to is not in order any more ({}), and it cannot be brought back",
            plural(errors, "error", "errors")
        ),
    };
    format!(
        "{device}: {why}\n{device}: but a store was here: block {block} is a backup of the superblock \
         of store {uuid}, transaction {transaction}; {what}\n"
    )
}

/// What a repair does, or why it does nothing.
pub fn steps(device: &Path, plan: Option<&Plan>, report: &Report) -> String {
    let device = device.display();
    let unclean = report.superblock.as_ref().is_some_and(|s| !s.clean);
    match plan {
        Some(plan) => {
            let mut text = String::new();
            if unclean {
                text += &format!(
                    "{device}: it was not closed in order: that is from a crash, or somebody has it in \
                     use, here or elsewhere, in a way that cannot be seen; be sure that nobody has\n"
                );
            }
            plan.steps().fold(text, |text, step| {
                text + &format!("{device}: to do: {}\n", step.text())
            })
        }
        None if report.found.is_some() => String::new(),
        None if report.is_clean() => format!("{device}: there is nothing to repair\n"),
        None => format!("{device}: that cannot be repaired, and nothing is changed\n"),
    }
}

#[derive(Serialize)]
struct Version {
    origin: u32,
    tag: Option<u32>,
}

impl From<TimelineId> for Version {
    fn from(t: TimelineId) -> Self {
        Self {
            origin: t.origin().get(),
            tag: t.snapshot().map(Tag::get),
        }
    }
}

#[derive(Serialize)]
struct Found<'a> {
    kind: &'a str,
    what: &'a str,
    repairable: bool,
    concerns: Option<Version>,
}

#[derive(Serialize)]
struct Part {
    used: u64,
    total: Option<u64>,
}

#[derive(Serialize)]
struct Store {
    /// How the backup of the superblock compares with it.
    backup: Option<&'static str>,
    uuid: Option<String>,
    transaction: Option<u64>,
    closed_in_order: Option<bool>,
    needs_check: Option<bool>,
    origins: u64,
    snapshots: u64,
    ghosts: u64,
    bookmarks: u64,
    records: u64,
    garbage: u64,
    cleaning: u64,
    rollbacks: u64,
    journaled: u64,
    chunks: Part,
    metadata_blocks: Part,
}

#[derive(Serialize)]
struct Refused<'a> {
    device: &'a str,
    clean: bool,
    repairable: bool,
    repaired: bool,
    error: &'a str,
    hint: Option<&'a str>,
}

/// What programs are told of a store that could not be looked at, or not be repaired.
pub fn refusal(device: &str, failure: &Failure) -> Result<String> {
    json::text(&Refused {
        device,
        clean: false,
        repairable: false,
        repaired: false,
        error: &failure.what,
        hint: failure.hint.as_deref(),
    })
}

#[derive(Serialize)]
struct Lost {
    block: u64,
    uuid: String,
    transaction: u64,
    errors: u64,
    /// What has taken the superblock's place, if that is known.
    holds: Option<&'static str>,
}

#[derive(Serialize)]
struct Whole<'a> {
    device: String,
    clean: bool,
    repairable: bool,
    errors: u64,
    counts: BTreeMap<&'a str, u64>,
    concerned: Vec<Version>,
    /// Where there is no superblock: the backup of one.
    lost: Option<Lost>,
    store: Store,
    findings: Vec<Found<'a>>,
    left_out: u64,
    /// Of a repair: what is to be done, and whether it has been.
    steps: Option<Vec<&'a str>>,
    repaired: bool,
}

/// The whole of it for programs.
pub fn json(checked: &Checked<'_>, plan: Option<&Plan>, repaired: bool) -> Result<String> {
    let report = checked.report;
    let superblock = report.superblock.as_ref();
    let statistics = &report.statistics;
    let counts = report.counts.iter();
    json::text(&Whole {
        device: checked.device.display().to_string(),
        clean: report.is_clean(),
        repairable: report.is_repairable(),
        errors: report.errors(),
        counts: counts.map(|(kind, &count)| (kind.name(), count)).collect(),
        concerned: checked.concerned().into_iter().map(Version::from).collect(),
        lost: report.found.as_ref().map(|found| Lost {
            block: found.block,
            uuid: uuid(&found.superblock.uuid),
            transaction: found.superblock.transaction,
            errors: found.errors,
            holds: report.instead,
        }),
        store: Store {
            backup: report.backup.map(|state| match state {
                State::Same => "same",
                State::Behind => "behind",
                State::Useless => "useless",
            }),
            uuid: superblock.map(|s| uuid(&s.uuid)),
            transaction: superblock.map(|s| s.transaction),
            closed_in_order: superblock.map(|s| s.clean),
            needs_check: superblock.map(|s| s.needs_check),
            origins: statistics.origins,
            snapshots: statistics.snapshots,
            ghosts: statistics.ghosts,
            bookmarks: statistics.bookmarks,
            records: statistics.records,
            garbage: statistics.garbage,
            cleaning: statistics.cleaning,
            rollbacks: statistics.rollbacks,
            journaled: statistics.journaled,
            chunks: Part {
                used: statistics.chunks,
                total: superblock.map(|s| s.layout.data_chunks),
            },
            metadata_blocks: Part {
                used: statistics.metadata_blocks,
                total: superblock.map(|s| s.layout.metadata_blocks),
            },
        },
        findings: checked
            .findings
            .iter()
            .map(|finding| Found {
                kind: finding.kind.name(),
                what: &finding.what,
                repairable: finding.kind.is_repairable(),
                concerns: finding.concerns.map(Version::from),
            })
            .collect(),
        left_out: checked.left_out(),
        steps: plan.map(|plan| plan.steps().map(|step| step.text()).collect()),
        repaired,
    })
}
