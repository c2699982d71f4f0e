//! Campaigns: what decides about them. Nothing here asks the database, the network or the clock.

pub mod breaker;
pub mod contacts;
pub mod retry;
pub mod rules;
pub mod window;
