//! Accounts, phones, agents and greetings: what an operator may set, and how it is kept.

pub mod account;
pub mod agent;
pub mod greeting;
pub mod phone;
mod text;
