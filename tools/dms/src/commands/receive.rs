// SPDX-License-Identifier: GPL-2.0
//! `dms receive`

use super::check::{busy, not_alone};
use super::print;
use super::stream::decoder;
use crate::cli::Receive;
use crate::devno::Devno;
use crate::dm::Dm;
use crate::failure::{Failure, Kind, Result};
use crate::loops::Behind;
use crate::names::{normalise, BlockDevice};
use crate::progress::Progress;
use crate::shared;
use crate::show::stream::Noted;
use crate::stack::Stack;
use crate::streams::{name_of, refused, unopened, Input};
use crate::sysfs::Sysfs;
use dm_snap_mv_stream::receive::{
    abort, receive, Aborted, Notes, Options, Plain, Receiver, State, StateFile,
};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub fn run(args: &Receive) -> Result<()> {
    let path = find(&args.target)?;
    let mut notes = StateFile::new(state(args, &path)?);
    if args.status || args.position {
        return tell(args, &path, &mut notes);
    }
    let input = match args.abort {
        true => None,
        false => Some(Input::standard()?),
    };
    let target = open(&path)?;
    let Some(input) = input else {
        return give_up(args, &path, target, notes);
    };
    let options = Options {
        force: args.force,
        keep: args.keep,
        digest: args.digest,
    };
    let failed = |failure| refused(&path, failure);
    let mut decoder = decoder(input)?;
    let mut receiver = Receiver::new(target, notes, options).map_err(failed)?;
    let mut progress = Progress::new();
    let done = receive(&mut decoder, &mut receiver, &mut |begin, counts| {
        let doing = format!("receiving {}", begin.to.tag);
        progress.part(&doing, counts.sectors, begin.sectors);
    });
    progress.done();
    let received = done.map_err(failed).map_err(|failure| {
        let unfinished = matches!(receiver.state(), Some(State::Between(_)));
        match unfinished && failure.hint.is_none() {
            true => {
                failure.hint("what was received up to the last mark stays: it can be gone on with")
            }
            false => failure,
        }
    })?;
    if received.segments == 0 {
        eprintln!("dms: {} holds that already", path.display());
    }
    Ok(())
}

/// The target that is meant: a device if there is one, else a file.
fn find(arg: &OsStr) -> Result<PathBuf> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let named = normalise(arg, &cwd);
    let is_device =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    let here = Path::new(arg);
    if is_device(&named) || arg.to_str().is_some_and(|a| a.parse::<Devno>().is_ok()) {
        return BlockDevice::find(arg, "target", &Sysfs::default()).map(|found| found.node);
    }
    if is_device(here) {
        return Ok(here.to_owned());
    }
    let path = if here.starts_with("/") {
        named
    } else {
        here.to_owned()
    };
    let below_dev = path.starts_with("/dev") && !path.starts_with("/dev/shm");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if below_dev && !path.exists() || folder.is_some_and(|folder| !folder.is_dir()) {
        let what = format!(
            "there is no device {}, and no place for a file",
            arg.to_string_lossy()
        );
        return Err(Failure::new(Kind::NotFound, what));
    }
    Ok(path)
}

/// Where it is noted what the target holds.
fn state(args: &Receive, path: &Path) -> Result<PathBuf> {
    let is_device = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    match &args.state {
        Some(state) => Ok(state.clone()),
        None if is_device => Err(Failure::usage(format!(
            "say with --state where it is to be noted what {} holds",
            path.display()
        ))
        .hint("a file that is still there after a reboot, such as /var/lib/dms-sdb1.state")),
        None => {
            // Beside the file itself, not beside a link to it.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let mut name = path.into_os_string();
            name.push(".dms-state");
            Ok(name.into())
        }
    }
}

fn open(path: &Path) -> Result<Plain> {
    let shown = path.display();
    let devno = fs::metadata(path)
        .ok()
        .filter(|meta| meta.file_type().is_block_device())
        .map(|meta| Devno::of_dev_t(meta.rdev()));
    if let Some(devno) = devno {
        if is_ours(devno) {
            let what = format!("{shown} is a device of dm-snap-mv");
            return Err(Failure::new(Kind::Refused, what)
                .hint("receiving into an origin or a snapshot is not possible yet"));
        }
    }
    // As for whatever else is written to past the kernel's target.
    let (sysfs, dm) = (Sysfs::default(), Dm::if_there());
    let stack = Stack::look(&sysfs, dm.as_ref());
    let plain = Plain::open(path).map_err(|error| match (error.kind(), devno) {
        (io::ErrorKind::ResourceBusy, Some(_)) => busy(path, &stack),
        (io::ErrorKind::ResourceBusy, None) => {
            let what = format!("{shown} is in use: something else is being received into it");
            Failure::new(Kind::Busy, what)
        }
        (io::ErrorKind::InvalidInput, _) => {
            let what = format!("{shown} is neither a block device nor a file");
            Failure::new(Kind::Refused, what)
        }
        _ => unopened(path, &error),
    })?;
    let inode = plain.inode().map_err(|error| unopened(path, &error))?;
    let place = match (devno, inode) {
        (Some(devno), _) => Behind::Device(devno),
        (None, Some((dev, inode))) => Behind::File(dev, inode),
        // It is not there yet.
        (None, None) => return Ok(plain),
    };
    match shared::with(&stack, place) {
        Some(other) => Err(not_alone(path, place, &other)),
        None => Ok(plain),
    }
}

/// Whether it is a device of this target.
fn is_ours(devno: Devno) -> bool {
    let uuid = fs::read_to_string(format!("/sys/dev/block/{devno}/dm/uuid"));
    uuid.is_ok_and(|uuid| uuid.starts_with("SNAPMV-"))
}

fn noted(path: &Path, notes: &mut StateFile) -> Result<Option<State>> {
    let at = notes.path().to_owned();
    let note = notes.load().map_err(|error| unopened(&at, &error))?;
    let state = note.map(|note| State::decode(&note)).transpose();
    state.map_err(|what| {
        let what = format!(
            "{}: what is noted of it makes no sense: {what}",
            path.display()
        );
        Failure::new(Kind::Damaged, what)
    })
}

fn tell(args: &Receive, path: &Path, notes: &mut StateFile) -> Result<()> {
    let state = noted(path, notes)?;
    if args.position {
        return match &state {
            Some(State::Between(between)) if between.position.mark > 0 => {
                print(&format!("{}\n", between.position))
            }
            _ => Ok(()),
        };
    }
    let noted = Noted::new(state.as_ref());
    print(&match args.json {
        true => noted.json()?,
        false => noted.text(),
    })
}

fn give_up(args: &Receive, path: &Path, mut target: Plain, mut notes: StateFile) -> Result<()> {
    let aborted = abort(&mut target, &mut notes, args.force);
    let shown = path.display();
    match aborted.map_err(|failure| refused(path, failure))? {
        Aborted::Nothing => eprintln!("dms: nothing had been left off there"),
        Aborted::Restored(whole) => eprintln!("dms: {shown} is {} again", name_of(&whole)),
        Aborted::Removed => eprintln!("dms: {shown} has been removed"),
        Aborted::GivenUp => eprintln!("dms: {shown} holds a mixture, which is of no use"),
    }
    Ok(())
}
