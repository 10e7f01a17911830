// SPDX-License-Identifier: GPL-2.0
//! The manual page and the completions, from the definitions of the command line.

use crate::cli::Cli;
use crate::failure::{diff, fsck, EXIT_CODES};
use clap::{Arg, Command, CommandFactory};
use clap_complete::{generate, Shell};
use clap_mangen::roff::{bold, italic, roman, Inline, Roff};

/// The completions for a shell: what follows from the definitions, and where a device or a tag
/// belongs, what `dms complete` says.
pub fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    generate(shell, &mut Cli::command(), "dms", &mut out);
    let text = String::from_utf8_lossy(&out).into_owned();
    match shell {
        Shell::Bash => bash(&text),
        Shell::Zsh => zsh(&text),
        Shell::Fish => text + FISH,
        _ => text,
    }
}

/// The names of arguments that are made for the eye are among the words there.
const BASH: &str = r#"
_dms_with_names() {
    local word words=()
    _dms "$@"
    for word in "${COMPREPLY[@]}"; do
        [[ $word == [\<\[]* ]] || words+=("$word")
    done
    while IFS=$'\t' read -r word _; do
        [[ $word != "$2"* ]] || words+=("$word")
    done < <("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    COMPREPLY=("${words[@]}")
}

"#;

fn bash(text: &str) -> String {
    match text.split_once("\nif [[ \"${BASH_VERSINFO[0]}\"") {
        Some((functions, registration)) => format!(
            "{functions}\n{}\nif [[ \"${{BASH_VERSINFO[0]}}\"{}",
            BASH.trim_end(),
            registration.replace("-F _dms ", "-F _dms_with_names ")
        ),
        None => text.to_owned(),
    }
}

const ZSH: &str = r#"
_dms_names() {
    local -a names
    local word about
    while IFS=$'\t' read -r word about; do
        names+=("$word${about:+:${about//:/\\:}}")
    done < <(dms complete -- "${(@)words[1,CURRENT]}" 2>/dev/null)
    _describe -V name names
}
"#;

fn zsh(text: &str) -> String {
    let mut done = String::new();
    for line in text.lines() {
        let name = line.trim_start_matches(['\'', ':']);
        let is_name = ["dm_dev --", "tag --", "old --", "new --"]
            .iter()
            .any(|of_name| name.starts_with(of_name));
        match line.strip_suffix(":_default' \\") {
            Some(rest) if is_name => done += &format!("{rest}:_dms_names' \\\n"),
            _ => done += &format!("{line}\n"),
        }
        if line == "autoload -U is-at-least" {
            done += ZSH;
        }
    }
    done
}

const FISH: &str = r#"complete -c dms -n "not __fish_dms_needs_command" -f -k -a "(dms complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)"
"#;

/// The manual page.
pub fn manual() -> String {
    let mut dms = Cli::command();
    dms.build();
    let mut page = Roff::new();
    let version = dms.get_version().unwrap_or_default();
    page.control(
        "TH",
        [
            "DMS",
            "8",
            DATE,
            &format!("dms {version}"),
            "System Administration",
        ],
    );
    // Neither words that are typed nor blocks of output may be broken up.
    page.control("nh", []);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "dms - snapshots of block devices, in place, with dm-snap-mv",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    for (i, command) in commands(&dms).enumerate() {
        if i > 0 {
            page.control("br", []);
        }
        page.text(synopsis(command));
    }
    page.control("SH", ["DESCRIPTION"]);
    let about = dms.get_long_about().map(|s| s.to_string());
    let (_, about) = about
        .as_deref()
        .and_then(|text| text.split_once("\n\n"))
        .unwrap_or_default();
    paragraphs(&mut page, &format!("{about}\n\n{DESCRIPTION}"));
    page.control("SH", ["COMMANDS"]);
    for command in commands(&dms) {
        describe(&mut page, command);
    }
    page.control("PP", []);
    page.text([
        roman("Every command also takes "),
        bold("--help"),
        roman(" (short: "),
        bold("-h"),
        roman(") and "),
        bold("--version"),
        roman(" ("),
        bold("-V"),
        roman(")."),
    ]);
    for (heading, text) in [("NAMES", NAMES), ("OUTPUT", OUTPUT), ("STREAMS", STREAMS)] {
        page.control("SH", [heading]);
        paragraphs(&mut page, text);
    }
    page.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        tagged(&mut page, vec![bold(code.to_string())], meaning);
    }
    page.control("PP", []);
    page.text([roman(
        "The commands check and repair have those of fsck(8) instead:",
    )]);
    for (code, meaning) in fsck::EXIT_CODES {
        tagged(&mut page, vec![bold(code.to_string())], meaning);
    }
    page.control("PP", []);
    page.text([roman("The command diff has those of diff(1):")]);
    for (code, meaning) in diff::EXIT_CODES {
        tagged(&mut page, vec![bold(code.to_string())], meaning);
    }
    page.control("SH", ["ENVIRONMENT"]);
    tagged(
        &mut page,
        vec![bold("DM_DISABLE_UDEV")],
        "If it is set, dms makes and removes nodes in /dev/mapper itself, as libdevmapper does. \
         It also does so where no udev runs.",
    );
    page.control("SH", ["EXAMPLES"]);
    for (i, (text, commands)) in EXAMPLES.iter().enumerate() {
        if i > 0 {
            page.control("PP", []);
        }
        wrapped(&mut page, text);
        page.control("PP", []);
        page.control("nf", []);
        page.control("RS", []);
        for command in *commands {
            page.text([roman(*command)]);
        }
        page.control("RE", []);
        page.control("fi", []);
    }
    page.control("SH", ["SEE ALSO"]);
    let mut see = Vec::new();
    for (name, section) in [
        ("dmsetup", 8),
        ("lsblk", 8),
        ("fsfreeze", 8),
        ("lvmsnapshot", 7),
    ] {
        if !see.is_empty() {
            see.push(roman(", "));
        }
        see.extend([bold(name), roman(format!("({section})"))]);
    }
    page.text(see);
    page.control("PP", []);
    page.text([roman("In the sources:")]);
    page.text([
        italic("Documentation/admin-guide/device-mapper/dm-snap-mv.rst"),
        roman(", and for the format of streams"),
    ]);
    page.text([italic("dm-snap-mv-stream.rst"), roman(" beside it.")]);
    page.render()
}

/// Of the last change of substance to the page.
const DATE: &str = "2026-11-30";

const DESCRIPTION: &str = "\
The COW device holds a store: what the origins contained before it was overwritten, once for \
each piece however many snapshots there are, and what was written to snapshots. The origin \
device itself always holds the current data and nothing else, so that it can be used without \
dm-snap-mv at any time. But what is then written to it is missing in the snapshots: while it has \
snapshots, an origin must be written through its device-mapper device only.

Devices are not kept over a reboot: \"dms create\" brings them back, without -b and -f.";

const NAMES: &str = "\
DM_DEV is the name of a device-mapper device, with or without /dev/mapper/. But for \"dms create\", \
any path to it will do as well, and any to a file on a file system that is mounted from it.

ORIGIN and COW are block devices. What does not begin with a slash or a dot is taken to be \
below /dev: sdb1 is /dev/sdb1, and vg/lv is the logical volume /dev/vg/lv. MAJOR:MINOR will do \
as well.

The store knows an origin by its path, with links not followed, or by what is given with -i. A \
logical volume has one identity, /dev/VG/LV, however it is named.

TAG is the number of a snapshot. Tags count from 1 for each origin and are never used twice.

TARGET is a block device, named likewise, if there is one of that name. Otherwise it is a file, from \
the working directory on. One that is not there yet is made only if there is a slash in its name, as in \
./file, and not below /dev: the name of a device that was mistyped is no file.";

const OUTPUT: &str = "\
\"dms list\" shows a block for each origin of which a device is active: the devices, how much of \
the COW device is used, its state, and whether cleaning or a rollback is under way. Then follows \
a line for each version: when it was made, its tag (0 is the origin), marks, the number of chunks \
of the COW device that are its own, the device that shows it, and its memo. Chunks that were \
preserved for snapshots count as the origin's.

With --json, \"list\" and \"status\" write an array of objects. Fields may be added to them, but \
those that are there keep their names and meanings. Sizes are in bytes or say otherwise in their \
names.

\"dms diff --json\" and \"dms dump --json\" write an object in each line instead, whose field \
\"kind\" tells what it is, and an \"end\" last: where that is missing, so is something else. \
Those of diff are \"diff\", \"range\" and \"end\", or \"count\" alone with --count; ranges are in \
bytes. Those of dump are \"superblock\", \"origin\", \"rollback\" with its \"done\" chunks, \
\"deferred\", \"snapshot\", \"cleaning\", \"records\" and \"end\", in this order; what they mean is \
told in dm-snap-mv-format.rst. Without --json, dump writes the same words, and fields as NAME=VALUE.

\"dms snapshot\" prints the new snapshot's tag and nothing else. Messages go to standard error, \
and so does a progress bar if that is a terminal.";

const STREAMS: &str = "\
\"dms send\" writes a snapshot as a stream, or what has changed since an older one. How much that is is \
known before the first byte, and what is sent of a snapshot is always the same, so that it can be gone on \
with. What is sent is read from the device that shows the snapshot, or from one that dms makes for itself \
and that the kernel removes when dms ends, however that comes. A stream that was cut off cannot be taken \
for a whole one. Where nobody reads the stream to its end, dms send says nothing and exits with 1.

\"dms receive\" makes a file, a plain device or an origin what a stream says; neither root nor the module \
is needed for a file. It works without anything else on the way: a stream can come through a pipe, from a \
file, or over ssh. Nothing in it is secret or signed: that is for what carries it.

Until a stream has been received to its end, TARGET holds a mixture. What is noted beside it says so, \
and says up to which mark what was received is on stable storage; at most 64 MiB are to be received \
again after a crash. TARGET cannot be used as a version until then, and if its old content was not put \
aside with --keep, it can only be gone on with. A file must not be written by anybody else \
meanwhile, which is not prevented; a device is claimed.

What TARGET holds is proven by what is noted and by samples: its beginning, its end, and 64 \
pieces of 4 KiB in between. Who has changed a byte elsewhere is found only with --digest, by \
reading all of it.

To move a file that was received, move its .dms-state with it.

An origin is proven by the snapshot that was taken when it was received: no chunk of it may have been \
written since, or what was must be the same again, as after a rollback. Where it was rolled back, \
what that has changed is read. While an origin holds a mixture, its snapshots are what they were. When all has \
been received and no snapshot can be taken, for want of space, say, the same stream again has it taken, \
without being written again. --abort rolls the origin back. If the COW device is full, snapshots are \
kept only with the policies error and queue: see \"dms create -e\". What origins hold is noted in \
/var/lib/dms/receive, in a file for each that is called by the UUID of the store and the number in it. What \
plain devices hold is noted there, too, in files that are called by what a device says that it is: its WWID \
or serial number with the number of the partition, or its UUID if device-mapper has made it; where there is \
nothing of the kind, by its name.

\"dms apply\" sends and receives on one machine. With --instant, what is noted is in /var/lib/dms/apply, \
until it is finished.";

const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "Begin with /dev/sdb1 as the origin and /dev/sdc1 as the COW device, which is formatted \
         for it:",
        &[
            "dms create orig sdb1 sdc1 -bf",
            "mount /dev/mapper/orig /srv",
        ],
    ),
    (
        "Take a snapshot and look at it:",
        &[
            "dms snapshot orig -m \"before the upgrade\"",
            "dms create before sdb1 sdc1 1",
            "mount /dev/mapper/before /mnt",
        ],
    ),
    (
        "Which parts of the origin are different now, and how much of it that is:",
        &["dms diff orig 1", "dms diff orig 1 now --count"],
    ),
    (
        "Go back to it:",
        &[
            "umount /srv",
            "dms rollback orig 1",
            "mount /dev/mapper/orig /srv",
        ],
    ),
    (
        "Delete it, and see the space come back:",
        &[
            "umount /mnt",
            "dms remove before",
            "dms delete orig 1",
            "dms wait orig --cleaning",
        ],
    ),
    (
        "Do without dm-snap-mv again:",
        &["umount /srv", "dms delete orig", "mount /dev/sdb1 /srv"],
    ),
];

