// SPDX-License-Identifier: GPL-2.0
//! Why something was not received.

use super::local::{Local, Unlike};
use super::state::{Between, Whole};
use crate::error::Error;
use std::fmt;
use std::io;

/// Why a stream is not received into a target. Nothing was written of the segment that it is about.
#[derive(Debug)]
pub enum Refusal {
    /// It is not known what the target holds, and the segment starts from some version.
    Unknown,
    /// The target holds another version than the segment starts from.
    OtherBase(Box<Whole>, &'static str),
    /// The target has been written to since it was noted what it holds.
    Changed,
    /// The target, of which this was taken, is not what it was then, or that cannot be known.
    Unlike(Local, Unlike),
    /// The target keeps versions of itself, and none is noted.
    NoLocal,
    /// There is something on the target, and the segment would write over it.
    NotBlank,
    /// It holds this version, and the segment would write over it.
    Holds(Box<Whole>),
    /// Something else has been received in part.
    Unfinished(Box<Between>),
    /// The stream does not go on from where it is to be gone on from.
    OtherPosition(Option<Box<Between>>),
    /// What comes before the mark is not what was received then.
    OtherStream,
    /// An abort has not come to its end.
    Restoring,
    /// The target is too small: its sectors, and those it needs.
    TooSmall(u64, u64),
    /// The target is not as large as what it is noted to hold: its sectors, and those it had.
    OtherSize(u64, u64),
    /// What the target holds cannot be put aside.
    CannotKeep(io::Error),
    /// What the target holds was not put aside, so it cannot be brought back.
    NotKept(Box<Between>),
    /// What is noted makes no sense.
    Notes(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "it is not known what it holds, and the stream has only what has changed",
            ),
            Self::OtherBase(_, why) => write!(
                f,
                "it does not hold the version that the stream starts from: {why}"
            ),
            Self::Changed => f.write_str("it has been written to since it was received"),
            Self::Unlike(local, why) => why.tell(local.tag, f),
            Self::NoLocal => {
                f.write_str("it is not noted which snapshot was taken when it was received")
            }
            Self::NotBlank => f.write_str("there is something on it that would be written over"),
            Self::Holds(_) => f.write_str("it holds a version that would be written over"),
            Self::Unfinished(_) => f.write_str("something else has been received into it in part"),
            Self::OtherPosition(Some(_)) => {
                f.write_str("the stream goes on from another place than where it was left off")
            }
            Self::OtherPosition(None) => {
                f.write_str("the stream goes on with something that was not begun here")
            }
            Self::OtherStream => {
                f.write_str("the stream is not the one that was received up to here")
            }
            Self::Restoring => f.write_str("it was being made again what it was before"),
            Self::TooSmall(has, needs) => {
                write!(f, "it has {has} sectors, and the version {needs}")
            }
            Self::OtherSize(has, had) => {
                write!(
                    f,
                    "it has {has} sectors, and had {had} when it was received"
                )
            }
            Self::CannotKeep(error) => {
                write!(f, "what it holds cannot be put aside: {error}")
            }
            Self::NotKept(between) => {
                let local = between.base.as_ref().and_then(|base| base.local);
                match local {
                    None => f.write_str("what it held before was not put aside"),
                    Some(local) => write!(
                        f,
                        "snapshot {}, which is what it held before, is gone, invalid or written to",
                        local.tag
                    ),
                }
            }
            Self::Notes(what) => write!(f, "what is noted of it makes no sense: {what}"),
        }
    }
}

/// Why receiving has ended before the stream.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong with the stream.
    Stream(Error),
    /// It is not to be received there.
    Refused(Refusal),
    /// What was being done with the target, and why it failed.
    Target(&'static str, io::Error),
    /// What was being done with the notes, and why it failed.
    Notes(&'static str, io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Target(doing, error) => write!(f, "cannot {doing} it: {error}"),
            Self::Notes(doing, error) => write!(f, "cannot {doing} what it holds: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A result of receiving.
pub type Result<T> = std::result::Result<T, Failure>;
