// SPDX-License-Identifier: GPL-2.0
//! See the library, and `dms --help`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match dms::commands::run(dms::cli::Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dms: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
