// SPDX-License-Identifier: GPL-2.0

//! What `list` replies.

use super::error::Result;
use super::origin::Origin;
use super::store::Store;
use crate::dm::text::Text;
use crate::model::escape::Sink;
use crate::model::list::{list, StoreLine};
use core::fmt;
use kernel::sync::Arc;

impl Sink for Text<'_> {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        Text::write_bytes(self, bytes)
    }
}

impl Store {
    /// Appends a page of an origin's versions, from tag `start` on, of at most `max` rows and no
    /// more than fit. Process context; may sleep to read metadata.
    pub(crate) fn list(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        start: u32,
        max: u32,
        out: &mut Text<'_>,
    ) -> Result<()> {
        let mut engine = self.engine.lock();
        engine.check_bound(origin.number)?;
        engine.publish(self);
        let status = self.status();
        let meta = engine.meta_ref()?;
        let row = meta.origin_row(origin.number)?;
        let line = StoreLine {
            uuid: meta.superblock.uuid,
            usage: status.usage,
            state: origin.status().state,
            cleaning: status.cleaning,
        };
        let room = out.remaining();
        list(meta, &line, &row, start, max, room, out)
    }
}
