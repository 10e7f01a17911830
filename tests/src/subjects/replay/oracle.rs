// SPDX-License-Identifier: GPL-2.0

//! What may be found after a crash, by what was answered before it and what was on its way.

use anyhow::{anyhow, bail, ensure, Context, Result};

use super::model::{Model, Version};
use super::ops::{Extent, Op};
use super::stage::Sizes;

/// A crash that is to be looked at.
pub struct Crash<'a> {
    /// What was answered before it.
    pub model: &'a Model,
    /// What was asked for and not answered.
    pub flying: &'a [&'a Op],
}

impl Crash<'_> {
    /// How large the devices are: what was growing has grown.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = self.model.sizes;
        for op in self.flying {
            match op {
                Op::GrowOrigin { origin, sectors } => sizes.origins[*origin] = *sectors,
                Op::GrowCow { sectors } => sizes.cow = *sectors,
                _ => {}
            }
        }
        sizes
    }

    fn formatting(&self) -> bool {
        self.flying.iter().any(|op| matches!(op, Op::Format { .. }))
    }

    /// Whether not to find a store is a failure.
    pub fn store_must_be_there(&self) -> bool {
        self.model.formatted && !self.formatting()
    }

    /// Whether the store may know an origin.
    pub fn may_be_bound(&self, origin: usize) -> bool {
        self.model.origins[origin].bound
            || self.flying.iter().any(|op| match op {
                Op::Format { origin: o } | Op::Bind { origin: o } => *o == origin,
                _ => false,
            })
    }

    /// Whether the store may not know an origin.
    pub fn may_be_unbound(&self, origin: usize) -> bool {
        !self.model.origins[origin].bound
            || self.formatting()
            || self
                .flying
                .iter()
                .any(|op| matches!(op, Op::Unbind { origin: o } if *o == origin))
    }

    /// What may be written to a version just now.
    fn flying_writes(&self, origin: usize, version: u32) -> Vec<Extent> {
        let writes = self.flying.iter().filter_map(|op| match op {
            Op::Write {
                origin: o,
                tag,
                tried,
                ..
            } if *o == origin && *tag == version => Some(*tried),
            _ => None,
        });
        writes.collect()
    }

    fn is_being_deleted(&self, origin: usize, tag: u32) -> bool {
        self.flying.iter().any(|op| {
            matches!(op, Op::Delete { origin: o, tag: t } | Op::Keep { origin: o, tag: t }
                if *o == origin && *t == tag)
        })
    }

    /// The bookmarks that are there, and what has changed since as far as they tell: `changed` says so
    /// of a sector. `found` is what the origin holds.
    pub fn bookmarks(
        &self,
        origin: usize,
        there: &[u32],
        found: &[u32],
        changed: impl Fn(u32, u64) -> Result<bool>,
    ) -> Result<()> {
        let known = &self.model.origins[origin].bookmarks;
        if self.formatting() && there.is_empty() {
            return Ok(());
        }
        for tag in known.keys() {
            ensure!(
                there.contains(tag) || self.is_being_deleted(origin, *tag),
                "bookmark {tag} is lost: {there:?}"
            );
        }
        for tag in there {
            let kept = |op: &&&Op| {
                matches!(op, Op::Keep { origin: o, tag: t } | Op::Mark { origin: o, tag: t }
                    if *o == origin && t == tag)
            };
            let held = match (known.get(tag), self.flying.iter().find(kept)) {
                (Some(held), _) => held.clone(),
                (None, Some(Op::Mark { .. })) => self.model.taken(origin, 0),
                (None, Some(_)) => {
                    let shot = self.model.origins[origin].shots.get(tag);
                    shot.map(|shot| shot.version.latest())
                        .ok_or_else(|| anyhow!("nobody took {tag}"))?
                }
                (None, None) => bail!("bookmark {tag} is there: {there:?}"),
            };
            for (sector, now) in found.iter().enumerate() {
                let same = held.get(sector) == Some(now);
                ensure!(
                    same || changed(*tag, sector as u64)?,
                    "sector {sector} is of write {now}, not {:?}, and bookmark {tag} does not tell",
                    held.get(sector)
                );
            }
        }
        Ok(())
    }

    /// What an origin holds once it is active, of which it may be any one.
    fn heads(&self, origin: usize) -> Vec<Version> {
        let model = &self.model.origins[origin];
        let mut heads = Vec::new();
        // To be begun by the activation, or begun by one that was not answered.
        let deferred = model
            .deferred
            .filter(|(tag, _)| model.shots.contains_key(tag));
        if let Some((tag, _)) = deferred {
            let mut head = self.model.going_back(origin, tag);
            head.maybe.extend(self.flying_writes(origin, tag));
            heads.push(head);
        }
        for op in self.flying {
            match op {
                Op::Rollback { origin: o, tag, .. } if *o == origin => {
                    heads.push(self.model.rolled_back(origin, *tag));
                }
                Op::Defer { origin: o, tag, .. } if *o == origin => {
                    heads.push(self.model.going_back(origin, *tag));
                }
                _ => {}
            }
        }
        if deferred.is_none_or(|(tag, _)| self.is_being_deleted(origin, tag)) {
            heads.insert(0, model.head.clone());
        }
        heads
    }

    /// An origin that is active.
    pub fn head(&self, origin: usize, found: &[u32]) -> Result<()> {
        self.is_one_of(origin, &self.heads(origin), found)
    }

    /// The device below an origin that was never activated.
    pub fn unbound(&self, origin: usize, found: &[u32]) -> Result<()> {
        let head = self.model.origins[origin].head.clone();
        self.is_one_of(origin, &[head], found)
    }

    fn is_one_of(&self, origin: usize, heads: &[Version], found: &[u32]) -> Result<()> {
        let writes = self.flying_writes(origin, 0);
        let sectors = self.sizes().origins[origin] as usize;
        let mut result = Err(anyhow!("nothing can be right"));
        for head in heads {
            // Behind it there is the room that the origin has for growing.
            let head = head.clone().truncated(sectors);
            result = fits(&head, found, &writes);
            if result.is_ok() {
                break;
            }
        }
        result.context("head")
    }

    /// The snapshots that are there.
    pub fn tags(&self, origin: usize, there: &[u32]) -> Result<()> {
        let known = &self.model.origins[origin].shots;
        if self.formatting() && there.is_empty() {
            return Ok(());
        }
        for tag in there {
            let taken = self.flying.iter().any(
                |op| matches!(op, Op::Take { origin: o, tag: t, .. } if *o == origin && t == tag),
            );
            ensure!(
                known.contains_key(tag) || taken,
                "snapshot {tag} is there: {there:?}"
            );
        }
        for tag in known.keys() {
            ensure!(
                there.contains(tag)
                    || self.is_leaving(origin, *tag)
                    || self.is_being_deleted(origin, *tag),
                "snapshot {tag} is lost: {there:?}"
            );
        }
        Ok(())
    }

    /// Whether a snapshot goes, or has gone, with a rollback to it.
    pub fn is_leaving(&self, origin: usize, tag: u32) -> bool {
        let model = &self.model.origins[origin];
        let shot = model.shots.get(&tag);
        shot.is_some_and(|shot| shot.leaving)
            || model.deferred == Some((tag, true))
            || self.flying.iter().any(|op| match op {
                Op::Rollback {
                    origin: o,
                    tag: t,
                    merge,
                    ..
                }
                | Op::Defer {
                    origin: o,
                    tag: t,
                    merge,
                } => *merge && *o == origin && *t == tag,
                _ => false,
            })
    }

    /// Whether a snapshot may have lost its data.
    pub fn may_be_invalid(&self, origin: usize, tag: u32) -> bool {
        tag < self.model.origins[origin].invalid_below
            || self.flying.iter().any(|op| match op {
                Op::Write {
                    origin: o,
                    invalidates,
                    ..
                }
                | Op::Rollback {
                    origin: o,
                    invalidates,
                    ..
                } => *invalidates && *o == origin,
                _ => false,
            })
    }

    /// What a snapshot holds.
    pub fn shot(&self, origin: usize, tag: u32, found: &[u32]) -> Result<()> {
        let writes = self.flying_writes(origin, tag);
        if let Some(shot) = self.model.origins[origin].shots.get(&tag) {
            return fits(&shot.version, found, &writes);
        }
        let parent = self.flying.iter().find_map(|op| match op {
            Op::Take {
                origin: o,
                parent,
                tag: t,
                ..
            } if *o == origin && *t == tag => Some(*parent),
            _ => None,
        });
        let parent = parent.ok_or_else(|| anyhow!("nobody took it"))?;
        let mut version = Version {
            must: self.model.taken(origin, parent),
            maybe: Vec::new(),
        };
        // Writes that were on their way when it was taken, answered by now or not.
        if !self.flying_writes(origin, parent).is_empty() || self.is_disturbed(origin, tag) {
            let sectors = version.must.len();
            version = self.model.origins[origin].head.clone().truncated(sectors);
        }
        fits(&version, found, &self.flying_writes(origin, parent))
    }

    fn is_disturbed(&self, origin: usize, tag: u32) -> bool {
        self.flying.iter().any(|op| {
            matches!(op, Op::Take { origin: o, tag: t, content: Some(_), .. }
                if *o == origin && *t == tag)
        })
    }
}

fn fits(version: &Version, found: &[u32], flying: &[Extent]) -> Result<()> {
    if let Some((sector, found)) = version.differs(found, flying) {
        let must = version.must[sector as usize];
        bail!("sector {sector} is of write {found}, not {must} or newer");
    }
    ensure!(
        found.len() == version.must.len(),
        "{} sectors, not {}",
        found.len(),
        version.must.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_must_be_there() {
        let version = Version {
            must: vec![5; 16],
            maybe: vec![Extent {
                start: 4,
                count: 2,
                generation: 6,
            }],
        };
        assert!(fits(&version, &[5; 16], &[]).is_ok());
        let mut found = [5; 16];
        found[5] = 6;
        assert!(fits(&version, &found, &[]).is_ok());
        found[6] = 6;
        assert!(fits(&version, &found, &[]).is_err());
        // Neither smaller nor larger.
        assert!(fits(&version, &[5; 8], &[]).is_err());
        assert!(fits(&version, &[5; 24], &[]).is_err());
    }
}
