// SPDX-License-Identifier: GPL-2.0
//! Lists of fields: type (2), length (2), and that many bytes, one behind the other, in ascending
//! order of their types, each at most once.

use crate::bytes::array_at;
use crate::error::Fault;

/// Bit of a type: a reader that does not know it refuses the stream.
pub const REQUIRED: u16 = 0x8000;

/// Most bytes of a list.
pub const MOST: usize = 1 << 15;

/// A list that is put together. Fields are to be added in the order of their types.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Adds a field. One that would be longer than a field can be is cut off.
    pub(crate) fn add(&mut self, kind: u16, value: &[u8]) {
        let len = value.len().min(u16::MAX.into());
        self.0.extend(kind.to_le_bytes());
        self.0.extend((len as u16).to_le_bytes());
        self.0.extend(value.iter().take(len));
    }

    /// Adds a field, if there is one.
    pub(crate) fn add_some(&mut self, kind: u16, value: Option<impl AsRef<[u8]>>) {
        if let Some(value) = value {
            self.add(kind, value.as_ref());
        }
    }

    /// The bytes.
    pub(crate) fn end(self) -> Vec<u8> {
        self.0
    }
}

/// The fields of a list, with their types.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    last: Option<u16>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            last: None,
        }
    }

    fn field(&mut self) -> Result<(u16, &'a [u8]), Fault> {
        let cut = Fault::Damaged("a list of fields is cut off");
        let Some((head, rest)) = self.rest.split_at_checked(4) else {
            return Err(cut);
        };
        let kind = u16::from_le_bytes(array_at(head, 0));
        let len = u16::from_le_bytes(array_at(head, 2));
        let Some((value, rest)) = rest.split_at_checked(len.into()) else {
            return Err(cut);
        };
        // Without the bit, so that there are no two of one number.
        if self.last.is_some_and(|last| last >= kind & !REQUIRED) {
            return Err(Fault::Damaged("fields are not in order"));
        }
        self.rest = rest;
        self.last = Some(kind & !REQUIRED);
        Ok((kind, value))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u16, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(fields: &[(u16, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::default();
        for (kind, value) in fields {
            writer.add(*kind, value);
        }
        writer.end()
    }

    #[test]
    fn fields_come_in_order_and_once() {
        let read = |bytes: &[u8]| Reader::new(bytes).collect::<Result<Vec<_>, _>>().is_ok();
        let right = list(&[(1, b"a"), (2 | REQUIRED, b""), (3, b"ccc")]);
        assert!(read(&right));
        assert!(read(&[]));
        assert!(!read(&list(&[(1, b"a"), (1, b"a")])));
        assert!(!read(&list(&[(1, b"a"), (1 | REQUIRED, b"a")])));
        assert!(!read(&list(&[(2, b"a"), (1, b"a")])));
        let ends = [5, 9, 16];
        for cut in 1..right.len() {
            assert_eq!(read(&right[..cut]), ends.contains(&cut), "{cut}");
        }
    }
}
