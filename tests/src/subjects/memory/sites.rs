// SPDX-License-Identifier: GPL-2.0

//! Which allocations of an operation to have fail so that each call site has one that does.
//!
//! Of most operations that is each. Some make up to two thousand, nearly all in loops that fill a pool:
//! at the same place in the code, called by the same functions. Which place that was is known of one
//! that has failed, by the calls that the kernel logs then. So the numbers are halved again and again,
//! and between two that are close together and at the same place all are taken to be there, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Result;

/// Allocations at most so far apart, at the same place, have no other between them. (A loop that makes
/// several in turn has them all at some pair of numbers.)
const CLOSE: u32 = 32;

/// The same for those that do not tell where they are: who asks the kernel not to warn when there is no
/// memory is not logged. They count as one place.
const CLOSE_UNTOLD: u32 = 4;

/// Up to this number each is tried.
const EACH: u32 = 32;

/// What has been found.
#[derive(Default)]
pub(super) struct Found {
    /// By number; `None`: there was none.
    tried: BTreeMap<u32, Option<String>>,
    /// There was time for all of it.
    pub(super) whole: bool,
}

impl Found {
    /// There is nothing to be found.
    pub(super) fn none() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }

    /// The places at which something failed.
    pub(super) fn sites(&self) -> BTreeSet<&str> {
        self.tried.values().flatten().map(String::as_str).collect()
    }

    /// How many allocations failed.
    pub(super) fn struck(&self) -> usize {
        self.tried.values().flatten().count()
    }

    /// Whether there may be a place between two numbers that is at neither.
    fn is_between(&self, low: u32, high: u32) -> bool {
        let [low_site, high_site] = [low, high].map(|n| self.tried.get(&n).cloned().flatten());
        let close = match low_site.as_deref() {
            _ if low < EACH => 1,
            Some("") => CLOSE_UNTOLD,
            _ => CLOSE,
        };
        match (low_site, high_site) {
            (None, None) => false,
            (low_site, high_site) => high - low > close || low_site != high_site,
        }
    }
}

/// How many allocations there are.
#[derive(Clone, Copy)]
pub(super) enum Count {
    /// So many; the one that is tried first is any of them, so that if there is time for few, they are
    /// not the same ones every time.
    Known { count: u32, first: u32 },
    /// That is to be found out.
    Unknown,
}

/// Has the allocations of an operation fail, one at a time, by `strike`, which is told the number, from
/// 1, and returns where it was (nothing if that is not known), or `None` if there were not so many.
/// Goes on until all places are found or `is_late`; at least one is tried.
pub(super) fn search(
    count: Count,
    mut is_late: impl FnMut() -> bool,
    mut strike: impl FnMut(u32) -> Result<Option<String>>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut ends = match count {
        Count::Known { count, first } => vec![first, 1, count],
        Count::Unknown => vec![1],
    };
    // Where there is something, and where there is nothing any more.
    let mut next = 0;
    while let Some(&at) = ends.get(next) {
        if next > 0 && is_late() {
            return Ok(found);
        }
        let site = strike(at)?;
        if matches!(count, Count::Unknown) && site.is_some() {
            ends.push(at * 2);
        }
        found.tried.insert(at, site);
        next += 1;
    }
    ends.sort_unstable();
    let pairs = ends.windows(2).map(|pair| (pair[0], pair[1]));
    let mut ranges: VecDeque<(u32, u32)> = pairs.collect();
    while let Some((low, high)) = ranges.pop_front() {
        let middle = low + (high - low) / 2;
        if middle == low || !found.is_between(low, high) {
            continue;
        }
        if is_late() {
            return Ok(found);
        }
        let site = strike(middle)?;
        found.tried.insert(middle, site);
        ranges.extend([(low, middle), (middle, high)]);
    }
    found.whole = true;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three places, a loop of 500 that makes two in turn, one place, a loop of 300, two places.
    fn allocation(number: u32) -> Option<String> {
        let place = match number {
            1..=3 => number,
            4..=1003 => 4 + number % 2,
            1004 => 6,
            1005..=1304 => 7,
            1305 | 1306 => number,
            _ => return None,
        };
        Some(place.to_string())
    }

    #[test]
    fn all_places_are_found() {
        for count in [
            Count::Known {
                count: 1306,
                first: 777,
            },
            Count::Unknown,
        ] {
            let mut strikes = 0;
            let found = search(
                count,
                || false,
                |number| {
                    strikes += 1;
                    Ok(allocation(number))
                },
            );
            let found = found.expect("nothing goes wrong");
            assert!(found.whole);
            assert_eq!(found.sites().len(), 9, "{:?}", found.sites());
            assert!(strikes < 400, "{strikes}");
        }
    }

    #[test]
    fn nothing_at_all() {
        let found = search(Count::Unknown, || false, |_| Ok(None)).expect("nothing goes wrong");
        assert!(found.whole);
        assert_eq!(found.struck(), 0);
        let one = Count::Known { count: 1, first: 1 };
        let found = search(one, || false, |n| Ok(allocation(n)));
        assert_eq!(found.expect("nothing goes wrong").struck(), 1);
    }

    #[test]
    fn it_ends_when_it_is_late() {
        let count = Count::Known {
            count: 1306,
            first: 777,
        };
        let found = search(count, || true, |n| Ok(allocation(n)));
        let found = found.expect("nothing goes wrong");
        assert!(!found.whole);
        assert_eq!(found.sites(), BTreeSet::from(["5"]));
    }
}
