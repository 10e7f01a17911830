// SPDX-License-Identifier: GPL-2.0
//! A target whose cache loses what was not synced, and whose power can fail at any step.

use super::{Disk, Random, S};
use dm_snap_mv_stream::receive::{Local, Notes, Target, Unlike};
use dm_snap_mv_stream::{Content, Version};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// Steps until the power fails.
#[derive(Clone, Default)]
pub struct Power(Rc<Cell<Option<u64>>>);

impl Power {
    pub fn fails_after(&self, steps: u64) {
        self.0.set(Some(steps));
    }

    pub fn holds(&self) {
        self.0.set(None);
    }

    /// Whether it is there for one more step.
    fn step(&self) -> io::Result<()> {
        match self.0.get() {
            Some(0) => Err(io::Error::other("the power has failed")),
            Some(left) => {
                self.0.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Clone)]
enum Op {
    Sector(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Default)]
pub struct Inner {
    /// What is there, and what is read.
    pub now: Option<Disk>,
    /// What is on stable storage.
    durable: Option<Disk>,
    pending: Vec<Op>,
    pub kept: Option<Disk>,
    pub elastic: bool,
    /// How often it was written to.
    pub writes: u64,
    /// It keeps versions of itself.
    pub is_origin: bool,
    /// Those that were taken, by their tags, with their memos.
    pub taken: Vec<(u32, Disk, String)>,
    /// It has no space for another one.
    pub full: bool,
}

fn perform(disk: &mut Disk, op: &Op) {
    match op {
        Op::Sector(nr, bytes) => {
            let at = *nr as usize * S;
            if let Some(place) = disk.get_mut(at..at + S) {
                place.copy_from_slice(bytes);
            }
        }
        Op::Length(sectors) => disk.resize(*sectors as usize * S, 0),
    }
}

impl Inner {
    fn act(&mut self, op: Op) -> io::Result<()> {
        let now = self.now.as_mut().ok_or(io::ErrorKind::NotFound)?;
        perform(now, &op);
        self.pending.push(op);
        Ok(())
    }

    /// What a machine finds that is switched on again: of what was not synced, anything.
    pub fn lose(&mut self, random: &mut Random) {
        let mut disk = self.durable.clone();
        let all = random.below(4);
        for op in std::mem::take(&mut self.pending) {
            // All, nothing, or some of it.
            if let Some(disk) = disk.as_mut().filter(|_| match all {
                0 => true,
                1 => false,
                _ => random.flip(),
            }) {
                perform(disk, &op);
            }
        }
        self.durable = disk.clone();
        self.now = disk;
    }
}

#[derive(Clone, Default)]
pub struct Sim {
    pub inner: Rc<RefCell<Inner>>,
    pub power: Power,
}

impl Sim {
    pub fn with(disk: Option<Disk>, elastic: bool, power: &Power) -> Self {
        let inner = Inner {
            now: disk.clone(),
            durable: disk,
            elastic,
            ..Inner::default()
        };
        Self {
            inner: Rc::new(RefCell::new(inner)),
            power: power.clone(),
        }
    }

    pub fn now(&self) -> Option<Disk> {
        self.inner.borrow().now.clone()
    }
}

impl Target for Sim {
    fn sectors(&self) -> io::Result<Option<u64>> {
        let len = |disk: &Disk| (disk.len() / S) as u64;
        Ok(self.inner.borrow().now.as_ref().map(len))
    }

    fn is_elastic(&self) -> bool {
        self.inner.borrow().elastic
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        let inner = self.inner.borrow();
        let at = start as usize * S;
        let now = inner.now.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let bytes = now.get(at..at + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Sector by sector, so that it can fail in between.
    fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        for (nr, sector) in bytes.chunks(S).enumerate() {
            self.power.step()?;
            let mut inner = self.inner.borrow_mut();
            inner.writes += 1;
            inner.act(Op::Sector(start + nr as u64, sector.to_vec()))?;
        }
        Ok(())
    }

    fn zero(&mut self, start: u64, sectors: u64) -> io::Result<()> {
        self.write(start, &vec![0; sectors as usize * S])
    }

    fn extend(&mut self, sectors: u64) -> io::Result<()> {
        self.power.step()?;
        let has = self.sectors()?;
        let mut inner = self.inner.borrow_mut();
        if has.is_none() {
            // As a file whose folder has been synced.
            inner.now = Some(Disk::new());
            inner.durable = Some(Disk::new());
        }
        match has.unwrap_or(0) < sectors && inner.elastic {
            true => inner.act(Op::Length(sectors)),
            false => Ok(()),
        }
    }

    fn fit(&mut self, sectors: u64) -> io::Result<()> {
        self.power.step()?;
        let mut inner = self.inner.borrow_mut();
        match inner.elastic {
            true => inner.act(Op::Length(sectors)),
            false => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.power.step()?;
        let mut inner = self.inner.borrow_mut();
        inner.durable = inner.now.clone();
        inner.pending.clear();
        Ok(())
    }

    fn keep(&mut self) -> io::Result<()> {
        self.power.step()?;
        let mut inner = self.inner.borrow_mut();
        inner.kept = inner.now.clone();
        Ok(())
    }

    fn has_kept(&self) -> io::Result<bool> {
        Ok(self.inner.borrow().kept.is_some())
    }

    fn restore(&mut self) -> io::Result<()> {
        self.power.step()?;
        let mut inner = self.inner.borrow_mut();
        if let Some(kept) = inner.kept.take() {
            inner.pending.clear();
            inner.now = Some(kept.clone());
            inner.durable = Some(kept);
        }
        Ok(())
    }

    fn drop_kept(&mut self) -> io::Result<()> {
        self.power.step()?;
        self.inner.borrow_mut().kept = None;
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        self.power.step()?;
        let mut inner = self.inner.borrow_mut();
        inner.pending.clear();
        (inner.now, inner.durable) = (None, None);
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Local>> {
        let inner = self.inner.borrow();
        let last = inner.taken.last().map_or(0, |(tag, ..)| *tag);
        Ok(inner.is_origin.then_some(Local {
            store: [7; 16],
            origin: 3,
            tag: last + 1,
        }))
    }

    fn unlike(&mut self, local: &Local) -> io::Result<Option<Unlike>> {
        if let Some(why) = self.lost(local)? {
            return Ok(Some(why));
        }
        let inner = self.inner.borrow();
        let same = |disk: &Disk| inner.now.as_ref() == Some(disk);
        let mut of_tag = inner.taken.iter().filter(|(tag, ..)| *tag == local.tag);
        let is_same = of_tag.any(|(_, disk, _)| same(disk));
        Ok((!is_same).then_some(Unlike::Changed))
    }

    fn lost(&mut self, local: &Local) -> io::Result<Option<Unlike>> {
        let inner = self.inner.borrow();
        if !inner.is_origin || (local.store, local.origin) != ([7; 16], 3) {
            return Ok(Some(Unlike::Another));
        }
        let there = inner.taken.iter().any(|(tag, ..)| *tag == local.tag);
        Ok((!there).then_some(Unlike::Gone))
    }

    fn taken(&mut self, next: &Local, version: &Version) -> io::Result<Option<Local>> {
        let tags: Vec<_> = {
            let inner = self.inner.borrow();
            let memo = version.memo.clone().unwrap_or_default();
            let taken = inner.taken.iter().rev();
            let ours = taken.filter(|(tag, _, m)| *tag >= next.tag && *m == memo);
            ours.map(|(tag, ..)| *tag).collect()
        };
        for tag in tags {
            let local = Local { tag, ..*next };
            if self.unlike(&local)?.is_none() {
                return Ok(Some(local));
            }
        }
        Ok(None)
    }

    fn take(&mut self, content: &Content) -> io::Result<Local> {
        self.power.step()?;
        if self.inner.borrow().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let next = self.next()?.unwrap();
        {
            let mut inner = self.inner.borrow_mut();
            // It has to be on stable storage, or the snapshot is of something else than the version.
            assert!(inner.pending.is_empty());
            let disk = inner.now.clone().unwrap();
            let memo = content.version.memo.clone().unwrap_or_default();
            inner.taken.push((next.tag, disk, memo));
        }
        // And it may have been taken when that is not known yet.
        self.power.step()?;
        Ok(next)
    }

    fn go_back(&mut self, local: &Local) -> io::Result<()> {
        self.power.step()?;
        {
            let mut inner = self.inner.borrow_mut();
            let mut of_tag = inner.taken.iter().filter(|(tag, ..)| *tag == local.tag);
            let disk = of_tag.next().map(|(_, disk, _)| disk.clone());
            inner.pending.clear();
            inner.now = disk.clone();
            inner.durable = disk;
        }
        self.power.step()
    }
}

/// A note that is written as a whole or not at all.
#[derive(Clone, Default)]
pub struct Note {
    pub note: Rc<RefCell<Option<Vec<u8>>>>,
    pub power: Power,
}

impl Notes for Note {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.note.borrow().clone())
    }

    fn store(&mut self, note: &[u8]) -> io::Result<()> {
        self.power.step()?;
        *self.note.borrow_mut() = Some(note.to_vec());
        // And it may be so when that is not known yet.
        self.power.step()
    }

    fn remove(&mut self) -> io::Result<()> {
        self.power.step()?;
        *self.note.borrow_mut() = None;
        self.power.step()
    }
}
