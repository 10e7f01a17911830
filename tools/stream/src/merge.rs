// SPDX-License-Identifier: GPL-2.0
//! Two segments that follow one another, made into one.
//!
//! How much there is of it must stand in its beginning, so both are read twice: the first time to
//! look whether they are whole and belong together, and to count.

use crate::begin::Begin;
use crate::decoder::{Decoder, Event};
use crate::encoder::Encoder;
use crate::error::{Error, Fault};
use crate::frame::SECTOR;
use crate::position::Counts;
use crate::tally::Tally;
use std::fmt;
use std::io::{Read, Write};

/// Which of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The earlier one.
    First,
    /// The later one.
    Second,
    /// What is made of them.
    Merged,
}

/// Why two streams cannot be merged.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong with one.
    Stream(Which, Error),
    /// One is not a single segment from its beginning.
    NotOne(Which),
    /// The second does not begin where the first one ends.
    Apart(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |which: &Which| match which {
            Which::First => "the first stream",
            Which::Second => "the second stream",
            Which::Merged => "the merged stream",
        };
        match self {
            Self::Stream(which, error) => write!(f, "{}: {error}", name(which)),
            Self::NotOne(which) => write!(
                f,
                "{} is not of one segment from its beginning to its end",
                name(which)
            ),
            Self::Apart(why) => write!(
                f,
                "the second stream does not begin with the version that the first one leads to: {why}"
            ),
        }
    }
}

impl std::error::Error for Failure {}

type Result<T> = std::result::Result<T, Failure>;

/// What is left of a range, and its data if it has any.
struct Cursor<R> {
    decoder: Decoder<R>,
    which: Which,
    start: u64,
    end: u64,
    data: bool,
    bytes: Vec<u8>,
    /// Where among these `start` is.
    gone: usize,
    ended: bool,
}

impl<R: Read> Cursor<R> {
    /// At a stream's first segment.
    fn open(mut decoder: Decoder<R>, which: Which) -> Result<(Self, Begin)> {
        let begun = match decoder.event() {
            Ok(Event::Begin(begun)) => begun,
            Ok(_) => return Err(Failure::NotOne(which)),
            Err(error) => return Err(Failure::Stream(which, error)),
        };
        let mut cursor = Self {
            decoder,
            which,
            start: 0,
            end: 0,
            data: false,
            bytes: Vec::new(),
            gone: 0,
            ended: false,
        };
        cursor.next()?;
        Ok((cursor, begun.begin))
    }

    /// The next range, or the end of the stream.
    fn next(&mut self) -> Result<()> {
        let which = self.which;
        while !self.ended {
            let event = self.decoder.event();
            match event.map_err(|error| Failure::Stream(which, error))? {
                Event::Data(start, bytes) => {
                    self.start = start;
                    self.end = start + bytes.len() as u64 / SECTOR;
                    self.data = true;
                    self.gone = 0;
                    self.bytes.clear();
                    self.bytes.extend(bytes);
                    return Ok(());
                }
                Event::Zero(start, sectors) => {
                    self.start = start;
                    self.end = start + sectors;
                    self.data = false;
                    return Ok(());
                }
                Event::Mark(_) | Event::Optional(..) | Event::End(_) => {}
                Event::Last(_) => self.ended = true,
                Event::Begin(_) | Event::Resume(..) => return Err(Failure::NotOne(which)),
            }
        }
        Ok(())
    }

    /// Where it goes on; none: it does not.
    fn at(&self) -> Option<u64> {
        (!self.ended).then_some(self.start)
    }

    /// Gives what is below `end` to `out`, and goes on behind.
    fn give(&mut self, end: u64, out: &mut dyn Out) -> Result<()> {
        let end = end.min(self.end);
        let sectors = end.saturating_sub(self.start);
        if sectors > 0 {
            let len = if self.data {
                (sectors * SECTOR) as usize
            } else {
                0
            };
            let bytes = self.bytes.get(self.gone..self.gone + len);
            let bytes = bytes.filter(|_| self.data);
            out.set(self.start, sectors, bytes)?;
        }
        self.skip(end)
    }

