// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there: allocations fail under every operation, each in its turn and many at
//! random. What was asked for may fail then; what was there before and what was acknowledged must
//! be there after, and the store go on working, or after it was opened again.
//!
//! All of it takes as long as `TEST_SECONDS` says (75): of an operation with more allocations than
//! there is time for, some are taken at random. With `TEST_ALL_SITES` it takes as long as it takes
//! to have each of them fail. `TEST_OPERATION` may name the only one that is wanted, as `rs`.

mod bench;
mod devices;
mod operations;
mod space;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::disks::Disks;
use crate::faults::{Faults, Helper, Plan};
use crate::random::Random;
use crate::report::Subject;
use bench::Bench;
use operations::{Operation, OPERATIONS};

/// The operations that are wanted: all, unless one is named.
fn operations() -> Vec<&'static Operation> {
    let only = std::env::var("TEST_OPERATION").ok();
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let all = [OPERATIONS, devices::OPERATIONS, space::OPERATIONS];
    let all = all.into_iter().flatten();
    all.filter(|(name, _)| is_wanted(name)).collect()
}

/// Whether all operations are tried, so that each kind of failure must have been among them.
fn all_operations() -> bool {
    std::env::var_os("TEST_OPERATION").is_none()
}

/// Whether each allocation must have failed, however long that takes.
fn all_sites() -> bool {
    std::env::var_os("TEST_ALL_SITES").is_some_and(|value| !value.is_empty())
}

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let seconds = std::env::var("TEST_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(75);
    let random = Random::from_environment("memory");
    // The worker's are found by trying, which takes longer.
    let share = Duration::from_secs(seconds) / 5;
    subject.case("each allocation of the caller's", || {
        each_of_caller(disks, random.clone(), share)
    });
    subject.case("each allocation of the worker's", || {
        each_of_worker(disks, random.clone(), share * 2)
    });
    subject.case("any allocation", || {
        any(disks, random.clone(), share, Plan::Random)
    });
    for (helper, name) in [(Helper::Copies, "copies"), (Helper::Buffers, "buffers")] {
        subject.case(&format!("any allocation of what {name}"), || {
            any(disks, random.clone(), share / 2, |percent| {
                Plan::Beneath(helper, percent)
            })
        });
    }
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

/// How often one allocation is tried until it is there: an operation does not always make as many.
const TRIES: u32 = 20;

fn each_of_caller(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random.clone())?;
    let mut faults = Faults::new()?;
    let operations = operations();
    let end = Instant::now() + long;
    let (mut sites, mut struck) = (0, 0);
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    for (i, operation) in operations.iter().enumerate() {
        attempt(&mut bench, &mut faults, operation, Plan::Caller(MANY))?;
        let count = faults.counted;
        let mut numbers: Vec<u32> = (1..=count).collect();
        let until = share_of(end, operations.len() - i);
        let before = bench.errors;
        let (mut done, mut hits) = (0, 0);
        while !numbers.is_empty() && (done == 0 || all_sites() || Instant::now() < until) {
            let number = numbers.swap_remove(random.pick(0..numbers.len() as u64) as usize);
            let tries = if all_sites() { TRIES } else { 1 };
            let mut hit = false;
            for _ in 0..tries {
                attempt(&mut bench, &mut faults, operation, Plan::Caller(number))?;
                hit = faults.hit;
                if hit {
                    break;
                }
            }
            done += 1;
            hits += u32::from(hit);
            if !hit {
                missed.push(format!("{} {number}", operation.0));
            }
        }
        sites += count;
        struck += hits;
        rows.push(format!(
            "{} {hits}/{count} ({})",
            operation.0,
            bench.errors - before
        ));
    }
    println!("# memory: failed/allocations (errors): {}", rows.join(", "));
    println!(
        "# memory: {struck} of {sites} allocations of callers failed, {}",
        bench.summary()
    );
    if !missed.is_empty() {
        println!(
            "# memory: were not there when they were to fail: {}",
            missed.join(", ")
        );
    }
    ensure!(struck > 0, "nothing failed");
    ensure!(
        !all_sites() || struck == sites,
        "only {struck} of {sites} failed: not {}",
        missed.join(", ")
    );
    bench.end()
}

