// SPDX-License-Identifier: GPL-2.0

//! Everything at once, at random, for as long as `TEST_SECONDS` says (120).
//!
//! Several origins in two stores, each with an active device and some active snapshots. Threads
//! do I/O to all of them, one more for each origin sends it messages, removes and re-creates its
//! devices, reloads their tables, and now and then the module. Every sector that is read is
//! compared, and in the end all of everything.
//!
//! Two threads never write one sector at the same time, but they do write one chunk: a device's
//! sectors are divided into regions that have nothing to do with chunks, each with a lock. What
//! changes what a device must hold as a whole keeps I/O out meanwhile, except for snapshots,
//! which are mostly taken while writes are on their way; then each sector of the snapshot must
//! be one of those that it can be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::content::{compare, next_generation, SECTOR, ZERO};
use crate::disks::{Disks, MIB};
use crate::dm::{Suspend, Table};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write, write_generation, Shadow};
use crate::store::{co_line, cs_line, Device, Origin, Store, TARGET};
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let seconds = std::env::var("TEST_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(120);
    let random = Random::from_environment("stress");
    let long = Duration::from_secs(seconds);
    subject.case("everything at random", || {
        everything(disks, random.clone(), long)
    });
    subject.case("writes in no order", || {
        unordered(disks, random.clone(), long / 10)
    });
}

/// Sectors of an origin: no multiple of a chunk.
const SECTORS: u64 = 4 * MIB + 3;

/// Sectors that one lock guards: no multiple of anything.
const REGION: u64 = 101;

/// Snapshots that an origin has at most.
const MOST_SNAPSHOTS: usize = 9;

/// Of them so many have a device.
const MOST_ACTIVE: usize = 3;

/// The deepest nesting; deleted snapshots in between count.
const DEEPEST: u32 = 30;

/// A device that I/O goes to.
struct Active {
    /// 0 for the origin.
    tag: u32,
    device: Device,
    disk: Disk,
    regions: Vec<Mutex<()>>,
    /// By sector: of the write that was begun last, and of the one that ended last.
    issued: Vec<AtomicU32>,
    acknowledged: Vec<AtomicU32>,
}

impl Active {
    fn new(tag: u32, device: Device, shadow: &Shadow) -> Result<Self> {
        let disk = device.open()?;
        let cells = || {
            (0..SECTORS)
                .map(|s| AtomicU32::new(shadow.generation(s)))
                .collect()
        };
        Ok(Self {
            tag,
            device,
            disk,
            regions: (0..SECTORS.div_ceil(REGION))
                .map(|_| Mutex::new(()))
                .collect(),
            issued: cells(),
            acknowledged: cells(),
        })
    }

    fn name(&self) -> String {
        match self.tag {
            0 => "the origin".to_owned(),
            tag => format!("snapshot {tag}"),
        }
    }

    /// What it must hold, while no I/O is under way.
    fn shadow(&self) -> Shadow {
        let mut shadow = Shadow::zeroed(SECTORS);
        for (sector, generation) in self.acknowledged.iter().enumerate() {
            shadow.set(sector as u64, 1, generation.load(Ordering::SeqCst));
        }
        shadow
    }

    fn lock(&self, start: u64, count: u64) -> Vec<MutexGuard<'_, ()>> {
        let regions = start / REGION..=(start + count - 1) / REGION;
        regions
            .map(|region| self.regions[region as usize].lock().expect("no panic"))
            .collect()
    }

    fn set(cells: &[AtomicU32], start: u64, count: u64, generation: u32) {
        for cell in &cells[start as usize..(start + count) as usize] {
            cell.store(generation, Ordering::SeqCst);
        }
    }

    fn write(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        let generation = next_generation();
        Self::set(&self.issued, start, count, generation);
        write_generation(&self.disk, start, count, generation)?;
        Self::set(&self.acknowledged, start, count, generation);
        Ok(())
    }

    fn zero_out(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        self.disk.zero_out(start, count)?;
        Self::set(&self.issued, start, count, ZERO);
        Self::set(&self.acknowledged, start, count, ZERO);
        Ok(())
    }

    fn discard(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        self.disk.discard(start, count)?;
        let bytes = self.disk.read(start, count)?;
        for (i, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = start + i as u64;
            if bytes.iter().all(|&b| b == 0) {
                Self::set(&self.issued, sector, 1, ZERO);
                Self::set(&self.acknowledged, sector, 1, ZERO);
            }
        }
        self.compare(&bytes, start, count)
            .context("after a discard")
    }

    fn read(&self, start: u64, count: u64) -> Result<()> {
        let _locks = self.lock(start, count);
        let bytes = self.disk.read(start, count)?;
        self.compare(&bytes, start, count)
    }

    fn compare(&self, bytes: &[u8], start: u64, count: u64) -> Result<()> {
        let cells = &self.acknowledged[start as usize..(start + count) as usize];
        let expected: Vec<u32> = cells.iter().map(|c| c.load(Ordering::SeqCst)).collect();
        compare(bytes, start, &expected)?;
        Ok(())
    }
}

