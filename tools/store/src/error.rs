// SPDX-License-Identifier: GPL-2.0
//! What can go wrong while a store is read.

use dm_snap_mv_model::refusal::Refusal;
use std::fmt;
use std::io;

/// Why a store could not be read.
#[derive(Debug)]
pub enum Error {
    /// Block `block` could not be read.
    Io { block: u64, source: io::Error },
    /// Block `block` is not what it should be.
    Damaged { block: u64, what: &'static str },
    /// The store is one that this program does not read, or its content contradicts itself.
    Refused(Refusal),
    /// Block `block` of the journal could not be read, and may say what was changed last.
    JournalEnd { block: u64, source: io::Error },
    /// The journal stands for more changes than a journal can.
    Overlong,
    /// While it was read, another store has taken its place, or an earlier state of it.
    Another,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { block, source } => write!(f, "cannot read metadata block {block}: {source}"),
            Self::JournalEnd { block, source } => write!(
                f,
                "cannot read block {block}, which may say what was changed last: {source}"
            ),
            Self::Damaged { block, what } => write!(f, "metadata block {block} is damaged: {what}"),
            Self::Refused(refusal) => f.write_str(refusal.as_str()),
            Self::Overlong => f.write_str("it stands for more changes than a journal can"),
            Self::Another => f.write_str("another store has taken its place while it was read"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::JournalEnd { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A result of reading a store.
pub type Result<T> = std::result::Result<T, Error>;
