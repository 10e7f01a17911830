// SPDX-License-Identifier: GPL-2.0
//! A snapshot as a network block device: what is served, where, and to whom. The protocol is a crate of
//! its own, which knows nothing of these.

pub mod export;
pub mod server;
pub mod socket;
