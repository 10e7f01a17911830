// SPDX-License-Identifier: GPL-2.0

//! I/O errors, at every request that anything makes of the disks below.

mod bench;
mod points;
mod vanish;

use anyhow::Result;

use self::bench::Bench;
use self::points::{Act, Sum, Which, ACTS};
use crate::disks::Disks;
use crate::puppet::Op;
use crate::report::Subject;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut total = Sum::default();
    for &act in ACTS {
        subject.case(&format!("every request of {act:?}"), || {
            every(act, &mut total)
        });
    }
    for policy in ["invalidate", "queue"] {
        subject.case(
            &format!("a COW device that is switched off, {policy}"),
            || vanish::null_block(disks, policy),
        );
    }
    subject.case("a COW device that is disconnected", || {
        vanish::network(disks, "error")
    });
    println!("# ioerrors: in all {total:?}");
}

/// Whether to look at requests of this sort to this disk: `TEST_FAULTS` may name one, as
/// `Cow Write`.
fn wanted(which: Which, op: Op) -> bool {
    std::env::var("TEST_FAULTS").map_or(true, |only| only == format!("{which:?} {op:?}"))
}

/// All requests of an operation, on both disks, once and for ever.
fn every(act: Act, total: &mut Sum) -> Result<()> {
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
    let mut sum = Sum::default();
    for &policy in policies {
        for which in [Which::Cow, Which::Origin] {
            for op in [Op::Read, Op::Write, Op::Flush] {
                if !wanted(which, op) {
                    continue;
                }
                for &times in times {
                    let before = sum.points;
                    points::all(&mut bench, act, policy, which, op, times, &mut sum)?;
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
