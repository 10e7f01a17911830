// SPDX-License-Identifier: GPL-2.0

//! Two disks that fail when told to, a store on them, and all that its devices may hold.

use std::collections::BTreeMap;
use std::io;

use anyhow::{bail, ensure, Context, Result};
use dm_snap_mv_model::disk::layout::BLOCK_SECTORS;
use dm_snap_mv_model::disk::superblock::Superblock;

use super::documented::Part;
use super::points::Which;
use crate::content::{next_generation, ZERO};
use crate::dm::{Mapped, Suspend, Table};
use crate::io::Disk;
use crate::puppet::{Op, Puppet, OPS};
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, until, Device, TARGET};

/// Sectors of the origin.
pub const SECTORS: u64 = 2048;

/// Sectors of one read while something is wrong.
const LOOK: u64 = 64;

/// What a device holds: what must be there, and what may be there instead, because its write
/// failed.
#[derive(Clone)]
pub struct Known {
    pub sure: Shadow,
    maybe: Vec<(u64, u64, u32)>,
}

impl Known {
    pub fn new(sure: Shadow) -> Self {
        Self {
            sure,
            maybe: Vec::new(),
        }
    }

    fn allows(&self, sector: u64, found: u32) -> bool {
        found == self.sure.generation(sector)
            || self.maybe.iter().any(|&(start, count, generation)| {
                generation == found && (start..start + count).contains(&sector)
            })
    }

    /// Writes something new. If that fails it may be there or not.
    pub fn write(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let generation = next_generation();
        let written = write_generation(disk, sector, count, generation);
        self.wrote(sector, count, generation, written.is_ok());
        written
    }

    /// Takes note of a write, and of whether it is there for certain.
    pub fn wrote(&mut self, sector: u64, count: u64, generation: u32, sure: bool) {
        if sure {
            self.sure.set(sector, count, generation);
        } else {
            self.maybe.push((sector, count, generation));
        }
    }

    /// Writes and flushes. Until that has worked it may be there or not.
    pub fn write_durably(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let generation = next_generation();
        let written = write_generation(disk, sector, count, generation)
            .and_then(|()| disk.flush().context("flush"));
        self.wrote(sector, count, generation, written.is_ok());
        written
    }

    /// Discards and flushes.
    pub fn discard(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let done = disk
            .discard(sector, count)
            .and_then(|()| disk.flush())
            .context("discard");
        self.wrote(sector, count, ZERO, done.is_ok());
        done
    }

    /// It reads as another one does from now on, or as it did before.
    pub fn or_as(&mut self, other: &Shadow) {
        for sector in 0..self.sure.sectors() {
            let generation = other.generation(sector);
            if generation != self.sure.generation(sector) {
                self.maybe.push((sector, 1, generation));
            }
        }
    }

    /// Reads all, and goes by what is there.
    pub fn settle(&mut self, disk: &Disk) -> Result<()> {
        let allowed = self.clone();
        self.sure
            .learn(disk, |sector, found| allowed.allows(sector, found))?;
        self.maybe.clear();
        Ok(())
    }

    /// Reads what can be read; that must be true. Returns how many reads failed.
    pub fn look(&self, disk: &Disk) -> Result<u32> {
        let mut failed = 0;
        let mut now = self.sure.clone();
        for at in (0..self.sure.sectors()).step_by(LOOK as usize) {
            let bytes = match disk.read(at, LOOK) {
                Ok(bytes) => bytes,
                Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                    failed += 1;
                    continue;
                }
                Err(e) => return Err(e).with_context(|| format!("read at {at}")),
            };
            now.learn_bytes(&bytes, at, |sector, found| self.allows(sector, found))?;
        }
        Ok(failed)
    }
}

/// A message that failed may have done what it said all the same.
#[derive(Clone, Debug)]
pub enum Perhaps {
    /// A snapshot was taken of the origin (0) or of a snapshot.
    Taken(u32),
    Deleted(u32),
    RolledBack,
    /// And the snapshot deleted.
    Merged(u32),
    Unbound,
}

/// The disks, and what is on them.
pub struct Bench {
    pub origin: Puppet,
    pub cow: Puppet,
    pub policy: &'static str,
    pub now: Known,
    pub snapshots: BTreeMap<u32, Known>,
    pub perhaps: Option<Perhaps>,
    /// Snapshots may have become invalid.
    pub may_invalidate: bool,
    /// What the COW device's superblock says, once there is one.
    pub superblock: Option<Superblock>,
    /// How many requests there had been when something began to fail; behind that, how many there
    /// were meanwhile.
    pub before: Requests,
}

