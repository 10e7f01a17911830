// SPDX-License-Identifier: GPL-2.0
//! Receiving, event by event.

mod look;

use super::failure::{Failure, Refusal, Result};
use super::local::Local;
use super::proof::{all, Samples, Witnesses};
use super::state::{Between, State, Taking, Whole, SEGMENTS_MOST};
use super::target::{Notes, Target};
use crate::begin::Begin;
use crate::decoder::{Begun, Ended, Event};
use crate::digest::{of_begin, Digest};
use crate::position::{Counts, Position};
use crate::tally::Tally;
use std::io;

/// How it is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What there is may be written over by what starts from nothing.
    pub force: bool,
    /// What there is is put aside until the segment is whole.
    pub keep: bool,
    /// The whole content is read, to be proven before and noted after.
    pub digest: bool,
}

/// What was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Segments that were written.
    pub segments: u64,
    /// Segments that had been received before.
    pub skipped: u64,
    /// The first one that was written had been begun before.
    pub resumed: bool,
}

/// What is done with the segment that comes.
enum Doing {
    /// None has begun.
    Nothing,
    /// It is there already.
    Skip,
    /// It is read up to the mark that was noted.
    Seek(Box<Between>, Tally),
    /// It is written.
    Write(Box<Between>, Tally, Witnesses),
}

/// Takes what a decoder gives, and makes the target of it.
pub struct Receiver<T, N> {
    target: T,
    notes: N,
    options: Options,
    state: Option<State>,
    doing: Doing,
    received: Received,
    /// The last segment that came, if it had been received before.
    skipped: Option<Digest>,
    /// What the target has taken of itself.
    taken: Vec<Local>,
}

fn target(doing: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Target(doing, error)
}

impl<T: Target, N: Notes> Receiver<T, N> {
    /// For a target, with what is noted of it.
    ///
    /// # Errors
    ///
    /// The notes cannot be read, or make no sense.
    pub fn new(target: T, mut notes: N, options: Options) -> Result<Self> {
        let note = notes
            .load()
            .map_err(|error| Failure::Notes("read", error))?;
        let state = note.map(|note| State::decode(&note)).transpose();
        Ok(Self {
            target,
            notes,
            options,
            state: state.map_err(Refusal::Notes)?,
            doing: Doing::Nothing,
            received: Received::default(),
            skipped: None,
            taken: Vec::new(),
        })
    }

    /// What is noted of the target.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// What has been received.
    pub fn received(&self) -> Received {
        self.received
    }

    /// What the target has taken of itself for what has been received, if it keeps versions of itself.
    pub fn taken(&self) -> &[Local] {
        &self.taken
    }

    /// Of the segment that is being received: what it is of, and how much has been set.
    pub fn progress(&self) -> Option<(&Begin, &Counts)> {
        match &self.doing {
            Doing::Nothing | Doing::Skip => None,
            Doing::Seek(between, tally) | Doing::Write(between, tally, _) => {
                Some((&between.begin, tally.counts()))
            }
        }
    }

    /// Gives back what it was made of.
    pub fn into_parts(self) -> (T, N) {
        (self.target, self.notes)
    }