/// How often a run has to have fewer allocations than a number for that to be more than there are.
const FEWER: u32 = 3;

/// Has the allocation with number `nth` of the worker fail. False if there are not so many.
fn strike_worker(
    bench: &mut Bench,
    faults: &mut Faults,
    operation: &Operation,
    plan: Plan,
) -> Result<bool> {
    for _ in 0..FEWER {
        // The first one finds where the kernel's count stands.
        attempt(bench, faults, operation, plan)?;
        if faults.hit && !matches!(plan, Plan::Worker { nth: 1, .. }) {
            attempt(bench, faults, operation, plan)?;
        }
        if faults.hit {
            return Ok(true);
        }
    }
    Ok(false)
}

fn each_of_worker(disks: &Disks, random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random)?;
    let mut faults = Faults::new()?;
    let operations = operations();
    let end = Instant::now() + long;
    let (mut struck, mut part) = (0, Vec::new());
    let mut rows = Vec::new();
    let all = operations.len() * 2;
    for (i, operation) in operations.iter().chain(&operations).enumerate() {
        let pages = i >= operations.len();
        let until = share_of(end, all - i);
        let before = bench.errors;
        let mut hits = 0;
        let whole = loop {
            let plan = Plan::Worker {
                pages,
                nth: hits + 1,
            };
            if !strike_worker(&mut bench, &mut faults, operation, plan)? {
                break true;
            }
            hits += 1;
            if !all_sites() && Instant::now() >= until {
                break false;
            }
        };
        let name = format!("{}{}", operation.0, if pages { " pages" } else { "" });
        rows.push(format!(
            "{name} {hits}{} ({})",
            if whole { "" } else { "+" },
            bench.errors - before
        ));
        struck += hits;
        if !whole {
            part.push(name);
        }
    }
    println!("# memory: failed (errors): {}", rows.join(", "));
    println!(
        "# memory: {struck} allocations of the worker failed, {} of {all} operations whole, {}",
        all - part.len(),
        bench.summary()
    );
    ensure!(
        struck > 0 || !all_operations(),
        "nothing of the worker's failed"
    );
    ensure!(
        !all_sites() || part.is_empty(),
        "not whole: {}",
        part.join(", ")
    );
    bench.end()
}

/// Random ones, as `plan` has so many percent of them fail.
fn any(
    disks: &Disks,
    mut random: Random,
    long: Duration,
    plan: impl Fn(u32) -> Plan,
) -> Result<()> {
    let mut bench = Bench::new(disks, random.clone())?;
    let mut faults = Faults::new()?;
    let operations = operations();
    let end = Instant::now() + long;
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut runs, mut struck) = (0, 0);
    while Instant::now() < end || struck == 0 && runs < MOST {
        let operation = random.one_of(&operations);
        let percent = *random.one_of(&[1, 3, 10, 30, 100]);
        attempt(&mut bench, &mut faults, operation, plan(percent))?;
        runs += 1;
        struck += faults.struck;
        if faults.hit {
            *times.entry(operation.0).or_default() += 1;
        }
    }
    println!(
        "# memory: {struck} allocations failed in {} of {runs} operations, of {} kinds, {}",
        times.values().sum::<u32>(),
        times.len(),
        bench.summary()
    );
    ensure!(struck > 0, "nothing failed");
    let beneath = matches!(plan(1), Plan::Beneath(..));
    // What is beneath has some memory of its own for when there is none.
    ensure!(
        beneath || bench.errors > 0 || !all_operations(),
        "no operation failed"
    );
    bench.end()
}

/// More operations than it takes for one with an allocation that fails.
const MOST: u32 = 100;
