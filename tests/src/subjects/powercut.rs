// SPDX-License-Identifier: GPL-2.0

//! The power fails: disks with a write cache lose what was not flushed, in this boot and many
//! times over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::checked;
use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Table};
use crate::effort::usual_or_long;
use crate::io::Disk;
use crate::puppet::Puppet;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, Device, TARGET};

/// Runs the cases.
pub fn run(subject: &mut Subject, _disks: &Disks) {
    let mut random = Random::from_environment("powercut");
    for pages in [1, 4, 16] {
        let random = &mut random;
        subject.case(&format!("chunks of {pages} pages"), || {
            cuts(random, pages, usual_or_long(2, 4))
        });
    }
    subject.case("what is not flushed is lost", || lost(&mut random));
    subject.case("flush and FUA reach the disks", || flushes(&mut random));
    subject.case("a snapshot holds what was not flushed before it", || {
        taken_before_flush(&mut random)
    });
    subject.case("in the middle of a rollback", || rollback(&mut random));
}

const SECTORS: u64 = 8 * MIB;

/// Two disks that can lose their power.
struct Machine {
    origin: Puppet,
    cow: Puppet,
}

impl Machine {
    fn new() -> Result<Self> {
        Ok(Self {
            origin: Puppet::new(8)?,
            cow: Puppet::new(128)?,
        })
    }

    /// Fills the origin, durably.
    fn fill(&self) -> Result<Shadow> {
        let disk = Disk::open(self.origin.path())?;
        let shadow = Shadow::filled(&disk)?;
        disk.flush()?;
        Ok(shadow)
    }

    fn co(&self, options: &str) -> Result<Device> {
        let line = co_line(&self.origin.path(), &self.cow.path(), options);
        let mapped = Mapped::create("co", &Table::new(SECTORS, TARGET, line.clone()));
        Ok(Device(mapped.with_context(|| format!("create {line}"))?))
    }

    fn cs(&self, tag: u32) -> Result<Device> {
        let line = cs_line(&self.origin.path(), &self.cow.path(), tag, "-i o");
        let mapped = Mapped::create("cs", &Table::new(SECTORS, TARGET, line));
        Ok(Device(
            mapped.with_context(|| format!("a device of snapshot {tag}"))?,
        ))
    }

    fn check(&self, tag: u32, shadow: &Shadow) -> Result<()> {
        let cs = self.cs(tag)?;
        shadow
            .check(&cs.open()?)
            .with_context(|| format!("snapshot {tag}"))?;
        cs.remove()
    }

    /// From now on every request fails.
    fn dies(&self) {
        self.cow.dies();
        self.origin.dies();
    }

    /// The power is back when all that used the disks is gone.
    fn comes_back(&self, devices: Vec<Device>, random: &mut Random) -> Result<()> {
        devices.into_iter().try_for_each(Device::remove)?;
        // Nothing in memory may be what saves the day.
        crate::kernel::reload()?;
        self.origin.comes_back(random);
        self.cow.comes_back(random);
        checked::clean(&self.cow.path()).map(drop)
    }
}

/// What is known of a device whose writes may be lost.
struct Known {
    /// What must be there: written and flushed.
    durable: Shadow,
    /// What may be there instead, since the last flush.
    maybe: Vec<(u64, u64, u32)>,
}

impl Known {
    /// Looks at what is there, which becomes what must be there.
    fn learn(&mut self, disk: &Disk) -> Result<()> {
        let then = self.durable.clone();
        let maybe = std::mem::take(&mut self.maybe);
        self.durable.learn(disk, |sector, found| {
            found == then.generation(sector)
                || maybe.iter().any(|&(start, count, generation)| {
                    generation == found && (start..start + count).contains(&sector)
                })
        })
    }

    fn write(&mut self, disk: &Disk, sector: u64, count: u64) -> Result<()> {
        let generation = next_generation();
        self.maybe.push((sector, count, generation));
        write_generation(disk, sector, count, generation)
    }

    fn flush(&mut self, disk: &Disk) -> Result<()> {
        disk.flush()?;
        for (start, count, generation) in self.maybe.drain(..) {
            self.durable.set(start, count, generation);
        }
        Ok(())
    }
}

/// Everything, changed by one thread until the power fails.
struct Story {
    origin: Known,
    snapshots: BTreeMap<u32, Known>,
    /// A message was sent and not answered.
    unanswered: Option<Unanswered>,
}

#[derive(Clone, Copy, Debug)]
enum Unanswered {
    Take,
    Delete(u32),
}

