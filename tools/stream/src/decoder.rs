// SPDX-License-Identifier: GPL-2.0
//! Reads streams. Nothing that is read is trusted.

use crate::begin::Begin;
use crate::bytes::array_at;
use crate::digest::{of_begin, Digest, Running, Whole};
use crate::encoder::closing;
use crate::error::{Error, Fault, Result};
use crate::frame::{kind, Header, Wrong, COMPRESSED, HEADER, MAGIC, OPTIONAL, SECTOR, VERSION};
use crate::ledger::Ledger;
use crate::position::{Counts, Position};
use std::io::{self, Read};

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A segment begins.
    Begin(Box<Begun>),
    /// It goes on at a position of a segment.
    Resume(Box<Begun>, Position),
    /// Sectors from the first one on have this content.
    Data(u64, &'a [u8]),
    /// So many sectors from the first one on are zeroes.
    Zero(u64, u64),
    /// All up to here is right, and can be gone on from.
    Mark(Position),
    /// The segment is whole.
    End(Ended),
    /// A frame that may be overlooked: its type, and the bytes of its payload.
    Optional(u8, usize),
    /// The stream is whole; so many segments there were.
    Last(u64),
}

/// What a segment is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// In its parts.
    pub begin: Begin,
    /// As it stands in the stream, with what is not known of it.
    pub payload: Vec<u8>,
}

/// What a segment was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How much it set, what was before the position where it was resumed included.
    pub counts: Counts,
    /// How many marks there were, likewise.
    pub marks: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A segment that is being read.
struct Segment {
    ledger: Ledger,
    running: Running,
    id: Digest,
}

/// Where in a stream it is.
enum At {
    /// Nothing has been read.
    Start,
    Inside(Box<Segment>),
    /// A segment has ended.
    Between,
    /// The stream has ended.
    Behind,
    /// There was an error.
    Failed,
}

/// Reads a stream from where its bytes come one after the other. It reads no byte behind its end,
/// and holds at most a few MiB, whatever they are.
pub struct Decoder<R> {
    reader: R,
    frame: u64,
    offset: u64,
    at: At,
    whole: Whole,
    segments: u64,
    payload: Vec<u8>,
    plain: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

fn damaged(what: &'static str) -> Fault {
    Fault::Damaged(what)
}

impl<R: Read> Decoder<R> {
    /// At the beginning of a stream.
    ///
    /// # Errors
    ///
    /// There is no memory for zstd.
    pub fn new(reader: R) -> io::Result<Self> {
        Ok(Self {
            reader,
            frame: 0,
            offset: 0,
            at: At::Start,
            whole: Whole::default(),
            segments: 0,
            payload: Vec::new(),
            plain: Vec::new(),
            zstd: zstd::bulk::Decompressor::new()?,
        })
    }

    /// What it reads from.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Bytes that have been read, up to the frame that comes next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What comes next, if it is right. Nothing comes behind [`Event::Last`].
    ///
    /// # Errors
    ///
    /// It is not right, or could not be read. Nothing comes after that.
    pub fn event(&mut self) -> Result<Event<'_>> {
        let at = std::mem::replace(&mut self.at, At::Failed);
        let (frame, offset) = (self.frame, self.offset);
        let failed = |fault| Error {
            frame,
            offset,
            fault,
        };
        let header = self.read(&at).map_err(failed)?;
        self.frame += 1;
        self.offset += HEADER as u64 + u64::from(header.len);
        self.take(at, header).map_err(failed)
    }

