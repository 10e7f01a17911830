// SPDX-License-Identifier: GPL-2.0
//! Labels: the `label` message's reply, and the words that set one.

use crate::cli::LabelFields;
use crate::dm::{Dm, Mapped};
use crate::failure::{Failure, Result};
use crate::fields::Malformed;
use crate::words;
use chrono::{Local, NaiveDate, NaiveDateTime, TimeZone, Utc};
use dm_snap_mv_model::refusal::Refusal;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;

/// What the kernel knows of a snapshot or bookmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// What it is known by everywhere.
    pub uuid: String,
    /// What those that were taken with it have in common.
    pub group: Option<String>,
    /// `crash`, `file-system` or `application`.
    pub consistency: String,
    /// Until when it is to be kept, in seconds since 1970.
    pub keep_until: Option<u64>,
    /// What it is kept by.
    pub policy: Option<String>,
    /// The version elsewhere that it has the content of: `STORE/ORIGIN/TAG`.
    pub from: Option<String>,
    /// What it is called.
    pub name: Option<String>,
}

impl Label {
    /// Takes a reply apart.
    fn parse(line: &[u8]) -> std::result::Result<Self, Malformed> {
        let words = words::split_raw(line);
        let [uuid, group, consistency, keep_until, policy, from, name] = words.as_slice() else {
            return Err(Malformed);
        };
        let some = |word: &[u8]| {
            let text = String::from_utf8_lossy(&words::plain(word)).into_owned();
            (!words::is_dash(word)).then_some(text)
        };
        let keep_until = some(keep_until).map(|word| word.parse().map_err(|_| Malformed));
        Ok(Self {
            uuid: some(uuid).ok_or(Malformed)?,
            group: some(group),
            consistency: some(consistency).ok_or(Malformed)?,
            keep_until: keep_until.transpose()?,
            policy: some(policy),
            from: some(from),
            name: some(name),
        })
    }

    /// Asks for that of a snapshot or bookmark; none: it has none.
    ///
    /// # Errors
    ///
    /// That there is no such snapshot, or the kernel does not answer.
    pub fn of(dm: &Dm, device: &Mapped, tag: u32) -> Result<Option<Self>> {
        let reply = dm.tell(&device.name, &["label", &tag.to_string()])?;
        if reply.is(Refusal::NoLabel) {
            return Ok(None);
        }
        let doing = format!("cannot look at the label of {tag} of {}", device.name);
        let line = reply.done(&doing)?;
        let label = Self::parse(&line).map_err(|Malformed| {
            Malformed::failure(format!("{doing}: this dms does not understand it"))
        })?;
        Ok(Some(label))
    }
}

/// The words that set what is given, behind those of another message.
///
/// # Errors
///
/// That a time is none. What else is wrong, the kernel says.
pub fn words(fields: &LabelFields) -> Result<Vec<Vec<u8>>> {
    let keep_until = fields.keep_until.as_deref().map(time).transpose()?;
    let text = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
    let raw = |text: &Option<std::ffi::OsString>| text.as_ref().map(|t| t.as_bytes().to_vec());
    let all = [
        ("-n", raw(&fields.name)),
        ("-p", raw(&fields.policy)),
        ("-e", keep_until.map(String::into_bytes)),
        ("-c", text(&fields.consistency)),
        ("-g", text(&fields.group)),
    ];
    let mut words = Vec::new();
    for (option, value) in all {
        let Some(value) = value else { continue };
        if value.is_empty() {
            let what =
                format!("the argument of {option} is empty: - says that there is to be nothing");
            return Err(Failure::usage(what));
        }
        words.extend([option.as_bytes().to_vec(), value]);
    }
    Ok(words)
}

/// A time as it is typed, as the kernel takes it.
fn time(word: &str) -> Result<String> {
    let now = Utc::now().timestamp();
    let seconds = match word {
        "-" => return Ok(word.to_owned()),
        _ => parse_time(word, now).and_then(|seconds| u64::try_from(seconds).ok()),
    };
    let seconds = seconds.filter(|&seconds| seconds > 0);
    seconds.map(|seconds| seconds.to_string()).ok_or_else(|| {
        Failure::usage(format!(
            "{word} is not a time: YYYY-MM-DD, \"YYYY-MM-DD HH:MM:SS\", +7d or @SECONDS"
        ))
    })
}

/// In seconds since 1970. A day is meant to its end.
fn parse_time(word: &str, now: i64) -> Option<i64> {
    if let Some(seconds) = word.strip_prefix('@') {
        return seconds.parse().ok();
    }
    if let Some(span) = word.strip_prefix('+') {
        let unit = match span.bytes().last()? {
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 7 * 86_400,
            _ => return None,
        };
        let count: u32 = span.get(..span.len().checked_sub(1)?)?.parse().ok()?;
        return now.checked_add(i64::from(count).checked_mul(unit)?);
    }
    let time = match NaiveDate::parse_from_str(word, "%Y-%m-%d") {
        Ok(date) => date.and_hms_opt(23, 59, 59)?,
        Err(_) => NaiveDateTime::parse_from_str(word, "%Y-%m-%d %H:%M:%S").ok()?,
    };
    Some(Local.from_local_datetime(&time).earliest()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        let line = b"01-2 - crash - - - two\\ words";
        let label = Label::parse(line).unwrap();
        assert_eq!(label.name.as_deref(), Some("two words"));
        assert_eq!((label.keep_until, label.policy), (None, None));
        let label = Label::parse(b"01-2 3 file-system 17 daily 4/5/6 \\-").unwrap();
        assert_eq!(label.keep_until, Some(17));
        assert_eq!(label.from.as_deref(), Some("4/5/6"));
        assert_eq!(label.name.as_deref(), Some("-"));
        assert!(Label::parse(b"01-2 - crash soon - - -").is_err());
        assert!(Label::parse(b"01-2 - crash - - -").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("@12", 0), Some(12));
        assert_eq!(parse_time("+2d", 5), Some(2 * 86_400 + 5));
        assert_eq!(parse_time("+1w", 0), Some(7 * 86_400));
        let day = parse_time("2026-02-03", 0).unwrap();
        assert_eq!(parse_time("2026-02-03 23:59:59", 0), Some(day));
        for wrong in [
            "",
            "+",
            "+d",
            "+1y",
            "2026-02-30",
            "tomorrow",
            "@x",
            "+-1d",
            "+é",
        ] {
            assert_eq!(parse_time(wrong, 0), None, "{wrong}");
        }
        assert!(time("@0").is_err() && time("@-1").is_err());
        assert_eq!(time("-").unwrap(), "-");
    }

    #[test]
    fn fields_are_words() {
        let fields = LabelFields {
            name: Some("a b".into()),
            keep_until: Some("@7".into()),
            ..LabelFields::default()
        };
        assert_eq!(words(&fields).unwrap(), [&b"-n"[..], b"a b", b"-e", b"7"]);
        let empty = LabelFields {
            group: Some(String::new()),
            ..LabelFields::default()
        };
        assert!(words(&empty).is_err());
    }
}
