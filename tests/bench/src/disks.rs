// SPDX-License-Identifier: GPL-2.0

//! Disks in memory, with a latency that is known.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dms_tests::kernel::{modprobe, run};

const CONFIG: &str = "/sys/kernel/config/nullb";

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// One null_blk device, with memory behind it. It goes when it goes out of scope.
pub struct Disk {
    folder: PathBuf,
    path: PathBuf,
    mib: u64,
}

impl Disk {
    fn new(name: &str, mib: u64, latency: u32) -> Result<Self> {
        let folder = Path::new(CONFIG).join(name);
        fs::create_dir(&folder).with_context(|| format!("null_blk: {name}"))?;
        let disk = Self {
            path: Path::new("/dev").join(name),
            folder,
            mib,
        };
        disk.set("size", mib)?;
        disk.set("memory_backed", 1)?;
        disk.set("blocksize", 4096)?;
        disk.set("submit_queues", 2)?;
        // Ends a request at once, or by a timer.
        disk.set("irqmode", if latency == 0 { 0 } else { 2 })?;
        disk.set("completion_nsec", u64::from(latency) * 1000)?;
        disk.set("power", 1)?;
        Ok(disk)
    }

    fn set(&self, what: &str, value: u64) -> Result<()> {
        let file = self.folder.join(what);
        fs::write(&file, value.to_string()).with_context(|| file.display().to_string())
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.mib * MIB / 512
    }

    /// Writes all of it, so that memory is found for that now, and not while it is measured.
    fn fill(&self) -> Result<()> {
        self.zero(self.mib)
    }

    /// Makes whatever was on it unknown.
    pub fn wipe(&self) -> Result<()> {
        self.zero(4)
    }

    fn zero(&self, mib: u64) -> Result<()> {
        let out = format!("of={}", self.path.display());
        let count = format!("count={mib}");
        let flags = ["bs=1M", "oflag=direct", "status=none"];
        run(
            "dd",
            &[&["if=/dev/zero", &out, &count], &flags[..]].concat(),
        )
        .map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.set("power", 0);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// What there is to measure on.
pub struct Disks {
    /// What is written.
    pub origin: Disk,
    /// Where the old content goes.
    pub cow: Disk,
    /// For peers that have their metadata apart.
    pub metadata: Disk,
}

impl Disks {
    /// New disks, with such a latency in microseconds, and their memory in place.
    pub fn new(latency: u32) -> Result<Self> {
        modprobe("null_blk").or_else(|_| Ok::<_, anyhow::Error>(()))?;
        let disks = Self {
            origin: Disk::new("origin", 256, latency)?,
            cow: Disk::new("cow", 1024, latency)?,
            metadata: Disk::new("metadata", 256, latency)?,
        };
        disks.origin.fill()?;
        disks.cow.fill()?;
        disks.metadata.fill()?;
        Ok(disks)
    }

    /// Large ones, for which there is memory only where they are written.
    pub fn sparse(origin_mib: u64, cow_mib: u64) -> Result<(Disk, Disk)> {
        Ok((
            Disk::new("large", origin_mib, 0)?,
            Disk::new("largecow", cow_mib, 0)?,
        ))
    }
}
