// SPDX-License-Identifier: GPL-2.0

//! What is remembered from one boot to the next, on a disk of its own: what everything held when a
//! run began, and each step of the run, before and after it.
//!
//! All of it is text but for the contents, which are a generation a sector.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{bail, ensure, Context, Result};

use super::model::{Model, Op, Step, Version};
use crate::content::SECTOR;
use crate::io::{Buffer, Disk};
use crate::shadow::Shadow;

const LOG: &str = "/dev/vdd";

/// Sectors of the head.
const HEAD: u64 = 8;

/// Where the steps begin.
const STEPS: u64 = 4096;

/// The store, and what there was when a run began.
#[derive(Clone, Debug)]
pub struct State {
    /// Which run.
    pub run: u32,
    /// Sectors of the COW device.
    pub cow: u64,
    /// There is a store.
    pub formatted: bool,
    /// What it holds, of which all is known.
    pub versions: BTreeMap<u32, Shadow>,
    /// What the next snapshot is called.
    pub next_tag: u32,
}

fn text(buffer: &[u8]) -> Result<&str> {
    let end = buffer.iter().position(|&b| b == 0);
    Ok(std::str::from_utf8(&buffer[..end.unwrap_or(buffer.len())])?)
}

impl State {
    /// Reads it. Nothing if there was no run yet.
    pub fn load() -> Result<Option<Self>> {
        let disk = Disk::open(LOG)?;
        let head = disk.read(0, HEAD)?;
        let mut words = text(&head)?.split_whitespace();
        if words.next() != Some("state") {
            return Ok(None);
        }
        let mut number = || -> Result<u64> { Ok(words.next().context("a word")?.parse()?) };
        let mut state = Self {
            run: number()? as u32,
            cow: number()?,
            formatted: number()? != 0,
            next_tag: number()? as u32,
            versions: BTreeMap::new(),
        };
        let sectors = number()?;
        let each = (sectors * 4).div_ceil(SECTOR as u64);
        for i in 0..number()? {
            let tag = number()? as u32;
            let bytes = disk.read(HEAD + i * each, each)?;
            let mut shadow = Shadow::zeroed(sectors);
            for (sector, bytes) in (0..sectors).zip(bytes.chunks_exact(4)) {
                let generation = u32::from_le_bytes(bytes.try_into()?);
                shadow.set(sector, 1, generation);
            }
            state.versions.insert(tag, shadow);
        }
        Ok(Some(state))
    }

    /// Writes it.
    pub fn save(&self) -> Result<()> {
        let disk = Disk::open(LOG)?;
        let sectors = self.versions.values().next().map_or(0, Shadow::sectors);
        let each = (sectors * 4).div_ceil(SECTOR as u64);
        let mut words = format!(
            "state {} {} {} {} {sectors} {}",
            self.run,
            self.cow,
            u8::from(self.formatted),
            self.next_tag,
            self.versions.len()
        );
        for (i, (tag, shadow)) in self.versions.iter().enumerate() {
            words += &format!(" {tag}");
            let mut bytes = Buffer::new(each as usize * SECTOR);
            for (sector, bytes) in (0..sectors).zip(bytes.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&shadow.generation(sector).to_le_bytes());
            }
            let at = HEAD + i as u64 * each;
            ensure!(at + each <= STEPS, "too many snapshots to remember");
            disk.write(at, &bytes)?;
        }
        let mut head = Buffer::new(HEAD as usize * SECTOR);
        head[..words.len()].copy_from_slice(words.as_bytes());
        disk.write(0, &head)?;
        Ok(())
    }

    /// What it was, as a model.
    pub fn model(&self) -> Model {
        let versions = self.versions.iter();
        let versions = versions.map(|(&tag, shadow)| (tag, Version::known(shadow.clone())));
        Model::new(versions.collect(), self.next_tag)
    }
}

/// Where the steps of a run are noted down. What is noted is on the disk.
pub struct Log {
    disk: Disk,
    run: u32,
    next: AtomicU64,
    next_id: AtomicU64,
}

impl Log {
    /// Of this run, empty.
    pub fn new(run: u32) -> Result<Self> {
        Ok(Self {
            disk: Disk::open(LOG)?,
            run,
            next: AtomicU64::new(STEPS),
            next_id: AtomicU64::new(1),
        })
    }

