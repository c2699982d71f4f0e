#![doc = include_str!("../README.md")]

mod builder;
pub mod campaign;
pub mod chaos;
mod child;
pub mod client;
pub mod dev;
pub mod keys;
pub mod load;
mod pattern;
mod piece;
mod poll;
mod port;
pub mod postgres;
pub mod proxy;
mod registration;
mod stack;
pub mod target;

pub use builder::{Builder, Ports, Settings};
pub use client::{ApiKey, Clients, Keyed};
pub use keys::Keys;
pub use piece::Piece;
pub use poll::{TimedOut, poll};
pub use registration::{Registered, Registration};
pub use stack::{Stack, shared_postgres};
