// SPDX-License-Identifier: GPL-2.0
//! What is noted when an origin and its replica change roles: by which version they are known to be the same, and
//! what is under way.

use crate::failure::{Failure, Kind, Result};
use dm_snap_mv_stream::receive::{Notes, StateFile};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// A version that both have. Tags are never used twice, so it says the same as long as both are there.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Common {
    /// The tag of the snapshot, or bookmark, here.
    pub here: u32,
    /// Of the one in the other store.
    pub there: u32,
}

/// What is under way.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Going {
    /// The tag of the snapshot here of what is written over.
    pub before: u32,
    /// What that is called in the stream: a UUID that nothing else has.
    pub uuid: String,
    /// The tag of the snapshot there that is received.
    pub to: u32,
}

/// Of an origin here, and one there.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// The UUID of the other store.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// The last version that both have been, as far as it is known from here.
    pub common: Common,
    /// What is being received, if anything is.
    pub going: Option<Going>,
}

impl Turn {
    /// What is noted; none, if nothing is, or nothing that makes sense.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Notes it, durably, in the place of what was noted before.
    pub fn store(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let stored = text.and_then(|text| StateFile::new(path).store(&text));
        stored.map_err(|e| {
            let what = format!("cannot note in {}: {e}", path.display());
            Failure::new(Kind::Refused, what)
        })
    }
}
