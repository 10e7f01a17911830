// SPDX-License-Identifier: GPL-2.0

//! Table lines, messages, and the words of both.

use std::fmt;

use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::disk::snapshot_row::Memo;
use dm_snap_mv_model::escape::{self, Reader, Sink};
use dm_snap_mv_model::ids::{Chunk, Tag};
use dm_snap_mv_model::label;
use dm_snap_mv_model::message::{is_tried, Freeze, Message, Request};
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{DeviceNumber, TableLine};
use dm_snap_mv_model::table::{check_id, Format, FullPolicy, Role, Table};
use proptest::collection::vec;
use proptest::prelude::*;

struct Bytes(Vec<u8>);

impl fmt::Write for Bytes {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

impl Sink for Bytes {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Splits as device-mapper does (`dm_split_args()`), with the kernel's `isspace()`.
fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let space = |b: u8| matches!(b, 9..=13 | b' ' | 0xa0);
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while at < line.len() && space(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return words;
        }
        let mut word = Vec::new();
        while at < line.len() {
            if line[at] == b'\\' && at + 1 < line.len() {
                word.push(line[at + 1]);
                at += 2;
            } else if space(line[at]) {
                break;
            } else {
                word.push(line[at]);
                at += 1;
            }
        }
        words.push(word);
    }
}

fn table(line: &str) -> Result<Table<'_>, Refusal> {
    Table::parse(
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(str::as_bytes),
    )
}

fn message(line: &[u8]) -> Result<Request, Refusal> {
    let words = split(line);
    Request::parse(words.iter().map(Vec::as_slice))
}

fn origin(bind: bool, format: Option<(bool, Option<u32>)>) -> Role {
    Role::Origin {
        bind,
        format: format.map(|(force, pages)| Format {
            force,
            chunk_size: pages.map(|pages| ChunkSize::from_pages(pages).unwrap()),
        }),
    }
}

