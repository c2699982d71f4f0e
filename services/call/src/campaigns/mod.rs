//! Campaigns. What decides about them asks neither the database, nor the network, nor the clock (`breaker`, `chart`, `contacts`,
//! `forecast`, `gate`, `retry`, `rules`, `settled`, `state`, `window`); what is around it does, and decides nothing.

pub mod breaker;
pub mod chart;
pub mod contacts;
pub mod control;
pub mod dry_run;
pub mod export;
mod fill;
pub mod forecast;
pub mod gate;
pub mod hook;
pub mod import;
#[cfg(test)]
mod planner_tests;
pub mod progress;
pub mod retry;
pub mod rules;
pub mod run;
pub mod settings;
mod settle;
mod settled;
pub mod state;
pub mod suppress;
pub mod window;

pub use run::start;
