// SPDX-License-Identifier: GPL-2.0

//! Streams, what is noted of a target, and positions.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use dm_snap_mv_stream::frame::{Header, HEADER};
use dm_snap_mv_stream::receive::{receive, Notes, Options, Receiver, State, Target};
use dm_snap_mv_stream::{merge, Begin, Counts, Decoder, Encoder, Event, Position};

use crate::input::Input;

/// Bytes that are right by themselves: numbers and checksums are made to be, so that what is behind
/// them is reached. A frame of the input is its header, and behind that its payload.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut input = Input(data);
    let mut stream = Vec::new();
    let mut number = 0u64;
    while !input.is_empty() {
        let header: [u8; HEADER] = input.array();
        let field = |at: usize| {
            let field = header[at..].first_chunk().expect("eight bytes");
            u64::from_le_bytes(*field)
        };
        let len = (field(24) as u32 as usize).min(input.0.len());
        let payload = input.bytes(len);
        let header = Header {
            kind: header[4],
            flags: header[5],
            a: field(8),
            b: field(16),
            len: len as u32,
            sum: crc32c::crc32c(payload),
        };
        stream.extend(header.encode(number));
        stream.extend(payload);
        // One that goes on says which frame is the next.
        number = match (header.kind, payload.get(40..48)) {
            (2, Some(next)) => u64::from_le_bytes(next.try_into().expect("eight bytes")),
            _ => number.wrapping_add(1),
        };
    }
    stream
}

/// Reads all there is, and returns whether it was whole.
fn read(stream: &[u8]) -> bool {
    let mut decoder = Decoder::new(stream).expect("a decoder");
    let (mut size, mut at) = (0, 0);
    let mut set = Counts::default();
    loop {
        let event = match decoder.event() {
            Ok(event) => event,
            Err(error) => {
                assert!(error.offset <= stream.len() as u64);
                assert!(!error.to_string().is_empty());
                return false;
            }
        };
        match event {
            Event::Begin(begun) => {
                (size, at, set) = (begun.begin.size, 0, Counts::default());
                let again = Begin::decode(&begun.payload).expect("what was decoded");
                assert_eq!(again, begun.begin);
            }
            Event::Resume(begun, position) => {
                (size, at, set) = (begun.begin.size, position.sector, position.counts);
            }
            Event::Data(start, bytes) => {
                let sectors = bytes.len() as u64 / 512;
                assert!(start >= at && sectors > 0 && start + sectors <= size);
                assert!(bytes.len() <= 1 << 20);
                at = start + sectors;
                set.sectors += sectors;
                set.data += sectors;
            }
            Event::Zero(start, sectors) => {
                assert!(start >= at && sectors > 0 && start + sectors <= size);
                at = start + sectors;
                set.sectors += sectors;
            }
            Event::Mark(position) => {
                assert_eq!(position.sector, at);
                assert_eq!(position.counts.sectors, set.sectors);
                assert_eq!(position.to_string().parse(), Ok(position));
            }
            Event::End(ended) => {
                assert_eq!(
                    (ended.counts.sectors, ended.counts.data),
                    (set.sectors, set.data)
                );
            }
            Event::Optional(..) => {}
            Event::Last(_) => return true,
        }
    }
}

/// As it is, and with checksums made right.
pub fn stream(data: &[u8]) {
    read(data);
    read(&sealed(data));
}

/// Two of them, of which the first is as long as its first two bytes say.
pub fn merged(data: &[u8]) {
    let mut input = Input(data);
    let len = usize::from(input.u16());
    let (first, second) = (sealed(input.bytes(len)), sealed(input.0));
    let open = |bytes| Decoder::new(bytes).expect("a decoder");
    let Ok(begin) = merge::plan(open(&first[..]), open(&second[..])) else {
        return;
    };
    // Of what is large and zeroes there can be a lot.
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, Default::default()).expect("an encoder");
    let (first, second) = (open(&first[..]), open(&second[..]));
    merge::write(&begin, first, second, &mut encoder, &mut |_| {}).expect("what was planned");
    encoder.finish().expect("what was planned");
    assert!(read(&out));
}

