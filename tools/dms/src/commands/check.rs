// SPDX-License-Identifier: GPL-2.0
//! `dms check`

use super::print;
use crate::cli::Check;
use crate::devno::Devno;
use crate::dm::{users, Dm};
use crate::failure::{fsck, Failure, Kind, Result};
use crate::hints;
use crate::loops::Behind;
use crate::names::{normalise, BlockDevice};
use crate::progress::Progress;
use crate::shared::{self, Use, What};
use crate::show::checked::{self, Checked};
use crate::stack::Stack;
use crate::sysfs::Sysfs;
use crate::target::Line;
use dm_snap_mv_check::{check, Finding, Options, Outcome, Report, Watch};
use dm_snap_mv_store::Device;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub fn run(args: &Check) -> Result<u8> {
    checked(args).map_err(|failure| refused(failure, &args.device, args.json))
}

/// How a command ends that could not look at a store. Who reads JSON is told of that, too.
pub(super) fn refused(failure: Failure, device: &OsStr, json: bool) -> Failure {
    if json && failure.kind != Kind::Usage {
        let text = checked::refusal(&device.to_string_lossy(), &failure);
        // Were it not to be printed, the exit code says as much.
        drop(text.and_then(|text| print(&text)));
    }
    failure.as_fsck()
}

fn checked(args: &Check) -> Result<u8> {
    let (path, device, sectors) = opened(&args.device, Device::open_exclusive)?;
    let options = Options {
        super_only: args.super_only,
        skip_records: args.skip_records,
    };
    let mut told = Told::new(!args.quiet && !args.json);
    let report = check(&device, sectors, options, &mut told);
    let shown = told.end(&path, &report)?;
    if args.json {
        print(&checked::json(&shown, None, false)?)?;
    } else if !args.quiet {
        print(&checked::summary(&shown))?;
    }
    Ok(match report.is_clean() {
        true => fsck::CLEAN,
        false => fsck::ERRORS,
    })
}

/// Prints findings as they come, and keeps them.
pub(super) struct Told {
    progress: Progress,
    pub(super) findings: Vec<Finding>,
    print: bool,
}

impl Told {
    pub(super) fn new(print: bool) -> Self {
        Self {
            progress: Progress::new(),
            findings: Vec::new(),
            print,
        }
    }

    /// What is to be shown of an examination that has ended, unless it could not be made.
    pub(super) fn end<'a>(&'a mut self, path: &'a Path, report: &'a Report) -> Result<Checked<'a>> {
        self.progress.done();
        examined(path, report)?;
        Ok(Checked {
            device: path,
            report,
            findings: &self.findings,
        })
    }
}

impl Watch for Told {
    fn finding(&mut self, finding: &Finding) {
        self.findings.push(finding.clone());
        if self.print {
            // What is printed at the end fails if this does.
            self.progress.aside(|| drop(print(&format!("{finding}\n"))));
        }
    }

    fn progress(&mut self, done: u64, all: u64) {
        if self.print {
            self.progress.part("checking", done, all);
        }
    }
}

/// Opens what an argument names. Returns its path and its size in sectors as well.
pub(super) fn opened(
    arg: &OsStr,
    open: fn(&Path) -> io::Result<Device>,
) -> Result<(PathBuf, Device, u64)> {
    let path = find(arg)?;
    // The kernel's claim is on the device alone: not on a disk that a loop device lies on, nor on
    // others that are the same sectors, nor on a file.
    let (sysfs, dm) = (Sysfs::default(), Dm::if_there());
    let stack = Stack::look(&sysfs, dm.as_ref());
    let device = open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => busy(&path, &stack),
        _ => unopened(&path, &e),
    })?;
    let place = device.place().map_err(|e| unopened(&path, &e))?;
    if let Some(other) = shared::with(&stack, place.into()) {
        return Err(not_alone(&path, place.into(), &other));
    }
    let sectors = device.sectors().map_err(|e| unopened(&path, &e))?;
    Ok((path, device, sectors))
}

