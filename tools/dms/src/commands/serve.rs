// SPDX-License-Identifier: GPL-2.0
//! `dms serve`

use crate::cli::Serve;
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::lent::{self, Lending};
use crate::peer::words::{hear, say, Answer, Greeting, Question, DIGESTS, PROTOCOL};
use crate::show::stream::hex;
use crate::thing::Thing;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};

/// Whatever is asked, dms itself does it, in a process of its own: what it says goes back as it is, and
/// the stream goes past this one.
pub fn run(args: &Serve) -> Result<()> {
    if args.state.is_some() && args.receive.len() != 1 {
        return Err(Failure::usage(
            "--state is for one target, given with --receive",
        ));
    }
    let broken = |error: io::Error| match error.kind() {
        // The other side has gone.
        io::ErrorKind::BrokenPipe => Failure::quiet(Kind::Refused),
        _ => Failure::new(
            Kind::Refused,
            format!("the conversation is broken: {error}"),
        ),
    };
    // Unlike io::stdin() and io::stdout() these keep nothing back.
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(broken)?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(broken)?;
    let (mut stdin, mut stdout) = (File::from(stdin), File::from(stdout));
    let greeting = Greeting {
        dms_serve: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    say(&mut stdout, &greeting).map_err(broken)?;
    // What is looked at or to be sent, between one question and the next.
    let mut open = Open::default();
    while let Some(question) = hear::<Question>(&mut stdin).map_err(broken)? {
        let last = matches!(question, Question::Receive { .. });
        let answer = answer(args, &question, &mut open);
        let done = !matches!(answer, Answer::Failed { .. });
        say(&mut stdout, &answer).map_err(broken)?;
        if let (Question::Send { .. }, true) = (&question, done) {
            return open.lending.send(stdout);
        }
        if last || !done {
            return match done {
                true => Ok(()),
                false => Err(Failure::quiet(Kind::Refused)),
            };
        }
    }
    Ok(())
}

fn refused(said: impl Into<String>) -> Answer {
    Answer::Failed {
        code: Kind::Refused as u8,
        said: said.into(),
    }
}

/// What there is between one question and the next.
#[derive(Default)]
struct Open {
    /// What is looked at.
    thing: Option<(String, Thing)>,
    /// What is to be sent.
    lending: Lending,
}

fn answer(args: &Serve, question: &Question, open: &mut Open) -> Answer {
    let is_one = |all: &[OsString], name: &str| all.iter().any(|one| one == OsStr::new(name));
    let may_receive = |name: &str| is_one(&args.receive, name);
    let may_send = |name: &str| is_one(&args.send, name);
    match question {
        Question::Origin { what, .. }
        | Question::Changed { what, .. }
        | Question::Snapshot { what, .. }
        | Question::Plan { what, .. }
        | Question::Was { target: what, .. }
            if !may_send(what) =>
        {
            let what = what.escape_debug();
            refused(format!(
                "nothing may be sent from {what} by this way\n\
                 that takes --send {what}, of dms serve"
            ))
        }
        Question::Status { target }
        | Question::Receive { target, .. }
        | Question::Was { target, .. }
            if !may_receive(target) =>
        {
            let target = target.escape_debug();
            refused(format!("nothing may be received into {target} by this way"))
        }
        Question::Status { target } => status(args, target),
        Question::Receive { target, overwrite } => receive(args, target, *overwrite),
        Question::Size { what } | Question::Digests { what, .. }
            if !may_receive(what) && !args.verify.contains(what) =>
        {
            let what = what.escape_debug();
            refused(format!("{what} may not be looked at by this way"))
        }
        Question::Size { what } | Question::Digests { what, .. } => {
            told(look(question, what, &mut open.thing))
        }
        Question::Was {
            target,
            tag,
            version,
        } => told(lent::was(target, args.state.as_deref(), *tag, version)),
        _ => told(open.lending.answer(question)),
    }
}

fn told(answer: Result<Answer>) -> Answer {
    answer.unwrap_or_else(|failure| Answer::Failed {
        code: failure.code(),
        said: failure.to_string(),
    })
}

fn look(question: &Question, what: &str, open: &mut Option<(String, Thing)>) -> Result<Answer> {
    if open.as_ref().is_none_or(|(name, _)| name != what) {
        *open = Some((
            what.to_owned(),
            super::verify::open(what, &Interrupt::watch()?)?,
        ));
    }
    let Some((_, thing)) = open else {
        return Ok(refused("it is not open"));
    };
    match *question {
        Question::Digests {
            start,
            sectors,
            each,
            ..
        } if each > 0 && sectors.div_ceil(each) <= DIGESTS => {
            let digests = thing.digests(start, sectors, each)?;
            Ok(Answer::Digests {
                hex: hex(digests.as_flattened()),
            })
        }
        Question::Digests { .. } => Ok(refused("too much is asked for")),
        _ => Ok(Answer::Size {
            sectors: thing.sectors(),
        }),
    }
}

fn status(args: &Serve, target: &str) -> Answer {
    match dms_receive(args, target, &["--status", "--json"], Stdio::null()) {
        Ok(output) if output.status.success() => match serde_json::from_slice(&output.stdout) {
            Ok(holds) => Answer::Holds(holds),
            Err(error) => refused(format!("what {target} holds makes no sense: {error}")),
        },
        other => failed(other),
    }
}

fn receive(args: &Serve, target: &str, overwrite: bool) -> Answer {
    if overwrite && !args.overwrite {
        return refused(format!(
            "{target} may not be written over by this way\n\
             that takes --overwrite, of dms serve"
        ));
    }
    let options: &[&str] = if overwrite { &["--force"] } else { &[] };
    match dms_receive(args, target, options, Stdio::inherit()) {
        Ok(output) if output.status.success() => Answer::Done {
            said: String::from_utf8_lossy(&output.stdout).into_owned(),
        },
        other => failed(other),
    }
}

/// Runs `dms receive` of this program.
fn dms_receive(args: &Serve, target: &str, options: &[&str], stdin: Stdio) -> io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["receive", target]).args(options).stdin(stdin);
    if let Some(state) = &args.state {
        command.arg("--state").arg(state);
    }
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
}

fn failed(output: io::Result<Output>) -> Answer {
    match output {
        Ok(output) if output.stderr.is_empty() => refused(format!(
            "dms receive has ended there with {}",
            output.status
        )),
        Ok(output) => Answer::Failed {
            code: output
                .status
                .code()
                .and_then(|code| code.try_into().ok())
                .unwrap_or(1),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => refused(format!("cannot start dms: {error}")),
    }
}
