// SPDX-License-Identifier: GPL-2.0
//! Writes streams.

use crate::begin::Begin;
use crate::digest::{of_begin, Digest, Running, Whole};
use crate::error::{Error, Fault, Result};
use crate::frame::{kind, Header, COMPRESSED, MAGIC, OPTIONAL, PAYLOAD, SECTOR, VERSION};
use crate::ledger::{Ledger, MARK_EVERY};
use crate::position::{Counts, Position};
use std::io::{self, Write};

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Level of zstd's; 0: nothing is compressed.
    pub level: i32,
    /// Bytes of data from one mark to the next, at least those of a frame and at most [`MARK_EVERY`].
    pub mark_every: u64,
    /// Bytes that a frame stands for at most: a power of two, at most [`PAYLOAD`]. A chunk always has
    /// room.
    pub frame: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: 1,
            mark_every: MARK_EVERY,
            frame: PAYLOAD as u64,
        }
    }
}

/// A segment that is being written.
struct Segment {
    ledger: Ledger,
    running: Running,
    id: Digest,
    /// Zeroes that have not been written yet: first sector, and how many.
    zeroes: (u64, u64),
    /// Data that have not: first sector, and the bytes.
    start: u64,
    held: Vec<u8>,
}

static ZEROES: [u8; PAYLOAD] = [0; PAYLOAD];

/// Writes a stream to where bytes can be written one behind the other. It holds at most a few
/// MiB. Frames are as long as they may be, however the data are handed over, and end at multiples of
/// that on the device.
///
/// After an error it is of no more use.
pub struct Encoder<W> {
    writer: W,
    options: Options,
    frame: u64,
    offset: u64,
    segment: Option<Segment>,
    whole: Whole,
    segments: u64,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// At the beginning of a stream.
    ///
    /// # Errors
    ///
    /// zstd does not know the level.
    pub fn new(writer: W, options: Options) -> io::Result<Self> {
        let zstd = match options.level {
            0 => None,
            level => Some(zstd::bulk::Compressor::new(level)?),
        };
        Ok(Self {
            writer,
            options,
            frame: 0,
            offset: 0,
            segment: None,
            whole: Whole::default(),
            segments: 0,
            zstd,
            packed: Vec::new(),
        })
    }

    /// What went wrong, where it has come to.
    pub(crate) fn at(&self, fault: Fault) -> Error {
        Error {
            frame: self.frame,
            offset: self.offset,
            fault,
        }
    }

    fn misused(&self, what: &'static str) -> Error {
        self.at(Fault::Misused(what))
    }

    /// Writes a frame as it is.
    fn put(&mut self, mut header: Header, payload: &[u8]) -> Result<()> {
        header.len = payload.len() as u32;
        header.sum = crc32c::crc32c(payload);
        let bytes = header.encode(self.frame);
        self.writer
            .write_all(&bytes)
            .and_then(|()| self.writer.write_all(payload))
            .map_err(|error| self.at(Fault::Io(error)))?;
        self.frame += 1;
        self.offset += (bytes.len() + payload.len()) as u64;
        Ok(())
    }

    /// Begins a segment.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: one has not been ended, or what it is of makes no sense. Else it could not
    /// be written.
    pub fn begin(&mut self, begin: &Begin) -> Result<()> {
        if self.segment.is_some() {
            return Err(self.misused("the segment before has not been ended"));
        }
        let payload = begin.encode().map_err(|fault| self.at(fault))?;
        let header = Header {
            kind: kind::BEGIN,
            a: MAGIC,
            b: VERSION.into(),
            ..Header::default()
        };
        self.put(header, &payload)?;
        let id = of_begin(&payload);
        self.segment = Some(Segment::new(Ledger::new(begin.clone()), id, &id));
        Ok(())
    }

    /// Begins a stream in the midst of a segment, at a position that a receiver has noted. It is to
    /// be followed by all that the segment sets from the position's sector on.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: the position is not one of this segment. Else it could not be written.
    pub fn resume(&mut self, begin: &Begin, position: &Position) -> Result<()> {
        if self.segment.is_some() || self.frame > 0 {
            return Err(self.misused("a stream is only resumed at its beginning"));
        }
        let begun = begin.encode().map_err(|fault| self.at(fault))?;
        let id = of_begin(&begun);
        if position.segment != id {
            return Err(self.misused("the position is one of something else"));
        }
        let ledger = Ledger::resumed(begin.clone(), position);
        let ledger = ledger.map_err(|what| self.misused(what))?;
        let header = Header {
            kind: kind::RESUME,
            a: MAGIC,
            b: VERSION.into(),
            ..Header::default()
        };
        let mut payload = position.encode().to_vec();
        payload.extend(begun);
        self.put(header, &payload)?;
        self.frame = position.frame;
        self.segment = Some(Segment::new(ledger, id, &position.digest));
        Ok(())
    }

