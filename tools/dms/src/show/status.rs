// SPDX-License-Identifier: GPL-2.0
//! The status of devices.

use super::held::Held;
use super::{bytes, Shown};
use crate::fields::Part;
use crate::status::{Own, Status};
use serde::Serialize;
use std::fmt::Write;

/// A device with its status.
#[derive(Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How often it is open.
    pub opened: u32,
    /// Whether it is suspended.
    pub suspended: bool,
    /// The origin device.
    pub origin_device: Shown,
    /// How the store knows the origin.
    pub id: String,
    /// The COW device.
    pub cow_device: Shown,
    /// What happens to origin writes when the COW device is full.
    pub policy: String,
    /// What the target says.
    pub status: Status,
    /// What an origin and its snapshots hold of the COW device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// Writes a device's status, a line for each thing.
pub fn format(device: &Device) -> String {
    let status = &device.status;
    let chunk = status.chunk_sectors.saturating_mul(512);
    let part = |p: Part, unit: &str| format!("{}% ({} of {} {unit})", p.percent(), p.used, p.total);
    let what = match &status.own {
        Own::Origin { .. } => format!("origin {}", status.origin),
        Own::Snapshot { tag, .. } => format!("snapshot {tag} of origin {}", status.origin),
    };
    let open = match (device.suspended, device.opened) {
        (true, _) => "suspended".to_owned(),
        (false, 0) => "not open".to_owned(),
        (false, 1) => "open".to_owned(),
        (false, n) => format!("open {n} times"),
    };
    let mut out = String::new();
    let _ = writeln!(out, "{}: {what}, {}", device.name, status.state);
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "  {label:13} : {value}");
    };
    line("device", format!("{}, {open}", bytes(device.bytes)));
    line(
        "origin-device",
        format!("{}, identity {}", device.origin_device, device.id),
    );
    line("cow-device", device.cow_device.to_string());
    line("chunk-size", bytes(chunk));
    line("used-chunks", part(status.chunks, "chunks"));
    line("used-metadata", part(status.metadata_blocks, "blocks"));
    line("when-full", device.policy.clone());
    match &status.own {
        Own::Origin {
            snapshots,
            bookmarks,
        } => {
            for (label, value) in device.held.iter().flat_map(|held| held.lines(chunk)) {
                line(label, value);
            }
            line("snapshots", snapshots.to_string());
            if *bookmarks > 0 {
                line("bookmarks", bookmarks.to_string());
            }
        }
        Own::Snapshot {
            own_chunks,
            children,
            ..
        } => {
            line(
                "own-chunks",
                format!("{own_chunks} ({})", bytes(own_chunks.saturating_mul(chunk))),
            );
            line("snapshots", children.to_string());
        }
    }
    line(
        "cleaning",
        status.cleaning.map_or_else(
            || "no".to_owned(),
            |c| format!("{}% of the current one, {} left", c.percent, c.left),
        ),
    );
    line(
        "rollbacking",
        status.rollback.map_or_else(
            || "no".to_owned(),
            |r| {
                if let Some(why) = r.stopped.filter(|_| r.is_deferred()) {
                    return format!("to {}, {}", r.tag, why.words());
                }
                let stopped = r.stopped.map_or("", |why| why.words());
                let comma = if stopped.is_empty() { "" } else { "; " };
                format!("to {}, {}{comma}{stopped}", r.tag, part(r.chunks, "chunks"))
            },
        ),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devno::Devno;

    fn device(status: &str) -> Device {
        let shown = |name: &str, minor| Shown {
            name: name.into(),
            devno: Devno { major: 8, minor },
        };
        Device {
            name: "dev".into(),
            bytes: 1 << 30,
            opened: 1,
            suspended: false,
            origin_device: shown("sdb1", 17),
            id: "/dev/sdb1".into(),
            cow_device: shown("sdc1", 33),
            policy: "invalidate".into(),
            status: Status::parse(status.as_bytes()).unwrap(),
            held: None,
        }
    }

    #[test]
    fn golden_origin() {
        assert_eq!(
            format(&device("co 1 valid 12/1024 946/7865817 8 2 - 2:7/10")),
            "\
dev: origin 1, valid
  device        : 1 GiB, open
  origin-device : sdb1 (8:17), identity /dev/sdb1
  cow-device    : sdc1 (8:33)
  chunk-size    : 4 KiB
  used-chunks   : 0% (946 of 7865817 chunks)
  used-metadata : 1% (12 of 1024 blocks)
  when-full     : invalidate
  snapshots     : 2
  cleaning      : no
  rollbacking   : to 2, 70% (7 of 10 chunks)
"
        );
    }

    #[test]
    fn what_an_origin_holds_is_part_of_it() {
        let mut device = device("co 1 valid 12/1024 946/7865817 8 2 - -");
        device.held = Some(Held::of(&[]));
        let text = format(&device);
        let held = "  when-full     : invalidate\n  held-chunks   : 0 (0 KiB)\n";
        assert!(text.contains(held), "{text}");
        let json = crate::show::json::text(&device).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["held"]["preserved"], 0);
    }

    #[test]
    fn golden_snapshot() {
        let text = format(&device("cs 1 7 valid 12/1024 9/100 16 5 1 3:40 -"));
        assert!(text.starts_with("dev: snapshot 7 of origin 1, valid\n"));
        assert!(text.contains("  own-chunks    : 5 (40 KiB)\n"), "{text}");
        assert!(
            text.contains("  cleaning      : 40% of the current one, 3 left\n"),
            "{text}"
        );
    }

    #[test]
    fn json_has_the_fields_flat() {
        let text = crate::show::json::text(&device("cs 1 7 valid 12/1024 9/100 16 5 1 - -"));
        let value: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(value["status"]["role"], "snapshot");
        assert_eq!(value["status"]["tag"], 7);
        assert_eq!(value["cow_device"]["number"], "8:33");
    }
}