    /// Reads a frame.
    fn read(&mut self, at: &At) -> std::result::Result<Header, Fault> {
        let start = matches!(at, At::Start);
        let mut bytes = [0; HEADER];
        let read = fill(&mut self.reader, &mut bytes)?;
        // As far as its mark has come.
        if start && read >= 16 && !Header::begins_stream(&bytes) {
            return Err(Fault::NoStream);
        }
        if read < bytes.len() {
            return Err(Fault::Cut);
        }
        let header = Header::decode(self.frame, &bytes);
        let header = header.map_err(|wrong| match wrong {
            Wrong::Sum => damaged("the checksum of its header is wrong"),
            Wrong::Form(what) => damaged(what),
        })?;
        if matches!(header.kind, kind::BEGIN | kind::RESUME) {
            if header.a != MAGIC {
                return Err(Fault::NoStream);
            }
            if header.b != VERSION.into() {
                return Err(Fault::Version(header.b as u32));
            }
        } else if start {
            return Err(Fault::NoStream);
        }
        self.payload.resize(header.len as usize, 0);
        if fill(&mut self.reader, &mut self.payload)? < self.payload.len() {
            return Err(Fault::Cut);
        }
        if crc32c::crc32c(&self.payload) != header.sum {
            return Err(damaged("the checksum of its payload is wrong"));
        }
        Ok(header)
    }

