// SPDX-License-Identifier: GPL-2.0
//! Streams and files, as the program is called.

use dm_snap_mv_stream::source::count;
use dm_snap_mv_stream::{send, Begin, Encoder, Options, Piece, Position, Version};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: usize = 1 << 20;

/// A folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dms-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    /// Calls the program there. Returns its exit code, and what it printed.
    fn dms(&self, line: &str, input: &[u8]) -> (i32, String, String) {
        let mut child = self.start(line);
        let mut pipe = child.stdin.take().unwrap();
        // What is refused is not read to its end.
        drop(pipe.write_all(input));
        drop(pipe);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (status.code().unwrap(), text(&stdout), text(&stderr))
    }

    fn start(&self, line: &str) -> std::process::Child {
        Command::new(env!("CARGO_BIN_EXE_dms"))
            .args(line.split(' '))
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn done(&self, line: &str, input: &[u8]) -> String {
        let (code, out, err) = self.dms(line, input);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        out
    }

    fn fails(&self, line: &str, input: &[u8], code: i32, why: &str) {
        let (status, out, err) = self.dms(line, input);
        assert_eq!((status, out.as_str()), (code, ""), "{line}: {err}");
        assert!(
            err.starts_with("dms: ") && err.contains(why),
            "{line}: {err}"
        );
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Something that cannot be compressed.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(len).collect()
}

/// A stream of these pieces of a content, with a mark at least every MiB.
fn stream(
    folder: &Folder,
    from: Option<(u32, usize)>,
    to: (u32, &[u8]),
    pieces: &[(usize, usize)],
    at: Option<&Position>,
) -> Vec<u8> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|&(start, len)| Piece {
            start: start as u64 / 512,
            sectors: len as u64 / 512,
            zero: false,
        })
        .collect();
    let version = |tag| Version {
        tag,
        name: Some(format!("number {tag}")),
        ..Version::default()
    };
    let counts = count(pieces.iter().copied().map(Ok), 8).unwrap();
    let begin = Begin {
        size: to.1.len() as u64 / 512,
        from_size: from.map_or(0, |(_, len)| len as u64 / 512),
        chunk: 8,
        store: [0x5a; 16],
        origin: 4,
        identity: b"/dev/orig".to_vec(),
        to: version(to.0),
        from: from.map(|(tag, _)| version(tag)),
        ..Begin::default()
    }
    .with_counts(&counts);
    let mut source = File::open(folder.write("source", to.1)).unwrap();
    let options = Options {
        mark_every: MIB as u64,
        frame: MIB as u64 / 4,
        ..Options::default()
    };
    let mut encoder = Encoder::new(Vec::new(), options).unwrap();
    let pieces = pieces.into_iter().map(Ok);
    send(&mut encoder, &begin, at, pieces, &mut source, &mut |_| {}).unwrap();
    encoder.finish().unwrap()
}

/// Two versions, and streams of the first and of what differs.
fn versions(folder: &Folder) -> (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) {
    let first = content(1, 6 * MIB);
    let mut second = first.clone();
    let pieces = [(4096, 8192), (MIB, 4 * MIB), (6 * MIB - 512, 4096 + 512)];
    second.resize(6 * MIB + 4096, 0);
    for (nr, (start, len)) in pieces.into_iter().enumerate() {
        second[start..start + len].copy_from_slice(&content(nr as u64 + 7, len));
    }
    let one = stream(folder, None, (1, &first), &[(0, first.len())], None);
    let base = Some((1, first.len()));
    let two = stream(folder, base, (2, &second), &pieces, None);
    (first, second, one, two)
}

