// SPDX-License-Identifier: GPL-2.0
//! What is looked at before anything is written.

use super::{target, Receiver};
use crate::begin::Begin;
use crate::digest::Digest;
use crate::receive::blank::is_blank;
use crate::receive::failure::{Refusal, Result};
use crate::receive::proof::{all, Samples};
use crate::receive::state::{State, Whole};
use crate::receive::target::{Notes, Target};

impl<T: Target, N: Notes> Receiver<T, N> {
    /// Whether a segment could be received from its beginning: all is looked at, and nothing written or noted.
    ///
    /// # Errors
    ///
    /// The reason why it would be refused; that it has been received already is none.
    pub fn look(&mut self, begin: &Begin) -> Result<()> {
        match self.state.clone() {
            Some(State::Restoring(_)) => return Err(Refusal::Restoring.into()),
            Some(State::Between(_)) if begin.from.is_none() && self.options.force => {}
            Some(State::Between(between)) => {
                return Err(Refusal::Unfinished(Box::new(between)).into());
            }
            Some(State::Whole(_)) | None => drop(self.may_begin(begin)?),
        }
        self.need_room(begin)
    }

    /// Whether a segment may be begun where a version is, or nothing that is known of. The version.
    pub(super) fn may_begin(&mut self, begin: &Begin) -> Result<Option<Whole>> {
        let force = self.options.force;
        let full = begin.from.is_none();
        match self.state.clone() {
            Some(State::Whole(whole)) => {
                if full && !force {
                    return Err(Refusal::Holds(Box::new(whole)).into());
                }
                // What is to be put aside has to be what it is said to be.
                if !full || self.options.keep {
                    self.prove(&whole)?;
                }
                if let Some(base) = begin.needs() {
                    if let Err(why) = base.compare(&whole.content) {
                        return Err(Refusal::OtherBase(Box::new(whole), why).into());
                    }
                }
                Ok(Some(whole))
            }
            _ if !full => Err(Refusal::Unknown.into()),
            _ => {
                if !force && !is_blank(&mut self.target).map_err(target("read"))? {
                    return Err(Refusal::NotBlank.into());
                }
                Ok(None)
            }
        }
    }

    /// Whether the target still holds what is noted.
    fn prove(&mut self, whole: &Whole) -> Result<()> {
        let size = whole.content.size;
        let has = self.target.sectors().map_err(target("look at"))?;
        let has = has.unwrap_or(0);
        let fits = match self.target.is_elastic() {
            true => has == size,
            false => has >= size,
        };
        if !fits {
            return Err(Refusal::OtherSize(has, size).into());
        }
        if let Some(local) = &whole.local {
            if let Some(why) = self.target.unlike(local).map_err(target("look at"))? {
                return Err(Refusal::Unlike(*local, why).into());
            }
        } else if self.target.next().map_err(target("look at"))?.is_some() {
            return Err(Refusal::NoLocal.into());
        }
        self.prove_content(size, &whole.samples, whole.all)
    }

    /// Whether this is what it has.
    pub(super) fn prove_content(
        &mut self,
        size: u64,
        samples: &Samples,
        of_all: Option<Digest>,
    ) -> Result<()> {
        let still = samples.still(&mut self.target, size);
        let mut still = still.map_err(target("read"))?;
        if let Some(digest) = of_all.filter(|_| self.options.digest && still) {
            still = all(&mut self.target, size).map_err(target("read"))? == digest;
        }
        match still {
            true => Ok(()),
            false => Err(Refusal::Changed.into()),
        }
    }

    /// Whether what is received fits.
    pub(super) fn need_room(&mut self, begin: &Begin) -> Result<()> {
        let has = self.target.sectors().map_err(target("look at"))?;
        match has {
            Some(has) if has < begin.size && !self.target.is_elastic() => {
                Err(Refusal::TooSmall(has, begin.size).into())
            }
            _ => Ok(()),
        }
    }
}