/// The commands that are for everybody; of one that is only the first word of others, those.
fn commands(dms: &Command) -> impl Iterator<Item = &Command> {
    let visible = dms.get_subcommands().filter(|c| !c.is_hide_set());
    visible.flat_map(|command| match command.has_subcommands() {
        true => command.get_subcommands().collect(),
        false => vec![command],
    })
}

/// All words of a command, up to the first argument.
fn words(command: &Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

fn visible(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names()
        .and_then(|names| names.first())
        .map_or_else(|| arg.get_id().as_str().to_uppercase(), |n| n.to_string())
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn synopsis(command: &Command) -> Vec<Inline> {
    let mut line = vec![bold(words(command))];
    for alias in command.get_visible_aliases() {
        line.extend([roman("|"), bold(alias)]);
    }
    let all: Vec<_> = visible(command).collect();
    for arg in all.iter().filter(|arg| arg.is_positional()) {
        let (open, close) = match arg.is_required_set() {
            true => ("", ""),
            false => ("[", "]"),
        };
        line.extend([
            roman(format!(" {open}")),
            italic(value_name(arg)),
            roman(close),
        ]);
    }
    for arg in all.iter().filter(|arg| !arg.is_positional()) {
        let name = match (arg.get_short(), arg.get_long()) {
            (Some(short), _) => format!("-{short}"),
            (None, long) => format!("--{}", long.unwrap_or_default()),
        };
        line.extend([roman(" ["), bold(name)]);
        if takes_value(arg) {
            line.extend([roman(" "), italic(value_name(arg))]);
        }
        line.push(roman("]"));
    }
    line
}

fn describe(page: &mut Roff, command: &Command) {
    let mut heading = words(command).to_owned();
    for alias in command.get_visible_aliases() {
        heading += &format!(", dms {alias}");
    }
    page.control("SS", [heading.as_str()]);
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(|s| s.to_string())
        .unwrap_or_default();
    paragraphs(page, &about);
    for arg in visible(command) {
        let mut name = Vec::new();
        if arg.is_positional() {
            name.push(italic(value_name(arg)));
        }
        if let Some(short) = arg.get_short() {
            name.push(bold(format!("-{short}")));
        }
        if let Some(long) = arg.get_long() {
            if !name.is_empty() {
                name.push(roman(", "));
            }
            name.push(bold(format!("--{long}")));
        }
        if !arg.is_positional() && takes_value(arg) {
            name.extend([roman(" "), italic(value_name(arg))]);
        }
        let help = arg
            .get_long_help()
            .or(arg.get_help())
            .map(|s| s.to_string())
            .unwrap_or_default();
        tagged(page, name, &help);
    }
}

fn tagged(page: &mut Roff, tag: Vec<Inline>, text: &str) {
    page.control("TP", []);
    page.text(tag);
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            page.control("IP", []);
        }
        wrapped(page, &sentence(paragraph));
    }
}