/// A device or a file, by the names that other commands take, too.
fn find(arg: &OsStr) -> Result<PathBuf> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let device = normalise(arg, &cwd);
    let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file(&device) {
        return Ok(device);
    }
    let failure = match BlockDevice::find(arg, "COW device", &Sysfs::default()) {
        Ok(found) => return Ok(found.node),
        Err(failure) => failure,
    };
    // A file in the working directory needs no "./" unless there is such a device.
    let here = Path::new(arg);
    let other = match device.exists() {
        true => device.as_path(),
        false if is_file(here) => return Ok(here.to_path_buf()),
        false => here,
    };
    match std::fs::metadata(other) {
        Ok(meta) if !meta.file_type().is_block_device() => {
            let what = "neither a block device nor a file that holds an image of one";
            let what = format!("{} is {what}", other.display());
            Err(Failure::new(Kind::Refused, what))
        }
        _ => Err(failure),
    }
}

/// Somebody else has blocks of it.
pub(super) fn not_alone(path: &Path, place: Behind, other: &Use) -> Failure {
    let failure = other.failure(&path.display().to_string());
    match (&other.what, place) {
        // What the kernel does with it there is not seen here, and the other way round.
        (What::Loop, Behind::File(..)) => {
            let name = &other.name;
            let what = format!("{} is in use: it is the loop device {name}", path.display());
            Failure::new(Kind::Busy, what).hint(format!(
                "give /dev/{name} instead, or detach it first: losetup -d /dev/{name}"
            ))
        }
        _ => failure,
    }
}

/// Somebody has claimed the device: a mount, a mapping, or the same of a part of it.
pub(super) fn busy(path: &Path, stack: &Stack<'_>) -> Failure {
    let what = format!("{} is in use", path.display());
    let Some(dev) = std::fs::metadata(path)
        .ok()
        .map(|meta| Devno::of_dev_t(meta.rdev()))
    else {
        return Failure::new(Kind::Busy, what);
    };
    let is_ours = |line: Line| line.origin == dev || line.cow == dev;
    let has_ours = stack
        .tables()
        .any(|table| table.ours().is_some_and(|ours| is_ours(ours.line)));
    let users = users::of(dev, stack.sysfs());
    match shared::with(stack, Behind::Device(dev)) {
        _ if has_ours => Failure::new(Kind::Busy, what)
            .hint("remove the dm-snap-mv devices on it first; dms list shows them"),
        Some(other) if users.is_empty() => not_alone(path, Behind::Device(dev), &other),
        _ => {
            let what = format!("{what}: {}", users::phrase(&users));
            let failure = Failure::new(Kind::Busy, what);
            match users::unmount(&users) {
                Some(unmount) => failure.hint(unmount),
                None => failure,
            }
        }
    }
}

fn unopened(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let what = format!("cannot open {}: {error}", path.display());
            Failure::new(Kind::Unable, what).hint("run dms as root")
        }
        _ => Failure::new(
            Kind::Refused,
            format!("cannot open {}: {error}", path.display()),
        ),
    }
}

/// Whether there was something to be looked at.
fn examined(path: &Path, report: &Report) -> Result<()> {
    if report.found.is_some() {
        return Ok(());
    }
    match &report.outcome {
        Outcome::Checked => Ok(()),
        Outcome::Refused(refusal) => {
            let failure = hints::failure(*refusal).context(path.display());
            Err(match report.instead {
                Some(instead) => Failure {
                    what: format!("{} holds {instead}, not a store", path.display()),
                    ..failure
                },
                None => failure,
            })
        }
        Outcome::InUse => {
            let what = "it has changed while it was looked at";
            let what = format!("{} is in use: {what}", path.display());
            Err(Failure::new(Kind::Busy, what).hint(
                "another device leads to the same disk, or another machine has it: look for them",
            ))
        }
        Outcome::Unreadable(why) => Err(Failure::new(
            Kind::Damaged,
            format!("{}: cannot read the superblock: {why}", path.display()),
        )),
    }
}
