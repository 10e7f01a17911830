// SPDX-License-Identifier: GPL-2.0

//! What a store must hold, by what was begun and what was acknowledged. Several threads do things
//! at once, so an operation has a begin and an end, and others may have theirs in between.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::content::ZERO;
use crate::io::Disk;
use crate::shadow::Shadow;

/// Something that is done. Tag 0 is the origin.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The COW device was formatted and the origin bound.
    Format,
    /// A version was written, with zeroes if that is the generation.
    Write {
        tag: u32,
        start: u64,
        count: u64,
        generation: u32,
    },
    /// A version was discarded: what was there stays or becomes zeroes.
    Discard { tag: u32, start: u64, count: u64 },
    /// A version was flushed.
    Flush { tag: u32 },
    /// A snapshot was taken.
    Take { parent: u32, tag: u32 },
    /// A snapshot was deleted.
    Delete { tag: u32 },
    /// The origin was rolled back; with `merge` the snapshot goes at the end. Nothing else happens
    /// between its begin and its end.
    RollBack { tag: u32, merge: bool },
}

/// How far something is.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is asked for.
    Begin(Op),
    /// It is answered.
    End,
    /// It is answered that there is no space for it.
    Fails,
}

/// A range that may hold something else than what must be there otherwise.
#[derive(Clone, Debug)]
struct Maybe {
    start: u64,
    count: u64,
    generation: u32,
    /// Of which operation.
    id: u64,
    /// Acknowledged, so readers have seen it since. Without, nobody can say.
    settled: bool,
}

impl Maybe {
    /// What is left of it without a range.
    fn without(&self, start: u64, count: u64) -> Vec<Self> {
        let (end, own_end) = (start + count, self.start + self.count);
        if own_end <= start || end <= self.start {
            return vec![self.clone()];
        }
        let mut rest = Vec::new();
        if self.start < start {
            rest.push(Self {
                count: start - self.start,
                ..self.clone()
            });
        }
        if end < own_end {
            rest.push(Self {
                start: end,
                count: own_end - end,
                ..self.clone()
            });
        }
        rest
    }
}

/// A version's content as far as it is known.
#[derive(Clone, Debug)]
pub struct Version {
    must: Shadow,
    /// In the order in which they were begun.
    maybe: Vec<Maybe>,
    /// It goes when the rollback to it is over.
    pub leaving: bool,
}

impl Version {
    /// One of which all is known.
    pub fn known(must: Shadow) -> Self {
        Self {
            must,
            maybe: Vec::new(),
            leaving: false,
        }
    }

    /// What is there, if there is no doubt.
    pub fn must(&self) -> &Shadow {
        &self.must
    }

    fn begin(&mut self, id: u64, start: u64, count: u64, generation: u32) {
        self.maybe.push(Maybe {
            start,
            count,
            generation,
            id,
            settled: false,
        });
    }

    /// Makes a range certain: nothing older can be there.
    fn set(&mut self, start: u64, count: u64, generation: u32) {
        self.must.set(start, count, generation);
        let parts = self.maybe.iter();
        self.maybe = parts.flat_map(|part| part.without(start, count)).collect();
    }

    /// Makes certain what `is_durable` says of what is settled.
    fn make_durable(&mut self, is_durable: impl Fn(u64) -> bool) {
        for part in std::mem::take(&mut self.maybe) {
            if part.settled && is_durable(part.id) {
                self.set(part.start, part.count, part.generation);
            } else {
                self.maybe.push(part);
            }
        }
    }

    /// What a snapshot of it holds: what has been read of it is durable with the snapshot.
    fn snapshot(&self) -> Self {
        let mut copy = self.clone();
        copy.leaving = false;
        copy.make_durable(|_| true);
        copy
    }

