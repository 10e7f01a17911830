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

/// The events right before which a crash leaves something else than such a tape says; `flushes` are
/// those that the test has sent, by the marks before and after them.
///
/// The target files a write under the first flush that is submitted after it. When that flush is the
/// test's, those of the store may be submitted later and be answered before: they make the write
/// durable, and what the store writes in reliance on that is logged, and only then the write.
pub fn uncertain(tape: &Tape, flushes: &[(u32, u32)]) -> Vec<bool> {
    let mut uncertain = vec![false; tape.events.len()];
    let mark = |wanted| {
        let mut events = tape.events.iter();
        events.position(|event| matches!(event, Event::Mark(mark) if *mark == wanted))
    };
    for &(begin, end) in flushes {
        let Some(begin) = mark(begin) else {
            continue;
        };
        let end = mark(end).unwrap_or(tape.events.len());
        let is_flush = |&at: &usize| matches!(tape.events[at], Event::Flushed(_));
        let had_writes = |&at: &usize| matches!(tape.events[at - 1], Event::Write(_));
        let first = (begin..end).find(is_flush);
        let last = (begin + 1..end).rev().filter(had_writes).find(is_flush);
        if let (Some(first), Some(last)) = (first, last) {
            uncertain[first + 1..=last].fill(true);
        }
    }
    uncertain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(events: &[Event]) -> Tape {
        let mut tape = Tape::default();
        tape.events.extend_from_slice(events);
        tape
    }

    fn uncertain_of(events: &[Event], flushes: &[(u32, u32)]) -> Vec<usize> {
        let found = uncertain(&tape(events), flushes).into_iter().enumerate();
        found.filter_map(|(at, it)| it.then_some(at)).collect()
    }

    #[test]
    fn a_flush_that_was_overtaken() {
        use Event::{Durable, Flushed, Mark, Write};
        let events = [
            Write(0),
            Flushed(0),
            Mark(1),
            Flushed(0),
            Write(1),
            Durable(1),
            Write(2),
            Flushed(0),
            Mark(2),
            Write(3),
            Flushed(0),
        ];
        assert_eq!(uncertain_of(&events, &[(1, 2)]), [4, 5, 6, 7]);
        assert_eq!(uncertain_of(&events, &[]), []);
        // Not answered.
        assert_eq!(uncertain_of(&events, &[(1, 9)]), [4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn nothing_was_overtaken() {
        use Event::{Durable, Flushed, Mark, Write};
        let alone = [Mark(1), Write(0), Flushed(0), Mark(2)];
        assert_eq!(uncertain_of(&alone, &[(1, 2)]), []);
        let empty = [
            Mark(1),
            Write(0),
            Flushed(0),
            Write(1),
            Durable(1),
            Flushed(0),
            Mark(2),
        ];
        assert_eq!(uncertain_of(&empty, &[(1, 2)]), []);
    }
}
