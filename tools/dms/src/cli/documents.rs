// SPDX-License-Identifier: GPL-2.0
//! The command line of what writes the manual, and what helps to type all others.

use clap::{Args, ValueHint};
use clap_complete::Shell;
use std::path::PathBuf;

/// Print completions for a shell
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Write the manual page to DIR/man and completions to DIR/completions
#[derive(Args, Debug)]
pub struct Docs {
    /// The folder
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// Print what a word could be, for the completions of shells
#[derive(Args, Debug)]
pub struct Complete {
    /// The words behind dms, up to the one that is being typed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}
