// SPDX-License-Identifier: GPL-2.0
//! `dms repair`

use super::check::{opened, refused, Told};
use super::print;
use crate::cli::Repair;
use crate::failure::{fsck, Failure, Kind, Result};
use crate::show::checked;
use dm_snap_mv_check::{check, plan_for, Options, Plan, Report, Wanted};
use dm_snap_mv_store::Device;
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

pub fn run(args: &Repair) -> Result<u8> {
    repaired(args).map_err(|failure| refused(failure, &args.device, args.json))
}

fn repaired(args: &Repair) -> Result<u8> {
    let open = match args.dry_run {
        true => Device::open_exclusive,
        false => Device::open_for_repair,
    };
    let (path, device, sectors) = opened(&args.device, open)?;
    let aloud = !args.quiet && !args.json;
    let mut told = Told::new(aloud);
    let wanted = Wanted {
        give_up: args.give_up_missing,
        superblock: args.superblock,
    };
    let (report, plan) = plan_for(&device, sectors, wanted, &mut told);
    let shown = told.end(&path, &report)?;
    if aloud {
        print(&checked::summary(&shown))?;
        print(&checked::steps(&path, plan.as_ref(), &report))?;
        if wanted.give_up && plan.is_some() && report.can_be_given_up() {
            print(&format!(
                "{}: what is missing is lost then\n",
                path.display()
            ))?;
        }
    }
    let done = match &plan {
        Some(plan) if !args.dry_run && (args.yes || agreed(&path, aloud)?) => {
            carry_out(plan, &device, &path)?;
            verify(&device, sectors, &path)?;
            true
        }
        _ => false,
    };
    if args.json {
        print(&checked::json(&shown, plan.as_ref(), done)?)?;
    } else if aloud && done {
        print(&format!("{}: repaired\n", path.display()))?;
    }
    Ok(code(&report, done))
}

fn code(report: &Report, done: bool) -> u8 {
    match (report.is_clean(), done) {
        (_, true) => fsck::REPAIRED,
        (true, false) => fsck::CLEAN,
        (false, false) => fsck::ERRORS,
    }
}

/// Asks whether to go on. If nobody can be asked nothing is done, as if the answer were no.
fn agreed(path: &Path, aloud: bool) -> Result<bool> {
    if !io::stdin().is_terminal() {
        if aloud {
            let path = path.display();
            eprintln!(
                "dms: {path}: nobody can be asked whether to repair it\n  with -y it is repaired \
                 without asking, with -n it is only said what would be done"
            );
        }
        return Ok(false);
    }
    // Not among what programs read.
    eprint!("Repair it? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Failure::new(Kind::Refused, format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn carry_out(plan: &Plan, device: &Device, path: &Path) -> Result<()> {
    plan.carry_out(device).map_err(|e| {
        let failure = Failure::new(Kind::Refused, format!("{}: {e}", path.display()));
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::ResourceBusy => {
                failure.hint("nothing has been changed")
            }
            _ => failure.hint("check it again: it is either as it was or repaired"),
        }
    })
}

/// What was repaired must be in order.
fn verify(device: &Device, sectors: u64, path: &Path) -> Result<()> {
    let mut left = Vec::new();
    let report = check(device, sectors, Options::default(), &mut left);
    if report.is_clean() {
        return Ok(());
    }
    let first = left.first().map_or(String::new(), |f| format!(": {f}"));
    Err(Failure::new(
        Kind::Damaged,
        format!(
            "{}: it has been repaired and is not in order{first}",
            path.display()
        ),
    ))
}
