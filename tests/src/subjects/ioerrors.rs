// SPDX-License-Identifier: GPL-2.0

//! I/O errors, at every request that anything makes of the disks below.

mod act;
mod bench;
mod documented;
mod points;
mod scenes;
mod vanish;

use anyhow::{ensure, Context, Result};

use self::act::{Act, ACTS};
use self::bench::Bench;
use self::points::{Case, Fault, Sum, Times, Which};
use self::vanish::Scenery;
use crate::disks::Disks;
use crate::effort::usual_or_long;
use crate::puppet::{Op, OPS};
use crate::random::Random;
use crate::report::Subject;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut total = Sum::default();
    let mut random = Random::from_environment("ioerrors");
    for &act in ACTS {
        subject.case(&format!("every request of {act:?}"), || {
            every(act, &mut random, &mut total)
        });
    }
    for policy in ["invalidate", "queue"] {
        subject.case(
            &format!("a COW device that is switched off, {policy}"),
            || vanish::null_block(disks, policy, Scenery::Plain),
        );
    }
    subject.case(
        "a COW device that is switched off while a rollback runs",
        || vanish::null_block(disks, "error", Scenery::Rollback),
    );
    subject.case("a COW device that is disconnected", || {
        vanish::network(disks, "error", Scenery::Plain)
    });
    println!("# ioerrors: in all {total:?}");
}

/// Whether to look at requests of this sort to this disk: `TEST_FAULTS` may name one, as
/// `Cow Write`.
fn wanted(which: Which, op: Op) -> bool {
    std::env::var("TEST_FAULTS").map_or(true, |only| only == format!("{which:?} {op:?}"))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

fn policies(act: Act) -> &'static [&'static str] {
    match act {
        Act::OriginWrite => &["invalidate", "error", "queue"],
        Act::OriginRewrite => &["invalidate", "error"],
        Act::OriginDiscard => &["invalidate", "queue"],
        _ => &["invalidate"],
    }
}

/// How many requests fail from some point on. In the long run all is tried, in the usual one what
/// makes most of a difference.
fn times(act: Act, policy: &str) -> &'static [Times] {
    use Times::{Always, Next, Once, Place};
    if is_set("TEST_ALL_FAULTS") {
        return &[Once, Next(2), Next(4), Next(8), Always, Place];
    }
    match (act, policy) {
        (Act::OriginWrite, "invalidate") => &[Once, Next(4), Always, Place],
        (Act::OriginWrite, "error") => &[Once, Always],
        (Act::OriginWriteOn, _) => &[Once, Place],
        (Act::Take | Act::RollBack | Act::SnapshotWritePart, _) => &[Once, Always],
        _ => &[Once],
    }
}

/// Of so many requests of a sort one fails after the other, in the usual run.
const SOME_OF_EACH: usize = 2;

/// Requests of an operation, on both disks, once and for ever.
fn every(act: Act, random: &mut Random, total: &mut Sum) -> Result<()> {
    let mut bench = Bench::new()?;
    // All of them take too long for every run of all tests: these see others each time.
    let all = is_set("TEST_ALL_FAULTS") || is_set("TEST_FAULTS");
    let few = usual_or_long(SOME_OF_EACH, usize::MAX);
    for &policy in policies(act) {
        let saved = bench.scene(act.scene(), policy).context("before")?;
        let mut case = Case {
            bench: &mut bench,
            saved,
            act,
            policy,
            sum: Sum::default(),
        };
        let requests = case.requests()?;
        if is_set("TEST_TIMES") {
            println!("# {act:?} {policy}: {requests:?} of {OPS:?}");
        }
        let sorts = [Which::Cow, Which::Origin].into_iter();
        for (which, op) in sorts.flat_map(|which| OPS.map(|op| (which, op))) {
            let count = requests.of(which, op);
            ensure!(
                count > 0 || !act.needs(which, op),
                "{act:?} does without {which:?} {op:?}"
            );
            if count == 0 || !wanted(which, op) {
                continue;
            }
            let mut sum = 0;
            for &times in times(act, policy) {
                if (op, times) == (Op::Flush, Times::Place) {
                    // It has none.
                    continue;
                }
                let fault = |first| Fault {
                    which,
                    op,
                    first,
                    times,
                };
                let stride = if all { 1 } else { count.div_ceil(few).max(4) };
                let first = random.pick(0..stride.min(count) as u64) as usize;
                let end = (!all).then_some(count);
                let mut points = case.each(fault(first), stride, end)?;
                if points == 0 {
                    // There may be one less than when they were counted.
                    points = case.each(fault(0), 1, Some(1))?;
                }
                if is_set("TEST_TIMES") {
                    println!("# {act:?} {policy} {which:?} {op:?} {times:?}: {points} of {count}");
                }
                sum += points;
            }
            ensure!(
                sum > 0 || !act.needs(which, op),
                "{act:?}: no {which:?} {op:?} has failed"
            );
        }
        println!("# ioerrors: {act:?}, {policy}: {:?}", case.sum);
        total.add(&case.sum);
    }
    Ok(())
}
