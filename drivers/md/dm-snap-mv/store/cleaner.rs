// SPDX-License-Identifier: GPL-2.0

//! Freeing what deleted snapshots held, in the background.
//!
//! The cleaner works in the worker's idle turns, a bounded number of records at a time, and its
//! place is on disk: foreground I/O never waits for more than one step, and a crash loses nothing.
//! While origins are in use it rests most of the time, for it takes a processor and the COW device.
//!
//! What invalid snapshots hold stays as long as nobody needs it. Who finds no space looks for that
//! first ([`Engine::seek_space`]): no snapshots are given up while others that are of no use any more
//! have what it takes.

use super::engine::Engine;
use super::error::{Result, StoreError};
use super::store::Store;
use crate::dm::time;
use crate::model::clean::{clean_step, percent, seek_invalid};
use crate::model::ids::TimelineId;
use crate::model::records::Metadata;
use crate::model::report::Cleaning;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Jiffies;

/// Records that one step looks at.
const STEP: u64 = 256;

/// For how many times as long as a step has taken it rests then, and for how long at least, in
/// milliseconds.
const REST: u32 = 3;
const LEAST_REST: u32 = 8;

/// For how long it rests when a snapshot was deleted, in milliseconds: others are often deleted next,
/// and while it works their deletion takes longer than one write of the journal.
const REST_DELETED: u32 = 100;

/// Snapshots that one step looks at in search of invalid ones.
const SEEK_STEP: u64 = 64;

/// The search for what invalid snapshots hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Search {
    /// There may be some.
    Open,
    /// It is under way, up to this timeline.
    At(TimelineId),
    /// All that there were have been queued for cleaning.
    Over,
}

/// How the cleaner makes way for others.
#[derive(Default)]
pub(super) struct Pace {
    /// What the origins' devices had carried out when it was last looked at.
    requests: u64,
    /// When the last step ended, and for how long it rests from then on, in milliseconds.
    rest: Option<(Jiffies, u32)>,
}

/// Timelines that status counts at most.
const MOST_COUNTED: u64 = 1000;

/// What there is to be cleaned, as far as it is known.
#[derive(Default)]
pub(super) struct Left {
    /// So many timelines.
    timelines: u64,
    /// And perhaps more.
    more: bool,
}

impl Engine {
    /// For how many milliseconds more the cleaner rests. Not while others wait for space, or for their
    /// turn to ask for it.
    pub(super) fn cleaner_rests(&self) -> u32 {
        match self.cleaner.rest {
            Some((since, msecs)) if self.hungry.is_empty() && self.patient.is_empty() => {
                msecs.saturating_sub(time::msecs_since(since))
            }
            _ => 0,
        }
    }

    /// One step, and a rest if need be. Returns whether there is more to do.
    pub(super) fn clean(&mut self, cx: &Arc<Store>) -> bool {
        let begin = time::jiffies();
        let more = self.clean_on(cx);
        let origins = self.origins.iter();
        let requests = origins.fold(0u64, |sum, state| {
            sum.wrapping_add(state.shared.dev.requests())
        });
        let in_use = core::mem::replace(&mut self.cleaner.requests, requests) != requests;
        self.cleaner.rest = in_use.then(|| {
            let rest = time::msecs_since(begin).saturating_mul(REST);
            (time::jiffies(), rest.max(LEAST_REST))
        });
        more
    }