#[test]
fn tables() {
    let snapshot = |tag| Role::Snapshot {
        tag: Tag::new(tag).unwrap(),
    };
    let good = [
        ("co o c", origin(false, None), None, None),
        ("co o c -i id", origin(false, None), Some("id"), None),
        ("co o c -iid", origin(false, None), Some("id"), None),
        ("-i id co o c", origin(false, None), Some("id"), None),
        ("co -i id o c", origin(false, None), Some("id"), None),
        ("co o -i id c", origin(false, None), Some("id"), None),
        ("co o c -b", origin(true, None), None, None),
        (
            "co o c -b -f",
            origin(true, Some((false, None))),
            None,
            None,
        ),
        (
            "co o c -f -b",
            origin(true, Some((false, None))),
            None,
            None,
        ),
        ("co o c -bf", origin(true, Some((false, None))), None, None),
        ("co o c -bF", origin(true, Some((true, None))), None, None),
        (
            "co o c -Fb -c 4",
            origin(true, Some((true, Some(4)))),
            None,
            None,
        ),
        (
            "co o c -bfc 4",
            origin(true, Some((false, Some(4)))),
            None,
            None,
        ),
        (
            "co o c -bfc4",
            origin(true, Some((false, Some(4)))),
            None,
            None,
        ),
        (
            "co o c -c 256 -bf",
            origin(true, Some((false, Some(256)))),
            None,
            None,
        ),
        (
            "co o c -bF -c 1",
            origin(true, Some((true, Some(1)))),
            None,
            None,
        ),
        (
            "co o c -e invalidate",
            origin(false, None),
            None,
            Some(FullPolicy::Invalidate),
        ),
        (
            "co o c -e error",
            origin(false, None),
            None,
            Some(FullPolicy::Error),
        ),
        (
            "co o c -equeue",
            origin(false, None),
            None,
            Some(FullPolicy::Queue),
        ),
        ("co -- o c", origin(false, None), None, None),
        ("co -b -i -x -- o c", origin(true, None), Some("-x"), None),
        ("co o c -i --", origin(false, None), Some("--"), None),
        ("cs o c 1", snapshot(1), None, None),
        ("cs o c 4294967295", snapshot(u32::MAX), None, None),
        (
            "cs o c 7 -i id -e error",
            snapshot(7),
            Some("id"),
            Some(FullPolicy::Error),
        ),
        (
            "cs -e queue o -i id c 007",
            snapshot(7),
            Some("id"),
            Some(FullPolicy::Queue),
        ),
    ];
    for (line, role, id, policy) in good {
        let expected = Table {
            role,
            origin_device: b"o",
            cow_device: b"c",
            id: id.map(str::as_bytes),
            policy,
            accept: false,
        };
        assert_eq!(table(line), Ok(expected), "{line}");
        let id = id.unwrap_or("o").as_bytes();
        assert_eq!(expected.origin_id(), id);
    }
    assert!(table("co -a o c").unwrap().accept);
    // After -- even this is a device.
    assert_eq!(table("co -- -o c").unwrap().origin_device, b"-o");
    assert_eq!(table("co - c").unwrap().origin_device, b"-");

    let long = format!("co o c -i {}", "x".repeat(256));
    let bad = [
        ("", "missing command: co or cs"),
        ("-b", "missing command: co or cs"),
        ("ca o c", "unknown command, not co or cs"),
        ("CO o c", "unknown command, not co or cs"),
        (
            "co",
            "missing argument: origin device and COW device are needed",
        ),
        (
            "co o",
            "missing argument: origin device and COW device are needed",
        ),
        (
            "cs o",
            "missing argument: origin device and COW device are needed",
        ),
        ("cs o c", "missing tag"),
        ("co o c 1", "too many arguments"),
        ("cs o c 1 2", "too many arguments"),
        ("co o c 1 2 3", "too many arguments"),
        ("co o c -x", "unknown option"),
        ("co o c -bx", "unknown option"),
        ("co o c -m memo", "unknown option"),
        ("co o c --bind", "unknown option"),
        ("cs o c 1 -b", "option does not go with this command"),
        ("cs o c 1 -F", "option does not go with this command"),
        ("cs o c 1 -c 4", "option does not go with this command"),
        ("co o c -b -b", "option given twice"),
        ("co o c -bfb", "option given twice"),
        ("co o c -i a -i a", "option given twice"),
        ("co o c -e error -e error", "option given twice"),
        ("co o c -bf -c 1 -c 1", "option given twice"),
        ("co o c -i", "option needs an argument"),
        ("co o c -bfc", "option needs an argument"),
        ("co o c -e", "option needs an argument"),
        ("cs o c 0", "tag is not a number from 1 to 4294967295"),
        ("cs o c one", "tag is not a number from 1 to 4294967295"),
        ("cs o c +1", "tag is not a number from 1 to 4294967295"),
        ("cs o c 1x", "tag is not a number from 1 to 4294967295"),
        (
            "cs o c 4294967296",
            "tag is not a number from 1 to 4294967295",
        ),
        ("cs o c -- -1", "tag is not a number from 1 to 4294967295"),
        ("cs o c -1", "unknown option"),
        ("co o c -bfF", "options -f and -F exclude each other"),
        ("co o c -f", "options -f and -F need option -b"),
        ("co o c -F", "options -f and -F need option -b"),
        ("co o c -c 4", "option -c needs option -f or -F"),
        ("co o c -b -c 4", "option -c needs option -f or -F"),
        (
            "co o c -bf -c 0",
            "chunk size is not a power of two from 1 to 256 pages",
        ),
        (
            "co o c -bf -c 3",
            "chunk size is not a power of two from 1 to 256 pages",
        ),
        (
            "co o c -bf -c 512",
            "chunk size is not a power of two from 1 to 256 pages",
        ),
        (
            "co o c -bf -c 4k",
            "chunk size is not a power of two from 1 to 256 pages",
        ),
        (
            "co o c -e ignore",
            "policy is not invalidate, error or queue",
        ),
        (&long, "origin id is longer than 255 bytes"),
        ("co o c -i a\x07", "origin id has control characters"),
        ("co o\x7f c", "origin id has control characters"),
    ];
    for (line, text) in bad {
        let refusal = table(line).expect_err(line);
        assert_eq!(refusal.as_str(), text, "{line}");
        assert_eq!(refusal.name(), "EINVAL");
    }
    assert_eq!(check_id(b""), Err(Refusal::EmptyId));
    assert_eq!(check_id(&[0xff; 255]), Ok(&[0xff; 255][..]));
}