    /// Goes on at `to` if it is not behind that already.
    fn skip(&mut self, to: u64) -> Result<()> {
        while !self.ended && self.end <= to {
            self.next()?;
        }
        if self.start < to && !self.ended {
            if self.data {
                self.gone += ((to - self.start) * SECTOR) as usize;
            }
            self.start = to;
        }
        Ok(())
    }
}

/// What takes the ranges.
trait Out {
    fn set(&mut self, start: u64, sectors: u64, bytes: Option<&[u8]>) -> Result<()>;
}

impl Out for Tally {
    fn set(&mut self, start: u64, sectors: u64, _: Option<&[u8]>) -> Result<()> {
        self.range(start, sectors, false);
        Ok(())
    }
}

struct Written<'a, W> {
    encoder: &'a mut Encoder<W>,
    watch: &'a mut dyn FnMut(&Counts),
}

impl<W: Write> Out for Written<'_, W> {
    fn set(&mut self, start: u64, sectors: u64, bytes: Option<&[u8]>) -> Result<()> {
        let set = match bytes {
            Some(bytes) => self.encoder.data(start, bytes),
            None => self.encoder.zero(start, sectors),
        };
        set.map_err(|error| Failure::Stream(Which::Merged, error))?;
        (self.watch)(&self.encoder.counts());
        Ok(())
    }
}

/// Goes through both at once, as far as the device reaches in the end. The later one wins.
fn both<R: Read, S: Read>(
    first: &mut Cursor<R>,
    second: &mut Cursor<S>,
    size: u64,
    out: &mut dyn Out,
) -> Result<()> {
    loop {
        match (first.at().filter(|at| *at < size), second.at()) {
            (None, None) => break,
            (Some(_), None) => first.give(size, out)?,
            (Some(a), Some(b)) if a < b => first.give(b.min(size), out)?,
            (_, Some(_)) => {
                let end = second.end;
                second.give(end, out)?;
                first.skip(end)?;
            }
        }
    }
    // What is left of the first is behind the device's end.
    first.skip(u64::MAX)
}

/// Looks at both streams, and says what a segment is of that leads from where the first one begins
/// to where the second one ends.
///
/// # Errors
///
/// They cannot be merged.
pub fn plan<R: Read, S: Read>(first: Decoder<R>, second: Decoder<S>) -> Result<Begin> {
    let (mut first, earlier) = Cursor::open(first, Which::First)?;
    let (mut second, later) = Cursor::open(second, Which::Second)?;
    let Some(base) = later.needs() else {
        return Err(Failure::Apart("it begins from nothing"));
    };
    base.compare(&earlier.makes()).map_err(Failure::Apart)?;
    if earlier.chunk != later.chunk {
        return Err(Failure::Apart("it has another size of chunks"));
    }
    let mut tally = Tally::new(later.chunk);
    both(&mut first, &mut second, later.size, &mut tally)?;
    let begin = Begin {
        compat: 0,
        from: earlier.from,
        from_size: earlier.from_size,
        ..later
    };
    Ok(begin.with_counts(tally.counts()))
}

/// Writes what [`plan`] has said, of the same streams read once more: a segment, and not the stream's
/// end. `watch` is told how much has been set each time something was.
///
/// # Errors
///
/// They are not the same any more, or the stream could not be written.
pub fn write<R: Read, S: Read, W: Write>(
    begin: &Begin,
    first: Decoder<R>,
    second: Decoder<S>,
    encoder: &mut Encoder<W>,
    watch: &mut dyn FnMut(&Counts),
) -> Result<Counts> {
    let merged = |error| Failure::Stream(Which::Merged, error);
    let (mut first, earlier) = Cursor::open(first, Which::First)?;
    let (mut second, later) = Cursor::open(second, Which::Second)?;
    if (later.to, earlier.from) != (begin.to.clone(), begin.from.clone()) {
        return Err(merged(encoder.at(Fault::Misused(
            "the streams have changed since they were looked at",
        ))));
    }
    encoder.begin(begin).map_err(merged)?;
    let mut out = Written { encoder, watch };
    both(&mut first, &mut second, begin.size, &mut out)?;
    out.encoder.end().map_err(merged)
}
