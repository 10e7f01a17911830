// SPDX-License-Identifier: GPL-2.0

//! What happens until the machine is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;

use anyhow::{ensure, Context, Result};

use super::log::{Log, State};
use super::model::{Op, Step};
use super::{Generations, Place, COW, FIRST_STEPS, ORIGIN};
use crate::disks::MIB;
use crate::io::Disk;
use crate::random::Random;
use crate::shadow::{write_generation, Shadow};
use crate::store::{until, Device};

/// How many change something at once, each a part of its own.
const THREADS: u64 = 3;

/// So many snapshots there are at most.
const MOST: usize = 10;

/// What a run begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    /// What the last one has left.
    GoOn,
    /// A new store, with too little room or with much.
    Format { little: bool },
    /// New stores, one after the other.
    Formatting,
}

impl Plan {
    /// The first few runs have one of each.
    fn new(run: u32, formatted: bool, random: &mut Random) -> Self {
        let plan = match (run, random.pick(0..10)) {
            (1, _) => Self::Format { little: false },
            (3, _) => Self::Formatting,
            (4, _) => Self::Format { little: true },
            (2 | 5, _) | (_, 0..=6) => Self::GoOn,
            (_, 7..=8) => Self::Format {
                little: random.once_in(2),
            },
            _ => Self::Formatting,
        };
        match plan {
            Self::GoOn if !formatted => Self::Format {
                little: random.once_in(2),
            },
            plan => plan,
        }
    }
}

/// Does something until the end.
pub fn run() -> Result<()> {
    let mut state = match State::load()? {
        Some(state) => state,
        None => first()?,
    };
    state.run += 1;
    let mut random = super::random(state.run)?;
    let plan = Plan::new(state.run, state.formatted, &mut random);
    let pages = *random.one_of(&[1, 1, 2, 4]);
    if let Plan::Format { little } = plan {
        state.cow = match little {
            // Metadata, the journal, and a quarter of the origin.
            true => 4 * MIB + MIB / 4 + 2 * MIB,
            false => Disk::open(COW)?.sectors(),
        };
    }
    println!(
        "# run {}: {plan:?}, {} snapshots, a COW device of {} MiB",
        state.run,
        state.versions.len() - 1,
        state.cow / MIB
    );
    state.save()?;
    let load = Load {
        place: Place::new(state.cow)?,
        log: Log::new(state.run)?,
        generations: Generations::new(state.run, false),
        devices: RwLock::default(),
        answered: AtomicU64::new(0),
        hungry: AtomicBool::new(false),
        failed: Mutex::default(),
    };
    if plan == Plan::Formatting {
        return load.format_for_ever(&mut random);
    }
    let mut manager = Manager {
        load: &load,
        tags: state.versions.keys().copied().filter(|&t| t != 0).collect(),
        next_tag: state.next_tag,
        random: random.clone(),
    };
    match plan {
        Plan::Format { .. } => manager.format(pages)?,
        _ => load.devices.write().expect("no panic").co = Some(load.place.co("")?),
    }
    load.all_at_once(manager, &mut random)
}

/// Before the first run.
fn first() -> Result<State> {
    let disk = Disk::open(ORIGIN)?;
    let generations = Generations::new(0, false);
    let mut now = Shadow::zeroed(disk.sectors());
    for start in (0..disk.sectors()).step_by(1024) {
        let count = 1024.min(disk.sectors() - start);
        let generation = generations.next();
        write_generation(&disk, start, count, generation)?;
        now.set(start, count, generation);
    }
    Ok(State {
        run: 0,
        cow: Disk::open(COW)?.sectors(),
        formatted: false,
        versions: BTreeMap::from([(0, now)]),
        next_tag: 1,
    })
}

#[derive(Default)]
struct Devices {
    co: Option<Device>,
    shots: BTreeMap<u32, Device>,
}

impl Devices {
    fn co(&self) -> Result<&Device> {
        self.co.as_ref().context("the origin's device")
    }

    fn open(&self, tag: u32) -> Result<Disk> {
        match tag {
            0 => self.co()?.open(),
            tag => self.shots.get(&tag).context("a snapshot's device")?.open(),
        }
    }
}

/// What all threads have to do with.
struct Load {
    place: Place,
    log: Log,
    generations: Generations,
    /// Whoever writes has a share of it: alone, nobody has anything open.
    devices: RwLock<Devices>,
    answered: AtomicU64,
    /// Something was refused for lack of space.
    hungry: AtomicBool,
    failed: Mutex<Option<anyhow::Error>>,
}

