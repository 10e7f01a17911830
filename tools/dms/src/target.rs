// SPDX-License-Identifier: GPL-2.0
//! Table lines of the dm-snap-mv target.

use crate::devno::Devno;
use crate::failure::Result;
use crate::{hints, words};
use dm_snap_mv_model::table::Table;

/// The target's name.
pub const TARGET: &str = "dm-snap-mv";

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The origin as it is now.
    Origin,
    /// The snapshot with this tag.
    Snapshot(u32),
}

impl Role {
    /// The tag; that of the origin is 0.
    pub fn tag(self) -> u32 {
        match self {
            Self::Origin => 0,
            Self::Snapshot(tag) => tag,
        }
    }
}

/// The table line of an active device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub role: Role,
    /// The origin device.
    pub origin: Devno,
    /// The COW device.
    pub cow: Devno,
    /// How the store knows the origin.
    pub id: Vec<u8>,
    /// What happens to origin writes when the COW device is full, if the line says so.
    pub policy: Option<String>,
}

impl Line {
    /// Takes a line apart that the target wrote: options have their argument in the next word.
    pub fn parse(params: &[u8]) -> Option<Self> {
        let mut id = None;
        let mut policy = None;
        let mut places = Vec::new();
        let mut all = words::split(params).into_iter();
        while let Some(word) = all.next() {
            match word.as_slice() {
                b"-i" => id = all.next(),
                b"-e" => policy = Some(String::from_utf8(all.next()?).ok()?),
                _ => places.push(String::from_utf8(word).ok()?),
            }
        }
        let mut places = places.into_iter();
        let command = places.next()?;
        let origin = places.next()?.parse().ok()?;
        let cow = places.next()?.parse().ok()?;
        let role = match command.as_str() {
            "co" => Role::Origin,
            "cs" => Role::Snapshot(places.next()?.parse().ok()?),
            _ => return None,
        };
        Some(Self {
            role,
            origin,
            cow,
            id: id?,
            policy,
        })
    }
}

/// A table line to be loaded. Options are as they were typed: the model judges them, here and
/// in the kernel alike.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The tag of a snapshot; none for the origin.
    pub tag: Option<String>,
    /// The origin device.
    pub origin: String,
    /// The COW device.
    pub cow: String,
    /// How the store knows the origin.
    pub id: Vec<u8>,
    /// Bind the origin.
    pub bind: bool,
    /// Accept another disk than it was.
    pub accept: bool,
    /// Format a blank COW device.
    pub format: bool,
    /// Format the COW device whatever is on it.
    pub force: bool,
    /// Pages of a chunk.
    pub pages: Option<String>,
    /// What to do when the COW device is full.
    pub policy: Option<String>,
}

impl Wanted {
    /// The words of the line, if the target would take them.
    pub fn words(&self) -> Result<Vec<Vec<u8>>> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut put = |word: &[u8]| words.push(word.to_vec());
        put(if self.tag.is_some() { b"cs" } else { b"co" });
        put(self.origin.as_bytes());
        put(self.cow.as_bytes());
        if let Some(tag) = &self.tag {
            put(tag.as_bytes());
        }
        put(b"-i");
        put(&self.id);
        for (flag, option) in [
            (self.accept, "-a"),
            (self.bind, "-b"),
            (self.format, "-f"),
            (self.force, "-F"),
        ] {
            if flag {
                put(option.as_bytes());
            }
        }
        for (value, option) in [(&self.pages, "-c"), (&self.policy, "-e")] {
            if let Some(value) = value {
                put(option.as_bytes());
                put(value.as_bytes());
            }
        }
        match Table::parse(words.iter().map(Vec::as_slice)) {
            Ok(_) => Ok(words),
            Err(refusal) => Err(hints::failure(refusal)),
        }
    }

    /// The line.
    pub fn line(&self) -> Result<Vec<u8>> {
        Ok(words::join(&self.words()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            origin: "8:17".into(),
            cow: "8:33".into(),
            id: b"/dev/sdb1".to_vec(),
            ..Wanted::default()
        }
    }

    #[test]
    fn lines() {
        let line = |wanted: &Wanted| String::from_utf8(wanted.line().unwrap()).unwrap();
        assert_eq!(line(&wanted()), "co 8:17 8:33 -i /dev/sdb1");
        let first = Wanted {
            bind: true,
            force: true,
            pages: Some("4".into()),
            policy: Some("queue".into()),
            ..wanted()
        };
        assert_eq!(
            line(&first),
            "co 8:17 8:33 -i /dev/sdb1 -b -F -c 4 -e queue"
        );
        let snapshot = Wanted {
            tag: Some("7".into()),
            id: b"my disk".to_vec(),
            ..wanted()
        };
        assert_eq!(line(&snapshot), r"cs 8:17 8:33 7 -i my\ disk");
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_at_once() {
        let refused = |change: fn(&mut Wanted)| {
            let mut wanted = wanted();
            change(&mut wanted);
            let failure = wanted.line().unwrap_err();
            assert_eq!(failure.code(), 2);
            failure.what
        };
        assert_eq!(
            refused(|w| w.tag = Some("0".into())),
            "tag is not a number from 1 to 4294967295"
        );
        assert_eq!(
            refused(|w| {
                (w.bind, w.format, w.pages) = (true, true, Some("3".into()));
            }),
            "chunk size is not a power of two from 1 to 256 pages"
        );
        assert_eq!(
            refused(|w| w.policy = Some("maybe".into())),
            "policy is not invalidate, error or queue"
        );
        assert_eq!(refused(|w| w.id.clear()), "origin id is empty");
    }

    #[test]
    fn lines_of_the_kernel() {
        let line = Line::parse(br"co 8:17 8:33 -i /dev/my\ disk -e queue").unwrap();
        assert_eq!(line.role, Role::Origin);
        assert_eq!(line.origin.to_string(), "8:17");
        assert_eq!(line.cow.to_string(), "8:33");
        assert_eq!(line.id, b"/dev/my disk");
        assert_eq!(line.policy.as_deref(), Some("queue"));
        let line = Line::parse(b"cs 8:17 8:33 7 -i x").unwrap();
        assert_eq!((line.role, line.policy), (Role::Snapshot(7), None));
        for wrong in [
            "",
            "co",
            "co 8:17 8:33",
            "cs 8:17 8:33 -i x",
            "xx 8:1 8:2 -i x",
        ] {
            assert_eq!(Line::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
