// SPDX-License-Identifier: GPL-2.0
//! Words of table lines and messages, as the target and device-mapper write and read them.

use dm_snap_mv_model::escape::{self, Reader, Sink};
use std::fmt;

/// A line that is put together.
struct Line<'a>(&'a mut Vec<u8>);

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes())
    }
}

impl Sink for Line<'_> {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends `word` to `line`, with a space before it unless it is the first, so that
/// device-mapper will read it as one word.
pub fn push(line: &mut Vec<u8>, word: &[u8]) {
    if !line.is_empty() {
        line.push(b' ');
    }
    // A vector takes everything.
    let _ = escape::word(&mut Line(line), Reader::DeviceMapper, word);
}

/// Joins `words` to a line for the kernel.
pub fn join<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        push(&mut line, word.as_ref());
    }
    line
}

/// Splits a line of the target's, leaving backslashes where they are.
pub fn split_raw(line: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some((word, tail)) = escape::split_word(rest) {
        words.push(word);
        rest = tail;
    }
    words
}

/// Undoes the backslashes of a word.
pub fn plain(raw: &[u8]) -> Vec<u8> {
    escape::unescape(raw).collect()
}

/// Splits a line of the target's.
pub fn split(line: &[u8]) -> Vec<Vec<u8>> {
    split_raw(line).into_iter().map(plain).collect()
}

/// Whether `raw`, which still has its backslashes, means that there is nothing. A word that
/// merely consists of a dash has a backslash before it.
pub fn is_dash(raw: &[u8]) -> bool {
    raw == b"-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_and_backslashes_are_quoted() {
        assert_eq!(
            join(&["so", "-m", r"before the \ upgrade"]),
            br"so -m before\ the\ \\\ upgrade"
        );
    }

    #[test]
    fn what_is_a_space_to_the_kernel_only() {
        assert_eq!(join(&["à"]), b"\xc3\\\xa0");
        assert_eq!(join(&["\u{a0}"]), b"\xc2\\\xa0");
    }

    #[test]
    fn what_is_joined_can_be_split() {
        let words = ["co", "a b", r"\", r"\ ", "à", "-"];
        let split = split(&join(&words));
        assert_eq!(split, words.map(|w| w.as_bytes().to_vec()));
    }

    #[test]
    fn dash_is_none_unless_quoted() {
        let raw = split_raw(br"- \- a\ b");
        assert_eq!(raw.len(), 3);
        assert!(is_dash(raw[0]));
        assert!(!is_dash(raw[1]));
        assert_eq!(split(raw[1]), [b"-".to_vec()]);
        assert_eq!(split(raw[2]), [b"a b".to_vec()]);
    }
}
