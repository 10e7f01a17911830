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

    /// Where the last one ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many ranges without a gap between them these are, and how many sectors in all.
    pub fn count(&self) -> (u64, u64) {
        let (mut ranges, mut sectors, mut end) = (0, 0u64, None);
        for piece in self.iter() {
            ranges += u64::from(end != Some(piece.start));
            sectors = sectors.saturating_add(piece.sectors);
            end = Some(piece.start.saturating_add(piece.sectors));
        }
        (ranges, sectors)
    }

    /// What of these is below a sector.
    pub fn up_to(&self, most: u64) -> Self {
        let mut all = Self::default();
        for piece in self.iter().take_while(|piece| piece.start < most) {
            let sectors = piece.sectors.min(most - piece.start);
            all.push(Piece { sectors, ..piece });
        }
        all
    }

    /// These, and what of others is in none of them. Of what is in both it is these that say whether it is zeroes.
    pub fn and(&self, others: &Self) -> Self {
        let end_of = |piece: &Piece| piece.start.saturating_add(piece.sectors);
        let mut all = Self::default();
        let mut ours = self.iter().peekable();
        for other in others.iter() {
            // One of ours may have reached into it, or over it.
            let (mut start, end) = (other.start.max(all.end), end_of(&other));
            while let Some(piece) = ours.next_if(|piece| piece.start < end) {
                if piece.start > start {
                    let sectors = piece.start - start;
                    all.push(Piece {
                        start,
                        sectors,
                        ..other
                    });
                }
                start = start.max(end_of(&piece));
                all.push(piece);
            }
            if start < end {
                let sectors = end - start;
                all.push(Piece {
                    start,
                    sectors,
                    ..other
                });
            }
        }
        for piece in ours {
            all.push(piece);
        }
        all
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

    /// Of a picture: a letter for a sector, d data, z zeroes.
    fn drawn(picture: &str) -> Ranges {
        let mut ranges = Ranges::default();
        let letters: Vec<char> = picture.chars().collect();
        let mut at = 0;
        for run in letters.chunk_by(|a, b| a == b) {
            if run[0] != '.' {
                ranges.push(Piece {
                    start: at,
                    sectors: run.len() as u64,
                    zero: run[0] == 'z',
                });
            }
            at += run.len() as u64;
        }
        ranges
    }

    /// The same back, of which nothing may be in two ranges.
    fn picture(ranges: &Ranges, len: usize) -> String {
        let mut letters = vec!['.'; len];
        let mut end = 0;
        for piece in ranges.iter() {
            assert!(piece.start >= end && piece.sectors > 0);
            end = piece.start + piece.sectors;
            letters[piece.start as usize..end as usize].fill(if piece.zero { 'z' } else { 'd' });
        }
        letters.into_iter().collect()
    }

    #[test]
    fn both_together() {
        let both = |ours: &str, others: &str, all: &str| {
            let got = drawn(ours).and(&drawn(others));
            assert_eq!(picture(&got, all.len()), all, "{ours} and {others}");
        };
        both("..dd..zz", "........", "..dd..zz");
        both("........", "..dd..zz", "..dd..zz");
        both("..zz....", "dddddddd", "ddzzdddd");
        both(".zzzzzz.", "..dd.d..", ".zzzzzz.");
        both("zz..zz..", ".dd..ddd", "zzd.zzdd");
        both("z.z.z.z.", "ddd.ddd.", "zdz.zdz.");
        both("zzzz....", "..dd..dd", "zzzz..dd");
        // All of four sectors, by force.
        let all: Vec<String> = (0..81)
            .map(|n| {
                [1, 3, 9, 27]
                    .map(|d| ['.', 'd', 'z'][n / d % 3])
                    .iter()
                    .collect()
            })
            .collect();
        for ours in &all {
            for others in &all {
                let wanted: String = ours
                    .chars()
                    .zip(others.chars())
                    .map(|(a, b)| if a == '.' { b } else { a })
                    .collect();
                both(ours, others, &wanted);
            }
        }
    }

    #[test]
    fn a_part_and_how_much_it_is() {
        let ranges = drawn("dd.zzdd.d");
        assert_eq!(ranges.count(), (3, 7));
        assert_eq!(ranges.end(), 9);
        assert_eq!(picture(&ranges.up_to(4), 9), "dd.z.....");
        assert_eq!(picture(&ranges.up_to(100), 9), "dd.zzdd.d");
        assert!(ranges.up_to(0).is_empty() && !ranges.is_empty());
    }
}
