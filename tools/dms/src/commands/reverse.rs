// SPDX-License-Identifier: GPL-2.0
//! `dms sync --reverse`: an origin becomes what its replica has become, whatever both have been written since they
//! were the same.
//!
//! A snapshot of what is here is taken, and received since that is another one of the replica's, sent since the
//! version that both have: what differs from that on either side. So for who receives it is a stream like
//! others, which starts from what is there, and all that is proven, gone on with, and rolled back as always.

use super::common::{noted, sender, unfinished, Both};
use super::sync::{is_of, now, One, Synced};
use super::{into, receive};
use crate::dm::{freeze, node, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::list::List;
use crate::peer::words::{Holds, Other};
use crate::peer::Peer;
use crate::plan::{typed, unlike_any_other};
use crate::ranges::Ranges;
use crate::replica::{self, uuid_of, Replica};
use crate::show::json::utc;
use crate::show::stream::{hex, uuid};
use crate::streams::Input;
use crate::syncs::Kept;
use crate::target::Role;
use crate::turn::{Common, Going, Turn};
use dm_snap_mv_stream::receive::proof::Samples;
use dm_snap_mv_stream::receive::{Local, Notes, State, StateFile, Target, Whole};
use dm_snap_mv_stream::{Content, Version};
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

/// The memo of snapshots of what is written over.
const BEFORE: &str = "before dms sync --reverse";

pub(super) fn run(one: &One<'_>, list: &List, kept: &Kept) -> Result<Synced> {
    let doing = |failure: Failure| failure.context("cannot change roles");
    let device = &one.device;
    if device.line.role != Role::Origin {
        let what = format!("{} shows a snapshot", device.name);
        return Err(Failure::usage(what).hint("it is the origin that becomes what TARGET is"));
    }
    let path = node::path(&device.name);
    // Nobody else may have it from here on.
    let replica = match into::open(&path) {
        Ok(plain) => Replica::new(&one.dm, device, plain)?,
        Err(failure) if failure.kind == Kind::Busy => {
            return Err(one
                .dm
                .in_use(&device.name, device.devno)
                .context("cannot change roles: nobody may use what will be written over"));
        }
        Err(failure) => return Err(doing(failure)),
    };
    replica.need_rest()?;
    replica::make_folder()?;
    let notes = StateFile::new(replica::notes(&one.dm, device)?);
    let mut peer = Peer::take_from(&one.place, one.args.state.as_deref(), &one.args.rsh)?;
    let holds = peer.holds()?;
    if matches!(holds.state.as_str(), "between" | "restoring") {
        let target = one.place.target.to_string_lossy();
        let what = format!("{} has received a part of something", one.place);
        return Err(Failure::new(Kind::Refused, what).hint(format!(
            "send it the rest: dms sync {} {}\n\
             or have it be what it was, on its host: dms receive {target} --abort",
            device.name, one.place
        )));
    }
    let turn = Turn::load(&kept.turn());
    let state = noted(one)?;
    let mut tags: Vec<u32> = holds.local.iter().map(|local| local.tag).collect();
    if let Some(State::Whole(whole)) = &state {
        tags.push(whole.content.version.tag);
    }
    if let Some(turn) = &turn {
        tags.push(turn.common.there);
        tags.extend(turn.going.as_ref().map(|going| going.to));
    }
    let there = peer.origin(tags)?;
    if there.store == list.store.uuid && there.origin == list.store.origin {
        let what = format!("{} is the same origin as {}", one.place, device.name);
        return Err(Failure::usage(what));
    }
    let work = Work {
        both: Both {
            one,
            list,
            sender: sender(one)?,
            there: &there,
        },
        peer,
        replica,
        notes,
        path,
        turn: kept.turn(),
    };
    match &state {
        Some(State::Between(between)) => match turn.filter(|turn| {
            let going = turn.going.as_ref();
            let called = between.begin.from.as_ref().and_then(|from| from.uuid);
            let called = called.map(|called| hex(&called));
            work.both.is_there(turn)
                && going.is_some_and(|going| Some(&going.uuid) == called.as_ref())
        }) {
            Some(turn) => {
                let position = between.position;
                let position = (position.mark > 0).then(|| position.to_string());
                work.go(turn, position)
            }
            None => Err(unfinished(one)),
        },
        Some(State::Restoring(_)) => Err(unfinished(one)),
        other => {
            let whole = match other {
                Some(State::Whole(whole)) => Some(whole),
                _ => None,
            };
            work.begin(whole, &holds, turn.as_ref())
        }
    }
}

/// All that there is to do it with.
struct Work<'a> {
    both: Both<'a>,
    peer: Peer,
    replica: Replica<'a>,
    notes: StateFile,
    path: PathBuf,
    /// Where the turn is noted.
    turn: PathBuf,
}

