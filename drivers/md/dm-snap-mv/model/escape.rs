// SPDX-License-Identifier: GPL-2.0

//! Words that may hold spaces: a backslash takes the next byte's meaning away.
//!
//! Device-mapper splits table lines and messages where the kernel's `isspace()` says so, and that
//! holds for the byte 0xa0 too, which is a part of some UTF-8 characters. So in what device-mapper
//! is to read again that byte is escaped as well, in what only people and `dms` read it is not.

use core::fmt;

/// Where text goes: as with [`fmt::Write`], and bytes that need not be UTF-8.
pub trait Sink: fmt::Write {
    /// Appends bytes; fails when they do not fit.
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result;
}

/// Who reads the word again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Device-mapper.
    DeviceMapper,
    /// People, and programs that split at ASCII spaces only.
    People,
}

impl Reader {
    fn needs_escape(self, byte: u8) -> bool {
        match byte {
            b'\\' | b' ' | b'\t'..=b'\r' => true,
            0xa0 => self == Reader::DeviceMapper,
            _ => false,
        }
    }
}

/// Appends a word with backslashes where they are needed.
pub fn word(out: &mut dyn Sink, reader: Reader, word: &[u8]) -> fmt::Result {
    let mut rest = word;
    while let Some(at) = rest.iter().position(|&b| reader.needs_escape(b)) {
        let (plain, special) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        let (byte, behind) = special.split_at_checked(1).unwrap_or((special, &[]));
        out.write_bytes(plain)?;
        out.write_bytes(b"\\")?;
        out.write_bytes(byte)?;
        rest = behind;
    }
    out.write_bytes(rest)
}

/// Appends a word that may be empty: `-` then, and `\-` when it is `-` itself.
pub fn word_or_dash(out: &mut dyn Sink, reader: Reader, text: &[u8]) -> fmt::Result {
    match text {
        b"" => out.write_bytes(b"-"),
        b"-" => out.write_bytes(b"\\-"),
        _ => word(out, reader, text),
    }
}

/// The first word of `line`, still escaped, and what follows it; none when only spaces are left.
/// Splits at ASCII spaces, as `list` writes its rows.
pub fn split_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.iter().position(|b| !b.is_ascii_whitespace())?;
    let line = line.get(start..)?;
    let mut escaped = false;
    let end = line.iter().position(|&b| {
        let space = !escaped && b.is_ascii_whitespace();
        escaped = !escaped && b == b'\\';
        space
    });
    line.split_at_checked(end.unwrap_or(line.len()))
}

/// The bytes of an escaped word. A backslash at its very end stands for itself.
pub fn unescape(word: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut bytes = word.iter().copied();
    core::iter::from_fn(move || match bytes.next()? {
        b'\\' => Some(bytes.next().unwrap_or(b'\\')),
        byte => Some(byte),
    })
}
