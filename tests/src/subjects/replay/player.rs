// SPDX-License-Identifier: GPL-2.0

//! Does things to the devices of a stage and remembers what was answered when.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::ops::{Extent, Op, Record};
use super::stage::{Sizes, Stage, ORIGINS};
use super::using::is_short;
use crate::content::{generation_of, next_generation, SECTOR, ZERO};
use crate::dm::{Mapped, Suspend, Table};
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::write_generation;
use crate::store::{co_line, cs_line, Device, TARGET};

/// What the origins are called.
pub const IDS: [&str; ORIGINS] = ["a", "b"];

/// How a range is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// An ordinary write.
    Write,
    /// A write with FUA.
    Fua,
    /// A discard.
    Discard,
    /// Zeroes.
    Zero,
}

#[derive(Default)]
struct Playing {
    co: Option<Device>,
    shots: BTreeMap<u32, Device>,
    tags: Vec<u32>,
    invalid: bool,
}

/// The player.
pub struct Player<'a> {
    stage: &'a Stage,
    /// What decides.
    pub random: Random,
    policy: &'static str,
    from: u32,
    origins: [Playing; ORIGINS],
    records: Mutex<Vec<Record>>,
}

impl<'a> Player<'a> {
    /// Nothing is active yet. `policy` is for when there is no space.
    pub fn new(stage: &'a Stage, random: Random, policy: &'static str) -> Self {
        Self {
            stage,
            random,
            policy,
            from: 0,
            origins: Default::default(),
            records: Mutex::default(),
        }
    }

    /// Ends it: all devices go.
    pub fn end(self) -> Result<Vec<Record>> {
        for origin in self.origins {
            for device in origin.shots.into_values().chain(origin.co) {
                device.remove()?;
            }
        }
        Ok(self.records.into_inner().expect("no panic"))
    }

    /// What came before this has only prepared what is to be tried.
    pub fn begins_here(&mut self) -> Result<()> {
        self.from = self.stage.mark()?;
        Ok(())
    }

    /// The mark that crashes are tried from on.
    pub fn from(&self) -> u32 {
        self.from
    }

    /// How large the devices are.
    pub fn sizes(&self) -> Sizes {
        self.stage.parts.sizes()
    }

    /// Notes down an operation that `run` carries out. It says what came of it.
    pub fn act<T>(&self, run: impl FnOnce() -> Result<(Op, T)>) -> Result<T> {
        let begin = self.stage.mark().context("mark")?;
        let (op, value) = run()?;
        let end = self.stage.mark()?;
        let mut records = self.records.lock().expect("no panic");
        records.push(Record { op, begin, end });
        Ok(value)
    }

    fn table(&self, origin: usize, options: &str) -> Table {
        let parts = &self.stage.parts;
        let options = format!("-i {} -e {} {options}", IDS[origin], self.policy);
        let line = co_line(&parts.origin(origin), &parts.cow(), &options);
        Table::new(self.sizes().origins[origin], TARGET, line)
    }

    fn create(&self, origin: usize, options: &str) -> Result<Device> {
        let table = self.table(origin, options);
        let mapped = Mapped::create("co", &table);
        Ok(Device(mapped.with_context(|| table.arguments)?))
    }

    /// An origin's device.
    pub fn co(&self, origin: usize) -> Result<&Device> {
        self.origins[origin].co.as_ref().context("no co device")
    }

    /// Formats with these chunks and binds an origin.
    pub fn format(&mut self, origin: usize, pages: u32) -> Result<()> {
        self.deactivate()?;
        let co = self.act(|| {
            let co = self.create(origin, &format!("-b -F -c {pages}"))?;
            Ok((Op::Format { origin }, co))
        })?;
        for origin in &mut self.origins {
            origin.tags.clear();
            origin.invalid = false;
        }
        self.origins[origin].co = Some(co);
        Ok(())
    }

    /// Binds an origin to the store that is there.
    pub fn bind(&mut self, origin: usize) -> Result<()> {
        let co = self.act(|| Ok((Op::Bind { origin }, self.create(origin, "-b")?)))?;
        self.origins[origin].co = Some(co);
        Ok(())
    }