impl Work<'_> {
    fn device(&self) -> &Mapped {
        &self.both.one.device
    }

    /// Finds out what it is about, asks, and does it.
    fn begin(
        mut self,
        whole: Option<&Whole>,
        holds: &Holds,
        turn: Option<&Turn>,
    ) -> Result<Synced> {
        let both = &self.both;
        let received = whole.and_then(|whole| both.received(whole));
        let all = [
            received,
            both.sent(holds),
            turn.and_then(|turn| both.turned(turn)),
        ];
        // The one after which least has been written.
        let common = all.into_iter().flatten().max_by_key(|common| common.here);
        let common = common.ok_or_else(|| self.strangers(holds))?;
        let since = typed(common.here)?;
        // What has been written and not flushed is in no store yet.
        let flushed = self.replica.sync();
        flushed.map_err(|e| self.unread(&e))?;
        let lost = self.both.sender.differing(since, None)?;
        let changed = self.peer.changed(common.there)?;
        if lost.is_empty() && changed == 0 {
            return self.nothing(common);
        }
        self.agreed(&common, &lost, changed)?;
        let before = self.keep()?;
        let to = self.peer.snapshot(&self.both.one.memo)?;
        let turn = Turn {
            store: self.both.there.store.clone(),
            origin: self.both.there.origin,
            common,
            going: Some(Going {
                before: before.tag,
                uuid: hex(&unlike_any_other()?),
                to,
            }),
        };
        turn.store(&self.turn)?;
        self.note(&turn, before)?;
        self.go(turn, None)
    }

    /// Why they have nothing in common.
    fn strangers(&self, holds: &Holds) -> Failure {
        let one = self.both.one;
        let (name, place) = (&one.device.name, &one.place);
        let what = match &holds.holds {
            Some(held) if is_of(self.both.list, held) => format!(
                "{place} has received version {} of {name}, and that is not left on both sides as it was then",
                held.version.tag
            ),
            Some(held) => format!(
                "{place} has received version {} of another origin, in store {}",
                held.version.tag, held.store
            ),
            None => format!("it is not known that {place} has ever been what {name} was"),
        };
        let what = format!("no version is known that both have: {what}");
        Failure::new(Kind::Refused, what).hint(
            "what differs can be found by reading both: dms verify\n\
             or have all of it be sent from there: dms sync --full, or dms send into dms receive --force",
        )
    }

    /// Both are the same.
    fn nothing(mut self, common: Common) -> Result<Synced> {
        if self.both.is_whole(common.there) {
            self.both.tell(&mut self.peer, &common)?;
        }
        let row = self.both.row(common.here);
        let one = self.both.one;
        Ok(Synced {
            origin: one.device.name.clone(),
            target: one.place.to_string(),
            tag: common.here,
            taken: row.map_or_else(now, |row| row.created),
            bytes: 0,
            of: Some(common.there),
        })
    }

    /// Says what is lost, and asks.
    fn agreed(&self, common: &Common, lost: &Ranges, changed: u64) -> Result<()> {
        let one = self.both.one;
        let (name, place) = (&one.device.name, &one.place);
        let taken = self.both.row(common.here).and_then(|row| utc(row.created));
        let taken = taken.map_or(String::new(), |taken| format!(", of {taken}"));
        let (ranges, sectors) = lost.count();
        eprintln!(
            "dms: both were the same as snapshot {} of {name}{taken}\n\
             \x20 {place} has been written to since: {changed} bytes",
            common.here
        );
        if lost.is_empty() {
            eprintln!("  {name} has not: nothing is lost");
            return Ok(());
        }
        eprintln!(
            "  {name}, too: {} bytes in {ranges} ranges, which will be written over; a snapshot of it is taken first",
            sectors.saturating_mul(512)
        );
        if one.args.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let what =
                format!("{name} would lose what has been written to it, and nobody can be asked");
            return Err(Failure::new(Kind::Refused, what).hint("if that is wanted: --yes"));
        }
        eprint!("Go on? [y/N] ");
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.map_err(|e| Failure::new(Kind::Refused, format!("cannot read the answer: {e}")))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::new(Kind::Refused, "nothing has been changed")),
        }
    }

    /// A snapshot of what is written over: taken before by one that was killed then, or now.
    fn keep(&mut self) -> Result<Local> {
        let both = &self.both;
        let (one, store) = (both.one, &both.list.store);
        let local = |tag| -> Result<Local> {
            Ok(Local {
                store: uuid_of(&store.uuid)?,
                origin: store.origin,
                tag,
            })
        };
        let rows = both.list.rows.iter().rev();
        let mut before = rows.filter(|row| row.memo == BEFORE && row.parent == Some(0));
        if let Some(row) = before.find(|row| !row.is_bookmark()) {
            let local = local(row.tag)?;
            let unlike = self.replica.unlike(&local);
            if unlike.map_err(|e| self.unread(&e))?.is_none() {
                return Ok(local);
            }
        }
        // It is ours alone, and nothing on it is mounted.
        let taken = freeze::snapshot(&one.dm, &one.device, None, &one.interrupt, BEFORE)?;
        local(taken)
    }

    fn unread(&self, error: &io::Error) -> Failure {
        let what = format!("cannot read {}: {error}", self.path.display());
        Failure::new(Kind::Refused, what)
    }

    /// Notes that the origin is what was taken of it, by the name that it has in the stream.
    fn note(&mut self, turn: &Turn, before: Local) -> Result<()> {
        let Some(going) = &turn.going else {
            return Ok(());
        };
        let (row, _) = self.both.sender.look(typed(before.tag)?)?;
        let called = uuid_of(&going.uuid)?;
        let seed = blake3::hash(&called).into();
        let samples = Samples::take(&mut self.replica, row.size, seed);
        let whole = Whole {
            content: Content {
                store: before.store,
                origin: before.origin,
                size: row.size,
                version: Version {
                    tag: before.tag,
                    uuid: Some(called),
                    created: Some(row.created),
                    ..Version::default()
                },
            },
            identity: self.both.list.store.id.clone(),
            samples: samples.map_err(|e| self.unread(&e))?,
            local: Some(before),
            ..Whole::default()
        };
        let stored = self.notes.store(&State::Whole(whole).encode());
        stored.map_err(|e| {
            let path = self.notes.path().display();
            Failure::new(Kind::Refused, format!("cannot note in {path}: {e}"))
        })
    }

    /// Receives what is to be received, and has it known on both sides.
    fn go(mut self, mut turn: Turn, position: Option<String>) -> Result<Synced> {
        let Some(going) = turn.going.clone() else {
            return Err(unfinished(self.both.one));
        };
        // What has been taken since is not known to the one that there was.
        self.both.sender = sender(self.both.one)?;
        let (since, before) = (typed(turn.common.here)?, typed(going.before)?);
        let row = self.both.row(turn.common.here).is_some();
        let versions = &self.both.there.versions;
        let there = |tag| versions.iter().any(|kept| kept.tag == tag);
        let begun = position.is_some();
        if !row || !there(turn.common.there) || (begun && !there(going.to)) {
            let what =
                "what was begun cannot be gone on with: its snapshots are not left on both sides";
            let name = &self.device().name;
            return Err(Failure::new(Kind::Refused, what).hint(format!(
                "have it be what it was before: dms receive mapper/{name} --abort"
            )));
        }
        let lost = self.both.sender.differing(since, Some(before))?;
        let (row, _) = self.both.sender.look(before)?;
        let other = Other {
            uuid: going.uuid.clone(),
            tag: going.before,
            created: row.created,
            sectors: row.size,
        };
        let bytes = self
            .peer
            .plan(going.to, turn.common.there, other, &lost)
            .map_err(|failure| failure.context("nothing is sent"))?;
        let stream = self.peer.send(position)?;
        let input = Input::new(stream, self.both.one.interrupt.clone());
        let whole = receive::receive_from(&self.path, self.replica, self.notes, input)?;
        drop(self.peer);
        let local = whole.local.unwrap_or_default();
        let content = &whole.content;
        let is_it = content.version.tag == going.to && uuid(&content.store) == turn.store;
        if !is_it {
            return Err(Failure::new(
                Kind::Refused,
                "something else has been received",
            ));
        }
        turn.common = Common {
            here: local.tag,
            there: going.to,
        };
        turn.going = None;
        turn.store(&self.turn)?;
        let one = self.both.one;
        let peer = Peer::take_from(&one.place, one.args.state.as_deref(), &one.args.rsh);
        let told = peer.and_then(|mut peer| self.both.tell(&mut peer, &turn.common));
        let told = told.map_err(|failure| {
            let name = &one.device.name;
            let had = format!(
                "{name} is what {} is, which could not be told that",
                one.place
            );
            failure.context(had)
        });
        told?;
        let list = List::of(&one.dm, &one.device.name)?;
        one.sweep(&list, &[local.tag])?;
        if lost.is_empty() {
            // All of it is in what both were.
            one.delete(going.before, false)?;
        }
        let row = list.rows.iter().find(|row| row.tag == local.tag);
        Ok(Synced {
            origin: one.device.name.clone(),
            target: one.place.to_string(),
            tag: local.tag,
            taken: row.map_or_else(now, |row| row.created),
            bytes,
            of: Some(going.to),
        })
    }
}
