// SPDX-License-Identifier: GPL-2.0
//! `dms serve`

use crate::cli::Serve;
use crate::failure::{Failure, Kind, Result};
use crate::interrupt::Interrupt;
use crate::peer::words::{hear, hex, say, Answer, Greeting, Question, DIGESTS, PROTOCOL};
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
    // What is looked at, between one question and the next.
    let mut open = None;
    while let Some(question) = hear::<Question>(&mut stdin).map_err(broken)? {
        let last = matches!(question, Question::Receive { .. });
        let answer = answer(args, &question, &mut open);
        let done = !matches!(answer, Answer::Failed { .. });
        say(&mut stdout, &answer).map_err(broken)?;
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

fn answer(args: &Serve, question: &Question, open: &mut Option<(String, Thing)>) -> Answer {
    match question {
        Question::Status { target } | Question::Receive { target, .. } => {
            if !args
                .receive
                .iter()
                .any(|allowed| allowed == OsStr::new(target))
            {
                let target = target.escape_debug();
                return refused(format!("nothing may be received into {target} by this way"));
            }
            received(args, question, target)
        }
        Question::Size { what } | Question::Digests { what, .. } => {
            let received = args
                .receive
                .iter()
                .any(|allowed| allowed == OsStr::new(what));
            if !received && !args.verify.contains(what) {
                let what = what.escape_debug();
                return refused(format!("{what} may not be looked at by this way"));
            }
            let looked = look(question, what, open);
            looked.unwrap_or_else(|failure| Answer::Failed {
                code: failure.code(),
                said: failure.to_string(),
            })
        }
    }
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
            Ok(Answer::Digests { hex: hex(&digests) })
        }
        Question::Digests { .. } => Ok(refused("too much is asked for")),
        _ => Ok(Answer::Size {
            sectors: thing.sectors(),
        }),
    }
}

fn received(args: &Serve, question: &Question, target: &str) -> Answer {
    let mut words: Vec<OsString> = vec!["receive".into(), target.into()];
    if let Some(state) = &args.state {
        words.extend(["--state".into(), state.into()]);
    }
    match question {
        Question::Status { .. } => {
            words.extend(["--status".into(), "--json".into()]);
            match dms(&words, Stdio::null()) {
                Ok(output) if output.status.success() => {
                    match serde_json::from_slice(&output.stdout) {
                        Ok(holds) => Answer::Holds(holds),
                        Err(error) => {
                            refused(format!("what {target} holds makes no sense: {error}"))
                        }
                    }
                }
                other => failed(other),
            }
        }
        Question::Receive { overwrite, .. } => {
            if *overwrite && !args.overwrite {
                return refused(format!(
                    "{target} may not be written over by this way\n\
                     that takes --overwrite, of dms serve"
                ));
            }
            if *overwrite {
                words.push("--force".into());
            }
            match dms(&words, Stdio::inherit()) {
                Ok(output) if output.status.success() => Answer::Done {
                    said: String::from_utf8_lossy(&output.stdout).into_owned(),
                },
                other => failed(other),
            }
        }
        Question::Size { .. } | Question::Digests { .. } => refused("that is not received"),
    }
}

/// Runs this program.
fn dms(words: &[OsString], stdin: Stdio) -> io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).stdin(stdin);
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
