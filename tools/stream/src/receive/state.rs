// SPDX-License-Identifier: GPL-2.0
//! What a target holds, as it is noted.

use super::local::Local;
use super::proof::{Samples, Witness, Witnesses};
use crate::begin::{Begin, IDENTITY_MOST};
use crate::bytes::{array_at, put, u32_at, u64_at};
use crate::digest::{of_begin, Digest};
use crate::error::Fault;
use crate::fields::{Reader, Writer, REQUIRED};
use crate::ledger::Ledger;
use crate::position::Position;
use crate::version::{Content, Version};

/// What a note begins with.
const MAGIC: &[u8; 8] = b"dmsstate";
const FORMAT: u32 = 1;
/// Bytes before the fields.
const FIXED: usize = 16;

const PHASE: u16 = 1;
const STORE: u16 = 0x10;
const ORIGIN: u16 = 0x11;
const SIZE: u16 = 0x12;
const IDENTITY: u16 = 0x13;
const SAMPLES: u16 = 0x14;
const ALL: u16 = 0x15;
const SEGMENTS: u16 = 0x16;
const LOCAL: u16 = 0x17;
const VERSION: u16 = 0x20;
const VERSION_END: u16 = 0x2f;
const BEGIN: u16 = 0x40;
const POSITION: u16 = 0x41;
const KEPT: u16 = 0x42;
const MADE: u16 = 0x43;
const WITNESSES: u16 = 0x44;
const TAKING: u16 = 0x45;
const TAKING_SAMPLES: u16 = 0x46;
const TAKING_ALL: u16 = 0x47;

/// How many segments are remembered.
pub const SEGMENTS_MOST: usize = 64;

/// A version, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// The version.
    pub content: Content,
    /// The identity of its origin.
    pub identity: Vec<u8>,
    /// Samples of it.
    pub samples: Samples,
    /// BLAKE3 of all of it, if that was wanted.
    pub all: Option<Digest>,
    /// The last segments that led to it, by the digests of their beginnings.
    pub segments: Vec<Digest>,
    /// What was taken of the target then, if it keeps versions of itself.
    pub local: Option<Local>,
}

/// A mixture of two versions, or what a version is being written over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// What it held before, if that is known.
    pub base: Option<Whole>,
    /// That was put aside.
    pub kept: bool,
    /// The target has been made for this.
    pub made: bool,
    /// What the segment is of.
    pub begin: Begin,
    /// The same as it stands in the stream.
    pub payload: Vec<u8>,
    /// The mark up to which all that the segment sets is on stable storage. Behind, it may be or not.
    pub position: Position,
    /// Some of what was written before it.
    pub witnesses: Vec<Witness>,
    /// All of the segment is on stable storage, and this is to be done yet.
    pub taking: Option<Taking>,
}

/// What a target that keeps versions of itself is to take of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taking {
    /// It is taken as this, or later.
    pub next: Local,
    /// Samples of what is taken.
    pub samples: Samples,
    /// BLAKE3 of all of it, if that was wanted.
    pub all: Option<Digest>,
}

/// What is noted.
// There is one of these.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds this.
    Whole(Whole),
    /// A segment has been received in part.
    Between(Between),
    /// It is being made what it was before, or is that already.
    Restoring(Whole),
}

impl Between {
    /// At the beginning of a segment.
    pub fn new(begin: Begin, payload: Vec<u8>) -> Self {
        let id = of_begin(&payload);
        Self {
            base: None,
            kept: false,
            made: false,
            begin,
            payload,
            position: Position::beginning(id),
            witnesses: Vec::new(),
            taking: None,
        }
    }
}

