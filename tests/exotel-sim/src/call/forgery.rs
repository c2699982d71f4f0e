//! Callbacks that did not come from the platform, sent beside those that did.

use std::sync::Arc;

use serde_json::{Value, json};
use url::Url;

use super::{
    Call,
    callbacks::{Letter, request},
    new_sid,
    payload::Fields,
    voicebot::without_user,
};
use crate::{
    Forged, ForgeryReport,
    settings::Callbacks,
    world::{World, locked},
};

/// The alphabet of tokens in URLs.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Sends a forged form of the letter and notes the answer.
pub(crate) async fn forge(world: &World, call: &Call, settings: &Callbacks, letter: &Letter, forged: Forged) {
    let Some(callback) = &call.request.callback else { return };
    let (url, fields) = match forged {
        Forged::Token => {
            let Some(url) = other_token(&callback.url) else { return };
            (url, replaced(&letter.fields, "Status", opposite))
        }
        Forged::CallSid => {
            let other = other_call(world, call);
            (
                callback.url.clone(),
                replaced(&letter.fields, "CallSid", |_| json!(other)),
            )
        }
    };
    let outcome = request(world, call, settings, &url, &fields).await;
    let event = letter.kind.word().to_owned();
    let facts = json!({
        "event": event, "forged": forged, "url": without_user(&url),
        "status": outcome.as_ref().ok(), "error": outcome.as_ref().err(),
    });
    world.note(Some(&call.sid), "forgery", facts);
    call.update(world, |report| {
        report.forgeries.push(ForgeryReport {
            event,
            forged,
            status: outcome.ok(),
        });
    });
}

/// The URL with another last character of its path. Of a base64 token it is one whose first bit differs: the bits of
/// the last character that mean nothing are its last ones.
fn other_token(url: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    let mut path = url.path().to_owned();
    let last = path.pop()?;
    let index = ALPHABET.iter().position(|letter| char::from(*letter) == last);
    path.push(index.map_or('x', |index| char::from(ALPHABET[index ^ 32])));
    url.set_path(&path);
    Some(url.into())
}

fn replaced(fields: &Fields, key: &str, value: impl Fn(&Value) -> Value) -> Fields {
    let field = |(name, old): &(&'static str, Value)| (*name, if *name == key { value(old) } else { old.clone() });
    fields.iter().map(field).collect()
}

/// What a forger would have somebody believe.
fn opposite(status: &Value) -> Value {
    match status.as_str() {
        Some("completed") => json!("failed"),
        Some("failed" | "busy" | "no-answer" | "canceled") => json!("completed"),
        _ => status.clone(),
    }
}

/// The account's latest other call; an invented one, where there is none.
fn other_call(world: &World, call: &Call) -> String {
    let other = |other: &Arc<Call>| other.sid != call.sid && Arc::ptr_eq(&other.account, &call.account);
    let latest = locked(&world.calls).latest(other);
    latest.map_or_else(new_sid, |other| other.sid.clone())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::other_token;

    #[test]
    fn another_last_character_is_another_token() {
        assert_eq!(
            other_token("http://u:p@h/a/tokenA?q=1").as_deref(),
            Some("http://u:p@h/a/tokeng?q=1")
        );
        assert_eq!(other_token("http://h/a/").as_deref(), Some("http://h/ax"));
        for length in 1..40_usize {
            let token = BASE64URL_NOPAD.encode(&vec![0xA5; length]);
            let other = other_token(&format!("http://h/{token}")).expect("a URL");
            let other = other.rsplit('/').next().expect("a token").to_owned();
            // Even a reader that ignores trailing bits sees another token.
            let mut lenient = data_encoding::Specification::new();
            lenient.symbols.push_str(&String::from_utf8_lossy(super::ALPHABET));
            lenient.check_trailing_bits = false;
            let lenient = lenient.encoding().expect("a valid alphabet");
            let decoded = lenient.decode(other.as_bytes()).expect("decodes");
            assert_ne!(decoded, vec![0xA5; length], "{length}");
        }
    }
}
