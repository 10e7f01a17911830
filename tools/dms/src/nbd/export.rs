// SPDX-License-Identifier: GPL-2.0
//! A snapshot that is served.

use crate::ranges::Ranges;
use dm_snap_mv_nbd::wire::{allocation, DIRTY};
use dm_snap_mv_nbd::{Export, Extent};
use dm_snap_mv_stream::Piece;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// What is read directly begins, ends, and is put into memory at multiples of: the largest logical block that
/// there is.
const ALIGN: usize = 4096;

/// What requests may best be multiples of, at least and at most, whatever the chunk is.
const PREFERRED: (u32, u32) = (4096, 1 << 20);

/// A snapshot.
pub struct Snapshot {
    file: Arc<File>,
    bytes: u64,
    name: String,
    description: String,
    preferred: u32,
    contexts: Vec<String>,
    /// What each of the contexts tells apart from the rest, and how.
    marked: Vec<(Ranges, u32)>,
}

impl Snapshot {
    /// One that is read by direct I/O from `file`, of so many bytes, with what of it is known to be zeroes.
    /// `chunk`: bytes.
    pub fn new(file: Arc<File>, bytes: u64, chunk: u64, zeroes: Ranges) -> Self {
        let (least, most) = PREFERRED;
        let chunk = u32::try_from(chunk).unwrap_or(most).clamp(least, most);
        Self {
            file,
            bytes,
            name: String::new(),
            description: String::new(),
            preferred: chunk,
            contexts: vec!["base:allocation".to_owned()],
            marked: vec![(zeroes, allocation::HOLE | allocation::ZERO)],
        }
    }

    /// Calls it something, and says what it is.
    pub fn called(mut self, name: String, description: String) -> Self {
        self.name = name;
        self.description = description;
        self
    }

    /// Adds what has changed since another version.
    pub fn since(mut self, tag: u32, changed: Ranges) -> Self {
        self.contexts.push(format!("qemu:dirty-bitmap:since-{tag}"));
        self.marked.push((changed, DIRTY));
        self
    }

    /// Reads what begins or ends within a block.
    fn read_part(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let block = ALIGN as u64;
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let end = offset.saturating_add(into.len() as u64);
        let first = offset / block * block;
        let end = end.div_ceil(block).saturating_mul(block).min(self.bytes);
        let len = end.checked_sub(first).ok_or_else(invalid)? as usize;
        let mut memory = vec![0; len + ALIGN];
        let aligned = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        let blocks = memory.get_mut(aligned..aligned + len);
        let blocks = blocks.ok_or_else(invalid)?;
        self.file.read_exact_at(blocks, first)?;
        let from = (offset - first) as usize;
        let wanted = blocks.get(from..from.saturating_add(into.len()));
        into.copy_from_slice(wanted.ok_or_else(invalid)?);
        Ok(())
    }
}

impl Export for Snapshot {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn preferred(&self) -> u32 {
        self.preferred
    }

    fn contexts(&self) -> &[String] {
        &self.contexts
    }

    fn extents(&self, context: usize, offset: u64) -> Box<dyn Iterator<Item = Extent> + '_> {
        match self.marked.get(context) {
            Some((ranges, flags)) => {
                let pieces = ranges.iter_from(offset / SECTOR);
                Box::new(extents(pieces, *flags, offset, self.bytes))
            }
            None => Box::new(std::iter::empty()),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let block = ALIGN as u64;
        let end = offset.saturating_add(into.len() as u64);
        let whole = offset % block == 0 && (end % block == 0 || end == self.bytes);
        match whole && into.as_ptr().align_offset(ALIGN) == 0 {
            true => self.file.read_exact_at(into, offset),
            false => self.read_part(offset, into),
        }
    }
}

/// Extents from a byte on up to another, with flags where there are pieces.
fn extents(
    pieces: impl Iterator<Item = Piece>,
    flags: u32,
    from: u64,
    end: u64,
) -> impl Iterator<Item = Extent> {
    let mut pieces = pieces.peekable();
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let bytes = |sector: u64| sector.saturating_mul(SECTOR);
        let (upto, flags) = match pieces.peek() {
            None => (end, 0),
            Some(piece) if bytes(piece.start) > at => (bytes(piece.start), 0),
            Some(piece) => {
                let upto = bytes(piece.start.saturating_add(piece.sectors));
                pieces.next();
                (upto, flags)
            }
        };
        let len = upto.min(end).saturating_sub(at);
        at += len;
        Some(Extent { len, flags })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn ranges(all: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(start, sectors) in all {
            ranges.push(Piece {
                start,
                sectors,
                zero: true,
            });
        }
        ranges
    }

    fn snapshot(zeroes: &[(u64, u64)], bytes: &[u8]) -> Snapshot {
        let name = std::thread::current().name().unwrap().replace(':', "-");
        let path = std::env::temp_dir().join(format!("dms-nbd-{}-{name}", std::process::id()));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        Snapshot::new(file, bytes.len() as u64, 4096, ranges(zeroes))
    }

    #[test]
    fn what_is_between() {
        let snapshot = snapshot(&[(0, 8), (16, 8), (24, 4)], &[0; 16384]);
        let snapshot = snapshot.since(3, ranges(&[(8, 4), (30, 2)]));
        assert_eq!(snapshot.contexts[1], "qemu:dirty-bitmap:since-3");
        let of = |context, offset| -> Vec<_> {
            let all = snapshot.extents(context, offset);
            all.map(|extent| (extent.len, extent.flags)).collect()
        };
        let (zero, data) = (3, 0);
        let all = [
            (4096, zero),
            (4096, data),
            (4096, zero),
            (2048, zero),
            (2048, data),
        ];
        assert_eq!(of(0, 0), all);
        assert_eq!(of(0, 4095), [&[(1, zero)], &all[1..]].concat());
        assert_eq!(of(0, 14335), [(1, zero), (2048, data)]);
        assert_eq!(of(0, 16384), []);
        let dirty = [(4096, 0), (2048, DIRTY), (9216, 0), (1024, DIRTY)];
        assert_eq!(of(1, 0), dirty);
        assert_eq!(of(2, 0), []);
    }

    #[test]
    fn reads_that_begin_and_end_anywhere() {
        let bytes: Vec<u8> = (0..20_480 + 512).map(|n| (n % 251) as u8).collect();
        let snapshot = snapshot(&[], &bytes);
        for from in [0, 1, 511, 4095, 4096, 8192, 20_479, 20_480, 20_991] {
            for len in [0, 1, 512, 4096, 5000, bytes.len() - from] {
                let len = len.min(bytes.len() - from);
                let mut memory = vec![0xee; len];
                snapshot.read(from as u64, &mut memory).unwrap();
                assert_eq!(memory, bytes[from..from + len], "{from} {len}");
            }
        }
        assert!(snapshot.read(20_992, &mut [0; 1]).is_err());
    }
}
