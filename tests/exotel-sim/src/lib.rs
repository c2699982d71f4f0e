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
pub mod journal;
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
pub use outcome::{Answer, Callee, Outcome};
pub use report::{
    AccountLoad, CallReport, CallbackReport, Cause, Event, ExoPhoneLoad, Forged, ForgeryReport, LedgerEntry, Leg, Mode,
    Phase, StreamReport,
};
pub use script::{CallerScript, Speech, Step};
pub use server::{Simulator, StartError};
pub use settings::{
    ActiveStreams, AppendQuery, CallbackEncoding, Callbacks, Chunks, ClearedMarks, FlowTo, Payload, Settings,
    StartShape, StreamEnd, StreamFacts, Streams,
};
