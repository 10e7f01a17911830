// SPDX-License-Identifier: GPL-2.0
//! What the tests of more than one file need.

use dm_snap_mv_model::escape::Sink;
use std::fmt;

/// Takes what the target writes.
#[derive(Default)]
pub struct Text(pub Vec<u8>);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes())
    }
}

impl Sink for Text {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}
