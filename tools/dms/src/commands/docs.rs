// SPDX-License-Identifier: GPL-2.0
//! `dms man` and `dms docs`, for who builds and packages it

use crate::cli::Docs;
use crate::docs;
use crate::failure::{Failure, Kind, Result};
use clap_complete::Shell;
use std::fs;
use std::path::Path;

pub fn man() -> Result<()> {
    super::print(&docs::manual())
}

pub fn run(args: &Docs) -> Result<()> {
    write(&args.dir.join("man/dms.8"), &docs::manual())?;
    for (shell, file) in [
        (Shell::Bash, "dms.bash"),
        (Shell::Zsh, "_dms"),
        (Shell::Fish, "dms.fish"),
    ] {
        let path = args.dir.join("completions").join(file);
        write(&path, &docs::completions(shell))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .map_err(|e| {
            Failure::new(
                Kind::Refused,
                format!("cannot write {}: {e}", path.display()),
            )
        })
}