    /// Unbinds an origin that has no snapshots.
    pub fn unbind(&mut self, origin: usize) -> Result<()> {
        self.co(origin)?.wait_clean()?;
        self.act(|| {
            self.co(origin)?.send("do")?;
            Ok((Op::Unbind { origin }, ()))
        })?;
        let co = self.origins[origin].co.take().context("no co device")?;
        co.remove()
    }

    /// Removes all devices.
    pub fn deactivate(&mut self) -> Result<()> {
        for origin in &mut self.origins {
            let shots = std::mem::take(&mut origin.shots);
            for device in shots.into_values().chain(origin.co.take()) {
                device.remove()?;
            }
        }
        Ok(())
    }

    /// Makes an origin's device again.
    pub fn activate(&mut self, origin: usize) -> Result<()> {
        let co = self.act(|| {
            let co = self.create(origin, "")?;
            Ok((Op::Activate { origin }, co))
        })?;
        self.origins[origin].co = Some(co);
        Ok(())
    }

    /// All snapshots of an origin.
    pub fn tags(&self, origin: usize) -> &[u32] {
        &self.origins[origin].tags
    }

    /// A version's device: the origin's for tag 0.
    fn device(&mut self, origin: usize, tag: u32) -> Result<&Device> {
        if tag == 0 {
            return self.co(origin);
        }
        let device = match self.origins[origin].shots.remove(&tag) {
            Some(device) => device,
            None => self.show(origin, tag)?,
        };
        Ok(self.origins[origin].shots.entry(tag).or_insert(device))
    }

    /// A new device of a snapshot.
    fn show(&self, origin: usize, tag: u32) -> Result<Device> {
        let list = self.co(origin)?.list()?;
        let row = list.row(tag).context("no such snapshot")?;
        let parts = &self.stage.parts;
        let options = format!("-i {}", IDS[origin]);
        let line = cs_line(&parts.origin(origin), &parts.cow(), tag, &options);
        let mapped = Mapped::create("cs", &Table::new(row.sectors, TARGET, line));
        Ok(Device(mapped.context("show a snapshot")?))
    }

    /// Removes a snapshot's device.
    pub fn close(&mut self, origin: usize, tag: u32) -> Result<()> {
        match self.origins[origin].shots.remove(&tag) {
            Some(device) => device.remove(),
            None => Ok(()),
        }
    }

    /// A range of a version that is mostly small.
    pub fn extent(&mut self, origin: usize) -> (u64, u64) {
        let (start, count) = self.random.extent(self.sizes().origins[origin]);
        (start, count.min(72))
    }

    /// Writes to a version.
    pub fn write(&mut self, origin: usize, tag: u32, how: How, at: (u64, u64)) -> Result<()> {
        if how == How::Fua && self.stage.logs_fua_early() {
            self.write(origin, tag, How::Write, at)?;
            return self.flush(origin, tag);
        }
        let device = self.device(origin, tag)?;
        let disk = match how {
            How::Fua => Disk::open_fua(device.path())?,
            _ => device.open()?,
        };
        let co = self.co(origin)?;
        let known_invalid = self.origins[origin].invalid;
        let invalid =
            self.act(|| self.write_now(origin, tag, how, at, &disk, co, known_invalid))?;
        self.origins[origin].invalid |= invalid;
        Ok(())
    }

    /// Writes to an open device and says what is there then.
    #[allow(clippy::too_many_arguments)]
    pub fn write_now(
        &self,
        origin: usize,
        tag: u32,
        how: How,
        (start, count): (u64, u64),
        disk: &Disk,
        co: &Device,
        known_invalid: bool,
    ) -> Result<(Op, bool)> {
        let generation = match how {
            How::Write | How::Fua => next_generation(),
            How::Discard | How::Zero => ZERO,
        };
        let tried = Extent {
            start,
            count,
            generation,
        };
        let result = match how {
            How::Write | How::Fua => write_generation(disk, start, count, generation),
            How::Discard => disk.discard(start, count).map_err(Into::into),
            How::Zero => disk.zero_out(start, count).map_err(Into::into),
        };
        let done = match result {
            Ok(()) if how != How::Discard => vec![tried],
            Ok(()) => seen(disk, &tried).context("look what it wrote")?,
            Err(e) if is_full(&e) => seen(disk, &tried).context("look what it wrote")?,
            Err(e) => return Err(e),
        };
        let durable = how == How::Fua && done == [tried];
        let invalidates = tag == 0
            && self.policy == "invalidate"
            && !known_invalid
            && co.state()?.state == "invalid";
        let op = Op::Write {
            origin,
            tag,
            tried,
            done,
            durable,
            invalidates,
        };
        Ok((op, invalidates))
    }

