// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there: allocations fail under every operation, each in its turn and many at
//! random. What was asked for may fail then; what was there before and what was acknowledged must
//! be there after, and the store go on working, or after it was opened again.
//!
//! All of it takes as long as `TEST_SECONDS` says (75): of an operation with more call sites than
//! there is time for, some are taken. With `TEST_ALL_SITES` it takes as long as it takes to have an
//! allocation of each of them fail. `TEST_OPERATION` may name the only one that is wanted, as `rs`.
//!
//! Where the kernel cannot have allocations fail, each operation is done with none failing: that they
//! do what they are for, and that everything is compared, is then known on that kernel too.

mod bench;
mod devices;
mod operations;
mod sites;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::disks::Disks;
use crate::faults::{Faults, Helper, Plan};
use crate::random::Random;
use crate::report::Subject;
use bench::Bench;
use operations::{Operation, OPERATIONS};
use sites::{search, Count, Found};

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
    if !Faults::are_possible() {
        subject.counted_case("each operation, when nothing fails", || {
            with_nothing_failing(disks, random)
        });
        return;
    }
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
const TRIES: u32 = 3;

/// Has one allocation fail, as planned. Returns where, nothing where the kernel does
/// not log that, or `None` if there were not so many.
fn strike(
    bench: &mut Bench,
    faults: &mut Faults,
    operation: &Operation,
    plan: Plan,
) -> Result<Option<String>> {
    for _ in 0..TRIES {
        attempt(bench, faults, operation, plan)?;
        // The first one finds where the kernel's count stands.
        if faults.hit && matches!(plan, Plan::Worker { nth: 2.., .. }) {
            attempt(bench, faults, operation, plan)?;
        }
        if faults.hit {
            return Ok(Some(faults.site.take().unwrap_or_default()));
        }
    }
    Ok(None)
}

/// What came of the operations' allocations, added up.
#[derive(Default)]
struct Sum {
    rows: Vec<String>,
    sites: BTreeSet<String>,
    struck: usize,
    part: Vec<String>,
}

impl Sum {
    /// `count`: how many allocations there are, if that is known.
    fn add(&mut self, name: &str, found: &Found, count: Option<u32>, errors: u32) {
        let (sites, struck) = (found.sites(), found.struck());
        let of = count.map_or(String::new(), |count| format!("/{count}"));
        let more = if found.whole { "" } else { "+" };
        let row = format!("{name} {}{more}:{struck}{of} ({errors})", sites.len());
        if all_sites() {
            // That takes long.
            println!("# memory: {row}");
        }
        self.rows.push(row);
        self.sites.extend(sites.into_iter().map(str::to_owned));
        self.struck += struck;
        if !found.whole {
            self.part.push(name.to_owned());
        }
    }

    fn end(&self, whose: &str, bench: &Bench) -> Result<()> {
        println!(
            "# memory: call sites:failed/allocations (errors): {}",
            self.rows.join(", ")
        );
        println!(
            "# memory: {} allocations of the {whose} failed at {} call sites, {} of {} operations \
             whole, {}",
            self.struck,
            self.sites.len(),
            self.rows.len() - self.part.len(),
            self.rows.len(),
            bench.summary()
        );
        ensure!(
            self.struck > 0 || !all_operations(),
            "nothing of the {whose}'s failed"
        );
        ensure!(
            !all_sites() || self.part.is_empty(),
            "not whole: {}",
            self.part.join(", ")
        );
        Ok(())
    }
}

/// As often as it takes for what one operation leaves to be what the next one finds.
const ROUNDS: usize = 2;

fn with_nothing_failing(disks: &Disks, random: Random) -> Result<String> {
    let mut bench = Bench::new(disks, random)?;
    let mut faults = Faults::none()?;
    let operations = operations();
    for _ in 0..ROUNDS {
        for operation in &operations {
            attempt(&mut bench, &mut faults, operation, Plan::Nothing)?;
        }
    }
    ensure!(bench.errors == 0, "{} errors", bench.errors);
    let summary = bench.summary();
    bench.end()?;
    Ok(format!("{} operations, {summary}", operations.len()))
}

fn each_of_caller(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random.clone())?;
    let mut faults = Faults::new()?;
    let operations = operations();
    let end = Instant::now() + long;
    let mut sum = Sum::default();
    for (i, operation) in operations.iter().enumerate() {
        attempt(&mut bench, &mut faults, operation, Plan::Caller(MANY))?;
        let count = faults.counted;
        let until = share_of(end, operations.len() - i);
        let before = bench.errors;
        let is_late = || !all_sites() && Instant::now() >= until;
        let found = match count {
            0 => Found::none(),
            _ => {
                let first = random.pick(1..u64::from(count) + 1) as u32;
                search(Count::Known { count, first }, is_late, |number| {
                    strike(&mut bench, &mut faults, operation, Plan::Caller(number))
                })?
            }
        };
        sum.add(operation.0, &found, Some(count), bench.errors - before);
    }
    sum.end("caller", &bench)?;
    bench.end()
}

fn each_of_worker(disks: &Disks, random: Random, long: Duration) -> Result<()> {
    let mut bench = Bench::new(disks, random)?;
    let mut faults = Faults::new()?;
    let operations = operations();
    let end = Instant::now() + long;
    let mut sum = Sum::default();
    let all = operations.len() * 2;
    for (i, operation) in operations.iter().chain(&operations).enumerate() {
        let pages = i >= operations.len();
        let until = share_of(end, all - i);
        let before = bench.errors;
        let is_late = || !all_sites() && Instant::now() >= until;
        let found = search(Count::Unknown, is_late, |nth| {
            let plan = Plan::Worker { pages, nth };
            strike(&mut bench, &mut faults, operation, plan)
        })?;
        let name = format!("{}{}", operation.0, if pages { " pages" } else { "" });
        sum.add(&name, &found, None, bench.errors - before);
    }
    sum.end("worker", &bench)?;
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
