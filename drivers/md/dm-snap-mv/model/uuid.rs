// SPDX-License-Identifier: GPL-2.0

//! UUIDs as they are written: `8-4-4-4-12` hexadecimal digits.

use core::fmt;

/// Digits and hyphens of one.
const LENGTH: usize = 36;

/// Bytes before which a hyphen stands.
const HYPHENS: [usize; 4] = [4, 6, 8, 10];

/// Shows a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid<'a>(pub &'a [u8; 16]);

impl fmt::Display for Uuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if HYPHENS.contains(&i) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The UUID that is written there, in digits of either case.
pub fn parse(word: &[u8]) -> Option<[u8; 16]> {
    if word.len() != LENGTH {
        return None;
    }
    let mut uuid = [0; 16];
    let mut rest = word;
    for (i, byte) in uuid.iter_mut().enumerate() {
        if HYPHENS.contains(&i) {
            rest = rest.strip_prefix(b"-")?;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let [high, low] = digits.map(|digit| (digit as char).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
        rest = behind;
    }
    Some(uuid)
}
