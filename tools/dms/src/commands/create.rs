// SPDX-License-Identifier: GPL-2.0
//! `dms create`

use super::{formatting, tag};
use crate::cli::Create;
use crate::dm::{node, users, Dm};
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::loops::Behind;
use crate::names::{self, BlockDevice};
use crate::stack::Stack;
use crate::{list, reply, shared, target::Wanted};
use dm_snap_mv_model::ids::Tag;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::{Device, Store};
use std::os::unix::ffi::OsStrExt;

/// How a device-mapper UUID begins that is one of ours.
const UUID_PREFIX: &str = "SNAPMV-";

pub fn run(args: &Create) -> Result<()> {
    let name = names::dm_name(&args.dm_dev)?;
    let mut wanted = Wanted {
        tag: args.tag.clone(),
        bind: args.bind,
        accept: args.accept_device,
        format: args.format,
        force: args.force_format,
        pages: args.chunk_size.clone(),
        policy: args.on_full.clone(),
        ..Wanted::default()
    };
    let snapshot = args.tag.as_deref().map(tag).transpose()?;
    // Wrong words are told before anything is looked for.
    Wanted {
        origin: "0:0".to_owned(),
        cow: "0:0".to_owned(),
        id: match &args.id {
            Some(id) => id.as_bytes().to_vec(),
            None => b"-".to_vec(),
        },
        ..wanted.clone()
    }
    .line()?;

    let dm = Dm::open()?;
    let origin = BlockDevice::find(&args.origin, "origin device", &dm.sysfs)?;
    let cow = BlockDevice::find(&args.cow, "COW device", &dm.sysfs)?;
    wanted.origin = origin.devno.to_string();
    wanted.cow = cow.devno.to_string();
    wanted.id = match &args.id {
        Some(id) => id.as_bytes().to_vec(),
        None => origin.id().to_vec(),
    };
    dm.need_target()?;
    if wanted.policy.is_none() {
        // The kernel leaves it as it is then; the line may as well say what it is.
        wanted.policy = dm.policy(cow.devno)?;
    }
    let line = wanted.line()?;
    let sectors = match snapshot {
        None => origin.sectors,
        // Where it cannot be found out, the kernel will say what is wrong.
        Some(tag) => snapshot_size(&dm, &cow, &wanted.id, tag).unwrap_or(origin.sectors),
    };

    {
        let stack = Stack::look(&dm.sysfs, Some(&dm));
        let free = nobody_else_has(&stack, &origin, &cow);
        free.and_then(|()| match (wanted.format, wanted.force) {
            (_, true) => formatting::agreed_to_loss(&stack, &cow, args.yes),
            (true, _) => formatting::is_blank(&stack, &cow),
            _ => Ok(()),
        })
        .map_err(|failure| failure.context(format!("cannot create {name}")))?;
    }

    // Whatever happens from here on, the device must either be of use or go.
    let interrupt = Interrupt::watch()?;
    let _held = interrupt.hold()?;
    let uuid = match wanted.format || wanted.force {
        true => None,
        false => uuid(&cow, &wanted.id, snapshot),
    };
    dm.create(name, uuid.as_deref())?;
    let unnamed = uuid.is_none();
    let done = activate(&dm, name, sectors, line, &cow, &wanted, &interrupt, unnamed);
    match done {
        Ok(()) => Ok(()),
        Err(failure) => {
            // What is half made goes, and what was wrong first is what counts.
            if let Ok(info) = dm.info(name) {
                let _ = dm.remove(name, info.devno);
            }
            Err(failure)
        }
    }
}