    /// One step. Returns whether there is more to do.
    #[inline(never)]
    fn clean_on(&mut self, cx: &Arc<Store>) -> bool {
        if !self.cleaning {
            return false;
        }
        if !self.invalid_rest() {
            // They end soon.
            cx.machinery.worker.kick_after(LEAST_REST);
            return false;
        }
        if let Search::At(from) = self.search {
            return self.seek_on(from);
        }
        let hungry = !self.hungry.is_empty();
        let from = match self.next_to_clean(hungry) {
            Ok(Some(from)) => from,
            Ok(None) => return false,
            // It is met again right here.
            Err(_) => self.clean_from,
        };
        let budget = self.changes_at_once(STEP);
        let step =
            budget.and_then(|budget| self.alter(|meta| clean_step(meta, from, budget.max(1))));
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                self.cleaning_failed(error);
                return false;
            }
        };
        self.clean_from = step.next;
        if step.timeline.is_some() {
            self.has_cleaned = true;
            let enough = self
                .meta_ref()
                .is_ok_and(|meta| meta.volatile() >= STEP as u32);
            if (enough || (hungry && step.freed > 0)) && self.commit(cx).is_err() {
                return false;
            }
            if self.cleaned.is_none() {
                self.count_timelines();
            } else if step.finished_timeline {
                self.one_timeline_less();
            }
            match self.cleaning_progress() {
                Ok(None) => {}
                Ok(progress) => {
                    self.cleaned = progress;
                    return true;
                }
                // What cannot be read is met again by the next step.
                Err(_) => return !self.is_failed(),
            }
        }
        self.end_cleaning(cx);
        true
    }

    /// There is nothing left to be cleaned. In the turn of the last step: what that has freed is counted
    /// from the commit on, and who sees that cleaning is over takes what is free then for all of it.
    fn end_cleaning(&mut self, cx: &Arc<Store>) {
        self.cleaning = false;
        // What was freed last becomes usable, and what waited for it learns that this was all.
        let _ = self.commit(cx);
        self.feed();
        self.cleaned = None;
        self.clean_end |= core::mem::take(&mut self.has_cleaned);
    }

    /// Tells of the end of cleaning, once it has been published.
    pub(super) fn tell_clean_end(&mut self) {
        if core::mem::take(&mut self.clean_end) {
            self.tell_all();
        }
    }

    /// What cannot be read now is looked at again when the store is opened next.
    fn cleaning_failed(&mut self, error: StoreError) {
        pr_err!("{}: cleaning stopped ({})\n", self.label, error.name());
        self.cleaning = false;
        self.cleaned = None;
        self.search = Search::Over;
        self.feed();
    }

    /// Whether nothing is on its way any more to or from chunks of snapshots that have become invalid:
    /// with new requests of them nothing of the kind begins, so then those may become anybody's.
    fn invalid_rest(&mut self) -> bool {
        if self.invalid_moves {
            let snapshots = self.snapshots.iter();
            let mut invalid = snapshots.filter(|state| {
                let shared = &state.shared;
                shared.origin.is_invalid(shared.tag)
            });
            self.invalid_moves = invalid.any(|state| !state.shared.nothing_placed());
        }
        !self.invalid_moves
    }

    /// Looks for invalid snapshots that hold something, a few at a time. Returns whether there is more
    /// to do.
    #[inline(never)]
    fn seek_on(&mut self, from: TimelineId) -> bool {
        let budget = self.changes_at_once(2 * SEEK_STEP);
        let sought = budget
            .and_then(|budget| self.alter(|meta| seek_invalid(meta, from, budget.div_ceil(2))));
        match sought {
            Ok(Some(next)) => self.search = Search::At(next),
            Ok(None) => {
                self.search = Search::Over;
                self.begin_cleaning();
            }
            Err(error) => {
                self.cleaning_failed(error);
                return false;
            }
        }
        true
    }

    /// Whether there will be space without anybody's doing. If not, it is looked for where invalid
    /// snapshots hold some, once for each time that any have become invalid.
    pub(super) fn seek_space(&mut self) -> bool {
        if self.space_is_coming() {
            return true;
        }
        if self.search != Search::Open || self.closing || self.is_failed() {
            return false;
        }
        self.search = Search::At(TimelineId::LOWEST);
        self.cleaning = true;
        true
    }

    /// Where the next step begins. What belongs to an origin that rests is passed over, unless others
    /// wait for its space, who so use the COW device already. `None`: there is nothing else; a resume
    /// has it looked at again.
    fn next_to_clean(&self, hungry: bool) -> Result<Option<TimelineId>> {
        let meta = self.meta_ref()?;
        let begin = self.clean_from;
        // That there is nothing at all is for the step to find.
        if hungry || meta.cleaning_from(TimelineId::LOWEST)?.is_none() {
            return Ok(Some(begin));
        }
        for (from, end) in [(begin, None), (TimelineId::LOWEST, Some(begin))] {
            let mut from = Some(from);
            while let Some(at) = from {
                let Some((t, _)) = meta.cleaning_from(at)? else {
                    break;
                };
                let state = self.origin_state(t.origin());
                if !state.is_ok_and(|state| state.shared.rests()) {
                    return Ok(Some(t));
                }
                from = t
                    .next_origin()
                    .filter(|next| end.is_none_or(|end| *next < end));
            }
        }
        Ok(None)
    }

    /// A snapshot was deleted: as [`Engine::begin_cleaning`], after a rest.
    pub(super) fn begin_cleaning_later(&mut self) {
        if !self.cleaning {
            self.cleaner.rest = Some((time::jiffies(), REST_DELETED));
            return self.begin_cleaning();
        }
        // It is one more. Of many deletions not each counts what those before have left to be cleaned.
        let left = &mut self.left;
        left.timelines = left.timelines.saturating_add(1).min(MOST_COUNTED);
        left.more |= left.timelines == MOST_COUNTED;
        self.cleaned = self.cleaning_progress().unwrap_or(self.cleaned);
    }

    /// There may be something to clean: status says so from now on, and the worker's idle turns see
    /// to it.
    pub(super) fn begin_cleaning(&mut self) {
        if self.failed {
            return;
        }
        self.cleaning = true;
        self.count_timelines();
        self.cleaned = self.cleaning_progress().unwrap_or(self.cleaned);
    }

    /// A timeline is clean. They are not counted anew for each of them, which for many would be work with
    /// their square, but where those that are known come to an end, or to half where there are more.
    fn one_timeline_less(&mut self) {
        let left = &mut self.left;
        left.timelines = left.timelines.saturating_sub(1);
        if left.timelines == 0 || (left.more && left.timelines < MOST_COUNTED / 2) {
            self.count_timelines();
        }
    }

    /// Counts the timelines that are to be cleaned; beyond [`MOST_COUNTED`] it does not matter how many.
    fn count_timelines(&mut self) {
        let timelines = self.timelines_to_clean().unwrap_or(1);
        self.left = Left {
            timelines,
            more: timelines >= MOST_COUNTED,
        };
    }

    fn timelines_to_clean(&self) -> Result<u64> {
        let meta = self.meta_ref()?;
        let mut from = Some(TimelineId::LOWEST);
        let mut count = 0;
        while let Some(t) = from.filter(|_| count < MOST_COUNTED) {
            let Some((t, _)) = meta.cleaning_from(t)? else {
                break;
            };
            count += 1;
            from = t.next();
        }
        Ok(count)
    }

    fn cleaning_progress(&self) -> Result<Option<Cleaning>> {
        let meta = self.meta_ref()?;
        let row = match meta.cleaning_from(self.clean_from)? {
            None => meta.cleaning_from(TimelineId::LOWEST)?,
            next => next,
        };
        let Some((t, row)) = row else {
            return Ok(None);
        };
        let size = meta.origin(t.origin())?.map_or(0, |origin| origin.size);
        Ok(Some(Cleaning {
            timelines: self.left.timelines,
            percent: percent(&row, size, meta.superblock.layout.chunk_size),
        }))
    }
}