/// What the generations of a device are, now.
fn look(cells: &[AtomicU32]) -> Vec<u32> {
    cells
        .iter()
        .map(|cell| cell.load(Ordering::SeqCst))
        .collect()
}

/// An origin's active devices. I/O is done by those who hold a read lock of it.
struct Devices {
    /// The first one is the origin's.
    devices: Vec<Active>,
}

/// One origin and all that is known of it.
struct Volume {
    /// Which of the stores it is in.
    store: usize,
    origin_path: std::path::PathBuf,
    cow_path: std::path::PathBuf,
    id: String,
    active: RwLock<Devices>,
    /// Held for reading by what zeroes, for writing while a snapshot is taken with writes under
    /// way.
    steady: RwLock<()>,
    /// Snapshots that have no device, and how deep each is.
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    inactive: BTreeMap<u32, Shadow>,
    depths: BTreeMap<u32, u32>,
}

#[derive(Default)]
struct Counts {
    io: AtomicU64,
    snapshots: AtomicU64,
    deleted: AtomicU64,
    rollbacks: AtomicU64,
    tables: AtomicU64,
    modules: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Volume {
    fn co(&self, options: &str) -> Result<Device> {
        let options = format!("-i {} {options}", self.id);
        let line = co_line(&self.origin_path, &self.cow_path, &options);
        let mapped = crate::dm::Mapped::create("co", &Table::new(SECTORS, TARGET, line));
        Ok(Device(mapped.context("the origin's device")?))
    }

    fn cs(&self, tag: u32) -> Result<Device> {
        let options = format!("-i {}", self.id);
        let line = cs_line(&self.origin_path, &self.cow_path, tag, &options);
        let mapped = crate::dm::Mapped::create("cs", &Table::new(SECTORS, TARGET, line));
        Ok(Device(
            mapped.with_context(|| format!("a device of snapshot {tag}"))?,
        ))
    }

    /// Some I/O to one of its devices.
    fn io(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        if active.devices.is_empty() {
            return Ok(());
        }
        let device = if random.once_in(2) {
            &active.devices[0]
        } else {
            random.one_of(&active.devices)
        };
        let (start, count) = random.extent(SECTORS);
        let done = match random.pick(0..40) {
            0..=19 => device.write(start, count),
            20 => {
                let _steady = self.steady.read().expect("no panic");
                device.zero_out(start, count)
            }
            21 => {
                let _steady = self.steady.read().expect("no panic");
                device.discard(start, count)
            }
            22 => device.disk.flush().context("flush"),
            _ => device.read(start, count),
        };
        done.with_context(|| device.name())
    }

    /// All devices go, and what they held is remembered.
    fn put_away(&self, active: &mut Devices, rest: &mut Rest) -> Result<Shadow> {
        let mut origin = None;
        // The origin's device goes first in one half of the cases.
        if active.devices.len() % 2 == 0 {
            active.devices.reverse();
        }
        for device in active.devices.drain(..) {
            let shadow = device.shadow();
            let Active {
                tag, device, disk, ..
            } = device;
            drop(disk);
            device.remove()?;
            if tag == 0 {
                origin = Some(shadow);
            } else {
                rest.inactive.insert(tag, shadow);
            }
        }
        origin.context("the origin was active")
    }

    fn wake(&self, active: &mut Devices, origin: &Shadow) -> Result<()> {
        let device = self.co("")?;
        active.devices.insert(0, Active::new(0, device, origin)?);
        Ok(())
    }

    /// A device for one of the snapshots that have none.
    fn activate(&self, random: &mut Random) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() || active.devices.len() > MOST_ACTIVE {
            return Ok(());
        }
        let tag = *random.one_of(&tags);
        let device = self.cs(tag)?;
        let shadow = rest.inactive.remove(&tag).expect("it is there");
        active.devices.push(Active::new(tag, device, &shadow)?);
        Ok(())
    }

