// SPDX-License-Identifier: GPL-2.0
//! What is to be sent: all of it is known before the first byte is.

use crate::failure::{Failure, Kind, Result};
use crate::ranges::Ranges;
use crate::streams::unopened;
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::label::is_text;
use dm_snap_mv_stream::digest::of_begin;
use dm_snap_mv_stream::version::MEMO;
use dm_snap_mv_stream::{Begin, Fault, Position, Version};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A position as it was typed, or told.
pub fn position(word: &str) -> Result<Position> {
    word.trim().parse().map_err(|_| {
        Failure::usage("what --resume was given is no position, or not a whole one")
            .hint("where to go on says: dms receive TARGET --position")
    })
}

/// A tag that the other side has said, or that is noted.
pub fn typed(tag: u32) -> Result<Tag> {
    Tag::new(tag).ok_or_else(|| Failure::new(Kind::Refused, "there is no snapshot 0"))
}

/// What a snapshot is sent since, to who has it.
pub struct Base {
    /// The snapshot, or a bookmark of it.
    pub since: Tag,
    /// If who receives has something else than that: what it is called, its size in sectors, and where it is
    /// another. All of that is sent, too.
    pub other: Option<(Version, u64, Ranges)>,
}

impl Base {
    /// To who has just that.
    pub fn of(since: Tag) -> Self {
        Self { since, other: None }
    }
}

/// A snapshot, and what is sent of it.
pub struct Plan {
    /// The segment's beginning.
    pub begin: Begin,
    pub(crate) to: Tag,
    pub(crate) ranges: Ranges,
    /// Somebody has written to the snapshot.
    pub(crate) written: bool,
}

impl Plan {
    /// What is set, in ascending order.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Whether a position is one of what is sent.
    ///
    /// # Errors
    ///
    /// It is not, or nobody can tell, because the snapshot has been written to.
    pub fn has(&self, position: &Position) -> Result<()> {
        if self.written {
            let what = format!(
                "snapshot {} has been written to: it is not known whether that was after a part of it was sent",
                self.begin.to.tag
            );
            return Err(Failure::new(Kind::Refused, what).hint("send it from its beginning"));
        }
        match self.is_of(position)? {
            true => Ok(()),
            false => Err(no_position()),
        }
    }

    fn is_of(&self, position: &Position) -> Result<bool> {
        let payload = self.begin.encode().map_err(misfit)?;
        Ok(position.segment == of_begin(&payload))
    }
}

/// Of several, the first one that is left to be sent, where the other end has a position.
///
/// # Errors
///
/// It is one of none of them, or nobody can tell.
pub fn left(plans: &[Plan], position: &Position) -> Result<usize> {
    for (nr, plan) in plans.iter().enumerate() {
        if plan.is_of(position)? {
            plan.has(position)?;
            return Ok(nr);
        }
    }
    // One that has been written to is told from all others, itself at another time included.
    if let Some(written) = plans.iter().find(|plan| plan.written) {
        written.has(position)?;
    }
    Err(no_position())
}

fn no_position() -> Failure {
    let what = "the position is not one of what is to be sent";
    Failure::new(Kind::Refused, what).hint(
        "give the snapshots that were sent when it was interrupted, or send from the beginning",
    )
}

/// The failure that something cannot stand in a stream.
pub(crate) fn misfit(fault: Fault) -> Failure {
    Failure::new(Kind::Refused, format!("this cannot be sent: {fault}"))
}

/// A snapshot as it is called in a stream.
pub(crate) fn version(row: &SnapshotRow, label: Option<&LabelRow>) -> Version {
    let memo = String::from_utf8_lossy(row.memo.as_bytes()).into_owned();
    let fits = !memo.is_empty() && memo.len() <= MEMO && !memo.chars().any(char::is_control);
    Version {
        tag: row.tag.get(),
        created: Some(row.created),
        memo: fits.then_some(memo),
        uuid: label.map(|label| label.uuid),
        group: label.and_then(|label| label.group),
        name: label.and_then(|label| {
            let name = String::from_utf8(label.name.as_bytes().to_vec()).ok()?;
            (!name.is_empty() && is_text(name.as_bytes())).then_some(name)
        }),
        ..Version::default()
    }
}

/// What tells a content apart from all others: 16 bytes.
pub fn unlike_any_other() -> Result<Vec<u8>> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(|e| unopened(path, &e))
}
