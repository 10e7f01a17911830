// SPDX-License-Identifier: GPL-2.0

//! Faults of every kind in the format, with checksums that are right: every field of every structure,
//! every pointer, blocks that are lost, older than they should be, or another's. Whatever it is, *check
//! says that the store is in order and it is, or names it; a repair restores what was there, or changes
//! nothing, or gives up what it says that it will*. That is compared by content, chunk by chunk.
//!
//! Every field of every structure is changed in each run, to some of the values that are tried with
//! `TEST_LONG` or `PROPTEST_CASES`; `TEST_SEED` chooses others of them.

mod blocks;
mod content;
mod fields;
mod journal;
mod judge;
mod places;
pub mod stores;
mod unknowable;
mod values;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use dm_snap_mv_store::checksum;

use crate::image::Image;
use crate::random::Random;
use blocks::Fault;
use fields::Shape;
use judge::{judge, Counts, Excuse};
use places::Places;
use stores::{subjects, Subject};
use values::{value, Values};

/// Says what was done when something panics.
struct Doing(String);

impl Drop for Doing {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("with {}", self.0);
        }
    }
}

/// What came of all faults in one store.
#[derive(Default)]
struct Faults {
    counts: Counts,
    failures: Vec<String>,
    /// Of what is unknowable, by structure and field.
    unknowable: BTreeMap<String, u64>,
}

impl Faults {
    /// Has one more. `of`: what it is in.
    fn put(&mut self, subject: &Subject, what: String, of: &str, image: &Image, excuse: Excuse) {
        let doing = Doing(format!("{}: {what}", subject.name));
        match judge(subject, image, excuse) {
            Ok(verdict) => {
                *self.counts.entry(verdict).or_insert(0) += 1;
                if verdict == "unknowable" {
                    *self.unknowable.entry(of.to_owned()).or_insert(0) += 1;
                }
            }
            Err(why) => self.failures.push(format!("{}: {why}", doing.0)),
        }
    }
}

impl Faults {
    /// Has one more that is in blocks.
    fn put_block(&mut self, subject: &Subject, fault: Fault) {
        let Fault {
            what,
            of,
            sort,
            image,
        } = fault;
        let excuse = unknowable::of_blocks(&of, sort);
        self.put(
            subject,
            what,
            &format!("{}: {sort}", of.join(", ")),
            &image,
            excuse,
        );
    }
}

/// Whether all is tried that there is.
fn all() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("TEST_LONG") || is_set("PROPTEST_CASES")
}

fn set(image: &mut Image, place: &places::Place, value: &[u8]) {
    let block = image.blocks.get_mut(&place.block).expect("a block");
    block.0[place.at..place.at + value.len()].copy_from_slice(value);
    if place.field.shape != Shape::Checksum {
        let sum = checksum::of_block(block, place.xor).to_le_bytes();
        block.0[..4].copy_from_slice(&sum);
    }
}

/// Every field of every structure.
fn in_fields(subject: &Subject, random: &mut Random) -> Faults {
    let mut faults = Faults::default();
    let places = Places::of(&subject.image);
    let values = Values::of(&subject.image, &places);
    let mut image = subject.image.clone();
    for place in &places.fields {
        let was = value(&subject.image, place);
        let kept = image.blocks[&place.block].clone();
        let mut instead = values.instead(place, &was, random);
        let few = match place.of {
            _ if all() => usize::MAX,
            "superblock" | "backup" => 10,
            "bitmap of the data map" | "bitmap of the metadata map" => 1,
            _ => 3,
        };
        while instead.len() > few {
            instead.swap_remove(random.below(instead.len() as u64) as usize);
        }
        let field = format!("{}: {}", place.of, place.field.name);
        for new in instead {
            set(&mut image, place, &new);
            let (block, at) = (place.block, place.at);
            let what = format!("{field} (block {block}, byte {at}): {}", change(&was, &new));
            let excuse = unknowable::of_field(subject, place);
            faults.put(subject, what, &field, &image, excuse);
            image.blocks.insert(place.block, kept.clone());
        }
    }
    faults
}

/// A change in words: of a long field, the first byte that changes.
fn change(was: &[u8], new: &[u8]) -> String {
    let at = was.iter().zip(new).position(|(was, new)| was != new);
    match at.filter(|_| was.len() > 8) {
        Some(at) => format!("its byte {at}: {:x} to {:x}", was[at], new[at]),
        None => format!("{was:x?} to {new:x?}"),
    }
}

/// Puts the faults of one sort into each store, on all processors.
fn each_store(faults_in: fn(&Subject, &mut Random) -> Faults) {
    let seed = crate::number("TEST_SEED", 1);
    let left = Mutex::new(subjects());
    let failures = Mutex::new(Vec::new());
    let next = || left.lock().unwrap().pop();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(subject) = next() {
                    let faults = faults_in(&subject, &mut Random::new(seed));
                    println!(
                        "{}: {:?}; unknowable of these: {:?}",
                        subject.name, faults.counts, faults.unknowable
                    );
                    failures.lock().unwrap().extend(faults.failures);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    for failure in failures.iter().take(50) {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} failures", failures.len());
}

#[test]
fn every_field_is_known_or_named() {
    each_store(in_fields);
}

#[test]
fn every_block_is_known_or_named() {
    each_store(|subject, random| {
        let mut faults = Faults::default();
        blocks::faults(subject, all(), random, &mut |fault| {
            faults.put_block(subject, fault)
        });
        faults
    });
}

#[test]
fn every_cut_of_a_journal_is_known_or_named() {
    each_store(|subject, _| {
        let mut faults = Faults::default();
        journal::cuts(subject, &mut |fault| faults.put_block(subject, fault));
        faults
    });
}
