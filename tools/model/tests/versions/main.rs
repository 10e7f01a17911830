// SPDX-License-Identifier: GPL-2.0

//! All versions of all origins, against full copies of them, under random operations and crashes.
//!
//! `TEST_OPS` is the number of operations, with `TEST_LONG` four times as many, `TEST_SEED` the first
//! seed, `TEST_RUN` the operations of one run. A run that fails is printed as short as it gets.

mod check;
mod delta;
mod limits;
mod lists;
mod ops;
mod oracle;
mod random;
mod shrink;
mod store;
mod tree;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use ops::{generate, Stats};

/// How many there are in everybody's run, or in the long one.
fn usual_or_long(usual: u64, long: u64) -> u64 {
    match std::env::var_os("TEST_LONG") {
        Some(value) if !value.is_empty() => long,
        _ => usual,
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

#[test]
fn random_operations() {
    let wanted = number("TEST_OPS", usual_or_long(1_000_000, 4_000_000));
    let seed = number("TEST_SEED", 1);
    let begin = Instant::now();
    let (started, runs) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let total = Mutex::new(Stats::default());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = seed + runs.fetch_add(1, Ordering::Relaxed);
                    // Many short runs, where mistakes are soon seen, and some long ones.
                    let len = number("TEST_RUN", [100, 300, 1000, 5000][seed as usize % 4]);
                    if started.fetch_add(len, Ordering::Relaxed) >= wanted {
                        break;
                    }
                    let (config, ops) = generate(seed, len as usize);
                    match shrink::attempt(&config, &ops) {
                        Ok(stats) => total.lock().unwrap().add(stats),
                        Err(failure) => {
                            failed.store(true, Ordering::Relaxed);
                            let at = total.lock().unwrap().ops + failure.done as u64;
                            failures.lock().unwrap().push((at, config, ops, failure));
                        }
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    println!("{total:?} in {:?}", begin.elapsed());
    if let Some((at, config, ops, failure)) = failures.into_inner().unwrap().into_iter().next() {
        println!("failed after {at} operations: {}", failure.message);
        let (config, ops, failure) = shrink::shrink(&config, &ops);
        println!("{config:?}");
        for op in &ops {
            println!("{op:?}");
        }
        panic!("{} operations are enough: {}", ops.len(), failure.message);
    }
}
