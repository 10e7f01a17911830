// SPDX-License-Identifier: GPL-2.0
//! Versions of a device as bytes in memory, and streams of them.
#![allow(dead_code)]

pub mod sim;

use dm_snap_mv_stream::frame::{Header, HEADER, SECTOR};
use dm_snap_mv_stream::source::count;
use dm_snap_mv_stream::{send, Begin, Decoder, Encoder, Error, Event, Options, Piece};
use dm_snap_mv_stream::{Position, Source, Version};
use std::io;

pub const S: usize = SECTOR as usize;

/// Marsaglia's xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }

    pub fn flip(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// The content of a device.
pub type Disk = Vec<u8>;

/// Fills a sector with zeroes, with something that can be compressed, or with something that cannot.
fn fill(random: &mut Random, sector: &mut [u8]) {
    let byte = random.below(256) as u8;
    match random.below(4) {
        0 => sector.fill(0),
        1 => sector.fill(byte),
        _ => sector.fill_with(|| random.below(256) as u8),
    }
}

pub fn disk(random: &mut Random, sectors: u64) -> Disk {
    let mut disk = vec![0; sectors as usize * S];
    let mut sectors = disk.chunks_mut(S);
    while let Some(sector) = sectors.next() {
        fill(random, sector);
        for more in sectors.by_ref().take(random.below(6) as usize) {
            fill(random, more);
        }
    }
    disk
}

/// Another version, of `sectors` sectors, and pieces that say in what it differs.
pub fn change(random: &mut Random, old: &Disk, sectors: u64) -> (Disk, Vec<Piece>) {
    let old_sectors = (old.len() / S) as u64;
    let mut new = old.clone();
    new.resize(sectors as usize * S, 0);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < sectors {
        // Behind the end of the old one nothing is left out.
        if at < old_sectors {
            at = (at + random.below(40)).min(old_sectors);
        }
        let many = (1 + random.below(20)).min(sectors - at.min(sectors));
        if many == 0 {
            break;
        }
        let zero = random.below(4) == 0;
        for sector in new[at as usize * S..][..many as usize * S].chunks_mut(S) {
            match zero {
                true => sector.fill(0),
                false => fill(random, sector),
            }
        }
        pieces.push(Piece {
            start: at,
            sectors: many,
            zero,
        });
        at += many;
    }
    (new, pieces)
}

/// All of a device.
pub fn whole(disk: &Disk) -> Vec<Piece> {
    vec![Piece {
        start: 0,
        sectors: (disk.len() / S) as u64,
        zero: false,
    }]
}

pub fn version(tag: u32) -> Version {
    Version {
        tag,
        ..Version::default()
    }
}

/// What a segment is of.
pub fn begin(from: Option<(u32, &Disk)>, to: (u32, &Disk), pieces: &[Piece]) -> Begin {
    let counts = count(pieces.iter().copied().map(Ok), 8).unwrap();
    Begin {
        size: (to.1.len() / S) as u64,
        from_size: from.map_or(0, |(_, disk)| (disk.len() / S) as u64),
        chunk: 8,
        store: [7; 16],
        origin: 1,
        identity: b"/dev/orig".to_vec(),
        to: version(to.0),
        from: from.map(|(tag, _)| version(tag)),
        ..Begin::default()
    }
    .with_counts(&counts)
}

struct Read<'a>(&'a Disk);

impl Source for Read<'_> {
    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.0[start as usize * S..][..into.len()]);
        Ok(())
    }
}

/// With a mark at least every few sectors.
pub const SMALL: Options = Options {
    level: 1,
    mark_every: 4096,
    frame: 4096,
};

/// A segment.
#[derive(Clone)]
pub struct Segment {
    pub begin: Begin,
    pub pieces: Vec<Piece>,
    pub disk: Disk,
}

pub fn full(tag: u32, disk: &Disk) -> Segment {
    let pieces = whole(disk);
    Segment {
        begin: begin(None, (tag, disk), &pieces),
        pieces,
        disk: disk.clone(),
    }
}

