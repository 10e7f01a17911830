// SPDX-License-Identifier: GPL-2.0
//! How a command fails: with an exit code, what went wrong, and what to do about it.

use std::fmt;

/// The exit codes, as `dms --help` and the manual list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The kernel or a device refused or failed.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A device, a snapshot or a store is not there.
    NotFound = 3,
    /// Something is in use.
    Busy = 4,
    /// There is no space left on the COW device, or on a target.
    NoSpace = 5,
    /// The store, a snapshot or a stream is damaged or invalid.
    Damaged = 6,
    /// It cannot be done here: not root, no device-mapper, no module.
    Unable = 7,
    /// The time given was over before the work was done.
    TimedOut = 8,
    /// A signal came.
    Interrupted = 130,
}

/// What each exit code means, for the help and the manual.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "it is done"),
    (1, "the kernel or a device refused, or failed"),
    (2, "the command line is wrong"),
    (3, "a device, a snapshot or a store was not found"),
    (4, "something is in use or busy"),
    (5, "the COW device is full, or a target is too small"),
    (
        6,
        "the store, a snapshot or a stream is damaged, cut off or invalid",
    ),
    (
        7,
        "not possible here: not root, no device-mapper, or no dm-snap-mv module",
    ),
    (8, "the time given with --timeout is over; the work goes on"),
    (
        130,
        "interrupted by a signal; a rollback or cleaning that was waited for goes on, and a stream \
         that was being received can be gone on with",
    ),
];

/// The exit codes of `dms check` and `dms repair`: those of fsck(8), for who calls all checkers
/// alike.
pub mod fsck {
    use std::ffi::OsString;

    /// Nothing is wrong.
    pub const CLEAN: u8 = 0;
    /// What was wrong has been repaired.
    pub const REPAIRED: u8 = 1;
    /// Something is wrong.
    pub const ERRORS: u8 = 4;
    /// It could not be looked at.
    pub const FAILED: u8 = 8;
    /// The command line is wrong.
    pub const USAGE: u8 = 16;

    /// What each of them means, for the help and the manual.
    pub const EXIT_CODES: &[(u8, &str)] = &[
        (CLEAN, "nothing is wrong with the store"),
        (REPAIRED, "something was wrong, and has been repaired"),
        (ERRORS, "something is wrong, and was left as it is"),
        (
            FAILED,
            "there is no store that could be looked at, it is in use, or I/O has failed",
        ),
        (USAGE, "the command line is wrong"),
    ];

    /// Whether a command line is one of these commands.
    pub fn is_meant(words: impl IntoIterator<Item = OsString>) -> bool {
        let command = words.into_iter().skip(1).find(|word| {
            let bytes = word.as_encoded_bytes();
            !bytes.starts_with(b"-")
        });
        command.is_some_and(|word| word == "check" || word == "repair")
    }
}

/// The exit codes of `dms diff`: those of diff(1).
pub mod diff {
    /// Nothing differs.
    pub const SAME: u8 = 0;
    /// Something differs.
    pub const DIFFER: u8 = 1;
    /// It could not be found out.
    pub const TROUBLE: u8 = 2;

    /// What each of them means, for the help and the manual.
    pub const EXIT_CODES: &[(u8, &str)] = &[
        (SAME, "nothing differs"),
        (DIFFER, "something differs"),
        (
            TROUBLE,
            "it could not be found out, or the command line is wrong",
        ),
    ];
}

/// Whose exit codes a failure ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// Those of most commands.
    Own,
    /// Those of [`fsck`].
    Fsck,
    /// Those of [`diff`].
    Diff,
}

impl Kind {
    /// The kind that another dms has ended with.
    pub fn of_code(code: u8) -> Self {
        match code {
            2 => Self::Usage,
            3 => Self::NotFound,
            4 => Self::Busy,
            5 => Self::NoSpace,
            6 => Self::Damaged,
            7 => Self::Unable,
            8 => Self::TimedOut,
            130 => Self::Interrupted,
            _ => Self::Refused,
        }
    }

    /// The kind that an error number of the kernel amounts to, by its name.
    pub fn of_errno(name: &str) -> Self {
        match name {
            "ENOENT" | "ENODEV" | "ENXIO" => Self::NotFound,
            "EBUSY" => Self::Busy,
            "ENOSPC" => Self::NoSpace,
            "EUCLEAN" | "EILSEQ" | "EBADMSG" | "ENODATA" | "EIO" => Self::Damaged,
            "EPERM" | "EACCES" => Self::Unable,
            _ => Self::Refused,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What went wrong, without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which exit code it is then.
    pub codes: Codes,
}

impl Failure {
    /// A failure with no advice to it, yet.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            hint: None,
            codes: Codes::Own,
        }
    }

    /// Nobody wants to know more than the exit code.
    pub fn quiet(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    /// Whether it is one of these.
    pub fn is_quiet(&self) -> bool {
        self.what.is_empty()
    }

    /// The command line is wrong.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says before the reason what was being done.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    /// Has it end with an exit code of [`fsck`].
    pub fn as_fsck(mut self) -> Self {
        self.codes = Codes::Fsck;
        self
    }

    /// Has it end with an exit code of [`diff`].
    pub fn as_diff(mut self) -> Self {
        self.codes = Codes::Diff;
        self
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match (self.codes, self.kind) {
            (Codes::Own, kind) => kind as u8,
            (Codes::Fsck, Kind::Usage) => fsck::USAGE,
            (Codes::Fsck, _) => fsck::FAILED,
            (Codes::Diff, _) => diff::TROUBLE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            for line in hint.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What every command returns.
pub type Result<T> = std::result::Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_documented() {
        for kind in [
            Kind::Refused,
            Kind::Usage,
            Kind::NotFound,
            Kind::Busy,
            Kind::NoSpace,
            Kind::Damaged,
            Kind::Unable,
            Kind::TimedOut,
            Kind::Interrupted,
        ] {
            assert!(EXIT_CODES.iter().any(|(code, _)| *code == kind as u8));
            assert_eq!(Kind::of_code(kind as u8), kind);
        }
    }

    #[test]
    fn advice_is_indented_below() {
        let failure = Failure::new(Kind::Busy, "orig is in use").hint("umount it\nor wait");
        assert_eq!(
            failure.to_string(),
            "orig is in use\n  umount it\n  or wait"
        );
    }
}
