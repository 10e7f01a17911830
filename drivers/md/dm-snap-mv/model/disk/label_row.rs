// SPDX-License-Identifier: GPL-2.0

//! What userspace wants to know of a version, kept with it.

use super::super::ids::{OriginNr, Tag};
use super::super::refusal::Refusal;
use super::bytes::{Reader, ShortBytes, Writer};

/// Most bytes of a name.
pub const NAME_MAX: usize = 128;

/// Most bytes of a policy.
pub const POLICY_MAX: usize = 32;

/// A name: UTF-8 without control characters.
pub type Name = ShortBytes<NAME_MAX>;

/// What a version is kept by, in words of whoever keeps it: UTF-8 without control characters.
pub type Policy = ShortBytes<POLICY_MAX>;

/// No UUID.
const NIL: [u8; 16] = [0; 16];

/// In what state the data are that a version holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As after a power cut.
    #[default]
    Crash,
    /// The file system was frozen.
    FileSystem,
    /// Whoever writes there was told, and had all in order.
    Application,
}

impl Consistency {
    /// All that there are, in the order of their numbers on disk.
    const ALL: [Consistency; 3] = [
        Consistency::Crash,
        Consistency::FileSystem,
        Consistency::Application,
    ];

    /// What it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Consistency::Crash => "crash",
            Consistency::FileSystem => "file-system",
            Consistency::Application => "application",
        }
    }

    /// The one that is called so.
    pub fn of(name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.name().as_bytes() == name)
    }
}

/// The version elsewhere that a received one has the content of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The store that it was sent from.
    pub store: [u8; 16],
    /// Its origin there.
    pub origin: OriginNr,
    /// Its tag there.
    pub tag: Tag,
}

/// Row of the labels tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelRow {
    /// What the version is known by everywhere. Not all zeroes.
    pub uuid: [u8; 16],
    /// What those that were taken with it have in common.
    pub group: Option<[u8; 16]>,
    /// Until when it is to be kept, in seconds since 1970; 0: nothing is said.
    pub keep_until: u64,
    /// Where it came from.
    pub from: Option<Provenance>,
    /// In what state its data are.
    pub consistency: Consistency,
    /// What it is kept by; may be empty.
    pub policy: Policy,
    /// What it is called; may be empty.
    pub name: Name,
}

impl LabelRow {
    /// Bytes of a row.
    pub const SIZE: usize = 256;

    /// One that says nothing yet.
    pub const fn new(uuid: [u8; 16]) -> Self {
        LabelRow {
            uuid,
            group: None,
            keep_until: 0,
            from: None,
            consistency: Consistency::Crash,
            policy: Policy::EMPTY,
            name: Name::EMPTY,
        }
    }

    /// Writes the row.
    pub fn encode(&self, buffer: &mut [u8; Self::SIZE]) {
        let from = self.from.as_ref();
        let mut w = Writer::new(buffer);
        w.bytes(&self.uuid);
        w.bytes(&self.group.unwrap_or(NIL));
        w.u64(self.keep_until);
        w.bytes(&from.map_or(NIL, |from| from.store));
        w.u32(from.map_or(0, |from| from.origin.get()));
        w.u32(from.map_or(0, |from| from.tag.get()));
        w.u8(self.consistency as u8);
        w.u8(self.policy.len());
        w.u8(self.name.len());
        w.zeroes(5);
        w.bytes(self.policy.padded());
        w.bytes(self.name.padded());
        w.end();
    }

    /// Reads a row; [`Refusal::Corrupt`] when it is none.
    pub fn decode(buffer: &[u8; Self::SIZE]) -> Result<LabelRow, Refusal> {
        let some = |uuid: [u8; 16]| (uuid != NIL).then_some(uuid);
        let mut r = Reader::new(buffer);
        let uuid = some(r.array()?).ok_or(Refusal::Corrupt)?;
        let group = some(r.array()?);
        let keep_until = r.u64()?;
        let parts = (
            some(r.array()?),
            OriginNr::new(r.u32()?),
            Tag::new(r.u32()?),
        );
        let from = match parts {
            (Some(store), Some(origin), Some(tag)) => Some(Provenance { store, origin, tag }),
            (None, None, None) => None,
            _ => return Err(Refusal::Corrupt),
        };
        let consistency = Consistency::ALL.get(usize::from(r.u8()?)).copied();
        let (policy_len, name_len) = (r.u8()?, r.u8()?);
        r.zeroes(5)?;
        let policy = Policy::from_parts(policy_len, r.array()?)?;
        let name = Name::from_parts(name_len, r.array()?)?;
        r.end()?;
        Ok(LabelRow {
            uuid,
            group,
            keep_until,
            from,
            consistency: consistency.ok_or(Refusal::Corrupt)?,
            policy,
            name,
        })
    }
}
