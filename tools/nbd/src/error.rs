// SPDX-License-Identifier: GPL-2.0
//! Why a conversation has ended.

use std::{fmt, io};

/// What cannot be answered by an error of the protocol's.
#[derive(Debug)]
pub enum Error {
    /// The client has gone, or cannot be reached.
    Io(io::Error),
    /// It does not keep to the protocol, so that nobody knows where its next message begins.
    Broken(&'static str),
}

/// What everything here returns.
pub type Result<T> = std::result::Result<T, Error>;

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Broken(how) => write!(f, "the client does not keep to the protocol: {how}"),
        }
    }
}

impl std::error::Error for Error {}
