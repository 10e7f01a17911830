// SPDX-License-Identifier: GPL-2.0
//! An export in memory, and the client's side of a conversation.
#![allow(dead_code)]

use dm_snap_mv_nbd::wire::{self, allocation, chunk, option};
use dm_snap_mv_nbd::{negotiate, transmit, Export, Extent, Result, Session};
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

/// What is served.
pub struct Memory {
    pub bytes: Vec<u8>,
    pub contexts: Vec<String>,
    /// Of each context, from where on what is said.
    pub marks: Vec<BTreeMap<u64, u32>>,
    /// Where it cannot be read.
    pub bad: Option<u64>,
}

impl Memory {
    /// Of so many bytes, in blocks of 1000 some of which are known to be zeroes, and some of which are
    /// said to be dirty.
    pub fn new(len: usize) -> Self {
        let zero = |at: usize| at / 1000 % 3 == 1;
        let bytes = (0..len).map(|at| if zero(at) { 0 } else { (at % 251) as u8 | 1 });
        let mut marks = vec![BTreeMap::new(), BTreeMap::new()];
        for at in (0..len).step_by(1000) {
            let flags = if zero(at) {
                allocation::HOLE | allocation::ZERO
            } else {
                0
            };
            marks[0].insert(at as u64, flags);
            marks[1].insert(at as u64, u32::from(at % 7000 == 0));
        }
        Self {
            bytes: bytes.collect(),
            contexts: ["base:allocation", "qemu:dirty-bitmap:since-1"]
                .map(String::from)
                .to_vec(),
            marks,
            bad: None,
        }
    }

    /// What a context says of a byte.
    pub fn says(&self, context: usize, at: u64) -> u32 {
        *self.marks[context].range(..=at).next_back().unwrap().1
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn name(&self) -> &str {
        "7"
    }
    fn description(&self) -> &str {
        "seven"
    }
    fn preferred(&self) -> u32 {
        4096
    }
    fn contexts(&self) -> &[String] {
        &self.contexts
    }
    fn extents(&self, context: usize, offset: u64) -> Box<dyn Iterator<Item = Extent> + '_> {
        let mut at = offset;
        Box::new(std::iter::from_fn(move || {
            let marks = &self.marks[context];
            let end = marks
                .range(at + 1..)
                .next()
                .map_or(self.size(), |(end, _)| *end);
            let extent = Extent {
                len: end - at,
                flags: self.says(context, at),
            };
            at = end;
            (extent.len > 0).then_some(extent)
        }))
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert_eq!(into.as_ptr().align_offset(4096), 0);
        assert!(into.len() <= dm_snap_mv_nbd::PIECE);
        let end = offset + into.len() as u64;
        if self.bad.is_some_and(|bad| (offset..end).contains(&bad)) {
            return Err(io::ErrorKind::Other.into());
        }
        into.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }
}

/// What a client says first.
pub fn hello(flags: u32) -> Vec<u8> {
    flags.to_be_bytes().to_vec()
}

/// An option.
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut all = wire::IHAVEOPT.to_be_bytes().to_vec();
    all.extend(option.to_be_bytes());
    all.extend((data.len() as u32).to_be_bytes());
    all.extend(data);
    all
}

pub fn string(text: &str) -> Vec<u8> {
    let mut all = (text.len() as u32).to_be_bytes().to_vec();
    all.extend(text.as_bytes());
    all
}

/// The data of INFO and GO.
pub fn chosen(name: &str, wants: &[u16]) -> Vec<u8> {
    let mut all = string(name);
    all.extend((wants.len() as u16).to_be_bytes());
    wants.iter().for_each(|want| all.extend(want.to_be_bytes()));
    all
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn queries(name: &str, all: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((all.len() as u32).to_be_bytes());
    all.iter().for_each(|query| data.extend(string(query)));
    data
}

pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut all = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    all.extend(flags.to_be_bytes());
    all.extend(command.to_be_bytes());
    all.extend(cookie.to_be_bytes());
    all.extend(offset.to_be_bytes());
    all.extend(len.to_be_bytes());
    all
}

/// Negotiates with whoever says this; and what was answered, behind the greeting.
pub fn negotiated(said: &[u8], export: &dyn Export) -> (Result<Option<Session>>, Vec<Answer>) {
    let mut answered = Vec::new();
    let session = negotiate(&mut &said[..], &mut answered, export);
    assert_eq!(answered[..18], *b"NBDMAGICIHAVEOPT\0\x03");
    (session, Answer::all(&answered[18..]))
}

/// An answer to an option.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Answer {
    fn all(mut bytes: &[u8]) -> Vec<Self> {
        let mut all = Vec::new();
        while bytes.len() >= 20 && bytes[..8] == wire::REPLY_MAGIC.to_be_bytes() {
            let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let len = number(16) as usize;
            let data = bytes[20..20 + len].to_vec();
            all.push(Self {
                option: number(8),
                kind: number(12),
                data,
            });
            bytes = &bytes[20 + len..];
        }
        if !bytes.is_empty() {
            all.push(Self {
                option: option::EXPORT_NAME,
                kind: 0,
                data: bytes.to_vec(),
            });
        }
        all
    }
}

/// Has requests answered, by so many threads.
pub fn transmitted(
    requests: &[u8],
    session: &Session,
    export: &dyn Export,
    threads: usize,
) -> (Result<()>, Vec<u8>) {
    let replies = Mutex::new(Vec::new());
    let to = To(&replies);
    let done = transmit(requests, to, session, export, threads, &|| {});
    (done, replies.into_inner().unwrap())
}

struct To<'a>(&'a Mutex<Vec<u8>>);

impl io::Write for To<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reply, or a chunk of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    /// `None`: it is a simple one.
    pub kind: Option<u16>,
    pub last: bool,
    /// Of a simple one, or of a chunk that is one.
    pub error: u32,
    pub data: Vec<u8>,
}

impl Reply {
    /// Takes replies apart, where `lens` tells how many bytes a simple one without an error brings.
    pub fn all(mut bytes: &[u8], lens: &dyn Fn(u64) -> usize) -> Vec<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
            let (reply, len) = match u32_at(0) {
                wire::SIMPLE_MAGIC => {
                    let (error, cookie) = (u32_at(4), u64_at(8));
                    let end = 16 + if error == 0 { lens(cookie) } else { 0 };
                    let data = bytes[16..end].to_vec();
                    (
                        Self {
                            cookie,
                            kind: None,
                            last: true,
                            error,
                            data,
                        },
                        end,
                    )
                }
                wire::STRUCTURED_MAGIC => {
                    let (flags, kind) = (u32_at(4) >> 16, u32_at(4) as u16);
                    let end = 20 + u32_at(16) as usize;
                    let data = bytes[20..end].to_vec();
                    let error = if kind & 0x8000 != 0 { u32_at(20) } else { 0 };
                    let last = flags == u32::from(chunk::DONE);
                    assert!(last || flags == 0);
                    (
                        Self {
                            cookie: u64_at(8),
                            kind: Some(kind),
                            last,
                            error,
                            data,
                        },
                        end,
                    )
                }
                magic => panic!("{magic:x}"),
            };
            all.push(reply);
            bytes = &bytes[len..];
        }
        all
    }
}
