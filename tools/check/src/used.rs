// SPDX-License-Identifier: GPL-2.0
//! Which COW chunks are used, in pieces as large as a space map's. A piece with few of them is a
//! list, one with many has a bit for each, so that chunks far from one another cost no more than
//! their records do.

use std::collections::BTreeMap;

/// Chunks in a piece: those of one bitmap of a space map.
pub(crate) const PIECE: u64 = 16320;

const WORDS: usize = (PIECE / 64) as usize;

/// So many in a list take as much room as a bit for each of the piece.
const FEW: usize = WORDS * 4;

enum Piece {
    /// Which ones, ascending.
    Few(Vec<u16>),
    /// A bit for each.
    Many(Box<[u64; WORDS]>),
}

/// A set of COW chunks.
#[derive(Default)]
pub(crate) struct Used {
    pieces: BTreeMap<u64, Piece>,
}

/// The piece that a chunk is in, and where in it.
fn place(chunk: u64) -> (u64, u16) {
    // It is less than `PIECE`.
    (chunk / PIECE, (chunk % PIECE) as u16)
}

fn bit(at: u16) -> (usize, u64) {
    (usize::from(at / 64), 1 << (at % 64))
}

impl Piece {
    /// All in a list, which ascends, as bits.
    fn bits(list: &[u16]) -> Box<[u64; WORDS]> {
        let mut bits = Box::new([0; WORDS]);
        for &at in list {
            let (word, bit) = bit(at);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
        }
        bits
    }

    /// False when it was there before.
    fn insert(&mut self, at: u16) -> bool {
        match self {
            Piece::Few(list) => match list.binary_search(&at) {
                Ok(_) => false,
                Err(place) if list.len() < FEW => {
                    // Most pieces of a store have either very few or very many.
                    if list.len() == list.capacity() {
                        list.reserve_exact(list.len().max(1));
                    }
                    list.insert(place, at);
                    true
                }
                Err(_) => {
                    *self = Piece::Many(Self::bits(list));
                    self.insert(at)
                }
            },
            Piece::Many(bits) => {
                let (word, bit) = bit(at);
                let Some(word) = bits.get_mut(word) else {
                    return true;
                };
                let fresh = *word & bit == 0;
                *word |= bit;
                fresh
            }
        }
    }

    fn contains(&self, at: u16) -> bool {
        match self {
            Piece::Few(list) => list.binary_search(&at).is_ok(),
            Piece::Many(bits) => {
                let (word, bit) = bit(at);
                bits.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }
}

impl Used {
    /// Notes that a chunk is used; false when it was noted before.
    pub(crate) fn insert(&mut self, chunk: u64) -> bool {
        let (piece, at) = place(chunk);
        let piece = self.pieces.entry(piece);
        piece.or_insert_with(|| Piece::Few(Vec::new())).insert(at)
    }

    /// Whether a chunk is used.
    pub(crate) fn contains(&self, chunk: u64) -> bool {
        let (piece, at) = place(chunk);
        self.pieces
            .get(&piece)
            .is_some_and(|piece| piece.contains(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_its_own_place() {
        let mut used = Used::default();
        let some = [0, 1, 63, 64, PIECE - 1, PIECE, 3 * PIECE + 7, (1 << 48) - 1];
        for chunk in some {
            assert!(!used.contains(chunk));
            assert!(used.insert(chunk));
            assert!(!used.insert(chunk));
            assert!(used.contains(chunk));
        }
        assert!(!used.contains(2) && !used.contains(PIECE + 1));
    }

    #[test]
    fn a_list_that_becomes_bits_keeps_all() {
        let mut used = Used::default();
        let all: Vec<u64> = (0..PIECE).filter(|n| n % 7 == 3).rev().collect();
        assert!(all.len() > FEW);
        for (i, &chunk) in all.iter().enumerate() {
            assert!(used.insert(chunk) && !used.insert(chunk));
            assert!(all[..=i]
                .iter()
                .all(|&chunk| i % 97 != 0 || used.contains(chunk)));
        }
        assert!((0..PIECE).all(|chunk| used.contains(chunk) == (chunk % 7 == 3)));
    }

    #[test]
    fn what_is_scattered_costs_what_a_list_costs() {
        let mut used = Used::default();
        for n in 0..1000 {
            assert!(used.insert(n * PIECE + n));
        }
        let few = |piece: &Piece| matches!(piece, Piece::Few(list) if list.capacity() == 1);
        assert!(used.pieces.values().all(few));
    }
}
