// SPDX-License-Identifier: GPL-2.0
//! The documents keep up with the code.

use clap::CommandFactory;
use dm_snap_mv_model::refusal::Refusal;
use dms::cli::Cli;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../Documentation/admin-guide/device-mapper")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// The terms of the definition lists below "Reasons for refusals".
fn documented_refusals() -> BTreeSet<String> {
    let text = document("dm-snap-mv.rst");
    let (_, reasons) = text.split_once("\nReasons for refusals\n").unwrap();
    let (reasons, _) = reasons.split_once("\nLimits\n").unwrap();
    reasons
        .lines()
        .filter(|line| line.contains(" (E") && line.ends_with(')') && !line.starts_with(' '))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_refusal_is_documented_and_no_other() {
    let known: BTreeSet<_> = Refusal::ALL
        .iter()
        .map(|refusal| format!("{refusal} ({})", refusal.name()))
        .collect();
    let documented = documented_refusals();
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "not documented: {missing:#?}");
    let strange: Vec<_> = documented.difference(&known).collect();
    assert!(strange.is_empty(), "no refusal: {strange:#?}");
}

#[test]
fn commands_in_documents_are_commands() {
    let text = document("dm-snap-mv.rst");
    let mut found = 0;
    for line in text.lines() {
        let Some((_, call)) = line.split_once("# dms ") else {
            continue;
        };
        found += 1;
        // What the shell takes away, and what is a comment to it.
        let call = call.split("  ").next().unwrap().trim();
        let call = call
            .replace("$tag", "1")
            .replace("\"before the upgrade\"", "memo");
        let words = std::iter::once("dms").chain(call.split(' '));
        let parsed = Cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
    assert!(found > 10);
}
