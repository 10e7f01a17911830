// SPDX-License-Identifier: GPL-2.0
//! What a device answers to a message that was wrapped in `try`.

use crate::failure::{Failure, Kind};
use crate::hints;
use dm_snap_mv_model::refusal::Refusal;

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done; with what the message itself replies.
    Done(Vec<u8>),
    /// It was refused.
    Refused {
        /// The error's name, as `EBUSY`.
        errno: String,
        /// The reason.
        text: String,
    },
}

impl Reply {
    /// Takes an answer apart: `ok`, `ok REPLY`, or `refused ERRNO TEXT`.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        if let Some(rest) = answer.strip_prefix(b"ok") {
            return match rest.split_first() {
                None => Some(Self::Done(Vec::new())),
                Some((b' ' | b'\n', reply)) => Some(Self::Done(reply.to_vec())),
                Some(_) => None,
            };
        }
        let rest = std::str::from_utf8(answer.strip_prefix(b"refused ")?).ok()?;
        let (errno, text) = rest.trim_end().split_once(' ')?;
        Some(Self::Refused {
            errno: errno.to_owned(),
            text: text.to_owned(),
        })
    }

    /// What the message replied, or why it was refused, `doing` being what was attempted.
    pub fn done(self, doing: &str) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Done(reply) => Ok(reply),
            Self::Refused { errno, text } => Err(failure(&errno, &text).context(doing)),
        }
    }

    /// Whether it was refused for this reason.
    pub fn is(&self, refusal: Refusal) -> bool {
        matches!(self, Self::Refused { text, .. } if text == refusal.as_str())
    }
}

/// The tag that the reply to a message which takes a snapshot says.
pub fn tag(reply: &[u8]) -> Result<u32, Failure> {
    let tag = std::str::from_utf8(reply).ok();
    let tag = tag.and_then(|tag| tag.trim().parse().ok());
    tag.ok_or_else(|| {
        let what = "the module has not said which snapshot it took";
        Failure::new(Kind::Refused, what)
    })
}

/// The failure that a refusal of the target amounts to.
pub fn failure(errno: &str, text: &str) -> Failure {
    match Refusal::ALL.iter().find(|r| r.as_str() == text) {
        Some(refusal) => hints::failure(*refusal),
        None => Failure::new(Kind::of_errno(errno), text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(Reply::parse(b"ok"), Some(Reply::Done(vec![])));
        assert_eq!(Reply::parse(b"ok 12"), Some(Reply::Done(b"12".to_vec())));
        assert_eq!(
            Reply::parse(b"ok\nstore x\nend\n"),
            Some(Reply::Done(b"store x\nend\n".to_vec()))
        );
        assert_eq!(Reply::parse(b"okay"), None);
        assert_eq!(Reply::parse(b""), None);
        assert_eq!(
            Reply::parse(b"refused ENOENT unknown tag"),
            Some(Reply::Refused {
                errno: "ENOENT".into(),
                text: "unknown tag".into()
            })
        );
    }

    #[test]
    fn a_refusal_has_its_kind() {
        let reply = Reply::parse(b"refused ENOENT unknown tag").unwrap();
        assert!(reply.is(Refusal::UnknownTag));
        let failure = reply.done("cannot delete snapshot 7 of orig").unwrap_err();
        assert_eq!(failure.kind, Kind::NotFound);
        assert_eq!(
            failure.what,
            "cannot delete snapshot 7 of orig: unknown tag"
        );
        assert!(failure.hint.is_some());
    }

    #[test]
    fn a_reason_of_a_later_module_is_passed_on() {
        let failure = failure("EBUSY", "the moon is full");
        assert_eq!(failure.kind, Kind::Busy);
        assert_eq!(failure.what, "the moon is full");
        assert_eq!(failure.hint, None);
    }
}
