// SPDX-License-Identifier: GPL-2.0
//! How far behind targets of `dms sync` are.

use super::json::utc;
use crate::syncs::Record;
use serde::Serialize;
use std::fmt::Write;

/// A target.
#[derive(Serialize)]
pub struct Synced {
    target: String,
    origin: String,
    store: String,
    version: Option<u32>,
    version_utc: Option<String>,
    lag_seconds: Option<u64>,
    lag_bytes: Option<u64>,
    received_utc: Option<String>,
    bytes: Option<u64>,
    milliseconds: Option<u64>,
    error: Option<String>,
    error_utc: Option<String>,
    #[serde(skip)]
    received: Option<u64>,
}

impl Synced {
    /// From what is noted of it; `now` in seconds since 1970; and the bytes that have changed since, if that is
    /// known.
    pub fn new(record: Record, now: u64, lag_bytes: Option<u64>) -> Self {
        Self {
            version: record.tag,
            version_utc: record.taken.and_then(utc),
            lag_seconds: record.taken.map(|taken| now.saturating_sub(taken)),
            lag_bytes,
            received_utc: record.received.and_then(utc),
            bytes: record.bytes,
            milliseconds: record.milliseconds,
            error_utc: record.failed.and_then(utc),
            error: record.error,
            target: record.target,
            origin: record.identity,
            store: record.store,
            received: record.received,
        }
    }

    fn text(&self) -> String {
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let number = |number: Option<u64>| or(number.map(|n| n.to_string()));
        let holds = match (&self.version, &self.version_utc) {
            (Some(tag), Some(taken)) => format!("version {tag}, taken {taken}"),
            _ => "nothing that it was told of".to_owned(),
        };
        let mut text = format!(
            "target   : {}\norigin   : {}\nholds    : {holds}\nbehind   : {} seconds, {} bytes\n\
             last     : {}, {} bytes in {} ms\n",
            self.target,
            self.origin.escape_debug(),
            number(self.lag_seconds),
            number(self.lag_bytes),
            or(self.received_utc.clone()),
            number(self.bytes),
            number(self.milliseconds),
        );
        if let (Some(error), Some(when)) = (&self.error, &self.error_utc) {
            text += &format!("failed   : {when}: {error}\n");
        }
        text
    }
}

/// For people.
pub fn text(all: &[Synced]) -> String {
    let all: Vec<_> = all.iter().map(Synced::text).collect();
    all.join("\n")
}

/// For Prometheus, in its text format.
pub fn prometheus(all: &[Synced]) -> String {
    type Value = fn(&Synced) -> Option<u64>;
    let values: [(&str, &str, Value); 5] = [
        ("lag_seconds", "age of what the target holds", |s| {
            s.lag_seconds
        }),
        ("lag_bytes", "bytes that have changed since", |s| {
            s.lag_bytes
        }),
        (
            "last_success_timestamp_seconds",
            "when the target was last brought up to date",
            |s| s.received,
        ),
        ("last_bytes", "bytes that were set then", |s| s.bytes),
        ("failed", "whether the last try has failed", |s| {
            Some(s.error.is_some().into())
        }),
    ];
    let mut text = String::new();
    for (name, help, value) in values {
        // A string takes everything.
        let _ = write!(
            text,
            "# HELP dms_sync_{name} {help}\n# TYPE dms_sync_{name} gauge\n"
        );
        for synced in all {
            if let Some(value) = value(synced) {
                let (origin, target) = (label(&synced.origin), label(&synced.target));
                let labels = format!("origin=\"{origin}\",target=\"{target}\"");
                let _ = writeln!(text, "dms_sync_{name}{{{labels}}} {value}");
            }
        }
    }
    text
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced() -> Synced {
        let record = Record {
            target: "backup:a\"b".into(),
            identity: "/dev/x".into(),
            tag: Some(3),
            taken: Some(100),
            received: Some(110),
            bytes: Some(4096),
            milliseconds: Some(5),
            ..Record::default()
        };
        Synced::new(record, 160, Some(8192))
    }

    #[test]
    fn lag_is_the_age_of_what_is_there() {
        let text = text(&[synced()]);
        assert!(text.contains("behind   : 60 seconds, 8192 bytes"), "{text}");
        assert!(crate::show::json::text(&[synced()])
            .unwrap()
            .contains("\"lag_seconds\": 60"));
    }

    #[test]
    fn labels_are_escaped() {
        let text = prometheus(&[synced()]);
        let line = r#"dms_sync_lag_seconds{origin="/dev/x",target="backup:a\"b"} 60"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("dms_sync_failed{"));
    }
}
