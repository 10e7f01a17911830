// SPDX-License-Identifier: GPL-2.0
//! See the library, and `dms --help`.

use clap::Parser;
use dms::cli::Cli;
use dms::failure::fsck;
use std::ffi::OsString;
use std::process::ExitCode;

/// `dms help COMMAND` is what others call `dms COMMAND --help`.
fn asked(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(asked(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && fsck::is_meant(std::env::args_os()) => {
            let _ = error.print();
            return ExitCode::from(fsck::USAGE);
        }
        Err(error) => error.exit(),
    };
    match dms::commands::run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.is_quiet() {
                eprintln!("dms: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}
