//! Tests of the edge: the session as a state machine, and the whole process between real peers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "tests fail by panicking, and count small things"
)]

mod bot;
mod call;
mod control;
mod door;
mod drain;
mod frames;
mod http;
mod input;
mod line;
mod peers;
mod recording;
mod rfc6455;
mod sequences;
mod session;
mod socket;
mod speech;
mod strange;
mod timing;
mod tls;
mod trouble;
mod tuning;
mod web;
