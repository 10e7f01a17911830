// SPDX-License-Identifier: GPL-2.0
//! Clients of a server, as they come and go.

use dm_snap_mv_nbd::{wire, Export, Extent};
use dms::failure::{Failure, Kind, Result};
use dms::interrupt::Interrupt;
use dms::nbd::server::Server;
use nix::sys::signal::{raise, Signal};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const SIZE: u64 = 64 << 20;

struct Ones(Vec<String>);

impl Export for Ones {
    fn size(&self) -> u64 {
        SIZE
    }
    fn name(&self) -> &str {
        "1"
    }
    fn description(&self) -> &str {
        "ones"
    }
    fn preferred(&self) -> u32 {
        4096
    }
    fn contexts(&self) -> &[String] {
        &self.0
    }
    fn extents(&self, _: usize, offset: u64) -> Box<dyn Iterator<Item = Extent> + '_> {
        let len = SIZE - offset;
        Box::new(std::iter::once(Extent { len, flags: 0 }).filter(|extent| extent.len > 0))
    }
    fn read(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(1);
        Ok(())
    }
}

/// A client that has chosen the export, by its name.
fn client(path: &Path) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    let mut said = 3u32.to_be_bytes().to_vec();
    said.extend(wire::IHAVEOPT.to_be_bytes());
    said.extend(wire::option::EXPORT_NAME.to_be_bytes());
    said.extend(0u32.to_be_bytes());
    client.write_all(&said).unwrap();
    client.read_exact(&mut [0; 28]).unwrap();
    client
}

fn ask(client: &mut UnixStream, len: u32) {
    let mut said = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    said.extend([0; 20]);
    said.extend(len.to_be_bytes());
    client.write_all(&said).unwrap();
}

/// What comes of reading.
fn read(client: &mut UnixStream, len: u32) -> io::Result<()> {
    ask(client, len);
    let mut bytes = vec![0; 16 + len as usize];
    client.read_exact(&mut bytes)?;
    assert!(bytes[16..].iter().all(|byte| *byte == 1));
    Ok(())
}

fn serve(
    once: bool,
    mut look: impl FnMut() -> Result<()> + Send,
    clients: impl FnOnce(&Path),
) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("dms-server-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let interrupt = Interrupt::watch().unwrap();
    let export = Ones(vec!["base:allocation".to_owned()]);
    let server = Server {
        listener: &listener,
        export: &export,
        once,
        interrupt: &interrupt,
    };
    let done = thread::scope(|scope| {
        let server = scope.spawn(|| server.run(&mut look));
        clients(&path);
        server.join().unwrap()
    });
    std::fs::remove_dir_all(&dir).unwrap();
    done
}

// In one, for signals are all of the process's.
#[test]
fn all_ways_to_the_end() {
    // The last one that has read has gone; whoever only looked does not count.
    let done = serve(
        true,
        || Ok(()),
        |path| {
            drop(UnixStream::connect(path).unwrap());
            let (mut one, mut other) = (client(path), client(path));
            read(&mut one, 5000).unwrap();
            drop(one);
            read(&mut other, 32 << 20).unwrap();
        },
    );
    assert_eq!(done, Ok(()));

    // More than are served at once wait for the others to go.
    let done = serve(
        true,
        || Ok(()),
        |path| {
            let mut all: Vec<_> = (0..32).map(|_| client(path)).collect();
            let mut late = UnixStream::connect(path).unwrap();
            late.set_nonblocking(true).unwrap();
            all.iter_mut().for_each(|client| read(client, 512).unwrap());
            let nothing = late.read(&mut [0; 1]).unwrap_err();
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
            late.set_nonblocking(false).unwrap();
            all.pop();
            late.read_exact(&mut [0; 18]).unwrap();
        },
    );
    assert_eq!(done, Ok(()));

    // It is not what it was any more.
    let changed = AtomicBool::new(false);
    let look = || match changed.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Failure::new(Kind::Busy, "changed")),
    };
    let done = serve(false, look, |path| {
        let mut client = client(path);
        read(&mut client, 512).unwrap();
        changed.store(true, Ordering::Relaxed);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    });
    assert_eq!(done.unwrap_err().kind, Kind::Busy);

    // A signal, while there are one that says nothing, one that is in the midst of a request, and one that has asked for
    // more than it takes.
    let done = serve(
        false,
        || Ok(()),
        |path| {
            let _silent = UnixStream::connect(path).unwrap();
            let mut part = client(path);
            part.write_all(&[0x25]).unwrap();
            let mut slow = client(path);
            ask(&mut slow, 32 << 20);
            slow.read_exact(&mut [0; 17]).unwrap();
            raise(Signal::SIGTERM).unwrap();
            while slow.read(&mut [0; 1 << 16]).is_ok_and(|len| len > 0) {
                thread::sleep(std::time::Duration::from_millis(100));
            }
        },
    );
    assert_eq!(done, Ok(()));
}