/// Sectors of a target that is written to.
const SECTORS: u64 = 256;

#[derive(Clone, Default)]
struct Memory(Rc<RefCell<Option<Vec<u8>>>>);

impl Memory {
    fn change(&self, start: u64, sectors: u64, with: &dyn Fn(&mut [u8])) -> io::Result<()> {
        let mut memory = self.0.borrow_mut();
        let memory = memory.as_mut().expect("it is there");
        let at = start as usize * 512;
        let place = memory.get_mut(at..at + sectors as usize * 512);
        with(place.expect("within the device"));
        Ok(())
    }
}

impl Target for Memory {
    fn sectors(&self) -> io::Result<Option<u64>> {
        Ok(self.0.borrow().as_ref().map(|m| m.len() as u64 / 512))
    }

    fn is_elastic(&self) -> bool {
        true
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> io::Result<()> {
        let memory = self.0.borrow();
        let memory = memory.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(start).ok().and_then(|s| s.checked_mul(512));
        let bytes = at.and_then(|at| memory.get(at..at.checked_add(into.len())?));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let sectors = bytes.len() as u64 / 512;
        self.change(start, sectors, &|place| place.copy_from_slice(bytes))
    }

    fn zero(&mut self, start: u64, sectors: u64) -> io::Result<()> {
        self.change(start, sectors, &|place| place.fill(0))
    }

    fn extend(&mut self, sectors: u64) -> io::Result<()> {
        if sectors > SECTORS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut memory = self.0.borrow_mut();
        let memory = memory.get_or_insert_default();
        let len = memory.len().max(sectors as usize * 512);
        memory.resize(len, 0);
        Ok(())
    }

    fn fit(&mut self, sectors: u64) -> io::Result<()> {
        let mut memory = self.0.borrow_mut();
        let memory = memory.as_mut().expect("it is there");
        memory.resize(sectors as usize * 512, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn keep(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn has_kept(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn restore(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn drop_kept(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        *self.0.borrow_mut() = None;
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Note(Rc<RefCell<Option<Vec<u8>>>>);

impl Notes for Note {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().clone())
    }

    fn store(&mut self, note: &[u8]) -> io::Result<()> {
        *self.0.borrow_mut() = Some(note.to_vec());
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        *self.0.borrow_mut() = None;
        Ok(())
    }
}

/// Received, and what was left off gone on with.
pub fn received(data: &[u8]) {
    let mut input = Input(data);
    let len = usize::from(input.u16());
    let streams = [sealed(input.bytes(len)), sealed(input.0)];
    let (memory, note) = (Memory::default(), Note::default());
    for stream in [&streams[0], &streams[1], &streams[0]] {
        let made = Receiver::new(memory.clone(), note.clone(), Options::default());
        let mut receiver = made.expect("what was noted can be read");
        let mut decoder = Decoder::new(&stream[..]).expect("a decoder");
        let done = receive(&mut decoder, &mut receiver, &mut |_, _| {}).is_ok();
        assert!(!done || matches!(receiver.state(), Some(State::Whole(_))));
    }
}

/// What is noted: what is read is written the same again, but for what is not known.
pub fn noted(data: &[u8]) {
    drop(State::decode(data));
    // Nobody guesses a checksum.
    let mut note = b"dmsstate\x01\0\0\0".to_vec();
    note.extend(crc32c::crc32c(data).to_le_bytes());
    note.extend(data);
    if let Ok(state) = State::decode(&note) {
        let again = State::decode(&state.encode()).expect("what was written");
        assert_eq!(again, state);
    }
    if let Ok(begin) = Begin::decode(data) {
        if let Ok(bytes) = begin.encode() {
            let again = Begin::decode(&bytes).expect("what was written");
            assert_eq!(again, begin);
        }
    }
    if let Ok(position) = String::from_utf8_lossy(data).parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
}
