// SPDX-License-Identifier: GPL-2.0
//! `dms send`

use super::{print, tag};
use crate::cli::Send;
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::interrupt::Interrupt;
use crate::plan::{left, position, Base, Plan};
use crate::sender::Sender;
use crate::streams::unopened;
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_stream::Begin;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::Path;

pub fn run(args: &Send) -> Result<()> {
    let to = args.tag.as_deref().map(typed).transpose()?;
    let from = older(args.since.as_deref(), to)?;
    let position = args.resume.as_deref().map(position).transpose()?;
    if !args.estimate && args.output.is_none() && io::stdout().is_terminal() {
        let failure = Failure::usage("a stream is not written to a terminal");
        return Err(
            failure.hint("give the name of a file with -o, or put it behind \">\" or \"|\"")
        );
    }
    let sender = Sender::find(&args.dm_dev, args.cow.as_deref(), Interrupt::watch()?)?;
    let mut plans = match (args.history, to) {
        (false, Some(to)) => vec![sender.plan(to, from.map(Base::of))?],
        _ => history(&sender, from, to)?,
    };
    if args.estimate {
        return print(&estimate(&plans));
    }
    if let Some(position) = &position {
        // What is before that has been received.
        plans.drain(..left(&plans, position)?);
    }
    let position = position.as_ref();
    match args.output.as_deref() {
        None => sender.send(&plans, position, io::stdout().lock()),
        Some(path) => to_file(path, |file| sender.send(&plans, position, file)),
    }
}

/// The snapshot that is meant, and the one since which, by their tags as they were typed.
pub(super) fn versions(word: &str, since: Option<&str>) -> Result<(Tag, Option<Tag>)> {
    let to = typed(word)?;
    Ok((to, older(since, Some(to))?))
}

fn typed(word: &str) -> Result<Tag> {
    Tag::new(tag(word)?).ok_or_else(|| hints::failure(Refusal::UnknownTag))
}

/// The snapshot since which something is sent, which is older than that.
fn older(since: Option<&str>, to: Option<Tag>) -> Result<Option<Tag>> {
    let from = since.map(tag).transpose()?.and_then(Tag::new);
    if let (Some(old), Some(new)) = (from, to.filter(|to| from >= Some(*to))) {
        let what = match old == new {
            true => format!("nothing changes from snapshot {old} to itself"),
            false => format!("snapshot {old} is newer than snapshot {new}"),
        };
        return Err(
            Failure::usage(what).hint("--since takes a snapshot older than the one that is sent")
        );
    }
    Ok(from)
}

/// Each snapshot since the one before.
fn history(sender: &Sender, from: Option<Tag>, to: Option<Tag>) -> Result<Vec<Plan>> {
    let (all, unfit) = sender.history(from, to)?;
    for tag in unfit {
        eprintln!(
            "dms: snapshot {tag} is left out: it is one of a snapshot, has been written to, or is invalid"
        );
    }
    let mut plans = Vec::with_capacity(all.len());
    let mut since = from;
    for tag in all {
        plans.push(sender.plan(tag, since.map(Base::of))?);
        since = Some(tag);
    }
    match (plans.is_empty(), from) {
        (false, _) => Ok(plans),
        (true, None) => Err(
            Failure::new(Kind::NotFound, "there is no snapshot to be sent")
                .hint("to take one: dms snapshot"),
        ),
        (true, Some(from)) => {
            let what = format!("there is no newer snapshot than {from} to be sent");
            Err(Failure::new(Kind::NotFound, what))
        }
    }
}

/// How much is set by all of them.
fn estimate(plans: &[Plan]) -> String {
    let sum = |of: fn(&Begin) -> u64| plans.iter().map(|plan| of(&plan.begin)).sum::<u64>();
    let zero = plans.iter().flat_map(|plan| plan.ranges().iter());
    let zero: u64 = zero.filter(|p| p.zero).map(|p| p.sectors).sum();
    let size = plans.last().map_or(0, |plan| plan.begin.size);
    format!(
        "ranges {}\nchunks {}\nbytes {}\nzero-bytes {}\nof-bytes {}\n",
        sum(|begin| begin.ranges),
        sum(|begin| begin.chunks),
        sum(|begin| begin.sectors) * 512,
        zero * 512,
        size * 512
    )
}

/// Writes a file, so that there is never half of one; or to what is no file.
fn to_file(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(path);
        return write(&file.map_err(|e| unopened(path, &e))?);
    }
    let mut beside = path.to_owned().into_os_string();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let file = File::create(beside).map_err(|e| unopened(beside, &e))?;
    let done = write(&file).and_then(|()| {
        let synced = file.sync_all().and_then(|()| fs::rename(beside, path));
        synced.map_err(|e| unopened(path, &e))
    });
    if done.is_err() {
        drop(fs::remove_file(beside));
    }
    done
}
