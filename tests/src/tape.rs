// SPDX-License-Identifier: GPL-2.0

//! What was written to disks, in order: every write, what made it durable, and marks of what
//! was asked for and answered meanwhile. From it follows what the disks may hold if their power
//! fails at any instant.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::content::SECTOR;
use crate::random::Random;

/// Something that happened. Writes are named by their place in [`Tape::writes`].
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A write is in its disk's cache. From now on it may be durable, each sector by itself.
    Write(usize),
    /// A disk has been flushed: what was in this cache is durable.
    Flushed(u8),
    /// A write with FUA is durable, whatever was written before it.
    Durable(usize),
    /// The test has come to this mark.
    Mark(u32),
}

/// A write, or zeroes, to a range of sectors of the image that all disks are together.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub sector: u64,
    /// How many sectors.
    pub count: u64,
    /// Which disk's cache it went through.
    pub cache: u8,
    /// Where its data begin in [`Tape::data`]; `None` is zeroes.
    data: Option<usize>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The writes.
    pub writes: Vec<Write>,
    data: Vec<u8>,
}

impl Tape {
    fn push(&mut self, sector: u64, count: u64, cache: u8, data: Option<&[u8]>) -> usize {
        let data = data.map(|bytes| {
            self.data.extend_from_slice(bytes);
            self.data.len() - bytes.len()
        });
        self.writes.push(Write {
            sector,
            count,
            cache,
            data,
        });
        let number = self.writes.len() - 1;
        self.events.push(Event::Write(number));
        number
    }

    /// Adds a write of whole sectors.
    pub fn write(&mut self, sector: u64, bytes: &[u8], cache: u8) -> usize {
        self.push(sector, (bytes.len() / SECTOR) as u64, cache, Some(bytes))
    }

    /// Adds a write of zeroes, or a discard of a disk that makes zeroes of it.
    pub fn zero(&mut self, sector: u64, count: u64, cache: u8) -> usize {
        self.push(sector, count, cache, None)
    }
}

/// A tape that is being recorded by several at once.
pub type Recorder = Arc<Mutex<Tape>>;

/// Opens a recorder.
pub fn lock(recorder: &Recorder) -> MutexGuard<'_, Tape> {
    recorder.lock().expect("no panic")
}

/// A part of a write that is in a cache.
#[derive(Clone, Copy, Debug)]
struct Pending {
    write: usize,
    sector: u64,
    count: u64,
}

/// Which of the writes in the caches are left after the power has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// None of them.
    None,
    /// All of them.
    All,
    /// All but the last one.
    AllButLast,
    /// Some of them, in the order in which they were made.
    Some,
    /// Some of them, in any order.
    Shuffled,
    /// Some sectors of some of them, in any order.
    Torn,
}

/// A tape at an instant.
pub struct Reel<'a> {
    tape: &'a Tape,
    /// Events that have happened.
    pub at: usize,
    /// The last mark.
    pub mark: u32,
    stable: Vec<u8>,
    pending: Vec<Pending>,
}

impl<'a> Reel<'a> {
    /// At its beginning: the disks hold `base`.
    pub fn new(tape: &'a Tape, base: &[u8]) -> Self {
        Self {
            tape,
            at: 0,
            mark: 0,
            stable: base.to_vec(),
            pending: Vec::new(),
        }
    }

    /// How many pieces of writes are in caches.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What will happen next.
    pub fn next(&self) -> Option<Event> {
        self.tape.events.get(self.at).copied()
    }

    /// Lets one thing happen.
    pub fn step(&mut self) {
        let Some(event) = self.next() else {
            return;
        };
        self.at += 1;
        match event {
            Event::Write(number) => {
                let write = &self.tape.writes[number];
                self.pending.push(Pending {
                    write: number,
                    sector: write.sector,
                    count: write.count,
                });
            }
            Event::Flushed(cache) => {
                let (tape, stable) = (self.tape, &mut self.stable);
                self.pending.retain(|part| {
                    if tape.writes[part.write].cache == cache {
                        apply(tape, stable, part);
                        return false;
                    }
                    true
                });
            }
            Event::Durable(number) => self.durable(number),
            Event::Mark(mark) => self.mark = mark,
        }
    }

