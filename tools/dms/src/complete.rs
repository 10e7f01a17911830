// SPDX-License-Identifier: GPL-2.0
//! What a word of the command line that is being typed could be, from the definitions of the
//! command line.

use crate::cli::Cli;
use clap::{Arg, CommandFactory};

/// What is wanted for a word.
#[derive(Debug, PartialEq, Eq)]
pub enum Completes {
    /// The name of an active device.
    Device,
    /// The tag of a snapshot of the origin of this device.
    Tag(String),
    /// The tag of a snapshot of this origin on this COW device.
    StoredTag {
        /// The origin, as it was typed.
        origin: String,
        /// The COW device, as it was typed.
        cow: String,
        /// The identity of the origin, if one was given.
        id: Option<String>,
    },
}

/// What the last of the words behind `dms` is to be. `None` if that is something that shells know
/// themselves, or nobody can know.
pub fn last_of(words: &[String]) -> Option<Completes> {
    let (current, before) = words.split_last()?;
    let (command, before) = before.split_first()?;
    if current.starts_with('-') {
        return None;
    }
    let mut dms = Cli::command();
    dms.build();
    let command = dms.find_subcommand(command)?;
    let mut values: Vec<String> = Vec::new();
    let mut id = None;
    let mut before = before.iter();
    while let Some(word) = before.next() {
        match option(command.get_arguments(), word) {
            None => values.push(word.clone()),
            Some(arg) if takes_next(arg, word) => {
                // It is this that is being typed.
                let value = before.next()?;
                if arg.get_id() == "id" {
                    id = Some(value.clone());
                }
            }
            Some(_) => {}
        }
    }
    let arg = command.get_positionals().nth(values.len())?;
    let mut values = values.into_iter();
    match (command.get_name(), arg.get_id().as_str()) {
        // It is to be a new one.
        ("create", "dm_dev") => None,
        (_, "dm_dev") => Some(Completes::Device),
        ("create", "tag") => Some(Completes::StoredTag {
            origin: values.nth(1)?,
            cow: values.next()?,
            id,
        }),
        (_, "tag" | "old" | "new") => Some(Completes::Tag(values.next()?)),
        _ => None,
    }
}

/// The last option in `word`, of which several short ones may be joined, if it is one at all.
fn option<'a>(mut all: impl Iterator<Item = &'a Arg>, word: &str) -> Option<&'a Arg> {
    if let Some(long) = word.strip_prefix("--") {
        let long = long.split('=').next();
        return all.find(|arg| arg.get_long() == long);
    }
    let short = word.strip_prefix('-')?;
    let all: Vec<_> = all.filter(|arg| arg.get_short().is_some()).collect();
    let of = |letter| all.iter().find(|arg| arg.get_short() == Some(letter));
    let mut last = None;
    for letter in short.chars() {
        last = of(letter).copied();
        // The rest is its value.
        if last?.get_action().takes_values() {
            break;
        }
    }
    last
}

/// Whether the value of the option in `word` is the word behind it.
fn takes_next(arg: &Arg, word: &str) -> bool {
    let own = match word.starts_with("--") {
        true => word.contains('='),
        false => arg.get_short() != word.chars().last(),
    };
    arg.get_action().takes_values() && !own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Completes> {
        last_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn devices_and_tags_where_they_belong() {
        let tag = |device: &str| Some(Completes::Tag(device.to_owned()));
        for (line, completes) in [
            ("", None),
            ("snap", None),
            ("snapshot ", Some(Completes::Device)),
            ("s or", Some(Completes::Device)),
            ("snapshot -m memo ", Some(Completes::Device)),
            ("snapshot -m ", None),
            ("snapshot -mmemo ", Some(Completes::Device)),
            ("snapshot --memo=x ", Some(Completes::Device)),
            ("snapshot orig ", tag("orig")),
            ("snapshot orig --memo x 1", tag("orig")),
            ("snapshot orig -", None),
            ("delete orig ", tag("orig")),
            ("rollback -b orig ", tag("orig")),
            ("nbd --once --since 1 orig ", tag("orig")),
            ("merge --defer orig 1", tag("orig")),
            ("merge orig 1 ", None),
            ("diff orig ", tag("orig")),
            ("send --since 1 orig ", tag("orig")),
            ("diff --json orig 1 2", tag("orig")),
            ("wait --cleaning ", Some(Completes::Device)),
            ("wait --timeout ", None),
            ("list -a --json ", Some(Completes::Device)),
            ("create ", None),
            ("create x ", None),
            ("check ", None),
            ("nothing ", None),
        ] {
            assert_eq!(of(line), completes, "{line}");
        }
    }

    #[test]
    fn a_snapshot_that_is_to_be_shown() {
        let stored = |id: Option<&str>| {
            Some(Completes::StoredTag {
                origin: "sdb1".to_owned(),
                cow: "sdc1".to_owned(),
                id: id.map(str::to_owned),
            })
        };
        assert_eq!(of("create x sdb1 sdc1 "), stored(None));
        assert_eq!(of("c x -i data sdb1 sdc1 1"), stored(Some("data")));
        assert_eq!(of("c x sdb1 sdc1 -e queue 1"), stored(None));
    }
}
