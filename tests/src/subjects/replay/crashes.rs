// SPDX-License-Identifier: GPL-2.0

//! The instants at which a recording can have crashed, tried by several workers.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;

use anyhow::{bail, Context, Result};

use super::bench::Bench;
use super::model::{Model, Progress};
use super::ops::Record;
use super::oracle::Crash;
use super::stage::{Recording, IMAGE};
use crate::kernel;
use crate::random::Random;
use crate::tape::{Event, Left, Reel};

/// A recording, and what was asked for and answered meanwhile.
pub struct Film {
    /// What there was at first.
    pub model: Model,
    /// What was done.
    pub records: Vec<Record>,
    /// For when there is no space.
    pub policy: &'static str,
    /// Crashes before this mark are not tried.
    pub from: u32,
    /// What was written.
    pub recording: Recording,
    /// Right before which events a crash leaves something else than was recorded.
    pub uncertain: Vec<bool>,
}

/// No more is tried after so many that are not as they must be.
const MOST_FAILURES: usize = 20;

/// How far all workers are together.
#[derive(Default)]
struct Count {
    next: AtomicUsize,
    tried: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Count {
    fn failed(&self) -> usize {
        self.failures.lock().expect("no panic").len()
    }

    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            let mut failures = self.failures.lock().expect("no panic");
            failures.push(format!("{error:#}"));
        }
    }
}

/// Memory disks that there are.
const BENCHES: usize = 4;

fn memory_disks() -> Result<()> {
    if !Path::new("/sys/module/brd").exists() {
        let count = format!("rd_nr={BENCHES}");
        let size = format!("rd_size={}", IMAGE / 2);
        kernel::run("modprobe", &["brd", &count, &size, "max_part=0"])?;
    }
    Ok(())
}

/// How much of what could be tried is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Look at every single write too, not only at what makes writes durable.
    pub every: bool,
    /// Make all sorts of choices at each instant, not only the most telling ones.
    pub all_sorts: bool,
    /// Try no more than so many, spread over the recording.
    pub most: usize,
}

/// What to try at an instant: right before `next` happens.
fn choices(reel: &Reel<'_>, before: Option<Event>, effort: Effort) -> &'static [Left] {
    let next = reel.next();
    let barrier = matches!(next, Some(Event::Flushed(_) | Event::Durable(_)) | None);
    if barrier {
        return match (reel.pending(), effort.all_sorts) {
            (0, _) => &[Left::None],
            (1, _) => &[Left::None, Left::All, Left::Torn],
            (_, true) => &[
                Left::None,
                Left::All,
                Left::AllButLast,
                Left::Some,
                Left::Shuffled,
                Left::Torn,
            ],
            (_, false) if reel.at % 2 == 0 => &[Left::None, Left::All, Left::Torn],
            (_, false) => &[Left::None, Left::All, Left::Shuffled],
        };
    }
    // Right after a single write. Each draw of these is another one.
    let single = effort.every && matches!(before, Some(Event::Write(_)));
    match (single, effort.all_sorts, reel.pending()) {
        (false, ..) => &[],
        (true, true, 0..=1) => &[Left::All, Left::Torn],
        (true, true, _) => &[
            Left::None,
            Left::All,
            Left::AllButLast,
            Left::Shuffled,
            Left::Shuffled,
            Left::Torn,
        ],
        // One more at every other.
        (true, false, 2..) if reel.at % 4 == 0 => &[Left::All, Left::Shuffled],
        (true, false, _) if reel.at % 4 == 2 => &[Left::All, Left::None],
        (true, false, _) => &[Left::All],
    }
}

impl Film {
    /// Tries them. Returns how many there were, and how many were left out because the recording
    /// does not tell what they leave.
    pub fn try_all(&self, effort: Effort, workers: usize, seed: u64) -> Result<(usize, usize)> {
        memory_disks()?;
        let (possible, uncertain) = self.possible(effort);
        if possible == 0 {
            bail!("nothing was written");
        }
        let one_in = possible.div_ceil(effort.most).max(1);
        let count = Count::default();
        let results = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers.min(BENCHES))
                .map(|number| {
                    let count = &count;
                    scope.spawn(move || self.work(number, effort, one_in, seed, count))
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        results.into_iter().collect::<Result<Vec<()>>>()?;
        let tried = count.tried.into_inner();
        let failures = count.failures.into_inner().expect("no panic");
        if let Some(first) = failures.first() {
            bail!("{} of {tried} crash points: {first}", failures.len());
        }
        Ok((tried, uncertain))
    }

    /// What to try at an instant, and how much of that is left out because the recording does not tell
    /// what it leaves.
    fn choices(
        &self,
        reel: &Reel<'_>,
        before: Option<Event>,
        effort: Effort,
    ) -> (&'static [Left], usize) {
        if reel.mark < self.from {
            return (&[], 0);
        }
        let choices = choices(reel, before, effort);
        match self.uncertain.get(reel.at) {
            Some(true) => (&[], choices.len()),
            _ => (choices, 0),
        }
    }

    /// How many crashes could be tried, and how many are left out.
    fn possible(&self, effort: Effort) -> (usize, usize) {
        let mut reel = Reel::new(&self.recording.tape, &self.recording.base);
        let mut before = None;
        let (mut possible, mut uncertain) = (0, 0);
        loop {
            let (choices, left_out) = self.choices(&reel, before, effort);
            possible += choices.len();
            uncertain += left_out;
            before = reel.next();
            if before.is_none() {
                return (possible, uncertain);
            }
            reel.step();
        }
    }

    /// Tries what other workers do not: one of each `one_in`.
    fn work(
        &self,
        number: usize,
        effort: Effort,
        one_in: usize,
        seed: u64,
        count: &Count,
    ) -> Result<()> {
        let tape = &self.recording.tape;
        let mut bench = Bench::new(number, self.model.sizes, self.policy)?;
        let mut reel = Reel::new(tape, &self.recording.base);
        let mut progress = Progress::new(self.model.clone(), &self.records);
        let mut image = Vec::new();
        let mut before = None;
        let mut turn = count.next.fetch_add(1, Ordering::Relaxed);
        let (mut point, mut possible) = (0, seed % one_in as u64);
        loop {
            let event = reel.next();
            let (choices, _) = self.choices(&reel, before, effort);
            for &left in choices {
                possible += 1;
                if possible % one_in as u64 != 0 {
                    continue;
                }
                point += 1;
                if point - 1 != turn {
                    continue;
                }
                turn = count.next.fetch_add(1, Ordering::Relaxed);
                if count.failed() >= MOST_FAILURES {
                    return Ok(());
                }
                let mut random = Random::new(seed ^ point as u64);
                reel.image(left, &mut random, &mut image);
                bench.load(&image)?;
                progress.advance(reel.mark);
                let flying = progress.flying(reel.mark);
                let crash = Crash {
                    model: &progress.model,
                    flying: &flying,
                };
                count.tried.fetch_add(1, Ordering::Relaxed);
                let looked = bench.look(&crash, &mut random);
                if looked.is_err() {
                    bench.clear()?;
                }
                count.note(looked.with_context(|| {
                    format!(
                        "crash {point}, seed {seed}: before event {} of {} ({event:?}), mark {}, \
                         {} pending, {left:?} of them left; on their way: {flying:?}",
                        reel.at,
                        tape.events.len(),
                        reel.mark,
                        reel.pending()
                    )
                }));
            }
            if event.is_none() {
                break;
            }
            before = event;
            reel.step();
        }
        Ok(())
    }
}