    /// A snapshot's device goes.
    fn deactivate(&self) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        if active.devices.len() < 2 {
            return Ok(());
        }
        let device = active.devices.remove(1);
        let shadow = device.shadow();
        let Active {
            tag, device, disk, ..
        } = device;
        drop(disk);
        device.remove()?;
        self.rest
            .lock()
            .expect("no panic")
            .inactive
            .insert(tag, shadow);
        Ok(())
    }

    fn depth(rest: &Rest, tag: u32) -> u32 {
        rest.depths.get(&tag).copied().unwrap_or(0)
    }

    /// A snapshot of one of the active devices while it is written; what it holds is then read
    /// while writes go on.
    fn take_under_load(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        if rest.inactive.len() + active.devices.len() > MOST_SNAPSHOTS {
            return Ok(());
        }
        let parent = random.one_of(&active.devices);
        let depth = Self::depth(&rest, parent.tag) + 1;
        if depth > DEEPEST {
            return Ok(());
        }
        let steady = self.steady.write().expect("no panic");
        // A write that is under way at the message's begin was begun before `issued` is looked
        // at, or has a generation above `begin`; one that ended is in `acknowledged`, or one of
        // those.
        let begin = next_generation();
        let issued = look(&parent.issued);
        let acknowledged = look(&parent.acknowledged);
        let tag = match parent.tag {
            0 => active.devices[0].device.take()?,
            tag => random.one_of(&active.devices).device.take_of(tag)?,
        };
        let end = look(&parent.issued);
        drop(steady);
        let device = self.cs(tag)?;
        let mut shadow = Shadow::zeroed(SECTORS);
        let disk = device.open_read_only()?;
        shadow
            .learn(&disk, |sector, found| {
                let i = sector as usize;
                found == acknowledged[i] || found == issued[i] || found > begin && found <= end[i]
            })
            .with_context(|| format!("snapshot {tag} of {}, just taken", parent.name()))?;
        drop(disk);
        device.remove()?;
        rest.inactive.insert(tag, shadow);
        rest.depths.insert(tag, depth);
        Ok(())
    }

    /// A snapshot of an inactive one.
    fn take_of_inactive(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.is_empty() || tags.len() + active.devices.len() > MOST_SNAPSHOTS {
            return Ok(());
        }
        let parent = *random.one_of(&tags);
        let depth = Self::depth(&rest, parent) + 1;
        if depth > DEEPEST {
            return Ok(());
        }
        let tag = random.one_of(&active.devices).device.take_of(parent)?;
        let shadow = rest.inactive[&parent].clone();
        rest.inactive.insert(tag, shadow);
        rest.depths.insert(tag, depth);
        Ok(())
    }

    /// One of the inactive snapshots is deleted, with I/O under way.
    fn delete(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if tags.len() < 2 {
            return Ok(());
        }
        let tag = *random.one_of(&tags);
        random.one_of(&active.devices).device.delete(tag)?;
        rest.inactive.remove(&tag);
        rest.depths.remove(&tag);
        Ok(())
    }

    /// Back to an inactive or active snapshot, sometimes deleting it. False if it could not be.
    fn roll_back(&self, random: &mut Random) -> Result<bool> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        if active.devices[0].device.state()?.rollback.is_some() {
            return Ok(false);
        }
        let merge = random.once_in(3);
        let mut choice: Vec<(u32, Shadow)> = rest
            .inactive
            .iter()
            .map(|(&tag, shadow)| (tag, shadow.clone()))
            .collect();
        if !merge {
            choice.extend(active.devices[1..].iter().map(|d| (d.tag, d.shadow())));
        }
        if choice.is_empty() {
            return Ok(false);
        }
        let (tag, shadow) = random.one_of(&choice).clone();
        // Nobody may have the origin open.
        let Active { device, disk, .. } = active.devices.remove(0);
        drop(disk);
        let wait = random.once_in(4);
        let options = match (merge, wait) {
            (false, false) => " -b",
            (false, true) => "",
            (true, false) => " -b -d",
            (true, true) => " -d",
        };
        device.send(&format!("rs {tag}{options}"))?;
        if merge {
            rest.inactive.remove(&tag);
            rest.depths.remove(&tag);
        }
        active.devices.insert(0, Active::new(0, device, &shadow)?);
        Ok(true)
    }

    /// The tables that are printed are loaded again, with I/O under way.
    fn reload_tables(&self) -> Result<()> {
        let active = self.active.read().expect("no panic");
        for device in &active.devices {
            let table = Table::new(SECTORS, TARGET, device.device.table()?);
            device
                .device
                .replace(Suspend::Orderly, &table)
                .with_context(|| format!("load {} again", device.name()))?;
        }
        Ok(())
    }

    fn recreate(&self) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let origin = self.put_away(&mut active, &mut rest)?;
        self.wake(&mut active, &origin)
    }

    /// One snapshot is compared as a whole.
    fn check_one(&self, random: &mut Random) -> Result<()> {
        let active = self.active.read().expect("no panic");
        let rest = self.rest.lock().expect("no panic");
        let tags: Vec<u32> = rest.inactive.keys().copied().collect();
        if !tags.is_empty() {
            let tag = *random.one_of(&tags);
            let device = self.cs(tag)?;
            rest.inactive[&tag]
                .check(&device.open_read_only()?)
                .with_context(|| format!("snapshot {tag}"))?;
            device.remove()?;
        }
        drop(active);
        Ok(())
    }

    /// All that is there, compared: the list, the origin, every snapshot.
    fn check_all(&self) -> Result<()> {
        let mut active = self.active.write().expect("no panic");
        let mut rest = self.rest.lock().expect("no panic");
        let origin = self.put_away(&mut active, &mut rest)?;
        let co = self.co("")?;
        let expected: Vec<u32> = rest.inactive.keys().copied().collect();
        let there = co.list()?.tags();
        ensure!(
            there == expected,
            "the snapshots are {there:?}, not {expected:?}"
        );
        for _ in 0..2 {
            origin.check(&co.open_read_only()?).context("the origin")?;
            for (&tag, shadow) in &rest.inactive {
                let device = self.cs(tag)?;
                shadow
                    .check(&device.open_read_only()?)
                    .with_context(|| format!("snapshot {tag}"))?;
                device.remove()?;
            }
            co.wait_rollback()?;
            co.wait_clean()?;
        }
        origin
            .check(&Disk::open_read_only(&self.origin_path)?)
            .context("the origin's own device")?;
        for tag in rest.inactive.keys() {
            co.delete(*tag)?;
        }
        co.wait_clean()?;
        co.remove()
    }
}

