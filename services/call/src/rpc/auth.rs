//! Who may call what: API keys, the table of methods, and the layer that lets a request in.

mod keys;
mod layer;
mod methods;

pub use keys::{Keys, KeysError, Principal};
pub(crate) use layer::{AuthLayer, Gate};
pub use methods::Scope;

#[cfg(test)]
mod tests;
