#![doc = include_str!("../README.md")]

mod config;
mod conversation;
mod detector;
mod server;
mod service;
mod speech;
mod tone;

pub use config::Config;
pub use conversation::{Conversation, Refused, SampleRate};
pub use detector::{LOUD_RMS, LOUD_WINDOWS, WINDOW_MS};
pub use server::{Listeners, run};
pub use tone::{GAP_MS, TONE_MS, dtmf};