    fn segment(&mut self) -> Result<&mut Segment> {
        let (frame, offset) = (self.frame, self.offset);
        self.segment.as_mut().ok_or(Error {
            frame,
            offset,
            fault: Fault::Misused("no segment has been begun"),
        })
    }

    /// Sets whole sectors from `start` on, behind all that was set before. Chunks that are zeroes
    /// need not be known to be.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: they do not belong there. Else it could not be written; that may be of what
    /// was set earlier.
    pub fn data(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 % SECTOR != 0 {
            return Err(self.misused("these are no whole sectors"));
        }
        let chunk = u64::from(self.segment()?.ledger.begin().chunk);
        let (mut start, mut rest) = (start, bytes);
        while !rest.is_empty() {
            // Up to the end of a chunk.
            let sectors = chunk - start % chunk;
            let len = (sectors * SECTOR).min(rest.len() as u64) as usize;
            let (piece, behind) = rest.split_at(len);
            let sectors = len as u64 / SECTOR;
            match ZEROES.get(..len) == Some(piece) {
                true => self.zero(start, sectors)?,
                false => self.hold(start, piece)?,
            }
            start += sectors;
            rest = behind;
        }
        Ok(())
    }

    /// Sets sectors to zeroes, behind all that was set before.
    ///
    /// # Errors
    ///
    /// As [`Encoder::data`].
    pub fn zero(&mut self, start: u64, sectors: u64) -> Result<()> {
        let segment = self.segment()?;
        let (first, many) = segment.zeroes;
        let joined = many
            .checked_add(sectors)
            .filter(|_| first.checked_add(many) == Some(start));
        if let Some(joined) = joined.filter(|_| many > 0) {
            segment.zeroes.1 = joined;
            return Ok(());
        }
        self.flush()?;
        self.segment()?.zeroes = (start, sectors);
        Ok(())
    }

    /// Takes data that are not all zeroes, of one chunk at most.
    fn hold(&mut self, start: u64, piece: &[u8]) -> Result<()> {
        let frame = self.options.frame.min(PAYLOAD as u64) / SECTOR;
        let segment = self.segment()?;
        let frame = frame.max(segment.ledger.begin().chunk.into());
        let end = segment.start + segment.held.len() as u64 / SECTOR;
        if segment.zeroes.1 > 0 || end != start || end % frame == 0 {
            self.flush()?;
            self.segment()?.start = start;
        }
        // A chunk does not cross such a boundary.
        self.segment()?.held.extend(piece);
        Ok(())
    }

    /// Writes what is held.
    fn flush(&mut self) -> Result<()> {
        let segment = self.segment()?;
        let (first, many) = std::mem::take(&mut segment.zeroes);
        let held = std::mem::take(&mut segment.held);
        let start = segment.start;
        if many > 0 {
            let header = Header {
                kind: kind::ZERO,
                a: first,
                b: many,
                ..Header::default()
            };
            self.range(header, &[])?;
        }
        if !held.is_empty() {
            let header = Header {
                kind: kind::DATA,
                a: start,
                b: held.len() as u64 / SECTOR,
                ..Header::default()
            };
            self.range(header, &held)?;
        }
        let segment = self.segment()?;
        segment.held = held;
        segment.held.clear();
        Ok(())
    }

    /// Writes a range, and a mark before it if one is due.
    fn range(&mut self, mut header: Header, payload: &[u8]) -> Result<()> {
        let every = self.options.mark_every.min(MARK_EVERY);
        let segment = self.segment()?;
        let due = segment.ledger.unmarked() + payload.len() as u64 > every;
        if due && segment.ledger.has_moved() {
            self.put_mark()?;
        }
        let segment = self.segment()?;
        let set = segment
            .ledger
            .range(header.a, header.b, header.kind == kind::DATA);
        segment.running.frame(&header, payload);
        set.map_err(|what| self.misused(what))?;
        if payload.is_empty() || !self.pack(payload)? {
            return self.put(header, payload);
        }
        header.flags = COMPRESSED;
        let packed = std::mem::take(&mut self.packed);
        let put = self.put(header, &packed);
        self.packed = packed;
        put
    }

