// SPDX-License-Identifier: GPL-2.0
//! `dms sync`

use super::pass::pass;
use super::{common, delete, print, reverse};
use crate::cli::Sync;
use crate::dm::{freeze, Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::list::{List, Row};
use crate::peer::words::{Held, Holds};
use crate::peer::{Peer, Place};
use crate::plan::{position, typed, Base, Plan};
use crate::reading;
use crate::sender::Sender;
use crate::show::json::{self, utc};
use crate::show::stream::uuid;
use crate::show::syncs as show;
use crate::syncs::{self, Kept, Record};
use dm_snap_mv_model::disk::snapshot_row::MEMO_MAX;
use dm_snap_mv_model::ids::{OriginNr, Tag};
use dm_snap_mv_store::checksum::crc32c_raw;
use dm_snap_mv_store::delta::{Sizes, Versions};
use dm_snap_mv_store::Changed;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub fn run(args: &Sync) -> Result<()> {
    if args.status {
        return status(args);
    }
    let synced = round(args)?;
    let shown = &synced.target;
    print(&match (synced.of, synced.bytes) {
        (Some(of), bytes) => format!(
            "{} is version {of} of {shown}, as snapshot {}: {bytes} bytes\n",
            synced.origin, synced.tag
        ),
        (None, 0) => format!("{shown} is up to date: version {}\n", synced.tag),
        (None, bytes) => format!("{shown} is version {}: {bytes} bytes\n", synced.tag),
    })
}

/// Brings the target up to date once, or the origin, which is noted.
pub(super) fn round(args: &Sync) -> Result<Synced> {
    let (Some(dm_dev), Some(target)) = (&args.dm_dev, &args.target) else {
        return Err(Failure::usage("an origin and a target are needed"));
    };
    let place = Place::parse(target);
    let interrupt = Interrupt::watch()?;
    let dm = Dm::open()?;
    let device = dm.find(dm_dev)?;
    let list = List::of(&dm, &device.name)?;
    let identity = String::from_utf8_lossy(&list.store.id);
    let shown = place.to_string();
    let mut kept = Kept::find(&list.store.uuid, list.store.origin, &identity, &shown)?;
    let one = One {
        args,
        dm,
        device,
        place,
        interrupt,
        memo: memo(&shown),
    };
    let begin = Instant::now();
    let done = match args.reverse {
        true => reverse::run(&one, &list, &kept),
        false => one.sync(&list),
    };
    let record = &mut kept.record;
    match &done {
        Ok(synced) => {
            record.tag = Some(synced.tag);
            record.taken = Some(synced.taken);
            record.received = Some(now());
            record.bytes = Some(synced.bytes);
            record.milliseconds = begin.elapsed().as_millis().try_into().ok();
            (record.error, record.failed) = (None, None);
        }
        Err(failure) => {
            record.error = Some(failure.what.clone());
            record.failed = Some(now());
        }
    }
    let noted = kept.write();
    let synced = done?;
    noted?;
    Ok(synced)
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What snapshots and bookmarks for a target have as their memo.
fn memo(target: &str) -> String {
    let memo = format!("dms sync {target}");
    let usable = memo.len() <= MEMO_MAX && !memo.chars().any(char::is_control);
    match usable {
        true => memo,
        false => format!("dms sync #{:08x}", crc32c_raw(target.as_bytes())),
    }
}

/// A target that is brought up to date.
pub(super) struct One<'a> {
    pub(super) args: &'a Sync,
    pub(super) dm: Dm,
    pub(super) device: Mapped,
    pub(super) place: Place,
    pub(super) interrupt: Interrupt,
    /// Of what is kept for the target.
    pub(super) memo: String,
}

/// What the target holds now.
pub(super) struct Synced {
    /// The device of the origin.
    pub(super) origin: String,
    /// The target, as it was named.
    pub(super) target: String,
    pub(super) tag: u32,
    /// In seconds since 1970.
    pub(super) taken: u64,
    /// That were set.
    pub(super) bytes: u64,
    /// If it was the target that was sent, the tag of what it was.
    pub(super) of: Option<u32>,
}

/// What is to be sent.
struct Course {
    /// This snapshot, which has been taken before; none: one that is to be taken.
    to: Option<u32>,
    /// What has changed since this version; none: all.
    since: Option<u32>,
    /// From there on.
    position: Option<String>,
}

impl One<'_> {
    fn sync(&self, list: &List) -> Result<Synced> {
        let rsh = &self.args.rsh;
        let state = self.args.state.as_deref();
        common::need_whole(self)?;
        let mut peer = Peer::call(&self.place, state, rsh, self.args.full)?;
        let mut holds = peer.holds()?;
        if common::settle(self, list, &holds)? {
            holds = peer.holds()?;
        }
        let course = self.course(list, &holds)?;
        // What was left behind by one that was killed. What the target holds, or is on its way to, stays
        // until it holds something else.
        let held = [&holds.holds, &holds.becomes].into_iter().flatten();
        let needed: Vec<u32> = held.map(|held| held.version.tag).collect();
        self.sweep(list, &needed)?;
        let to = match course.to {
            Some(tag) => tag,
            None => self.take()?,
        };
        match self.send(peer, &course, to) {
            Ok(synced) => self.end(&course, synced),
            Err(failure) => {
                // If anything of it has arrived, it is gone on with.
                if course.to.is_none() && !self.is_wanted(to) {
                    self.delete(to, false)?;
                }
                Err(failure)
            }
        }
    }

    /// Whether the target has begun to be a version.
    fn is_wanted(&self, tag: u32) -> bool {
        let state = self.args.state.as_deref();
        let peer = Peer::call(&self.place, state, &self.args.rsh, false);
        let holds = peer.and_then(|mut peer| peer.holds());
        let tags = |held: Option<Held>| held.map(|held| held.version.tag);
        match holds {
            Ok(holds) => tags(holds.becomes) == Some(tag) || tags(holds.holds) == Some(tag),
            // It may have.
            Err(_) => true,
        }
    }

    fn course(&self, list: &List, holds: &Holds) -> Result<Course> {
        let fresh = |since| Course {
            to: None,
            since,
            position: None,
        };
        if self.args.full {
            return Ok(fresh(None));
        }
        let target = self.place.target.to_string_lossy();
        let refused = |what: String, hint: String| {
            let what = format!("{}: {what}", self.place);
            Err(Failure::new(Kind::Refused, what).hint(hint))
        };
        let over = "if it is to be written over, whatever it holds: --full";
        match (holds.state.as_str(), &holds.holds, &holds.becomes) {
            ("unknown", ..) => Ok(fresh(None)),
            ("whole", Some(held), _) => match self.find(list, held) {
                Some(row) => Ok(fresh(Some(row.tag))),
                None => refused(self.stranger(list, held), over.to_owned()),
            },
            ("between", before, Some(becomes)) => {
                let to = self.find(list, becomes).filter(|row| !row.is_bookmark());
                let since = match before {
                    Some(held) => self.find(list, held).map(|row| Some(row.tag)),
                    None => Some(None),
                };
                match (to, since) {
                    (Some(to), Some(since)) => Ok(Course {
                        to: Some(to.tag),
                        since,
                        position: holds.position.clone(),
                    }),
                    _ => refused(
                        format!(
                            "it has received a part of version {}, which is not there any more, or not of this origin",
                            becomes.version.tag
                        ),
                        format!(
                            "give that up on its host: dms receive {target} --abort; or write over it: --full"
                        ),
                    ),
                }
            }
            _ => refused(
                "it is being made what it was".to_owned(),
                format!("have that done on its host: dms receive {target} --abort"),
            ),
        }
    }

    /// The version here that a target holds, if it can be the base of another one.
    pub(super) fn find<'l>(&self, list: &'l List, held: &Held) -> Option<&'l Row> {
        if !is_of(list, held) {
            return None;
        }
        let version = &held.version;
        let row = list
            .rows
            .iter()
            .find(|row| row.tag == version.tag && row.tag != 0)?;
        let same = version.created_utc.is_none() || version.created_utc == utc(row.created);
        let usable = !row.is_ghost() && !row.flags.contains('I');
        (same && usable).then_some(row)
    }

    fn stranger(&self, list: &List, held: &Held) -> String {
        let tag = held.version.tag;
        match is_of(list, held) {
            false => format!(
                "it holds version {tag} of another origin, in store {}",
                held.store
            ),
            true => format!(
                "it holds version {tag}, of which neither a snapshot nor a bookmark is left here"
            ),
        }
    }

    fn take(&self) -> Result<u32> {
        let frozen = self.dm.origin_of(&self.device)?;
        freeze::snapshot(
            &self.dm,
            &self.device,
            frozen.as_ref(),
            &self.interrupt,
            &self.memo,
        )
    }

    fn send(&self, peer: Peer, course: &Course, to: u32) -> Result<Synced> {
        let since = course.since.map(typed).transpose()?;
        let named = self.device.name.as_ref();
        let sender = Sender::find(named, None, self.interrupt.clone())?;
        let plan = sender.plan(typed(to)?, since.map(Base::of))?;
        let done = |plan: &Plan| Synced {
            origin: self.device.name.clone(),
            target: self.place.to_string(),
            tag: to,
            taken: plan.begin.to.created.unwrap_or(0),
            bytes: plan.begin.sectors * 512,
            of: None,
        };
        if since.is_some() && plan.begin.sectors == 0 && plan.begin.size == plan.begin.from_size {
            return Ok(done(&plan));
        }
        let from = course.position.as_deref().map(position).transpose()?;
        if let Some(from) = &from {
            plan.has(from)?;
        }
        pass(&sender, &plan, from.as_ref(), peer, self.args.full)?;
        Ok(done(&plan))
    }

    /// The target has it: now that is what the next one is sent since.
    fn end(&self, course: &Course, synced: Synced) -> Result<Synced> {
        if synced.bytes == 0 {
            if let (Some(since), None) = (course.since, course.to) {
                // Nothing has changed: the target is that one, and this one too.
                self.delete(synced.tag, false)?;
                return Ok(Synced {
                    tag: since,
                    ..synced
                });
            }
        }
        let list = List::of(&self.dm, &self.device.name)?;
        let is_ours = |row: &&Row| row.tag == synced.tag && row.memo == self.memo;
        if list
            .rows
            .iter()
            .find(is_ours)
            .is_some_and(|row| !row.is_bookmark())
        {
            self.delete(synced.tag, true)?;
        }
        self.sweep(&list, &[synced.tag])?;
        Ok(synced)
    }

    /// Deletes what was kept for the target before, but for some.
    pub(super) fn sweep(&self, list: &List, needed: &[u32]) -> Result<()> {
        let rows = list.rows.iter();
        let ours = rows.filter(|row| row.tag != 0 && row.memo == self.memo && !row.is_ghost());
        for row in ours.filter(|row| !needed.contains(&row.tag)) {
            self.delete(row.tag, false)?;
        }
        Ok(())
    }

    /// Deletes a snapshot or a bookmark; perhaps a bookmark stays.
    pub(super) fn delete(&self, tag: u32, keep: bool) -> Result<()> {
        delete::snapshot(&self.dm, &self.device, tag, keep)
    }
}

