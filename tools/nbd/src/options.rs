// SPDX-License-Identifier: GPL-2.0
//! What comes with an option.

use crate::bytes::Bytes;
use crate::wire::MOST_STRING;

/// What INFO and GO come with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen<'a> {
    /// Of the export.
    pub(crate) name: &'a [u8],
    /// What is to be told of it.
    pub(crate) wants: Vec<u16>,
}

impl<'a> Chosen<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(data);
        let name = name(&mut bytes)?;
        let many = bytes.u16()?;
        let wants = (0..many).map(|_| bytes.u16()).collect::<Option<_>>()?;
        bytes.0.is_empty().then_some(Self { name, wants })
    }
}

/// What LIST_META_CONTEXT and SET_META_CONTEXT come with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Queries<'a> {
    /// Of the export.
    pub(crate) name: &'a [u8],
    /// Names of contexts, or what several begin with.
    pub(crate) all: Vec<&'a [u8]>,
}

impl<'a> Queries<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(data);
        let name = name(&mut bytes)?;
        let many = bytes.u32()?;
        let all = (0..many).map(|_| bytes.string()).collect::<Option<_>>()?;
        bytes.0.is_empty().then_some(Self { name, all })
    }
}

fn name<'a>(bytes: &mut Bytes<'a>) -> Option<&'a [u8]> {
    bytes.string().filter(|name| name.len() <= MOST_STRING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_or_too_long() {
        let whole = [0, 0, 0, 1, b'x', 0, 2, 0, 1, 0, 3];
        let chosen = Chosen::parse(&whole).unwrap();
        assert_eq!(chosen.name, b"x");
        assert_eq!(chosen.wants, [1, 3]);
        for len in 0..whole.len() {
            assert_eq!(Chosen::parse(&whole[..len]), None, "{len}");
        }
        let mut more = whole.to_vec();
        more.push(0);
        assert_eq!(Chosen::parse(&more), None);
        let queries = [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0];
        let parsed = Queries::parse(&queries).unwrap();
        assert_eq!(parsed.all, [&b"a"[..], b""]);
        for len in 0..queries.len() {
            assert_eq!(Queries::parse(&queries[..len]), None, "{len}");
        }
    }

    #[test]
    fn counts_that_nothing_follows_take_no_memory() {
        let many = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Queries::parse(&many), None);
        let long = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(Queries::parse(&long), None);
    }
}
