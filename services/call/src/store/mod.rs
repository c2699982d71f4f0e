//! Queries. Each takes `&mut AsyncPgConnection`; transactions belong to the use cases.

pub mod accounts;
pub mod agents;
pub mod api_keys;
pub mod caller_days;
pub mod calls;
pub mod campaigns;
pub mod commands;
pub mod contacts;
pub mod credentials;
pub mod due;
pub mod enums;
pub mod events;
pub mod gauges;
pub mod greetings;
pub mod inbox;
pub mod partitions;
pub mod phones;
mod prepared;
pub mod queue;
pub mod rates;
pub mod recordings;
pub mod retention;
pub mod schema;
pub mod sessions;
pub mod transcripts;
pub mod unreadable;