/// What the kernel cannot see: whether somebody has blocks of a device by another way to them. Who has a
/// role already keeps it, whoever came later.
pub fn nobody_else_has(stack: &Stack<'_>, origin: &BlockDevice, cow: &BlockDevice) -> Result<()> {
    let lines: Vec<_> = stack
        .tables()
        .filter_map(|table| Some(table.ours()?.line))
        .collect();
    let is_cow = lines.iter().any(|line| line.cow == cow.devno);
    let is_origin = lines
        .iter()
        .any(|line| line.cow == cow.devno && line.origin == origin.devno);
    for (role, device, has) in [("origin", origin, is_origin), ("COW", cow, is_cow)] {
        let other = match has {
            true => None,
            false => shared::with(stack, Behind::Device(device.devno)),
        };
        if let Some(other) = other {
            return Err(other.failure(&format!("the {role} device {}", device.short())));
        }
    }
    if !is_origin && shared::in_common(stack, origin.devno, cow.devno) {
        let (origin, cow) = (origin.short(), cow.short());
        let what =
            format!("the origin device {origin} and the COW device {cow} have blocks in common");
        return Err(Failure::new(Kind::Refused, what).hint("the COW device must be another one"));
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn activate(
    dm: &Dm,
    name: &str,
    sectors: u64,
    line: Vec<u8>,
    cow: &BlockDevice,
    wanted: &Wanted,
    interrupt: &Interrupt,
    unnamed: bool,
) -> Result<()> {
    let devno = dm.load(name, sectors, line).map_err(|reason| {
        let errno = reason.errno.unwrap_or_default();
        let failure = reply::failure(&errno, &reason.text);
        let nothing_there = [Refusal::NotBound, Refusal::NoStore, Refusal::ForeignData]
            .iter()
            .any(|refusal| reason.text == refusal.as_str());
        let failure = match nothing_there && wanted.tag.is_some() {
            // Binding or formatting would bring no snapshot.
            true => {
                failure.hint("give the origin and the COW device that the snapshot was taken with")
            }
            false => failure,
        };
        let foreign = [Refusal::ForeignData, Refusal::NotBlank]
            .iter()
            .any(|refusal| reason.text == refusal.as_str());
        let failure = match foreign && wanted.tag.is_none() {
            true => formatting::named(failure, cow),
            false => failure,
        };
        let failure = match reason.text == Refusal::NotBound.as_str() {
            true => bound_instead(failure, cow),
            false => failure,
        };
        match (&reason.detail, failure.hint.clone()) {
            (Some(detail), Some(hint)) => failure.hint(format!("{detail}\n{hint}")),
            (Some(detail), None) => failure.hint(detail),
            (None, None) if errno == "EBUSY" => busy(dm, failure, wanted),
            (None, _) => failure,
        }
        .context(format!("cannot create {name}"))
    })?;
    if interrupt.came() {
        return Err(interrupted(name, wanted));
    }
    let is_copy = wanted.tag.is_some();
    dm.resume(name, is_copy)?;
    // Formatting and binding have made what it is called by.
    if let Some(uuid) = unnamed.then(|| uuid(cow, &wanted.id, None)).flatten() {
        dm.set_uuid(name, &uuid);
    }
    node::make(name, devno).map_err(|e| {
        Failure::new(
            Kind::Refused,
            format!("cannot make {}: {e}", node::path(name).display()),
        )
    })
}

/// What udev's rules and others know a device by: its store, the origin's number there, and the
/// tag, which is 0 for the origin itself. `None` where that cannot be known.
fn uuid(cow: &BlockDevice, id: &[u8], tag: Option<u32>) -> Option<String> {
    let device = Device::open(&cow.node).ok()?;
    Store::read(&device, |store| {
        let store_uuid = u128::from_be_bytes(store.superblock().uuid);
        let origin = store.origin_by_id(id)?;
        Ok(origin.map(|row| {
            format!(
                "{UUID_PREFIX}{store_uuid:032x}-{}-{}",
                row.number.get(),
                tag.unwrap_or(0)
            )
        }))
    })
    .ok()?
}

/// A signal came while the table was loaded. That may take long, and has formatted the COW device if that
/// was asked for; nothing is bound before the table is resumed.
fn interrupted(name: &str, wanted: &Wanted) -> Failure {
    let what = format!("interrupted before {name} was of use");
    let failure = Failure::new(Kind::Interrupted, what);
    match wanted.format || wanted.force {
        true => failure.hint(
            "the COW device is formatted already: next time leave out -f or -F, and -c, but not -b",
        ),
        false => failure,
    }
}

/// The size of a snapshot: as an active device of its origin tells, or else as the store does.
fn snapshot_size(dm: &Dm, cow: &BlockDevice, id: &[u8], tag: u32) -> Option<u64> {
    let of_origin = dm
        .devices()
        .ok()?
        .into_iter()
        .find(|d| d.line.cow == cow.devno && d.line.id == id);
    if let Some(device) = of_origin {
        let page = list::page(dm, &device.name, tag).ok()?;
        return page
            .rows
            .iter()
            .find(|row| row.tag == tag)
            .map(|row| row.sectors);
    }
    let device = Device::open(&cow.node).ok()?;
    let tag = Tag::new(tag)?;
    Store::read(&device, |store| {
        let Some(origin) = store.origin_by_id(id)? else {
            return Ok(None);
        };
        store.snapshot(origin.number, tag)
    })
    .ok()?
    .map(|row| row.size)
}

/// Adds what the store knows, where what it was asked for is not among that.
fn bound_instead(failure: Failure, cow: &BlockDevice) -> Failure {
    let Some(ids) = Device::open(&cow.node)
        .ok()
        .and_then(|device| Store::read(&device, |store| store.origins()).ok())
    else {
        return failure;
    };
    let ids: Vec<_> = ids
        .iter()
        .map(|row| String::from_utf8_lossy(row.id.as_bytes()).into_owned())
        .collect();
    let known = match ids.as_slice() {
        [] => "no origin is bound to it now".to_owned(),
        ids => format!("bound to it now: {}", ids.join(", ")),
    };
    match failure.hint.clone() {
        Some(hint) => failure.hint(format!("{hint}\n{known}")),
        None => failure.hint(known),
    }
}

/// Says who has a device that could not be had.
fn busy(dm: &Dm, failure: Failure, wanted: &Wanted) -> Failure {
    for (role, number) in [("origin", &wanted.origin), ("COW", &wanted.cow)] {
        let Ok(devno) = number.parse() else { continue };
        let users = users::of(devno, &dm.sysfs);
        if !users.is_empty() {
            let mut hint = format!("the {role} device: {}", users::phrase(&users));
            if let Some(unmount) = users::unmount(&users) {
                hint += &format!("\n{unmount}");
            }
            return failure.hint(hint);
        }
    }
    failure
}
