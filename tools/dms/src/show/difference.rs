// SPDX-License-Identifier: GPL-2.0
//! What differs between two versions, in each of the forms in which that is written.

use super::bytes;
use dm_snap_mv_store::delta::Sizes;
use dm_snap_mv_store::Changed;
use serde::Serialize;
use std::io::{self, Write};

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ranges for people, in bytes or in sectors, and a total.
    Text {
        /// In sectors of 512 bytes.
        sectors: bool,
    },
    /// An object in each line.
    Json,
    /// A bit for each chunk.
    Bitmap,
    /// Ranges without gaps.
    BorgMap,
    /// How much, in words.
    Count,
    /// The same as an object.
    JsonCount,
}

/// What is said before the first range.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The UUID of the store.
    pub store: String,
    /// The identity of the origin.
    pub origin: String,
    /// Its number in the store.
    pub origin_number: u32,
    /// The tag of the older version; 0 is the origin as it is.
    pub old: u32,
    /// Of the newer one.
    pub new: u32,
    /// The size of the older one.
    pub old_bytes: u64,
    /// Of the newer one.
    pub new_bytes: u64,
    /// Of a chunk.
    pub chunk_bytes: u64,
}

#[derive(Clone, Copy, Serialize)]
struct Range {
    start: u64,
    bytes: u64,
    content: &'static str,
}

/// How much differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// Ranges.
    pub ranges: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Those of them that are zeroes in the newer version.
    pub zero_bytes: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'l> {
    Diff(&'l Head),
    Range(Range),
    End {
        #[serde(flatten)]
        total: Total,
        transactions: [u64; 2],
    },
    Count {
        #[serde(flatten)]
        head: &'l Head,
        #[serde(flatten)]
        total: Total,
        transactions: [u64; 2],
    },
}

/// Writes a difference in one form.
pub struct Writer<'o> {
    form: Form,
    head: Head,
    sizes: Sizes,
    out: &'o mut dyn Write,
    total: Total,
    /// In a map, what is before has been written; in bytes. In a bitmap: in chunks.
    at: u64,
    /// The byte of a bitmap that is not full yet.
    bits: u8,
}

impl<'o> Writer<'o> {
    /// Begins to write to `out`.
    pub fn begin(form: Form, head: Head, sizes: Sizes, out: &'o mut dyn Write) -> io::Result<Self> {
        match form {
            Form::Text { .. } => writeln!(out, "{:>18} {:>18}  CONTENT", "START", "LENGTH")?,
            Form::Json => json(out, &Line::Diff(&head))?,
            _ => {}
        }
        Ok(Self {
            form,
            head,
            sizes,
            out,
            total: Total::default(),
            at: 0,
            bits: 0,
        })
    }

    /// Writes a range.
    pub fn range(&mut self, changed: &Changed) -> io::Result<()> {
        let (start, len) = self.sizes.sectors(changed);
        let range = Range {
            start: start.saturating_mul(512),
            bytes: len.saturating_mul(512),
            content: if changed.zero { "zero" } else { "data" },
        };
        self.total.ranges += 1;
        self.total.bytes = self.total.bytes.saturating_add(range.bytes);
        if changed.zero {
            self.total.zero_bytes = self.total.zero_bytes.saturating_add(range.bytes);
        }
        match self.form {
            Form::Text { sectors: true } => {
                writeln!(self.out, "{start:>18} {len:>18}  {}", range.content)
            }
            Form::Text { sectors: false } => {
                let Range {
                    start,
                    bytes,
                    content,
                } = range;
                writeln!(self.out, "{start:>18} {bytes:>18}  {content}")
            }
            Form::Json => json(self.out, &Line::Range(range)),
            Form::Bitmap => {
                self.bits(changed.first, false)?;
                self.bits(changed.first.saturating_add(changed.len), true)
            }
            Form::BorgMap => {
                self.same_to(range.start)?;
                self.at = range.start.saturating_add(range.bytes);
                writeln!(
                    self.out,
                    "{} {} {}",
                    range.start, range.bytes, range.content
                )
            }
            Form::Count | Form::JsonCount => Ok(()),
        }
    }

    /// In a map, writes that all is the same up to there.
    fn same_to(&mut self, end: u64) -> io::Result<()> {
        match end.checked_sub(self.at) {
            None | Some(0) => Ok(()),
            Some(len) => writeln!(self.out, "{} {len} same", self.at),
        }
    }

    /// In a bitmap, writes the bits of the chunks up to there.
    fn bits(&mut self, end: u64, set: bool) -> io::Result<()> {
        while self.at < end {
            if self.at % 8 == 0 && end - self.at >= 8 {
                let full = [if set { 0xff } else { 0 }; 4096];
                let many = ((end - self.at) / 8).min(full.len() as u64);
                self.out
                    .write_all(full.get(..many as usize).unwrap_or(&full))?;
                self.at += many * 8;
                continue;
            }
            self.bits |= u8::from(set) << (self.at % 8);
            self.at += 1;
            if self.at % 8 == 0 {
                self.out.write_all(&[std::mem::take(&mut self.bits)])?;
            }
        }
        Ok(())
    }

