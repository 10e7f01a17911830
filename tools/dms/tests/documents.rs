// SPDX-License-Identifier: GPL-2.0
//! The documents keep up with the code.

use clap::error::ErrorKind;
use clap::CommandFactory;
use dm_snap_mv_model::refusal::Refusal;
use dms::cli::Cli;
use dms::hints::hint;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn top(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn document(name: &str) -> String {
    top(&format!("Documentation/admin-guide/device-mapper/{name}"))
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

/// Whether it is a command line of dms, but for what is left out.
fn is_call(call: &str) -> Result<(), String> {
    let words = call.split(' ').filter(|word| !word.is_empty());
    match Cli::command().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(e) => match e.kind() {
            ErrorKind::MissingRequiredArgument
            | ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(()),
            _ => Err(format!("{call}: {e}")),
        },
    }
}

/// The pieces of `text` between `open` and `close` that are calls of dms.
fn quoted_calls(text: &str, open: &str, close: &str) -> Vec<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split(open)
        .skip(1)
        .filter_map(|piece| piece.split(close).next())
        .filter(|piece| piece.starts_with("dms ") && !piece.contains("..."))
        .map(str::to_owned)
        .collect()
}

/// Those that stand in blocks are run by tests/vm/documents.sh.
#[test]
fn calls_of_dms_in_the_text_are_calls() {
    let markdown = ["README.md", "tests/README.md"].map(top);
    let rst = [
        "dm-snap-mv.rst",
        "dm-snap-mv-format.rst",
        "dm-snap-mv-stream.rst",
    ]
    .map(document);
    let mut calls = Vec::new();
    for text in &markdown {
        calls.extend(quoted_calls(text, "`", "`"));
    }
    for text in &rst {
        calls.extend(quoted_calls(text, "``", "``"));
    }
    let mut cli = Cli::command();
    for command in cli.get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        calls.extend(quoted_calls(&help, "\"", "\""));
    }
    assert!(calls.len() > 25, "{calls:?}");
    // What people are told to do, up to where the sentence goes on.
    for hint in Refusal::ALL.iter().filter_map(|refusal| hint(*refusal)) {
        for call in hint.split("dms ").skip(1) {
            let call = call.split([';', ',', ')', '\n']).next().unwrap();
            let is_prose = call.starts_with("list shows");
            let call = if is_prose {
                "list"
            } else {
                call.trim_end_matches(" ...")
            };
            calls.push(format!("dms {call}"));
        }
    }
    let wrong: Vec<_> = calls
        .iter()
        .filter_map(|call| is_call(call).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_to_be_made_can_be_made() {
    let makefile = top("Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(targets, _)| targets.split(' '))
        .collect();
    let mut found = 0;
    for text in ["README.md", "tests/README.md"]
        .map(top)
        .into_iter()
        .chain(["dm-snap-mv.rst", "dm-snap-mv-format.rst"].map(document))
    {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("    make "));
        for call in lines.chain(text.split("`make ").skip(1)) {
            let target = call.split([' ', '`', '\n']).next().unwrap();
            assert!(targets.contains(target), "make {target}");
            found += 1;
        }
        let scripts = text.split([' ', '`', '\n']).filter(|word| {
            word.strip_prefix("scripts/")
                .is_some_and(|name| !name.is_empty())
        });
        for script in scripts {
            let path = root().join(script.trim_end_matches([',', '.', ')', ':']));
            assert!(path.exists(), "{script}");
        }
    }
    assert!(found > 20, "{found}");
}
