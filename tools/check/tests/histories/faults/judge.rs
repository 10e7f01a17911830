// SPDX-License-Identifier: GPL-2.0

//! What may come of a fault: check says that all is in order, and it is as it was; or it says that
//! something is not, and a repair restores what was there, or changes nothing, or gives up what it has
//! said that it would.

use std::collections::BTreeMap;

use dm_snap_mv_check::{check, plan_for, Finding, Options, Report, Wanted};
use dm_snap_mv_model::ids::TimelineId;

use super::content::{content, Content};
use super::stores::Subject;
use crate::image::{Image, Logged, SECTORS};

/// How many faults came to what.
pub type Counts = BTreeMap<&'static str, u64>;

type Verdict = Result<&'static str, String>;

fn look(image: &Image) -> (Report, Vec<Finding>) {
    let mut findings = Vec::new();
    let report = check(image, SECTORS, Options::default(), &mut findings);
    (report, findings)
}

fn words(findings: &[Finding]) -> String {
    let all: Vec<_> = findings.iter().map(|f| f.what.as_str()).collect();
    all.join("; ")
}

/// What is repaired, if it can be. It has to be in order then.
fn repaired(image: &Image, wanted: Wanted) -> Result<Option<(Image, Vec<Finding>)>, String> {
    let device = Logged::new(image);
    let mut findings = Vec::new();
    let (_, plan) = plan_for(&device, SECTORS, wanted, &mut findings);
    let Some(plan) = plan else {
        return Ok(None);
    };
    if let Err(error) = plan.carry_out(&device) {
        // Nothing has changed then: another test looks at that.
        return Err(format!("a repair ends with {error}: {}", words(&findings)));
    }
    let after = device.image();
    let (report, left) = look(&after);
    match report.is_clean() {
        true => Ok(Some((after, findings))),
        false => Err(format!(
            "repaired ({}), and not in order: {}",
            words(&findings),
            words(&left)
        )),
    }
}

/// What is different from what was expected, in words.
fn difference(found: &Content, expected: &Content) -> String {
    let mut all = Vec::new();
    for nr in expected.keys().chain(found.keys()) {
        let (Some(found), Some(expected)) = (found.get(nr), expected.get(nr)) else {
            all.push(format!("origin {nr} has come or gone"));
            continue;
        };
        if found.id != expected.id {
            all.push(format!("origin {nr} is another"));
        }
        if found.head != expected.head {
            all.push(format!("the head of origin {nr}"));
        }
        if found.rollback != expected.rollback {
            all.push(format!("what origin {nr} is rolled back to"));
        }
        let tags = expected.snapshots.keys().chain(found.snapshots.keys());
        for tag in tags.filter(|tag| found.snapshots.get(tag) != expected.snapshots.get(tag)) {
            all.push(format!("snapshot {tag} of origin {nr}"));
        }
    }
    all.sort();
    all.dedup();
    all.join(", ")
}

/// Without what was said to be concerned.
fn unconcerned(content: &Content, findings: &[Finding]) -> Content {
    let mut content = content.clone();
    for t in findings.iter().filter_map(|finding| finding.concerns) {
        forget(&mut content, t);
    }
    content
}

fn forget(content: &mut Content, t: TimelineId) {
    let Some(origin) = content.get_mut(&t.origin().get()) else {
        return;
    };
    match t.snapshot() {
        // And those that are based on it, which are younger.
        Some(tag) => origin.snapshots.retain(|&other, _| other < tag.get()),
        None => origin.snapshots.clear(),
    }
    origin.head.clear();
    origin.id.clear();
    origin.rollback = None;
}

/// What cannot be known of a fault.
#[derive(Clone, Copy, Default)]
pub struct Excuse {
    /// What it is in stands in one place only.
    pub unknowable: bool,
    /// It may have taken the end of the journal away, so that it is as it was before.
    pub earlier: bool,
}

/// Judges an image with a fault.
pub fn judge(subject: &Subject, image: &Image, excuse: Excuse) -> Verdict {
    let (report, findings) = look(image);
    if report.is_clean() {
        return in_order(subject, image, excuse);
    }
    let usual = Wanted::default();
    if report.superblock.is_none() {
        if repaired(image, usual)?.is_some() {
            return Err("a superblock was repaired unasked".to_owned());
        }
        let superblock = Wanted {
            superblock: true,
            ..usual
        };
        return match repaired(image, superblock)? {
            None => Ok("superblock is named"),
            Some((after, _)) => same(subject, &after, excuse, "superblock brought back"),
        };
    }
    if findings.is_empty() {
        return Err("no word of what is wrong".to_owned());
    }
    if let Some((after, _)) = repaired(image, usual)? {
        let verdict = same(subject, &after, excuse, "repaired");
        return verdict.map_err(|what| format!("{what}; found: {}", words(&findings)));
    }
    let give_up = Wanted {
        give_up: true,
        ..usual
    };
    let Some((after, findings)) = repaired(image, give_up)? else {
        return Ok("named");
    };
    let after = content(&after).map_err(|e| format!("given up, and unreadable: {e}"))?;
    let is_evidence = |finding: &&Finding| finding.kind.is_evidence();
    if findings
        .iter()
        .filter(is_evidence)
        .any(|f| f.concerns.is_none())
    {
        // It may be anything.
        return Ok("given up, of whatever");
    }
    let left = |content: &Content| unconcerned(content, &findings);
    let earlier = subject.before.iter().filter(|_| excuse.earlier);
    let was = earlier.chain([&subject.expected]);
    match was.map(left).any(|was| left(&after) == was) {
        true => Ok("given up"),
        false if excuse.unknowable => Ok("unknowable"),
        false => Err(format!(
            "given up more than was said: {}; found: {}",
            difference(&after, &subject.expected),
            words(&findings)
        )),
    }
}

fn same(subject: &Subject, image: &Image, excuse: Excuse, verdict: &'static str) -> Verdict {
    let found = content(image).map_err(|e| format!("{verdict}, and unreadable: {e}"))?;
    match found == subject.expected {
        true => Ok(verdict),
        false if excuse.earlier && subject.before.contains(&found) => Ok("as it was before"),
        false => Err(format!(
            "{verdict}, and wrong: {}",
            difference(&found, &subject.expected)
        )),
    }
}

/// Check says that it is in order: then it is, and what a repair would do is right, too.
fn in_order(subject: &Subject, image: &Image, excuse: Excuse) -> Verdict {
    match same(subject, image, excuse, "as it was") {
        Ok(verdict) => match repaired(image, Wanted::default())? {
            None => Ok(verdict),
            Some((after, _)) => same(subject, &after, excuse, "as it was, and marked"),
        },
        Err(_) if excuse.unknowable && content(image).is_ok() => Ok("unknowable"),
        Err(what) => Err(what),
    }
}
