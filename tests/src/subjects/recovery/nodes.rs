// SPDX-License-Identifier: GPL-2.0

//! Metadata that were good when they were looked at first, and are not when they are read again.

use std::fs;

use anyhow::{ensure, Context, Result};
use dm_snap_mv_model::ids::{OriginNr, TimelineId};
use dm_snap_mv_model::record_key::RecordKey;
use dm_snap_mv_store::BLOCK_SIZE;

use super::bench::{Bench, CHUNK};
use crate::damage::Patient;
use crate::store::until;

/// How much metadata the kernel's cache keeps in memory.
///
/// Not by way of `drop_caches`: what somebody holds when a worker gets to it, the cache goes on to
/// count as about to go, and offers the less for the next time.
struct CacheLimit(String);

impl CacheLimit {
    const FILE: &str = "/sys/module/dm_bufio/parameters/max_cache_size_bytes";

    /// Each block that is read has all go that nobody holds, soon, until this goes out of scope.
    fn one_block() -> Result<Self> {
        let before = fs::read_to_string(Self::FILE).context(Self::FILE)?;
        fs::write(Self::FILE, BLOCK_SIZE.to_string()).context(Self::FILE)?;
        Ok(Self(before))
    }
}

impl Drop for CacheLimit {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, self.0.trim());
    }
}

/// A leaf of records: its block, where the values of its first two entries are in it, and the chunks
/// of these.
struct Leaf {
    block: u64,
    values: [usize; 2],
    chunks: [u64; 2],
}

/// The first leaf of the origin's records, in a store that nobody uses.
fn first_leaf(bench: &Bench) -> Result<Leaf> {
    let patient = Patient::open(&bench.cow.path())?;
    let nr = OriginNr::new(1).context("a number")?;
    let root = patient.records(TimelineId::of_origin(nr))?;
    let block = patient.first_leaf(root)?;
    ensure!(block != root, "too few records");
    let node = patient.node(block)?;
    let chunk = |i: usize| -> Result<u64> {
        let key = node.key(i).context("a key")?;
        Ok(RecordKey::chunk_of(key).get())
    };
    Ok(Leaf {
        block,
        values: [patient.value_at(block, 0)?, patient.value_at(block, 1)?],
        chunks: [chunk(0)?, chunk(1)?],
    })
}

/// Two records change places in a leaf, and its checksum stays. The leaf was looked at, and is not
/// in memory any more. As often as it is read it must not be taken for what it was.
pub fn damaged_again() -> Result<()> {
    let mut bench = Bench::new(4, 12)?;
    let co = bench.format()?;
    let tag = bench.take(&co)?;
    let sectors = bench.now.sectors();
    bench.now.write(&co.open()?, 0, sectors)?;
    co.remove()?;
    let leaf = first_leaf(&bench)?;

    let co = bench.co("")?;
    let cs = bench.cs(tag)?;
    let disk = cs.open_read_only()?;
    let then = bench.snapshots[&tag].clone();
    let limit = CacheLimit::one_block()?;
    then.check(&disk).context("the snapshot")?;
    let mut image = bench.cow.image();
    let start = leaf.block as usize * BLOCK_SIZE;
    for i in 0..8 {
        image.swap(start + leaf.values[0] + i, start + leaf.values[1] + i);
    }
    bench.cow.restore(&image);
    let read = |sector| disk.read(sector, CHUNK);
    let right = |bytes: &[u8], sector| then.check_bytes(bytes, sector);
    let [sector, _] = leaf.chunks.map(|chunk| chunk * CHUNK);
    until("the leaf to be read anew", || {
        // What was read last is known without any leaf: another leaf's.
        let far = sectors - CHUNK;
        right(&read(far)?, far).context("another leaf's chunk")?;
        match read(sector) {
            Ok(bytes) => right(&bytes, sector).map(|()| false),
            Err(e) => {
                ensure!(e.raw_os_error() == Some(libc::EIO), "{e}");
                Ok(true)
            }
        }
    })
    .context("the first read")?;
    // Now it stays there, as it was read.
    drop(limit);
    for chunk in leaf.chunks.into_iter().cycle().take(6) {
        let sector = chunk * CHUNK;
        if let Ok(bytes) = read(sector) {
            right(&bytes, sector).context("a later read")?;
            anyhow::bail!("a later read succeeded");
        }
    }
    drop(disk);
    cs.remove()?;
    co.remove()
}
