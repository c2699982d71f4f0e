#![doc = include_str!("../README.md")]

pub mod access;
pub mod app;
pub mod audit;
pub mod calls;
pub mod campaigns;
pub mod config;
pub mod crash;
pub mod db;
pub mod diagnosis;
pub mod directory;
pub mod error;
mod gauges;
mod incoming;
pub mod ingress;
pub mod metrics;
mod privacy;
pub mod rewrap;
pub mod rpc;
mod serve;
mod startup;
pub mod store;
pub mod toll;
mod trace;
pub mod vault;

pub use config::Config;
pub use db::migrate;
pub use serve::{Listeners, run, run_with_clock};
