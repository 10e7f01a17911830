// SPDX-License-Identifier: GPL-2.0

//! Command lines in getopt's style: options and arguments in any order.

use super::refusal::Refusal;

/// What a command line consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An option without an argument.
    Flag(u8),
    /// An option with its argument.
    Value(u8, &'a [u8]),
    /// Neither.
    Argument(&'a [u8]),
}

/// Splits words into options and arguments.
///
/// Options may be joined (`-bf`), an option's argument may follow at once (`-c4`) or as the next
/// word; after `--` all words are arguments, and `-` alone is one.
pub struct Options<'a, I> {
    words: I,
    /// Letters of options without an argument.
    flags: &'static [u8],
    /// Letters of options with one.
    values: &'static [u8],
    /// What is left of a word of joined options.
    joined: &'a [u8],
    /// `--` was seen.
    ended: bool,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Options<'a, I> {
    /// Splits `words`, where `flags` are options without an argument and `values` options with one.
    pub fn new(words: I, flags: &'static [u8], values: &'static [u8]) -> Self {
        Options {
            words,
            flags,
            values,
            joined: &[],
            ended: false,
        }
    }

    fn letter(&mut self, letter: u8, rest: &'a [u8]) -> Result<Item<'a>, Refusal> {
        if self.flags.contains(&letter) {
            self.joined = rest;
            Ok(Item::Flag(letter))
        } else if self.values.contains(&letter) {
            let argument = match rest {
                [] => self.words.next().ok_or(Refusal::MissingOptionArgument)?,
                _ => rest,
            };
            Ok(Item::Value(letter, argument))
        } else {
            Err(Refusal::UnknownOption)
        }
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Options<'a, I> {
    type Item = Result<Item<'a>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((&letter, rest)) = core::mem::take(&mut self.joined).split_first() {
            return Some(self.letter(letter, rest));
        }
        let word = self.words.next()?;
        match word {
            _ if self.ended => Some(Ok(Item::Argument(word))),
            [b'-', b'-'] => {
                self.ended = true;
                self.next()
            }
            [b'-', letter, rest @ ..] => Some(self.letter(*letter, rest)),
            _ => Some(Ok(Item::Argument(word))),
        }
    }
}

/// Puts an option's value where nothing may be yet; else [`Refusal::DuplicateOption`].
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::DuplicateOption),
    }
}

/// Sets a flag that may not be set yet; else [`Refusal::DuplicateOption`].
pub(super) fn set(flag: &mut bool) -> Result<(), Refusal> {
    match core::mem::replace(flag, true) {
        false => Ok(()),
        true => Err(Refusal::DuplicateOption),
    }
}

/// The number written in decimal digits, if it fits.
pub(super) fn number(digits: &[u8]) -> Option<u32> {
    long_number(digits)?.try_into().ok()
}

/// As [`number`], of 64 bits.
pub(super) fn long_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = (digit as char).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The arguments of a command line, at most `N`.
pub(super) struct Arguments<'a, const N: usize> {
    words: [Option<&'a [u8]>; N],
    len: usize,
}

impl<'a, const N: usize> Arguments<'a, N> {
    pub(super) fn new() -> Self {
        Arguments {
            words: [None; N],
            len: 0,
        }
    }

    /// Takes one more; [`Refusal::ExtraArgument`] when there are too many.
    pub(super) fn push(&mut self, word: &'a [u8]) -> Result<(), Refusal> {
        let place = self.words.get_mut(self.len).ok_or(Refusal::ExtraArgument)?;
        *place = Some(word);
        self.len += 1;
        Ok(())
    }

    /// All of them.
    pub(super) fn words(&self) -> [Option<&'a [u8]>; N] {
        self.words
    }
}
