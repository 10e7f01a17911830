// SPDX-License-Identifier: GPL-2.0
//! The numbers of the protocol, by the names that it has for them. All are sent with the highest byte first.

/// What a server begins with.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// What follows, and what each option begins with.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// What the answer to an option begins with.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What a request begins with.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What a simple reply begins with.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// What a chunk of a structured reply begins with.
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Flags of the server's greeting and of the client's answer.
pub mod greeting {
    pub const FIXED_NEWSTYLE: u32 = 1;
    pub const NO_ZEROES: u32 = 2;
}

/// Options.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of answers to an option.
pub mod answer {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// What can be told of an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub mod export {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 2;
    pub const SEND_FLUSH: u16 = 4;
    pub const SEND_DF: u16 = 0x80;
    pub const CAN_MULTI_CONN: u16 = 0x100;
    pub const SEND_CACHE: u16 = 0x400;
}

/// Requests.
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod flag {
    /// One chunk of data and no more.
    pub const DF: u16 = 4;
    /// One extent and no more.
    pub const REQ_ONE: u16 = 8;
}

/// Kinds of chunks of a structured reply.
pub mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 0x8001;
    pub const ERROR_OFFSET: u16 = 0x8002;
    /// Flag: it is the last one.
    pub const DONE: u16 = 1;
}

/// Errors.
pub mod errno {
    pub const PERM: u32 = 1;
    pub const IO: u32 = 5;
    pub const INVAL: u32 = 22;
    pub const OVERFLOW: u32 = 75;
}

/// Flags of extents of the context "base:allocation".
pub mod allocation {
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 2;
}

/// Flag of extents of a context "qemu:dirty-bitmap:...".
pub const DIRTY: u32 = 1;

/// Most bytes that a request may ask for, or bring.
pub const MOST: u32 = 32 << 20;
/// Most bytes of a string.
pub const MOST_STRING: usize = 4096;
