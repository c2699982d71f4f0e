//! Who may call what: API keys, certificates, the table of methods, and the layer that lets a request in.

mod audited;
mod caller;
mod certificates;
mod ending;
mod keys;
mod layer;
mod methods;

pub(crate) use caller::Peer;
pub use caller::{Caller, Principal};
pub use certificates::{Certificates, CertificatesError};
pub(crate) use keys::is_name;
pub use keys::{Keys, KeysError};
pub(crate) use layer::{AuthLayer, Gate};
pub use methods::Scope;
pub(crate) use methods::is_known;

#[cfg(test)]
mod tests;