impl Story {
    /// Something more happens. Errors are the power's end.
    fn step(
        &mut self,
        random: &mut Random,
        co: &Device,
        disk: &Disk,
        cs: &BTreeMap<u32, Disk>,
    ) -> Result<()> {
        match random.pick(0..24) {
            0..=11 => {
                let (start, count) = random.extent(SECTORS);
                self.origin.write(disk, start, count.min(300))
            }
            12..=14 => self.origin.flush(disk),
            15..=17 => {
                let tags: Vec<u32> = cs.keys().copied().collect();
                let Some(&tag) = (!tags.is_empty()).then(|| random.one_of(&tags)) else {
                    return Ok(());
                };
                let (start, count) = random.extent(SECTORS);
                let known = self
                    .snapshots
                    .get_mut(&tag)
                    .context("a device without snapshot")?;
                known.write(&cs[&tag], start, count.min(200))?;
                if random.once_in(2) {
                    known.flush(&cs[&tag])?;
                }
                Ok(())
            }
            18..=20 => {
                // What the snapshot holds of writes that were not flushed is durable with it.
                self.unanswered = Some(Unanswered::Take);
                let mut now = self.origin.durable.clone();
                for &(start, count, generation) in &self.origin.maybe {
                    now.set(start, count, generation);
                }
                let tag = co.take()?;
                self.unanswered = None;
                let maybe = Vec::new();
                self.snapshots.insert(
                    tag,
                    Known {
                        durable: now,
                        maybe,
                    },
                );
                Ok(())
            }
            21 => {
                let tags: Vec<u32> = self
                    .snapshots
                    .keys()
                    .copied()
                    .filter(|t| !cs.contains_key(t))
                    .collect();
                if tags.len() < 6 {
                    return Ok(());
                }
                let tag = *random.one_of(&tags);
                self.unanswered = Some(Unanswered::Delete(tag));
                co.delete(tag)?;
                self.unanswered = None;
                self.snapshots.remove(&tag);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn cuts(random: &mut Random, pages: u32, times: u32) -> Result<()> {
    let machine = Machine::new()?;
    let durable = machine.fill()?;
    let mut story = Story {
        origin: Known {
            durable,
            maybe: Vec::new(),
        },
        snapshots: BTreeMap::new(),
        unanswered: None,
    };
    let mut options = format!("-i o -b -F -c {pages}");
    for round in 0..times {
        let co = machine.co(&options)?;
        "-i o".clone_into(&mut options);
        let first = co.take()?;
        story.snapshots.insert(
            first,
            Known {
                durable: story.origin.durable.clone(),
                maybe: Vec::new(),
            },
        );
        let tags: Vec<u32> = story.snapshots.keys().rev().take(2).copied().collect();
        let devices = tags
            .iter()
            .map(|&tag| Ok((tag, machine.cs(tag)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let dead = AtomicBool::new(false);
        let story_lock = Mutex::new(&mut story);
        let delay = random.pick(50..1200);
        let mut random_story = Random::new(random.number());
        thread::scope(|scope| -> Result<()> {
            let teller = scope.spawn(|| -> Result<()> {
                let disk = co.open()?;
                let cs = devices
                    .iter()
                    .map(|(&tag, device)| Ok((tag, device.open()?)))
                    .collect::<Result<BTreeMap<_, _>>>()?;
                let mut story = story_lock.lock().expect("no panic");
                loop {
                    if let Err(e) = story.step(&mut random_story, &co, &disk, &cs) {
                        ensure!(
                            dead.load(Ordering::SeqCst),
                            "before the power failed: {e:#}"
                        );
                        return Ok(());
                    }
                }
            });
            sleep(Duration::from_millis(delay));
            dead.store(true, Ordering::SeqCst);
            machine.dies();
            teller.join().expect("no panic")
        })?;
        let mut all = vec![co];
        all.extend(devices.into_values());
        machine.comes_back(all, random)?;

        let co = machine
            .co(&options)
            .with_context(|| format!("after cut {round}"))?;
        after(&machine, &co, &mut story).with_context(|| format!("after cut {round}"))?;
        co.remove()?;
    }
    Ok(())
}

/// All that was acknowledged is there.
fn after(machine: &Machine, co: &Device, story: &mut Story) -> Result<()> {
    let before = story.origin.durable.clone();
    let maybe = story.origin.maybe.clone();
    story.origin.learn(&co.open()?).context("origin")?;
    // Whatever is on the disk must read the same below.
    story
        .origin
        .durable
        .check(&Disk::open(machine.origin.path())?)?;
    let there = co.list()?.tags();
    match story.unanswered.take() {
        Some(Unanswered::Take) => {
            // It may be there, with what the origin was.
            let newest = there.last().copied().unwrap_or(0);
            if newest > story.snapshots.keys().next_back().copied().unwrap_or(0) {
                let mut known = Known {
                    durable: before,
                    maybe,
                };
                let cs = machine.cs(newest)?;
                known
                    .learn(&cs.open()?)
                    .with_context(|| format!("snapshot {newest}, not answered"))?;
                cs.remove()?;
                story.snapshots.insert(newest, known);
            }
        }
        Some(Unanswered::Delete(tag)) => {
            if !there.contains(&tag) {
                story.snapshots.remove(&tag);
            }
        }
        None => {}
    }
    let expected: Vec<u32> = story.snapshots.keys().copied().collect();
    ensure!(
        there == expected,
        "the snapshots are {there:?}, not {expected:?}"
    );
    for (&tag, known) in &mut story.snapshots {
        let cs = machine.cs(tag)?;
        known
            .learn(&cs.open()?)
            .with_context(|| format!("snapshot {tag}"))?;
        cs.remove()?;
    }
    Ok(())
}

/// Without that, all of the others would prove nothing.
fn lost(random: &mut Random) -> Result<()> {
    let machine = Machine::new()?;
    let mut now = machine.fill()?;
    let before = now.clone();
    let co = machine.co("-i o -b -F -c 1")?;
    now.write(&co.open()?, 0, 800)?;
    let now_then = now.clone();
    machine.dies();
    machine.comes_back(vec![co], random)?;
    let co = machine.co("-i o")?;
    ensure!(
        before.check(&co.open()?).is_ok() || now.check(&co.open()?).is_err(),
        "the disk lost nothing"
    );
    now.learn(&co.open()?, |sector, found| {
        found == now_then.generation(sector) || found == before.generation(sector)
    })?;
    co.remove()
}

/// What one FUA write or one flush acknowledged is there, and each goes to the disk that needs it.
fn flushes(random: &mut Random) -> Result<()> {
    let machine = Machine::new()?;
    let mut now = machine.fill()?;
    let mut options = "-i o -b -F -c 4";
    for round in 0..4 {
        let co = machine.co(options)?;
        options = "-i o";
        let tag = co.take()?;
        let then = now.clone();
        let cs = machine.cs(tag)?;
        let mut snapshot = then.clone();
        let fua = round % 2 == 0;
        {
            let open = |device: &Device| match fua {
                true => Disk::open_fua(device.path()),
                false => Disk::open(device.path()),
            };
            let (origin, shot) = (open(&co)?, open(&cs)?);
            for i in 0..8 {
                now.write(&origin, i * 1000 + round, 9)?;
                snapshot.write(&shot, i * 1000 + 3 + round, 7)?;
            }
            if !fua {
                origin.flush()?;
                shot.flush()?;
            }
        }
        machine.dies();
        machine.comes_back(vec![cs, co], random)?;
        let co = machine.co(options)?;
        now.check(&co.open()?)
            .with_context(|| format!("origin, round {round}"))?;
        machine
            .check(tag, &snapshot)
            .with_context(|| format!("round {round}"))?;
        co.remove()?;
    }
    Ok(())
}

/// The snapshot is as durable as its tag: power cuts take nothing out of it.
fn taken_before_flush(random: &mut Random) -> Result<()> {
    let machine = Machine::new()?;
    let mut now = machine.fill()?;
    let mut options = "-i o -b -F -c 1";
    let mut snapshots = BTreeMap::new();
    for _ in 0..3 {
        let co = machine.co(options)?;
        options = "-i o";
        let disk = co.open()?;
        for i in 0..8 {
            now.write(&disk, random.pick(0..1900) * 8, 1 + i * 3)?;
        }
        snapshots.insert(co.take()?, now.clone());
        drop(disk);
        machine.dies();
        machine.comes_back(vec![co], random)?;
        let co = machine.co(options)?;
        for (&tag, shadow) in &snapshots {
            machine.check(tag, shadow)?;
        }
        now.check(&co.open()?).context("origin")?;
        co.remove()?;
    }
    Ok(())
}

fn rollback(random: &mut Random) -> Result<()> {
    let machine = Machine::new()?;
    let mut now = machine.fill()?;
    let co = machine.co("-i o -b -F -c 1")?;
    let mut snapshots = BTreeMap::new();
    for _ in 0..3 {
        snapshots.insert(co.take()?, now.clone());
        let disk = co.open()?;
        for block in 0..60 {
            now.write(&disk, block * 270 + random.pick(0..250), 8)?;
        }
        disk.flush()?;
    }
    co.remove()?;
    for tag in [1, 3, 2] {
        let co = machine.co("-i o")?;
        co.send(&format!("rs {tag} -b"))?;
        now = snapshots[&tag].clone();
        sleep(Duration::from_millis(random.pick(0..300)));
        machine.dies();
        machine.comes_back(vec![co], random)?;
        let co = machine.co("-i o")?;
        now.check(&co.open()?)
            .with_context(|| format!("origin, rolled back to {tag}"))?;
        co.wait_rollback()?;
        now.check(&co.open()?)?;
        now.check(&Disk::open(machine.origin.path())?)?;
        for (&tag, shadow) in &snapshots {
            machine.check(tag, shadow)?;
        }
        co.remove()?;
    }
    Ok(())
}
