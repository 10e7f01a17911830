// SPDX-License-Identifier: GPL-2.0
//! What can be wrong with a stream, and where.

use std::fmt;
use std::io;

/// What is wrong.
#[derive(Debug)]
pub enum Fault {
    /// It could not be read, or written.
    Io(io::Error),
    /// It ends before its end.
    Cut,
    /// It does not begin as streams do.
    NoStream,
    /// It is of a version of the format that this program does not know.
    Version(u32),
    /// It has features, bits of a word, that this program does not know and that nobody may
    /// overlook.
    Features(u32),
    /// It has a field of this type, which this program does not know and nobody may overlook.
    Field(u16),
    /// It has a frame of this type, which this program does not know and nobody may overlook.
    Frame(u8),
    /// It contradicts itself, or the format.
    Damaged(&'static str),
    /// A caller has given what does not belong into a stream.
    Misused(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Cut => f.write_str("the stream is cut off here"),
            Self::NoStream => f.write_str("this is no stream of dm-snap-mv"),
            Self::Version(version) => write!(
                f,
                "the stream is of version {version} of the format, which this program does not know"
            ),
            Self::Features(bits) => write!(
                f,
                "the stream needs features that this program does not know ({bits:#x})"
            ),
            Self::Field(kind) => write!(
                f,
                "the stream has a field that this program does not know ({kind:#x})"
            ),
            Self::Frame(kind) => write!(
                f,
                "the stream has a frame that this program does not know ({kind:#x})"
            ),
            Self::Damaged(what) | Self::Misused(what) => f.write_str(what),
        }
    }
}

/// What is wrong with a stream, and where that was seen.
#[derive(Debug)]
pub struct Error {
    /// Number of the frame, counted from 0 at the beginning of the stream; of one that was resumed,
    /// from the beginning of what it continues.
    pub frame: u64,
    /// Offset of that frame's first byte, from where reading or writing began.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frame {} at byte {}: {}",
            self.frame, self.offset, self.fault
        )
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A result of reading or writing a stream.
pub type Result<T> = std::result::Result<T, Error>;
