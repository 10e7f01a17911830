// SPDX-License-Identifier: GPL-2.0

//! Those who write until a write fails, and what became of that.

use std::ops::Range;
use std::path::Path;

use anyhow::{ensure, Result};

use crate::content::next_generation;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::{write_generation, Shadow};

/// Writes that one of them makes.
const WRITES: usize = 40;

/// A write that has ended.
pub(super) struct Written {
    start: u64,
    count: u64,
    generation: u32,
    /// The error that it ended with.
    errno: Option<i32>,
}

/// Writes here and there in a part of a device, up to the first write that fails.
pub(super) fn write_some(path: &Path, range: Range<u64>, seed: u64) -> Result<Vec<Written>> {
    let disk = Disk::open(path)?;
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    for _ in 0..WRITES {
        let (start, count) = random.extent(range.end - range.start);
        let (start, generation) = (range.start + start, next_generation());
        let done = write_generation(&disk, start, count, generation);
        let errno = done.as_ref().err().map(|e| {
            let e = e.downcast_ref::<std::io::Error>();
            e.and_then(|e| e.raw_os_error()).unwrap_or(-1)
        });
        all.push(Written {
            start,
            count,
            generation,
            errno,
        });
        if done.is_err() {
            break;
        }
    }
    Ok(all)
}

impl Written {
    /// Notes it down. If it failed, which it may have with these errors only, each of its sectors
    /// is old or new. Tells whether it did.
    pub(super) fn settle(&self, disk: &Disk, now: &mut Shadow, errors: &[i32]) -> Result<bool> {
        let Self {
            start,
            count,
            generation,
            ..
        } = *self;
        let Some(found) = self.errno else {
            now.set(start, count, generation);
            return Ok(false);
        };
        ensure!(
            errors.contains(&found),
            "a write of {count} sectors at {start} failed with {found}"
        );
        let before = now.clone();
        let bytes = disk.read(start, count)?;
        now.learn_bytes(&bytes, start, |sector, found| {
            found == before.generation(sector) || found == generation
        })?;
        Ok(true)
    }
}
