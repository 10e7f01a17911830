// SPDX-License-Identifier: GPL-2.0
//! A list of ranges that takes little memory: a few bytes for each.

use dm_snap_mv_stream::Piece;

/// Of so many ranges one is noted where it is found.
const NOTED: usize = 256;

/// Ranges in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Of each range two numbers of seven bits a byte: how far it is from the end of the last one, and how
    /// long it is, with whether it is zeroes.
    bytes: Vec<u8>,
    end: u64,
    /// How many there are.
    many: usize,
    /// Where some of them are found: the end of the one before, and the first byte.
    noted: Vec<(u64, usize)>,
}

impl Ranges {
    /// Adds one behind all others.
    pub fn push(&mut self, piece: Piece) {
        if self.many % NOTED == 0 {
            self.noted.push((self.end, self.bytes.len()));
        }
        self.many += 1;
        self.put(piece.start.saturating_sub(self.end));
        self.put((piece.sectors << 1) | u64::from(piece.zero));
        self.end = piece.start.saturating_add(piece.sectors);
    }

    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Piece> + '_ {
        self.iter_at(0, 0)
    }

    /// Those that end behind a sector, found without going through all before it.
    pub fn iter_from(&self, sector: u64) -> impl Iterator<Item = Piece> + '_ {
        let noted = self.noted.partition_point(|(end, _)| *end <= sector);
        let noted = noted.checked_sub(1).and_then(|last| self.noted.get(last));
        let (end, first) = noted.copied().unwrap_or_default();
        let before = move |piece: &Piece| piece.start.saturating_add(piece.sectors) <= sector;
        self.iter_at(end, first).skip_while(before)
    }

    fn iter_at(&self, end: u64, first: usize) -> impl Iterator<Item = Piece> + '_ {
        let mut numbers = Numbers(self.bytes.get(first..).unwrap_or_default().iter());
        let mut end = end;
        std::iter::from_fn(move || {
            let start = end.saturating_add(numbers.next()?);
            let word = numbers.next()?;
            end = start.saturating_add(word >> 1);
            Some(Piece {
                start,
                sectors: word >> 1,
                zero: word & 1 != 0,
            })
        })
    }
}

struct Numbers<'a>(std::slice::Iter<'a, u8>);

impl Iterator for Numbers<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = *self.0.next()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let piece = |start, sectors, zero| Piece {
            start,
            sectors,
            zero,
        };
        let all = [
            piece(0, 8, false),
            piece(8, 8, true),
            piece(127, 1, false),
            piece(1 << 40, 1 << 50, true),
            piece((1 << 53) + 5, 63, false),
        ];
        let mut ranges = Ranges::default();
        for piece in all {
            ranges.push(piece);
        }
        assert!(ranges.iter().eq(all));
        assert_eq!(Ranges::default().iter().count(), 0);
        assert_eq!(Ranges::default().iter_from(7).count(), 0);
    }

    #[test]
    fn from_any_sector_on() {
        let all: Vec<_> = (0..2000u64)
            .map(|n| Piece {
                start: n * 10 + n % 3,
                sectors: 1 + n % 8,
                zero: n % 5 == 0,
            })
            .collect();
        let mut ranges = Ranges::default();
        for piece in &all {
            ranges.push(*piece);
        }
        for sector in (0..20_100).step_by(7).chain([u64::MAX]) {
            let expected = all.iter().filter(|p| p.start + p.sectors > sector);
            assert!(ranges.iter_from(sector).eq(expected.copied()), "{sector}");
        }
    }
}
