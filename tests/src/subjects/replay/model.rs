// SPDX-License-Identifier: GPL-2.0

//! What must be there after a crash, by what was answered before it.

use std::collections::BTreeMap;

use super::ops::{Extent, Op, Record};
use super::stage::{Sizes, ORIGINS};

/// What a version must hold: its sectors as they were durable, or any of the writes since.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// Durable.
    pub must: Vec<u32>,
    /// Since then, oldest first.
    pub maybe: Vec<Extent>,
}

impl Version {
    /// What it held for whoever read it.
    pub fn latest(&self) -> Vec<u32> {
        let mut latest = self.must.clone();
        self.maybe
            .iter()
            .for_each(|extent| set(&mut latest, extent));
        latest
    }

    /// Only its first sectors.
    pub fn truncated(mut self, sectors: usize) -> Self {
        self.must.truncate(sectors);
        self
    }

    fn flush(&mut self) {
        let must = &mut self.must;
        self.maybe.drain(..).for_each(|extent| set(must, &extent));
    }

    /// The first sector that holds what it must not, and that.
    pub fn differs(&self, found: &[u32], flying: &[Extent]) -> Option<(u64, u32)> {
        let mut sectors = found.iter().zip(&self.must).enumerate();
        let wrong = sectors.find(|&(sector, (found, must))| {
            let explains = |extent: &Extent| extent.explains(sector as u64, *found);
            found != must && !self.maybe.iter().chain(flying).any(explains)
        });
        wrong.map(|(sector, (&found, _))| (sector as u64, found))
    }
}

fn set(generations: &mut [u32], extent: &Extent) {
    let range = extent.start as usize..(extent.start + extent.count) as usize;
    generations[range].fill(extent.generation);
}

/// A snapshot.
#[derive(Clone, Debug)]
pub struct Shot {
    /// What it holds.
    pub version: Version,
    /// It goes when a rollback to it is over, and then or now cannot be used.
    pub leaving: bool,
}

/// An origin and its snapshots.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Whether the store knows it.
    pub bound: bool,
    /// What it holds, with the room behind its end.
    pub head: Version,
    /// The snapshots by tag.
    pub shots: BTreeMap<u32, Shot>,
    /// The bookmarks by tag: what the origin held then.
    pub bookmarks: BTreeMap<u32, Vec<u32>>,
    /// Snapshots below this tag may be invalid.
    pub invalid_below: u32,
    /// The snapshot that it is rolled back to when it is activated, and whether that goes then.
    pub deferred: Option<(u32, bool)>,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Model {
    /// There is a store.
    pub formatted: bool,
    /// The origins.
    pub origins: [Origin; ORIGINS],
    /// How large the devices are.
    pub sizes: Sizes,
}

impl Model {
    /// Before anything has happened: `heads` is what the origins hold.
    pub fn new(sizes: Sizes, heads: [Vec<u32>; ORIGINS]) -> Self {
        Self {
            formatted: false,
            origins: heads.map(|must| Origin {
                head: Version {
                    must,
                    maybe: Vec::new(),
                },
                ..Origin::default()
            }),
            sizes,
        }
    }

    fn version(&mut self, origin: usize, tag: u32) -> Option<&mut Version> {
        let origin = &mut self.origins[origin];
        match tag {
            0 => Some(&mut origin.head),
            tag => origin.shots.get_mut(&tag).map(|shot| &mut shot.version),
        }
    }

