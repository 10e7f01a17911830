// SPDX-License-Identifier: GPL-2.0

//! `dms-tests SUBJECT[=WORD]...`: runs subjects, or only their cases with WORD in the name.

use std::process::ExitCode;

use dms_tests::disks::Disks;
use dms_tests::report::Subject;
use dms_tests::subjects::SUBJECTS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        eprintln!("usage: dms-tests SUBJECT[=WORD]...; the subjects:");
        for (name, _) in SUBJECTS {
            eprintln!("  {name}");
        }
        return ExitCode::from(2);
    }
    let disks = match Disks::find() {
        Ok(disks) => disks,
        Err(e) => {
            eprintln!("dms-tests: {e:#}");
            return ExitCode::from(2);
        }
    };
    let mut good = true;
    for argument in &arguments {
        let (wanted, only) = match argument.split_once('=') {
            Some((name, word)) => (name, Some(word.to_owned())),
            None => (argument.as_str(), None),
        };
        let Some((name, run)) = SUBJECTS.iter().find(|(name, _)| *name == wanted) else {
            eprintln!("dms-tests: there is no subject {wanted}");
            return ExitCode::from(2);
        };
        let mut subject = Subject::new(name, only);
        run(&mut subject, &disks);
        good &= subject.end();
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
