// SPDX-License-Identifier: GPL-2.0

//! Measures the target beside dm-linear, dm-snapshot and dm-thin, in a virtual machine (`run`),
//! looks at where the time goes there (`profile`), and makes tables and charts of the results, anywhere (`report`).
//!
//! Only ratios within one run mean anything: all devices are in memory, and the machine is
//! shared with whatever else runs on it.

#![forbid(unsafe_code)]

mod disks;
mod fio;
mod peers;
mod profile;
mod report;
mod sample;
mod works;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Measures; prints a sample a line, as JSON, and what it is doing with a `#` before it.
    Run {
        /// One round with devices without latency only.
        #[arg(long)]
        quick: bool,
        /// Only what has this in its name.
        #[arg(long, default_value = "")]
        only: String,
        /// Exceptions of a store that has many, when it is activated; ten million take minutes more.
        #[arg(long, default_value_t = 1_000_000)]
        many: u64,
    },
    /// Looks at where the time goes, with perf; prints tables of microseconds for each request.
    Profile {
        /// Latencies of the devices in microseconds.
        #[arg(long, value_delimiter = ',', default_value = "0,100")]
        latency: Vec<u32>,
        /// Only what has this in its name.
        #[arg(long, default_value = "")]
        only: String,
        /// How often each is looked at; all are added up.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// How many of each one's functions are shown, the busiest.
        #[arg(long, default_value_t = 0)]
        functions: usize,
    },
    /// Reads the lines that `run` printed; prints tables, and puts charts into a folder.
    Report {
        /// What was printed.
        samples: PathBuf,
        /// Where the charts go.
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Run { quick, only, many } => works::run(quick, &only, many),
        Command::Profile {
            latency,
            only,
            rounds,
            functions,
        } => profile::run(&latency, &only, rounds, functions),
        Command::Report { samples, folder } => report::run(&samples, &folder),
    }
}
