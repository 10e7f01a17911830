// SPDX-License-Identifier: GPL-2.0

//! Labels: what a message says of a version, and what it is told.

use core::fmt;

use super::disk::bytes::ShortBytes;
use super::disk::label_row::{Consistency, LabelRow, Name, Policy, Provenance};
use super::disk::origin_row::OriginRow;
use super::disk::snapshot_row::SnapshotRow;
use super::escape::{word_or_dash, Reader, Sink};
use super::ids::{OriginNr, Tag};
use super::options::{long_number, number, once};
use super::records::Metadata;
use super::refusal::Refusal;
use super::uuid::{self, Uuid};

/// Letters of the options that set fields. Each takes an argument, of which `-` says that there is to be
/// nothing.
pub const OPTIONS: &[u8] = b"ncefgpu";

/// Says that a field is to be empty.
const NOTHING: &[u8] = b"-";

/// The fields of a label that are to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    name: Option<Name>,
    consistency: Option<Consistency>,
    keep_until: Option<u64>,
    from: Option<Option<Provenance>>,
    group: Option<Option<[u8; 16]>>,
    policy: Option<Policy>,
    uuid: Option<[u8; 16]>,
}

impl Change {
    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in the argument of an option of [`OPTIONS`].
    pub(super) fn set(&mut self, letter: u8, word: &[u8]) -> Result<(), Refusal> {
        match letter {
            b'n' => once(&mut self.name, text(word, Refusal::NameTooLong)?),
            b'c' => {
                let consistency = Consistency::of(word).ok_or(Refusal::BadConsistency)?;
                once(&mut self.consistency, consistency)
            }
            b'e' => {
                let time = some(word).map_or(Some(0), long_number);
                once(&mut self.keep_until, time.ok_or(Refusal::BadTime)?)
            }
            b'f' => once(&mut self.from, some(word).map(provenance).transpose()?),
            b'u' => once(&mut self.uuid, parse_uuid(word)?),
            b'g' => once(&mut self.group, some(word).map(parse_uuid).transpose()?),
            _ => once(&mut self.policy, text(word, Refusal::PolicyTooLong)?),
        }
    }

    /// What a label is with the fields set.
    fn of(&self, row: LabelRow) -> LabelRow {
        LabelRow {
            uuid: self.uuid.unwrap_or(row.uuid),
            group: self.group.unwrap_or(row.group),
            keep_until: self.keep_until.unwrap_or(row.keep_until),
            from: self.from.unwrap_or(row.from),
            consistency: self.consistency.unwrap_or(row.consistency),
            policy: self.policy.unwrap_or(row.policy),
            name: self.name.unwrap_or(row.name),
        }
    }
}

fn some(word: &[u8]) -> Option<&[u8]> {
    (word != NOTHING).then_some(word)
}

/// UTF-8 without control characters, as memos are.
fn text<const N: usize>(word: &[u8], too_long: Refusal) -> Result<ShortBytes<N>, Refusal> {
    let word = some(word).unwrap_or_default();
    let short = ShortBytes::new(word).ok_or(too_long)?;
    is_text(word).then_some(short).ok_or(Refusal::LabelNotText)
}

/// Whether bytes can be a name or a policy, as far as they are not too many.
pub fn is_text(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control))
}

/// The nil UUID stands for none.
fn parse_uuid(word: &[u8]) -> Result<[u8; 16], Refusal> {
    let uuid = uuid::parse(word).filter(|uuid| *uuid != [0; 16]);
    uuid.ok_or(Refusal::BadUuid)
}

/// `STORE/ORIGIN/TAG`.
fn provenance(word: &[u8]) -> Result<Provenance, Refusal> {
    let mut parts = word.splitn(3, |&byte| byte == b'/');
    let mut next = || parts.next().ok_or(Refusal::BadProvenance);
    let (store, origin, tag) = (next()?, next()?, next()?);
    let origin = number(origin).and_then(OriginNr::new);
    let tag = number(tag).and_then(Tag::new);
    match (origin, tag) {
        (Some(origin), Some(tag)) => Ok(Provenance {
            store: parse_uuid(store)?,
            origin,
            tag,
        }),
        _ => Err(Refusal::BadProvenance),
    }
}

/// The row of a version that can have a label: a snapshot or a bookmark that nobody has deleted.
fn find<M: Metadata>(m: &M, row: &OriginRow, tag: Tag) -> Result<SnapshotRow, M::Error> {
    let found = m.snapshot(row.timeline_of(tag))?;
    let found = found.filter(|found| !found.ghost || found.bookmark);
    Ok(found.ok_or(Refusal::UnknownTag)?)
}

/// Sets fields of a version's label. `new`: a UUID for it, if it has none yet.
pub fn put<M: Metadata>(
    m: &mut M,
    row: &OriginRow,
    tag: Tag,
    change: &Change,
    new: [u8; 16],
) -> Result<(), M::Error> {
    let t = find(m, row, tag)?.timeline(row.number);
    let before = m.label(t)?.unwrap_or(LabelRow::new(new));
    m.put_label(t, &change.of(before))
}

/// The label of a version; [`Refusal::NoLabel`] if it has none.
pub fn get<M: Metadata>(m: &M, row: &OriginRow, tag: Tag) -> Result<LabelRow, M::Error> {
    let t = find(m, row, tag)?.timeline(row.number);
    Ok(m.label(t)?.ok_or(Refusal::NoLabel)?)
}

/// Appends a label as the reply to `label` has it:
///
/// ```text
/// <uuid> <group> <consistency> <keep until> <policy> <from> <name>
/// ```
///
/// with `-` for what there is not.
pub fn write(out: &mut dyn Sink, row: &LabelRow) -> fmt::Result {
    write!(out, "{} ", Uuid(&row.uuid))?;
    match &row.group {
        Some(group) => write!(out, "{} ", Uuid(group))?,
        None => out.write_str("- ")?,
    }
    write!(out, "{} ", row.consistency.name())?;
    match row.keep_until {
        0 => out.write_str("- ")?,
        time => write!(out, "{time} ")?,
    }
    word_or_dash(out, Reader::People, row.policy.as_bytes())?;
    match &row.from {
        Some(from) => write!(out, " {}/{}/{} ", Uuid(&from.store), from.origin, from.tag)?,
        None => out.write_str(" - ")?,
    }
    word_or_dash(out, Reader::People, row.name.as_bytes())
}
