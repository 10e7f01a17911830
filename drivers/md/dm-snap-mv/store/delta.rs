// SPDX-License-Identifier: GPL-2.0

//! What `delta` replies.

use super::engine::Engine;
use super::error::Result;
use super::origin::Origin;
use super::store::Store;
use crate::dm::text::Text;
use crate::model::delta::{Delta, Page, Version};
use crate::model::ids::{Chunk, Tag};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Looks at the metadata with the engine's mutex held: I/O waits for no more than that.
const STEP: u32 = 128;

/// Steps of one message, between which others have their turn. Who asked goes on with the next one.
const STEPS: u32 = 64;

/// The versions that are compared, each of which is large.
struct Versions {
    from: Version,
    to: Version,
}

impl Store {
    /// Appends a page of the chunks of `to` (`None`: the origin as it is) that are not as in `from`. In a
    /// message, with no locks held; sleeps to read metadata. Ends early, with where to go on, when it has
    /// taken long, when a signal comes or when `is_suspending` says so.
    ///
    /// # Errors
    ///
    /// Those of [`Version::find`], also when one of them is deleted meanwhile; [`Page::step`];
    /// of reading metadata.
    pub(crate) fn delta(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        from: Tag,
        to: Option<Tag>,
        mut page: Page,
        out: &mut Text<'_>,
        is_suspending: impl Fn() -> bool,
    ) -> Result<()> {
        let mut end = Chunk::ZERO;
        for _ in 0..STEPS {
            let mut engine = self.engine.lock();
            let versions = engine.versions(origin, from, to)?;
            let (more, behind) = engine.delta_step(self, origin, &versions, &mut page, out)?;
            // Whoever waits for the worker's next turn must not wait for all of this.
            drop(engine);
            end = behind;
            if !more || is_suspending() || kernel::current!().signal_pending() {
                break;
            }
        }
        Ok(page.finish(end, out)?)
    }
}

impl Engine {
    /// Both versions, as long as they are there.
    #[inline(never)]
    fn versions(
        &mut self,
        origin: &Arc<Origin>,
        from: Tag,
        to: Option<Tag>,
    ) -> Result<KBox<Versions>> {
        self.check_bound(origin.number)?;
        let meta = self.meta_ref()?;
        let row = meta.origin_row(origin.number)?;
        let from = Version::find(meta, &row, Some(from))?;
        let to = Version::find(meta, &row, to)?;
        Ok(KBox::new(Versions { from, to }, GFP_KERNEL)?)
    }

    /// One step. Returns whether there is more to do for this page, and the end of all.
    fn delta_step(
        &self,
        cx: &Store,
        origin: &Arc<Origin>,
        versions: &Versions,
        page: &mut Page,
        out: &mut Text<'_>,
    ) -> Result<(bool, Chunk)> {
        let chunk_size = cx.geometry.chunk_size;
        let delta = Delta::new(&versions.from, &versions.to, chunk_size)?;
        let view = self.origin_state(origin.number)?.view.as_deref();
        let more = page.step(self.meta_ref()?, &delta, view, chunk_size, STEP, out)?;
        Ok((more, delta.end))
    }
}
