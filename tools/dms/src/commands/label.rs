// SPDX-License-Identifier: GPL-2.0
//! `dms label`

use super::{print, tag};
use crate::cli::Label as Args;
use crate::dm::Dm;
use crate::failure::{Failure, Kind, Result};
use crate::hints;
use crate::label::{self, Label};
use crate::show::json;
use crate::show::listing::local_time;
use dm_snap_mv_model::refusal::Refusal;
use std::fmt::Write;

pub fn run(args: &Args) -> Result<()> {
    let tag = tag(&args.tag)?;
    let changes = label::words(&args.fields)?;
    let dm = Dm::open()?;
    let device = dm.find(&args.dm_dev)?;
    if changes.is_empty() {
        let label = Label::of(&dm, &device, tag)?;
        let label = label.ok_or_else(|| {
            let what = format!("cannot show the label of {tag} of {}", device.name);
            let failure = hints::failure(Refusal::NoLabel);
            Failure::new(Kind::NotFound, failure.what).context(what)
        })?;
        return print(&match args.json {
            true => json::text(&label)?,
            false => text(&label),
        });
    }
    let number = tag.to_string();
    let mut words: Vec<&[u8]> = vec![b"label", number.as_bytes()];
    words.extend(changes.iter().map(Vec::as_slice));
    let reply = dm.tell(&device.name, &words)?;
    reply.done(&format!(
        "cannot change the label of {tag} of {}",
        device.name
    ))?;
    Ok(())
}

fn text(label: &Label) -> String {
    let until = label.keep_until.map(local_time);
    let fields = [
        ("uuid", Some(&label.uuid)),
        ("name", label.name.as_ref()),
        ("policy", label.policy.as_ref()),
        ("keep-until", until.as_ref()),
        ("consistency", Some(&label.consistency)),
        ("group", label.group.as_ref()),
        ("from", label.from.as_ref()),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:11} : {value}");
        }
    }
    text
}
