// SPDX-License-Identifier: GPL-2.0
//! `dms verify`

use super::print;
use super::tag;
use crate::cli::Verify;
use crate::failure::{diff, Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::peer::words::DIGESTS;
use crate::peer::{Peer, Place};
use crate::progress::Progress;
use crate::sender::Sender;
use crate::thing::{Digest, Meant, Thing};
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use std::ffi::OsStr;
use std::thread;

/// Sectors of the blocks that are compared first.
const LARGE: u64 = 2048;

/// And of those that are looked at where these differ.
const SMALL: u64 = 8;

pub fn run(args: &Verify) -> Result<u8> {
    compare(args).map_err(Failure::as_diff)
}

/// One of both.
pub(super) enum Side {
    Here(Thing),
    There(Peer),
}

impl Side {
    fn open(word: &str, rsh: &str, interrupt: &Interrupt) -> Result<Self> {
        let place = Place::parse(word.as_ref());
        match place.host {
            None => Ok(Self::Here(open(word, interrupt)?)),
            Some(_) => Ok(Self::There(Peer::look(&place, rsh)?)),
        }
    }

    fn sectors(&mut self) -> Result<u64> {
        match self {
            Self::Here(thing) => Ok(thing.sectors()),
            Self::There(peer) => peer.size(),
        }
    }

    fn digests(&mut self, start: u64, sectors: u64, each: u64) -> Result<Vec<Digest>> {
        match self {
            Self::Here(thing) => thing.digests(start, sectors, each),
            Self::There(peer) => peer.digests(start, sectors, each),
        }
    }
}

/// What is meant by a word, to be read.
pub(super) fn open(word: &str, interrupt: &Interrupt) -> Result<Thing> {
    let (dm_dev, number) = match Meant::by(word)? {
        Meant::Path(path) => return Thing::at(word, &path, interrupt.clone()),
        Meant::Snapshot(dm_dev, number) => (dm_dev, number),
    };
    let to = Tag::new(tag(&number)?).ok_or_else(|| hints::failure(Refusal::UnknownTag))?;
    snapshot(word, dm_dev.as_ref(), None, to, interrupt)
}

/// A snapshot, to be read: of the origin that a device is of, or with a COW device, of that origin.
pub(super) fn snapshot(
    name: &str,
    dm_dev: &OsStr,
    cow: Option<&OsStr>,
    tag: Tag,
    interrupt: &Interrupt,
) -> Result<Thing> {
    let sender = Sender::find(dm_dev, cow, interrupt.clone())?;
    let plan = sender.plan(tag, None)?;
    let shown = sender.show(&plan)?;
    let sectors = plan.begin.size;
    Ok(Thing::shown(name, shown, sectors, interrupt.clone()))
}

/// The same of both, at once.
fn both(sides: &mut [Side; 2], start: u64, sectors: u64, each: u64) -> Result<[Vec<Digest>; 2]> {
    let [one, other] = sides;
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| one.digests(start, sectors, each));
        let other = other.digests(start, sectors, each);
        (one.join(), other)
    });
    let one = one.map_err(|_| Failure::new(Kind::Refused, "a thread has ended"))?;
    let (one, other) = (one?, other?);
    match one.len() == other.len() {
        true => Ok([one, other]),
        false => Err(Failure::new(
            Kind::Refused,
            "the other side has answered something else",
        )),
    }
}

fn compare(args: &Verify) -> Result<u8> {
    let interrupt = Interrupt::watch()?;
    let mut sides = [
        Side::open(&args.one, &args.rsh, &interrupt)?,
        Side::open(&args.other, &args.rsh, &interrupt)?,
    ];
    let [one, other] = &mut sides;
    let sizes = [one.sectors()?, other.sectors()?];
    let end = sizes[0].min(sizes[1]);
    let mut ranges = differing(&mut sides, end, args.quiet, &interrupt)?;
    if sizes[0] != sizes[1] {
        ranges.add(end, sizes[0].max(sizes[1]) - end);
    }
    if !args.quiet {
        print(&ranges.text())?;
    }
    Ok(match ranges.any() {
        false => diff::SAME,
        true => diff::DIFFER,
    })
}

/// What differs of the first `end` sectors; if `first`, there may be more of it than that.
pub(super) fn differing(
    sides: &mut [Side; 2],
    end: u64,
    first: bool,
    interrupt: &Interrupt,
) -> Result<Ranges> {
    let mut ranges = Ranges::default();
    let mut progress = Progress::new();
    let mut at = 0;
    while at < end && !(first && ranges.any()) {
        if interrupt.came() {
            return Err(Failure::new(Kind::Interrupted, "interrupted"));
        }
        let sectors = (end - at).min(LARGE * DIGESTS);
        let [one, other] = both(sides, at, sectors, LARGE)?;
        let pairs = one.iter().zip(&other).zip((at..).step_by(LARGE as usize));
        for (_, start) in pairs.filter(|((one, other), _)| one != other) {
            let sectors = (end - start).min(LARGE);
            let [one, other] = both(sides, start, sectors, SMALL)?;
            let pairs = one
                .iter()
                .zip(&other)
                .zip((start..).step_by(SMALL as usize));
            for (_, first) in pairs.filter(|((one, other), _)| one != other) {
                ranges.add(first, (end - first).min(SMALL));
            }
        }
        at += sectors;
        progress.part("comparing", at, end);
    }
    progress.done();
    Ok(ranges)
}

/// What differs: first sector, and how many.
#[derive(Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn any(&self) -> bool {
        self.first().is_some()
    }

    /// The first sector of it.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.first().map(|(start, _)| *start)
    }

    fn add(&mut self, first: u64, sectors: u64) {
        match self.0.last_mut() {
            Some((start, len)) if *start + *len == first => *len += sectors,
            _ => self.0.push((first, sectors)),
        }
    }

    /// In bytes.
    fn text(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(start, len)| format!("{} {}\n", start * 512, len * 512));
        lines.collect()
    }
}
