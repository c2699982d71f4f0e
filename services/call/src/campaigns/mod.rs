//! Campaigns: what decides about them. Nothing here asks the database, the network or the clock.

pub mod breaker;
pub mod chart;
pub mod contacts;
pub mod forecast;
pub mod retry;
pub mod rules;
pub mod window;
