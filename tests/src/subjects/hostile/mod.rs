// SPDX-License-Identifier: GPL-2.0

//! Metadata that are damaged, and metadata that were forged: thousands of stores, each spoiled
//! in its own way, are activated and used. Where a checksum tells, what is read is right or an
//! error; where none does there may be any content, but the kernel stays whole and nothing hangs.
//!
//! `TEST_IMAGES` says how many (otherwise as many as go into a few minutes), `TEST_SEED` which,
//! `TEST_FIRST` from which one on.

mod image;
mod mutate;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::disks::{Disks, Piece, MIB};
use crate::dm::{Mapped, Table};
use crate::io::Disk;
use crate::kernel::{self, Log};
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{self, Shadow};
use crate::store::{co_line, Device, TARGET};
use crate::world::World;

use image::{Image, Kind, Tree};

/// How long one store may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// Size of the origin, and of the others.
const SECTORS: u64 = 8 * MIB;
const SMALL: u64 = 128;

/// What in the kernel's log means that an image did harm.
const BAD: &[&str] = &[
    "BUG",
    "KASAN",
    "UBSAN",
    "WARNING:",
    "Oops",
    "beyond end of device",
    "recursive lock",
    "blocked for more than",
    "stall",
    "Call Trace",
];

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut place = match Place::new(disks) {
        Ok(place) => place,
        Err(e) => return subject.case("a store with something of everything", || Err(e)),
    };
    subject.case("damaged metadata are never taken for good ones", || {
        place.try_images("damaged", 3, Place::try_damaged)
    });
    subject.case("forged metadata do no harm", || {
        place.try_images("forged", 1, Place::try_forged)
    });
    subject.case("a journal that a crash left is not continued", || {
        place.check_new_transaction()
    });
    subject.case("nothing was written elsewhere", || {
        place.check_surroundings()
    });
    subject.case("the store as it was still works", || place.check_quiet());
    drop(place);
    subject.case("the module can be unloaded", kernel::reload);
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok().and_then(|v| v.parse().ok());
    value.unwrap_or(otherwise)
}

/// Ends the machine when one image takes too long.
struct Watch(Arc<Mutex<(Instant, String)>>);

impl Watch {
    fn new() -> Self {
        let state = Arc::new(Mutex::new((Instant::now(), String::new())));
        let watched = state.clone();
        std::thread::spawn(move || loop {
            sleep(Duration::from_secs(1));
            let Ok(state) = watched.lock() else { return };
            if !state.1.is_empty() && state.0.elapsed() > PATIENCE {
                println!("not ok hostile: it hangs: {}", state.1);
                let _ = std::io::stdout().flush();
                let _ = fs::write("/proc/sysrq-trigger", "w");
                let _ = fs::write("/proc/sysrq-trigger", "l");
                let _ = Command::new("vm-crash").arg("121").status();
                std::process::abort();
            }
        });
        Self(state)
    }

    fn begin(&self, what: &str) {
        if let Ok(mut state) = self.0.lock() {
            *state = (Instant::now(), what.to_owned());
        }
        // If the machine stops here, its log tells where.
        let _ = fs::write("/dev/kmsg", format!("<2>{what}\n"));
    }

    fn end(&self) {
        self.begin("");
    }
}

/// What came of the images.
#[derive(Default)]
struct Outcome {
    /// The store was not opened.
    refused: u64,
    /// It was, and there were errors later on.
    failed: u64,
    /// Nothing was noticed.
    unnoticed: u64,
}

struct Place {
    world: World,
    small: Piece,
    /// Earlier, with changes in the journal, the same closed in order, and in the midst of a rollback
    /// and of cleaning.
    old: Image,
    live: Image,
    quiet: Image,
    busy: Image,
    /// The disk that the COW device is on, where, and what stood beside it.
    around: (PathBuf, u64, u64, Vec<u8>),
    seed: Random,
    watch: Watch,
    log: Log,
    tainted: String,
    /// What went wrong with which images of the case that runs.
    harm: Vec<String>,
}

fn tainted() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/tainted")?)
}

