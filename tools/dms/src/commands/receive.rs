// SPDX-License-Identifier: GPL-2.0
//! `dms receive`

use super::check::{busy, not_alone};
use super::print;
use super::stream::decoder;
use crate::cli::Receive;
use crate::devno::Devno;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Kind, Result};
use crate::loops::Behind;
use crate::names::{normalise, BlockDevice};
use crate::progress::Progress;
use crate::replica::{self, Replica};
use crate::shared;
use crate::show::stream::Noted;
use crate::stack::Stack;
use crate::streams::{name_of, refused, unopened, Input};
use crate::sysfs::Sysfs;
use crate::target::Role;
use dm_snap_mv_stream::receive::{
    abort, receive, Aborted, Failure as Stopped, Local, Notes, Options, Plain, Receiver, Refusal,
    State, StateFile, Target,
};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub fn run(args: &Receive) -> Result<()> {
    let path = find(&args.target)?;
    let device = device_at(&path);
    let dm = device.and_then(|_| Dm::if_there());
    if dm.is_none() && device.is_some_and(is_ours) {
        let what = format!("{} is a device of dm-snap-mv", path.display());
        return Err(Failure::new(Kind::Unable, what).hint("run dms as root"));
    }
    let origin = match &dm {
        Some(dm) => origin(dm, &path)?,
        None => None,
    };
    let mut notes = StateFile::new(match (&args.state, &dm, &origin) {
        (None, Some(dm), Some(origin)) => replica::notes(dm, origin)?,
        _ => state(args, &path)?,
    });
    if args.status || args.position {
        return tell(args, &path, &mut notes);
    }
    let input = match args.abort {
        true => None,
        false => Some(Input::standard()?),
    };
    let target = open(&path)?;
    match (&dm, &origin) {
        (Some(dm), Some(origin)) => {
            let target = Replica::new(dm, origin, target)?;
            if input.is_some() {
                target.need_rest()?;
                if args.state.is_none() {
                    replica::make_folder()?;
                }
            }
            act(args, &path, target, notes, input)
        }
        _ => act(args, &path, target, notes, input),
    }
}

/// Receives into a target, or gives up what was received.
fn act(
    args: &Receive,
    path: &Path,
    target: impl Target,
    notes: StateFile,
    input: Option<Input>,
) -> Result<()> {
    let Some(input) = input else {
        return give_up(args, path, target, notes);
    };
    let options = Options {
        force: args.force,
        keep: args.keep,
        digest: args.digest,
    };
    let failed = |failure| refused(path, failure);
    let mut decoder = decoder(input)?;
    let mut receiver = Receiver::new(target, notes, options).map_err(failed)?;
    let mut progress = Progress::new();
    let done = receive(&mut decoder, &mut receiver, &mut |begin, counts| {
        let doing = format!("receiving {}", begin.to.tag);
        progress.part(&doing, counts.sectors, begin.sectors);
    });
    progress.done();
    told(receiver.taken())?;
    let received = match done {
        Ok(received) => received,
        Err(failure) => return Err(advised(path, failure, receiver.state())),
    };
    if received.segments == 0 {
        eprintln!("dms: {} holds that already", path.display());
        if let Some(State::Whole(whole)) = receiver.state() {
            told(whole.local.as_slice())?;
        }
    }
    Ok(())
}

/// Says which snapshots were taken.
fn told(taken: &[Local]) -> Result<()> {
    let tags = taken.iter().map(|local| format!("{}\n", local.tag));
    match taken {
        [] => Ok(()),
        _ => print(&tags.collect::<String>()),
    }
}

/// Why it has ended before the stream, and what to do about it where something has been received.
fn advised(path: &Path, stopped: Stopped, state: Option<&State>) -> Failure {
    let Some(State::Between(between)) = state else {
        return refused(path, stopped);
    };
    let to_target = matches!(stopped, Stopped::Target(..));
    let is_changed = matches!(stopped, Stopped::Refused(Refusal::Changed));
    let failure = refused(path, stopped);
    let mut hints: Vec<_> = failure.hint.iter().cloned().collect();
    let base = between.base.as_ref();
    let is_replica = base.is_some_and(|base| base.local.is_some());
    if is_changed && is_replica {
        let name = path.display();
        hints.push(format!(
            "or have it be what it was before: dms receive {name} --abort"
        ));
    } else if between.taking.is_some() {
        hints.push("all has been received: the same stream again has it taken".to_owned());
    } else if hints.is_empty() {
        let stays = "what was received up to the last mark stays: it can be gone on with";
        hints.push(stays.to_owned());
        if to_target && is_replica && failure.kind == Kind::NoSpace {
            let name = path.display();
            let short = path.strip_prefix("/dev/mapper").unwrap_or(path).display();
            hints.push(format!(
                "when there is space again: delete snapshots (dms delete {short} TAG) or enlarge the COW device\n\
                 or give it up: dms receive {name} --abort"
            ));
        }
    }
    Failure {
        hint: Some(hints.join("\n")),
        ..failure
    }
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

/// The number of the device there.
fn device_at(path: &Path) -> Option<Devno> {
    let meta = fs::metadata(path).ok()?;
    let is_device = meta.file_type().is_block_device();
    is_device.then(|| Devno::of_dev_t(meta.rdev()))
}

/// Whether it is most likely a device of dm-snap-mv, for who may not ask device-mapper.
fn is_ours(devno: Devno) -> bool {
    let uuid = fs::read_to_string(format!("/sys/dev/block/{devno}/dm/uuid"));
    uuid.is_ok_and(|uuid| uuid.starts_with("SNAPMV-"))
}

/// If the target is a device of dm-snap-mv, that has to be one of an origin.
fn origin(dm: &Dm, path: &Path) -> Result<Option<Mapped>> {
    let devno = device_at(path);
    let mut devices = dm.devices()?.into_iter();
    let Some(device) = devices.find(|device| Some(device.devno) == devno) else {
        return Ok(None);
    };
    match device.line.role {
        Role::Origin => Ok(Some(device)),
        Role::Snapshot(tag) => {
            let what = format!("{} shows snapshot {tag}", path.display());
            Err(Failure::new(Kind::Refused, what)
                .hint("what is received into is the origin, of which a snapshot is taken then"))
        }
    }
}

/// Where it is noted what a file or a plain device holds.
fn state(args: &Receive, path: &Path) -> Result<PathBuf> {
    let is_device = device_at(path).is_some();
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
    let devno = device_at(path);
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

fn give_up(
    args: &Receive,
    path: &Path,
    mut target: impl Target,
    mut notes: StateFile,
) -> Result<()> {
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
