// SPDX-License-Identifier: GPL-2.0
//! Streams as the commands use them: where they come from, and how it is said what is wrong.

use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use dm_snap_mv_stream::receive::{self, Refusal, Unlike, Whole};
use dm_snap_mv_stream::{Error, Fault};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

/// A stream that is read, until a signal comes.
pub struct Input {
    from: Box<dyn Read>,
    interrupt: Interrupt,
}

impl Input {
    /// What comes from there.
    pub fn new(from: impl Read + 'static, interrupt: Interrupt) -> Self {
        Self {
            from: Box::new(from),
            interrupt,
        }
    }

    /// Opens a file, or standard input for "-".
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Self::standard();
        }
        let file = File::open(path).map_err(|e| unopened(path, &e))?;
        Ok(Self {
            from: Box::new(file),
            interrupt: Interrupt::watch()?,
        })
    }

    /// Standard input, where a stream has to come.
    pub fn standard() -> Result<Self> {
        let from = io::stdin();
        if from.is_terminal() {
            return Err(Failure::usage(
                "a stream is expected on standard input, and that is a terminal",
            )
            .hint("put \"<\" and the name of a file behind it"));
        }
        Ok(Self {
            from: Box::new(from.lock()),
            interrupt: Interrupt::watch()?,
        })
    }

    /// Whether a signal has come.
    pub fn interrupted(&self) -> bool {
        self.interrupt.came()
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupt.came() {
                return Err(interrupted());
            }
            match self.from.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A stream that is written, until a signal comes.
pub struct Output<W> {
    to: W,
    interrupt: Interrupt,
}

impl<W: Write> Output<W> {
    /// Writes to there.
    pub fn new(to: W, interrupt: Interrupt) -> Self {
        Self { to, interrupt }
    }

    fn until_a_signal<T>(&mut self, call: impl Fn(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            if self.interrupt.came() {
                return Err(interrupted());
            }
            match call(&mut self.to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_a_signal(|to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_a_signal(|to| to.flush())
    }
}

/// A signal has come. Not what is tried again.
pub fn interrupted() -> io::Error {
    io::Error::other(Signal)
}

/// Why reading or writing has ended.
#[derive(Debug)]
struct Signal;

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Signal {}

/// The failure that a file cannot be opened.
pub fn unopened(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot open {}: {error}", path.display());
    Failure::new(of_io(error), what)
}

pub fn of_io(error: &io::Error) -> Kind {
    if error.get_ref().is_some_and(|inner| inner.is::<Signal>()) {
        return Kind::Interrupted;
    }
    match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::ResourceBusy => Kind::Busy,
        io::ErrorKind::PermissionDenied => Kind::Unable,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        io::ErrorKind::FileTooLarge => Kind::NoSpace,
        _ => Kind::Refused,
    }
}

/// What is wrong with a stream, as the command says it.
pub fn wrong(error: &Error) -> Failure {
    let kind = match &error.fault {
        Fault::Io(error) => of_io(error),
        Fault::Cut | Fault::NoStream | Fault::Damaged(_) => Kind::Damaged,
        _ => Kind::Refused,
    };
    match kind {
        Kind::Interrupted => Failure::new(kind, "interrupted"),
        _ => Failure::new(kind, error.to_string()),
    }
}

/// What a target is noted to hold, in a few words.
pub fn name_of(whole: &Whole) -> String {
    let version = &whole.content.version;
    let origin = String::from_utf8_lossy(&whole.identity);
    let name = version.name.as_ref().map(|name| format!(" ({name:?})"));
    format!(
        "version {}{} of {}",
        version.tag,
        name.unwrap_or_default(),
        origin.escape_debug()
    )
}

/// Why something is not received, with what is to be done about it.
pub fn refused(target: &Path, failure: receive::Failure) -> Failure {
    let shown = target.display();
    let refusal = match failure {
        receive::Failure::Stream(error) => return wrong(&error),
        receive::Failure::Refused(refusal) => refusal,
        receive::Failure::Target(doing, error) => {
            // What the kernel or the store says of an origin comes as it is.
            let error = match error.downcast::<Failure>() {
                Ok(failure) => return failure.context(format!("cannot {doing} {shown}")),
                Err(error) => error,
            };
            let what = format!("cannot {doing} {shown}: {error}");
            return Failure::new(of_io(&error), what);
        }
        receive::Failure::Notes(doing, error) => {
            let what = format!("cannot {doing} what {shown} holds: {error}");
            return Failure::new(of_io(&error), what);
        }
    };
    let kind = match &refusal {
        Refusal::TooSmall(..) => Kind::NoSpace,
        Refusal::Notes(_) => Kind::Damaged,
        _ => Kind::Refused,
    };
    let name = target.to_string_lossy();
    let device = name.strip_prefix("/dev/mapper/").unwrap_or(&name);
    let hint = match &refusal {
        Refusal::Unknown => {
            "receive the whole version first, or say with --state where it is noted \
                             what it holds"
                .to_owned()
        }
        Refusal::OtherBase(whole, _) => format!("it holds {}", name_of(whole)),
        Refusal::Unlike(local, Unlike::Changed) => format!(
            "to have it be that again: dms rollback {device} {}\n\
             or receive the whole version, with --force",
            local.tag
        ),
        Refusal::Unlike(_, Unlike::Rollback) => {
            format!("wait for it: dms wait {device} --rollback")
        }
        Refusal::Unlike(_, Unlike::Another) => {
            "say with --state where it is noted what it holds".to_owned()
        }
        Refusal::Changed | Refusal::OtherSize(..) | Refusal::NoLocal | Refusal::Unlike(..) => {
            "receive the whole version, with --force".to_owned()
        }
        Refusal::NotBlank => "if that is to be lost, receive with --force".to_owned(),
        Refusal::Holds(whole) => format!(
            "it holds {}; if that is to be lost, receive with --force",
            name_of(whole)
        ),
        Refusal::Unfinished(between) => format!(
            "it is between two versions, and becomes version {}: go on with that, or give it up:\n\
             dms receive {name} --abort",
            between.begin.to.tag
        ),
        Refusal::OtherPosition(Some(_)) | Refusal::OtherStream => {
            format!("where to go on says: dms receive {name} --position")
        }
        Refusal::OtherPosition(None) => "receive the stream from its beginning".to_owned(),
        Refusal::Restoring => format!("have that done first: dms receive {name} --abort"),
        Refusal::TooSmall(..) => String::new(),
        Refusal::CannotKeep(_) => "leave out --keep, or copy it before".to_owned(),
        Refusal::NotKept(_) => {
            format!("go on with what was received, or lose it: dms receive {name} --abort --force")
        }
        Refusal::Notes(_) => {
            "if it is to be received anew, remove the file in which that is noted".to_owned()
        }
    };
    let failure = Failure::new(kind, format!("{shown}: {refusal}"));
    match hint.is_empty() {
        true => failure,
        false => failure.hint(hint),
    }
}