impl Place {
    fn new(disks: &Disks) -> Result<Self> {
        let seed = Random::from_environment("hostile");
        let random = &mut seed.clone();
        // The COW device comes to lie in the midst of its disk.
        let before = disks.piece(MIB)?;
        let (mut world, co) = World::new(disks, SECTORS, 24, 1)?;
        drop(before);
        let small = disks.piece(SMALL)?;
        for i in 0..14 {
            let options = format!("-b -i other{i}");
            let line = co_line(&small.path(), &world.store.cow.path(), &options);
            Device(Mapped::create("co", &Table::new(SMALL, TARGET, line))?).remove()?;
        }
        let mut tags = Vec::new();
        for round in 0..70 {
            let tag = match tags.len() {
                5.. if random.once_in(3) => {
                    let parent = *random.one_of(&tags);
                    let tag = world.take_of(&co, parent)?;
                    let cs = world.cs(tag)?;
                    let many = if round == 30 { 400 } else { 6 };
                    write_some(random, &cs.open()?, many, |disk, at, count| {
                        world.shadow(tag).write(disk, at, count)
                    })?;
                    cs.remove()?;
                    tag
                }
                _ => world.take(&co)?,
            };
            tags.push(tag);
            let many = if round % 10 == 0 { 120 } else { 12 };
            write_some(random, &co.open()?, many, |disk, at, count| {
                world.now.write(disk, at, count)
            })?;
            if round % 9 == 8 {
                let gone = tags.remove(random.pick(0..tags.len() as u64) as usize);
                world.delete(&co, gone)?;
            }
            if round == 40 {
                co.wait_clean()?;
            }
        }
        co.wait_clean()?;
        let old = Image::read(&world.store.cow)?;
        write_some(random, &co.open()?, 200, |disk, at, count| {
            world.now.write(disk, at, count)
        })?;
        let live = Self::make_live(&mut world, random, &co)?;
        co.remove()?;
        let quiet = Image::read(&world.store.cow)?;
        world.check_below()?;
        let busy = Self::make_busy(&mut world, random, &tags)?;
        quiet.write(&world.store.cow)?;

        let (disk, start) = world.store.cow.place();
        let around = (disk.to_owned(), start, world.store.cow.sectors());
        let bytes = surroundings(&around.0, around.1, around.2)?;
        println!("# hostile: blocks of each kind: {}", show(&busy));
        println!("# hostile: with a journal: {}", show(&live));
        Ok(Self {
            world,
            small,
            old,
            live,
            quiet,
            busy,
            around: (around.0, around.1, around.2, bytes),
            seed,
            watch: Watch::new(),
            log: Log::from_now()?,
            tainted: tainted()?,
            harm: Vec::new(),
        })
    }

    /// Changes this and that, so that the journal holds several batches.
    fn make_live(world: &mut World, random: &mut Random, co: &Device) -> Result<Image> {
        let disk = co.open()?;
        for _ in 0..50 {
            let tag = world.take(co)?;
            write_some(random, &disk, 30, |disk, at, count| {
                world.now.write(disk, at, count)
            })?;
            let cs = world.cs(tag)?;
            let child = world.take_of(co, tag)?;
            write_some(random, &cs.open()?, 6, |disk, at, count| {
                world.shadow(tag).write(disk, at, count)
            })?;
            cs.remove()?;
            disk.flush()?;
            let before = Image::read(&world.store.cow)?;
            let live = Image::read(&world.store.cow)?;
            // None of it is written while nothing is asked for, for a while.
            let whole = before.transaction() == live.transaction();
            let batches = live.counts().get(&Kind::Journal).copied();
            if whole && batches.unwrap_or(0) >= 3 {
                return Ok(live);
            }
            world.delete(co, child)?;
        }
        bail!("the journal stays empty")
    }

