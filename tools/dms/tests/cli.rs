// SPDX-License-Identifier: GPL-2.0
//! The program as it is called, as far as that goes without a kernel that has the target.

use std::process::{Command, Output};

fn dms(args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_dms"))
        .args(args)
        .output()
        .unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// Fails before anything is looked at, whatever machine this is.
fn usage(args: &[&str]) -> String {
    let (code, out, err) = dms(args);
    assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    err
}

#[test]
fn help_and_version() {
    let (code, out, _) = dms(&["--version"]);
    assert_eq!((code, out.as_str()), (0, "dms 0.1.0\n"));
    let (code, out, _) = dms(&["snapshot", "--version"]);
    assert_eq!((code, out.as_str()), (0, "dms-snapshot 0.1.0\n"));
    let (code, out, _) = dms(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("Exit codes:") && out.contains("rollback"));
    let (code, out, _) = dms(&["create", "--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("--force-format") && out.contains("invalidate"));
}

#[test]
fn wrong_words_are_told_first() {
    for (args, expected) in [
        (
            &["create", "x", "a", "b", "0"][..],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
        (
            &["create", "x", "a", "b", "4294967296"],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
        (
            &["create", "x", "a", "b", "-bfc3"],
            "dms: chunk size is not a power of two from 1 to 256 pages\n",
        ),
        (
            &["create", "x", "a", "b", "-bfc512"],
            "dms: chunk size is not a power of two from 1 to 256 pages\n",
        ),
        (
            &["create", "x", "a", "b", "-bc4"],
            "dms: option -c needs option -f or -F\n",
        ),
        (
            &["create", "x", "a", "b", "-i", ""],
            "dms: origin id is empty\n",
        ),
        (
            &["create", "a b", "a", "b"],
            "dms: \"a b\" cannot be the name of a device\n",
        ),
        (
            &["snapshot", "x", "one"],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
        (
            &["snapshot", "x", "-m", "two\nlines"],
            "dms: memo has control characters\n",
        ),
        (
            &["delete", "x", "1x"],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
        (
            &["rollback", "x", ""],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
        (
            &["merge", "x", "0"],
            "dms: tag is not a number from 1 to 4294967295\n",
        ),
    ] {
        let err = usage(args);
        assert!(err.starts_with(expected), "{args:?}: {err}");
    }
    let long = "x".repeat(65);
    assert!(
        usage(&["snapshot", "x", "-m", &long]).starts_with("dms: memo is longer than 64 bytes\n")
    );
    let id = "x".repeat(256);
    assert!(usage(&["create", "x", "a", "b", "-i", &id])
        .starts_with("dms: origin id is longer than 255 bytes\n"));
}

#[test]
fn what_belongs_together_is_told() {
    assert!(usage(&["create", "x", "a", "b", "-f"]).contains("--bind"));
    assert!(usage(&["create", "x", "a", "b", "-bfF"]).contains("cannot be used with"));
    assert!(usage(&["create", "x", "a", "b", "1", "-b"]).contains("cannot be used with"));
    assert!(usage(&["create", "x", "a"]).contains("<COW>"));
    assert!(usage(&["create", "x", "a", "b", "-e", "maybe"]).contains("invalidate"));
}

#[test]
fn documents() {
    let dir = std::env::temp_dir().join(format!("dms-docs-{}", std::process::id()));
    let (code, ..) = dms(&["docs", dir.to_str().unwrap()]);
    assert_eq!(code, 0);
    for file in [
        "man/dms.8",
        "completions/dms.bash",
        "completions/_dms",
        "completions/dms.fish",
    ] {
        assert!(
            std::fs::metadata(dir.join(file)).unwrap().len() > 1000,
            "{file}"
        );
    }
    std::fs::remove_dir_all(&dir).unwrap();
    let (code, out, _) = dms(&["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("_dms()"));
}
