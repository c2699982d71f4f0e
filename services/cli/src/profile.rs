//! What an account showed, as a configuration of the simulator: an account and settings that differ from its defaults where the
//! real one does. Nothing of the account itself is in it: neither SID nor key nor number.

use callbridge_proto::directory::v1::{CallbackEncoding, CallbackFields, KeyCase, QueryHandling, Variants};
use serde_json::{Map, Value, json};

/// The configuration; what was not seen is left to the simulator's defaults.
pub(crate) fn of(variants: &Variants) -> Value {
    let mut stream = Map::new();
    match variants.key_case() {
        KeyCase::Unspecified => {}
        KeyCase::Snake => set(&mut stream, "key_case", "snake"),
        KeyCase::Camel => set(&mut stream, "key_case", "camel"),
    }
    if variants.sample_rate != 0 {
        set(&mut stream, "sample_rate", variants.sample_rate);
    }
    if variants.chunk_bytes != 0 {
        set(&mut stream, "chunks", json!({ "bytes": variants.chunk_bytes }));
    }
    let (stripped, told) = match variants.query() {
        QueryHandling::Unspecified => (None, None),
        QueryHandling::Kept => (Some(false), None),
        QueryHandling::Parameters => (Some(true), Some(true)),
        QueryHandling::Dropped => (Some(true), Some(false)),
    };
    if let Some(stripped) = stripped {
        set(&mut stream, "strip_query", stripped);
    }
    if let Some(told) = told {
        set(&mut stream, "tell_query", told);
    }
    let mut callbacks = Map::new();
    match variants.callback_encoding() {
        CallbackEncoding::Unspecified => {}
        CallbackEncoding::Multipart => set(&mut callbacks, "encoding", "multipart"),
        CallbackEncoding::Form => set(&mut callbacks, "encoding", "url_encoded"),
        CallbackEncoding::Json => set(&mut callbacks, "encoding", "json"),
    }
    match variants.callback_fields() {
        CallbackFields::Unspecified => {}
        CallbackFields::Short => set(&mut callbacks, "payload", "three_field"),
        CallbackFields::Full => set(&mut callbacks, "payload", "full"),
    }
    let mut account = Map::new();
    if let Some(minutes) = variants.utc_offset_minutes {
        set(&mut account, "utc_offset_minutes", minutes);
    }
    json!({ "accounts": [account], "settings": { "stream": stream, "callbacks": callbacks } })
}

fn set(members: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    members.insert(name.to_owned(), value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_not_said() {
        assert_eq!(
            of(&Variants::default()),
            json!({ "accounts": [{}], "settings": { "stream": {}, "callbacks": {} } })
        );
    }

    #[test]
    fn each_variant_has_its_setting() {
        let variants = Variants {
            key_case: KeyCase::Camel.into(),
            sample_rate: 16_000,
            chunk_bytes: 640,
            query: QueryHandling::Dropped.into(),
            callback_encoding: CallbackEncoding::Form.into(),
            callback_fields: CallbackFields::Full.into(),
            utc_offset_minutes: Some(480),
            ..Variants::default()
        };
        assert_eq!(
            of(&variants),
            json!({
                "accounts": [{ "utc_offset_minutes": 480 }],
                "settings": {
                    "stream": {
                        "key_case": "camel", "sample_rate": 16_000, "chunks": { "bytes": 640 }, "strip_query": true,
                        "tell_query": false,
                    },
                    "callbacks": { "encoding": "url_encoded", "payload": "full" },
                },
            })
        );
    }
}
