// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there: allocations fail under every operation, each in its turn and many at
//! random. What was asked for may fail then; what was there before and what was acknowledged must
//! be there after, and the store go on working, or after it was opened again.
//!
//! All of it takes as long as `TEST_SECONDS` says (60): of an operation with more allocations than
//! there is time for, some are taken at random.

mod bench;
mod operations;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::disks::Disks;
use crate::faults::{Faults, Plan};
use crate::random::Random;
use crate::report::Subject;
use bench::Bench;
use operations::{Operation, OPERATIONS};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let seconds = std::env::var("TEST_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(60);
    let random = Random::from_environment("memory");
    // The worker's are found by trying, which takes longer.
    let share = Duration::from_secs(seconds) / 4;
    subject.case("each allocation of the caller's", || {
        each_of_caller(disks, random.clone(), share)
    });
    subject.case("each allocation of the worker's", || {
        each_of_worker(disks, random.clone(), share * 2)
    });
    subject.case("any allocation", || any(disks, random.clone(), share));
}

/// Runs one operation with faults as planned, and compares everything.
fn attempt(
    bench: &mut Bench,
    faults: &mut Faults,
    (name, operation): &Operation,
    plan: Plan,
) -> Result<()> {
    faults.plan(plan)?;
    operation(bench, faults)
        .and_then(|()| bench.check())
        .with_context(|| format!("{name} with {plan:?}"))
}

/// More than anything allocates.
const MANY: u32 = 1_000_000;

/// When the next of `parts` has had its share of what is left until `end`.
fn share_of(end: Instant, parts: usize) -> Instant {
    let now = Instant::now();
    now + end.saturating_duration_since(now) / parts as u32
}

fn each_of_caller(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random.clone())?;
    let mut faults = Faults::new()?;
    let end = Instant::now() + long;
    let (mut sites, mut tried) = (0, 0);
    let mut rows = Vec::new();
    for (i, operation) in OPERATIONS.iter().enumerate() {
        attempt(&mut bench, &mut faults, operation, Plan::Caller(MANY))?;
        let count = faults.counted;
        let mut numbers: Vec<u32> = (1..=count).collect();
        let until = share_of(end, OPERATIONS.len() - i);
        let before = bench.errors;
        let mut done = 0;
        while !numbers.is_empty() && (done == 0 || Instant::now() < until) {
            let number = numbers.swap_remove(random.pick(0..numbers.len() as u64) as usize);
            attempt(&mut bench, &mut faults, operation, Plan::Caller(number))?;
            done += 1;
        }
        sites += count;
        tried += done;
        rows.push(format!(
            "{} {done}/{count} ({})",
            operation.0,
            bench.errors - before
        ));
    }
    println!("# memory: tried/allocations (errors): {}", rows.join(", "));
    println!(
        "# memory: {tried} of {sites} allocations of callers failed, {}",
        bench.summary()
    );
    ensure!(tried > 0, "nothing allocates");
    bench.end()
}

fn each_of_worker(disks: &Disks, random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random)?;
    let mut faults = Faults::new()?;
    let end = Instant::now() + long;
    let (mut tried, mut whole) = (0, 0);
    let mut rows = Vec::new();
    let all = OPERATIONS.len() * 2;
    for (i, operation) in OPERATIONS.iter().chain(OPERATIONS).enumerate() {
        let pages = i >= OPERATIONS.len();
        let until = share_of(end, all - i);
        let before = bench.errors;
        let mut nth = 0;
        let ended = loop {
            nth += 1;
            let plan = Plan::Worker { pages, nth };
            // The first one finds where the kernel's count stands.
            attempt(&mut bench, &mut faults, operation, plan)?;
            if faults.hit && nth > 1 {
                attempt(&mut bench, &mut faults, operation, plan)?;
            }
            if !faults.hit {
                break true;
            }
            if Instant::now() >= until {
                nth += 1;
                break false;
            }
        };
        tried += nth - 1;
        whole += u32::from(ended);
        rows.push(format!(
            "{}{} {}{} ({})",
            operation.0,
            if pages { " pages" } else { "" },
            nth - 1,
            if ended { "" } else { "+" },
            bench.errors - before
        ));
    }
    println!("# memory: failed (errors): {}", rows.join(", "));
    println!(
        "# memory: {tried} allocations of the worker failed, {whole} of {all} operations whole, {}",
        bench.summary()
    );
    ensure!(tried > 0, "the worker allocates nothing");
    bench.end()
}

fn any(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random.clone())?;
    let mut faults = Faults::new()?;
    let end = Instant::now() + long;
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    while Instant::now() < end {
        let operation = random.one_of(OPERATIONS);
        let percent = *random.one_of(&[1, 3, 10, 30, 100]);
        attempt(&mut bench, &mut faults, operation, Plan::Random(percent))?;
        *times.entry(operation.0).or_default() += 1;
    }
    println!(
        "# memory: {} operations of {} kinds with random failures, {}",
        times.values().sum::<u32>(),
        times.len(),
        bench.summary()
    );
    bench.end()
}
