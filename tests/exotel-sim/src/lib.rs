#![doc = include_str!("../README.md")]

mod account;
mod call;
mod calls;
mod chance;
mod clock;
mod config;
mod connection;
pub mod control;
mod control_http;
mod faults;
pub mod journal;
pub mod ledger;
mod number;
mod outcome;
mod report;
mod rest;
mod script;
mod server;
mod settings;
mod wav;
mod wire;
mod world;

pub use config::{Account, Applet, Config, ExoPhone, Flow};
pub use control::{Control, InboundCall};
pub use faults::{Fault, Faults};
pub use outcome::{Answer, Callee, Outcome};
pub use report::{
    AccountLoad, Arrival, CallReport, CallbackReport, Cause, Event, ExoPhoneLoad, Fate, Forged, ForgeryReport,
    LedgerEntry, Leg, Mode, Phase, StreamReport,
};
pub use script::{CallerScript, Speech, Step};
pub use server::{Simulator, StartError};
pub use settings::{
    ActiveStreams, AppendQuery, CallbackEncoding, Callbacks, Chunks, ClearedMarks, FlowTo, KeyCase, Payload, Settings,
    StartShape, StreamEnd, StreamFacts, Streams,
};