/// How many requests of each sort there are, of the origin and of the COW device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests([[usize; OPS.len()]; 2]);

impl Requests {
    /// How many of this sort.
    pub fn of(&self, which: Which, op: Op) -> usize {
        self.0[which as usize][op as usize]
    }

    /// How many more there are than there were before.
    pub fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.0.iter_mut().zip(&before.0) {
            for (now, before) in now.iter_mut().zip(before) {
                *now -= before;
            }
        }
        self
    }
}

impl Bench {
    /// Two disks, and an origin full of data.
    pub fn new() -> Result<Self> {
        let origin = Puppet::new((SECTORS / 2048) as u32)?;
        let cow = Puppet::new(6)?;
        // One part of a copy may fail, and another not.
        origin.keep_apart()?;
        cow.keep_apart()?;
        let now = Shadow::filled(&Disk::open(origin.path())?)?;
        Ok(Self {
            origin,
            cow,
            policy: "invalidate",
            now: Known::new(now),
            snapshots: BTreeMap::new(),
            perhaps: None,
            may_invalidate: false,
            superblock: None,
            before: Requests::default(),
        })
    }

    /// What stands at this sector of the COW device.
    pub fn part_of(&self, sector: u64) -> Part {
        let Some(superblock) = &self.superblock else {
            return Part::Metadata;
        };
        if sector >= superblock.layout.data_start {
            Part::Data
        } else if superblock.backup() == Some(sector / BLOCK_SECTORS) {
            Part::Backup
        } else {
            Part::Metadata
        }
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> Requests {
        let of = |disk: &Puppet| OPS.map(|op| disk.count(op));
        Requests([of(&self.origin), of(&self.cow)])
    }

    /// The table of the origin's device.
    pub fn co_table(&self, options: &str) -> Table {
        let options = format!("-i o -e {} {options}", self.policy);
        let line = co_line(&self.origin.path(), &self.cow.path(), &options);
        Table::new(SECTORS, TARGET, line)
    }

    /// The origin's device.
    pub fn co(&self, options: &str) -> io::Result<Device> {
        Mapped::create("co", &self.co_table(options)).map(Device)
    }

    /// A snapshot's.
    pub fn cs(&self, tag: u32) -> io::Result<Device> {
        let line = cs_line(&self.origin.path(), &self.cow.path(), tag, "-i o");
        Mapped::create("cs", &Table::new(SECTORS, TARGET, line)).map(Device)
    }

    /// Takes a snapshot that must be taken.
    pub fn take(&mut self, co: &Device) -> Result<u32> {
        let tag = co.take()?;
        self.snapshots.insert(tag, self.now.clone());
        Ok(tag)
    }

    /// Writes to a snapshot.
    pub fn write_snapshot(&mut self, tag: u32, sector: u64, count: u64) -> Result<()> {
        let cs = self.cs(tag)?;
        let disk = cs.open()?;
        let known = self.snapshots.get_mut(&tag).context("a snapshot")?;
        known.write_durably(&disk, sector, count)?;
        drop(disk);
        cs.remove()
    }

    /// While something is wrong: nothing that can be read may be wrong. Looks at the origin and at
    /// one of the snapshots. Returns how many reads failed.
    pub fn look(&self, co: &Device, which: usize) -> Result<u32> {
        let mut failed = self.now.look(&co.open_read_only()?).context("origin")?;
        if !matches!(self.perhaps, Some(Perhaps::RolledBack | Perhaps::Merged(_))) {
            ensure!(failed == 0, "{failed} reads of the origin failed");
        }
        let which = which % self.snapshots.len().max(1);
        for (&tag, known) in self.snapshots.iter().skip(which).take(1) {
            let Ok(cs) = self.cs(tag) else {
                failed += 1;
                continue;
            };
            failed += known
                .look(&cs.open_read_only()?)
                .with_context(|| format!("snapshot {tag}"))?;
            cs.remove()?;
        }
        Ok(failed)
    }

    /// The fault is gone: what is documented brings the store back.
    pub fn bring_back(&self, co: &Device) -> Result<()> {
        co.suspend(Suspend::Orderly)?;
        co.resume()?;
        let state = co.state()?.state;
        ensure!(
            ["valid", "invalid"].contains(&state.as_str()),
            "brought back, but {}",
            co.status()?
        );
        Ok(())
    }

    /// What a failed message may have done is known from now on.
    fn settle_message(&mut self, co: &Device) -> Result<()> {
        if matches!(self.perhaps, Some(Perhaps::RolledBack | Perhaps::Merged(_))) {
            co.wait_rollback()?;
        }
        let tags = co.list()?.tags();
        match self.perhaps.take() {
            None => {}
            Some(Perhaps::Taken(parent)) => {
                let new: Vec<u32> = tags
                    .iter()
                    .copied()
                    .filter(|tag| !self.snapshots.contains_key(tag))
                    .collect();
                ensure!(new.len() <= 1, "snapshots {tags:?}");
                let known = match parent {
                    0 => self.now.clone(),
                    parent => self.snapshots[&parent].clone(),
                };
                for tag in new {
                    self.snapshots.insert(tag, known.clone());
                }
            }
            Some(Perhaps::Deleted(tag)) => {
                if !tags.contains(&tag) {
                    self.snapshots.remove(&tag);
                }
            }
            Some(Perhaps::RolledBack) => {
                self.now.settle(&co.open_read_only()?)?;
            }
            Some(Perhaps::Merged(tag)) => {
                let then = self.snapshots[&tag].sure.clone();
                self.now.settle(&co.open_read_only()?)?;
                if !tags.contains(&tag) {
                    self.snapshots.remove(&tag);
                    let rest = self.now.sure.difference(&then);
                    ensure!(rest == 0, "{rest} sectors are not the merged snapshot's");
                }
            }
            Some(Perhaps::Unbound) => bail!("it is still there"),
        }
        let known: Vec<u32> = self.snapshots.keys().copied().collect();
        ensure!(tags == known, "snapshots {tags:?}, not {known:?}");
        Ok(())
    }

    /// Everything is compared. Returns whether the snapshots have become invalid, which deletes
    /// them.
    pub fn check(&mut self, co: &Device) -> Result<bool> {
        self.settle_message(co)?;
        self.now
            .settle(&co.open_read_only()?)
            .context("the origin")?;
        let invalid = co.state()?.state == "invalid";
        ensure!(self.may_invalidate || !invalid, "{}", co.status()?);
        let mut bad = Vec::new();
        for (&tag, known) in &mut self.snapshots {
            let cs = match self_cs(&self.origin, &self.cow, tag) {
                Ok(cs) => cs,
                Err(_) if invalid => continue,
                Err(e) => return Err(e).with_context(|| format!("a device of snapshot {tag}")),
            };
            if cs.state()?.state == "invalid" {
                ensure!(invalid, "{}", cs.status()?);
                let failed = known.look(&cs.open_read_only()?)?;
                ensure!(
                    u64::from(failed) == SECTORS / LOOK,
                    "reads of an invalid snapshot"
                );
                bad.push(tag);
            } else {
                known
                    .settle(&cs.open_read_only()?)
                    .with_context(|| format!("snapshot {tag}"))?;
            }
            cs.remove()?;
        }
        for tag in bad {
            co.delete(tag)?;
            self.snapshots.remove(&tag);
        }
        co.wait_clean()?;
        self.count(co)?;
        Ok(invalid)
    }

    /// Each chunk in use must be somebody's.
    fn count(&self, co: &Device) -> Result<()> {
        until("all chunks to be somebody's", || {
            let used = co.state()?.chunks.0;
            let listed: u64 = co.list()?.rows.iter().map(|row| row.chunks).sum();
            Ok(used == listed)
        })
        .with_context(|| format!("{} {:?}", co.status().unwrap_or_default(), co.list()))
    }

    /// The store does all that it is there for.
    pub fn use_it(&mut self, co: &Device) -> Result<()> {
        let disk = co.open()?;
        self.now.write(&disk, 1000, 100)?;
        drop(disk);
        let tag = self.take(co)?;
        self.now.write(&co.open()?, 0, 300)?;
        self.write_snapshot(tag, 100, 100)?;
        let (&first, _) = self.snapshots.first_key_value().context("a snapshot")?;
        co.delete(first)?;
        self.snapshots.remove(&first);
        co.wait_clean()?;
        self.now.write(&co.open()?, 1500, 300)?;
        self.count(co)
    }
}

fn self_cs(origin: &Puppet, cow: &Puppet, tag: u32) -> io::Result<Device> {
    let line = cs_line(&origin.path(), &cow.path(), tag, "-i o");
    Mapped::create("cs", &Table::new(SECTORS, TARGET, line)).map(Device)
}
