// SPDX-License-Identifier: GPL-2.0

//! Where crashes are looked at: a memory disk that gets an image, and the module to use it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};

use super::oracle::Crash;
use super::player::{generations, IDS};
use super::stage::{Parts, Sizes, IMAGE};
use crate::checked;
use crate::content::SECTOR;
use crate::dm::{Mapped, Suspend, Table};
use crate::io::{Buffer, Disk};
use crate::random::Random;
use crate::store::{co_line, cs_line, Device, Listing, TARGET};

/// Sectors that are written in one go.
const PIECE: u64 = 128;

/// A device that is there all the time and now and then has a table of the target: making and
/// removing devices would take most of the time.
struct Slot(Device);

impl Slot {
    fn new(kind: &str) -> Result<Self> {
        Ok(Self(Device(Mapped::create(kind, &nothing())?)))
    }

    fn fill(&self, table: &Table) -> Result<&Device> {
        self.0.replace(Suspend::NoFlush, table)?;
        Ok(&self.0)
    }

    fn clear(&self) -> Result<()> {
        Ok(self.0.replace(Suspend::NoFlush, &nothing())?)
    }
}

fn nothing() -> Table {
    Table::new(8, "error", "")
}

/// One place where a crash can be looked at.
pub struct Bench {
    co: Vec<Slot>,
    cs: Slot,
    disk: Disk,
    parts: Parts,
    policy: &'static str,
    buffer: Buffer,
}

/// What an origin turned out to hold, and its snapshots.
pub struct Found {
    /// Of the origin, by sector.
    pub head: Vec<u32>,
    /// Of the snapshots that were looked at.
    pub shots: Vec<(u32, Vec<u32>)>,
    /// The snapshots that were not.
    pub others: Vec<u32>,
}

/// Of more snapshots than these, only about so many are looked at.
const MANY: u64 = 8;

impl Bench {
    /// The memory disk of this number, with devices of these sizes. `policy` is for when there is no
    /// space.
    pub fn new(number: usize, sizes: Sizes, policy: &'static str) -> Result<Self> {
        let path = PathBuf::from(format!("/dev/ram{number}"));
        let disk = Disk::open(&path)?;
        ensure!(disk.sectors() >= IMAGE, "{} is small", path.display());
        let parts = Parts::new(sizes, |sector| (path.clone(), sector))?;
        Ok(Self {
            co: vec![Slot::new("co")?, Slot::new("co")?],
            cs: Slot::new("cs")?,
            disk,
            parts,
            policy,
            buffer: Buffer::new(PIECE as usize * SECTOR),
        })
    }

    /// Puts an image in place. All of it: what the store wrote when it went on after the last crash,
    /// as in its journal, could be taken for what it wrote before this one.
    pub fn load(&mut self, image: &[u8]) -> Result<()> {
        for (i, piece) in image.chunks_exact(PIECE as usize * SECTOR).enumerate() {
            self.buffer.copy_from_slice(piece);
            self.disk.write(i as u64 * PIECE, &self.buffer)?;
        }
        Ok(())
    }

    /// Takes all tables of the target away, whatever has become of them.
    pub fn clear(&self) -> Result<()> {
        self.cs.clear()?;
        self.co.iter().try_for_each(Slot::clear)
    }

    /// Looks at what a crash has left, and goes on using it.
    pub fn look(&self, crash: &Crash<'_>, random: &mut Random) -> Result<()> {
        self.parts.resize(crash.sizes())?;
        if crash.store_must_be_there() {
            checked::clean(&self.parts.cow()).context("before activation")?;
        }
        let mut found = Vec::new();
        for (origin, id) in IDS.iter().enumerate() {
            match self.activate(crash, origin)? {
                Some(co) => {
                    let seen = self
                        .compare(crash, origin, co, random)
                        .with_context(|| format!("origin {id}"))?;
                    found.push((origin, co, seen));
                }
                None => self.compare_unbound(crash, origin)?,
            }
        }
        if found.is_empty() {
            // As somebody would who finds that there is no store yet.
            let co = self.co(0, "-b -F")?;
            let head = generations(&co.open_read_only()?)?;
            let seen = Found {
                head,
                shots: Vec::new(),
                others: Vec::new(),
            };
            found.push((0, co, seen));
        }
        for (origin, co, seen) in &mut found {
            self.go_on(*origin, co, seen, random)
                .with_context(|| format!("going on with origin {}", IDS[*origin]))?;
        }
        let mut below = Vec::new();
        for (origin, co, mut seen) in found {
            self.finish_rollback(co, &mut seen, random)?;
            self.co[origin].clear()?;
            below.push((origin, seen.head));
        }
        // The origins alone hold the current data.
        for (origin, head) in below {
            let raw = generations(&Disk::open_read_only(self.parts.origin(origin))?)?;
            let wrong = raw.iter().zip(&head).position(|(a, b)| a != b);
            ensure!(
                wrong.is_none(),
                "origin {} below: sector {wrong:?} differs",
                IDS[origin]
            );
        }
        checked::clean(&self.parts.cow()).context("after use")?;
        Ok(())
    }