impl Load {
    /// Notes down what is done before and after it. Tells whether there was space for it.
    fn act(&self, op: &Op, run: impl FnOnce() -> Result<()>) -> Result<bool> {
        let id = self.log.begin(op)?;
        let result = run();
        let step = match &result {
            Err(error) if self.place.is_full(error) => Step::Fails,
            _ => Step::End,
        };
        if step == Step::End {
            result.with_context(|| format!("{op:?}"))?;
        }
        self.log.end(id, &step)?;
        if self.answered.fetch_add(1, Ordering::Relaxed) + 1 == FIRST_STEPS {
            println!("# under load");
        }
        Ok(step == Step::End)
    }

    fn format_for_ever(&self, random: &mut Random) -> Result<()> {
        loop {
            let pages = *random.one_of(&[1, 2, 4, 16]);
            let mut co = None;
            self.act(&Op::Format, || {
                co = Some(self.place.co(&format!("-b -F -c {pages}"))?);
                Ok(())
            })?;
            let co = co.context("a device")?;
            self.act(&Op::Take { parent: 0, tag: 1 }, || co.take().map(drop))?;
            self.write(&co.open()?, 0, (0, self.place.sectors), random)?;
            co.remove()?;
        }
    }

    fn all_at_once(&self, mut manager: Manager<'_>, random: &mut Random) -> Result<()> {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let third = self.place.sectors / THREADS;
                let mut random = Random::new(random.number());
                let part = (number * third, third);
                if number != 0 {
                    scope.spawn(move || self.until_killed(|| self.change(part, &mut random)));
                }
            }
            let part = (0, self.place.sectors / THREADS);
            self.until_killed(|| manager.step(part));
        });
        let failed = self.failed.lock().expect("no panic").take();
        Err(failed.context("the machine has not been killed")?)
    }

    /// Until the machine stops, or something fails.
    fn until_killed(&self, mut step: impl FnMut() -> Result<()>) {
        while self.failed.lock().expect("no panic").is_none() {
            if let Err(error) = step() {
                let mut failed = self.failed.lock().expect("no panic");
                failed.get_or_insert(error);
            }
        }
    }

    /// Changes something in a thread's part.
    fn change(&self, part: (u64, u64), random: &mut Random) -> Result<()> {
        let devices = self.devices.read().expect("no panic");
        let shown: Vec<u32> = devices.shots.keys().copied().collect();
        let tag = match shown.as_slice() {
            [] => 0,
            _ if random.once_in(2) => 0,
            shown => *random.one_of(shown),
        };
        let disk = devices.open(tag)?;
        self.write(&disk, tag, part, random)?;
        // In snapshots, what is not flushed may be lost.
        if random.once_in(if tag == 0 { 12 } else { 3 }) {
            self.act(&Op::Flush { tag }, || Ok(disk.flush()?))?;
        }
        Ok(())
    }

    /// One write, discard or write of zeroes.
    fn write(&self, disk: &Disk, tag: u32, part: (u64, u64), random: &mut Random) -> Result<()> {
        let (start, count) = random.extent(part.1);
        let (start, count) = (part.0 + start, count.min(400));
        let kind = random.pick(0..10);
        let op = match kind {
            0 => Op::Discard { tag, start, count },
            _ => Op::Write {
                tag,
                start,
                count,
                generation: match kind {
                    1 => crate::content::ZERO,
                    _ => self.generations.next(),
                },
            },
        };
        let fits = self.act(&op, || match (&op, kind) {
            (Op::Write { generation, .. }, 2..) => {
                write_generation(disk, start, count, *generation)
            }
            (Op::Write { .. }, _) => Ok(disk.zero_out(start, count)?),
            _ => Ok(disk.discard(start, count)?),
        })?;
        if !fits {
            self.hungry.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The thread that sends messages, too.
struct Manager<'a> {
    load: &'a Load,
    tags: Vec<u32>,
    next_tag: u32,
    random: Random,
}

impl Manager<'_> {
    fn format(&mut self, pages: u32) -> Result<()> {
        let load = self.load;
        let mut co = None;
        load.act(&Op::Format, || {
            co = Some(load.place.co(&format!("-b -F -c {pages}"))?);
            Ok(())
        })?;
        load.devices.write().expect("no panic").co = co;
        (self.tags, self.next_tag) = (Vec::new(), 1);
        Ok(())
    }

    fn step(&mut self, part: (u64, u64)) -> Result<()> {
        if self.load.hungry.swap(false, Ordering::Relaxed) && self.tags.len() > 1 {
            return self.delete(0);
        }
        let some = match self.tags.len() {
            0 => None,
            all => Some(self.random.pick(0..all as u64) as usize),
        };
        match (self.random.pick(0..24), some) {
            (0..=2, _) if self.tags.len() < MOST => self.take(0),
            (3..=4, Some(which)) if self.tags.len() < MOST => self.take(self.tags[which]),
            (5..=7, Some(which)) if self.tags.len() > MOST / 2 => self.delete(which),
            (8, Some(which)) => self.roll_back(which, false),
            (9, Some(which)) if self.tags.len() > 2 => self.roll_back(which, true),
            (10..=12, Some(which)) => self.show(self.tags[which]),
            _ => self.load.change(part, &mut self.random),
        }
    }

    fn take(&mut self, parent: u32) -> Result<()> {
        let tag = self.next_tag;
        let devices = self.load.devices.read().expect("no panic");
        let co = devices.co()?;
        let fits = self.load.act(&Op::Take { parent, tag }, || {
            let taken = match parent {
                0 => co.take()?,
                parent => co.take_of(parent)?,
            };
            ensure!(taken == tag, "tag {taken}, not {tag}");
            Ok(())
        })?;
        if fits {
            self.tags.push(tag);
            self.next_tag += 1;
        }
        Ok(())
    }

    /// Nobody uses the device of a snapshot any more.
    fn hide(&self, tag: u32) -> Result<()> {
        let mut devices = self.load.devices.write().expect("no panic");
        devices.shots.remove(&tag).map_or(Ok(()), Device::remove)
    }

    fn show(&self, tag: u32) -> Result<()> {
        let mut devices = self.load.devices.write().expect("no panic");
        if devices.shots.contains_key(&tag) {
            return Ok(());
        }
        if devices.shots.len() > 2 {
            if let Some((_, device)) = devices.shots.pop_first() {
                device.remove()?;
            }
        }
        let device = self.load.place.cs(tag)?;
        devices.shots.insert(tag, device);
        Ok(())
    }

    fn delete(&mut self, which: usize) -> Result<()> {
        let tag = self.tags[which];
        self.hide(tag)?;
        let devices = self.load.devices.read().expect("no panic");
        let co = devices.co()?;
        let deleted = self.load.act(&Op::Delete { tag }, || co.delete(tag))?;
        ensure!(deleted, "there is no space for a deletion");
        self.tags.remove(which);
        Ok(())
    }

    fn roll_back(&mut self, which: usize, merge: bool) -> Result<()> {
        let tag = self.tags[which];
        self.rest(tag)?;
        if !self.tags.contains(&tag) {
            return Ok(());
        }
        if merge {
            self.hide(tag)?;
        }
        // Nobody may have the origin open.
        let devices = self.load.devices.write().expect("no panic");
        let co = devices.co()?;
        let delete = if merge { "-d" } else { "" };
        let fits = self.load.act(&Op::RollBack { tag, merge }, || {
            co.send(&format!("rs {tag} -b {delete}")).map(drop)
        })?;
        if fits && merge {
            self.tags.retain(|&other| other != tag);
        }
        Ok(())
    }

    /// Waits for the last rollback. If it finds no space, snapshots are deleted.
    fn rest(&mut self, but: u32) -> Result<()> {
        loop {
            let mut full = false;
            until("a rollback", || {
                let devices = self.load.devices.read().expect("no panic");
                let rollback = devices.co()?.state()?.rollback;
                let stopped = rollback.as_ref().and_then(|it| it.stopped.as_deref());
                full = stopped == Some("full");
                ensure!(
                    stopped.is_none() || self.load.place.little && full,
                    "{stopped:?}"
                );
                Ok(rollback.is_none() || full)
            })?;
            if !full {
                return Ok(());
            }
            let which = self.tags.iter().position(|&tag| tag != but).unwrap_or(0);
            if self.tags.is_empty() {
                // What comes free is not there yet.
                thread::sleep(std::time::Duration::from_millis(100));
            } else {
                self.delete(which)?;
            }
        }
    }
}
