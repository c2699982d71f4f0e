#![doc = include_str!("../README.md")]

pub mod applet;
pub mod callback;
mod form;
pub mod number;
pub mod paths;
pub mod rest;
mod status;
pub mod stream;
pub mod time;
pub mod token;

pub use form::{BodyEncoding, BodyError};
pub use number::{Caller, PhoneNumber};
pub use status::{Leg, ProviderStatus};
