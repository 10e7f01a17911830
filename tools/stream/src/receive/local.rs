// SPDX-License-Identifier: GPL-2.0
//! Targets that keep versions of themselves: origins, of which snapshots are taken where they are.

use crate::bytes::{array_at, put, u32_at};
use crate::version::Uuid;
use std::fmt;

/// A snapshot that was taken of a target when it held a version, and by which it is proven that it
/// still does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The UUID of the store that the target is in.
    pub store: Uuid,
    /// The number of the origin that the target is.
    pub origin: u32,
    /// The tag of the snapshot.
    pub tag: u32,
}

impl Local {
    /// Bytes of it in a note.
    pub const SIZE: usize = 24;

    pub(super) fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.store);
        put(&mut bytes, 16, &self.origin.to_le_bytes());
        put(&mut bytes, 20, &self.tag.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            store: array_at(bytes, 0),
            origin: u32_at(bytes, 16),
            tag: u32_at(bytes, 20),
        }
    }
}

/// Why a target is not known to be what it was when a snapshot of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// It is not what the snapshot was taken of.
    Another,
    /// The snapshot is not there any more.
    Gone,
    /// The snapshot has lost data.
    Invalid,
    /// Somebody has written to the snapshot.
    Written,
    /// The target is being made what another snapshot is, or will be.
    Rollback,
    /// The target has been written to since.
    Changed,
}

impl Unlike {
    /// What is said of the target, and of the snapshot with this tag.
    pub(super) fn tell(self, tag: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Another => f.write_str("what is noted is of another target"),
            Self::Gone => write!(
                f,
                "snapshot {tag}, which was taken when it was received, is gone"
            ),
            Self::Invalid => write!(
                f,
                "snapshot {tag}, which was taken when it was received, is invalid"
            ),
            Self::Written => write!(
                f,
                "snapshot {tag}, which was taken when it was received, has been written to"
            ),
            Self::Rollback => f.write_str("it is being rolled back, or will be"),
            Self::Changed => {
                write!(
                    f,
                    "it has been written to since it was received as snapshot {tag}"
                )
            }
        }
    }
}