pub fn delta(from: (u32, &Disk), to: (u32, &Disk), pieces: Vec<Piece>) -> Segment {
    Segment {
        begin: begin(Some(from), to, &pieces),
        pieces,
        disk: to.1.clone(),
    }
}

pub fn write(
    encoder: &mut Encoder<&mut Vec<u8>>,
    segment: &Segment,
    from: Option<&Position>,
) -> Result<(), Error> {
    let pieces = segment.pieces.iter().copied().map(Ok);
    let source = &mut Read(&segment.disk);
    send(encoder, &segment.begin, from, pieces, source, &mut |_| {}).map(drop)
}

/// A stream of these segments, the first one from a position on.
pub fn resumed(segments: &[Segment], from: Option<&Position>, options: Options) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, options).unwrap();
    for (nr, segment) in segments.iter().enumerate() {
        write(&mut encoder, segment, from.filter(|_| nr == 0)).unwrap();
    }
    encoder.finish().unwrap();
    bytes
}

pub fn stream(segments: &[Segment]) -> Vec<u8> {
    resumed(segments, None, SMALL)
}

/// What an event says, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Data(u64, Vec<u8>),
    Zero(u64, u64),
    Mark(Position),
    End,
    Last,
    Other(String),
}

/// All that a stream says, and how it ended.
pub fn said(bytes: &[u8]) -> (Vec<Said>, Result<(), Error>) {
    let mut decoder = Decoder::new(bytes).unwrap();
    let mut all = Vec::new();
    loop {
        all.push(match decoder.event() {
            Ok(Event::Data(start, bytes)) => Said::Data(start, bytes.to_vec()),
            Ok(Event::Zero(start, sectors)) => Said::Zero(start, sectors),
            Ok(Event::Mark(position)) => Said::Mark(position),
            Ok(Event::End(_)) => Said::End,
            Ok(Event::Last(_)) => {
                all.push(Said::Last);
                return (all, Ok(()));
            }
            Ok(other) => Said::Other(format!("{other:?}")),
            Err(error) => return (all, Err(error)),
        });
    }
}

/// Makes a device what a stream says.
pub fn apply(bytes: &[u8], disk: &mut Disk) {
    let mut decoder = Decoder::new(bytes).unwrap();
    let mut size = 0;
    loop {
        match decoder.event().unwrap() {
            Event::Begin(begun) | Event::Resume(begun, _) => {
                size = begun.begin.size as usize * S;
                disk.resize(size.max(disk.len()), 0);
            }
            Event::Data(start, bytes) => {
                disk[start as usize * S..][..bytes.len()].copy_from_slice(bytes);
            }
            Event::Zero(start, sectors) => {
                disk[start as usize * S..][..sectors as usize * S].fill(0);
            }
            Event::End(_) => disk.truncate(size),
            Event::Mark(_) | Event::Optional(..) => {}
            Event::Last(_) => return,
        }
    }
}

/// A frame as it stands in a stream, taken apart without looking at checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// With checksums that are right, as the frame with this number.
    pub fn sealed(mut header: Header, payload: &[u8], number: u64) -> Vec<u8> {
        header.len = payload.len() as u32;
        header.sum = crc32c::crc32c(payload);
        [&header.encode(number)[..], payload].concat()
    }
}

pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = bytes[..HEADER].try_into().unwrap();
        let number = frames.len() as u64;
        let header = Header::decode(number, header).unwrap();
        let (frame, rest) = bytes.split_at(HEADER + header.len as usize);
        frames.push(Frame {
            header,
            bytes: frame.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// Puts frames together again, with numbers and checksums that are right.
pub fn join(frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let sealed = frames
        .iter()
        .enumerate()
        .map(|(nr, (header, payload))| Frame::sealed(*header, payload, nr as u64));
    sealed.flatten().collect()
}