    /// One write is durable, so nothing older can be left of its sectors.
    fn durable(&mut self, number: usize) {
        let write = &self.tape.writes[number];
        let (begin, end) = (write.sector, write.sector + write.count);
        let mut rest = Vec::with_capacity(self.pending.len());
        for part in self.pending.drain(..) {
            if part.write == number {
                continue;
            }
            let part_end = part.sector + part.count;
            if part.write > number || part_end <= begin || end <= part.sector {
                rest.push(part);
                continue;
            }
            if part.sector < begin {
                let count = begin - part.sector;
                rest.push(Pending { count, ..part });
            }
            if end < part_end {
                rest.push(Pending {
                    sector: end,
                    count: part_end - end,
                    ..part
                });
            }
        }
        self.pending = rest;
        let whole = Pending {
            write: number,
            sector: begin,
            count: end - begin,
        };
        apply(self.tape, &mut self.stable, &whole);
    }

    /// What is on the disks if the power fails now.
    pub fn image(&self, left: Left, random: &mut Random, image: &mut Vec<u8>) {
        image.clear();
        image.extend_from_slice(&self.stable);
        let mut parts = self.pending.clone();
        match left {
            Left::None => parts.clear(),
            Left::All => {}
            Left::AllButLast => drop(parts.pop()),
            Left::Some | Left::Shuffled | Left::Torn => {
                let kept_in_8 = *random.one_of(&[1, 4, 4, 7]);
                parts.retain(|_| random.pick(0..8) < kept_in_8);
            }
        }
        if left == Left::Torn {
            parts = parts.iter().flat_map(|part| tear(part, random)).collect();
        }
        if matches!(left, Left::Shuffled | Left::Torn) {
            for i in (1..parts.len()).rev() {
                parts.swap(i, random.pick(0..i as u64 + 1) as usize);
            }
        }
        for part in &parts {
            apply(self.tape, image, part);
        }
    }
}

/// A few runs of sectors of a write.
fn tear(part: &Pending, random: &mut Random) -> Vec<Pending> {
    let mut pieces = Vec::new();
    let mut sector = part.sector;
    let end = part.sector + part.count;
    while sector < end {
        let count = random.pick(1..9).min(end - sector);
        if random.once_in(2) {
            pieces.push(Pending {
                sector,
                count,
                ..*part
            });
        }
        sector += count;
    }
    pieces
}

fn apply(tape: &Tape, image: &mut [u8], part: &Pending) {
    let write = &tape.writes[part.write];
    let len = part.count as usize * SECTOR;
    let to = part.sector as usize * SECTOR;
    let target = &mut image[to..to + len];
    match write.data {
        Some(data) => {
            let from = data + (part.sector - write.sector) as usize * SECTOR;
            target.copy_from_slice(&tape.data[from..from + len]);
        }
        None => target.fill(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(byte: u8) -> [u8; SECTOR] {
        [byte; SECTOR]
    }

    fn firsts(image: &[u8]) -> Vec<u8> {
        image.chunks(SECTOR).map(|s| s[0]).collect()
    }

    #[test]
    fn a_flush_is_of_one_cache() {
        let mut tape = Tape::default();
        tape.write(0, &sector(1), 0);
        tape.write(1, &sector(2), 1);
        tape.events.push(Event::Flushed(1));
        let mut reel = Reel::new(&tape, &vec![0; 2 * SECTOR]);
        let mut image = Vec::new();
        let mut random = Random::new(1);
        (0..3).for_each(|_| reel.step());
        reel.image(Left::None, &mut random, &mut image);
        assert_eq!(firsts(&image), [0, 2]);
        reel.image(Left::All, &mut random, &mut image);
        assert_eq!(firsts(&image), [1, 2]);
    }

    #[test]
    fn nothing_older_is_left_under_fua() {
        let mut tape = Tape::default();
        let three: Vec<u8> = [sector(1), sector(1), sector(1)].concat();
        tape.write(0, &three, 0);
        let fua = tape.write(1, &sector(2), 0);
        tape.events.push(Event::Durable(fua));
        let mut reel = Reel::new(&tape, &vec![0; 3 * SECTOR]);
        (0..3).for_each(|_| reel.step());
        let (mut random, mut image) = (Random::new(1), Vec::new());
        reel.image(Left::All, &mut random, &mut image);
        assert_eq!(firsts(&image), [1, 2, 1]);
        reel.image(Left::None, &mut random, &mut image);
        assert_eq!(firsts(&image), [0, 2, 0]);
    }
}