/// Something that a message does, or what else happens to an origin's devices.
fn happening(origin: &Volume, random: &mut Random, counts: &Counts) -> Result<()> {
    match random.pick(0..100) {
        0..=29 => {
            count(&counts.snapshots);
            origin.take_under_load(random)
        }
        30..=36 => origin.take_of_inactive(random),
        37..=56 => {
            count(&counts.deleted);
            origin.delete(random)
        }
        57..=68 => origin.activate(random),
        69..=76 => origin.deactivate(),
        77..=84 => {
            if origin.roll_back(random)? {
                count(&counts.rollbacks);
            }
            Ok(())
        }
        85..=89 => {
            count(&counts.tables);
            origin.reload_tables()
        }
        90..=92 => origin.recreate(),
        _ => origin.check_one(random),
    }
}

/// Everything is removed, the module goes and comes, everything is there again.
fn reload_module(origins: &[Volume]) -> Result<()> {
    let mut all: Vec<_> = origins
        .iter()
        .map(|o| o.active.write().expect("no panic"))
        .collect();
    let mut shadows = Vec::new();
    for (origin, active) in origins.iter().zip(&mut all) {
        let mut rest = origin.rest.lock().expect("no panic");
        shadows.push(origin.put_away(active, &mut rest)?);
    }
    crate::kernel::reload()?;
    for ((origin, active), shadow) in origins.iter().zip(&mut all).zip(&shadows) {
        origin.wake(active, shadow)?;
    }
    Ok(())
}

