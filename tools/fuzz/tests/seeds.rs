// SPDX-License-Identifier: GPL-2.0

//! All seeds, and some changes of them. `TEST_FUZZ_TIMES` is how many of these for each target.

use std::fs;
use std::path::Path;

use dm_snap_mv_fuzz::TARGETS;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Changes an input as fuzzers do that see nothing.
fn change(random: &mut Random, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        let byte = random.below(256) as u8;
        match random.below(7) {
            0 => input.insert(at, byte),
            1 if at < input.len() => _ = input.remove(at),
            2 if at < input.len() => input[at] ^= 1 << (byte % 8),
            3 => input.truncate(at),
            4 => {
                let other = &others[random.below(others.len())];
                input.truncate(at);
                input.extend(&other[random.below(other.len() + 1)..]);
            }
            5 if at + 8 <= input.len() => {
                let some = [0, 1, u64::MAX, 1 << 63, 1 << 40, 255, 1 << 24];
                let value = some[random.below(some.len())].to_le_bytes();
                input[at..at + 8].copy_from_slice(&value);
            }
            _ if at < input.len() => input[at] = byte,
            _ => {}
        }
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut all: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    all.push(Vec::new());
    all
}

#[test]
fn every_target_has_seeds_and_stands_them() {
    let times: usize = match std::env::var("TEST_FUZZ_TIMES") {
        Ok(times) => times.parse().expect("a number"),
        Err(_) if std::env::var_os("TEST_LONG").is_some() => 20_000,
        Err(_) => 4_000,
    };
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for (name, target) in TARGETS.iter().skip(part).step_by(2) {
                    let seeds = seeds(name);
                    assert!(seeds.len() > 1, "{name} has no seeds");
                    seeds.iter().for_each(|seed| target(seed));
                    let mut random = Random(0x1234_5678_9abc_def1);
                    for _ in 0..times {
                        let mut input = seeds[random.below(seeds.len())].clone();
                        change(&mut random, &mut input, &seeds);
                        let result = std::panic::catch_unwind(|| target(&input));
                        assert!(result.is_ok(), "{name} does not stand {input:?}");
                    }
                }
            });
        }
    });
}
