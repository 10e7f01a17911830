// SPDX-License-Identifier: GPL-2.0
//! Which COW chunks are used: a bit for each, in pieces as large as a space map's.

use std::collections::BTreeMap;

/// Chunks in a piece: those of one bitmap of a space map.
pub(crate) const PIECE: u64 = 16320;

const WORDS: usize = (PIECE / 64) as usize;

#[derive(Default)]
pub(crate) struct Used {
    pieces: BTreeMap<u64, Box<[u64; WORDS]>>,
}

fn place(chunk: u64) -> (u64, usize, u64) {
    let at = chunk % PIECE;
    (chunk / PIECE, (at / 64) as usize, 1 << (at % 64))
}

impl Used {
    /// Notes that a chunk is used; false when it was noted before.
    pub(crate) fn insert(&mut self, chunk: u64) -> bool {
        let (piece, word, bit) = place(chunk);
        let piece = self
            .pieces
            .entry(piece)
            .or_insert_with(|| Box::new([0; WORDS]));
        let Some(word) = piece.get_mut(word) else {
            return true;
        };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether a chunk is used.
    pub(crate) fn contains(&self, chunk: u64) -> bool {
        let (piece, word, bit) = place(chunk);
        let piece = self.pieces.get(&piece);
        piece
            .and_then(|piece| piece.get(word))
            .is_some_and(|word| word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_its_own_bit() {
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
}