    /// Writes what comes behind the last range. Whoever does not find it there has not got all.
    /// `transactions`: the first and the last one that was looked at.
    pub fn end(mut self, transactions: [u64; 2]) -> io::Result<Total> {
        let total = self.total;
        match self.form {
            Form::Text { .. } => {
                let ranges = if total.ranges == 1 { "range" } else { "ranges" };
                let zero = match total.zero_bytes {
                    0 => String::new(),
                    zero => format!(", {} of it zeroes", bytes(zero)),
                };
                writeln!(
                    self.out,
                    "{} {ranges}: {} of {} differ{zero}",
                    total.ranges,
                    bytes(total.bytes),
                    bytes(self.head.new_bytes)
                )?;
            }
            Form::Json => json(
                self.out,
                &Line::End {
                    total,
                    transactions,
                },
            )?,
            Form::Bitmap => {
                let end = self.head.new_bytes.div_ceil(self.head.chunk_bytes.max(1));
                self.bits(end, false)?;
                if self.at % 8 != 0 {
                    self.out.write_all(&[self.bits])?;
                }
            }
            Form::BorgMap => self.same_to(self.head.new_bytes)?,
            Form::Count => {
                writeln!(self.out, "ranges {}", total.ranges)?;
                writeln!(self.out, "bytes {}", total.bytes)?;
                writeln!(self.out, "zero-bytes {}", total.zero_bytes)?;
                writeln!(self.out, "of-bytes {}", self.head.new_bytes)?;
            }
            Form::JsonCount => {
                let head = &self.head;
                json(
                    self.out,
                    &Line::Count {
                        head,
                        total,
                        transactions,
                    },
                )?;
            }
        }
        self.out.flush()?;
        Ok(total)
    }
}

fn json(out: &mut dyn Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_snap_mv_model::chunk_size::ChunkSize;

    /// Of versions with 25 chunks and a half.
    fn written(form: Form, ranges: &[(u64, u64, bool)]) -> Vec<u8> {
        let sizes = Sizes {
            old: 25 * 8,
            new: 25 * 8 + 4,
            chunk: ChunkSize::from_pages(1).unwrap(),
        };
        let head = Head {
            store: "5e6f".to_owned(),
            origin: "/dev/sdb1".to_owned(),
            origin_number: 1,
            old: 1,
            new: 0,
            old_bytes: sizes.old * 512,
            new_bytes: sizes.new * 512,
            chunk_bytes: 4096,
        };
        let mut out = Vec::new();
        let mut writer = Writer::begin(form, head, sizes, &mut out).unwrap();
        for &(first, len, zero) in ranges {
            writer.range(&Changed { first, len, zero }).unwrap();
        }
        writer.end([5, 7]).unwrap();
        out
    }

    const RANGES: [(u64, u64, bool); 3] = [(1, 2, false), (3, 17, true), (25, 1, false)];

    fn text(form: Form) -> String {
        String::from_utf8(written(form, &RANGES)).unwrap()
    }

    #[test]
    fn for_people() {
        let lines = |sectors| {
            let text = text(Form::Text { sectors });
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(words).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(false),
            [
                "START LENGTH CONTENT",
                "4096 8192 data",
                "12288 69632 zero",
                "102400 2048 data",
                "3 ranges: 78 KiB of 102 KiB differ, 68 KiB of it zeroes",
            ]
        );
        assert_eq!(lines(true)[1..3], ["8 16 data", "24 136 zero"]);
        let none = String::from_utf8(written(Form::Text { sectors: false }, &[])).unwrap();
        assert!(none.ends_with("0 ranges: 0 KiB of 102 KiB differ\n"));
    }

    #[test]
    fn a_map_has_no_gaps() {
        assert_eq!(
            text(Form::BorgMap),
            "0 4096 same\n4096 8192 data\n12288 69632 zero\n81920 20480 same\n102400 2048 data\n"
        );
        let none = String::from_utf8(written(Form::BorgMap, &[])).unwrap();
        assert_eq!(none, "0 104448 same\n");
    }

    #[test]
    fn a_bit_for_each_chunk() {
        assert_eq!(
            written(Form::Bitmap, &RANGES),
            [0b1111_1110, 0xff, 0b0000_1111, 0b10]
        );
        assert_eq!(written(Form::Bitmap, &[(8, 8, false)]), [0, 0xff, 0, 0]);
        assert_eq!(written(Form::Bitmap, &[]), [0; 4]);
    }

    #[test]
    fn for_programs() {
        let json = text(Form::Json);
        let lines: Vec<serde_json::Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0]["kind"], "diff");
        assert_eq!((&lines[0]["old"], &lines[0]["new"]), (&1.into(), &0.into()));
        assert_eq!(lines[2]["kind"], "range");
        assert_eq!(lines[2]["start"], 12288);
        assert_eq!(lines[2]["content"], "zero");
        assert_eq!(lines[4]["kind"], "end");
        assert_eq!(lines[4]["ranges"], 3);
        assert_eq!(lines[4]["bytes"], 79872);
        assert_eq!(lines[4]["transactions"][1], 7);
        let count: serde_json::Value = serde_json::from_str(&text(Form::JsonCount)).unwrap();
        assert_eq!(count["kind"], "count");
        assert_eq!(count["new_bytes"], 104_448);
        assert_eq!(count["zero_bytes"], 69_632);
        assert_eq!(
            text(Form::Count),
            "ranges 3\nbytes 79872\nzero-bytes 69632\nof-bytes 104448\n"
        );
    }
}