#[test]
fn messages() {
    let tag = |n| Tag::new(n).unwrap();
    let memo = |text: &str| Memo::new(text.as_bytes()).unwrap();
    let roll_back = |tag, background, delete, later| Message::RollBack {
        tag,
        background,
        delete,
        later,
        freeze: None,
    };
    let take = |memo, freeze| Message::TakeOfOrigin {
        memo,
        freeze,
        bookmark: false,
        label: label::Change::default(),
    };
    let delete = |tag, keep| Message::Delete { tag, keep };
    let delta = |from, to, start, max| Message::Delta {
        from: tag(from),
        to: Tag::new(to),
        start: Chunk::new(start).unwrap(),
        max,
    };
    let last = Chunk::MAX.get();
    let take_of = |memo, freeze| Message::TakeOfSnapshot {
        tag: tag(3),
        memo,
        freeze,
        label: label::Change::default(),
    };
    let longest = "m".repeat(64);
    let good = [
        ("so", take(memo(""), None)),
        ("so -m memo", take(memo("memo"), None)),
        ("so -mmemo", take(memo("memo"), None)),
        ("so -m two\\ words", take(memo("two words"), None)),
        ("so -m -", take(memo("-"), None)),
        ("so -m -m", take(memo("-m"), None)),
        (&format!("so -m {longest}"), take(memo(&longest), None)),
        ("ss 3", take_of(memo(""), None)),
        ("ss -m é 3", take_of(memo("é"), None)),
        ("ss 3 -m x", take_of(memo("x"), None)),
        ("so -z", take(memo(""), Some(Freeze::default()))),
        ("so -zm x", take(memo("x"), Some(Freeze::default()))),
        ("ss -z 3", take_of(memo(""), Some(Freeze::default()))),
        ("do", Message::Unbind),
        (
            "so -km x",
            Message::TakeOfOrigin {
                memo: memo("x"),
                freeze: None,
                bookmark: true,
                label: label::Change::default(),
            },
        ),
        ("ds 12", delete(tag(12), false)),
        ("ds 12 -k", delete(tag(12), true)),
        ("commit", Message::Commit),
        (
            "label 5",
            Message::Label {
                tag: tag(5),
                change: label::Change::default(),
            },
        ),
        ("delta 3 0", delta(3, 0, 0, u32::MAX)),
        ("delta 3 4 5", delta(3, 4, 5, u32::MAX)),
        (&format!("delta 3 4 {last} 6"), delta(3, 4, last, 6)),
        ("rs -x", Message::CallOff),
        ("rs 4", roll_back(tag(4), false, false, false)),
        ("rs -b 4", roll_back(tag(4), true, false, false)),
        ("rs 4 -d", roll_back(tag(4), false, true, false)),
        ("rs 4 -l", roll_back(tag(4), false, false, true)),
        ("rs -l", Message::CallOff),
        ("rs -bd 4", roll_back(tag(4), true, true, false)),
        (
            "list",
            Message::List {
                start: 0,
                max: u32::MAX,
            },
        ),
        (
            "list 5",
            Message::List {
                start: 5,
                max: u32::MAX,
            },
        ),
        ("list 0 1", Message::List { start: 0, max: 1 }),
    ];
    for (line, expected) in good {
        let request = |tried| Request {
            message: expected,
            tried,
        };
        assert_eq!(message(line.as_bytes()), Ok(request(false)), "{line}");
        let tried = format!("try {line}");
        assert_eq!(message(tried.as_bytes()), Ok(request(true)), "{line}");
    }
    let bad = [
        (
            "",
            "missing message: so, ss, do, ds, rs, label, list, delta or commit",
        ),
        (
            "try",
            "missing message: so, ss, do, ds, rs, label, list, delta or commit",
        ),
        ("try try so", "try cannot be tried"),
        (
            "sx",
            "unknown message, not so, ss, do, ds, rs, label, list, delta or commit",
        ),
        (
            "-m so",
            "unknown message, not so, ss, do, ds, rs, label, list, delta or commit",
        ),
        ("so 1", "too many arguments"),
        ("so now please", "too many arguments"),
        ("so -m", "option needs an argument"),
        ("so -b", "option does not go with this command"),
        ("so -x", "option does not go with this command"),
        ("so -y", "unknown option"),
        ("ss -k 1", "option does not go with this command"),
        ("rs -k 1", "option does not go with this command"),
        ("ds -k", "missing tag"),
        ("rs -x 1", "too many arguments"),
        ("rs -xl", "option does not go with this command"),
        ("rs -xb", "option does not go with this command"),
        ("rs -xx", "option given twice"),
        ("commit 1", "too many arguments"),
        ("label", "missing tag"),
        ("label 1 2", "too many arguments"),
        ("label 1 -m x", "option does not go with this command"),
        ("label 1 -n", "option needs an argument"),
        ("label 1 -n a -n b", "option given twice"),
        ("ds 1 -n a", "option does not go with this command"),
        (
            &format!("so -n {0}{0}{0}", "n".repeat(43)),
            "name is longer than 128 bytes",
        ),
        (
            &format!("so -p {}", "p".repeat(33)),
            "label's policy is longer than 32 bytes",
        ),
        (
            "so -n a\\\nb",
            "name or label's policy is not UTF-8 without control characters",
        ),
        (
            "so -p \u{85}",
            "name or label's policy is not UTF-8 without control characters",
        ),
        ("so -e soon", "time is not a number of seconds since 1970"),
        (
            "so -c some",
            "consistency is not crash, file-system or application",
        ),
        (
            "so -g 01234567-89ab-cdef-0011-22334455667",
            "not a UUID of 8-4-4-4-12 hexadecimal digits",
        ),
        (
            "so -g 01234567-89ab-cdef-0011-2233445566+7",
            "not a UUID of 8-4-4-4-12 hexadecimal digits",
        ),
        (
            "so -g 00000000-0000-0000-0000-000000000000",
            "not a UUID of 8-4-4-4-12 hexadecimal digits",
        ),
        (
            "so -f 01234567-89ab-cdef-0011-223344556677/1",
            "not a version elsewhere: UUID/ORIGIN/TAG",
        ),
        (
            "so -f 01234567-89ab-cdef-0011-223344556677/1/0",
            "not a version elsewhere: UUID/ORIGIN/TAG",
        ),
        ("so -f 1/1/1", "not a UUID of 8-4-4-4-12 hexadecimal digits"),
        ("delta", "missing tag"),
        ("delta 1", "missing tag"),
        ("delta 0 1", "tag is not a number from 1 to 4294967295"),
        ("delta 1 x", "not a number from 0 to 4294967295"),
        (
            "delta 1 2 1099511627776",
            "chunk is not a number from 0 to 1099511627775",
        ),
        (
            "delta 1 2 x",
            "chunk is not a number from 0 to 1099511627775",
        ),
        ("delta 1 2 3 0", "a page cannot have 0 rows"),
        ("delta 1 2 3 4 5", "too many arguments"),
        ("so -z -z", "option given twice"),
        ("so -Z", "option needs an argument"),
        ("so -Z 8", "device to be frozen is not given as MAJOR:MINOR"),
        (
            "so -Z 8:x",
            "device to be frozen is not given as MAJOR:MINOR",
        ),
        (
            "so -Z 8:1:2",
            "device to be frozen is not given as MAJOR:MINOR",
        ),
        (
            &format!("so {}", "-Z 8:1 ".repeat(33)),
            "more than 32 devices to be frozen",
        ),
        ("do -z", "option does not go with this command"),
        ("ds 1 -Z 8:1", "option does not go with this command"),
        ("rs 1 -lz", "option does not go with this command"),
        ("so -m a -m b", "option given twice"),
        ("ss", "missing tag"),
        ("ss 0", "tag is not a number from 1 to 4294967295"),
        ("ss 1 2", "too many arguments"),
        ("do 1", "too many arguments"),
        ("do -m x", "option does not go with this command"),
        ("ds", "missing tag"),
        ("ds x", "tag is not a number from 1 to 4294967295"),
        ("ds 1 1", "too many arguments"),
        ("ds 1 -b", "option does not go with this command"),
        ("rs", "missing tag"),
        ("rs -lb", "missing tag"),
        ("rs 1 -b -b", "option given twice"),
        ("rs 1 -m x", "option does not go with this command"),
        ("list x", "not a number from 0 to 4294967295"),
        ("list 1 x", "not a number from 0 to 4294967295"),
        ("list 1 0", "a page cannot have 0 rows"),
        ("list 1 2 3", "too many arguments"),
        (&format!("so -m {longest}m"), "memo is longer than 64 bytes"),
        ("so -m a\\\nb", "memo has control characters"),
        ("so -m \u{85}", "memo has control characters"),
    ];
    for (line, text) in bad {
        let refusal = message(line.as_bytes()).expect_err(line);
        assert_eq!(refusal.as_str(), text, "{line}");
        assert_eq!(refusal.name(), "EINVAL");
    }
    let refusal = message(b"so -m \xff").expect_err("no UTF-8");
    assert_eq!(refusal.as_str(), "memo is not valid UTF-8");
    let frozen = |line: &str| match message(line.as_bytes()).unwrap().message {
        Message::TakeOfOrigin { freeze, .. }
        | Message::TakeOfSnapshot { freeze, .. }
        | Message::RollBack { freeze, .. } => {
            let above = freeze.unwrap();
            above
                .above()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(frozen("rs -b 1 -z"), [""; 0]);
    assert_eq!(frozen("so -Z 253:7 -Z8:1"), ["253:7", "8:1"]);
    assert_eq!(frozen("ss -Z 253:7 1 -z"), ["253:7"]);
    assert_eq!(frozen(&format!("so {}", "-Z 8:1 ".repeat(32))).len(), 32);
    assert!(is_tried([&b"try"[..], b"x"]));
    assert!(!is_tried([&b"so"[..]]));
    assert!(!is_tried([]));
}

/// In device-mapper's manner: short, no capital at the start but of a name, no full stop.
#[test]
fn refusals() {
    let mut texts: Vec<&str> = Refusal::ALL
        .iter()
        .map(|refusal| refusal.as_str())
        .collect();
    for (refusal, text) in Refusal::ALL.iter().zip(&texts) {
        let first = text.chars().next().unwrap();
        assert!(text.starts_with("COW") || text.starts_with("I/O") || first.is_lowercase());
        assert!(
            !text.ends_with('.') && text.is_ascii() && text.len() <= 80,
            "{text}"
        );
        assert_eq!(refusal.to_string(), *text);
        assert_eq!(refusal.text().to_bytes(), text.as_bytes());
        assert!(refusal.errno() > 0 && refusal.name().starts_with('E'));
    }
    texts.sort_unstable();
    let all = texts.len();
    texts.dedup();
    assert_eq!(texts.len(), all, "a text twice");
    assert_eq!(
        Refusal::NoStore.as_str(),
        "COW device holds no store (format it with -b -f)"
    );
    assert_eq!(
        (
            Refusal::RollbackRunning.errno(),
            Refusal::RollbackRunning.name()
        ),
        (16, "EBUSY")
    );
}

fn escaped(reader: Reader, word: &[u8]) -> Vec<u8> {
    let mut out = Bytes(Vec::new());
    escape::word(&mut out, reader, word).unwrap();
    out.0
}

#[test]
fn escapes() {
    assert_eq!(escaped(Reader::People, b"plain"), b"plain");
    assert_eq!(escaped(Reader::People, b"two words\\"), b"two\\ words\\\\");
    // The last byte of this letter is a space to the kernel.
    assert_eq!(escaped(Reader::People, "à".as_bytes()), b"\xc3\xa0");
    assert_eq!(escaped(Reader::DeviceMapper, "à".as_bytes()), b"\xc3\\\xa0");
    let or_dash = |text: &[u8]| {
        let mut out = Bytes(Vec::new());
        escape::word_or_dash(&mut out, Reader::People, text).unwrap();
        String::from_utf8(out.0).unwrap()
    };
    assert_eq!(
        [or_dash(b""), or_dash(b"-"), or_dash(b"--")],
        ["-", "\\-", "--"]
    );
    assert_eq!(
        escape::split_word(b"  a\\ b  c"),
        Some((&b"a\\ b"[..], &b"  c"[..]))
    );
    assert_eq!(escape::split_word(b"a\\"), Some((&b"a\\"[..], &b""[..])));
    assert_eq!(escape::split_word(b" \n"), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn words_come_back(words in vec(vec(1u8.., 1..20), 1..6)) {
        let mut line = Vec::new();
        for word in &words {
            line.extend(escaped(Reader::DeviceMapper, word));
            line.push(b' ');
        }
        prop_assert_eq!(split(&line), words);
    }

    #[test]
    fn words_come_back_to_people(words in vec(vec(any::<u8>(), 1..20), 1..6)) {
        let mut line = Vec::new();
        for word in &words {
            line.extend(escaped(Reader::People, word));
            line.push(b' ');
        }
        let mut rest = &line[..];
        let mut found: Vec<Vec<u8>> = Vec::new();
        while let Some((word, behind)) = escape::split_word(rest) {
            found.push(escape::unescape(word).collect());
            rest = behind;
        }
        prop_assert_eq!(found, words);
    }

    /// A printed table line can be loaded again, whatever the id, and means the same.
    #[test]
    fn table_lines_come_back(
        id in vec(any::<u8>().prop_filter("no control", |b| !b.is_ascii_control()), 1..=255),
        tag in any::<u32>(),
        numbers in any::<[u32; 4]>(),
        policy in prop_oneof![
            Just(FullPolicy::Invalidate), Just(FullPolicy::Error), Just(FullPolicy::Queue)
        ],
    ) {
        let [a, b, c, d] = numbers;
        let line = TableLine {
            tag: Tag::new(tag),
            origin_device: DeviceNumber { major: a, minor: b },
            cow_device: DeviceNumber { major: c, minor: d },
            id: &id,
            policy,
        };
        let mut out = Bytes(Vec::new());
        line.write(&mut out).unwrap();
        let words = split(&out.0);
        let table = Table::parse(words.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(table.origin_id(), &id[..]);
        prop_assert_eq!(table.origin_device.to_vec(), format!("{a}:{b}").into_bytes());
        prop_assert_eq!(table.cow_device.to_vec(), format!("{c}:{d}").into_bytes());
        prop_assert_eq!(table.policy.unwrap_or_default(), policy);
        let role = match Tag::new(tag) {
            Some(tag) => Role::Snapshot { tag },
            None => origin(false, None),
        };
        prop_assert_eq!(table.role, role);
    }

    /// Whatever the words are, they are understood or refused.
    #[test]
    fn any_words(words in vec(
        prop_oneof![
            vec(any::<u8>(), 0..80),
            "(co|cs|so|ss|do|ds|rs|list|try|-[bfFcimedl-]{1,3}|[0-9]{1,11})".prop_map(String::into_bytes),
        ],
        0..8,
    )) {
        if let Ok(table) = Table::parse(words.iter().map(Vec::as_slice)) {
            prop_assert!(check_id(table.origin_id()).is_ok());
        }
        if let Ok(request) = Request::parse(words.iter().map(Vec::as_slice)) {
            prop_assert_eq!(request.tried, is_tried(words.iter().map(Vec::as_slice)));
        }
    }
}
