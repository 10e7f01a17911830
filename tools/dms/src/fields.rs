// SPDX-License-Identifier: GPL-2.0
//! Fields that status lines and listings have in common.

use crate::failure::{Failure, Kind};
use serde::Serialize;
use std::str::FromStr;

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// In use, or done.
    pub used: u64,
    /// In all.
    pub total: u64,
}

impl Part {
    /// Whole percent, rounded down; of nothing, everything.
    pub fn percent(self) -> u64 {
        match self.total {
            0 => 100,
            total => (u128::from(self.used) * 100 / u128::from(total)) as u64,
        }
    }
}

/// A field that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Malformed {
    /// The failure of who asked the module for it.
    pub fn failure(what: impl Into<String>) -> Failure {
        Failure::new(Kind::Refused, what)
            .hint("the module and dms are of different versions: install both anew")
    }
}

impl FromStr for Part {
    type Err = Malformed;

    fn from_str(field: &str) -> Result<Self, Malformed> {
        let (used, total) = field.split_once('/').ok_or(Malformed)?;
        Ok(Self {
            used: used.parse().map_err(|_| Malformed)?,
            total: total.parse().map_err(|_| Malformed)?,
        })
    }
}

/// Cleaning that is under way: of timelines that deleted snapshots left something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cleaning {
    /// Timelines that are left.
    pub left: u64,
    /// How much of the current one is through.
    pub percent: u64,
}

impl FromStr for Cleaning {
    type Err = Malformed;

    fn from_str(field: &str) -> Result<Self, Malformed> {
        let (left, percent) = field.split_once(':').ok_or(Malformed)?;
        Ok(Self {
            left: left.parse().map_err(|_| Malformed)?,
            percent: percent
                .trim_end_matches('%')
                .parse()
                .map_err(|_| Malformed)?,
        })
    }
}

/// A rollback that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rollback {
    /// To which snapshot.
    pub tag: u32,
    /// Chunks that are through, of all.
    pub chunks: Part,
    /// Why it stands still, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
}

/// Why a rollback stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// An I/O error.
    Error,
    /// No space to preserve what it would overwrite.
    Full,
    /// None for the metadata of it.
    FullMetadata,
    /// It begins when the origin's device is activated next.
    Deferred,
}

impl Stopped {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Stopped::Error => "stopped by an I/O error, to be tried again",
            Stopped::Full => "stopped, the COW device is full",
            Stopped::FullMetadata => "stopped, the metadata region of the COW device is full",
            Stopped::Deferred => "when the origin's device is activated next",
        }
    }
}

impl Rollback {
    /// Whether it has not begun.
    pub fn is_deferred(&self) -> bool {
        self.stopped == Some(Stopped::Deferred)
    }
}

impl FromStr for Rollback {
    type Err = Malformed;

    fn from_str(field: &str) -> Result<Self, Malformed> {
        let (tag, rest) = field.split_once(':').ok_or(Malformed)?;
        if rest == "deferred" {
            return Ok(Self {
                tag: tag.parse().map_err(|_| Malformed)?,
                chunks: Part { used: 0, total: 0 },
                stopped: Some(Stopped::Deferred),
            });
        }
        let (chunks, stopped) = match rest.split_once(':') {
            None => (rest, None),
            Some((chunks, "full")) => (chunks, Some(Stopped::Full)),
            Some((chunks, "full-metadata")) => (chunks, Some(Stopped::FullMetadata)),
            Some((chunks, _)) => (chunks, Some(Stopped::Error)),
        };
        Ok(Self {
            tag: tag.parse().map_err(|_| Malformed)?,
            chunks: chunks.parse()?,
            stopped,
        })
    }
}

/// A field that is a dash when there is nothing to say.
pub fn unless_dash<T: FromStr<Err = Malformed>>(field: &str) -> Result<Option<T>, Malformed> {
    match field {
        "-" => Ok(None),
        field => field.parse().map(Some),
    }
}

/// The next word, as a number or whatever else it is to be.
pub fn next<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Result<T, Malformed> {
    words
        .next()
        .ok_or(Malformed)?
        .parse()
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!("3/8".parse(), Ok(Part { used: 3, total: 8 }));
        assert_eq!("3".parse::<Part>(), Err(Malformed));
        assert_eq!(
            "2:40".parse(),
            Ok(Cleaning {
                left: 2,
                percent: 40
            })
        );
        assert_eq!(
            "7:1/9".parse(),
            Ok(Rollback {
                tag: 7,
                chunks: Part { used: 1, total: 9 },
                stopped: None
            })
        );
        assert_eq!(
            "7:1/9:full".parse::<Rollback>().unwrap().stopped,
            Some(Stopped::Full)
        );
        assert_eq!(
            "7:1/9:full-metadata".parse::<Rollback>().unwrap().stopped,
            Some(Stopped::FullMetadata)
        );
        assert_eq!(
            "7:deferred".parse::<Rollback>().unwrap().stopped,
            Some(Stopped::Deferred)
        );
        assert_eq!(unless_dash::<Cleaning>("-"), Ok(None));
        assert_eq!(unless_dash::<Cleaning>("x"), Err(Malformed));
    }

    #[test]
    fn percent() {
        let part = |used, total| Part { used, total }.percent();
        assert_eq!(part(946, 7_865_817), 0);
        assert_eq!(part(1, 3), 33);
        assert_eq!(part(u64::MAX, u64::MAX), 100);
        assert_eq!(part(0, 0), 100);
    }
}
