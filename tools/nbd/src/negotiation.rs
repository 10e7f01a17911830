// SPDX-License-Identifier: GPL-2.0
//! The conversation before anything is read.

use crate::bytes::{array, array_or_end, skip};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::options::{Chosen, Queries};
use crate::wire::{self, answer, export as flags, greeting, info, option};
use std::io::{Read, Write};

/// Most bytes that an option may come with. Names are shorter.
const MOST: u32 = 1 << 16;

/// What a client and we have agreed on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Replies are structured.
    pub structured: bool,
    /// The contexts that block status is told of, by their places among the export's.
    pub contexts: Vec<usize>,
}

impl Session {
    /// The flags that the export has then.
    fn flags(&self) -> u16 {
        let always = flags::HAS_FLAGS
            | flags::READ_ONLY
            | flags::SEND_FLUSH
            | flags::CAN_MULTI_CONN
            | flags::SEND_CACHE;
        match self.structured {
            true => always | flags::SEND_DF,
            false => always,
        }
    }
}

/// Talks with a client until it wants to read. `None`: it has gone without.
///
/// # Errors
///
/// The client has gone in the midst of something, or does not keep to the protocol.
pub fn negotiate(
    from: &mut impl Read,
    to: &mut impl Write,
    export: &dyn Export,
) -> Result<Option<Session>> {
    let mut hello = Vec::new();
    hello.extend(wire::NBDMAGIC.to_be_bytes());
    hello.extend(wire::IHAVEOPT.to_be_bytes());
    let ours = greeting::FIXED_NEWSTYLE | greeting::NO_ZEROES;
    hello.extend((ours as u16).to_be_bytes());
    to.write_all(&hello)?;
    let Some(theirs) = array_or_end(from)?.map(u32::from_be_bytes) else {
        return Ok(None);
    };
    if theirs & !ours != 0 {
        return Err(Error::Broken("flags that were not offered"));
    }
    let mut negotiation = Negotiation {
        to,
        export,
        session: Session::default(),
        contexts_of: Vec::new(),
        zeroes: theirs & greeting::NO_ZEROES == 0,
    };
    loop {
        // Some close the connection where ABORT is meant.
        let Some(magic) = array_or_end(from)?.map(u64::from_be_bytes) else {
            return Ok(None);
        };
        if magic != wire::IHAVEOPT {
            return Err(Error::Broken("what should be an option is none"));
        }
        let asked = u32::from_be_bytes(array(from)?);
        let len = u32::from_be_bytes(array(from)?);
        if len > MOST {
            if len > wire::MOST || asked == option::EXPORT_NAME {
                return Err(Error::Broken("an option that is too long"));
            }
            skip(from, len)?;
            negotiation.answer(asked, answer::ERR_TOO_BIG, b"that is too long")?;
            continue;
        }
        let mut data = vec![0; len as usize];
        from.read_exact(&mut data)?;
        match negotiation.option(asked, &data)? {
            Next::Option => {}
            Next::Transmission => return Ok(Some(negotiation.session)),
            Next::End => return Ok(None),
        }
    }
}

/// What comes next.
enum Next {
    Option,
    Transmission,
    End,
}

struct Negotiation<'a, W> {
    to: &'a mut W,
    export: &'a dyn Export,
    session: Session,
    /// The name of the export that contexts were chosen of.
    contexts_of: Vec<u8>,
    /// The client wants 124 of them, for no reason that anybody remembers.
    zeroes: bool,
}