    /// Begins a rollback and deletes snapshots, and closes the store before that is done.
    fn make_busy(world: &mut World, random: &mut Random, tags: &[u32]) -> Result<Image> {
        let origin = world.origin.piece.open()?.read(0, SECTORS)?;
        let co = world.co()?;
        world.store.cow.slow_reads(20)?;
        co.send(&format!("rs {} -b", tags[3]))?;
        let disk = co.open()?;
        for _ in 0..60 {
            let at = random.pick(SECTORS / 16..SECTORS / 8) * 8;
            shadow::write(&disk, at, 8)?;
        }
        drop(disk);
        // Cleaning may be done before the store is closed; then once more.
        let mut co = Some(co);
        let mut image = None;
        for tags in tags.rchunks(3).take(8) {
            let device = match co.take() {
                Some(device) => device,
                None => world.co()?,
            };
            for &tag in tags {
                device.delete(tag)?;
            }
            device.remove()?;
            let now = Image::read(&world.store.cow)?;
            let done = now.entries(Tree::Cleanings) > 0;
            ensure!(now.entries(Tree::Marks) > 0, "the rollback is done");
            image = Some(now);
            if done {
                break;
            }
        }
        world.store.cow.slow_reads(0)?;
        let image = image.context("no snapshots")?;
        ensure!(image.entries(Tree::Cleanings) > 0, "cleaning is done");
        // What the rollback did to the origin is undone, so that it fits the quiet store.
        world.origin.piece.open()?.write(0, &origin)?;
        Ok(image)
    }

    fn try_images(
        &mut self,
        what: &str,
        part: u64,
        run: fn(&mut Self, &mut Random, &str) -> Result<Outcome>,
    ) -> Result<()> {
        let limit = match std::env::var_os("TEST_IMAGES") {
            Some(_) => Duration::MAX,
            None => Duration::from_secs(150).div_f64(part as f64),
        };
        let count = from_environment("TEST_IMAGES", 6000).div_ceil(part);
        let first = from_environment("TEST_FIRST", 0);
        let begin = Instant::now();
        let mut sum = Outcome::default();
        let mut done = 0u32;
        for n in first..count {
            if begin.elapsed() > limit {
                break;
            }
            done += 1;
            let mut random = Random::new(self.seed.clone().number() ^ ((n << 8) | part));
            let name = format!("{what} image {n}");
            let outcome = match run(self, &mut random, &name) {
                Ok(outcome) => outcome,
                Err(e) => {
                    self.note(format!("{e:#}"));
                    self.judge(&name)?;
                    continue;
                }
            };
            sum.refused += outcome.refused;
            sum.failed += outcome.failed;
            sum.unnoticed += outcome.unnoticed;
        }
        println!(
            "# hostile: {done} {what} images at {:.0} a second: {} not opened, {} with errors, {} not noticed",
            done as f32 / begin.elapsed().as_secs_f32(),
            sum.refused,
            sum.failed,
            sum.unnoticed
        );
        let harm = std::mem::take(&mut self.harm);
        match harm.first() {
            None => Ok(()),
            Some(first) => bail!("{} images did harm; the first: {first}", harm.len()),
        }
    }

    /// Looks at what the kernel said of the image.
    fn judge(&mut self, what: &str) -> Result<()> {
        self.watch.end();
        let lines = self.log.lines()?;
        let is_bad = |line: &&String| BAD.iter().any(|bad| line.contains(bad));
        let now = tainted()?;
        if let Some(line) = lines.iter().find(is_bad) {
            self.note(format!("{what}: the kernel says {line:?}"));
        } else if now != self.tainted {
            self.note(format!("{what}: the kernel is tainted: {now}"));
        }
        self.tainted = now;
        Ok(())
    }

    /// The others are tried all the same: that tells how bad it is.
    fn note(&mut self, what: String) {
        println!("# hostile: {what}");
        self.harm.push(what);
    }

    fn try_damaged(&mut self, random: &mut Random, name: &str) -> Result<Outcome> {
        let mut image = match random.once_in(2) {
            true => self.live.clone(),
            false => self.quiet.clone(),
        };
        let what = format!("{name}: {}", mutate::damage(&mut image, random));
        self.watch.begin(&what);
        image.write(&self.world.store.cow)?;
        let mut outcome = Outcome::default();
        match self.world.co() {
            Err(_) => outcome.refused = 1,
            Ok(co) => {
                let right = self.compare(&co, random).with_context(|| what.clone())?;
                let removed = co.remove().with_context(|| what.clone());
                removed?;
                *(if right {
                    &mut outcome.unnoticed
                } else {
                    &mut outcome.failed
                }) = 1;
            }
        }
        self.judge(&what)?;
        Ok(outcome)
    }

