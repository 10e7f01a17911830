// SPDX-License-Identifier: GPL-2.0
//! The status line of a device.

use crate::failure::Failure;
use crate::fields::{next, unless_dash, Cleaning, Malformed, Part, Rollback};
use serde::Serialize;

/// What a status line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The number of the origin in its store.
    pub origin: u32,
    /// `valid`, `invalid`, `full`, `full-metadata`, `unbound` or `error`.
    pub state: String,
    /// Blocks of 4 KiB for metadata.
    pub metadata_blocks: Part,
    /// Chunks for data.
    pub chunks: Part,
    /// Sectors of a chunk.
    pub chunk_sectors: u64,
    /// Cleaning under way.
    pub cleaning: Option<Cleaning>,
    /// Rollback under way.
    pub rollback: Option<Rollback>,
    /// What only devices of its kind have.
    #[serde(flatten)]
    pub own: Own,
}

/// What differs between the two kinds of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Own {
    /// The origin as it is now.
    Origin {
        /// How many snapshots it has.
        snapshots: u64,
        /// How many bookmarks.
        bookmarks: u64,
    },
    /// A snapshot.
    Snapshot {
        /// Its tag.
        tag: u32,
        /// Chunks that were written to it.
        own_chunks: u64,
        /// Snapshots taken of it.
        children: u64,
    },
}

impl Status {
    /// Takes a status line apart.
    pub fn parse(line: &[u8]) -> Result<Self, Failure> {
        let text = String::from_utf8_lossy(line);
        Self::of_words(&mut text.split_ascii_whitespace()).map_err(|Malformed| {
            Malformed::failure(format!(
                "this dms does not understand the status \"{text}\""
            ))
        })
    }

    fn of_words<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, Malformed> {
        let is_origin = match words.next() {
            Some("co") => true,
            Some("cs") => false,
            _ => return Err(Malformed),
        };
        let origin = next(words)?;
        let tag = if is_origin { 0 } else { next(words)? };
        let state = next(words)?;
        let metadata_blocks = next(words)?;
        let chunks = next(words)?;
        let chunk_sectors = next(words)?;
        let own = if is_origin {
            Own::Origin {
                snapshots: next(words)?,
                bookmarks: 0,
            }
        } else {
            Own::Snapshot {
                tag,
                own_chunks: next(words)?,
                children: next(words)?,
            }
        };
        let mut status = Self {
            origin,
            state,
            metadata_blocks,
            chunks,
            chunk_sectors,
            cleaning: unless_dash(words.next().ok_or(Malformed)?)?,
            rollback: unless_dash(words.next().ok_or(Malformed)?)?,
            own,
        };
        if let Own::Origin { bookmarks, .. } = &mut status.own {
            // Modules before this had none.
            *bookmarks = words
                .next()
                .map_or(Ok(0), |word| word.parse().map_err(|_| Malformed))?;
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_origin() {
        let status = Status::parse(b"co 1 valid 12/1024 946/7865817 8 2 - - 3").unwrap();
        assert_eq!(status.origin, 1);
        assert_eq!(status.state, "valid");
        assert_eq!(status.chunks.total, 7_865_817);
        assert_eq!(status.chunk_sectors, 8);
        assert_eq!(
            status.own,
            Own::Origin {
                snapshots: 2,
                bookmarks: 3
            }
        );
        assert_eq!((status.cleaning, status.rollback), (None, None));
    }

    #[test]
    fn of_a_snapshot() {
        let status = Status::parse(b"cs 3 7 full 12/1024 9/9 16 5 1 2:40 6:1/9").unwrap();
        assert_eq!(
            status.own,
            Own::Snapshot {
                tag: 7,
                own_chunks: 5,
                children: 1
            }
        );
        assert_eq!(status.cleaning.unwrap().left, 2);
        assert_eq!(status.rollback.unwrap().tag, 6);
    }

    #[test]
    fn fields_may_be_added_at_the_end() {
        assert!(Status::parse(b"co 1 valid 1/2 3/4 8 2 - - 0 later").is_ok());
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for line in ["", "co", "xx 1", "co 1 valid 1/2 3/4 8 2 -", "co x valid"] {
            assert!(Status::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
