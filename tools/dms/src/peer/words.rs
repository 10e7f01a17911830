// SPDX-License-Identifier: GPL-2.0
//! What both sides say.

use crate::failure::{Failure, Kind};
use crate::thing::Digest;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Bytes of a line, at most.
pub const MOST: usize = 1 << 16;

/// The version of this conversation. Others are refused.
pub const PROTOCOL: u32 = 2;

/// What `dms serve` begins with.
#[derive(Debug, Deserialize, Serialize)]
pub struct Greeting {
    /// [`PROTOCOL`].
    pub dms_serve: u32,
    /// The version of dms, for people.
    pub version: String,
}

/// What is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// What does it hold?
    Status {
        /// The target.
        target: String,
    },
    /// Receive what follows.
    Receive {
        /// The target.
        target: String,
        /// Over whatever it holds.
        overwrite: bool,
    },
    /// How large is it?
    Size {
        /// As `dms verify` takes it.
        what: String,
    },
    /// What is in it?
    Digests {
        /// As `dms verify` takes it.
        what: String,
        /// The first sector.
        start: u64,
        /// Sectors, of [`DIGESTS`] blocks at most.
        sectors: u64,
        /// Sectors of a block.
        each: u64,
    },
    /// What is it an origin of, and which of these snapshots and bookmarks can something be sent since?
    Origin {
        /// A device of it.
        what: String,
        /// Their tags.
        tags: Vec<u32>,
    },
    /// How much of it has changed since a version?
    Changed {
        /// A device of the origin.
        what: String,
        /// The version's tag.
        since: u32,
    },
    /// Take a snapshot of it.
    Snapshot {
        /// A device of the origin.
        what: String,
        /// The snapshot's memo.
        memo: String,
    },
    /// Whatever is sent, send these as well; can be said several times, in ascending order.
    Also {
        /// First sectors, and how many, of [`ALSO`] ranges at most.
        ranges: Vec<(u64, u64)>,
    },
    /// How much is it that would be sent of a snapshot?
    Plan {
        /// A device of the origin.
        what: String,
        /// The snapshot's tag.
        tag: u32,
        /// The tag of the version that it is sent since.
        since: u32,
        /// What the other side has instead of that.
        other: Other,
    },
    /// Send that.
    Send {
        /// From there on.
        position: Option<String>,
    },
    /// Note that the target was another version when a snapshot of it was taken.
    Was {
        /// The target.
        target: String,
        /// The snapshot's tag.
        tag: u32,
        /// The version.
        version: Same,
    },
}

/// What is noted to be the same as a snapshot of the target.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Same {
    /// The UUID of the store that it is in.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// How that store knows it.
    pub identity: String,
    /// The tag.
    pub tag: u32,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// Its size in sectors.
    pub sectors: u64,
}

/// A version that the other side has written to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// 32 hexadecimal digits that it is known by, and nothing else is.
    pub uuid: String,
    /// The tag that it has there.
    pub tag: u32,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// Its size in sectors.
    pub sectors: u64,
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What the target holds, as `dms receive --status --json` shows it.
    Holds(Holds),
    /// It is done.
    Done {
        /// What was said to that.
        said: String,
    },
    /// So large.
    Size {
        /// In sectors.
        sectors: u64,
    },
    /// This is in it.
    Digests {
        /// BLAKE3 of each block, the last one of which may be smaller, one behind the other.
        hex: String,
    },
    /// It is an origin.
    Origin {
        /// The UUID of the store that it is in.
        store: String,
        /// Its number there.
        origin: u32,
        /// Its size in sectors.
        sectors: u64,
        /// Those that were asked for and can be sent since: with what they hold, which nobody has written to.
        versions: Vec<Kept>,
    },
    /// So much.
    Changed {
        /// Bytes.
        bytes: u64,
        /// Ranges.
        ranges: u64,
    },
    /// It has been taken.
    Snapshot {
        /// As this.
        tag: u32,
    },
    /// It is not.
    Failed {
        /// The exit code of dms.
        code: u8,
        /// What it has said.
        said: String,
    },
}

/// A snapshot, or a bookmark of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its tag.
    pub tag: u32,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// It has its content, too.
    pub whole: bool,
}

/// A version, as far as it matters here.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its tag.
    pub tag: u32,
    /// When it was taken.
    pub created_utc: Option<String>,
}

/// A version of an origin.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The UUID of its store.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// The version.
    pub version: Version,
}

/// A snapshot of an origin.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Local {
    /// The UUID of its store.
    pub store: String,
    /// The number of the origin there.
    pub origin: u32,
    /// Its tag.
    pub tag: u32,
}

