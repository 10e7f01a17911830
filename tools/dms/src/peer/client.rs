// SPDX-License-Identifier: GPL-2.0
//! Speaking with `dms serve`.

use super::place::Place;
use super::words::{self, failure, hear, say, Answer, Greeting, Holds, Question, PROTOCOL};
use crate::failure::{Failure, Kind, Result};
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
    from: ChildStdout,
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
            from,
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
        match hear(&mut self.from) {
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
        match self.answer()? {
            Answer::Done { said } => Ok(said),
            _ => Err(self.no_answer()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its input ends, and so does it. What it was told last it does to its end.
        self.to = None;
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
