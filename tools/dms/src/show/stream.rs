// SPDX-License-Identifier: GPL-2.0
//! What is in a stream, and what a target is noted to hold.

use super::json::{self, utc};
use crate::failure::Result;
use dm_snap_mv_model::uuid::Uuid;
use dm_snap_mv_stream::receive::{Local, State, Whole};
use dm_snap_mv_stream::{Begin, Content, Counts, Ended, Position, Version};
use serde::Serialize;
use std::fmt::Write;

/// Bytes as digits, two for each.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A UUID in its usual form.
pub fn uuid(uuid: &[u8; 16]) -> String {
    Uuid(uuid).to_string()
}

fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(512)
}

#[derive(Serialize)]
struct Shown {
    tag: u32,
    uuid: Option<String>,
    group: Option<String>,
    name: Option<String>,
    memo: Option<String>,
    created_utc: Option<String>,
    content: Option<String>,
    bytes: u64,
}

impl Shown {
    fn new(version: &Version, sectors: u64) -> Self {
        Self {
            tag: version.tag,
            uuid: version.uuid.as_ref().map(uuid),
            group: version.group.as_ref().map(uuid),
            name: version.name.clone(),
            memo: version.memo.clone(),
            created_utc: version.created.and_then(utc),
            content: version.content.as_deref().map(hex),
            bytes: bytes(sectors),
        }
    }

    /// In a line.
    fn line(&self) -> String {
        let mut line = self.tag.to_string();
        for (before, text) in [("", &self.uuid), ("taken ", &self.created_utc)] {
            if let Some(text) = text {
                line += &format!(", {before}{text}");
            }
        }
        for text in [&self.name, &self.memo].into_iter().flatten() {
            line += &format!(", {text:?}");
        }
        line
    }
}

#[derive(Serialize)]
struct Sets {
    bytes: u64,
    data_bytes: u64,
    ranges: u64,
    chunks: u64,
}

impl Sets {
    fn new(counts: &Counts) -> Self {
        Self {
            bytes: bytes(counts.sectors),
            data_bytes: bytes(counts.data),
            ranges: counts.ranges,
            chunks: counts.chunks,
        }
    }
}

/// A segment of a stream.
#[derive(Serialize)]
pub struct Segment {
    store: String,
    origin: u32,
    identity: String,
    to: Shown,
    from: Option<Shown>,
    chunk_bytes: u64,
    /// What of it is data is known at its end.
    sets: Sets,
    resumed: Option<Sets>,
    marks: Option<u64>,
    digest: Option<String>,
}

impl Segment {
    /// From its beginning, or from a position on.
    pub fn new(begin: &Begin, position: Option<&Position>) -> Self {
        let counts = Counts {
            ranges: begin.ranges,
            chunks: begin.chunks,
            sectors: begin.sectors,
            data: 0,
        };
        let from = begin.from.as_ref();
        Self {
            store: uuid(&begin.store),
            origin: begin.origin,
            identity: String::from_utf8_lossy(&begin.identity).into_owned(),
            to: Shown::new(&begin.to, begin.size),
            from: from.map(|from| Shown::new(from, begin.from_size)),
            chunk_bytes: bytes(begin.chunk.into()),
            sets: Sets::new(&counts),
            resumed: position.map(|position| Sets::new(&position.counts)),
            marks: None,
            digest: None,
        }
    }

    /// To its end.
    pub fn end(&mut self, ended: &Ended) {
        self.sets = Sets::new(&ended.counts);
        self.marks = Some(ended.marks);
        self.digest = Some(hex(&ended.digest));
    }

    /// For people.
    pub fn text(&self) -> String {
        let since = match &self.from {
            Some(from) => format!("{}, {} bytes", from.line(), from.bytes),
            None => "nothing: the whole version".to_owned(),
        };
        let mut text = format!(
            "store    : {}\norigin   : {}, {}\nversion  : {}\nsince    : {since}\n\
             size     : {} bytes, chunks of {}\n\
             sets     : {} bytes in {} ranges, {} chunks\n",
            self.store,
            self.origin,
            self.identity.escape_debug(),
            self.to.line(),
            self.to.bytes,
            self.chunk_bytes,
            self.sets.bytes,
            self.sets.ranges,
            self.sets.chunks,
        );
        if let Some(resumed) = &self.resumed {
            text += &format!("resumed  : behind {} bytes of these\n", resumed.bytes);
        }
        if let (Some(marks), Some(digest)) = (self.marks, &self.digest) {
            let zeroes = self.sets.bytes.saturating_sub(self.sets.data_bytes);
            text += &format!(
                "data     : {} bytes, and {zeroes} of zeroes; {marks} marks\ndigest   : {digest}\n",
                self.sets.data_bytes
            );
        }
        text
    }
}

