#![doc = include_str!("../README.md")]

pub mod client;
pub mod dev;
pub mod keys;
mod piece;
mod poll;
pub mod postgres;
mod registration;
mod stack;
pub mod target;

pub use client::{ApiKey, Clients, Keyed};
pub use keys::Keys;
pub use piece::Piece;
pub use poll::{TimedOut, poll};
pub use registration::{Registered, Registration};
pub use stack::{Builder, Ports, Settings, Stack, shared_postgres};
