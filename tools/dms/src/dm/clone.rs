// SPDX-License-Identifier: GPL-2.0
//! Devices of dm-clone: one device shows what another one holds, and becomes that in the background.

use super::{kmsg, modprobe, raw, refused, Dm, Target};
use crate::devno::Devno;
use crate::failure::{Failure, Kind, Result};
use nix::errno::Errno;
use std::fs::File;

const TARGET: &[u8] = b"clone";
const MODULE: &str = "dm-clone";

/// Sectors that are fetched by one request; dm-clone has a region in each by itself.
const BATCH: u64 = 2048;
/// Such requests at once.
const DEPTH: u64 = 4;

/// Its devices, and the size of what it fetches at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it notes which regions it has.
    pub metadata: Devno,
    /// What becomes a copy.
    pub onto: Devno,
    /// What is copied.
    pub source: Devno,
    /// Sectors of a region: a power of two from 8 on.
    pub region: u64,
}

impl Line {
    /// The line of a table. Nothing is fetched by itself until [`Dm::hydrate`], and what is discarded on the
    /// device is not discarded on what becomes the copy.
    fn params(&self) -> String {
        let batch = (BATCH / self.region.max(1)).max(1);
        format!(
            "{} {} {} {} 2 no_hydration no_discard_passdown 4 hydration_threshold {} hydration_batch_size {batch}",
            self.metadata,
            self.onto,
            self.source,
            self.region,
            batch * DEPTH
        )
    }

    fn parse(params: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(params).ok()?;
        let mut words = text.split(' ');
        Some(Self {
            metadata: words.next()?.parse().ok()?,
            onto: words.next()?.parse().ok()?,
            source: words.next()?.parse().ok()?,
            region: words.next()?.parse().ok()?,
        })
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Regions that are on what becomes the copy.
    pub hydrated: u64,
    /// All regions.
    pub regions: u64,
    /// It can note what it does; otherwise it never comes to an end.
    pub writable: bool,
}

impl Status {
    fn parse(params: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(params).ok()?;
        let mut words = text.split_ascii_whitespace();
        let (hydrated, regions) = words.nth(3)?.split_once('/')?;
        Some(Self {
            hydrated: hydrated.parse().ok()?,
            regions: regions.parse().ok()?,
            writable: words.last()? == "rw",
        })
    }
}

/// What a device is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// A clone.
    Clone(Line),
    /// This device, from its beginning on.
    Linear(Devno),
    /// Made, and of no use yet.
    Nothing,
    /// Something else.
    Other,
}

impl Dm {
    /// Sees to it that the kernel knows dm-clone.
    pub fn need_clone(&self) -> Result<()> {
        let known = || {
            let all = raw::target_types(&self.control).unwrap_or_default();
            all.iter().any(|name| name.as_bytes() == TARGET)
        };
        if !known() {
            modprobe(MODULE);
        }
        match known() {
            true => Ok(()),
            false => Err(
                Failure::new(Kind::Unable, "the kernel has no dm-clone target")
                    .hint("load its module: modprobe dm-clone; or leave out --instant"),
            ),
        }
    }

    /// What the device `name` is, and its number. None: there is none.
    pub fn what(&self, name: &str) -> Result<Option<(Devno, Is)>> {
        let (devno, lines) = match raw::lines(&self.control, name, raw::Ask::Table) {
            Err(Errno::ENXIO) => return Ok(None),
            other => other.map_err(|e| refused(&format!("look at {name}"), e))?,
        };
        let is = match lines.as_slice() {
            [] => Some(Is::Nothing),
            [line] if line.kind == TARGET => Line::parse(&line.params).map(Is::Clone),
            [line] if line.kind == b"linear" => linear(&line.params).map(Is::Linear),
            _ => None,
        };
        Ok(Some((devno, is.unwrap_or(Is::Other))))
    }

    /// Gives a device the table of a clone, which is used when it is resumed. If the metadata device has none
    /// yet, it is made.
    pub fn load_clone(&self, name: &str, sectors: u64, line: &Line) -> Result<Devno> {
        self.load_any(name, sectors, TARGET, line.params())
    }

    /// Gives a device the table of another one, from its beginning on; used when it is resumed.
    pub fn load_linear(&self, name: &str, sectors: u64, onto: Devno) -> Result<Devno> {
        self.load_any(name, sectors, b"linear", format!("{onto} 0"))
    }

    fn load_any(&self, name: &str, sectors: u64, kind: &[u8], params: String) -> Result<Devno> {
        let target = Target {
            start: 0,
            sectors,
            kind: kind.to_vec(),
            params: params.into_bytes(),
        };
        let log = kmsg::Log::mark();
        raw::load(&self.control, name, &target).map_err(|e| {
            let kind = String::from_utf8_lossy(kind);
            let failure = refused(&format!("load the table of {name}"), e);
            let info = self.info(name).ok();
            let told = info.and_then(|info| kmsg::table_refused(&log.since(), info.devno, &kind));
            match told {
                Some(reason) => failure.hint(format!("{kind}: {}", reason.text)),
                None => failure,
            }
        })
    }

    /// How far a clone is; `None` while it has failed altogether.
    pub fn clone_status(&self, name: &str) -> Result<Option<Status>> {
        Ok(Status::parse(&self.status(name)?))
    }

    /// Has a clone fetch in the background. It may do so already.
    pub fn hydrate(&self, name: &str) -> Result<()> {
        raw::message(&self.control, name, b"enable_hydration")
            .map(drop)
            .map_err(|e| refused(&format!("send a message to {name}"), e))
    }
}

/// Has a clone take what its sectors are for what it is to hold already, as far as whole regions go.
pub fn take_as_is(clone: &File, start: u64, sectors: u64) -> Result<()> {
    raw::discard(clone, start * 512, sectors * 512)
        .map_err(|e| refused("mark what does not differ", e))
}

fn linear(params: &[u8]) -> Option<Devno> {
    let text = std::str::from_utf8(params).ok()?;
    text.strip_suffix(" 0")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_there_and_back() {
        let dev = |text: &str| text.parse::<Devno>().unwrap();
        let line = Line {
            metadata: dev("7:0"),
            onto: dev("8:16"),
            source: dev("253:2"),
            region: 8,
        };
        let text = "7:0 8:16 253:2 8 2 no_hydration no_discard_passdown \
                    4 hydration_threshold 1024 hydration_batch_size 256";
        assert_eq!(line.params(), text);
        assert_eq!(Line::parse(text.as_bytes()), Some(line));
        let large = Line {
            region: 4096,
            ..line
        };
        assert!(large
            .params()
            .ends_with("hydration_threshold 4 hydration_batch_size 1"));
        assert_eq!(Line::parse(b"7:0 8:16"), None);
        assert_eq!(linear(b"8:16 0"), Some(dev("8:16")));
        assert_eq!(linear(b"8:16 8"), None);
    }

    #[test]
    fn how_far_it_is() {
        let text = b"8 77/4096 8 1024/2048 0 1 no_discard_passdown 4 hydration_threshold 1 \
                     hydration_batch_size 1 rw";
        let status = Status {
            hydrated: 1024,
            regions: 2048,
            writable: true,
        };
        assert_eq!(Status::parse(text), Some(status));
        assert_eq!(Status::parse(b"Fail"), None);
    }
}