    /// Something begins, which gets a number.
    pub fn begin(&self, op: &Op) -> Result<u64> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.note(id, &Step::Begin(op.clone()))?;
        Ok(id)
    }

    /// It ends.
    pub fn end(&self, id: u64, step: &Step) -> Result<()> {
        self.note(id, step)
    }

    fn note(&self, id: u64, step: &Step) -> Result<()> {
        let at = self.next.fetch_add(1, Ordering::SeqCst);
        ensure!(at < self.disk.sectors(), "the log is full");
        let words = format!("{} {id} {}", self.run, words(step));
        let mut buffer = Buffer::new(SECTOR);
        buffer[..words.len()].copy_from_slice(words.as_bytes());
        Ok(self.disk.write(at, &buffer)?)
    }

    /// Reads what has happened in a run, in order. What several have noted down at once when the
    /// machine was killed may be there in part: whoever could not note it down has not gone on.
    pub fn read(run: u32) -> Result<Vec<(u64, Step)>> {
        let disk = Disk::open(LOG)?;
        let run = run.to_string();
        let mut steps = Vec::new();
        let stride = 256;
        'all: for at in (STEPS..disk.sectors()).step_by(stride) {
            let count = (stride as u64).min(disk.sectors() - at);
            let before = steps.len();
            for bytes in disk.read(at, count)?.chunks_exact(SECTOR) {
                let mut words = text(bytes)?.split_whitespace();
                if words.next() != Some(run.as_str()) {
                    continue;
                }
                let id = words.next().context("a number")?.parse()?;
                let words: Vec<&str> = words.collect();
                steps.push((id, step(&words).with_context(|| words.join(" "))?));
            }
            if steps.len() == before {
                break 'all;
            }
        }
        Ok(steps)
    }
}

fn words(step: &Step) -> String {
    match step {
        Step::End => "ends".into(),
        Step::Fails => "fails".into(),
        Step::Begin(op) => match op {
            Op::Format => "format".into(),
            Op::Write {
                tag,
                start,
                count,
                generation,
            } => format!("write {tag} {start} {count} {generation}"),
            Op::Discard { tag, start, count } => format!("discard {tag} {start} {count}"),
            Op::Flush { tag } => format!("flush {tag}"),
            Op::Take { parent, tag } => format!("take {parent} {tag}"),
            Op::Delete { tag } => format!("delete {tag}"),
            Op::RollBack { tag, merge } => format!("rollback {tag} {}", u8::from(*merge)),
        },
    }
}

fn step(words: &[&str]) -> Result<Step> {
    let number = |i: usize| -> Result<u64> { Ok(words.get(i).context("a word")?.parse()?) };
    let small = |i: usize| -> Result<u32> { Ok(u32::try_from(number(i)?)?) };
    Ok(Step::Begin(match *words.first().context("a word")? {
        "ends" => return Ok(Step::End),
        "fails" => return Ok(Step::Fails),
        "format" => Op::Format,
        "write" => Op::Write {
            tag: small(1)?,
            start: number(2)?,
            count: number(3)?,
            generation: small(4)?,
        },
        "discard" => Op::Discard {
            tag: small(1)?,
            start: number(2)?,
            count: number(3)?,
        },
        "flush" => Op::Flush { tag: small(1)? },
        "take" => Op::Take {
            parent: small(1)?,
            tag: small(2)?,
        },
        "delete" => Op::Delete { tag: small(1)? },
        "rollback" => Op::RollBack {
            tag: small(1)?,
            merge: number(2)? != 0,
        },
        other => bail!("{other} is unknown"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_were_noted() {
        let steps = [
            Step::End,
            Step::Fails,
            Step::Begin(Op::Write {
                tag: 3,
                start: 5,
                count: 7,
                generation: 9,
            }),
            Step::Begin(Op::RollBack {
                tag: 2,
                merge: true,
            }),
            Step::Begin(Op::Take { parent: 0, tag: 4 }),
        ];
        for expected in steps {
            let text = words(&expected);
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(step(&words).unwrap(), expected);
        }
    }
}
