//! The service as its callers see it, on a real database.
#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod access;
mod contacts;
mod directory;
mod ends;
mod ingress;
mod keys;
mod service;
