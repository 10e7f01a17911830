// SPDX-License-Identifier: GPL-2.0
//! The running digest of a segment.
//!
//! It is of what frames say, not of how that was compressed. At each mark it is closed, and the next
//! one begins with what it was, so that who goes on at a mark needs nothing of what was before.

use crate::frame::{kind, Header, HEADER, MAGIC, VERSION};
use blake3::Hasher;

/// BLAKE3.
pub type Digest = [u8; 32];

/// The digest of a segment's beginning, by which it is known again, from the payload that says what it
/// is of.
pub fn of_begin(payload: &[u8]) -> Digest {
    let header = Header {
        kind: kind::BEGIN,
        a: MAGIC,
        b: VERSION.into(),
        ..Header::default()
    };
    let mut hasher = Hasher::new();
    hasher.update(&header.digested(payload.len()));
    hasher.update(payload);
    hasher.finalize().into()
}

/// The digest since the last mark.
pub(crate) struct Running(Hasher);

impl Running {
    /// Goes on behind what has this digest: a segment's beginning, or what leads to a mark.
    pub(crate) fn behind(before: &Digest) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(before);
        Self(hasher)
    }

    /// Adds a frame.
    pub(crate) fn frame(&mut self, header: &Header, payload: &[u8]) {
        let header: [u8; HEADER] = header.digested(payload.len());
        self.0.update(&header);
        self.0.update(payload);
    }

    /// The digest of all up to here, which what follows goes on from.
    pub(crate) fn close(&mut self) -> Digest {
        let digest = self.0.finalize().into();
        *self = Self::behind(&digest);
        digest
    }
}

/// The digest of a stream: of its segments' digests.
#[derive(Default)]
pub(crate) struct Whole(Hasher);

impl Whole {
    pub(crate) fn segment(&mut self, digest: &Digest) {
        self.0.update(digest);
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.finalize().into()
    }
}