#[derive(Serialize)]
struct Stream<'a> {
    format: u32,
    whole: bool,
    bytes: u64,
    segments: &'a [Segment],
}

/// A stream for programs: its segments, whether its end was seen, and the bytes up to there.
pub fn json(segments: &[Segment], whole: bool, bytes: u64) -> Result<String> {
    json::text(&Stream {
        format: dm_snap_mv_stream::frame::VERSION,
        whole,
        bytes,
        segments,
    })
}

#[derive(Serialize)]
struct Held {
    store: String,
    origin: u32,
    identity: String,
    version: Shown,
}

impl Held {
    fn new(content: &Content, identity: &[u8]) -> Self {
        Self {
            store: uuid(&content.store),
            origin: content.origin,
            identity: String::from_utf8_lossy(identity).into_owned(),
            version: Shown::new(&content.version, content.size),
        }
    }

    fn of(whole: &Whole) -> Self {
        Self::new(&whole.content, &whole.identity)
    }

    fn line(&self) -> String {
        let identity = self.identity.escape_debug();
        format!(
            "{} of {identity}, store {}",
            self.version.line(),
            self.store
        )
    }
}

/// A snapshot of a target that is an origin.
#[derive(Serialize)]
struct Own {
    store: String,
    origin: u32,
    tag: u32,
}

impl Own {
    fn of(local: Local) -> Self {
        Self {
            store: uuid(&local.store),
            origin: local.origin,
            tag: local.tag,
        }
    }
}

/// What a target is noted to hold.
#[derive(Serialize)]
pub struct Noted {
    state: &'static str,
    holds: Option<Held>,
    becomes: Option<Held>,
    kept: bool,
    snapshot: Option<u32>,
    local: Option<Own>,
    taking: bool,
    mark: Option<u64>,
    done: Option<Sets>,
    all_bytes: Option<u64>,
    position: Option<String>,
}

impl Noted {
    /// Of a note; none: nothing is noted.
    pub fn new(state: Option<&State>) -> Self {
        let mut noted = Self {
            state: "unknown",
            holds: None,
            becomes: None,
            kept: false,
            snapshot: None,
            local: None,
            taking: false,
            mark: None,
            done: None,
            all_bytes: None,
            position: None,
        };
        match state {
            None => {}
            Some(State::Whole(whole)) => {
                noted.state = "whole";
                noted.holds = Some(Held::of(whole));
                noted.local = whole.local.map(Own::of);
            }
            Some(State::Restoring(whole)) => {
                noted.local = whole.local.map(Own::of);
                noted.state = "restoring";
                noted.becomes = Some(Held::of(whole));
            }
            Some(State::Between(between)) => {
                let (begin, position) = (&between.begin, &between.position);
                noted.state = "between";
                noted.holds = between.base.as_ref().map(Held::of);
                noted.becomes = Some(Held::new(&begin.makes(), &begin.identity));
                noted.kept = between.kept;
                let before = between.base.as_ref().and_then(|base| base.local);
                noted.local = before.map(Own::of);
                noted.taking = between.taking.is_some();
                noted.mark = Some(position.mark);
                noted.done = Some(Sets::new(&position.counts));
                noted.all_bytes = Some(bytes(begin.sectors));
                noted.position = (position.mark > 0).then(|| position.to_string());
            }
        }
        noted.snapshot = noted.local.as_ref().map(|local| local.tag);
        noted
    }

    /// For people.
    pub fn text(&self) -> String {
        // Of what it holds, or held before.
        let snapshot = match self.snapshot {
            Some(tag) => format!("snapshot : {tag}\n"),
            None => String::new(),
        };
        let line = |held: &Option<Held>| held.as_ref().map(Held::line).unwrap_or_default();
        match self.state {
            "whole" => format!("holds    : {}\n{snapshot}", line(&self.holds)),
            "restoring" => format!("restoring: {}\n{snapshot}", line(&self.becomes)),
            "between" => {
                let before = match &self.holds {
                    Some(held) => held.line(),
                    None => "nothing that is noted".to_owned(),
                };
                format!(
                    "between  : {before}\n{snapshot}and      : {}\nmark     : {}, {} of {} bytes\nkept     : {}\n{}",
                    line(&self.becomes),
                    self.mark.unwrap_or(0),
                    self.done.as_ref().map_or(0, |done| done.bytes),
                    self.all_bytes.unwrap_or(0),
                    if self.kept { "yes" } else { "no" },
                    match self.taking {
                        true => "received : all; a snapshot of it is to be taken\n",
                        false => "",
                    },
                )
            }
            _ => "nothing is noted of it\n".to_owned(),
        }
    }

    /// For programs.
    pub fn json(&self) -> Result<String> {
        json::text(self)
    }
}
