//! TLS between our own processes, and of the public listener, with certificates that are read again when their files change: connections that are there go on,
//! new ones get the new certificate.

mod client;
mod files;
mod identity;
mod server;

pub use client::{ClientFiles, Connector, endpoint};
pub use files::{Fresh, TlsError};
pub use identity::uri;
pub use server::{Acceptor, ClientCertificates, ServerFiles};

/// HTTP/2 (RFC 9113 §3.2).
const ALPN: &[u8] = b"h2";
/// HTTP/1.1 (RFC 7301 §6).
const ALPN_HTTP_1: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests;
