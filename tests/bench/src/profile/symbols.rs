// SPDX-License-Identifier: GPL-2.0

//! The kernel's functions and its modules', by address. perf knows these too, but not which module
//! one is of, where the modules' files are not to be found.

use std::fs;

use anyhow::{ensure, Context, Result};

const FILE: &str = "/proc/kallsyms";

/// Everything above is the kernel's.
const KERNEL: u64 = 1 << 63;

struct Symbol {
    address: u64,
    name: String,
    module: Option<String>,
}

/// All of them, by address.
pub struct Symbols(Vec<Symbol>);

impl Symbols {
    /// Those of the kernel that runs.
    pub fn new() -> Result<Self> {
        let text = fs::read_to_string(FILE).context(FILE)?;
        let symbols = Self::parse(&text);
        ensure!(
            symbols.0.iter().any(|symbol| symbol.address >= KERNEL),
            "{FILE} does not tell addresses"
        );
        Ok(symbols)
    }

    fn parse(text: &str) -> Self {
        let mut all: Vec<_> = text.lines().filter_map(symbol).collect();
        all.sort_by_key(|symbol| symbol.address);
        Self(all)
    }

    /// The module, without brackets, and the function at an address of the kernel.
    pub fn find(&self, address: u64) -> Option<(Option<&str>, &str)> {
        if address < KERNEL {
            return None;
        }
        let after = self.0.partition_point(|symbol| symbol.address <= address);
        let symbol = self.0.get(after.checked_sub(1)?)?;
        Some((symbol.module.as_deref(), &symbol.name))
    }
}

/// A line with an address, `t` or the like, a name, and `[module]`, if it is of a function.
fn symbol(line: &str) -> Option<Symbol> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    if !matches!(words.next()?, "t" | "T" | "w" | "W") {
        return None;
    }
    let name = words.next()?.to_owned();
    let module = words
        .next()
        .map(|word| word.trim_matches(['[', ']']).to_owned());
    Some(Symbol {
        address,
        name,
        module,
    })
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    #[test]
    fn what_is_before_an_address() {
        let symbols = Symbols::parse(
            "ffffffff81000100 T second\nffffffff81000000 t first\n\
             ffffffff81000050 d data\nffffffffc0000000 t map\t[dm_mod]\n",
        );
        assert_eq!(symbols.find(0xffff_ffff_8100_00ff), Some((None, "first")));
        assert_eq!(symbols.find(0xffff_ffff_8100_0100), Some((None, "second")));
        assert_eq!(
            symbols.find(0xffff_ffff_c000_0010),
            Some((Some("dm_mod"), "map"))
        );
        assert_eq!(symbols.find(0x1000), None);
        assert_eq!(symbols.find(0xffff_ffff_8000_0000), None);
    }
}