    /// Takes what comes next in the stream.
    ///
    /// # Errors
    ///
    /// It is not to be received, or something failed. Nothing more may be taken then.
    pub fn take(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Begin(begun) => self.begin(begun),
            Event::Resume(begun, position) => self.resume(begun, position),
            Event::Data(start, bytes) => self.data(*start, bytes),
            Event::Zero(start, sectors) => self.zero(*start, *sectors),
            Event::Mark(position) => self.mark(position),
            Event::End(ended) => self.end(ended),
            Event::Optional(..) => Ok(()),
            Event::Last(_) => self.last(),
        }
    }

    /// All segments may have been there before, and the target be further than the stream leads, or have been
    /// written to since.
    fn last(&mut self) -> Result<()> {
        match &self.state {
            Some(State::Whole(whole))
                if self.skipped.is_some() && self.skipped.as_ref() != whole.segments.last() =>
            {
                Err(Refusal::Holds(Box::new(whole.clone())).into())
            }
            Some(State::Whole(Whole {
                local: Some(local), ..
            })) if self.skipped.is_some() => {
                let unlike = self.target.unlike(local).map_err(target("look at"))?;
                match unlike {
                    Some(why) => Err(Refusal::Unlike(*local, why).into()),
                    None => Ok(()),
                }
            }
            Some(State::Between(between)) => {
                Err(Refusal::Unfinished(Box::new(between.clone())).into())
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, state: State) -> Result<()> {
        let stored = self.notes.store(&state.encode());
        stored.map_err(|error| Failure::Notes("note", error))?;
        self.state = Some(state);
        Ok(())
    }

    fn begin(&mut self, begun: &Begun) -> Result<()> {
        let id = of_begin(&begun.payload);
        let known = |whole: &Whole| whole.segments.contains(&id);
        let force = self.options.force;
        let full = begun.begin.from.is_none();
        self.finish_left(&begun.begin, id)?;
        match self.state.clone() {
            Some(State::Restoring(_)) => Err(Refusal::Restoring.into()),
            Some(State::Between(between)) if between.position.segment == id => {
                self.go_on(between, None)
            }
            Some(State::Between(Between {
                base: Some(base), ..
            })) if known(&base) => self.skip(id),
            Some(State::Between(_)) if full && force => self.start(begun, None),
            Some(State::Between(between)) => Err(Refusal::Unfinished(Box::new(between)).into()),
            Some(State::Whole(whole)) if known(&whole) && !(full && force) => self.skip(id),
            Some(State::Whole(_)) | None => {
                let base = self.may_begin(&begun.begin)?;
                self.start(begun, base)
            }
        }
    }

    fn skip(&mut self, id: Digest) -> Result<()> {
        self.skipped = Some(id);
        self.doing = Doing::Skip;
        Ok(())
    }

    fn resume(&mut self, begun: &Begun, position: &Position) -> Result<()> {
        let ours = match self.state.clone() {
            Some(State::Between(between)) => between,
            Some(State::Restoring(_)) => return Err(Refusal::Restoring.into()),
            _ => return Err(Refusal::OtherPosition(None).into()),
        };
        if ours.position != *position || ours.payload != begun.payload {
            return Err(Refusal::OtherPosition(Some(Box::new(ours))).into());
        }
        if ours.taking.is_some() {
            let id = ours.position.segment;
            self.finish_left(&begun.begin, id)?;
            return self.skip(id);
        }
        self.go_on(ours, Some(position))
    }

    /// Begins to write: all has been looked at.
    fn start(&mut self, begun: &Begun, base: Option<Whole>) -> Result<()> {
        self.need_room(&begun.begin)?;
        let there = self.target.sectors().map_err(target("look at"))?;
        let mut between = Between::new(begun.begin.clone(), begun.payload.clone());
        between.made = base.is_none() && there.is_none();
        between.kept = base.is_some() && self.options.keep;
        between.base = base;
        if between.kept {
            self.target.keep().map_err(Refusal::CannotKeep)?;
        }
        // Before the first byte is.
        self.note(State::Between(between.clone()))?;
        if !between.kept && self.target.has_kept().map_err(target("look at"))? {
            // It was left there, or is given up with what it was put aside for.
            self.target.drop_kept().map_err(target("clean up beside"))?;
        }
        let extended = self.target.extend(begun.begin.size);
        extended.map_err(target("extend"))?;
        let tally = Tally::new(begun.begin.chunk);
        let witnesses = Witnesses::default();
        self.doing = Doing::Write(Box::new(between), tally, witnesses);
        Ok(())
    }

    /// Goes on with what was left off, with a stream that begins at the position or before it.
    fn go_on(&mut self, between: Between, at: Option<&Position>) -> Result<()> {
        self.need_room(&between.begin)?;
        for witness in &between.witnesses {
            let still = witness.still(&mut self.target);
            if !still.map_err(target("read"))? {
                return Err(Refusal::Changed.into());
            }
        }
        if between.position.mark == 0 {
            let extended = self.target.extend(between.begin.size);
            extended.map_err(target("extend"))?;
        }
        self.received.resumed = true;
        let chunk = between.begin.chunk;
        let between = Box::new(between);
        self.doing = match at {
            None if between.position.mark > 0 => Doing::Seek(between, Tally::new(chunk)),
            None => Doing::Write(between, Tally::new(chunk), Witnesses::default()),
            Some(position) => Doing::from(between, position),
        };
        Ok(())
    }

    fn data(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        let sectors = bytes.len() as u64 / crate::frame::SECTOR;
        match &mut self.doing {
            Doing::Nothing | Doing::Skip => {}
            Doing::Seek(_, tally) => tally.range(start, sectors, true),
            Doing::Write(_, tally, witnesses) => {
                self.target.write(start, bytes).map_err(target("write"))?;
                tally.range(start, sectors, true);
                witnesses.wrote(start, bytes);
            }
        }
        Ok(())
    }

    fn zero(&mut self, start: u64, sectors: u64) -> Result<()> {
        match &mut self.doing {
            Doing::Nothing | Doing::Skip => {}
            Doing::Seek(_, tally) => tally.range(start, sectors, false),
            Doing::Write(_, tally, _) => {
                self.target.zero(start, sectors).map_err(target("write"))?;
                tally.range(start, sectors, false);
            }
        }
        Ok(())
    }

    fn mark(&mut self, position: &Position) -> Result<()> {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Seek(between, tally) => {
                let noted = between.position;
                let frame = position.frame;
                if position.mark < noted.mark {
                    self.doing = Doing::Seek(between, tally);
                } else if *position == (Position { frame, ..noted }) {
                    self.doing = Doing::from(between, position);
                } else {
                    return Err(Refusal::OtherStream.into());
                }
            }
            Doing::Write(mut between, tally, witnesses) => {
                // First what it says, then that it says so.
                self.target.sync().map_err(target("sync"))?;
                between.position = *position;
                between.witnesses = witnesses.all().to_vec();
                self.note(State::Between(*between.clone()))?;
                self.doing = Doing::Write(between, tally, witnesses);
            }
            other => self.doing = other,
        }
        Ok(())
    }

    fn end(&mut self, ended: &Ended) -> Result<()> {
        let between = match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing | Doing::Skip => {
                self.received.skipped += 1;
                return Ok(());
            }
            Doing::Seek(..) => return Err(Refusal::OtherStream.into()),
            Doing::Write(between, ..) => between,
        };
        let size = between.begin.size;
        self.target.fit(size).map_err(target("resize"))?;
        self.target.sync().map_err(target("sync"))?;
        let samples = Samples::take(&mut self.target, size, ended.digest);
        let samples = samples.map_err(target("read"))?;
        let digest = match self.options.digest {
            true => Some(all(&mut self.target, size).map_err(target("read"))?),
            false => None,
        };
        let taking = Taking {
            next: Local::default(),
            samples,
            all: digest,
        };
        match self.target.next().map_err(target("look at"))? {
            None => self.note(State::Whole(whole(&between, taking, None)))?,
            Some(next) => {
                let mut between = between.clone();
                between.taking = Some(Taking { next, ..taking });
                // So that what is taken is known again, whatever happens.
                self.note(State::Between(*between.clone()))?;
                self.take_version(&between, Taking { next, ..taking })?;
            }
        }
        self.skipped = None;
        self.received.segments += 1;
        if between.kept {
            self.target.drop_kept().map_err(target("clean up beside"))?;
        }
        Ok(())
    }

    /// What was interrupted when all had been received, but for what the target takes of itself: it is
    /// taken before that is received again, or what follows it.
    fn finish_left(&mut self, begin: &Begin, id: Digest) -> Result<()> {
        let Some(State::Between(between)) = &self.state else {
            return Ok(());
        };
        let Some(taking) = between.taking else {
            return Ok(());
        };
        let content = between.begin.makes();
        let follows = begin.needs().is_some_and(|needs| needs.is(&content));
        if between.position.segment != id && !follows {
            return Ok(());
        }
        let between = between.clone();
        self.prove_content(content.size, &taking.samples, taking.all)?;
        self.take_version(&between, taking)?;
        self.received.resumed = true;
        self.received.segments += 1;
        Ok(())
    }

    /// Has the target take a version of itself, unless it has been taken before, and notes it.
    fn take_version(&mut self, between: &Between, taking: Taking) -> Result<()> {
        let version = &between.begin.to;
        let taken = self.target.taken(&taking.next, version);
        let local = match taken.map_err(target("look at"))? {
            Some(local) => local,
            None => {
                let taken = self.target.take(&between.begin.makes());
                taken.map_err(target("take a snapshot of"))?
            }
        };
        self.note(State::Whole(whole(between, taking, Some(local))))?;
        self.taken.push(local);
        Ok(())
    }
}

/// What is noted when a segment is whole.
fn whole(between: &Between, taking: Taking, local: Option<Local>) -> Whole {
    let mut segments = match (&between.base, &between.begin.from) {
        (Some(base), Some(_)) => base.segments.clone(),
        _ => Vec::new(),
    };
    segments.push(between.position.segment);
    let too_many = segments.len().saturating_sub(SEGMENTS_MOST);
    segments.drain(..too_many);
    Whole {
        content: between.begin.makes(),
        identity: between.begin.identity.clone(),
        samples: taking.samples,
        all: taking.all,
        segments,
        local,
    }
}

impl Doing {
    /// Writing from a position on.
    fn from(between: Box<Between>, position: &Position) -> Self {
        let tally = Tally::resumed(between.begin.chunk, position);
        let witnesses = Witnesses::new(&between.witnesses);
        Self::Write(between, tally, witnesses)
    }
}
