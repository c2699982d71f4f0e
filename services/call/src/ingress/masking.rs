//! What is left of a webhook when nobody waits for it any more: its words and times, without people, tokens and addresses.

use exotel::PhoneNumber;
use serde_json::{Map, Value, json};

use crate::store::inbox::Kept;

/// As the column.
const MOST: usize = 64 * 1024;
/// Fields of one object, and entries of one list.
const FIELDS: usize = 100;
const KEY_CHARS: usize = 64;
const TEXT_CHARS: usize = 256;
/// Nothing shorter is a phone number (ITU-T E.164 has none below seven digits).
const DIGITS: usize = 7;
/// Of a body that cannot be read.
const RAW_CHARS: usize = 512;
/// Letters and digits in a row that may be a secret.
const SECRET_CHARS: usize = 16;
const SECRETS: [&str; 7] = [
    "token",
    "secret",
    "password",
    "authorization",
    "signature",
    "apikey",
    "api_key",
];
const HIDDEN: &str = "masked";

/// Of a webhook that was read.
pub(super) fn fields(fields: &Value) -> Kept {
    let kept = value(fields).to_string().into_bytes();
    let body = if kept.len() <= MOST {
        kept
    } else {
        json!({ "left_out": "too long" }).to_string().into_bytes()
    };
    let content_type = "application/json";
    Kept { content_type, body }
}

/// Of a body that could not be read: enough to see what it is.
pub(super) fn raw(body: &[u8]) -> Kept {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * RAW_CHARS)]);
    let mut kept = String::new();
    let mut word = String::new();
    let mut end = |word: &mut String| {
        if word.chars().count() < SECRET_CHARS {
            kept.push_str(word);
        } else {
            kept.push_str(HIDDEN);
        }
        word.clear();
    };
    for c in text.chars().take(RAW_CHARS) {
        if c.is_numeric() {
            word.push('#');
        } else if c.is_alphabetic() || matches!(c, '-' | '_') {
            word.push(c);
        } else {
            end(&mut word);
            word.push(c);
            end(&mut word);
        }
    }
    end(&mut word);
    Kept {
        content_type: "text/plain",
        body: kept.into_bytes(),
    }
}

fn value(of: &Value) -> Value {
    match of {
        Value::Object(fields) => Value::Object(fields.iter().take(FIELDS).map(field).collect::<Map<_, _>>()),
        Value::Array(values) => values.iter().take(FIELDS).map(value).collect(),
        Value::String(text) => self::text(text).into(),
        // Seconds and counts are smaller than any phone number.
        Value::Number(number) if number.as_f64().is_none_or(|number| number.abs() > 999_999.0) => HIDDEN.into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => of.clone(),
    }
}

fn field((key, of): (&String, &Value)) -> (String, Value) {
    let name = key.to_ascii_lowercase();
    let kept = match of {
        // Exotel's word for the call is on its row too.
        Value::String(sid) if name == "callsid" => cut(sid, KEY_CHARS).into(),
        // The call's id, without its MAC.
        Value::String(custom) if name == "customfield" => match custom.split_once('.') {
            Some((id, _)) if id.starts_with("call_") => cut(id, KEY_CHARS).into(),
            _ => self::text(custom).into(),
        },
        _ if SECRETS.iter().any(|secret| name.contains(secret)) => HIDDEN.into(),
        other => value(other),
    };
    (self::text(&cut(key, KEY_CHARS)), kept)
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn text(text: &str) -> String {
    if is_time(text) {
        return text.to_owned();
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        // Paths and queries hold tokens and ids of recordings.
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        return format!(
            "{}://{}/",
            numbers(&cut(scheme, KEY_CHARS)),
            numbers(&cut(host, KEY_CHARS))
        );
    }
    if let Ok(number) = PhoneNumber::parse(text) {
        return number.to_string();
    }
    numbers(&cut(text, TEXT_CHARS))
}

/// `2026-11-27 10:00:00` and the like, which are digits with separators too.
fn is_time(text: &str) -> bool {
    text.len() == 19
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            10 => matches!(byte, b' ' | b'T'),
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        })
}

