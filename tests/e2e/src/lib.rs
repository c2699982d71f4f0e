//! What the stories share: a stack with one account, calls and their timelines, an agent that a story plays itself, and the
//! platform's side of the wire.

mod agent;
pub mod campaign;
mod cli;
mod database;
mod keys;
mod refusal;
mod replica;
mod sound;
mod story;
pub mod sweep;
mod wire;

pub use agent::{Agent, Session};
pub use cli::{Ran, callbridge_at};
pub use database::{Database, Fate, session};
pub use keys::with_another_key;
pub use refusal::{Refusal, invalid, refusal, refused, refused_for_now};
pub use replica::Replica;
pub use sound::{decode, find, read_wav, speech, tone, wav};
pub use story::{CUSTOMER, PATIENCE, Story, kinds, quick, registration};
pub use wire::{Socket, answer, callback_url, http, media, seconds_from_now, start};