    /// Flushes a version.
    pub fn flush(&mut self, origin: usize, tag: u32) -> Result<()> {
        let disk = self.device(origin, tag)?.open()?;
        self.act(|| {
            disk.flush()
                .with_context(|| format!("flush version {tag} of origin {origin}"))?;
            Ok((Op::Flush { origin, tag }, ()))
        })
    }

    /// Takes a snapshot of a version.
    pub fn take(&mut self, origin: usize, parent: u32) -> Result<u32> {
        let tag = self.act(|| self.take_now(origin, parent))?;
        self.origins[origin].tags.push(tag);
        Ok(tag)
    }

    fn take_now(&self, origin: usize, parent: u32) -> Result<(Op, u32)> {
        let co = self.co(origin)?;
        let tag = match parent {
            0 => co.take().context("take")?,
            parent => co.take_of(parent).context("take of a snapshot")?,
        };
        let op = Op::Take {
            origin,
            parent,
            tag,
            content: None,
        };
        Ok((op, tag))
    }

    /// Takes a bookmark of an origin.
    pub fn mark(&mut self, origin: usize) -> Result<u32> {
        self.act(|| {
            let tag = self.co(origin)?.tag("so -k").context("take a bookmark")?;
            Ok((Op::Mark { origin, tag }, tag))
        })
    }

    /// Has a snapshot go on as a bookmark.
    pub fn keep(&mut self, origin: usize, tag: u32) -> Result<()> {
        self.close(origin, tag)?;
        self.act(|| {
            let kept = self.co(origin)?.send(&format!("ds {tag} -k"));
            kept.with_context(|| format!("keep a bookmark of {tag}"))?;
            Ok((Op::Keep { origin, tag }, ()))
        })?;
        self.forget(origin, tag);
        Ok(())
    }

