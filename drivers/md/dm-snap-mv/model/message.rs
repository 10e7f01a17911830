// SPDX-License-Identifier: GPL-2.0

//! Messages.

use super::disk::snapshot_row::{Memo, MEMO_MAX};
use super::ids::{Chunk, Tag};
use super::label;
use super::options::{long_number, number, once, set, Arguments, Item, Options};
use super::refusal::Refusal;
use super::report::DeviceNumber;
use super::table::parse_tag;

/// Most devices that a message can name to be frozen.
pub const MAX_ABOVE: usize = 32;

/// What is to be frozen besides the device itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freeze {
    above: [DeviceNumber; MAX_ABOVE],
    len: usize,
}

impl Freeze {
    /// The devices on top of it, in the order in which they are to be frozen.
    pub fn above(&self) -> &[DeviceNumber] {
        self.above.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, number: DeviceNumber) -> Result<(), Refusal> {
        let place = self.above.get_mut(self.len).ok_or(Refusal::TooManyAbove)?;
        *place = number;
        self.len += 1;
        Ok(())
    }
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// `so`: a snapshot of the origin.
    TakeOfOrigin {
        /// `-m`; empty without it.
        memo: Memo,
        /// `-z`, `-Z`: the file system on the origin is frozen meanwhile.
        freeze: Option<Freeze>,
        /// `-k`: only a bookmark.
        bookmark: bool,
        /// What its label is to say.
        label: label::Change,
    },
    /// `ss`: a snapshot of a snapshot.
    TakeOfSnapshot {
        /// Of this one.
        tag: Tag,
        /// `-m`; empty without it.
        memo: Memo,
        /// `-z`, `-Z`: the file system on that snapshot's device is frozen meanwhile.
        freeze: Option<Freeze>,
        /// What its label is to say.
        label: label::Change,
    },
    /// `label`: what a snapshot's or bookmark's label says, or is to say.
    Label {
        /// Of this one.
        tag: Tag,
        /// Nothing: it is asked for.
        change: label::Change,
    },
    /// `do`: unbind the origin.
    Unbind,
    /// `ds`: delete a snapshot or a bookmark.
    Delete {
        /// This one.
        tag: Tag,
        /// `-k`: keep a bookmark of it.
        keep: bool,
    },
    /// `rs`: roll the origin back to a snapshot.
    RollBack {
        /// To this one.
        tag: Tag,
        /// `-b`: do not wait for the end.
        background: bool,
        /// `-l`: not now, but when the origin is activated next.
        later: bool,
        /// `-d`: delete the snapshot at the end.
        delete: bool,
        /// `-z`, `-Z`: the file system on the snapshot's device is frozen until the origin reads as
        /// the snapshot.
        freeze: Option<Freeze>,
    },
    /// `rs -x`, or `rs -l` without a tag: a rollback that is to begin later is not to.
    CallOff,
    /// `commit`: all that was changed is written into the trees.
    Commit,
    /// `delta`: what differs in a version from what another one has.
    Delta {
        /// What it is compared with.
        from: Tag,
        /// This one; none: the origin as it is.
        to: Option<Tag>,
        /// From this chunk on.
        start: Chunk,
        /// At most so many runs.
        max: u32,
    },
    /// `list`: what there is of this origin.
    List {
        /// From this tag on; 0 is the origin itself.
        start: u32,
        /// At most so many rows.
        max: u32,
    },
}

/// A message, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub message: Message,
    /// `try`: a refusal is to be told in the reply rather than by an error.
    pub tried: bool,
}

/// Whether the words begin with `try`, so that a refusal to take them apart, too, is to be told in
/// the reply.
pub fn is_tried<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> bool {
    words.into_iter().next() == Some(b"try")
}

impl Request {
    /// Takes the words of a message apart, with or without `try` before them.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Result<Request, Refusal> {
        let mut words = words.into_iter();
        let mut command = words.next().ok_or(Refusal::MissingMessage)?;
        let tried = command == b"try";
        if tried {
            command = words.next().ok_or(Refusal::MissingMessage)?;
        }
        let message = Message::parse(command, words)?;
        Ok(Request { message, tried })
    }
}

