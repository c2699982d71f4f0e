//! Tests of the edge: the session as a state machine, and the whole process between real peers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "tests fail by panicking, and count small things"
)]

mod call;
mod frames;
mod http;
mod peers;
mod session;
mod speech;
mod web;
