// SPDX-License-Identifier: GPL-2.0
//! The stream in which versions of a device go from one place to another, in whole or as what has
//! changed since an earlier one: see Documentation/admin-guide/device-mapper/dm-snap-mv-stream.rst.
//!
//! [`Encoder`] writes one and [`Decoder`] reads one, both from front to back, in memory that does
//! not grow. [`send`] feeds the first from whoever knows what has changed and can read it;
//! [`receive`] makes a plain device or a file of what the second gives; [`merge`] makes one of two.

#![deny(unsafe_code)]

pub mod begin;
mod bytes;
pub mod decoder;
pub mod digest;
pub mod encoder;
pub mod error;
mod fields;
pub mod frame;
pub mod ledger;
pub mod merge;
pub mod position;
pub mod receive;
pub mod source;
pub mod tally;
pub mod version;

pub use begin::Begin;
pub use decoder::{Begun, Decoder, Ended, Event};
pub use encoder::{Encoder, Options};
pub use error::{Error, Fault, Result};
pub use position::{Counts, Position};
pub use source::{send, Piece, Source};
pub use tally::Tally;
pub use version::{Content, Version};