    /// What a frame says.
    fn take(&mut self, at: At, header: Header) -> std::result::Result<Event<'_>, Fault> {
        let known = (kind::BEGIN..=kind::LAST).contains(&header.kind);
        if !known && header.flags & OPTIONAL == 0 {
            return Err(Fault::Frame(header.kind));
        }
        let flags = if header.kind == kind::DATA {
            COMPRESSED
        } else {
            0
        };
        if known && header.flags & !flags != 0 {
            return Err(damaged("it has flags that are not for its type"));
        }
        match (at, header.kind) {
            (At::Start | At::Between, kind::BEGIN) => self.begin(),
            (At::Start, kind::RESUME) => self.resume(),
            (At::Inside(segment), kind::DATA) => self.data(segment, header),
            (At::Inside(segment), kind::ZERO) => self.zero(segment, header),
            (At::Inside(segment), kind::MARK) => self.mark(segment, header),
            (At::Inside(segment), kind::END) => self.end(segment, header),
            (At::Between, kind::LAST) => self.last(header),
            (At::Inside(mut segment), _) if !known => {
                segment.running.frame(&header, &self.payload);
                self.at = At::Inside(segment);
                Ok(Event::Optional(header.kind, self.payload.len()))
            }
            (At::Failed, _) => Err(damaged("it is read on after an error")),
            (At::Behind, _) => Err(damaged("the stream has ended before")),
            _ => Err(damaged("a frame of its type does not belong there")),
        }
    }

    fn begin(&mut self) -> std::result::Result<Event<'_>, Fault> {
        let begin = Begin::decode(&self.payload)?;
        let id = of_begin(&self.payload);
        self.at = At::Inside(Box::new(Segment {
            ledger: Ledger::new(begin.clone()),
            running: Running::behind(&id),
            id,
        }));
        let payload = self.payload.clone();
        Ok(Event::Begin(Box::new(Begun { begin, payload })))
    }

    fn resume(&mut self) -> std::result::Result<Event<'_>, Fault> {
        let Some((position, begun)) = self.payload.split_first_chunk() else {
            return Err(damaged("a position is cut off"));
        };
        let position = Position::decode(position);
        let begin = Begin::decode(begun)?;
        if of_begin(begun) != position.segment {
            return Err(damaged("the position is not one of this segment"));
        }
        let ledger = Ledger::resumed(begin.clone(), &position).map_err(Fault::Damaged)?;
        self.frame = position.frame;
        let payload = begun.to_vec();
        self.at = At::Inside(Box::new(Segment {
            ledger,
            running: Running::behind(&position.digest),
            id: position.segment,
        }));
        Ok(Event::Resume(Box::new(Begun { begin, payload }), position))
    }

    fn data(
        &mut self,
        mut segment: Box<Segment>,
        header: Header,
    ) -> std::result::Result<Event<'_>, Fault> {
        let ranged = segment.ledger.range(header.a, header.b, true);
        ranged.map_err(Fault::Damaged)?;
        let len = match usize::try_from(header.b) {
            Ok(sectors) if header.b <= crate::frame::PAYLOAD as u64 / SECTOR => {
                sectors * SECTOR as usize
            }
            _ => return Err(damaged("it has more sectors than a payload can be of")),
        };
        let packed = header.flags & COMPRESSED != 0;
        if packed {
            if self.payload.len() >= len {
                return Err(damaged("it is compressed, and not shorter for it"));
            }
            self.plain.resize(len, 0);
            let got = self
                .zstd
                .decompress_to_buffer(&self.payload, &mut self.plain[..]);
            if got.ok() != Some(len) {
                return Err(damaged("its payload cannot be decompressed"));
            }
        } else if self.payload.len() != len {
            return Err(damaged("its payload is not as long as its sectors are"));
        }
        let bytes = if packed { &self.plain } else { &self.payload };
        segment.running.frame(&header, bytes);
        self.at = At::Inside(segment);
        Ok(Event::Data(header.a, bytes))
    }

    fn zero(
        &mut self,
        mut segment: Box<Segment>,
        header: Header,
    ) -> std::result::Result<Event<'_>, Fault> {
        let ranged = segment.ledger.range(header.a, header.b, false);
        ranged.map_err(Fault::Damaged)?;
        if !self.payload.is_empty() {
            return Err(damaged("it has a payload, and must not"));
        }
        segment.running.frame(&header, &[]);
        self.at = At::Inside(segment);
        Ok(Event::Zero(header.a, header.b))
    }

    fn mark(
        &mut self,
        mut segment: Box<Segment>,
        header: Header,
    ) -> std::result::Result<Event<'_>, Fault> {
        let mark = segment.ledger.mark().map_err(Fault::Damaged)?;
        let digest = segment.running.close();
        let (sector, counts) = (segment.ledger.at(), *segment.ledger.counts());
        if (header.a, header.b) != (mark, sector) || self.payload != closing(&counts, &digest) {
            return Err(damaged("what is before it is not what it says"));
        }
        let position = Position {
            segment: segment.id,
            mark,
            frame: self.frame,
            sector,
            counts,
            digest,
        };
        self.at = At::Inside(segment);
        Ok(Event::Mark(position))
    }

    fn end(
        &mut self,
        mut segment: Box<Segment>,
        header: Header,
    ) -> std::result::Result<Event<'_>, Fault> {
        segment.ledger.end().map_err(Fault::Damaged)?;
        let digest = segment.running.close();
        let (marks, counts) = (segment.ledger.mark_number(), *segment.ledger.counts());
        if (header.a, header.b) != (marks, 0) || self.payload != closing(&counts, &digest) {
            return Err(damaged("what is before it is not what it says"));
        }
        self.whole.segment(&digest);
        self.segments += 1;
        self.at = At::Between;
        Ok(Event::End(Ended {
            counts,
            marks,
            digest,
        }))
    }

    fn last(&mut self, header: Header) -> std::result::Result<Event<'_>, Fault> {
        let digest: Digest = array_at(&self.payload, 0);
        if (header.a, header.b) != (self.segments, 0)
            || self.payload.len() != digest.len()
            || digest != self.whole.digest()
        {
            return Err(damaged("what is before it is not what it says"));
        }
        self.at = At::Behind;
        Ok(Event::Last(self.segments))
    }
}

/// Reads until the buffer is full or nothing comes any more, and returns how much has come.
fn fill(reader: &mut impl Read, mut bytes: &mut [u8]) -> std::result::Result<usize, Fault> {
    let mut read = 0;
    while !bytes.is_empty() {
        match reader.read(bytes) {
            Ok(0) => break,
            Ok(some) => {
                read += some;
                bytes = bytes.get_mut(some..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Io(error)),
        }
    }
    Ok(read)
}