    /// Reads all of it, by which it is known from now on. Every sector must be what it may be.
    pub fn learn(&self, disk: &Disk) -> Result<Self> {
        let mut now = self.must.clone();
        now.learn(disk, |sector, found| {
            found == self.must.generation(sector)
                || self.maybe.iter().any(|part| {
                    part.generation == found
                        && (part.start..part.start + part.count).contains(&sector)
                })
        })?;
        Ok(Self {
            must: now,
            maybe: Vec::new(),
            leaving: self.leaving,
        })
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Model {
    /// By tag; 0 is the origin.
    pub versions: BTreeMap<u32, Version>,
    /// What the next snapshot is called.
    pub next_tag: u32,
    /// What is asked for and not answered, in that order. Of a snapshot that is being taken with
    /// what it holds, of a rollback with what the origin becomes.
    flying: BTreeMap<u64, (Op, Option<Version>)>,
    /// When a flush began, what was settled by then.
    flushes: BTreeMap<u64, Vec<u64>>,
    /// How many operations were answered.
    pub answered: u64,
}

impl Model {
    /// Nothing is on its way.
    pub fn new(versions: BTreeMap<u32, Version>, next_tag: u32) -> Self {
        Self {
            versions,
            next_tag,
            flying: BTreeMap::new(),
            flushes: BTreeMap::new(),
            answered: 0,
        }
    }

    /// What was asked for and not answered.
    pub fn flying(&self) -> impl Iterator<Item = &Op> {
        self.flying.values().map(|(op, _)| op)
    }

    /// What came of something that was not answered, if it was done.
    pub fn done(&self, is: impl Fn(&Op) -> bool) -> Option<&Version> {
        let mut all = self.flying.values();
        all.find(|(op, _)| is(op)).and_then(|(_, it)| it.as_ref())
    }

    /// Something happens.
    pub fn apply(&mut self, id: u64, step: &Step) -> Result<()> {
        match step {
            Step::Begin(op) => self.begin(id, op),
            Step::End | Step::Fails => {
                let (op, version) = self.flying.remove(&id).context("it has not begun")?;
                self.answered += 1;
                match step {
                    Step::Fails => Ok(()),
                    _ => self.end(id, &op, version),
                }
            }
        }
    }

    fn version(&mut self, tag: u32) -> Result<&mut Version> {
        let version = self.versions.get_mut(&tag);
        version.with_context(|| format!("there is no version {tag}"))
    }

    fn begin(&mut self, id: u64, op: &Op) -> Result<()> {
        let mut result = None;
        match *op {
            Op::Write {
                tag, start, count, ..
            }
            | Op::Discard { tag, start, count } => {
                let generation = match *op {
                    Op::Write { generation, .. } => generation,
                    _ => ZERO,
                };
                self.version(tag)?.begin(id, start, count, generation);
                // A snapshot that is being taken may have it or not.
                for (op, version) in self.flying.values_mut() {
                    match (op, version) {
                        (Op::Take { parent, .. }, Some(version)) if *parent == tag => {
                            version.begin(id, start, count, generation);
                        }
                        _ => {}
                    }
                }
            }
            Op::Flush { tag } => {
                let parts = self.version(tag)?.maybe.iter();
                let settled = parts.filter(|part| part.settled).map(|part| part.id);
                let settled = settled.collect();
                self.flushes.insert(id, settled);
            }
            Op::Take { parent, .. } => result = Some(self.version(parent)?.snapshot()),
            Op::RollBack { tag, .. } => result = Some(self.version(tag)?.snapshot()),
            Op::Format | Op::Delete { .. } => {}
        }
        self.flying.insert(id, (op.clone(), result));
        Ok(())
    }

    fn end(&mut self, id: u64, op: &Op, result: Option<Version>) -> Result<()> {
        match *op {
            Op::Format => {
                self.versions.retain(|&tag, _| tag == 0);
                self.next_tag = 1;
            }
            Op::Write {
                tag,
                start,
                count,
                generation,
            } => {
                let version = self.version(tag)?;
                if tag == 0 {
                    // This machine's disks lose nothing that they have answered.
                    version.set(start, count, generation);
                } else if let Some(part) = version.maybe.iter_mut().find(|part| part.id == id) {
                    part.settled = true;
                }
            }
            Op::Discard { .. } => {}
            Op::Flush { tag } => {
                let settled = self.flushes.remove(&id).unwrap_or_default();
                self.version(tag)?
                    .make_durable(|part| settled.contains(&part));
            }
            Op::Take { tag, .. } => {
                self.versions.insert(tag, result.context("what it holds")?);
                self.next_tag = tag + 1;
            }
            Op::Delete { tag } => drop(self.versions.remove(&tag)),
            Op::RollBack { tag, merge } => {
                self.versions.insert(0, result.context("what it holds")?);
                self.version(tag)?.leaving = merge;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let mut shadow = Shadow::zeroed(16);
        shadow.set(0, 16, 1);
        Model::new(BTreeMap::from([(0, Version::known(shadow))]), 1)
    }

    fn write(tag: u32, start: u64, count: u64, generation: u32) -> Step {
        Step::Begin(Op::Write {
            tag,
            start,
            count,
            generation,
        })
    }

    fn may_hold(version: &Version, sector: u64) -> Vec<u32> {
        let mut all = vec![version.must.generation(sector)];
        let parts = version.maybe.iter();
        let parts = parts.filter(|part| (part.start..part.start + part.count).contains(&sector));
        all.extend(parts.map(|part| part.generation));
        all
    }

    fn play(model: &mut Model, steps: &[(u64, Step)]) {
        for (id, step) in steps {
            model.apply(*id, step).unwrap();
        }
    }

    #[test]
    fn a_snapshot_may_have_what_was_on_its_way() {
        let mut model = model();
        let take = Step::Begin(Op::Take { parent: 0, tag: 1 });
        let steps = [
            (1, write(0, 0, 4, 2)),
            (2, write(0, 4, 4, 3)),
            (2, Step::End),
            (3, take),
            (1, Step::End),
            (4, write(0, 2, 4, 4)),
            (3, Step::End),
            (4, Step::End),
            (5, write(0, 0, 1, 5)),
        ];
        play(&mut model, &steps);
        let (head, shot) = (&model.versions[&0], &model.versions[&1]);
        assert_eq!(may_hold(head, 0), [2, 5]);
        assert_eq!(may_hold(head, 3), [4]);
        assert_eq!(may_hold(shot, 0), [1, 2]);
        assert_eq!(may_hold(shot, 2), [1, 2, 4]);
        assert_eq!(may_hold(shot, 4), [3, 4]);
        assert_eq!(may_hold(shot, 7), [3]);
    }

    #[test]
    fn a_snapshot_keeps_what_was_flushed() {
        let mut model = model();
        let steps = [
            (1, Step::Begin(Op::Take { parent: 0, tag: 1 })),
            (1, Step::End),
            (2, write(1, 0, 4, 2)),
            (2, Step::End),
            (3, write(1, 2, 4, 3)),
            (4, Step::Begin(Op::Flush { tag: 1 })),
            (3, Step::End),
            (4, Step::End),
        ];
        play(&mut model, &steps);
        assert_eq!(may_hold(&model.versions[&1], 1), [2]);
        assert_eq!(may_hold(&model.versions[&1], 2), [2, 3]);
        // A snapshot of it has what was acknowledged.
        let steps = [
            (5, Step::Begin(Op::Take { parent: 1, tag: 2 })),
            (5, Step::End),
        ];
        play(&mut model, &steps);
        assert_eq!(may_hold(&model.versions[&2], 2), [3]);
    }

    #[test]
    fn what_finds_no_space_may_be_there_in_part() {
        let mut model = model();
        play(&mut model, &[(1, write(0, 0, 2, 2)), (1, Step::Fails)]);
        assert_eq!(may_hold(&model.versions[&0], 0), [1, 2]);
    }
}
