// SPDX-License-Identifier: GPL-2.0

//! Table lines.

use super::chunk_size::{ChunkSize, DEFAULT_PAGES};
use super::disk::origin_row::ID_MAX;
use super::ids::Tag;
use super::options::{number, once, set, Arguments, Item, Options};
use super::refusal::Refusal;

/// What an origin write does that cannot preserve what it overwrites, because no space is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// It goes ahead, and all snapshots of the origin become invalid.
    #[default]
    Invalidate,
    /// It fails.
    Error,
    /// It waits for space, and fails after a while.
    Queue,
}

impl FullPolicy {
    /// The word for it in a table line.
    pub const fn name(self) -> &'static str {
        match self {
            FullPolicy::Invalidate => "invalidate",
            FullPolicy::Error => "error",
            FullPolicy::Queue => "queue",
        }
    }

    fn parse(word: &[u8]) -> Result<FullPolicy, Refusal> {
        [FullPolicy::Invalidate, FullPolicy::Error, FullPolicy::Queue]
            .into_iter()
            .find(|policy| policy.name().as_bytes() == word)
            .ok_or(Refusal::BadPolicy)
    }
}

/// How to format a COW device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Whatever is there, not only where no store is.
    pub force: bool,
    /// The chunk size asked for.
    pub chunk_size: Option<ChunkSize>,
}

impl Format {
    /// The chunk size that the store gets.
    pub fn chunk_size_or_default(&self) -> Result<ChunkSize, Refusal> {
        match self.chunk_size {
            Some(chunk_size) => Ok(chunk_size),
            None => ChunkSize::from_pages(DEFAULT_PAGES),
        }
    }
}

/// What a device shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `co`: the origin.
    Origin {
        /// The origin is new to the store.
        bind: bool,
        /// The store is new to the COW device.
        format: Option<Format>,
    },
    /// `cs`: the snapshot with this tag.
    Snapshot {
        /// The tag.
        tag: Tag,
    },
}

/// A table line, taken apart. It borrows from the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// What the device shall be.
    pub role: Role,
    /// The origin device, as it was written.
    pub origin_device: &'a [u8],
    /// The COW device, as it was written.
    pub cow_device: &'a [u8],
    /// `-i`: the origin's id. Without it, `origin_device` is the id.
    pub id: Option<&'a [u8]>,
    /// `-e`.
    pub policy: Option<FullPolicy>,
    /// `-a`: the origin is on another disk than it was, and may be.
    pub accept: bool,
}

impl<'a> Table<'a> {
    /// Takes the words of a table line apart.
    pub fn parse(words: impl IntoIterator<Item = &'a [u8]>) -> Result<Table<'a>, Refusal> {
        let mut id = None;
        let mut policy = None;
        let mut chunk_size = None;
        let (mut bind, mut format, mut force, mut accept) = (false, false, false, false);
        let mut arguments = Arguments::<4>::new();
        for item in Options::new(words.into_iter(), b"abfF", b"ice") {
            match item? {
                Item::Value(b'i', word) => once(&mut id, check_id(word)?)?,
                Item::Value(b'e', word) => once(&mut policy, FullPolicy::parse(word)?)?,
                Item::Value(_, word) => once(&mut chunk_size, parse_chunk_size(word)?)?,
                Item::Flag(b'a') => set(&mut accept)?,
                Item::Flag(b'b') => set(&mut bind)?,
                Item::Flag(b'f') => set(&mut format)?,
                Item::Flag(_) => set(&mut force)?,
                Item::Argument(word) => arguments.push(word)?,
            }
        }
        let [command, origin_device, cow_device, tag] = arguments.words();
        let origin = match command {
            Some(b"co") => true,
            Some(b"cs") => false,
            Some(_) => return Err(Refusal::UnknownCommand),
            None => return Err(Refusal::MissingCommand),
        };
        let (Some(origin_device), Some(cow_device)) = (origin_device, cow_device) else {
            return Err(Refusal::MissingDevice);
        };
        let formatting = format || force;
        let role = match (origin, tag) {
            (true, Some(_)) => return Err(Refusal::ExtraArgument),
            (true, None) if format && force => return Err(Refusal::BothFormats),
            (true, None) if accept && bind => return Err(Refusal::AcceptWithBind),
            (true, None) if formatting && !bind => return Err(Refusal::FormatWithoutBind),
            (true, None) if chunk_size.is_some() && !formatting => {
                return Err(Refusal::ChunkSizeWithoutFormat)
            }
            (true, None) => Role::Origin {
                bind,
                format: formatting.then_some(Format { force, chunk_size }),
            },
            (false, _) if accept || bind || formatting || chunk_size.is_some() => {
                return Err(Refusal::MisplacedOption)
            }
            (false, None) => return Err(Refusal::MissingTag),
            (false, Some(tag)) => Role::Snapshot {
                tag: parse_tag(tag)?,
            },
        };
        if id.is_none() {
            check_id(origin_device)?;
        }
        Ok(Table {
            role,
            origin_device,
            cow_device,
            id,
            policy,
            accept,
        })
    }

    /// The id the origin is bound as.
    pub fn origin_id(&self) -> &'a [u8] {
        self.id.unwrap_or(self.origin_device)
    }
}

/// A tag, as it is written.
pub fn parse_tag(word: &[u8]) -> Result<Tag, Refusal> {
    number(word).and_then(Tag::new).ok_or(Refusal::BadTag)
}

/// Refuses what cannot be an origin id.
pub fn check_id(id: &[u8]) -> Result<&[u8], Refusal> {
    match id.len() {
        0 => Err(Refusal::EmptyId),
        1..=ID_MAX if id.iter().any(u8::is_ascii_control) => Err(Refusal::IdControl),
        1..=ID_MAX => Ok(id),
        _ => Err(Refusal::IdTooLong),
    }
}

fn parse_chunk_size(word: &[u8]) -> Result<ChunkSize, Refusal> {
    ChunkSize::from_pages(number(word).ok_or(Refusal::ChunkSize)?)
}
