// SPDX-License-Identifier: GPL-2.0
//! The other side of `dms sync`: a program that receives, or sends, here or on another host, which is spoken with
//! over its standard input and output.
//!
//! Each side says a line of JSON at a time, of at most [`words::MOST`] bytes. `dms serve` begins, with
//! [`words::Greeting`]. Then the other side asks, and is answered. Behind the question
//! [`words::Question::Receive`] comes the stream, and the end of the input; the answer to it is the last one. Behind the answer to
//! [`words::Question::Send`] comes the stream, and the end of the output.

mod client;
mod place;
pub mod words;

pub use client::{Peer, There};
pub use place::Place;