    fn co(&self, origin: usize, options: &str) -> Result<&Device> {
        let options = format!("-i {} -e {} {options}", IDS[origin], self.policy);
        let line = co_line(&self.parts.origin(origin), &self.parts.cow(), &options);
        let sectors = self.parts.sizes().origins[origin];
        self.co[origin].fill(&Table::new(sectors, TARGET, line))
    }

    /// Whether a write that finds no space makes snapshots invalid.
    pub fn may_invalidate(&self) -> bool {
        self.policy == "invalidate"
    }

    /// Whether a write that finds no space waits for it.
    pub fn waits_for_space(&self) -> bool {
        self.policy == "queue"
    }

    /// A snapshot's device, until there is another or it is cleared.
    pub fn cs(&self, origin: usize, tag: u32, sectors: u64) -> Result<&Device> {
        let options = format!("-i {}", IDS[origin]);
        let line = cs_line(&self.parts.origin(origin), &self.parts.cow(), tag, &options);
        self.cs.fill(&Table::new(sectors, TARGET, line))
    }

    /// Takes a snapshot's device away.
    pub fn clear_snapshot(&self) -> Result<()> {
        self.cs.clear()
    }

    /// An origin's device, or none if it is right that it is not bound.
    fn activate(&self, crash: &Crash<'_>, origin: usize) -> Result<Option<&Device>> {
        let error = match self.co(origin, "") {
            Ok(co) => {
                ensure!(
                    crash.may_be_bound(origin),
                    "origin {} is bound",
                    IDS[origin]
                );
                return Ok(Some(co));
            }
            Err(error) => error,
        };
        let errno = error.downcast_ref::<std::io::Error>();
        let allowed = match errno.and_then(std::io::Error::raw_os_error) {
            Some(libc::ENOENT) => crash.may_be_unbound(origin),
            Some(libc::EMEDIUMTYPE) => !crash.store_must_be_there(),
            _ => false,
        };
        ensure!(allowed, "origin {}: {error:#}", IDS[origin]);
        Ok(None)
    }

    fn compare_unbound(&self, crash: &Crash<'_>, origin: usize) -> Result<()> {
        let found = generations(&Disk::open_read_only(self.parts.origin(origin))?)?;
        crash
            .unbound(origin, &found)
            .with_context(|| format!("origin {}, not bound", IDS[origin]))
    }

    /// Whether the bookmarks are there, and tell of all that differs from what the origin was.
    fn compare_bookmarks(
        &self,
        crash: &Crash<'_>,
        origin: usize,
        co: &Device,
        list: &Listing,
        head: &[u32],
    ) -> Result<()> {
        let chunk = co.state()?.chunk_sectors;
        let mut tags = Vec::new();
        let mut changes = BTreeMap::new();
        for (tag, valid) in list.bookmarks() {
            ensure!(valid, "bookmark {tag} is invalid");
            tags.push(tag);
            changes.insert(tag, co.delta(tag, 0, 1000)?);
        }
        crash.bookmarks(origin, &tags, head, |tag, sector| {
            let mut runs = changes[&tag].iter();
            Ok(runs.any(|&(first, len)| (first..first + len).contains(&(sector / chunk))))
        })
    }

    fn compare(
        &self,
        crash: &Crash<'_>,
        origin: usize,
        co: &Device,
        random: &mut Random,
    ) -> Result<Found> {
        let head = generations(&co.open_read_only()?).context("head")?;
        crash.head(origin, &head)?;
        let list = co.list()?;
        crash.tags(origin, &list.tags())?;
        self.compare_bookmarks(crash, origin, co, &list, &head)?;
        let own = list.row(0).context("a row of the origin")?;
        ensure!(
            own.sectors == crash.sizes().origins[origin],
            "the origin has {} sectors",
            own.sectors
        );
        let mut seen = Found {
            head,
            shots: Vec::new(),
            others: Vec::new(),
        };
        let many = list.rows.len() as u64;
        for row in list.rows.iter().filter(|row| row.tag != 0) {
            let tag = row.tag;
            if row.flags.contains(['G', 'B']) {
                continue;
            }
            if row.flags.contains('I') {
                ensure!(
                    crash.may_be_invalid(origin, tag),
                    "snapshot {tag} is invalid"
                );
                continue;
            }
            if crash.is_leaving(origin, tag) {
                continue;
            }
            if many > MANY && random.pick(0..many) >= MANY {
                seen.others.push(tag);
                continue;
            }
            let Some(held) = self.read(origin, co, tag, row.sectors)? else {
                // It has become invalid just now, for a rollback that goes on.
                ensure!(
                    crash.may_be_invalid(origin, tag),
                    "snapshot {tag} is invalid"
                );
                continue;
            };
            crash
                .shot(origin, tag, &held)
                .with_context(|| format!("snapshot {tag}"))?;
            seen.shots.push((tag, held));
        }
        Ok(seen)
    }
}