    /// Compares some of all. False if not all of it could be read.
    fn compare(&self, co: &Device, random: &mut Random) -> Result<bool> {
        let mut good = self.look(co, &self.world.now, random).context("origin")?;
        let tags: Vec<u32> = self.world.snapshots.keys().copied().collect();
        for _ in 0..3 {
            let tag = *random.one_of(&tags);
            match self.world.cs(tag) {
                Err(_) => good = false,
                Ok(cs) => {
                    let shadow = &self.world.snapshots[&tag];
                    good &= self
                        .look(&cs, shadow, random)
                        .with_context(|| format!("snapshot {tag}"))?;
                    cs.remove()?;
                }
            }
        }
        good &= co.list().is_ok();
        Ok(good)
    }

    fn look(&self, device: &Device, shadow: &Shadow, random: &mut Random) -> Result<bool> {
        let Ok(disk) = device.open_read_only() else {
            return Ok(false);
        };
        let mut good = true;
        for _ in 0..4 {
            let count = random.pick(1..257);
            let at = random.pick(0..SECTORS - count);
            match disk.read(at, count) {
                Ok(bytes) => shadow.check_bytes(&bytes, at)?,
                Err(_) => good = false,
            }
        }
        Ok(good)
    }

    fn try_forged(&mut self, random: &mut Random, name: &str) -> Result<Outcome> {
        let mut image = match random.pick(0..4) {
            0 => self.quiet.clone(),
            1 => self.live.clone(),
            _ => self.busy.clone(),
        };
        let what = format!("{name}: {}", mutate::forge(&mut image, &self.old, random));
        self.watch.begin(&what);
        image.write(&self.world.store.cow)?;
        let mut outcome = Outcome::default();
        match self.world.co() {
            Err(_) => outcome.refused = 1,
            Ok(co) => {
                let errors = self.use_it(&co, random);
                co.remove().with_context(|| what.clone())?;
                *(if errors == 0 {
                    &mut outcome.unnoticed
                } else {
                    &mut outcome.failed
                }) = 1;
                if errors == 0 && random.once_in(4) {
                    // What has been made of it, once more.
                    if let Ok(co) = self.world.co() {
                        self.use_it(&co, random);
                        co.remove().with_context(|| what.clone())?;
                    }
                }
            }
        }
        self.judge(&what)?;
        Ok(outcome)
    }

    /// Does a bit of this and that, whatever comes of it. Returns how many errors there were.
    fn use_it(&self, co: &Device, random: &mut Random) -> u32 {
        let mut errors = 0;
        let mut note = |good: bool| errors += u32::from(!good);
        note(co.status().is_ok());
        let tags = match co.list() {
            Ok(list) => list.tags(),
            Err(_) => {
                note(false);
                self.world.snapshots.keys().copied().collect()
            }
        };
        for _ in 0..random.pick(3..7) {
            let tag = match tags.is_empty() {
                true => 1,
                false => *random.one_of(&tags),
            };
            match random.pick(0..16) {
                0..=4 => note(some_io(co, random)),
                5..=7 => match self.world.store.cs(&self.world.origin, tag) {
                    Ok(cs) => {
                        note(some_io(&cs, random));
                        note(cs.status().is_ok());
                        note(cs.remove().is_ok());
                    }
                    Err(_) => note(false),
                },
                8 | 9 => note(co.message("so -m hostile").is_ok()),
                10 => note(co.message(&format!("ss {tag}")).is_ok()),
                11 | 12 => note(co.message(&format!("ds {tag}")).is_ok()),
                13 => {
                    let merge = if random.once_in(2) { " -d" } else { "" };
                    note(co.message(&format!("rs {tag} -b{merge}")).is_ok());
                }
                14 => note(self.use_another(random)),
                _ => note(Self::wait_for_background(co, random)),
            }
        }
        note(Self::wait_for_background(co, random));
        note(co.state().is_ok_and(|state| state.state == "valid"));
        errors
    }

