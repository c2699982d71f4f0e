//! The service as its callers see it, on a real database.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails a test")]

mod access;
mod ages;
mod api_keys;
mod audit;
mod audited;
mod contacts;
mod directory;
mod ends;
mod hostile;
mod ingress;
mod keys;
mod limits;
mod matrix;
mod people;
mod privacy;
mod roles;
mod rotation;
mod service;
mod tls;
