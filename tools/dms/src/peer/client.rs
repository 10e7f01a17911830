// SPDX-License-Identifier: GPL-2.0
//! Speaking with `dms serve`.

use super::place::Place;
use super::words::{
    self, failure, hear, say, Answer, Greeting, Holds, Kept, Other, Question, Same, ALSO, PROTOCOL,
};
use crate::failure::{Failure, Kind, Result};
use crate::ranges::Ranges;
use crate::thing::Digest;
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One that was started, and has said that it is there.
pub struct Peer {
    shown: String,
    target: String,
    child: Child,
    to: Option<ChildStdin>,
    from: Option<ChildStdout>,
}

/// An origin that another dms serves.
pub struct There {
    /// The UUID of the store that it is in.
    pub store: String,
    /// Its number there.
    pub origin: u32,
    /// Its size in sectors.
    pub sectors: u64,
    /// Those of the versions that were asked for that something can be sent since.
    pub versions: Vec<Kept>,
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Peer {
    /// Starts one for a target, to receive into that. See [`Peer::start`].
    pub fn call(place: &Place, state: Option<&OsStr>, rsh: &str, overwrite: bool) -> Result<Self> {
        let mut words = vec!["--receive".into(), place.target.clone()];
        if let Some(state) = state {
            words.extend(["--state".into(), state.to_owned()]);
        }
        if overwrite {
            words.push("--overwrite".into());
        }
        Self::start(place, words, rsh)
    }

    /// Starts one for an origin, to take over what that has become, and to receive into it later on.
    pub fn take_from(place: &Place, state: Option<&OsStr>, rsh: &str) -> Result<Self> {
        let target = || place.target.clone();
        let mut words = vec!["--receive".into(), target(), "--send".into(), target()];
        if let Some(state) = state {
            words.extend(["--state".into(), state.to_owned()]);
        }
        Self::start(place, words, rsh)
    }

    /// Starts one to tell what something holds.
    pub fn look(place: &Place, rsh: &str) -> Result<Self> {
        Self::start(place, vec!["--verify".into(), place.target.clone()], rsh)
    }

    /// Starts `dms serve` with some options: a process of this program, or one that `rsh` and the name of a
    /// host lead to.
    fn start(place: &Place, options: Vec<OsString>, rsh: &str) -> Result<Self> {
        let shown = place.to_string();
        let target = place.target.to_str().ok_or_else(|| {
            Failure::usage(format!("{shown} is not UTF-8, and cannot be a target"))
        })?;
        let mut words: Vec<OsString> = ["serve", "--stdio"].map(Into::into).into();
        words.extend(options);
        let mut command = match &place.host {
            None => {
                let own = std::env::current_exe().map_err(|e| unstarted(&shown, &e))?;
                let mut command = Command::new(own);
                command.args(words);
                command
            }
            Some(host) => {
                let mut rsh = rsh.split_whitespace();
                let program = rsh.next().ok_or_else(|| Failure::usage("--rsh is empty"))?;
                if host.starts_with('-') {
                    return Err(Failure::usage(format!("{host:?} is no host")));
                }
                let words: Vec<_> = words.iter().map(|w| quoted(&w.to_string_lossy())).collect();
                let mut command = Command::new(program);
                command.args(rsh).arg(host);
                command.arg(format!("dms {}", words.join(" ")));
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| unstarted(&shown, &e))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new(Kind::Refused, "there is no pipe"));
        };
        let mut peer = Self {
            shown,
            target: target.to_owned(),
            child,
            to: Some(to),
            from: Some(from),
        };
        let Greeting { dms_serve, version } = peer.hear()?;
        if dms_serve != PROTOCOL {
            let what = format!(
                "{}: dms {version} there speaks another version of this",
                peer.shown
            );
            return Err(Failure::new(Kind::Unable, what).hint("install the same dms on both sides"));
        }
        Ok(peer)
    }

    fn hear<T: for<'a> serde::Deserialize<'a>>(&mut self) -> Result<T> {
        let hint = "on its host there has to be dms, in the PATH of such a command";
        let Some(from) = &mut self.from else {
            return Err(Failure::new(Kind::Refused, "it says no more"));
        };
        match hear(from) {
            Ok(Some(said)) => Ok(said),
            Ok(None) => {
                let what = format!("{}: the connection has ended", self.shown);
                Err(Failure::new(Kind::Refused, what).hint(hint))
            }
            Err(error) => {
                let what = format!("{}: no sense can be made of it: {error}", self.shown);
                Err(Failure::new(Kind::Refused, what).hint(hint))
            }
        }
    }

    fn ask(&mut self, question: &Question) -> Result<()> {
        let Some(to) = &mut self.to else {
            return Err(Failure::new(Kind::Refused, "it has been asked already"));
        };
        say(to, question).map_err(|error| {
            let what = format!("{}: cannot be spoken to: {error}", self.shown);
            Failure::new(Kind::Refused, what)
        })
    }

    /// What has come of what was asked, if anything but a failure.
    fn answer(&mut self) -> Result<Answer> {
        match self.hear()? {
            Answer::Failed { code, said } => Err(self.failed(code, &said)),
            answer => Ok(answer),
        }
    }

    fn no_answer(&self) -> Failure {
        self.failed(1, "that is no answer")
    }