impl Message {
    fn parse<'a>(
        command: &[u8],
        words: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Message, Refusal> {
        // How many arguments it takes, and its options without and with an argument.
        let (most, flags, values): (usize, &[u8], &[u8]) = match command {
            b"so" => (0, b"kz", b"mZncefgpu"),
            b"ss" => (1, b"z", b"mZncefgpu"),
            b"label" => (1, b"", label::OPTIONS),
            b"do" => (0, b"", b""),
            b"ds" => (1, b"k", b""),
            b"rs" => (1, b"bdlxz", b"Z"),
            b"list" => (2, b"", b""),
            b"commit" => (0, b"", b""),
            b"delta" => (4, b"", b""),
            b"try" => return Err(Refusal::NestedTry),
            _ => return Err(Refusal::UnknownMessage),
        };
        let mut memo = None;
        let (mut background, mut delete, mut later) = (false, false, false);
        let (mut call_off, mut keep) = (false, false);
        let (mut frozen, mut freeze) = (false, None);
        let mut arguments = Arguments::<4>::new();
        let mut label = label::Change::default();
        for item in Options::new(words, b"bdklxz", b"mZncefgpu") {
            match item? {
                Item::Value(letter, _) if !values.contains(&letter) => {
                    return Err(Refusal::MisplacedOption)
                }
                Item::Flag(letter) if !flags.contains(&letter) => {
                    return Err(Refusal::MisplacedOption)
                }
                Item::Value(b'Z', word) => freeze
                    .get_or_insert_with(Freeze::default)
                    .push(parse_device(word)?)?,
                Item::Value(b'm', word) => once(&mut memo, parse_memo(word)?)?,
                Item::Value(letter, word) => label.set(letter, word)?,
                Item::Flag(b'b') => set(&mut background)?,
                Item::Flag(b'd') => set(&mut delete)?,
                Item::Flag(b'k') => set(&mut keep)?,
                Item::Flag(b'x') => set(&mut call_off)?,
                Item::Flag(b'z') => set(&mut frozen)?,
                Item::Flag(_) => set(&mut later)?,
                Item::Argument(word) => arguments.push(word)?,
            }
        }
        let words = arguments.words();
        if words.iter().flatten().count() > most {
            return Err(Refusal::ExtraArgument);
        }
        let [first, second, third, fourth] = words;
        let memo = memo.unwrap_or(Memo::EMPTY);
        if frozen {
            let _ = freeze.get_or_insert_with(Freeze::default);
        }
        let plain = !background && !delete && freeze.is_none();
        if call_off && (later || !plain) {
            return Err(Refusal::MisplacedOption);
        }
        if call_off && first.is_some() {
            return Err(Refusal::ExtraArgument);
        }
        if call_off || later && plain && first.is_none() {
            return Ok(Message::CallOff);
        }
        if later && freeze.is_some() {
            // Who knows what will be mounted then.
            return Err(Refusal::MisplacedOption);
        }
        let tag = || parse_tag(first.ok_or(Refusal::MissingTag)?);
        Ok(match command {
            b"so" => Message::TakeOfOrigin {
                memo,
                freeze,
                bookmark: keep,
                label,
            },
            b"ss" => Message::TakeOfSnapshot {
                tag: tag()?,
                memo,
                freeze,
                label,
            },
            b"label" => Message::Label {
                tag: tag()?,
                change: label,
            },
            b"do" => Message::Unbind,
            b"ds" => Message::Delete { tag: tag()?, keep },
            b"commit" => Message::Commit,
            b"delta" => Message::Delta {
                from: tag()?,
                to: Tag::new(parse_number(second.ok_or(Refusal::MissingTag)?)?),
                start: third.map_or(Ok(Chunk::ZERO), parse_chunk)?,
                max: parse_max(fourth)?,
            },
            b"rs" => Message::RollBack {
                tag: tag()?,
                background,
                later,
                delete,
                freeze,
            },
            _ => Message::List {
                start: first.map_or(Ok(0), parse_number)?,
                max: parse_max(second)?,
            },
        })
    }
}

/// How many rows a page may have; as many as there are, if that is not said.
fn parse_max(word: Option<&[u8]>) -> Result<u32, Refusal> {
    match word.map_or(Ok(u32::MAX), parse_number)? {
        0 => Err(Refusal::EmptyPage),
        max => Ok(max),
    }
}

fn parse_chunk(word: &[u8]) -> Result<Chunk, Refusal> {
    long_number(word)
        .and_then(Chunk::new)
        .ok_or(Refusal::BadChunk)
}

fn parse_device(word: &[u8]) -> Result<DeviceNumber, Refusal> {
    let mut parts = word.splitn(2, |&byte| byte == b':').map(number);
    match (parts.next(), parts.next()) {
        (Some(Some(major)), Some(Some(minor))) => Ok(DeviceNumber { major, minor }),
        _ => Err(Refusal::BadDevice),
    }
}

fn parse_number(word: &[u8]) -> Result<u32, Refusal> {
    number(word).ok_or(Refusal::BadNumber)
}

/// A memo, as it is written: at most 64 bytes of UTF-8 without control characters.
pub fn parse_memo(word: &[u8]) -> Result<Memo, Refusal> {
    if word.len() > MEMO_MAX {
        return Err(Refusal::MemoTooLong);
    }
    let text = core::str::from_utf8(word).map_err(|_| Refusal::MemoNotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(Refusal::MemoControl);
    }
    Memo::new(word).ok_or(Refusal::MemoTooLong)
}
