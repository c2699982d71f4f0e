//! Exotel credentials: sealed at rest, opened just before use, never returned by an RPC.

mod canary;
mod credentials;
mod keys;
pub mod rotate;
pub mod seal;

pub use canary::CanaryError;
pub use credentials::{Opened, Secrets, Source, UNREADABLE};
pub use keys::{Keys, KeysError};
pub use seal::SealError;

use crate::config::Environment;

/// Seals and opens credentials. Nothing opened is kept.
#[derive(Debug, Clone)]
pub struct Vault {
    keys: Keys,
    environment: Environment,
}

impl Vault {
    /// A vault with these keys; `environment` is the last resort.
    pub fn new(keys: Keys, environment: Environment) -> Self {
        Self { keys, environment }
    }
}