fn everything(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let stores = [Store::new(disks, 240 * MIB)?, Store::new(disks, 160 * MIB)?];
    let mut pieces = Vec::new();
    let mut origins = Vec::new();
    for (i, store) in [0, 0, 1].into_iter().enumerate() {
        let origin = Origin::new(disks, &format!("origin-{i}"), SECTORS)?;
        let shadow = Shadow::filled(&origin.piece.open()?)?;
        let subject = Volume {
            store,
            origin_path: origin.piece.path(),
            cow_path: stores[store].cow.path(),
            id: origin.id.clone(),
            active: RwLock::new(Devices {
                devices: Vec::new(),
            }),
            steady: RwLock::new(()),
            rest: Mutex::default(),
        };
        let first = !origins.iter().any(|other: &Volume| other.store == store);
        let pages = [1, 4, 16][random.pick(0..3) as usize];
        let options = if first {
            format!("-b -F -c {pages}")
        } else {
            "-b".to_owned()
        };
        let device = subject.co(&options)?;
        device.remove()?;
        subject.wake(&mut subject.active.write().expect("no panic"), &shadow)?;
        origins.push(subject);
        pieces.push(origin);
    }

    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let end = Instant::now() + long;
    let running = || Instant::now() < end && !over.load(Ordering::Relaxed);
    // Whoever fails ends it for all.
    let ends_all = |result: Result<()>| {
        if result.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        result
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        let (origins, counts, running, ends_all) = (&origins, &counts, &running, &ends_all);
        for _ in 0..4 {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        let origin = random.one_of(origins);
                        count(&counts.io);
                        origin.io(&mut random).with_context(|| origin.id.clone())?;
                    }
                    Ok(())
                })())
            }));
        }
        for origin in origins {
            let mut random = Random::new(random.number());
            threads.push(scope.spawn(move || {
                ends_all((|| {
                    while running() {
                        happening(origin, &mut random, counts)
                            .with_context(|| origin.id.clone())?;
                        sleep(Duration::from_millis(random.pick(0..60)));
                    }
                    Ok(())
                })())
            }));
        }
        threads.push(scope.spawn(move || {
            ends_all((|| {
                let mut next = Instant::now() + long / 6;
                while running() {
                    sleep(Duration::from_millis(200));
                    if Instant::now() >= next {
                        next = Instant::now() + long / 6;
                        count(&counts.modules);
                        reload_module(origins)?;
                    }
                }
                Ok(())
            })())
        }));
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
            .collect()
    });
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "# stress: {} I/Os, {} snapshots, {} deletions, {} rollbacks, {} table and {} module reloads",
        number(&counts.io),
        number(&counts.snapshots),
        number(&counts.deleted),
        number(&counts.rollbacks),
        number(&counts.tables),
        number(&counts.modules)
    );
    let errors: Vec<String> = results
        .into_iter()
        .filter_map(|r| r.err().map(|e| format!("{e:#}")))
        .collect();
    if !errors.is_empty() {
        // The devices go before what they stand on.
        for origin in &origins {
            origin.active.write().expect("no panic").devices.clear();
        }
        anyhow::bail!("{}", errors.join("; and "));
    }
    for origin in &origins {
        origin.check_all().with_context(|| origin.id.clone())?;
    }
    for store in 0..stores.len() {
        let origin = origins
            .iter()
            .find(|o| o.store == store)
            .expect("each has one");
        let co = origin.co("")?;
        ensure!(
            co.state()?.chunks.0 == 0,
            "chunks are lost: {}",
            co.status()?
        );
        co.remove()?;
    }
    Ok(())
}

/// Threads write the same places at the same time, and snapshots are taken meanwhile: each
/// sector of a snapshot is of before, or of one of the writes since.
fn unordered(disks: &Disks, mut random: Random, long: Duration) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 200, 4)?;
    let end = Instant::now() + long;
    while Instant::now() < end {
        let first = next_generation();
        let before = world.now.clone();
        let seeds: Vec<u64> = (0..4).map(|_| random.number()).collect();
        let tags = thread::scope(|scope| -> Result<Vec<u32>> {
            let writers: Vec<_> = seeds
                .into_iter()
                .map(|seed| {
                    let path = co.path();
                    scope.spawn(move || -> Result<()> {
                        let disk = Disk::open(path)?;
                        let mut random = Random::new(seed);
                        for _ in 0..12 {
                            // In one quarter, so that they meet.
                            let (start, count) = random.extent(MIB);
                            write(&disk, start, count)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let mut tags = Vec::new();
            for _ in 0..3 {
                sleep(Duration::from_millis(random.pick(1..40)));
                tags.push(co.take()?);
            }
            for writer in writers {
                writer.join().expect("no panic")?;
            }
            Ok(tags)
        })?;
        let last = next_generation();
        let possible = |sector: u64, found: u32| {
            found == before.generation(sector) || (first..last).contains(&found)
        };
        for tag in tags {
            let device = world.store.cs(&world.origin, tag)?;
            let mut seen = before.clone();
            seen.learn(&device.open_read_only()?, possible)
                .with_context(|| format!("snapshot {tag}"))?;
            device.remove()?;
            world.snapshots.insert(tag, seen);
        }
        world
            .now
            .learn(&co.open_read_only()?, possible)
            .context("the origin")?;
        world.check(&co)?;
        for tag in world.snapshots.keys().copied().collect::<Vec<_>>() {
            world.delete(&co, tag)?;
        }
    }
    co.remove()
}