    fn failed(&self, code: u8, said: &str) -> Failure {
        let failure = failure(code, said);
        match self.shown.split_once(':') {
            // Whose words these are.
            Some((host, _)) if self.shown != self.target => failure.context(host),
            _ => failure,
        }
    }

    /// What the target holds.
    pub fn holds(&mut self) -> Result<Holds> {
        self.ask(&Question::Status {
            target: self.target.clone(),
        })?;
        match self.answer()? {
            Answer::Holds(holds) => Ok(holds),
            _ => Err(self.no_answer()),
        }
    }

    /// The size of what it was started to look at, in sectors.
    pub fn size(&mut self) -> Result<u64> {
        self.ask(&Question::Size {
            what: self.target.clone(),
        })?;
        match self.answer()? {
            Answer::Size { sectors } => Ok(sectors),
            _ => Err(self.no_answer()),
        }
    }

    /// Digests of blocks of `each` sectors of it, from sector `start` on.
    pub fn digests(&mut self, start: u64, sectors: u64, each: u64) -> Result<Vec<Digest>> {
        self.ask(&Question::Digests {
            what: self.target.clone(),
            start,
            sectors,
            each,
        })?;
        match self.answer()? {
            Answer::Digests { hex } => {
                let digests = words::digests(&hex);
                digests.ok_or_else(|| self.failed(1, "these are no digests"))
            }
            _ => Err(self.no_answer()),
        }
    }

    /// What the target is, if it is an origin, and which of some versions it has.
    pub fn origin(&mut self, tags: Vec<u32>) -> Result<There> {
        let what = self.target.clone();
        self.ask(&Question::Origin { what, tags })?;
        match self.answer()? {
            Answer::Origin {
                store,
                origin,
                sectors,
                versions,
            } => Ok(There {
                store,
                origin,
                sectors,
                versions,
            }),
            _ => Err(self.no_answer()),
        }
    }

    /// How many bytes of the origin have changed since a version.
    pub fn changed(&mut self, since: u32) -> Result<u64> {
        let what = self.target.clone();
        self.ask(&Question::Changed { what, since })?;
        self.bytes()
    }

    fn bytes(&mut self) -> Result<u64> {
        match self.answer()? {
            Answer::Changed { bytes, .. } => Ok(bytes),
            _ => Err(self.no_answer()),
        }
    }

    /// Has a snapshot taken of the origin. Returns its tag.
    pub fn snapshot(&mut self, memo: &str) -> Result<u32> {
        let (what, memo) = (self.target.clone(), memo.to_owned());
        self.ask(&Question::Snapshot { what, memo })?;
        match self.answer()? {
            Answer::Snapshot { tag } => Ok(tag),
            _ => Err(self.no_answer()),
        }
    }

    /// Has it made out what would be sent of a snapshot to who has another version than that it is sent since, and
    /// where that is another one. Returns how many bytes that is.
    pub fn plan(&mut self, tag: u32, since: u32, other: Other, also: &Ranges) -> Result<u64> {
        let mut pieces = also.iter().map(|piece| (piece.start, piece.sectors));
        loop {
            let ranges: Vec<_> = pieces.by_ref().take(ALSO).collect();
            if ranges.is_empty() {
                break;
            }
            self.ask(&Question::Also { ranges })?;
            self.done()?;
        }
        let what = self.target.clone();
        self.ask(&Question::Plan {
            what,
            tag,
            since,
            other,
        })?;
        self.bytes()
    }

    fn done(&mut self) -> Result<String> {
        match self.answer()? {
            Answer::Done { said } => Ok(said),
            _ => Err(self.no_answer()),
        }
    }

    /// Has it send what was planned, from a position on if there is one. The stream comes out of what is returned.
    /// What goes wrong on its way there is told by where it ends, and by the other side on its standard error.
    pub fn send(&mut self, position: Option<String>) -> Result<ChildStdout> {
        self.ask(&Question::Send { position })?;
        self.done()?;
        let from = self.from.take();
        from.ok_or_else(|| Failure::new(Kind::Refused, "it says no more"))
    }

    /// Has it note that the target was this when a snapshot of it was taken.
    pub fn was(&mut self, tag: u32, version: Same) -> Result<()> {
        let target = self.target.clone();
        self.ask(&Question::Was {
            target,
            tag,
            version,
        })?;
        self.done().map(drop)
    }

    /// Begins to have it receive. The stream goes into what is returned, which then goes away; whatever
    /// comes of it, [`Peer::received`] is to be asked.
    pub fn receive(&mut self, overwrite: bool) -> Result<ChildStdin> {
        self.ask(&Question::Receive {
            target: self.target.clone(),
            overwrite,
        })?;
        let to = self.to.take();
        to.ok_or_else(|| Failure::new(Kind::Refused, "it has been asked already"))
    }

    /// What has come of it: what was said to it, if it is done.
    pub fn received(mut self) -> Result<String> {
        self.done()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its input ends, and so does it. What it was told last it does to its end.
        self.to = None;
        self.from = None;
        let _ = self.child.wait();
    }
}

fn unstarted(shown: &str, error: &io::Error) -> Failure {
    let what = format!("{shown} cannot be reached: {error}");
    Failure::new(Kind::Unable, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
