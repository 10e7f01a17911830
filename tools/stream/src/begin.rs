// SPDX-License-Identifier: GPL-2.0
//! What a segment says of itself before anything else.

use crate::bytes::{put, u32_at, u64_at};
use crate::error::Fault;
use crate::fields::{self, Reader, Writer, REQUIRED};
use crate::frame::MOST_SECTORS;
use crate::position::Counts;
use crate::version::{Content, Uuid, Version};

/// Bytes before the fields.
const FIXED: usize = 56;

/// Features that readers must know, and this one does: none yet.
const KNOWN: u32 = 0;

const STORE: u16 = 1;
const ORIGIN: u16 = 2;
const IDENTITY: u16 = 3;
const TO: u16 = 0x10;
const FROM: u16 = 0x20;
/// Types that a version has for itself.
const SPAN: u16 = 0x10;

/// Most bytes of an origin's identity.
pub const IDENTITY_MOST: usize = 255;

/// What a segment is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Features that a reader need not know, a bit each.
    pub compat: u32,
    /// Features that it must know.
    pub incompat: u32,
    /// Sectors of the version that the segment leads to.
    pub size: u64,
    /// Sectors of the version that it starts from; 0 if it starts from nothing. From there on,
    /// every sector is set.
    pub from_size: u64,
    /// Sectors of a chunk.
    pub chunk: u32,
    /// How much is set: exactly that follows. (What of it is data is not known yet.)
    pub ranges: u64,
    /// Chunks in which a sector is set.
    pub chunks: u64,
    /// Sectors that are set.
    pub sectors: u64,
    /// The UUID of the store.
    pub store: Uuid,
    /// The number of the origin in it.
    pub origin: u32,
    /// The identity of the origin there, at most [`IDENTITY_MOST`] bytes.
    pub identity: Vec<u8>,
    /// The version that the segment leads to.
    pub to: Version,
    /// The version that it starts from; none: from nothing.
    pub from: Option<Version>,
}

impl Begin {
    /// The content that comes of it.
    pub fn makes(&self) -> Content {
        Content {
            store: self.store,
            origin: self.origin,
            size: self.size,
            version: self.to.clone(),
        }
    }

    /// The content it starts from; none: it sets every sector.
    pub fn needs(&self) -> Option<Content> {
        let version = self.from.clone()?;
        Some(Content {
            store: self.store,
            origin: self.origin,
            size: self.from_size,
            version,
        })
    }

    /// Takes over counts that were made beforehand.
    pub fn with_counts(mut self, counts: &Counts) -> Self {
        self.ranges = counts.ranges;
        self.chunks = counts.chunks;
        self.sectors = counts.sectors;
        self
    }

    /// The payload of its frame.
    ///
    /// # Errors
    ///
    /// [`Fault::Misused`]: it says something that none can say.
    pub fn encode(&self) -> Result<Vec<u8>, Fault> {
        self.to.check()?;
        self.from.as_ref().map_or(Ok(()), Version::check)?;
        if self.incompat & !KNOWN != 0 || self.identity.len() > IDENTITY_MOST {
            return Err(Fault::Misused("this cannot stand in a stream"));
        }
        self.check().map_err(Fault::Misused)?;
        let mut bytes = vec![0; FIXED];
        put(&mut bytes, 0, &self.compat.to_le_bytes());
        put(&mut bytes, 4, &self.incompat.to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.from_size.to_le_bytes());
        put(&mut bytes, 24, &self.chunk.to_le_bytes());
        put(&mut bytes, 32, &self.ranges.to_le_bytes());
        put(&mut bytes, 40, &self.chunks.to_le_bytes());
        put(&mut bytes, 48, &self.sectors.to_le_bytes());
        let mut fields = Writer::default();
        fields.add(STORE | REQUIRED, &self.store);
        fields.add(ORIGIN | REQUIRED, &self.origin.to_le_bytes());
        fields.add(IDENTITY, &self.identity);
        self.to.write(TO, &mut fields);
        if let Some(from) = &self.from {
            from.write(FROM, &mut fields);
        }
        bytes.extend(fields.end());
        Ok(bytes)
    }