/// Hides what may be phone numbers, however they are spaced.
fn numbers(text: &str) -> String {
    let mut kept = String::new();
    let mut run = String::new();
    for c in text.chars() {
        let goes_on = c.is_numeric() || (!run.is_empty() && is_between(c));
        if goes_on {
            run.push(c);
        } else {
            end(&mut kept, &mut run);
            kept.push(c);
        }
    }
    end(&mut kept, &mut run);
    kept
}

fn end(kept: &mut String, run: &mut String) {
    let digits = run.chars().filter(|c| c.is_numeric()).count();
    kept.push_str(if digits < DIGITS { run } else { "*" });
    run.clear();
}

fn is_between(c: char) -> bool {
    !c.is_alphabetic() && !matches!(c, '&' | '=' | ':' | ';' | ',' | '{' | '}' | '[' | ']' | '"' | '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_and_times_stay_and_people_do_not() {
        let kept: Value = serde_json::from_slice(
            &fields(&json!({
                "CallSid": "919812345678", "CustomField": "call_0190.abcdefghij", "From": "09812345678",
                "Status": "completed", "StartTime": "2026-11-27 10:00:00", "To": 9_812_345_678_u64,
                "Note": "ask 98123 45678, room 12", "Authorization": "Basic c2VjcmV0", "Price": 1.25,
                "RecordingUrl": "https://user:pw@recordings.exotel.com/a/919812345678.mp3?sig=canary",
                "Legs": [{ "Number": "+919812345678", "OnCallDuration": "41" }], "9812345678": null,
            }))
            .body,
        )
        .unwrap();
        let expected = json!({
            "CallSid": "919812345678", "CustomField": "call_0190", "From": "+91******5678",
            "Status": "completed", "StartTime": "2026-11-27 10:00:00", "To": "masked",
            "Note": "ask *, room 12", "Authorization": "masked", "Price": 1.25,
            "RecordingUrl": "https://recordings.exotel.com/",
            "Legs": [{ "Number": "+91******5678", "OnCallDuration": "41" }], "+91******5678": null,
        });
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_is_kept_fits_its_column() {
        let wide: Map<_, _> = (0..500)
            .map(|n| (format!("f{n}"), "\u{1}".repeat(4_000).into()))
            .collect();
        assert!(fields(&Value::Object(wide)).body.len() <= MOST);
        assert!(raw("x".repeat(100_000).as_bytes()).body.len() <= MOST);
    }

    #[test]
    fn a_body_that_cannot_be_read_keeps_its_shape() {
        let kept = raw(b"{\"From\": \"+919812345678\", tok=abcdefghijklmnopqrstuv %39%38");
        let expected = "{\"From\": \"+############\", tok=masked %##%##";
        assert_eq!(String::from_utf8(kept.body).unwrap(), expected);
    }

    /// As people and Exotel write a number.
    fn written() -> impl Strategy<Value = (String, String)> {
        ("[6-9][0-9]{9}", 0..6_usize).prop_map(|(nsn, form)| {
            let written = match form {
                0 => format!("+91{nsn}"),
                1 => format!("0{nsn}"),
                2 => nsn.clone(),
                3 => format!("+91 {} {}", &nsn[..5], &nsn[5..]),
                4 => format!("({}) {}-{}", &nsn[..3], &nsn[3..6], &nsn[6..]),
                _ => format!("sip:{nsn}@host"),
            };
            (nsn, written)
        })
    }

    fn digits(text: &str) -> String {
        text.chars().filter(char::is_ascii_digit).collect()
    }

    proptest! {
        /// F122: wherever a number stands in a webhook, what is kept does not tell it.
        #[test]
        fn no_number_is_kept((nsn, written) in written(), key in "[A-Za-z ]{1,12}", before in "[^0-9]{0,8}", after in "[^0-9]{0,8}") {
            let text = format!("{before}{written}{after}");
            let body = json!({ &key: &text, "list": [{ "x": &text }], &written: 1 });
            let kept = String::from_utf8(fields(&body).body).unwrap();
            prop_assert!(!digits(&kept).contains(&nsn[..7]) && !digits(&kept).contains(&nsn), "{kept}");
            let kept = String::from_utf8(raw(text.as_bytes()).body).unwrap();
            prop_assert_eq!(digits(&kept), "");
        }

        #[test]
        fn masking_twice_is_masking_once(text in "\\PC{0,60}") {
            let once = super::text(&text);
            prop_assert_eq!(super::text(&once), once);
        }
    }
}
