// SPDX-License-Identifier: GPL-2.0
//! The Unix socket at which a server can be found: one that it makes, or one that it was given.

use crate::failure::{Failure, Kind, Result};
use crate::streams::of_io;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::stat::{umask, Mode};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket that is listened at.
pub struct Socket {
    /// To accept clients from; it does not wait for them.
    pub listener: UnixListener,
    /// What is ours in the file system.
    own: Option<Own>,
}

/// A file that is to be removed in the end, unless another one has come in its place.
struct Own {
    path: PathBuf,
    dev: u64,
    ino: u64,
}

impl Socket {
    /// Makes a socket that only its owner can connect to. One that nobody listens at any more is replaced.
    ///
    /// # Errors
    ///
    /// [`Kind::Busy`] if somebody does listen there; [`Kind::Refused`] if there is something else.
    pub fn make(path: &Path) -> Result<Self> {
        let failed = |e: &io::Error| {
            let what = format!("cannot listen at {}: {e}", path.display());
            Failure::new(of_io(e), what)
        };
        let dir = folder(path);
        let lock = lock(dir).map_err(|e| failed(&e))?;
        need_free(path)?;
        // Nobody finds it before it can be connected to, and has its mode.
        let hidden = dir.join(format!(".dms-nbd-{}", std::process::id()));
        let _ = fs::remove_file(&hidden);
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&hidden);
        umask(before);
        let listener = bound.map_err(|e| failed(&e))?;
        let named = || {
            listener.set_nonblocking(true)?;
            let meta = fs::symlink_metadata(&hidden)?;
            fs::rename(&hidden, path)?;
            io::Result::Ok(meta)
        };
        let meta = named().map_err(|e| {
            let _ = fs::remove_file(&hidden);
            failed(&e)
        })?;
        drop(lock);
        Ok(Self {
            listener,
            own: Some(Own {
                path: path.to_owned(),
                dev: meta.dev(),
                ino: meta.ino(),
            }),
        })
    }

    /// The one that systemd, or who does as it does, has given this process; none, if there is none.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] if it is not one Unix socket that is listened at.
    pub fn given() -> Result<Option<Self>> {
        let mut given = listenfd::ListenFd::from_env();
        let wrong = |what: &str| {
            Failure::new(
                Kind::Refused,
                format!("what was given to listen at is {what}"),
            )
            .hint("it has to be one Unix socket: ListenStream=/run/NAME with Accept=no")
        };
        match given.len() {
            0 => return Ok(None),
            1 => {}
            _ => return Err(wrong("more than one socket")),
        }
        let listener = given.take_unix_listener(0).ok().flatten();
        let listener = listener.ok_or_else(|| wrong("no Unix socket that is listened at"))?;
        let failed = |e| Failure::new(Kind::Refused, format!("cannot listen: {e}"));
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Some(Self {
            listener,
            own: None,
        }))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        let _lock = lock(folder(&own.path));
        let is_it = fs::symlink_metadata(&own.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (own.dev, own.ino));
        if is_it {
            let _ = fs::remove_file(&own.path);
        }
    }
}

fn folder(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

/// Of all that look at what is in a folder and then change it, one does at a time.
fn lock(dir: &Path) -> io::Result<Flock<File>> {
    let dir = File::open(dir)?;
    Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}

/// Whether a socket may be made there, as it is now: for who would have to do much before.
///
/// # Errors
///
/// [`Kind::Busy`] if somebody listens there; [`Kind::Refused`] if there is something else.
pub fn need_free(path: &Path) -> Result<()> {
    let shown = path.display();
    let failed = |e: &io::Error| {
        let what = format!("cannot listen at {shown}: {e}");
        Failure::new(of_io(e), what)
    };
    // It could be made with a longer name, too, but nobody can connect to that.
    SocketAddr::from_pathname(path).map_err(|e| failed(&e))?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(&e)),
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            let what = format!("{shown} is there already, and is no socket");
            return Err(Failure::new(Kind::Refused, what).hint("give the name of a new file"));
        }
    }
    match connects(path) {
        false => Ok(()),
        true => {
            let what = format!("somebody listens at {shown} already");
            Err(Failure::new(Kind::Busy, what).hint("end that server, or give another name"))
        }
    }
}

/// Whether somebody listens there. Who does is not waited for, and sees a client that goes without a word.
fn connects(path: &Path) -> bool {
    let connected = UnixStream::connect(path);
    !connected.is_err_and(|e| {
        e.kind() == ErrorKind::ConnectionRefused || e.raw_os_error() == Some(libc::ENOENT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dms-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
        fn names(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn it_comes_and_goes() {
        let folder = Folder::new("socket");
        let path = folder.0.join("s");
        let socket = Socket::make(&path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o600);
        assert_eq!(folder.names(), 1);
        let failure = Socket::make(&path).err().unwrap();
        assert_eq!(failure.kind, Kind::Busy);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(folder.names(), 0);
    }

    #[test]
    fn what_is_left_of_a_dead_one_is_replaced_and_nothing_else() {
        let folder = Folder::new("socket-left");
        let path = folder.0.join("s");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::make(&path).unwrap();
        // Another one's, by now.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(socket);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let failure = Socket::make(&path).err().unwrap();
        assert_eq!(failure.kind, Kind::Refused);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let failure = Socket::make(&folder.0.join("no/s")).err().unwrap();
        assert_eq!(failure.kind, Kind::NotFound);
        let failure = Socket::make(&folder.0.join("x".repeat(120))).err();
        assert!(failure.is_some());
        assert_eq!(folder.names(), 1);
    }
}
