// SPDX-License-Identifier: GPL-2.0
//! By which version an origin here and one there are known to have been the same.
//!
//! That is known from what either has received from the other, and from the last time that roles were changed; and
//! believed if that version is there on both sides, as a snapshot that nobody has written to or a bookmark of one.

use super::receive;
use super::sync::{is_of, One};
use crate::dm::node;
use crate::failure::{Failure, Kind, Result};
use crate::list::{List, Row};
use crate::peer::words::{Holds, Same};
use crate::peer::{Peer, There};
use crate::replica;
use crate::sender::Sender;
use crate::show::stream::uuid;
use crate::turn::{Common, Turn};
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_stream::receive::{State, StateFile, Whole};

/// Before the origin is sent: nobody wants a mixture.
///
/// # Errors
///
/// It is one, of what it was and what was being received.
pub(super) fn need_whole(one: &One<'_>) -> Result<()> {
    match noted(one)? {
        Some(State::Between(_) | State::Restoring(_)) => Err(unfinished(one)),
        _ => Ok(()),
    }
}

/// What is noted of the origin here.
pub(super) fn noted(one: &One<'_>) -> Result<Option<State>> {
    let mut notes = StateFile::new(replica::notes(&one.dm, &one.device)?);
    receive::noted(&node::path(&one.device.name), &mut notes)
}

/// The failure that it is a mixture.
pub(super) fn unfinished(one: &One<'_>) -> Failure {
    let name = &one.device.name;
    let what = format!("{name} is a mixture: something has been received into it in part");
    Failure::new(Kind::Refused, what).hint(format!(
        "go on with what that was, or have it be what it was before: dms receive mapper/{name} --abort"
    ))
}

/// If the origin was received from the target last, the target is told what is the same here, so that it can be
/// sent what has changed since. Returns whether it was.
pub(super) fn settle(one: &One<'_>, list: &List, holds: &Holds) -> Result<bool> {
    let (Some(State::Whole(whole)), Some(local)) = (noted(one)?, &holds.local) else {
        return Ok(false);
    };
    let from_there = uuid(&whole.content.store) == local.store;
    let known = holds.holds.as_ref().filter(|held| is_of(list, held));
    let known = known.map_or(0, |held| held.version.tag);
    let (true, Some(ours)) = (from_there, whole.local.filter(|ours| ours.tag > known)) else {
        return Ok(false);
    };
    let state = one.args.state.as_deref();
    let Ok(mut peer) = Peer::take_from(&one.place, state, &one.args.rsh) else {
        return Ok(false);
    };
    let tag = whole.content.version.tag;
    let Ok(there) = peer.origin(vec![tag]) else {
        return Ok(false);
    };
    let turn = Both {
        one,
        list,
        sender: sender(one)?,
        there: &there,
    };
    let common = turn.received(&whole);
    let common = common.filter(|common| common.here == ours.tag && turn.is_whole(common.there));
    match common {
        Some(common) => Ok(turn.tell(&mut peer, &common).is_ok()),
        None => Ok(false),
    }
}

/// By what the origin here is sent.
pub(super) fn sender(one: &One<'_>) -> Result<Sender> {
    Sender::find(one.device.name.as_ref(), None, one.interrupt.clone())
}

/// The origin here, and the one there.
pub(super) struct Both<'a> {
    pub(super) one: &'a One<'a>,
    pub(super) list: &'a List,
    pub(super) sender: Sender,
    pub(super) there: &'a There,
}

impl Both<'_> {
    /// Whether that is noted of the origin there.
    pub(super) fn is_there(&self, turn: &Turn) -> bool {
        turn.store == self.there.store && turn.origin == self.there.origin
    }

    /// A version here, if something can be sent since: nobody has written to it.
    pub(super) fn row(&self, tag: u32) -> Option<&Row> {
        let row = self.list.rows.iter().find(|row| row.tag == tag)?;
        let look = self.sender.look_at_base(Tag::new(tag)?);
        matches!(look, Ok((_, false))).then_some(row)
    }

    /// Whether there is a snapshot there, with its content.
    pub(super) fn is_whole(&self, tag: u32) -> bool {
        let mut versions = self.there.versions.iter();
        versions.any(|version| version.tag == tag && version.whole)
    }

    /// The version that the origin here was, when it was received from the one there.
    pub(super) fn received(&self, whole: &Whole) -> Option<Common> {
        let (content, local) = (&whole.content, whole.local?);
        let of_there =
            uuid(&content.store) == self.there.store && content.origin == self.there.origin;
        let of_here =
            uuid(&local.store) == self.list.store.uuid && local.origin == self.list.store.origin;
        let version = &content.version;
        let mut versions = self.there.versions.iter();
        let same = versions.any(|kept| {
            kept.tag == version.tag && version.created.is_none_or(|at| at == kept.created)
        });
        let usable = of_there && of_here && same && version.content.is_none();
        let row = self.row(local.tag).filter(|_| usable)?;
        Some(Common {
            here: row.tag,
            there: version.tag,
        })
    }

    /// The version that the origin there was, when it was received from the one here.
    pub(super) fn sent(&self, holds: &Holds) -> Option<Common> {
        let held = holds.holds.as_ref()?;
        let local = holds.local.as_ref()?;
        let of_there = local.store == self.there.store && local.origin == self.there.origin;
        let mut versions = self.there.versions.iter();
        let is_there = of_there && versions.any(|kept| kept.tag == local.tag);
        let row = self.one.find(self.list, held).filter(|_| is_there)?;
        Some(Common {
            here: self.row(row.tag)?.tag,
            there: local.tag,
        })
    }

    /// What was noted when roles were changed before.
    pub(super) fn turned(&self, turn: &Turn) -> Option<Common> {
        let mut versions = self.there.versions.iter();
        let there = versions.any(|kept| kept.tag == turn.common.there);
        let usable = there && self.is_there(turn) && self.row(turn.common.here).is_some();
        usable.then(|| turn.common.clone())
    }

    /// Has the other side note what both are.
    pub(super) fn tell(&self, peer: &mut Peer, common: &Common) -> Result<()> {
        // It may be one that has been taken since.
        let list = List::of(&self.one.dm, &self.one.device.name)?;
        let row = list.rows.iter().find(|row| row.tag == common.here);
        let row = row.ok_or_else(|| Failure::new(Kind::NotFound, "the snapshot is gone"))?;
        let version = Same {
            store: list.store.uuid.clone(),
            origin: list.store.origin,
            identity: String::from_utf8_lossy(&list.store.id).into_owned(),
            tag: row.tag,
            created: row.created,
            sectors: row.sectors,
        };
        peer.was(common.there, version)
    }
}
