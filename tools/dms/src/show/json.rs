// SPDX-License-Identifier: GPL-2.0
//! Listings and status for programs.

use super::listing::Block;
use super::Shown;
use crate::failure::{Failure, Kind, Result};
use crate::fields::{Cleaning, Part, Rollback};
use crate::list::Row;
use chrono::DateTime;
use serde::Serialize;

#[derive(Serialize)]
struct Origin<'a> {
    #[serde(flatten)]
    device: &'a Shown,
    id: String,
    origin: u32,
    bytes: u64,
}

#[derive(Serialize)]
struct Cow<'a> {
    #[serde(flatten)]
    device: &'a Shown,
    uuid: &'a str,
    state: &'a str,
    chunk_bytes: u64,
    metadata_blocks: Part,
    chunks: Part,
}

#[derive(Serialize)]
struct Version<'a> {
    #[serde(flatten)]
    row: &'a Row,
    created_utc: Option<String>,
    devices: Vec<&'a str>,
}

#[derive(Serialize)]
struct Listed<'a> {
    origin: Origin<'a>,
    cow: Cow<'a>,
    cleaning: Option<Cleaning>,
    rollback: Option<Rollback>,
    versions: Vec<Version<'a>>,
}

/// A time as programs read it.
pub(crate) fn utc(seconds: u64) -> Option<String> {
    let time = DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)?;
    Some(time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Writes blocks of a listing.
pub fn listing(blocks: &[Block], all: bool) -> Result<String> {
    let listed: Vec<_> = blocks
        .iter()
        .map(|block| {
            let store = &block.list.store;
            Listed {
                origin: Origin {
                    device: &block.origin,
                    id: String::from_utf8_lossy(&store.id).into_owned(),
                    origin: store.origin,
                    bytes: store.sectors.saturating_mul(512),
                },
                cow: Cow {
                    device: &block.cow,
                    uuid: &store.uuid,
                    state: &store.state,
                    chunk_bytes: store.chunk_sectors.saturating_mul(512),
                    metadata_blocks: store.metadata_blocks,
                    chunks: store.chunks,
                },
                cleaning: store.cleaning,
                rollback: store.rollback,
                versions: block
                    .rows(all)
                    .map(|row| Version {
                        row,
                        created_utc: utc(row.created),
                        devices: block.names(row.tag),
                    })
                    .collect(),
            }
        })
        .collect();
    text(&listed)
}

/// Writes anything.
pub fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| Failure::new(Kind::Refused, format!("cannot write JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::listing::tests::block;
    use serde_json::Value;

    #[test]
    fn golden() {
        let value: Value = serde_json::from_str(&listing(&[block()], false).unwrap()).unwrap();
        let first = &value[0];
        assert_eq!(first["origin"]["device"], "sdb1");
        assert_eq!(first["origin"]["number"], "8:17");
        assert_eq!(first["origin"]["id"], "/dev/sdb1");
        assert_eq!(first["origin"]["bytes"], 1u64 << 30);
        assert_eq!(first["cow"]["uuid"], "5e6f");
        assert_eq!(first["cow"]["chunk_bytes"], 4096);
        assert_eq!(first["cow"]["chunks"]["used"], 946);
        assert_eq!(first["cleaning"], Value::Null);
        assert_eq!(first["versions"].as_array().unwrap().len(), 3);
        let version = &first["versions"][2];
        assert_eq!(version["tag"], 2);
        assert_eq!(version["parent"], 1);
        assert_eq!(version["memo"], "before the \"big\" day");
        assert_eq!(version["created_utc"], "2010-10-18T13:42:57Z");
        assert_eq!(version["devices"].as_array().unwrap().len(), 0);
        assert_eq!(first["versions"][0]["devices"][0], "orig");
    }
}
