// SPDX-License-Identifier: GPL-2.0

//! I/O errors, at every request that anything makes of the disks below.

mod bench;
mod points;
mod vanish;

use anyhow::Result;

use self::bench::Bench;
use self::points::{Act, Part, Sum, Which, ACTS};
use self::vanish::Scenery;
use crate::disks::Disks;
use crate::puppet::Op;
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

/// Requests of an operation, on both disks, once and for ever.
fn every(act: Act, random: &mut Random, total: &mut Sum) -> Result<()> {
    let mut bench = Bench::new()?;
    let policies: &[&'static str] = match act {
        Act::OriginWrite | Act::OriginRewrite => &["invalidate", "error"],
        _ => &["invalidate"],
    };
    // How many requests fail from that point on.
    let times: &[usize] = if std::env::var_os("TEST_ALL_FAULTS").is_some() {
        &[1, 2, 4, 8, usize::MAX]
    } else {
        match act {
            Act::OriginWrite => &[1, 4, usize::MAX],
            Act::Take | Act::RollBack | Act::SnapshotWritePart => &[1, usize::MAX],
            _ => &[1],
        }
    };
    // All of them take too long for every run of all tests: these see others each time.
    let all = ["TEST_ALL_FAULTS", "TEST_FAULTS"];
    let all = all.iter().any(|name| std::env::var_os(name).is_some());
    let stride = if all { 1 } else { 4 };
    let offset = random.pick(0..stride) as usize;
    let mut sum = Sum::default();
    for &policy in policies {
        for which in [Which::Cow, Which::Origin] {
            for op in [Op::Read, Op::Write, Op::Flush] {
                if !wanted(which, op) {
                    continue;
                }
                for &times in times {
                    let before = sum.points;
                    let part = Part {
                        times,
                        offset,
                        stride: stride as usize,
                    };
                    points::all(&mut bench, act, policy, which, op, part, &mut sum)?;
                    if std::env::var_os("TEST_TIMES").is_some() {
                        let points = sum.points - before;
                        println!("# {act:?} {policy} {which:?} {op:?} {times}: {points} points");
                    }
                }
            }
        }
    }
    println!("# ioerrors: {act:?}: {sum:?}");
    total.add(&sum);
    Ok(())
}