/// Writes paragraphs, where one can begin.
fn paragraphs(page: &mut Roff, text: &str) {
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            page.control("PP", []);
        }
        wrapped(page, &sentence(paragraph));
    }
}

/// Writes text in lines of bearable length.
fn wrapped(page: &mut Roff, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > 72 {
            page.text([roman(std::mem::take(&mut line))]);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    page.text([roman(line)]);
}

/// A paragraph with the full stop that the short help texts do without.
fn sentence(paragraph: &str) -> String {
    let mut text = paragraph.to_owned();
    if !text.ends_with(['.', ':', ']', ')']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_all_commands_and_options() {
        let page = manual();
        let mut dms = Cli::command();
        dms.build();
        for command in commands(&dms) {
            assert!(page.contains(&format!(".SS \"{}", words(command))));
        }
        assert!(page.contains(".SS \"dms stream merge\""));
        for option in ["force\\-format", "defer", "json", "timeout"] {
            assert!(page.contains(&format!("\\-\\-{option}")), "{option}");
        }
        assert!(!page.contains("dms docs"));
    }

    #[test]
    fn completions_have_all_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            for command in ["create", "rollback", "merge", "verify", "completions"] {
                assert!(text.contains(command), "{shell} {command}");
            }
        }
    }

    #[test]
    fn completions_ask_for_devices_and_tags() {
        let bash = completions(Shell::Bash);
        assert_eq!(bash.matches("complete -F _dms_with_names ").count(), 2);
        assert!(!bash.contains("complete -F _dms "));
        let zsh = completions(Shell::Zsh);
        let lines = zsh.lines().filter(|line| line.contains(":_dms_names'"));
        for line in lines.clone() {
            let names = ["dm_dev --", "tag --", "old --", "new --"];
            assert!(names.iter().any(|name| line.contains(name)), "{line}");
        }
        // Each command and each short form of it.
        assert_eq!(lines.count(), 37);
        assert!(completions(Shell::Fish).contains("dms complete -- "));
    }
}
