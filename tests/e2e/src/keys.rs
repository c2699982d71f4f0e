//! API keys beside the stack's own.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use stack::{ApiKey, Builder, Keys};

/// A stack whose `API_KEYS` has one more key, of another name and with these scopes; and that key.
///
/// # Errors
/// When the system has no randomness.
pub fn with_another_key(builder: Builder, name: &str, scopes: &str) -> anyhow::Result<(Builder, ApiKey)> {
    let keys = Keys::generate()?;
    let text = Keys::generate()?.api_key;
    let hash = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    let setting = format!("{},{name}:{scopes}:{hash}", keys.api_keys());
    Ok((
        builder.keys(keys).call_setting("API_KEYS", &setting),
        ApiKey::new(&text),
    ))
}