#[test]
fn shown_and_verified() {
    let folder = Folder::new("shown");
    let (_, _, one, two) = versions(&folder);
    let path = folder.write("two.dms", &two);
    let out = folder.done("stream show two.dms", b"");
    for line in [
        "store    : 5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a\n",
        "origin   : 4, /dev/orig\n",
        "version  : 2, \"number 2\"\n",
        "since    : 1, \"number 1\", 6291456 bytes\n",
        "size     : 6295552 bytes, chunks of 4096\n",
        "sets     : 4207104 bytes in 3 ranges, 1028 chunks\n",
    ] {
        assert!(out.contains(line), "{out}");
    }
    let begun = folder.done("stream show --begin -", &two[..400]);
    assert!(begun.contains("since    : 1, ") && !begun.contains("digest"));
    let json = folder.done("stream show --json two.dms", b"");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["whole"], true);
    assert_eq!(json["bytes"], two.len());
    assert_eq!(json["segments"][0]["to"]["tag"], 2);
    assert_eq!(json["segments"][0]["sets"]["data_bytes"], 4207104);
    let whole = folder.done("stream verify -", &one);
    assert!(whole.starts_with("-: whole, 1 segment that sets 6291456 bytes, in "));
    assert_eq!(folder.done("stream verify -q two.dms", b""), "");

    folder.fails("stream show nothing", b"", 3, "cannot open nothing");
    folder.fails(
        "stream verify -",
        b"",
        6,
        "frame 0 at byte 0: the stream is cut off",
    );
    folder.fails("stream verify -", &[b'x'; 64], 6, "no stream of dm-snap-mv");
    folder.fails("stream verify -", &two[..two.len() - 1], 6, "is cut off");
    let longer = [&two[..], b"x"].concat();
    folder.fails("stream verify -", &longer, 6, "something follows");
    let mut damaged = two.clone();
    damaged[1000] ^= 1;
    fs::write(&path, &damaged).unwrap();
    folder.fails(
        "stream verify two.dms",
        b"",
        6,
        "the checksum of its payload is wrong",
    );
}

#[test]
fn received_one_after_the_other_and_merged() {
    let folder = Folder::new("received");
    let (first, second, one, two) = versions(&folder);
    assert_eq!(
        folder.done("receive ./copy --status", b""),
        "nothing is noted of it\n"
    );
    folder.fails("receive ./copy", &two, 1, "it is not known what it holds");
    assert!(!folder.0.join("copy").exists());
    folder.done("receive ./copy", &one);
    assert!(folder.read("copy") == first);
    let status = folder.done("receive ./copy --status", b"");
    assert!(
        status.starts_with("holds    : 1, \"number 1\" of /dev/orig, store 5a5a"),
        "{status}"
    );
    folder.done("receive ./copy --digest", &two);
    assert!(folder.read("copy") == second);
    let (code, _, err) = folder.dms("receive ./copy", &two);
    assert_eq!(
        (code, err.as_str()),
        (0, "dms: ./copy holds that already\n")
    );
    folder.fails(
        "receive ./copy",
        &one,
        1,
        "it holds version 2 (\"number 2\") of /dev/orig",
    );
    folder.done("receive ./copy -F", &one);
    assert!(folder.read("copy") == first);

    // Written to by somebody.
    let mut file = File::options()
        .write(true)
        .open(folder.0.join("copy"))
        .unwrap();
    file.write_all(b"something").unwrap();
    folder.fails("receive ./copy", &two, 1, "it has been written to since");

    folder.write("used", b"something");
    fs::write(folder.0.join("used"), content(3, MIB)).unwrap();
    folder.fails("receive used", &one, 1, "there is something on it");
    folder.fails(
        "receive /dev/null",
        &one,
        1,
        "neither a block device nor a file",
    );
    folder.fails("receive no/where", &one, 3, "no place for a file");
    folder.fails("receive /dev/nothing-there", &one, 3, "no place for a file");

    let both = folder.0.join("both.dms");
    folder.write("one.dms", &one);
    folder.write("two.dms", &two);
    folder.done("stream merge one.dms two.dms -o both.dms", b"");
    folder.done("stream verify -q both.dms", b"");
    folder.done(
        "receive ./merged --state merged.note",
        &fs::read(both).unwrap(),
    );
    assert!(folder.read("merged") == second && folder.0.join("merged.note").exists());
    folder.fails(
        "stream merge two.dms one.dms",
        b"",
        1,
        "it begins from nothing",
    );
    folder.fails(
        "stream merge two.dms two.dms",
        b"",
        1,
        "it is another version",
    );
    folder.fails("stream merge - two.dms", b"", 2, "cannot be read twice");
    folder.fails(
        "stream merge one.dms two.dms -o no/where",
        b"",
        3,
        "cannot open",
    );
}

/// Has the program read so much of a stream, and kills it.
fn killed(folder: &Folder, line: &str, bytes: &[u8], signal: Option<i32>) -> Option<i32> {
    let mut child = folder.start(line);
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(bytes).unwrap();
    match signal {
        None => child.kill().unwrap(),
        Some(signal) => {
            // It waits for what comes next, once it has noted a mark.
            while folder.done("receive ./copy --position", b"").is_empty() {}
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
            nix::sys::signal::kill(pid, signal).unwrap();
        }
    }
    let status = child.wait().unwrap();
    drop(pipe);
    let mut err = String::new();
    child.stderr.unwrap().read_to_string(&mut err).unwrap();
    assert!(
        signal.is_none() || err.contains("it can be gone on with"),
        "{err}"
    );
    status.code()
}

