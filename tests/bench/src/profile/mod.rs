// SPDX-License-Identifier: GPL-2.0

//! Where the time goes while fio reads and writes: samples of what each processor does, by what it
//! is for, for one request.
//!
//! Sampling takes time itself, and more of who works more. So the throughput is another run's.

mod class;
mod perf;
mod symbols;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use self::class::Class;
use self::perf::{Perf, SAMPLE_MICROS};
use self::symbols::Symbols;
use crate::disks::Disks;
use crate::fio::Between;
use crate::sample::{Peer, Setting, Work};
use crate::works::throughput;

/// perf's and fio's files are there, in memory.
const FOLDER: &str = "/run/profile";

/// Who is looked at, at what, with how many snapshots and writers.
const PLAN: &[(Work, Peer, u32, u32)] = &[
    (Work::First, Peer::Linear, 0, 1),
    (Work::First, Peer::Ours, 1, 1),
    (Work::First, Peer::Snapshot, 1, 1),
    (Work::First, Peer::Ours, 1, 2),
    (Work::First, Peer::Snapshot, 1, 2),
    (Work::FirstLarge, Peer::Ours, 1, 1),
    (Work::FirstLarge, Peer::Thin, 1, 1),
    (Work::SnapshotWrite, Peer::Ours, 1, 1),
    (Work::SnapshotWrite, Peer::Snapshot, 1, 1),
    (Work::SnapshotRead, Peer::Ours, 1000, 1),
    (Work::SnapshotRead, Peer::Snapshot, 1, 1),
    (Work::FirstLong, Peer::Ours, 1, 1),
    (Work::FirstLong, Peer::Snapshot, 1, 1),
    (Work::FirstLong, Peer::Thin, 1, 1),
];

/// What was seen of one kind of work, over all rounds.
#[derive(Default)]
struct Seen {
    /// MB/s of each round, without perf.
    speeds: Vec<f64>,
    requests: f64,
    switches: f64,
    interrupts: f64,
    samples: BTreeMap<Class, u64>,
    functions: BTreeMap<(Class, String), u64>,
}

/// Looks at all whose name has `only` in it, with these latencies, so many times, and prints for
/// each what it is and its `functions` busiest functions.
pub fn run(latencies: &[u32], only: &str, rounds: u32, functions: usize) -> Result<()> {
    fs::create_dir_all(FOLDER).context(FOLDER)?;
    for &latency in latencies {
        let mut all: BTreeMap<usize, (Setting, Seen)> = BTreeMap::new();
        for round in 1..=rounds {
            let disks = Disks::new(latency)?;
            for (index, &(work, peer, snapshots, jobs)) in PLAN.iter().enumerate() {
                let setting = Setting {
                    latency,
                    work,
                    peer,
                    snapshots,
                    jobs,
                };
                let name = setting.to_string();
                if !name.contains(only) {
                    continue;
                }
                println!("# round {round}, {name}");
                let (_, seen) = all
                    .entry(index)
                    .or_insert_with(|| (setting, Seen::default()));
                seen.look(&disks, setting).with_context(|| name)?;
            }
        }
        print(all.values());
        for (setting, seen) in all.values() {
            seen.print_functions(setting, functions);
        }
    }
    Ok(())
}

impl Seen {
    fn look(&mut self, disks: &Disks, setting: Setting) -> Result<()> {
        let plain = {
            let (_stack, device) = throughput::prepare(disks, setting)?;
            throughput::job(setting, &device).run()?
        };
        self.speeds.push(plain);
        let folder = Path::new(FOLDER);
        let (_stack, device) = throughput::prepare(disks, setting)?;
        let perf = Perf::new(folder)?;
        let between = Between {
            folder,
            before: format!("cat /proc/stat >before; {}", perf.begin_command()),
            after: format!("{}; cat /proc/stat >after", perf.end_command()),
        };
        let done = throughput::job(setting, &device).run_between(&between)?;
        self.requests += done.requests;
        let [before, after] = ["before", "after"].map(|name| counters(&folder.join(name)));
        let (before, after) = (before?, after?);
        self.switches += after.0 - before.0;
        self.interrupts += after.1 - before.1;
        let symbols = Symbols::new()?;
        perf.finish(|address| {
            let (class, name) = match symbols.find(address) {
                Some((module, name)) => (class::of(module, name), name),
                None => (Class::User, "fio"),
            };
            *self.samples.entry(class).or_default() += 1;
            *self.functions.entry((class, name.to_owned())).or_default() += 1;
        })
    }

    /// Microseconds of processors for one request.
    fn micros(&self, samples: u64) -> f64 {
        samples as f64 * SAMPLE_MICROS / self.requests
    }

    fn print_functions(&self, setting: &Setting, most: usize) {
        if most == 0 {
            return;
        }
        let mut all: Vec<_> = self.functions.iter().collect();
        all.sort_by(|a, b| b.1.cmp(a.1));
        println!("\n{setting}: the busiest functions");
        for ((class, name), &samples) in all.into_iter().take(most) {
            let micros = self.micros(samples);
            // Without the hash of the crate.
            let name = format!("{:#}", rustc_demangle::demangle(name));
            println!("{micros:>8.2} us  {:<32} {name}", class.title());
        }
    }
}

/// Context switches and interrupts since the machine started.
fn counters(file: &Path) -> Result<(f64, f64)> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(key)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{}: no {key}", file.display()))
    };
    Ok((value("ctxt ")?, value("intr ")?))
}

/// Prints a table with a column for each.
fn print<'a>(all: impl Iterator<Item = &'a (Setting, Seen)> + Clone) {
    let row = |title: &str, value: &dyn Fn(&Seen) -> f64| {
        print!("{title:<32}");
        for (_, seen) in all.clone() {
            print!(" {:>9.2}", value(seen));
        }
        println!();
    };
    println!();
    for (number, (setting, _)) in all.clone().enumerate() {
        println!("({}) {setting}", number + 1);
    }
    println!("\nMicroseconds of both processors for one request:");
    print!("{:<32}", "");
    for number in 1..=all.clone().count() {
        print!(" {:>9}", format!("({number})"));
    }
    println!();
    for class in class::ALL {
        row(class.title(), &|seen| {
            seen.micros(seen.samples.get(&class).copied().unwrap_or(0))
        });
    }
    row("all", &|seen| seen.micros(seen.samples.values().sum()));
    row("all but idle", &|seen| {
        let busy = seen
            .samples
            .iter()
            .filter(|&(&class, _)| class != Class::Idle);
        seen.micros(busy.map(|(_, samples)| samples).sum())
    });
    row("context switches", &|seen| seen.switches / seen.requests);
    row("interrupts", &|seen| seen.interrupts / seen.requests);
    row("MB/s without perf", &|seen| {
        crate::report::median(&mut seen.speeds.clone())
    });
}
