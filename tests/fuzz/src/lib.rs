#![doc = include_str!("../README.md")]

mod answers;
mod contacts;
mod forms;
mod frames;
mod numbers;
mod reframe;
mod requests;
mod session;
mod tokens;

pub use answers::{dials, reads};
pub use contacts::contacts;
pub use forms::{applets, forms};
pub use frames::{bot_frames, frames};
pub use numbers::{numbers, times};
pub use reframe::reframe;
pub use requests::{addresses, requests};
pub use session::{agent_messages, sessions};
pub use tokens::tokens;

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// Every target by its name. A target takes any bytes, and panics when a promise is broken.
pub const TARGETS: [(&str, Target); 15] = [
    ("addresses", addresses),
    ("agent_messages", agent_messages),
    ("applets", applets),
    ("bot_frames", bot_frames),
    ("contacts", contacts),
    ("dials", dials),
    ("forms", forms),
    ("frames", frames),
    ("numbers", numbers),
    ("reads", reads),
    ("reframe", reframe),
    ("requests", requests),
    ("sessions", sessions),
    ("times", times),
    ("tokens", tokens),
];