#[test]
fn killed_and_gone_on_with() {
    let folder = Folder::new("killed");
    let (first, second, one, two) = versions(&folder);
    for part in 1..12 {
        drop(fs::remove_file(folder.0.join("copy")));
        drop(fs::remove_file(folder.0.join("copy.dms-state")));
        killed(
            &folder,
            "receive ./copy",
            &one[..one.len() / 12 * part],
            None,
        );
        folder.done("receive ./copy", &one);
        assert!(folder.read("copy") == first);
        killed(
            &folder,
            "receive ./copy",
            &two[..two.len() / 12 * part],
            None,
        );
        let position = folder.done("receive ./copy --position", b"");
        let status = folder.done("receive ./copy --status", b"");
        match position.trim().parse::<Position>() {
            Ok(position) => {
                assert!(status.starts_with("between  : 1, \"number 1\""), "{status}");
                let pieces = [(4096, 8192), (MIB, 4 * MIB), (6 * MIB - 512, 4096 + 512)];
                let base = Some((1, first.len()));
                let rest = stream(&folder, base, (2, &second), &pieces, Some(&position));
                assert!(rest.len() < two.len());
                // What led to what it was does not help.
                let why = "something else has been received into it in part";
                folder.fails("receive ./copy", &one, 1, why);
                folder.done("receive ./copy", &rest);
            }
            Err(_) => _ = folder.done("receive ./copy", &two),
        }
        assert!(folder.read("copy") == second);
        assert_eq!(folder.done("receive ./copy --position", b""), "");
    }
}

#[test]
fn interrupted_and_given_up() {
    let folder = Folder::new("interrupted");
    let (first, second, one, two) = versions(&folder);
    let most = |bytes: &[u8]| bytes[..bytes.len() - 2000].to_vec();
    let code = killed(&folder, "receive ./copy", &most(&one), Some(2));
    assert_eq!(code, Some(130));
    let (code, _, err) = folder.dms("receive ./copy --abort", b"");
    assert_eq!((code, err.as_str()), (0, "dms: ./copy has been removed\n"));
    assert!(!folder.0.join("copy").exists());
    let (code, _, err) = folder.dms("receive ./copy --abort", b"");
    assert_eq!(
        (code, err.as_str()),
        (0, "dms: nothing had been left off there\n")
    );

    folder.done("receive ./copy", &one);
    let code = killed(&folder, "receive ./copy", &most(&two), Some(15));
    assert_eq!(code, Some(130));
    folder.fails(
        "receive ./copy --abort",
        b"",
        1,
        "what it held before was not put aside",
    );
    let other = stream(&folder, None, (9, &second), &[(0, second.len())], None);
    folder.fails(
        "receive ./copy",
        &other,
        1,
        "something else has been received into it in part",
    );
    let json = folder.done("receive ./copy --status --json", b"");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["state"], &json["kept"]),
        (&"between".into(), &false.into())
    );
    folder.done("receive ./copy", &two);
    assert!(folder.read("copy") == second);

    // Two at once.
    fs::remove_file(folder.0.join("copy.dms-state")).unwrap();
    let file = File::options()
        .write(true)
        .open(folder.0.join("copy"))
        .unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    folder.fails(
        "receive ./copy -F",
        &one,
        4,
        "something else is being received into it",
    );
    drop(lock);
    folder.done("receive ./copy -F", &one);
    assert!(folder.read("copy") == first);
}

#[test]
fn put_aside_where_that_can_be() {
    let folder = Folder::new("aside");
    let (first, second, one, two) = versions(&folder);
    folder.done("receive ./copy", &one);
    let (code, _, err) = folder.dms("receive ./copy --keep", &two[..two.len() / 2]);
    if code == 1 {
        assert!(err.contains("cannot be put aside"), "{err}");
        assert!(folder.read("copy") == first);
        return;
    }
    assert_eq!(code, 6, "{err}");
    let (code, _, err) = folder.dms("receive ./copy --abort", b"");
    assert_eq!(code, 0);
    assert!(
        err.contains("is version 1 (\"number 1\") of /dev/orig again"),
        "{err}"
    );
    assert!(folder.read("copy") == first);
    folder.done("receive ./copy --keep", &two);
    assert!(folder.read("copy") == second);
    assert!(Path::new(&folder.0).read_dir().unwrap().count() == 3);
}
