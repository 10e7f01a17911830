// SPDX-License-Identifier: GPL-2.0

//! How much is tried. Everybody's run of all tests is to take minutes, so it tries what tells most;
//! the long one, with `TEST_LONG`, takes the time that it takes.

/// Whether it is the long run.
pub fn is_long() -> bool {
    std::env::var_os("TEST_LONG").is_some_and(|value| !value.is_empty())
}

/// So many, or so much, in the usual run and in the long one.
pub fn usual_or_long<T>(usual: T, long: T) -> T {
    if is_long() {
        long
    } else {
        usual
    }
}

/// Which cases of a subject are run, counted from 0: `TEST_PART=2/5` is the second of five equal
/// parts of them, and without it all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    which: u32,
    of: u32,
}

impl Part {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let text = std::env::var("TEST_PART").unwrap_or_default();
        let all = Self { which: 0, of: 1 };
        if text.is_empty() {
            return all;
        }
        Self::parse(&text).unwrap_or_else(|| panic!("TEST_PART={text} is no part"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (which, of) = text.split_once('/')?;
        let (which, of): (u32, u32) = (which.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&which).then(|| Self {
            which: which - 1,
            of,
        })
    }

    /// Its share of so many.
    pub fn share(self, all: usize) -> usize {
        all.div_ceil(self.of as usize)
    }

    /// Whether the case with this number is in it.
    pub fn has(self, number: u32) -> bool {
        number % self.of == self.which
    }
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn parts_are_all_there_is() {
        for text in ["", "1", "0/3", "4/3", "1/0", "a/3", "1/3/3"] {
            assert_eq!(Part::parse(text), None, "{text}");
        }
        let parts = ["1/3", "2/3", "3/3"].map(|text| Part::parse(text).expect("a part"));
        for number in 0..10 {
            let with = parts.iter().filter(|part| part.has(number));
            assert_eq!(with.count(), 1);
        }
    }
}
