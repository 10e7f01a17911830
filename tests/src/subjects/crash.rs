// SPDX-License-Identifier: GPL-2.0

//! The machine is killed in the middle of everything; the next boot looks at what is there.
//!
//! What happens follows from `TEST_SEED`, so the second boot knows it too. How far it came
//! is on a third disk: the number of steps that were acknowledged.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::checked;
use crate::content::next_generation;
use crate::disks::Disks;
use crate::dm::{Mapped, Table};
use crate::io::{Buffer, Disk};
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, Device, TARGET};

const ORIGIN: &str = "/dev/vdb";
const COW: &str = "/dev/vdc";
const LOG: &str = "/dev/vdd";

/// So many steps are acknowledged before the machine may be killed.
const FIRST_STEPS: u64 = 20;

/// Runs until the machine stops. Not to get there is a failure.
pub fn before(subject: &mut Subject, _disks: &Disks) {
    subject.case("until the machine is killed", || {
        let mut story = Story::new()?;
        let mut players = Players::new(&mut story)?;
        let log = Disk::open(LOG)?;
        log.write(0, &Buffer::new(512))?;
        for done in 0.. {
            let step = story.next();
            players
                .play(&story, &step)
                .with_context(|| format!("step {done}: {step:?}"))?;
            story.apply(&step);
            let mut buffer = Buffer::new(512);
            buffer[..8].copy_from_slice(&(done + 1u64).to_le_bytes());
            log.write(0, &buffer)?;
            if done + 1 == FIRST_STEPS {
                println!("# under load");
            }
        }
        Ok(())
    });
}

/// Compares what is there with what was acknowledged.
pub fn after(subject: &mut Subject, _disks: &Disks) {
    subject.case("what was acknowledged is there", || {
        let mut story = Story::new()?;
        let steps = {
            let bytes = Disk::open(LOG)?.read(0, 1)?;
            u64::from_le_bytes(bytes[..8].try_into()?)
        };
        println!("# {steps} steps were acknowledged");
        ensure!(steps >= FIRST_STEPS, "{steps} steps prove nothing");
        checked::clean(Path::new(COW)).context("before activation")?;
        for _ in 0..steps {
            let step = story.next();
            story.apply(&step);
        }
        // The one that was not acknowledged, in part or as a whole.
        let step = story.next();
        compare(&story, &step).with_context(|| format!("after {steps} steps, in {step:?}"))?;
        checked::clean(Path::new(COW)).context("after use")?;
        Ok(())
    });
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Write {
        tag: u32,
        start: u64,
        count: u64,
        generation: u32,
    },
    Flush,
    Take,
    TakeOf(u32),
    Delete(u32),
    RollBack(u32),
}

/// What is to be there, and what happens next.
struct Story {
    random: Random,
    /// By tag; 0 is the origin.
    shadows: BTreeMap<u32, Shadow>,
    next_tag: u32,
}

impl Story {
    fn new() -> Result<Self> {
        let sectors = Disk::open(ORIGIN)?.sectors();
        let seed = std::env::var("TEST_SEED").context("TEST_SEED is needed by both boots")?;
        let mut now = Shadow::zeroed(sectors);
        // Filled in one go, by one generation a stride, as it is done below.
        for start in (0..sectors).step_by(1024) {
            now.set(start, 1024.min(sectors - start), next_generation());
        }
        Ok(Self {
            random: Random::new(seed.parse()?),
            shadows: BTreeMap::from([(0, now)]),
            next_tag: 1,
        })
    }

    fn sectors(&self) -> u64 {
        self.shadows[&0].sectors()
    }

    fn next(&mut self) -> Step {
        let tags: Vec<u32> = self
            .shadows
            .keys()
            .copied()
            .filter(|&tag| tag != 0)
            .collect();
        let kind = self.random.pick(0..100);
        let (start, count) = self.random.extent(self.sectors());
        let count = count.min(400);
        let generation = next_generation();
        let tag = if tags.is_empty() {
            0
        } else {
            *self.random.one_of(&tags)
        };
        match kind {
            60..=77 if tag != 0 => Step::Write {
                tag,
                start,
                count,
                generation,
            },
            78..=81 => Step::Flush,
            82..=89 if tags.len() < 12 => Step::Take,
            90..=92 if tag != 0 && tags.len() < 12 => Step::TakeOf(tag),
            93..=96 if tags.len() > 6 => Step::Delete(tag),
            97..=98 if tag != 0 => Step::RollBack(tag),
            _ => Step::Write {
                tag: 0,
                start,
                count,
                generation,
            },
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write {
                tag,
                start,
                count,
                generation,
            } => {
                let shadow = self.shadows.get_mut(&tag).expect("a tag that is there");
                shadow.set(start, count, generation);
            }
            Step::Flush => {}
            Step::Take => self.copy(0),
            Step::TakeOf(tag) => self.copy(tag),
            Step::Delete(tag) => drop(self.shadows.remove(&tag)),
            Step::RollBack(tag) => {
                let source = self.shadows[&tag].clone();
                self.shadows.insert(0, source);
            }
        }
    }

    fn copy(&mut self, parent: u32) {
        let copy = self.shadows[&parent].clone();
        self.shadows.insert(self.next_tag, copy);
        self.next_tag += 1;
    }
}

fn co(options: &str) -> Result<Device> {
    let sectors = Disk::open(ORIGIN)?.sectors();
    let line = co_line(Path::new(ORIGIN), Path::new(COW), options);
    Ok(Device(Mapped::create(
        "co",
        &Table::new(sectors, TARGET, line),
    )?))
}

