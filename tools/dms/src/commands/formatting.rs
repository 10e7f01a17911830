// SPDX-License-Identifier: GPL-2.0
//! What is on a COW device that is to be formatted, and who has to agree to its loss.

use crate::devno::Devno;
use crate::failure::{Failure, Kind, Result};
use crate::names::BlockDevice;
use crate::stack::Stack;
use crate::{dm::users, lvm};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_store::{signature, Device, Error, Store};
use std::io::{self, BufRead, IsTerminal};

/// Whether somebody has the device, so that the kernel will refuse it: that is said then, and nothing
/// of what is on it. Those that merely have it open do not count.
fn is_taken(stack: &Stack<'_>, dev: Devno) -> bool {
    users::of(dev, stack.sysfs())
        .iter()
        .any(|user| !user.is_passing())
}

/// Before a device is formatted that is said to be blank. The kernel sees whether its beginning is.
///
/// # Errors
///
/// Something has its mark at the end of it, which is named.
pub fn is_blank(stack: &Stack<'_>, cow: &BlockDevice) -> Result<()> {
    if is_taken(stack, cow.devno) {
        return Ok(());
    }
    let device = Device::open(&cow.node).ok();
    match device.and_then(|device| signature::at_end(&device, cow.sectors)) {
        None => Ok(()),
        Some(_) => Err(named(Failure::new(Kind::Refused, "it is not blank"), cow)),
    }
}

/// Names what is on a device that was not formatted because of that.
pub fn named(failure: Failure, cow: &BlockDevice) -> Failure {
    let Some(what) = Device::open(&cow.node)
        .ok()
        .and_then(|device| marked(&device, cow.sectors))
    else {
        return failure;
    };
    let what = format!("{} holds {what}; -F formats it nevertheless", cow.short());
    match failure.hint.clone() {
        Some(hint) => failure.hint(format!("{what}\n{hint}")),
        None => failure.hint(what),
    }
}

/// Says what is lost by formatting a COW device whatever is on it, and asks for consent where there is
/// somebody to be asked.
///
/// # Errors
///
/// There is no consent, or the device belongs to a group of logical volumes that is in use.
pub fn agreed_to_loss(stack: &Stack<'_>, cow: &BlockDevice, yes: bool) -> Result<()> {
    if is_taken(stack, cow.devno) {
        return Ok(());
    }
    let Ok(device) = Device::open(&cow.node) else {
        return Ok(());
    };
    let losses = match losses(&device) {
        Some(losses) => losses,
        None => {
            no_group_in_use(stack, cow, &device)?;
            marked(&device, cow.sectors).into_iter().collect()
        }
    };
    if losses.is_empty() {
        return Ok(());
    }
    for loss in &losses {
        eprintln!("dms: lost with what is on {}: {loss}", cow.node.display());
    }
    if yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("Format it? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Failure::new(Kind::Refused, format!("cannot read the answer: {e}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Kind::Refused, "nothing has been formatted")),
    }
}

/// What is there by the mark of somebody else, with its article.
fn marked(device: &Device, sectors: u64) -> Option<String> {
    let what = signature::of(device).or_else(|| signature::at_end(device, sectors))?;
    Some(match lvm::group(device) {
        Some(group) => format!("{what} of the volume group {}", group.name),
        None => what.to_owned(),
    })
}

/// A group is in use as long as any of its volumes is, whichever disks that is on.
fn no_group_in_use(stack: &Stack<'_>, cow: &BlockDevice, device: &Device) -> Result<()> {
    let Some(group) = lvm::group(device) else {
        return Ok(());
    };
    let uuid = format!("LVM-{}", group.uuid);
    let is_active = stack.tables().any(|table| {
        let of = stack.sysfs().dm_uuid(table.devno);
        of.is_some_and(|of| of.starts_with(&uuid))
    });
    if !is_active {
        return Ok(());
    }
    let (short, node, name) = (cow.short(), cow.node.display(), &group.name);
    let what = format!("{short} is in use: it belongs to the volume group {name}, which is active");
    Err(Failure::new(Kind::Busy, what).hint(format!(
        "take it out of the group first: vgreduce {name} {node}, and pvremove {node}"
    )))
}

/// The origins and snapshots on a COW device; none where there is no store.
fn losses(device: &Device) -> Option<Vec<String>> {
    let read = Store::read(device, |store| {
        let mut losses = Vec::new();
        for row in store.origins()? {
            let id = String::from_utf8_lossy(row.id.as_bytes()).into_owned();
            let tags: Vec<_> = store
                .snapshots(row.number)?
                .iter()
                .filter(|row| row.is_whole())
                .map(|row| row.tag.to_string())
                .collect();
            losses.push(match tags.as_slice() {
                [] => format!("the binding of {id}, which has no snapshots"),
                [tag] => format!("snapshot {tag} of {id}"),
                tags => format!("snapshots {} of {id}", tags.join(", ")),
            });
        }
        Ok(losses)
    });
    match read {
        Ok(losses) => Some(losses),
        Err(Error::Refused(Refusal::NoStore | Refusal::ForeignData)) => None,
        Err(Error::Io { block: 0, .. }) => None,
        Err(e) => Some(vec![format!("a store that cannot be read ({e})")]),
    }
}
