// SPDX-License-Identifier: GPL-2.0

//! Places to test on: pieces of the machine's test disks, and disks whose power can be cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{bail, Context, Result};

use crate::checked;
use crate::dm::{Mapped, Suspend, Table};
use crate::io::Disk;

/// Sectors of a MiB.
pub const MIB: u64 = 2048;

struct Whole {
    path: PathBuf,
    sectors: u64,
    /// Begin and end of what is in use.
    used: Vec<(u64, u64)>,
}

/// The machine's test disks, from which pieces are cut.
pub struct Disks {
    disks: Arc<Mutex<Vec<Whole>>>,
}

impl Disks {
    /// All that the machine was given for tests: `TEST_DISKS` if that is set, else the
    /// virtio disks that nobody uses.
    pub fn find() -> Result<Self> {
        let paths: Vec<PathBuf> = match std::env::var("TEST_DISKS") {
            Ok(list) => list.split_whitespace().map(PathBuf::from).collect(),
            Err(_) => virtio_disks()?,
        };
        let mut disks = Vec::new();
        for path in paths {
            let sectors = Disk::open(&path)
                .with_context(|| format!("open {}", path.display()))?
                .sectors();
            disks.push(Whole {
                path,
                sectors,
                used: Vec::new(),
            });
        }
        if disks.is_empty() {
            bail!("the machine has no disks to test on");
        }
        Ok(Self {
            disks: Arc::new(Mutex::new(disks)),
        })
    }

    /// A piece of `sectors`, of the disk that has most room, so that an origin and its COW
    /// device come to lie on different ones. There is no store on it of who had it before.
    pub fn piece(&self, sectors: u64) -> Result<Piece> {
        let mut disks = self.disks.lock().expect("no panic");
        let free = |d: &Whole| d.sectors - d.used.iter().map(|&(b, e)| e - b).sum::<u64>();
        let mut order: Vec<usize> = (0..disks.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(free(&disks[i])));
        for i in order {
            let disk = &mut disks[i];
            let Some(start) = first_gap(&mut disk.used, sectors, disk.sectors) else {
                continue;
            };
            let table = linear(&disk.path, start, sectors);
            let mapped = Mapped::create("piece", &table).context("a piece of a disk")?;
            disk.used.push((start, start + sectors));
            let piece = Piece {
                mapped: Some(mapped),
                disk: disk.path.clone(),
                start,
                sectors,
                owner: self.disks.clone(),
                spoiled: AtomicBool::new(false),
            };
            // It goes back if that fails, and for that the lock must be free.
            drop(disks);
            piece.wipe()?;
            return Ok(piece);
        }
        bail!("the test disks have no {sectors} sectors left")
    }
}

fn first_gap(used: &mut [(u64, u64)], sectors: u64, end: u64) -> Option<u64> {
    used.sort_unstable();
    let mut start = 0;
    for &(begin, end) in used.iter() {
        if begin - start >= sectors {
            return Some(start);
        }
        start = end.next_multiple_of(MIB);
    }
    (start + sectors <= end).then_some(start)
}

fn virtio_disks() -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for letter in 'a'..='z' {
        let sys = format!("/sys/block/vd{letter}");
        let serial = fs::read_to_string(format!("{sys}/serial")).unwrap_or_default();
        if serial.starts_with("disk") {
            paths.push(PathBuf::from(format!("/dev/vd{letter}")));
        }
    }
    Ok(paths)
}

/// A table that maps to a part of another device.
pub fn linear(path: &Path, start: u64, sectors: u64) -> Table {
    Table::new(sectors, "linear", format!("{} {start}", path.display()))
}

/// A piece of a disk, a device-mapper device of its own. It goes back when it goes out of
/// scope; a store that is on it then must be in order.
pub struct Piece {
    mapped: Option<Mapped>,
    disk: PathBuf,
    start: u64,
    sectors: u64,
    owner: Arc<Mutex<Vec<Whole>>>,
    /// A store on it may be damaged.
    spoiled: AtomicBool,
}

impl Piece {
    /// A store on it has been, or will be, damaged on purpose.
    pub fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    /// Its node.
    pub fn path(&self) -> PathBuf {
        self.mapped().path()
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The device-mapper device that it is.
    pub fn mapped(&self) -> &Mapped {
        self.mapped.as_ref().expect("it lives until it is dropped")
    }

    /// The disk that it was cut from, and where it begins there.
    pub fn place(&self) -> (&Path, u64) {
        (&self.disk, self.start)
    }

    /// Opens it.
    pub fn open(&self) -> Result<Disk> {
        let path = self.path();
        Disk::open(&path).with_context(|| format!("open {}", path.display()))
    }

    /// Makes only the first `sectors` of it seen.
    pub fn show(&self, sectors: u64) -> Result<()> {
        assert!(sectors <= self.sectors);
        let table = linear(&self.disk, self.start, sectors);
        self.mapped()
            .replace(Suspend::Orderly, &table)
            .context("another size of a piece")
    }

    /// Makes every read of it take so many milliseconds; 0 for as fast as it is.
    pub fn slow_reads(&self, milliseconds: u32) -> Result<()> {
        self.slow(milliseconds, 0)
    }

    /// The same of every write.
    pub fn slow_writes(&self, milliseconds: u32) -> Result<()> {
        self.slow(0, milliseconds)
    }

    fn slow(&self, reads: u32, writes: u32) -> Result<()> {
        let shown = self.open()?.sectors();
        let (disk, start) = (self.disk.display(), self.start);
        let table = if (reads, writes) == (0, 0) {
            linear(&self.disk, self.start, shown)
        } else {
            crate::kernel::modprobe("dm-delay")?;
            let arguments = format!("{disk} {start} {reads} {disk} {start} {writes}");
            Table::new(shown, "delay", arguments)
        };
        self.mapped()
            .replace(Suspend::Orderly, &table)
            .context("another speed of a piece")
    }

    /// Writes zeroes where a store or a file system would be known by.
    pub fn wipe(&self) -> Result<()> {
        let disk = self.open()?;
        disk.zero_out(0, self.sectors.min(256))?;
        Ok(())
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.spoiled.load(Ordering::Relaxed) {
            checked::in_passing(&self.path());
        }
        // The device goes first: its place must not be given away while it is there.
        self.mapped = None;
        let end = self.start + self.sectors;
        let mut disks = self.owner.lock().expect("no panic");
        if let Some(disk) = disks.iter_mut().find(|d| d.path == self.disk) {
            disk.used.retain(|&used| used != (self.start, end));
        }
    }
}
