// SPDX-License-Identifier: GPL-2.0

//! Two disks in a test's hand, a store on them, and what its devices must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::content::next_generation;
use crate::dm::{Mapped, Table};
use crate::io::Disk;
use crate::puppet::Puppet;
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, until, Device, TARGET};
use crate::time::pass_until;

/// Sectors of a chunk.
pub const CHUNK: u64 = 8;

/// The disks, and what is on them.
pub struct Bench {
    pub origin: Arc<Puppet>,
    pub cow: Arc<Puppet>,
    pub now: Shadow,
    pub snapshots: BTreeMap<u32, Shadow>,
}

impl Bench {
    /// Two disks of so many MiB, and an origin full of data.
    pub fn new(origin: u32, cow: u32) -> Result<Self> {
        let (origin, now) = filled(origin)?;
        let cow = Arc::new(Puppet::new(cow)?);
        cow.keep_apart()?;
        Ok(Self {
            origin,
            cow,
            now,
            snapshots: BTreeMap::new(),
        })
    }

    /// The origin's device, of a store that is made for it.
    pub fn format(&self) -> Result<Device> {
        self.co("-b -F -c 1")
    }

    /// The origin's device.
    pub fn co(&self, options: &str) -> Result<Device> {
        self.co_of("o", &self.origin, options)
    }

    /// The device of an origin with another identity, on another disk.
    pub fn co_of(&self, id: &str, origin: &Puppet, options: &str) -> Result<Device> {
        let sectors = Disk::open(origin.path())?.sectors();
        let options = format!("-i {id} {options}");
        let line = co_line(&origin.path(), &self.cow.path(), &options);
        let mapped = Mapped::create("co", &Table::new(sectors, TARGET, line));
        mapped.map(Device).context("an origin's device")
    }

    /// A snapshot's.
    pub fn cs(&self, tag: u32) -> Result<Device> {
        self.cs_of("o", &self.origin, tag)
    }

    /// That of a snapshot of another origin.
    pub fn cs_of(&self, id: &str, origin: &Puppet, tag: u32) -> Result<Device> {
        let sectors = Disk::open(origin.path())?.sectors();
        let line = cs_line(&origin.path(), &self.cow.path(), tag, &format!("-i {id}"));
        let mapped = Mapped::create("cs", &Table::new(sectors, TARGET, line));
        mapped
            .map(Device)
            .with_context(|| format!("a device of snapshot {tag}"))
    }

    /// Takes a snapshot of the origin.
    pub fn take(&mut self, co: &Device) -> Result<u32> {
        let tag = co.take()?;
        self.snapshots.insert(tag, self.now.clone());
        Ok(tag)
    }

    /// A snapshot's copy.
    pub fn shadow(&mut self, tag: u32) -> &mut Shadow {
        self.snapshots.get_mut(&tag).expect("it was taken")
    }

    /// Overwrites the origin from its beginning, of which a snapshot wants all, until the store has
    /// so many chunks left.
    pub fn fill(&mut self, co: &Device, left: u64) -> Result<()> {
        let (used, total) = co.state()?.chunks;
        let count = total - left - used;
        ensure!(
            count * CHUNK < self.now.sectors(),
            "an origin too small to fill {total} chunks"
        );
        self.now.write(&co.open()?, 0, count * CHUNK)?;
        co.wait_chunks(total - left)
    }

    /// Waits until so many sectors more than `before` have been written to the store.
    pub fn wait_written(&self, before: u64, count: u64) -> Result<()> {
        until(&format!("{count} sectors to be written"), || {
            Ok(self.cow.written() >= before + count)
        })
    }

    /// Compares a snapshot.
    pub fn check_snapshot(&self, tag: u32) -> Result<()> {
        let cs = self.cs(tag)?;
        self.snapshots[&tag]
            .check(&cs.open_read_only()?)
            .with_context(|| format!("snapshot {tag}"))?;
        cs.remove()
    }

    /// A part of a snapshot that writes of it were lost of holds one of these, all of it: goes by
    /// what it is from now on.
    pub fn settle(&mut self, tag: u32, sector: u64, count: u64, allowed: &[u32]) -> Result<()> {
        let cs = self.cs(tag)?;
        let bytes = cs.open_read_only()?.read(sector, count)?;
        let shadow = self.shadow(tag);
        let before = shadow.clone();
        shadow
            .learn_bytes(&bytes, sector, |at, found| {
                found == before.generation(at) || allowed.contains(&found)
            })
            .with_context(|| format!("snapshot {tag}"))?;
        cs.remove()
    }

    /// Compares everything, and has the store checked when nobody uses it any more.
    pub fn end(self, co: Device) -> Result<()> {
        self.now.check(&co.open_read_only()?).context("origin")?;
        for &tag in self.snapshots.keys() {
            self.check_snapshot(tag)?;
        }
        co.remove()?;
        self.clean()
    }

    /// Has the store checked, which nobody may be using.
    pub fn clean(&self) -> Result<()> {
        crate::checked::clean(&self.cow.path()).map(drop)
    }

    /// See [`Released`].
    pub fn released(&self) -> Released {
        Released(vec![self.origin.clone(), self.cow.clone()])
    }
}

/// A disk full of data.
pub fn filled(mib: u32) -> Result<(Arc<Puppet>, Shadow)> {
    let origin = Arc::new(Puppet::new(mib)?);
    origin.keep_apart()?;
    let now = Shadow::filled(&Disk::open(origin.path())?)?;
    Ok((origin, now))
}

/// Lets all of these disks' requests go when it goes out of scope, so that a case that fails leaves
/// nothing behind that cannot end. To be declared behind the devices.
pub struct Released(pub Vec<Arc<Puppet>>);

impl Drop for Released {
    fn drop(&mut self) {
        for puppet in &self.0 {
            puppet.mend();
            puppet.release();
        }
    }
}

/// A write by a thread of its own.
pub struct Writer {
    sector: u64,
    count: u64,
    pub generation: u32,
    thread: JoinHandle<Result<()>>,
}

/// Writes something new, and does not wait for it.
pub fn write_aside(device: &Device, sector: u64, count: u64) -> Result<Writer> {
    let disk = device.open()?;
    let generation = next_generation();
    let thread = thread::spawn(move || write_generation(&disk, sector, count, generation));
    Ok(Writer {
        sector,
        count,
        generation,
        thread,
    })
}

impl Writer {
    /// Gives it some time to come to its end. It need not.
    pub fn may_end(&self) {
        wait_a_while(|| self.thread.is_finished());
    }

    /// Waits for its end, which must be a good one.
    pub fn end(self, shadow: &mut Shadow) -> Result<()> {
        self.thread.join().expect("no panic")?;
        shadow.set(self.sector, self.count, self.generation);
        Ok(())
    }

    /// Waits for its end, and tells what that is.
    pub fn result(self) -> Result<()> {
        self.thread.join().expect("no panic")
    }
}

/// Gives something some time to be so. For what may as well not be: a test goes on in either case.
pub fn wait_a_while(is: impl FnMut() -> bool) {
    pass_until(Duration::from_secs(2), is);
}
