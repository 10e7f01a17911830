// SPDX-License-Identifier: GPL-2.0
//! See the library, and `dms --help`.

use clap::Parser;
use dms::cli::Cli;
use dms::failure::fsck;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
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
            eprintln!("dms: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