fn cs(tag: u32) -> Result<Device> {
    let sectors = Disk::open(ORIGIN)?.sectors();
    let line = cs_line(Path::new(ORIGIN), Path::new(COW), tag, "");
    Ok(Device(Mapped::create(
        "cs",
        &Table::new(sectors, TARGET, line),
    )?))
}

/// The devices that it is played on.
struct Players {
    co: Device,
    origin: Option<Disk>,
    snapshot: Option<(u32, Disk, Device)>,
}

impl Players {
    fn new(story: &mut Story) -> Result<Self> {
        let disk = Disk::open(ORIGIN)?;
        for start in (0..story.sectors()).step_by(1024) {
            let count = 1024.min(story.sectors() - start);
            write_generation(&disk, start, count, story.shadows[&0].generation(start))?;
        }
        let co = co("-b -F -c 2")?;
        let origin = Some(co.open()?);
        Ok(Self {
            co,
            origin,
            snapshot: None,
        })
    }

    fn close_snapshot(&mut self, tag: u32) -> Result<()> {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|(open, ..)| *open == tag)
        {
            let (_, disk, device) = self.snapshot.take().expect("it is there");
            drop(disk);
            device.remove()?;
        }
        Ok(())
    }

    fn snapshot(&mut self, tag: u32) -> Result<&Disk> {
        if self.snapshot.as_ref().is_none_or(|(open, ..)| *open != tag) {
            if let Some((_, disk, device)) = self.snapshot.take() {
                drop(disk);
                device.remove()?;
            }
            let device = cs(tag)?;
            self.snapshot = Some((tag, device.open()?, device));
        }
        Ok(&self.snapshot.as_ref().expect("it is there").1)
    }

    fn play(&mut self, story: &Story, step: &Step) -> Result<()> {
        match *step {
            Step::Write {
                tag,
                start,
                count,
                generation,
            } => {
                let disk = match tag {
                    0 => self.origin.as_ref().context("the origin is open")?,
                    tag => self.snapshot(tag)?,
                };
                write_generation(disk, start, count, generation)?;
                // What is new in a snapshot is durable with the next commit, as in a disk's cache.
                match tag {
                    0 => Ok(()),
                    _ => Ok(disk.flush()?),
                }
            }
            Step::Flush => Ok(self
                .origin
                .as_ref()
                .context("the origin is open")?
                .flush()?),
            Step::Take => {
                let tag = self.co.take()?;
                ensure!(tag == story.next_tag, "tag {tag}, not {}", story.next_tag);
                Ok(())
            }
            Step::TakeOf(parent) => {
                let tag = self.co.take_of(parent)?;
                ensure!(tag == story.next_tag, "tag {tag}, not {}", story.next_tag);
                Ok(())
            }
            Step::Delete(tag) => {
                self.close_snapshot(tag)?;
                self.co.delete(tag)
            }
            Step::RollBack(tag) => {
                self.co.wait_rollback()?;
                self.origin = None;
                self.co.send(&format!("rs {tag} -b"))?;
                self.origin = Some(self.co.open()?);
                Ok(())
            }
        }
    }
}

/// Whether a device holds what it must; of `step`, any part may have been done.
fn compare(story: &Story, step: &Step) -> Result<()> {
    let co = co("")?;
    let mut expected: Vec<u32> = story
        .shadows
        .keys()
        .copied()
        .filter(|&tag| tag != 0)
        .collect();
    let there = co.list()?.tags();
    let mut shadows = story.shadows.clone();
    let mut done = story_after(story, step);
    match step {
        Step::Take | Step::TakeOf(_) if there.contains(&story.next_tag) => {
            expected.push(story.next_tag);
            let copy = done.remove(&story.next_tag).expect("it was applied");
            shadows.insert(story.next_tag, copy);
        }
        Step::Delete(tag) if !there.contains(tag) => {
            expected.retain(|other| other != tag);
            shadows.remove(tag);
        }
        _ => {}
    }
    ensure!(
        there == expected,
        "the snapshots are {there:?}, not {expected:?}"
    );
    for (&tag, shadow) in &shadows {
        let device = if tag == 0 { None } else { Some(cs(tag)?) };
        let disk = device.as_ref().unwrap_or(&co).open()?;
        let mut seen = shadow.clone();
        let result = match *step {
            Step::Write {
                tag: written,
                start,
                count,
                generation,
            } if written == tag => seen.learn(&disk, |sector, found| {
                found == shadow.generation(sector)
                    || found == generation && (start..start + count).contains(&sector)
            }),
            Step::RollBack(_) if tag == 0 => shadow.check(&disk).or_else(|_| done[&0].check(&disk)),
            _ => shadow.check(&disk),
        };
        result.with_context(|| match tag {
            0 => "origin".to_owned(),
            tag => format!("snapshot {tag}"),
        })?;
        drop(disk);
        if let Some(device) = device {
            device.remove()?;
        }
    }
    // And it works on.
    co.wait_rollback()?;
    co.wait_clean()?;
    let tag = co.take()?;
    ensure!(tag >= story.next_tag, "tag {tag} comes again");
    co.remove()
}

fn story_after(story: &Story, step: &Step) -> BTreeMap<u32, Shadow> {
    let mut copy = Story {
        random: story.random.clone(),
        shadows: story.shadows.clone(),
        next_tag: story.next_tag,
    };
    copy.apply(step);
    copy.shadows
}
