// SPDX-License-Identifier: GPL-2.0

//! Stores that the model made by random operations and crashes are in order; damaged in any way,
//! they are not. The operations are those of the model's own tests.
//!
//! `TEST_OPS` is the number of operations, with `TEST_LONG` four times as many, `TEST_SEED` the first
//! seed.

mod changes;
mod damage;
mod delta;
mod faults;
mod image;
mod in_use;
mod journal;
mod living;
#[path = "../../../model/tests/versions/ops.rs"]
mod ops;
#[path = "../../../model/tests/versions/oracle.rs"]
mod oracle;
#[path = "../../../model/tests/versions/random.rs"]
mod random;
mod repair;
mod rich;
#[path = "../../../model/tests/versions/store.rs"]
mod store;
#[path = "../../../model/tests/versions/check.rs"]
mod structure;
#[path = "../../../model/tests/versions/tree.rs"]
mod tree;
#[path = "../../../model/tests/versions/world.rs"]
mod world;

/// What the operations are checked with: as in the model's tests, and as an image.
mod check {
    pub use crate::structure::{
        after_crash, all_content, all_deltas, content, nothing_for_invalid_ones,
    };

    use crate::image::{Image, SECTORS};
    use crate::world::World;
    use dm_snap_mv_check::{check, Options};
    use std::cell::Cell;

    thread_local! {
        /// Images looked at, records in them, and garbage among these.
        pub static SEEN: Cell<[u64; 3]> = const { Cell::new([0; 3]) };
    }

    pub fn structure(w: &World) {
        crate::structure::structure(w);
        if crate::faults::stores::take(w) {
            return;
        }
        let image = Image::of(&w.store);
        let mut findings = Vec::new();
        let report = check(&image, SECTORS, Options::default(), &mut findings);
        assert!(report.is_clean(), "{:?} {findings:?}", report.outcome);
        crate::journal::look_at(&w.store, &image, &report);
        crate::rich::look_at(&w.store);
        crate::delta::look_at(w, &image);
        crate::journal::with_written(|image| crate::delta::look_at(w, image));
        let [images, records, garbage] = SEEN.get();
        SEEN.set([
            images + 1,
            records + report.statistics.records,
            garbage + report.statistics.garbage,
        ]);
    }
}

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
fn what_the_model_makes_is_in_order() {
    let wanted = number("TEST_OPS", usual_or_long(50_000, 200_000));
    let first = number("TEST_SEED", 1);
    let mut done = 0;
    let mut total = ops::Stats::default();
    for seed in first.. {
        if done >= wanted {
            break;
        }
        let len = [100, 300, 1000, 5000][seed as usize % 4];
        let (config, operations) = ops::generate(seed, len);
        let mut at = 0;
        total.add(ops::run(&config, &operations, &mut at));
        done += len as u64;
    }
    let [images, records, garbage] = check::SEEN.get();
    println!("{images} images, {records} records, {garbage} of them garbage; {total:?}");
    assert!(garbage > 0);
    let [journals, entries, repaired] = journal::SEEN.get();
    println!("{journals} of them as journals with {entries} entries, {repaired} repaired");
    assert!(journals > images / 8 && repaired > 0);
    let [pairs, chunks, zeroes, bookmarked] = delta::SEEN.get();
    println!("{pairs} pairs of versions that differ in {chunks} chunks, {zeroes} of them zeroes");
    println!("{bookmarked} of them since a bookmark");
    assert!(chunks > pairs && zeroes > 0 && bookmarked > 100);
}
