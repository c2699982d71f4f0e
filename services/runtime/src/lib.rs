#![doc = include_str!("../README.md")]

pub mod clock;
pub mod config;
pub mod crash;
pub mod descriptors;
pub mod dumps;
pub mod endpoint;
pub mod internal;
pub mod lifecycle;
#[cfg(feature = "objects")]
pub mod objects;
pub mod program;
pub mod rpc;
pub mod telemetry;
pub mod tls;

pub use clock::Clock;
pub use lifecycle::Tasks;

/// Makes ring the process's TLS provider. Safe to call more than once, and before any test that uses TLS.
pub fn install_crypto_provider() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