/// What a target holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// `unknown`, `whole`, `between` or `restoring`.
    pub state: String,
    /// The version that it is, or was.
    pub holds: Option<Held>,
    /// The snapshot of the target that was taken when it was that, if it is an origin.
    #[serde(default)]
    pub local: Option<Local>,
    /// The version that it is to be.
    pub becomes: Option<Held>,
    /// Where to go on from.
    pub position: Option<String>,
}

/// Digests that are asked for at a time, at most.
pub const DIGESTS: u64 = 256;

/// Ranges that are said in a line, at most.
pub const ALSO: usize = 1024;

/// Digests as they were said; `None` if they are none.
pub fn digests(hex: &str) -> Option<Vec<Digest>> {
    let one = |text: &[u8]| {
        let mut digest = Digest::default();
        for (byte, pair) in digest.iter_mut().zip(text.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(digest)
    };
    match hex.len() % 64 {
        0 => hex.as_bytes().chunks(64).map(one).collect(),
        _ => None,
    }
}

/// Says something.
pub fn say(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Hears something: not a byte behind its line is taken from there. None: the other side has ended.
pub fn hear<T: for<'a> Deserialize<'a>>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match from.read(&mut byte) {
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if line.len() > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too long a line",
            ));
        }
    }
    match serde_json::from_slice(&line) {
        Ok(said) => Ok(Some(said)),
        Err(_) => {
            let line: String = String::from_utf8_lossy(&line).chars().take(200).collect();
            let what = format!("it says {line:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

/// What another dms has failed with, as a failure here.
pub fn failure(code: u8, said: &str) -> Failure {
    let kind = Kind::of_code(code);
    let said = said.trim();
    let said = said.strip_prefix("dms: ").unwrap_or(said);
    let (what, hint) = match said.split_once('\n') {
        Some((what, hint)) => (what, Some(hint)),
        None => (said, None),
    };
    let failure = Failure::new(kind, what);
    match hint {
        Some(hint) => {
            let lines: Vec<_> = hint.lines().map(str::trim).collect();
            failure.hint(lines.join("\n"))
        }
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::stream::hex;

    #[test]
    fn a_line_is_heard_and_nothing_behind_it() {
        let mut text = Vec::new();
        let question = Question::Receive {
            target: "mapper/copy".into(),
            overwrite: false,
        };
        say(&mut text, &question).unwrap();
        text.extend_from_slice(b"stream");
        let mut rest = text.as_slice();
        let heard: Question = hear(&mut rest).unwrap().unwrap();
        assert!(matches!(heard, Question::Receive { target, .. } if target == "mapper/copy"));
        assert_eq!(rest, b"stream");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let mut rest = &b"Welcome to backup!\n"[..];
        let error = hear::<Greeting>(&mut rest).unwrap_err();
        assert!(error.to_string().contains("Welcome"));
        assert!(hear::<Greeting>(&mut &b"{"[..]).is_err());
        assert!(hear::<Greeting>(&mut &b""[..]).unwrap().is_none());
        let long = vec![b'x'; MOST + 2];
        assert!(hear::<Greeting>(&mut long.as_slice()).is_err());
        let more = br#"{"do":"status","target":"x","delete":true}"#;
        assert!(hear::<Question>(&mut [more.as_slice(), b"\n"].concat().as_slice()).is_err());
    }

    #[test]
    fn the_status_of_dms_receive_is_understood() {
        let text = r#"{"state":"whole","holds":{"store":"u","origin":1,"identity":"/dev/x",
            "version":{"tag":3,"uuid":null,"created_utc":"2026-01-01T00:00:00Z","bytes":5}},
            "becomes":null,"kept":false,"mark":null,"done":null,"all_bytes":null,"position":null}"#;
        let holds: Holds = serde_json::from_str(text).unwrap();
        assert_eq!(holds.holds.unwrap().version.tag, 3);
    }

    #[test]
    fn digests_there_and_back() {
        let two = vec![[7; 32], [0xab; 32]];
        assert_eq!(digests(&hex(two.as_flattened())), Some(two));
        assert_eq!(digests(""), Some(vec![]));
        assert_eq!(digests("ab"), None);
        assert_eq!(digests(&"x".repeat(64)), None);
        // A line has room for all that can be asked for.
        let most = vec![[1; 32]; DIGESTS as usize];
        assert!(hex(most.as_flattened()).len() + 100 < MOST);
    }

    #[test]
    fn a_line_has_room_for_ranges() {
        let ranges = vec![(u64::MAX >> 10, u64::MAX >> 10); ALSO];
        let mut line = Vec::new();
        say(&mut line, &Question::Also { ranges }).unwrap();
        assert!(line.len() < MOST);
    }

    #[test]
    fn failures_come_back_as_they_were() {
        let failure = failure(4, "dms: sdb is in use\n  umount it\n  or wait\n");
        assert_eq!(failure.kind, Kind::Busy);
        assert_eq!(failure.to_string(), "sdb is in use\n  umount it\n  or wait");
    }
}