    /// Takes a payload apart.
    ///
    /// # Errors
    ///
    /// [`Fault::Features`], [`Fault::Field`]: it has something that must be known.
    /// [`Fault::Damaged`]: it contradicts itself or the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let Some((_, list)) = bytes.split_at_checked(FIXED) else {
            return Err(Fault::Damaged("the beginning of a segment is too short"));
        };
        let mut begin = Self {
            compat: u32_at(bytes, 0),
            incompat: u32_at(bytes, 4),
            size: u64_at(bytes, 8),
            from_size: u64_at(bytes, 16),
            chunk: u32_at(bytes, 24),
            ranges: u64_at(bytes, 32),
            chunks: u64_at(bytes, 40),
            sectors: u64_at(bytes, 48),
            ..Self::default()
        };
        if begin.incompat & !KNOWN != 0 {
            return Err(Fault::Features(begin.incompat & !KNOWN));
        }
        if u32_at(bytes, 28) != 0 {
            return Err(Fault::Damaged("what is reserved is not 0"));
        }
        if list.len() > fields::MOST {
            return Err(Fault::Damaged("a list of fields is too long"));
        }
        begin.read_fields(list)?;
        begin.check().map_err(Fault::Damaged)?;
        Ok(begin)
    }

    fn read_fields(&mut self, list: &[u8]) -> Result<(), Fault> {
        const SPAN_END: u16 = FROM + SPAN - 1;
        let mut missing = [STORE, ORIGIN, TO, FROM];
        for field in Reader::new(list) {
            let (kind, value) = field?;
            let plain = kind & !REQUIRED;
            let known = match plain {
                STORE => value.try_into().map(|value| self.store = value).is_ok(),
                ORIGIN => {
                    let number = value.try_into().map(u32::from_le_bytes);
                    number.map(|number| self.origin = number).is_ok()
                }
                IDENTITY if value.len() <= IDENTITY_MOST => {
                    self.identity = value.to_vec();
                    true
                }
                IDENTITY => false,
                TO..FROM => self.to.read(plain - TO, value)? || skippable(kind)?,
                FROM..=SPAN_END => {
                    let from = self.from.get_or_insert_default();
                    from.read(plain - FROM, value)? || skippable(kind)?
                }
                _ => skippable(kind)?,
            };
            if !known {
                return Err(Fault::Damaged("a field has a wrong length"));
            }
            for missing in missing.iter_mut().filter(|missing| **missing == plain) {
                *missing = 0;
            }
        }
        let [store, origin, to, from] = missing.map(|kind| kind != 0);
        if store || origin || to || (self.from.is_some() && from) {
            return Err(Fault::Damaged("a field is missing"));
        }
        Ok(())
    }

    /// Whether what it says can be.
    fn check(&self) -> Result<(), &'static str> {
        let most = MOST_SECTORS;
        if !(1..=most).contains(&self.size) || self.from_size > most {
            return Err("a size is not one that a device can have");
        }
        if !self.chunk.is_power_of_two() || !(8..=2048).contains(&self.chunk) {
            return Err("the size of chunks is not one that there is");
        }
        if self.from.is_some() != (self.from_size > 0) {
            return Err("it is not said what the segment starts from");
        }
        let most_chunks = self.size.div_ceil(self.chunk.into());
        let least = u64::from(self.sectors > 0);
        let counted = |count: u64| (least..=self.sectors).contains(&count);
        if self.sectors > self.size
            || self.chunks > most_chunks
            || !counted(self.chunks)
            || !counted(self.ranges)
        {
            return Err("counts contradict each other");
        }
        Ok(())
    }
}

/// An unknown field may be, unless its type says that it must be known.
fn skippable(kind: u16) -> Result<bool, Fault> {
    match kind & REQUIRED {
        0 => Ok(true),
        _ => Err(Fault::Field(kind)),
    }
}
