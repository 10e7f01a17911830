// SPDX-License-Identifier: GPL-2.0
//! An origin that another machine takes over what it has become of, as `dms serve` does it.

use crate::commands::{into, receive};
use crate::dm::{freeze, node, users, Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::peer::words::{Answer, Kept, Other, Question, Same, ALSO};
use crate::plan::{self, typed, Base, Plan};
use crate::ranges::Ranges;
use crate::replica::{self, uuid_of};
use crate::sender::Sender;
use crate::show::stream::uuid;
use crate::streams::unopened;
use crate::unchanged;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::message;
use dm_snap_mv_stream::begin::IDENTITY_MOST;
use dm_snap_mv_stream::receive::proof::Samples;
use dm_snap_mv_stream::receive::{Local, Notes, State, StateFile, Whole};
use dm_snap_mv_stream::{Content, Piece, Version};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Ranges that are taken from the other side, at most: a device has no more of a reasonable size.
const RANGES: u64 = 1 << 28;

/// What is to be sent, from one question to the next.
#[derive(Default)]
pub struct Lending {
    also: Ranges,
    many: u64,
    planned: Option<(Sender, Plan)>,
    position: Option<dm_snap_mv_stream::Position>,
}

/// The device of an origin that was named as `dms receive` takes it.
fn find(dm: &Dm, what: &str) -> Result<Mapped> {
    let path = into::find(OsStr::new(what))?;
    into::origin(dm, &path)?.ok_or_else(|| {
        let what =
            format!("{what} is no device of an origin: what has been written to it is not known");
        Failure::new(Kind::Refused, what).hint(
            "what differs can be found by reading both: dms verify\n\
             or all of it be copied, to the origin's device: dd, for one",
        )
    })
}

/// Has what file systems and the page cache hold for it written: that counts as changed. What cannot be
/// is not known here, and is in the snapshot that is taken next all the same.
fn write_back(dm: &Dm, device: &Mapped) {
    for place in users::mounted_above(device.devno, &dm.sysfs) {
        if let Ok(place) = File::open(place) {
            let _ = nix::unistd::syncfs(place);
        }
    }
    if let Ok(file) = File::open(node::path(&device.name)) {
        let _ = file.sync_all();
    }
}

/// By what snapshots of it are sent.
fn sender(device: &Mapped) -> Result<Sender> {
    Sender::find(device.name.as_ref(), None, Interrupt::watch()?)
}

impl Lending {
    /// Answers what is asked of an origin.
    pub fn answer(&mut self, question: &Question) -> Result<Answer> {
        match question {
            Question::Origin { what, tags } => self::origin(what, tags),
            Question::Changed { what, since } => {
                let dm = Dm::open()?;
                let device = find(&dm, what)?;
                write_back(&dm, &device);
                let changed = sender(&device)?.differing(typed(*since)?, None)?;
                let (ranges, sectors) = changed.count();
                let bytes = sectors.saturating_mul(512);
                Ok(Answer::Changed { bytes, ranges })
            }
            Question::Snapshot { what, memo } => snapshot(what, memo),
            Question::Also { ranges } => self.also(ranges),
            Question::Plan {
                what,
                tag,
                since,
                other,
            } => self.plan(what, *tag, *since, other),
            Question::Send { position } => self.from(position.as_deref()),
            _ => Err(Failure::new(Kind::Refused, "that is no question here")),
        }
    }

    fn also(&mut self, ranges: &[(u64, u64)]) -> Result<Answer> {
        let wrong = || Failure::new(Kind::Refused, "these are no ranges");
        self.many += ranges.len() as u64;
        if ranges.len() > ALSO || self.many > RANGES {
            return Err(Failure::new(Kind::Refused, "these are too many ranges"));
        }
        for &(start, sectors) in ranges {
            let end = start.checked_add(sectors).filter(|_| sectors > 0);
            if start < self.also.end() || end.is_none_or(|end| end > 1 << 54) {
                return Err(wrong());
            }
            self.also.push(Piece {
                start,
                sectors,
                zero: false,
            });
        }
        Ok(Answer::Done {
            said: String::new(),
        })
    }

    fn plan(&mut self, what: &str, tag: u32, since: u32, other: &Other) -> Result<Answer> {
        let device = find(&Dm::open()?, what)?;
        let sender = sender(&device)?;
        let version = Version {
            tag: other.tag,
            uuid: Some(uuid_of(&other.uuid)?),
            created: Some(other.created),
            ..Version::default()
        };
        let base = Base {
            since: typed(since)?,
            other: Some((version, other.sectors, std::mem::take(&mut self.also))),
        };
        let plan = sender.plan(typed(tag)?, Some(base))?;
        let answer = Answer::Changed {
            bytes: plan.begin.sectors.saturating_mul(512),
            ranges: plan.begin.ranges,
        };
        self.planned = Some((sender, plan));
        Ok(answer)
    }

    fn from(&mut self, position: Option<&str>) -> Result<Answer> {
        let Some((_, plan)) = &self.planned else {
            return Err(Failure::new(Kind::Refused, "it was not said what to send"));
        };
        self.position = position.map(plan::position).transpose()?;
        if let Some(position) = &self.position {
            plan.has(position)?;
        }
        Ok(Answer::Done {
            said: String::new(),
        })
    }

    /// Sends what was planned.
    ///
    /// # Errors
    ///
    /// It could not be read, or nobody reads it any more, which is a quiet failure.
    pub fn send(&self, to: impl Write) -> Result<()> {
        match &self.planned {
            Some((sender, plan)) => {
                sender.send(std::slice::from_ref(plan), self.position.as_ref(), to)
            }
            None => Ok(()),
        }
    }
}

fn origin(what: &str, tags: &[u32]) -> Result<Answer> {
    let dm = Dm::open()?;
    let device = find(&dm, what)?;
    let sender = sender(&device)?;
    let (store, origin) = sender.origin()?;
    let mut versions = Vec::new();
    for tag in tags.iter().filter_map(|tag| Tag::new(*tag)).take(ALSO) {
        // What is not there, or cannot be relied on, is none.
        if let Ok((row, false)) = sender.look_at_base(tag) {
            versions.push(Kept {
                tag: tag.get(),
                created: row.created,
                whole: !row.bookmark,
            });
        }
    }
    Ok(Answer::Origin {
        store: uuid(&store),
        origin,
        sectors: device.sectors,
        versions,
    })
}

fn snapshot(what: &str, memo: &str) -> Result<Answer> {
    message::parse_memo(memo.as_bytes()).map_err(crate::hints::failure)?;
    let dm = Dm::open()?;
    let device = find(&dm, what)?;
    let interrupt = Interrupt::watch()?;
    let tag = freeze::snapshot(&dm, &device, Some(&device), &interrupt, memo)?;
    Ok(Answer::Snapshot { tag })
}

/// Notes that a target was a version of the other side when a snapshot of it was taken, in the place of what was
/// noted before. So the other side can send since that.
pub fn was(target: &str, state: Option<&Path>, tag: u32, version: &Same) -> Result<Answer> {
    let dm = Dm::open()?;
    let device = find(&dm, target)?;
    let path = match state {
        Some(state) => state.to_owned(),
        None => {
            replica::make_folder()?;
            replica::notes(&dm, &device)?
        }
    };
    let mut notes = StateFile::new(&path);
    if let Some(State::Between(_) | State::Restoring(_)) =
        receive::noted(Path::new(target), &mut notes)?
    {
        let what = format!("{target}: something has been received into it in part");
        return Err(Failure::new(Kind::Refused, what).hint(format!(
            "give that up on its host: dms receive {target} --abort"
        )));
    }
    let interrupt = Interrupt::watch()?;
    let sender = sender(&device)?;
    let (store, origin) = sender.origin()?;
    let local = Local { store, origin, tag };
    let here = unchanged::Origin {
        dm: &dm,
        device: &device,
        interrupt: &interrupt,
    };
    if here.lost(&local)?.is_some() {
        let what = format!("{target}: snapshot {tag} is gone, invalid, or written to");
        return Err(Failure::new(Kind::Refused, what));
    }
    let plan = sender.plan(typed(tag)?, None)?;
    if plan.begin.size < version.sectors || version.identity.len() > IDENTITY_MOST {
        let what = format!("{target}: snapshot {tag} is too small to be that");
        return Err(Failure::new(Kind::NoSpace, what));
    }
    let shown = sender.show(&plan)?;
    let seed = blake3::hash(&plan::unlike_any_other()?).into();
    let samples = Samples::of(version.sectors, seed, &mut |start, into| {
        shown.read(start, into)
    });
    shown.close(&dm);
    let whole = Whole {
        content: Content {
            store: uuid_of(&version.store)?,
            origin: version.origin,
            size: version.sectors,
            version: Version {
                tag: version.tag,
                created: Some(version.created),
                ..Version::default()
            },
        },
        identity: version.identity.as_bytes().to_vec(),
        samples: samples.map_err(|e| unopened(Path::new(target), &e))?,
        local: Some(local),
        ..Whole::default()
    };
    let stored = notes.store(&State::Whole(whole).encode());
    stored.map_err(|e| unopened(&path, &e))?;
    Ok(Answer::Done {
        said: String::new(),
    })
}