pub(super) fn is_of(list: &List, held: &Held) -> bool {
    held.store == list.store.uuid && held.origin == list.store.origin
}

fn status(args: &Sync) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let mut records = syncs::all()?;
    let dm = Dm::if_there();
    if let Some(dm_dev) = &args.dm_dev {
        let dm = Dm::open()?;
        let device = dm.find(dm_dev)?;
        let list = List::of(&dm, &device.name)?;
        records.retain(|r| r.store == list.store.uuid && r.origin == list.store.origin);
    }
    let all = records.into_iter().map(|record| {
        let lag = dm.as_ref().and_then(|dm| lag(dm, &record, &interrupt));
        show::Synced::new(record, now(), lag)
    });
    let all: Vec<_> = all.collect();
    print(&match (args.json, args.prometheus) {
        (true, _) => json::text(&all)?,
        (_, true) => show::prometheus(&all),
        _ => show::text(&all),
    })
}

/// Bytes that have changed since a target was brought up to date, if a device of the origin is active.
fn lag(dm: &Dm, record: &Record, interrupt: &Interrupt) -> Option<u64> {
    let mut devices = dm.devices().ok()?.into_iter();
    let device = devices.find(|device| device.line.id == record.identity.as_bytes())?;
    let opened = reading::of_device(dm, &device).ok()?;
    let store = opened.read(|store| Ok(store.superblock().uuid)).ok()?;
    if uuid(&store) != record.store {
        return None;
    }
    let versions = Versions {
        origin: OriginNr::new(record.origin)?,
        old: Some(Tag::new(record.tag?)?),
        new: None,
    };
    let mut sectors = 0;
    let mut add = |sizes: &Sizes, changed: &Changed| sectors += sizes.sectors(changed).1;
    opened.differing(versions, interrupt, &mut add).ok()?;
    Some(sectors * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memos_fit() {
        assert_eq!(memo("backup:orig"), "dms sync backup:orig");
        let long = memo(&"x".repeat(100));
        assert!(long.len() <= MEMO_MAX && long.starts_with("dms sync #"));
        assert_ne!(long, memo(&"x".repeat(101)));
    }
}
