// SPDX-License-Identifier: GPL-2.0

//! How many images were tried of each kind of block, and what came of them.

use std::collections::BTreeMap;

use anyhow::{ensure, Result};

use super::image::Kind;

/// What came of an image.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    /// The store was not opened.
    Refused,
    /// It was, and there were errors later on.
    Failed,
    /// Nothing was noticed.
    Unnoticed,
    /// It did harm.
    Harm,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Refused, "not opened"),
    (Outcome::Failed, "with errors"),
    (Outcome::Unnoticed, "not noticed"),
    (Outcome::Harm, "with harm"),
];

/// The outcomes of each kind.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<Kind, Vec<Outcome>>);

fn words(outcomes: &[Outcome]) -> String {
    let counts = OUTCOMES.iter().filter_map(|(outcome, word)| {
        let n = outcomes.iter().filter(|o| *o == outcome).count();
        (n != 0).then(|| format!("{n} {word}"))
    });
    counts.collect::<Vec<_>>().join(", ")
}

impl Tally {
    pub(super) fn add(&mut self, kind: Kind, outcome: Outcome) {
        self.0.entry(kind).or_default().push(outcome);
    }

    pub(super) fn print(&self, what: &str) {
        for (kind, outcomes) in &self.0 {
            let n = outcomes.len();
            println!("# hostile: {what}: {n} of {kind}: {}", words(outcomes));
        }
        let all: Vec<Outcome> = self.0.values().flatten().copied().collect();
        println!("# hostile: {what}: {} images: {}", all.len(), words(&all));
    }

    /// No kind was tried less often than this, and some images were opened and some were noticed.
    pub(super) fn ensure(&self, kinds: &[Kind], least: u64) -> Result<()> {
        for kind in kinds {
            let n = self.0.get(kind).map_or(0, Vec::len);
            ensure!(n as u64 >= least, "{n} images of {kind}, not {least}");
        }
        for (outcome, word) in &OUTCOMES[..3] {
            let n = self.0.values().flatten().any(|o| o == outcome);
            ensure!(n, "of all images none was {word}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind that was tried too seldom is told, and so is what never happened.
    #[test]
    fn what_was_left_out_is_told() {
        let kinds = [Kind::Superblock, Kind::Journal];
        let mut tally = Tally::default();
        for outcome in [Outcome::Refused, Outcome::Failed, Outcome::Unnoticed] {
            tally.add(Kind::Superblock, outcome);
            tally.add(Kind::Journal, outcome);
        }
        assert!(tally.ensure(&kinds, 3).is_ok());
        tally.add(Kind::Superblock, Outcome::Refused);
        assert!(tally.ensure(&kinds, 4).is_err());
        assert!(tally.ensure(&[Kind::DataBitmap], 1).is_err());

        let mut tally = Tally::default();
        tally.add(Kind::Superblock, Outcome::Unnoticed);
        assert!(tally.ensure(&[Kind::Superblock], 1).is_err());
    }
}
