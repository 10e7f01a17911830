// SPDX-License-Identifier: GPL-2.0

//! The log of dm-log-writes, as a tape.
//!
//! All disks are parts of one logged device, so there is one cache. The target logs a write when
//! the flush after it has ended, so a write stands in the log right before that flush, and
//! behind all marks that were made meanwhile.

use anyhow::{bail, ensure, Context, Result};

use crate::content::SECTOR;
use crate::io::Disk;
use crate::tape::{Event, Tape};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// The only cache that there is.
const CACHE: u8 = 0;

/// Reads a log. The target must be gone: with it goes the end of the log to its device.
pub fn read(log: &Disk) -> Result<Tape> {
    let head = log.read(0, 1)?;
    let word = |bytes: &[u8], i: usize| {
        u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8 bytes"))
    };
    ensure!(word(&head, 0) == MAGIC, "no log of dm-log-writes");
    let entries = word(&head, 2);
    ensure!(
        word(&head, 3) as u32 as usize == SECTOR,
        "sectors of the log are {} bytes",
        word(&head, 3) as u32
    );
    let mut tape = Tape::default();
    let mut at = 1;
    for number in 0..entries {
        let entry = log.read(at, 1)?;
        at += 1;
        let (sector, count) = (word(&entry, 0), word(&entry, 1));
        let (flags, text) = (word(&entry, 2), word(&entry, 3) as usize);
        if flags & MARK != 0 {
            let text = entry.get(32..32 + text).context("a mark's text")?;
            let text = std::str::from_utf8(text)?;
            // The target adds one of its own at the end.
            if let Ok(mark) = text.parse() {
                tape.events.push(Event::Mark(mark));
            } else if text != "dm-log-writes-end" {
                bail!("entry {number} is mark {text:?}");
            }
            continue;
        }
        if flags & FLUSH != 0 {
            tape.events.push(Event::Flushed(CACHE));
        }
        if count == 0 {
            continue;
        }
        let write = if flags & DISCARD != 0 {
            tape.zero(sector, count, CACHE)
        } else {
            let bytes = log.read(at, count)?;
            at += count;
            tape.write(sector, &bytes, CACHE)
        };
        if flags & FUA != 0 {
            tape.events.push(Event::Durable(write));
        }
    }
    Ok(tape)
}