    /// Compresses. Returns whether that helps.
    fn pack(&mut self, payload: &[u8]) -> Result<bool> {
        let Some(zstd) = &mut self.zstd else {
            return Ok(false);
        };
        self.packed.clear();
        self.packed.reserve(payload.len());
        // What does not fit is not shorter.
        match zstd.compress_to_buffer(payload, &mut self.packed) {
            Ok(len) => Ok(len < payload.len()),
            Err(_) => Ok(false),
        }
    }

    fn put_mark(&mut self) -> Result<Position> {
        let segment = self.segment()?;
        let number = segment.ledger.mark();
        let digest = segment.running.close();
        let (id, sector) = (segment.id, segment.ledger.at());
        let counts = *segment.ledger.counts();
        let mark = number.map_err(|what| self.misused(what))?;
        let header = Header {
            kind: kind::MARK,
            a: mark,
            b: sector,
            ..Header::default()
        };
        self.put(header, &closing(&counts, &digest))?;
        Ok(Position {
            segment: id,
            mark,
            frame: self.frame,
            sector,
            counts,
            digest,
        })
    }

    /// Makes a mark, besides those that there are anyhow. None where nothing has been set since the
    /// last one.
    ///
    /// # Errors
    ///
    /// It could not be written.
    pub fn mark(&mut self) -> Result<Option<Position>> {
        self.flush()?;
        match self.segment()?.ledger.has_moved() {
            true => self.put_mark().map(Some),
            false => Ok(None),
        }
    }

    /// Writes a frame that readers may overlook, of a type that this program does not know.
    ///
    /// # Errors
    ///
    /// It could not be written.
    pub fn optional(&mut self, kind: u8, a: u64, b: u64, payload: &[u8]) -> Result<()> {
        if kind <= kind::LAST || payload.len() > PAYLOAD {
            return Err(self.misused("this is no frame that can be overlooked"));
        }
        self.flush()?;
        let header = Header {
            kind,
            flags: OPTIONAL,
            a,
            b,
            ..Header::default()
        };
        self.segment()?.running.frame(&header, payload);
        self.put(header, payload)
    }

    /// How much has been written of the segment.
    pub fn counts(&self) -> Counts {
        let segment = self.segment.as_ref();
        segment.map_or_else(Counts::default, |segment| *segment.ledger.counts())
    }

    /// Ends the segment.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: it does not set what its beginning says. Else it could not be written.
    pub fn end(&mut self) -> Result<Counts> {
        self.flush()?;
        let segment = self.segment()?;
        let ended = segment.ledger.end();
        let digest = segment.running.close();
        let counts = *segment.ledger.counts();
        let marks = segment.ledger.mark_number();
        ended.map_err(|what| self.misused(what))?;
        let header = Header {
            kind: kind::END,
            a: marks,
            ..Header::default()
        };
        self.put(header, &closing(&counts, &digest))?;
        self.whole.segment(&digest);
        self.segments += 1;
        self.segment = None;
        Ok(counts)
    }

    /// Ends the stream, and gives back what it was written to, flushed.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: there is no segment, or one has not been ended. Else it could not be
    /// written.
    pub fn finish(mut self) -> Result<W> {
        if self.segment.is_some() || self.segments == 0 {
            return Err(self.misused("a segment has not been ended"));
        }
        let header = Header {
            kind: kind::LAST,
            a: self.segments,
            ..Header::default()
        };
        let digest = self.whole.digest();
        self.put(header, &digest)?;
        match self.writer.flush() {
            Ok(()) => Ok(self.writer),
            Err(error) => Err(self.at(Fault::Io(error))),
        }
    }
}

impl Segment {
    fn new(ledger: Ledger, id: Digest, digest: &Digest) -> Self {
        Self {
            ledger,
            running: Running::behind(digest),
            id,
            zeroes: (0, 0),
            start: 0,
            held: Vec::new(),
        }
    }
}

/// The payload of a mark, and of an end.
pub(crate) fn closing(counts: &Counts, digest: &Digest) -> [u8; 64] {
    let mut bytes = [0; 64];
    crate::bytes::put(&mut bytes, 0, &counts.encode());
    crate::bytes::put(&mut bytes, 32, digest);
    bytes
}