impl State {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Writer::default();
        let (phase, base) = match self {
            Self::Whole(whole) => (1, Some(whole)),
            Self::Between(between) => (2, between.base.as_ref()),
            Self::Restoring(whole) => (3, Some(whole)),
        };
        fields.add(PHASE, &[phase]);
        if let Some(base) = base {
            base.write(&mut fields);
        }
        if let Self::Between(between) = self {
            fields.add(BEGIN, &between.payload);
            fields.add(POSITION, &between.position.encode());
            fields.add_some(KEPT, between.kept.then_some([]));
            fields.add_some(MADE, between.made.then_some([]));
            let witnesses = between.witnesses.iter().flat_map(|witness| {
                let mut bytes = [0; Witness::SIZE];
                put(&mut bytes, 0, &witness.sector.to_le_bytes());
                put(&mut bytes, 8, &witness.digest);
                bytes
            });
            fields.add(WITNESSES, &witnesses.collect::<Vec<_>>());
            if let Some(taking) = &between.taking {
                fields.add(TAKING, &taking.next.encode());
                fields.add(TAKING_SAMPLES, &taking.samples.encode());
                fields.add_some(TAKING_ALL, taking.all);
            }
        }
        let fields = fields.end();
        let mut bytes = vec![0; FIXED];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &FORMAT.to_le_bytes());
        put(&mut bytes, 12, &crc32c::crc32c(&fields).to_le_bytes());
        bytes.extend(fields);
        bytes
    }

    /// Takes a note apart.
    ///
    /// # Errors
    ///
    /// It is none that this program has written, or is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (Some(fixed), Some(fields)) = (bytes.get(..FIXED), bytes.get(FIXED..)) else {
            return Err("it is too short");
        };
        if !fixed.starts_with(MAGIC) {
            return Err("it is something else");
        }
        if u32_at(fixed, 8) != FORMAT {
            return Err("it is of a later version of this program");
        }
        if u32_at(fixed, 12) != crc32c::crc32c(fields) {
            return Err("its checksum is wrong");
        }
        Self::read(fields).map_err(|fault| match fault {
            Fault::Damaged(what) => what,
            _ => "it has what this program does not know",
        })
    }

    fn read(fields: &[u8]) -> Result<Self, Fault> {
        let wrong = || Fault::Damaged("a field has a wrong length");
        let mut phase = 0;
        let mut base: Option<Whole> = None;
        let mut begin = None;
        let mut position = None;
        let (mut kept, mut made) = (false, false);
        let mut witnesses = Vec::new();
        let (mut next, mut samples, mut all) = (None, None, None);
        for field in Reader::new(fields) {
            match field? {
                (PHASE, [number]) => phase = *number,
                (kind @ STORE..=VERSION_END, value) => {
                    base.get_or_insert_default().take(kind, value)?;
                }
                (BEGIN, value) => begin = Some((Begin::decode(value)?, value.to_vec())),
                (POSITION, value) => {
                    let value = value.try_into().map_err(|_| wrong())?;
                    position = Some(Position::decode(value));
                }
                (KEPT, []) => kept = true,
                (MADE, []) => made = true,
                (WITNESSES, value) => {
                    let all = value.chunks_exact(Witness::SIZE);
                    if !all.remainder().is_empty() || all.len() > Witnesses::MOST {
                        return Err(wrong());
                    }
                    let witness = |bytes: &[u8]| Witness {
                        sector: u64_at(bytes, 0),
                        digest: array_at(bytes, 8),
                    };
                    witnesses = all.map(witness).collect();
                }
                (TAKING, value) => {
                    next = Some(Local::decode(value.try_into().map_err(|_| wrong())?))
                }
                (TAKING_SAMPLES, value) => {
                    samples = Some(Samples::decode(value.try_into().map_err(|_| wrong())?));
                }
                (TAKING_ALL, value) => all = Some(value.try_into().map_err(|_| wrong())?),
                (kind, _) if kind & REQUIRED != 0 => return Err(Fault::Field(kind)),
                (PHASE | BEGIN..=TAKING_ALL, _) => return Err(wrong()),
                _ => {}
            }
        }
        let taking = match (next, samples) {
            (Some(next), Some(samples)) => Some(Taking { next, samples, all }),
            (None, None) => None,
            _ => return Err(Fault::Damaged("a field is missing")),
        };
        let missing = || Fault::Damaged("a field is missing");
        match (phase, base, begin, position) {
            (1, Some(whole), None, None) => Ok(Self::Whole(whole)),
            (3, Some(whole), None, None) => Ok(Self::Restoring(whole)),
            (2, base, Some((begin, payload)), Some(position)) => {
                if !can_be(&begin, &payload, &position) {
                    return Err(Fault::Damaged("a position is of something else"));
                }
                Ok(Self::Between(Between {
                    base,
                    kept,
                    made,
                    begin,
                    payload,
                    position,
                    witnesses,
                    taking,
                }))
            }
            _ => Err(missing()),
        }
    }
}

/// Whether a segment has such a position.
fn can_be(begin: &Begin, payload: &[u8], position: &Position) -> bool {
    let id = of_begin(payload);
    match position.mark {
        0 => *position == Position::beginning(id),
        _ => position.segment == id && Ledger::resumed(begin.clone(), position).is_ok(),
    }
}

impl Whole {
    fn write(&self, fields: &mut Writer) {
        let content = &self.content;
        fields.add(STORE, &content.store);
        fields.add(ORIGIN, &content.origin.to_le_bytes());
        fields.add(SIZE, &content.size.to_le_bytes());
        fields.add(IDENTITY, &self.identity);
        fields.add(SAMPLES, &self.samples.encode());
        fields.add_some(ALL, self.all);
        let last = self.segments.len().saturating_sub(SEGMENTS_MOST);
        let segments = self.segments.get(last..).unwrap_or_default();
        fields.add(SEGMENTS, segments.as_flattened());
        fields.add_some(LOCAL, self.local.map(|local| local.encode()));
        content.version.write(VERSION, fields);
    }

    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), Fault> {
        let wrong = Fault::Damaged("a field has a wrong length");
        let content = &mut self.content;
        match (kind, value.len()) {
            (STORE, 16) => content.store = array_at(value, 0),
            (ORIGIN, 4) => content.origin = u32_at(value, 0),
            (SIZE, 8) => content.size = u64_at(value, 0),
            (IDENTITY, 0..=IDENTITY_MOST) => self.identity = value.to_vec(),
            (SAMPLES, 64) => self.samples = Samples::decode(&array_at(value, 0)),
            (LOCAL, Local::SIZE) => self.local = Some(Local::decode(&array_at(value, 0))),
            (ALL, 32) => self.all = Some(array_at(value, 0)),
            (SEGMENTS, len) if len % 32 == 0 && len / 32 <= SEGMENTS_MOST => {
                self.segments = value.chunks(32).map(|id| array_at(id, 0)).collect();
            }
            (STORE..=LOCAL, _) => return Err(wrong),
            (VERSION..=VERSION_END, _) => {
                let version: &mut Version = &mut content.version;
                version.read(kind - VERSION, value)?;
            }
            _ => {}
        }
        Ok(())
    }
}