impl<W: Write> Negotiation<'_, W> {
    fn option(&mut self, asked: u32, data: &[u8]) -> Result<Next> {
        match asked {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                // It need not wait for the answer.
                let _ = self.answer(asked, answer::ACK, b"");
                return Ok(Next::End);
            }
            option::LIST if data.is_empty() => self.list()?,
            option::INFO | option::GO => return self.info(asked, data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.session.structured = true;
                self.answer(asked, answer::ACK, b"")?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(asked, data)?,
            option::LIST | option::STRUCTURED_REPLY => {
                self.answer(asked, answer::ERR_INVALID, b"nothing may come with that")?;
            }
            _ => self.answer(asked, answer::ERR_UNSUP, b"")?,
        }
        Ok(Next::Option)
    }

    fn answer(&mut self, asked: u32, kind: u32, data: &[u8]) -> Result<()> {
        let mut all = Vec::with_capacity(20 + data.len());
        all.extend(wire::REPLY_MAGIC.to_be_bytes());
        all.extend(asked.to_be_bytes());
        all.extend(kind.to_be_bytes());
        all.extend((data.len() as u32).to_be_bytes());
        all.extend(data);
        Ok(self.to.write_all(&all)?)
    }

    fn is_there(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name().as_bytes()
    }

    /// Contexts that were chosen of another name are none of this one's.
    fn settle(&mut self, name: &[u8]) {
        if self.contexts_of != name {
            self.session.contexts.clear();
        }
    }

    /// The oldest way to choose, by which nothing can be refused but by going away.
    fn export_name(&mut self, name: &[u8]) -> Result<Next> {
        if !self.is_there(name) {
            return Ok(Next::End);
        }
        self.settle(name);
        let mut reply = self.export.size().to_be_bytes().to_vec();
        reply.extend(self.session.flags().to_be_bytes());
        if self.zeroes {
            reply.extend([0; 124]);
        }
        self.to.write_all(&reply)?;
        Ok(Next::Transmission)
    }

    fn list(&mut self) -> Result<()> {
        let name = self.export.name().as_bytes();
        let mut reply = (name.len() as u32).to_be_bytes().to_vec();
        reply.extend(name);
        reply.extend(self.export.description().as_bytes());
        self.answer(option::LIST, answer::SERVER, &reply)?;
        self.answer(option::LIST, answer::ACK, b"")
    }

    fn info(&mut self, asked: u32, data: &[u8]) -> Result<Next> {
        let Some(chosen) = Chosen::parse(data) else {
            self.answer(asked, answer::ERR_INVALID, b"that cannot be understood")?;
            return Ok(Next::Option);
        };
        if !self.is_there(chosen.name) {
            self.answer(
                asked,
                answer::ERR_UNKNOWN,
                b"there is no export of this name",
            )?;
            return Ok(Next::Option);
        }
        let export = self.export;
        let tell = |kind: u16, what: &[&[u8]]| {
            let mut all = kind.to_be_bytes().to_vec();
            what.iter().for_each(|part| all.extend(*part));
            all
        };
        let size = export.size().to_be_bytes();
        let flags = self.session.flags().to_be_bytes();
        self.answer(asked, answer::INFO, &tell(info::EXPORT, &[&size, &flags]))?;
        if chosen.wants.contains(&info::NAME) {
            let name = tell(info::NAME, &[export.name().as_bytes()]);
            self.answer(asked, answer::INFO, &name)?;
        }
        if chosen.wants.contains(&info::DESCRIPTION) {
            let what = tell(info::DESCRIPTION, &[export.description().as_bytes()]);
            self.answer(asked, answer::INFO, &what)?;
        }
        // Whoever does not ask for it need not keep to it: there is nothing that is refused for its size
        // or place, up to the greatest.
        let sizes = [1, export.preferred(), wire::MOST].map(u32::to_be_bytes);
        let sizes = tell(info::BLOCK_SIZE, &[sizes.as_flattened()]);
        self.answer(asked, answer::INFO, &sizes)?;
        self.answer(asked, answer::ACK, b"")?;
        if asked == option::INFO {
            return Ok(Next::Option);
        }
        self.settle(chosen.name);
        Ok(Next::Transmission)
    }

    fn contexts(&mut self, asked: u32, data: &[u8]) -> Result<()> {
        let sets = asked == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of it, what was chosen before is not any more.
            self.session.contexts.clear();
        }
        if !self.session.structured {
            return self.answer(asked, answer::ERR_INVALID, b"without structured replies");
        }
        let Some(queries) = Queries::parse(data) else {
            return self.answer(asked, answer::ERR_INVALID, b"that cannot be understood");
        };
        if !self.is_there(queries.name) {
            return self.answer(
                asked,
                answer::ERR_UNKNOWN,
                b"there is no export of this name",
            );
        }
        let names = self.export.contexts();
        let wanted = |name: &String| match sets {
            true => queries.all.iter().any(|query| *query == name.as_bytes()),
            false => {
                queries.all.is_empty() || queries.all.iter().any(|query| is_meant(name, query))
            }
        };
        for (place, name) in names.iter().enumerate().filter(|(_, name)| wanted(name)) {
            let mut reply = id(place).to_be_bytes().to_vec();
            reply.extend(name.as_bytes());
            self.answer(asked, answer::META_CONTEXT, &reply)?;
            if sets {
                self.session.contexts.push(place);
            }
        }
        self.contexts_of = match sets {
            true => queries.name.to_vec(),
            false => std::mem::take(&mut self.contexts_of),
        };
        self.answer(asked, answer::ACK, b"")
    }
}

/// The number that a context is called by.
pub(crate) fn id(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1)
}

/// Whether a context is among what is listed for a query: itself, or all of a namespace.
fn is_meant(name: &str, query: &[u8]) -> bool {
    query == name.as_bytes() || (query.ends_with(b":") && name.as_bytes().starts_with(query))
}