    /// Activates, binds or unbinds another origin.
    fn use_another(&self, random: &mut Random) -> bool {
        let other = random.pick(0..16);
        let bind = if random.once_in(2) { "" } else { "-b " };
        let line = co_line(
            &self.small.path(),
            &self.world.store.cow.path(),
            &format!("{bind}-i other{other}"),
        );
        let Ok(other) = Mapped::create("co", &Table::new(SMALL, TARGET, line)) else {
            return false;
        };
        other.message("so").is_ok() && (random.once_in(2) || other.message("do").is_ok())
    }

    /// What runs in the background gets a while.
    fn wait_for_background(co: &Device, random: &mut Random) -> bool {
        let end = Instant::now() + Duration::from_millis(random.pick(0..40));
        while Instant::now() < end {
            match co.state() {
                Ok(state) if state.cleaning.is_none() && state.rollback.is_none() => break,
                Ok(_) => sleep(Duration::from_millis(5)),
                Err(_) => return false,
            }
        }
        true
    }

    fn check_surroundings(&self) -> Result<()> {
        let (disk, start, sectors, before) = &self.around;
        ensure!(
            surroundings(disk, *start, *sectors)? == *before,
            "something was written beside the COW device"
        );
        Ok(())
    }

    /// Whatever there may be in the journal behind what is valid must not become valid by what is
    /// written before it: a new transaction begins.
    fn check_new_transaction(&mut self) -> Result<()> {
        let mut image = self.live.clone();
        image.cut_journal();
        image.write(&self.world.store.cow)?;
        let co = self.world.co()?;
        let now = Image::read(&self.world.store.cow)?.transaction();
        co.remove()?;
        ensure!(now > image.transaction(), "still transaction {now}");
        Ok(())
    }

    fn check_quiet(&mut self) -> Result<()> {
        // Its chunks have been overwritten since; but all of its metadata are there.
        self.quiet.write(&self.world.store.cow)?;
        let co = self.world.co()?;
        let tags = co.list()?.tags();
        let expected: Vec<u32> = self.world.snapshots.keys().copied().collect();
        ensure!(tags == expected, "{tags:?}");
        for tag in tags {
            let cs = self.world.cs(tag)?;
            cs.open_read_only()?.read(0, SECTORS / 4)?;
            cs.remove()?;
        }
        co.remove()
    }
}

fn show(image: &Image) -> String {
    let counts: BTreeMap<Kind, u64> = image.counts();
    let words: Vec<String> = counts
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    words.join(", ")
}

/// A mebibyte on both sides of a piece.
fn surroundings(disk: &PathBuf, start: u64, sectors: u64) -> Result<Vec<u8>> {
    let disk = Disk::open(disk)?;
    let from = start.saturating_sub(MIB);
    let mut bytes = disk.read(from, start - from)?.to_vec();
    let end = (start + sectors + MIB).min(disk.sectors());
    bytes.extend_from_slice(&disk.read(start + sectors, end - start - sectors)?);
    Ok(bytes)
}

/// Reads and writes a little. False if there was an error.
fn some_io(device: &Device, random: &mut Random) -> bool {
    let Ok(disk) = device.open() else {
        return false;
    };
    let mut good = true;
    for _ in 0..2 {
        let (at, count) = random.extent(SECTORS);
        good &= disk.read(at, count.min(64)).is_ok();
        let (at, count) = random.extent(SECTORS);
        good &= shadow::write(&disk, at, count.min(64)).is_ok();
    }
    if random.once_in(8) {
        let (at, count) = random.extent(SECTORS);
        good &= disk.discard(at, count).is_ok();
    }
    good & disk.flush().is_ok()
}

/// Writes here and there, a chunk or a few at a time.
fn write_some(
    random: &mut Random,
    disk: &Disk,
    times: u32,
    mut write: impl FnMut(&Disk, u64, u64) -> Result<()>,
) -> Result<()> {
    for _ in 0..times {
        let count = random.pick(1..4) * 8;
        let at = random.pick(0..(SECTORS - count) / 8 + 1) * 8;
        write(disk, at, count)?;
    }
    Ok(())
}