    /// An operation has been answered.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Format { origin } => {
                self.formatted = true;
                for other in &mut self.origins {
                    other.bound = false;
                    other.shots.clear();
                    other.bookmarks.clear();
                    other.invalid_below = 0;
                    other.deferred = None;
                }
                self.origins[*origin].bound = true;
            }
            Op::Bind { origin } => self.origins[*origin].bound = true,
            Op::Unbind { origin } => {
                self.origins[*origin].bound = false;
                self.origins[*origin].invalid_below = 0;
                self.origins[*origin].deferred = None;
            }
            Op::Write {
                origin,
                tag,
                done,
                durable,
                invalidates,
                ..
            } => {
                if *invalidates {
                    self.invalidate(*origin);
                }
                let Some(version) = self.version(*origin, *tag) else {
                    return;
                };
                for extent in done {
                    if *durable {
                        set(&mut version.must, extent);
                        // Older ones of these sectors cannot come back.
                        version.maybe.retain(|old| !within(old, extent));
                    }
                    version.maybe.push(*extent);
                }
            }
            Op::Flush { origin, tag } => {
                if let Some(version) = self.version(*origin, *tag) {
                    version.flush();
                }
            }
            Op::Take {
                origin,
                parent,
                tag,
                content,
            } => {
                let Some(version) = self.version(*origin, *parent) else {
                    return;
                };
                let latest = content.clone().unwrap_or_else(|| version.latest());
                self.add(*origin, *parent, *tag, latest);
            }
            Op::Mark { origin, tag } => {
                let held = self.taken(*origin, 0);
                self.origins[*origin].bookmarks.insert(*tag, held);
            }
            Op::Keep { origin, tag } => {
                let origin = &mut self.origins[*origin];
                if let Some(shot) = origin.shots.remove(tag) {
                    origin.bookmarks.insert(*tag, shot.version.latest());
                }
            }
            Op::Delete { origin, tag } => {
                let origin = &mut self.origins[*origin];
                origin.shots.remove(tag);
                origin.bookmarks.remove(tag);
            }
            Op::Rollback {
                origin,
                tag,
                merge,
                invalidates,
            } => {
                if *invalidates {
                    self.invalidate(*origin);
                }
                let head = self.rolled_back(*origin, *tag);
                self.goes_back(*origin, *tag, *merge, head);
            }
            Op::Defer { origin, tag, merge } => {
                self.origins[*origin].deferred = Some((*tag, *merge));
            }
            Op::Activate { origin } => {
                let Some((tag, merge)) = self.origins[*origin].deferred.take() else {
                    return;
                };
                if self.origins[*origin].shots.contains_key(&tag) {
                    let head = self.rolled_back(*origin, tag);
                    self.goes_back(*origin, tag, merge, head);
                }
            }
            Op::GrowOrigin { origin, sectors } => self.sizes.origins[*origin] = *sectors,
            Op::GrowCow { sectors } => self.sizes.cow = *sectors,
        }
    }

    /// What the origin is when it is rolled back to a snapshot.
    pub fn rolled_back(&self, origin: usize, tag: u32) -> Version {
        let origin = &self.origins[origin];
        let mut must = origin.head.latest();
        if let Some(shot) = origin.shots.get(&tag) {
            let source = shot.version.latest();
            must[..source.len()].copy_from_slice(&source);
        }
        Version {
            must,
            maybe: Vec::new(),
        }
    }

    /// The same after a crash before it: what the snapshot has in a cache may be lost.
    pub fn going_back(&self, origin: usize, tag: u32) -> Version {
        let mut head = self.origins[origin].head.clone();
        if let Some(shot) = self.origins[origin].shots.get(&tag) {
            let source = &shot.version;
            head.must[..source.must.len()].copy_from_slice(&source.must);
            head.maybe
                .retain(|extent| extent.start >= source.must.len() as u64);
            head.maybe.extend(&source.maybe);
        }
        head
    }

    fn goes_back(&mut self, origin: usize, tag: u32, merge: bool, head: Version) {
        let origin = &mut self.origins[origin];
        origin.head = head;
        if let Some(shot) = origin.shots.get_mut(&tag) {
            shot.leaving = merge;
        }
    }

    /// What a snapshot holds that was taken of `parent`, if nothing was on its way.
    pub fn taken(&self, origin: usize, parent: u32) -> Vec<u32> {
        let from = &self.origins[origin];
        let version = match from.shots.get(&parent) {
            Some(shot) => &shot.version,
            None => &from.head,
        };
        let mut latest = version.latest();
        if parent == 0 {
            latest.truncate(self.sizes.origins[origin] as usize);
        }
        latest
    }

    fn add(&mut self, origin: usize, parent: u32, tag: u32, mut must: Vec<u32>) {
        if parent == 0 {
            must.truncate(self.sizes.origins[origin] as usize);
        }
        let shot = Shot {
            version: Version {
                must,
                maybe: Vec::new(),
            },
            leaving: false,
        };
        self.origins[origin].shots.insert(tag, shot);
    }

    fn invalidate(&mut self, origin: usize) {
        let origin = &mut self.origins[origin];
        let newest = origin.shots.keys().next_back().map_or(0, |tag| tag + 1);
        origin.invalid_below = origin.invalid_below.max(newest);
    }
}

fn within(old: &Extent, new: &Extent) -> bool {
    new.start <= old.start && old.start + old.count <= new.start + new.count
}

/// The model in step with a tape's marks.
pub struct Progress<'a> {
    /// What was answered.
    pub model: Model,
    /// By their ends.
    records: Vec<&'a Record>,
    done: usize,
}

impl<'a> Progress<'a> {
    /// At the beginning.
    pub fn new(model: Model, records: &'a [Record]) -> Self {
        let mut records: Vec<&Record> = records.iter().collect();
        records.sort_by_key(|record| record.end);
        Self {
            model,
            records,
            done: 0,
        }
    }

    /// Goes on to a mark.
    pub fn advance(&mut self, mark: u32) {
        while let Some(record) = self.records.get(self.done) {
            if record.end > mark {
                break;
            }
            self.model.apply(&record.op);
            self.done += 1;
        }
    }

    /// What was asked for before this mark and not answered.
    pub fn flying(&self, mark: u32) -> Vec<&'a Op> {
        let rest = self.records[self.done..].iter();
        rest.filter(|record| record.begin <= mark)
            .map(|record| &record.op)
            .collect()
    }
}
