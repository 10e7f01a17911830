// SPDX-License-Identifier: GPL-2.0

//! Where crashes are looked at: a memory disk that gets an image, and the module to use it.

use std::path::PathBuf;

use anyhow::{anyhow, bail, ensure, Context, Result};

use super::model::{Model, Version};
use super::ops::{Extent, Op};
use super::player::{generations, IDS};
use super::stage::{Parts, Sizes, IMAGE};
use crate::checked;
use crate::content::SECTOR;
use crate::dm::{Mapped, Suspend, Table};
use crate::io::{Buffer, Disk};
use crate::random::Random;
use crate::shadow;
use crate::store::{co_line, cs_line, Device, TARGET};

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
    buffer: Buffer,
}

/// A crash that is to be looked at.
pub struct Crash<'a> {
    /// What was answered before it.
    pub model: &'a Model,
    /// What was asked for and not answered.
    pub flying: &'a [&'a Op],
}

/// What an origin turned out to hold, and its snapshots.
struct Found {
    head: Vec<u32>,
    shots: Vec<(u32, Vec<u32>)>,
}

impl Bench {
    /// The memory disk of this number, with devices of these sizes.
    pub fn new(number: usize, sizes: Sizes) -> Result<Self> {
        let path = PathBuf::from(format!("/dev/ram{number}"));
        let disk = Disk::open(&path)?;
        ensure!(disk.sectors() >= IMAGE, "{} is small", path.display());
        let parts = Parts::new(sizes, |sector| (path.clone(), sector))?;
        Ok(Self {
            co: vec![Slot::new("co")?, Slot::new("co")?],
            cs: Slot::new("cs")?,
            disk,
            parts,
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
        let mut sizes = crash.model.sizes;
        for op in crash.flying {
            match op {
                Op::GrowOrigin { origin, sectors } => sizes.origins[*origin] = *sectors,
                Op::GrowCow { sectors } => sizes.cow = *sectors,
                _ => {}
            }
        }
        self.parts.resize(sizes)?;
        if crash.store_must_be_there() {
            checked::clean(&self.parts.cow()).context("before activation")?;
        }
        let mut found = Vec::new();
        for (origin, id) in IDS.iter().enumerate() {
            match self.activate(crash, origin)? {
                Some(co) => {
                    let seen = self
                        .compare(crash, origin, co)
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
            let shots = Vec::new();
            found.push((0, co, Found { head, shots }));
        }
        for (origin, co, seen) in &mut found {
            self.go_on(*origin, co, seen, random)
                .with_context(|| format!("going on with origin {}", IDS[*origin]))?;
        }
        let mut below = Vec::new();
        for (origin, co, seen) in found {
            co.wait_rollback()?;
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
        let options = format!("-i {} -e error {options}", IDS[origin]);
        let line = co_line(&self.parts.origin(origin), &self.parts.cow(), &options);
        let sectors = self.parts.sizes().origins[origin];
        self.co[origin].fill(&Table::new(sectors, TARGET, line))
    }

    fn cs(&self, origin: usize, tag: u32, sectors: u64) -> Result<&Device> {
        let options = format!("-i {}", IDS[origin]);
        let line = cs_line(&self.parts.origin(origin), &self.parts.cow(), tag, &options);
        self.cs.fill(&Table::new(sectors, TARGET, line))
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
            .head(origin, &found)
            .with_context(|| format!("origin {}, not bound", IDS[origin]))
    }

    fn compare(&self, crash: &Crash<'_>, origin: usize, co: &Device) -> Result<Found> {
        let head = generations(&co.open_read_only()?).context("head")?;
        crash.head(origin, &head)?;
        let list = co.list()?;
        crash.tags(origin, &list.tags())?;
        let mut shots = Vec::new();
        for row in list.rows.iter().filter(|row| row.tag != 0) {
            let tag = row.tag;
            if row.flags.contains('G') {
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
            let cs = self
                .cs(origin, tag, row.sectors)
                .with_context(|| format!("snapshot {tag}"))?;
            let held =
                generations(&cs.open_read_only()?).with_context(|| format!("snapshot {tag}"))?;
            self.cs.clear()?;
            crash
                .shot(origin, tag, &held)
                .with_context(|| format!("snapshot {tag}"))?;
            shots.push((tag, held));
        }
        Ok(Found { head, shots })
    }

    /// Uses it for a while: nothing that was there changes.
    fn go_on(
        &self,
        origin: usize,
        co: &Device,
        seen: &mut Found,
        random: &mut Random,
    ) -> Result<()> {
        let taken = co.take()?;
        let then = seen.head.clone();
        {
            let disk = co.open()?;
            for _ in 0..2 {
                overwrite(&disk, &mut seen.head, random)?;
            }
            same(&generations(&disk)?, &seen.head).context("head")?;
        }
        if let Some(i) = (!seen.shots.is_empty()).then(|| random.pick(0..seen.shots.len() as u64)) {
            let (tag, mut held) = seen.shots.swap_remove(i as usize);
            let cs = self.cs(origin, tag, held.len() as u64)?;
            {
                let disk = cs.open()?;
                overwrite(&disk, &mut held, random)?;
                same(&generations(&disk)?, &held).with_context(|| format!("snapshot {tag}"))?;
            }
            self.cs.clear()?;
            if random.once_in(2) {
                co.delete(tag)?;
            } else {
                seen.shots.push((tag, held));
            }
        }
        seen.shots.push((taken, then));
        // Only some of them, for time's sake.
        for (tag, held) in seen.shots.iter().rev().take(2) {
            let cs = self.cs(origin, *tag, held.len() as u64)?;
            same(&generations(&cs.open_read_only()?)?, held)
                .with_context(|| format!("snapshot {tag}"))?;
            self.cs.clear()?;
        }
        Ok(())
    }
}

fn overwrite(disk: &Disk, held: &mut [u32], random: &mut Random) -> Result<()> {
    let (start, count) = random.extent(held.len() as u64);
    let count = count.min(40);
    match shadow::write(disk, start, count) {
        Ok(generation) => held[start as usize..(start + count) as usize].fill(generation),
        Err(e) => {
            let errno = e.downcast_ref::<std::io::Error>();
            if errno.and_then(std::io::Error::raw_os_error) != Some(libc::ENOSPC) {
                return Err(e);
            }
            // There is no space. What was written of it is there, and nothing else.
            let now = generations(disk)?;
            let range = start as usize..(start + count) as usize;
            held[range.clone()].copy_from_slice(&now[range]);
        }
    }
    Ok(())
}

fn same(found: &[u32], expected: &[u32]) -> Result<()> {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(sector) = differs {
        bail!(
            "sector {sector} is of write {}, not {}",
            found[sector],
            expected[sector]
        );
    }
    ensure!(found.len() == expected.len(), "{} sectors", found.len());
    Ok(())
}

impl Crash<'_> {
    fn formatting(&self) -> bool {
        self.flying.iter().any(|op| matches!(op, Op::Format { .. }))
    }

    fn store_must_be_there(&self) -> bool {
        self.model.formatted && !self.formatting()
    }

    fn may_be_bound(&self, origin: usize) -> bool {
        self.model.origins[origin].bound
            || self.flying.iter().any(|op| match op {
                Op::Format { origin: o } | Op::Bind { origin: o } => *o == origin,
                _ => false,
            })
    }

    fn may_be_unbound(&self, origin: usize) -> bool {
        !self.model.origins[origin].bound
            || self.formatting()
            || self
                .flying
                .iter()
                .any(|op| matches!(op, Op::Unbind { origin: o } if *o == origin))
    }

    /// What may be written to a version just now.
    fn flying_writes(&self, origin: usize, version: u32) -> Vec<Extent> {
        let writes = self.flying.iter().filter_map(|op| match op {
            Op::Write {
                origin: o,
                tag,
                tried,
                ..
            } if *o == origin && *tag == version => Some(*tried),
            _ => None,
        });
        writes.collect()
    }

    fn head(&self, origin: usize, found: &[u32]) -> Result<()> {
        let writes = self.flying_writes(origin, 0);
        let before = &self.model.origins[origin].head;
        let rolled_back = self.flying.iter().find_map(|op| match op {
            Op::Rollback { origin: o, tag, .. } if *o == origin => {
                Some(self.model.rolled_back(origin, *tag))
            }
            _ => None,
        });
        match (fits(before, found, &writes), rolled_back) {
            (Err(_), Some(after)) => fits(&after, found, &writes).context("head, rolled back"),
            (result, _) => result.context("head"),
        }
    }

    fn tags(&self, origin: usize, there: &[u32]) -> Result<()> {
        let known = &self.model.origins[origin].shots;
        if self.formatting() && there.is_empty() {
            return Ok(());
        }
        for tag in there {
            let taken = self.flying.iter().any(
                |op| matches!(op, Op::Take { origin: o, tag: t, .. } if *o == origin && t == tag),
            );
            ensure!(
                known.contains_key(tag) || taken,
                "snapshot {tag} is there: {there:?}"
            );
        }
        for (tag, shot) in known {
            let deleted = self.flying.iter().any(|op| match op {
                Op::Delete { origin: o, tag: t } => *o == origin && t == tag,
                Op::Rollback {
                    origin: o,
                    tag: t,
                    merge,
                } => *merge && *o == origin && t == tag,
                _ => false,
            });
            ensure!(
                there.contains(tag) || shot.leaving || deleted,
                "snapshot {tag} is lost: {there:?}"
            );
        }
        Ok(())
    }

    fn is_leaving(&self, origin: usize, tag: u32) -> bool {
        let shot = self.model.origins[origin].shots.get(&tag);
        shot.is_some_and(|shot| shot.leaving)
            || self.flying.iter().any(|op| {
                matches!(op, Op::Rollback { origin: o, tag: t, merge: true }
                    if *o == origin && *t == tag)
            })
    }

    fn may_be_invalid(&self, origin: usize, tag: u32) -> bool {
        tag < self.model.origins[origin].invalid_below
            || self.flying.iter().any(
                |op| matches!(op, Op::Write { origin: o, invalidates: true, .. } if *o == origin),
            )
    }

    fn shot(&self, origin: usize, tag: u32, found: &[u32]) -> Result<()> {
        let writes = self.flying_writes(origin, tag);
        if let Some(shot) = self.model.origins[origin].shots.get(&tag) {
            return fits(&shot.version, found, &writes);
        }
        let parent = self.flying.iter().find_map(|op| match op {
            Op::Take {
                origin: o,
                parent,
                tag: t,
                ..
            } if *o == origin && *t == tag => Some(*parent),
            _ => None,
        });
        let parent = parent.ok_or_else(|| anyhow!("nobody took it"))?;
        let mut version = Version {
            must: self.model.taken(origin, parent),
            maybe: Vec::new(),
        };
        // Writes that were on their way when it was taken, answered by now or not.
        if !self.flying_writes(origin, parent).is_empty() || self.is_disturbed(origin, tag) {
            version = self.model.origins[origin].head.clone();
            version.must.truncate(found.len());
        }
        fits(&version, found, &self.flying_writes(origin, parent))
    }

    fn is_disturbed(&self, origin: usize, tag: u32) -> bool {
        self.flying.iter().any(|op| {
            matches!(op, Op::Take { origin: o, tag: t, content: Some(_), .. }
                if *o == origin && *t == tag)
        })
    }
}

fn fits(version: &Version, found: &[u32], flying: &[Extent]) -> Result<()> {
    if let Some((sector, found)) = version.differs(found, flying) {
        let must = version.must[sector as usize];
        bail!("sector {sector} is of write {found}, not {must} or newer");
    }
    ensure!(
        found.len() <= version.must.len(),
        "{} sectors, not {}",
        found.len(),
        version.must.len()
    );
    Ok(())
}
