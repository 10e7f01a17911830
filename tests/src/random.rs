// SPDX-License-Identifier: GPL-2.0

//! Random numbers that come again with the same seed.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `TEST_SEED`, or from the clock; it is printed, so that a failure can be run
    /// again.
    pub fn from_environment(subject: &str) -> Self {
        let seed = std::env::var("TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.map_or(1, |t| t.as_nanos() as u64 % 1_000_000_007)
            });
        println!("# {subject}: TEST_SEED={seed}");
        Self(seed)
    }

    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// One of a range that is not empty.
    pub fn pick(&mut self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.number() % n == 0
    }

    /// One of a slice that is not empty.
    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.pick(0..items.len() as u64) as usize]
    }

    /// A range of sectors below `sectors`: mostly small, sometimes more than 1 MiB, of any
    /// alignment.
    pub fn extent(&mut self, sectors: u64) -> (u64, u64) {
        let largest = match self.pick(0..10) {
            0..=2 => 8,
            3..=5 => 64,
            6..=7 => 512,
            8 => 2048,
            _ => 2600,
        };
        let mut count = self.pick(1..largest + 1).min(sectors);
        let mut start = self.pick(0..sectors - count + 1);
        if self.once_in(2) && start >= 8 {
            // Half of them as file systems have it.
            start &= !7;
            count = count.next_multiple_of(8).min(sectors - start);
        }
        (start, count)
    }
}