    /// Takes a snapshot of an origin while several threads write to it, and looks at what is in
    /// it.
    pub fn take_while_writing(&mut self, origin: usize) -> Result<u32> {
        let disk = self.co(origin)?.open()?;
        let sectors = self.sizes().origins[origin];
        let co = self.co(origin)?;
        let seeds = [11, 12, 13].map(|n| self.random.clone().number() ^ n);
        let this = &*self;
        let tag = thread::scope(|scope| -> Result<u32> {
            let writers: Vec<_> = (0u64..3)
                .map(|n| {
                    let (disk, mut random) = (&disk, Random::new(seeds[n as usize]));
                    scope.spawn(move || -> Result<()> {
                        // Nobody else writes to its third.
                        let third = sectors / 3;
                        for _ in 0..5 {
                            let count = random.pick(1..40);
                            let start = n * third + random.pick(0..third - count);
                            let at = (start, count);
                            this.act(|| this.write_now(origin, 0, How::Write, at, disk, co, true))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let tag = this.act(|| this.take_now(origin, 0))?;
            for writer in writers {
                writer.join().expect("no panic")?;
            }
            Ok(tag)
        })?;
        self.random.number();
        self.origins[origin].tags.push(tag);
        let seen = {
            let disk = self.device(origin, tag)?.open_read_only()?;
            generations(&disk)?
        };
        let mut records = self.records.lock().expect("no panic");
        let taken = records
            .iter_mut()
            .rev()
            .find_map(|record| match &mut record.op {
                Op::Take {
                    tag: this, content, ..
                } if *this == tag => Some(content),
                _ => None,
            });
        *taken.context("it was noted down")? = Some(seen);
        drop(records);
        Ok(tag)
    }

    /// A snapshot has been deleted.
    pub fn forget(&mut self, origin: usize, tag: u32) {
        self.origins[origin].tags.retain(|&other| other != tag);
    }

    /// Deletes a snapshot.
    pub fn delete(&mut self, origin: usize, tag: u32) -> Result<()> {
        self.close(origin, tag)?;
        self.act(|| {
            let deleted = self.co(origin)?.delete(tag);
            deleted.with_context(|| format!("delete snapshot {tag}"))?;
            Ok((Op::Delete { origin, tag }, ()))
        })?;
        self.forget(origin, tag);
        Ok(())
    }

    /// Begins a rollback. The origin is not open.
    pub fn rollback(&mut self, origin: usize, tag: u32, merge: bool) -> Result<()> {
        self.co(origin)?.wait_rollback()?;
        if merge {
            self.close(origin, tag)?;
        }
        self.act(|| {
            let delete = if merge { " -d" } else { "" };
            self.co(origin)?.send(&format!("rs {tag} -b{delete}"))?;
            let invalidates = self.policy == "invalidate" && is_short(self.co(origin)?)?;
            let op = Op::Rollback {
                origin,
                tag,
                merge,
                invalidates,
            };
            Ok((op, ()))
        })?;
        if merge {
            self.origins[origin].tags.retain(|&other| other != tag);
        }
        Ok(())
    }

    /// Has a rollback begin when the origin is activated next.
    pub fn defer(&mut self, origin: usize, tag: u32, merge: bool) -> Result<()> {
        self.act(|| {
            let delete = if merge { " -d" } else { "" };
            self.co(origin)?.send(&format!("rs {tag} -l{delete}"))?;
            Ok((Op::Defer { origin, tag, merge }, ()))
        })
    }

    /// Gives an origin more room and takes it into use.
    pub fn grow_origin(&mut self, origin: usize, sectors: u64) -> Result<()> {
        self.act(|| {
            let mut sizes = self.sizes();
            sizes.origins[origin] = sectors;
            self.stage.parts.resize(sizes)?;
            let co = self.co(origin)?;
            co.replace(Suspend::Orderly, &self.table(origin, ""))?;
            Ok((Op::GrowOrigin { origin, sectors }, ()))
        })
    }

    /// Gives the COW device more room and takes it into use.
    pub fn grow_cow(&mut self, origin: usize, sectors: u64) -> Result<()> {
        self.act(|| {
            let mut sizes = self.sizes();
            sizes.cow = sectors;
            self.stage.parts.resize(sizes)?;
            let co = self.co(origin)?;
            co.replace(Suspend::Orderly, &self.table(origin, ""))?;
            Ok((Op::GrowCow { sectors }, ()))
        })
    }

    /// Waits for what runs in the background.
    pub fn rest(&self, origin: usize) -> Result<()> {
        self.co(origin)?.wait_rollback()?;
        self.co(origin)?.wait_clean()
    }
}

/// Whether something was refused for lack of space.
pub fn is_full(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.and_then(std::io::Error::raw_os_error) == Some(libc::ENOSPC)
}

/// What a device holds.
pub fn generations(disk: &Disk) -> Result<Vec<u32>> {
    let mut found = Vec::with_capacity(disk.sectors() as usize);
    for at in (0..disk.sectors()).step_by(2048) {
        let count = 2048.min(disk.sectors() - at);
        let bytes = disk.read(at, count)?;
        for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = at + i as u64;
            match generation_of(bytes, sector) {
                Some(generation) => found.push(generation),
                None => bail!(
                    "sector {sector} is of no write at all: {:02x?}",
                    &bytes[..16]
                ),
            }
        }
    }
    Ok(found)
}

/// Which parts of a range hold what was tried to be written there.
fn seen(disk: &Disk, tried: &Extent) -> Result<Vec<Extent>> {
    let bytes = disk.read(tried.start, tried.count)?;
    let mut runs: Vec<Extent> = Vec::new();
    for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
        let sector = tried.start + i as u64;
        let found = generation_of(bytes, sector);
        ensure!(found.is_some(), "sector {sector} is of no write at all");
        if found != Some(tried.generation) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.start + run.count == sector => run.count += 1,
            _ => runs.push(Extent {
                start: sector,
                count: 1,
                generation: tried.generation,
            }),
        }
    }
    Ok(runs)
}
