// SPDX-License-Identifier: GPL-2.0
//! `dms completions`

use crate::cli::Completions;
use crate::docs;
use crate::failure::Result;

pub fn run(args: &Completions) -> Result<()> {
    super::print(&docs::completions(args.shell))
}
