// SPDX-License-Identifier: GPL-2.0
//! Which version of a device something is.

use crate::bytes::array_at;
use crate::error::Fault;
use crate::fields::Writer;

/// A UUID as it stands in a store.
pub type Uuid = [u8; 16];

/// Most bytes of a name.
pub const NAME: usize = 128;
/// Most bytes of a memo.
pub const MEMO: usize = 64;
/// Most bytes of what tells contents apart.
pub const CONTENT: usize = 32;

const TAG: u16 = 0;
const UUID: u16 = 1;
const GROUP: u16 = 2;
const CONTENT_OF: u16 = 3;
const CREATED: u16 = 4;
const NAME_OF: u16 = 5;
const MEMO_OF: u16 = 6;

/// A version of an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The tag of the snapshot; 0: the origin as it was.
    pub tag: u32,
    /// Its label's UUID, if it has a label.
    pub uuid: Option<Uuid>,
    /// Of the group it was taken with.
    pub group: Option<Uuid>,
    /// What tells apart what a snapshot that is written to holds at one time and at another: any
    /// bytes, at most [`CONTENT`] of them, that are the same if and only if the content is.
    pub content: Option<Vec<u8>>,
    /// When it was taken, in seconds since 1970.
    pub created: Option<u64>,
    /// Its name: UTF-8 without control characters, at most [`NAME`] bytes.
    pub name: Option<String>,
    /// Its memo: likewise, at most [`MEMO`] bytes.
    pub memo: Option<String>,
}

fn text(value: &[u8], most: usize) -> Result<String, Fault> {
    let text = std::str::from_utf8(value).ok();
    let fits = |text: &&str| text.len() <= most && !text.chars().any(char::is_control);
    match text.filter(fits) {
        Some(text) => Ok(text.to_owned()),
        None => Err(Fault::Damaged("a name in it is no text")),
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Fault> {
    match value.len() {
        len if len == N => Ok(array_at(value, 0)),
        _ => Err(Fault::Damaged("a field has a wrong length")),
    }
}

impl Version {
    /// Adds the fields to a list, with types from `base` on.
    pub(crate) fn write(&self, base: u16, fields: &mut Writer) {
        fields.add(base + TAG, &self.tag.to_le_bytes());
        fields.add_some(base + UUID, self.uuid);
        fields.add_some(base + GROUP, self.group);
        fields.add_some(base + CONTENT_OF, self.content.as_ref());
        fields.add_some(base + CREATED, self.created.map(u64::to_le_bytes));
        fields.add_some(base + NAME_OF, self.name.as_ref());
        fields.add_some(base + MEMO_OF, self.memo.as_ref());
    }

    /// Takes a field; `kind` is counted from where those of the version begin. Returns whether it is
    /// one that is known.
    pub(crate) fn read(&mut self, kind: u16, value: &[u8]) -> Result<bool, Fault> {
        match kind {
            TAG => self.tag = u32::from_le_bytes(fixed(value)?),
            UUID => self.uuid = Some(fixed(value)?),
            GROUP => self.group = Some(fixed(value)?),
            CREATED => self.created = Some(u64::from_le_bytes(fixed(value)?)),
            NAME_OF => self.name = Some(text(value, NAME)?),
            MEMO_OF => self.memo = Some(text(value, MEMO)?),
            CONTENT_OF if value.len() > CONTENT => {
                return Err(Fault::Damaged("a field has a wrong length"))
            }
            CONTENT_OF => self.content = Some(value.to_vec()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether its texts can stand in a stream.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let wrong = Fault::Misused("a version's name, memo or content cannot stand in a stream");
        let fits = |of: &Option<String>, most| {
            of.as_ref()
                .is_none_or(|of| text(of.as_bytes(), most).is_ok())
        };
        let content = self.content.as_ref().map_or(0, Vec::len);
        match fits(&self.name, NAME) && fits(&self.memo, MEMO) && content <= CONTENT {
            true => Ok(()),
            false => Err(wrong),
        }
    }
}

/// A content that a device can have: a version of an origin of a store, with its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The UUID of the store.
    pub store: Uuid,
    /// The number of the origin in it.
    pub origin: u32,
    /// Sectors.
    pub size: u64,
    /// The version.
    pub version: Version,
}

impl Content {
    /// Whether it is what another one says, and if not, why not.
    ///
    /// Of labelled versions the UUIDs decide, wherever they are kept; of others, store, origin and
    /// tag. Where both know what tells contents apart, that has to be the same as well. Names and
    /// memos may have been changed.
    pub fn compare(&self, other: &Self) -> Result<(), &'static str> {
        let (ours, theirs) = (&self.version, &other.version);
        match (ours.uuid, theirs.uuid) {
            (Some(a), Some(b)) if a != b => return Err("it is another version"),
            (Some(_), Some(_)) => {}
            _ if self.store != other.store => return Err("it is of another store"),
            _ if self.origin != other.origin => return Err("it is of another origin"),
            _ if ours.tag != theirs.tag => return Err("it is another version"),
            _ => {}
        }
        match (&ours.content, &theirs.content) {
            (Some(a), Some(b)) if a != b => {
                Err("the snapshot has been written to since it was sent")
            }
            _ if self.size != other.size => Err("it has another size"),
            _ => Ok(()),
        }
    }

    /// The same as yes or no.
    pub fn is(&self, other: &Self) -> bool {
        self.compare(other).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_decide_where_there_are_some() {
        let plain = Content {
            store: [1; 16],
            origin: 1,
            size: 8,
            version: Version {
                tag: 3,
                ..Version::default()
            },
        };
        let with = |change: fn(&mut Content)| {
            let mut content = plain.clone();
            change(&mut content);
            content
        };
        assert!(plain.is(&plain));
        assert!(!plain.is(&with(|c| c.store[0] = 2)));
        assert!(!plain.is(&with(|c| c.origin = 2)));
        assert!(!plain.is(&with(|c| c.version.tag = 2)));
        assert!(!plain.is(&with(|c| c.size = 9)));
        assert!(plain.is(&with(|c| c.version.name = Some("x".into()))));
        assert!(plain.is(&with(|c| c.version.uuid = Some([1; 16]))));
        let labelled = with(|c| c.version.uuid = Some([1; 16]));
        let elsewhere = with(|c| {
            c.version.uuid = Some([1; 16]);
            c.store[0] = 7;
            c.version.tag = 9;
        });
        assert!(labelled.is(&elsewhere));
        assert!(!labelled.is(&with(|c| c.version.uuid = Some([2; 16]))));
        let written = |n| {
            let mut content = labelled.clone();
            content.version.content = Some(vec![n]);
            content
        };
        assert!(written(1).is(&labelled) && written(1).is(&written(1)));
        assert!(!written(1).is(&written(2)));
    }
}
