//! The three encodings in which Exotel posts fields, read into one flat list.
//!
//! Keys are matched without regard to letter case, `_` and `-`. Nested values are flattened the way PHP writes them,
//! `Legs[0][Status]`, since Exotel itself sends both forms. **The first value of a repeated key wins**, everywhere.

use bytes::Bytes;
use json::Walk;
use serde::de::DeserializeSeed as _;
use std::{borrow::Cow, convert::Infallible, fmt};

mod json;

/// Largest body: the fullest documented callback is under 2 KiB.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Most fields in one request: the longest capture has 30.
const MAX_FIELDS: usize = 100;

/// Why a body or query could not be read. Never contains any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Over 64 KiB: answer 413.
    #[error("request is larger than 64 KiB")]
    TooLarge,
    /// Over 100 fields: answer 413.
    #[error("request has more than 100 fields")]
    TooManyFields,
    /// Nested deeper than anything Exotel sends.
    #[error("JSON body is nested deeper than 8 levels")]
    TooDeep,
    /// `%` without two hex digits.
    #[error("request has a malformed percent-encoding")]
    PercentEncoding,
    /// Not UTF-8 after decoding.
    #[error("request is not UTF-8")]
    Charset,
    /// A NUL, which no database column takes.
    #[error("request contains a NUL character")]
    Nul,
    /// Not a JSON object.
    #[error("JSON body could not be read as an object of fields")]
    Json,
    /// Parts or boundary are malformed.
    #[error("multipart body could not be read")]
    Multipart,
}

/// The fields of a request, in the order they came.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    list: Vec<Field>,
}

#[derive(Clone)]
struct Field {
    /// As it came.
    key: String,
    /// For matching.
    name: String,
    value: String,
}

/// How a body's fields are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`.
    Multipart,
}

enum Encoding<'a> {
    Json,
    Form,
    Multipart(Cow<'a, str>),
}

impl Fields {
    /// Adds a body in whichever encoding its header, or failing that its first byte, tells.
    pub(crate) async fn read_body(
        &mut self,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<BodyEncoding, BodyError> {
        if body.len() > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        match Encoding::of(content_type, &body)? {
            Encoding::Json => self.read_json(&body).map(|()| BodyEncoding::Json),
            Encoding::Form => self.read_form(&body).map(|()| BodyEncoding::Form),
            Encoding::Multipart(boundary) => {
                self.read_multipart(boundary.into_owned(), body).await?;
                Ok(BodyEncoding::Multipart)
            }
        }
    }

    /// Adds `application/x-www-form-urlencoded` pairs (WHATWG URL §5.1), but strictly: what does not decode is an error.
    pub(crate) fn read_form(&mut self, text: &[u8]) -> Result<(), BodyError> {
        if text.len() > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            self.read_pair(pair)?;
        }
        Ok(())
    }

    /// Adds the pairs of a query string. Exotel may append `?CallSid=…` to a URL that has a query already, so our own
    /// `key` and `call_id` end at a second question mark; other values (URLs among them) keep theirs.
    pub(crate) fn read_query(&mut self, query: &str) -> Result<(), BodyError> {
        if query.len() > MAX_BODY {
            return Err(BodyError::TooLarge);
        }
        for pair in pairs(query) {
            self.read_pair(pair.as_bytes())?;
        }
        Ok(())
    }

    fn read_pair(&mut self, pair: &[u8]) -> Result<(), BodyError> {
        let (key, value) = halves(pair);
        self.push(percent_decode(key)?, percent_decode(value)?)
    }

    /// Adds the members of a JSON object, flattened.
    pub(crate) fn read_json(&mut self, text: &[u8]) -> Result<(), BodyError> {
        let mut failure = None;
        let mut json = serde_json::Deserializer::from_slice(text);
        let walk = Walk::new(self, &mut failure);
        let outcome = walk.deserialize(&mut json).and_then(|()| json.end());
        outcome.map_err(|_| failure.unwrap_or(BodyError::Json))
    }

    async fn read_multipart(&mut self, boundary: String, body: Bytes) -> Result<(), BodyError> {
        let stream = futures_util::stream::iter([Ok::<_, Infallible>(body)]);
        let mut parts = multer::Multipart::new(stream, boundary);
        while let Some(part) = parts.next_field().await.map_err(|_| BodyError::Multipart)? {
            let Some(name) = part.name().map(str::to_owned) else {
                continue;
            };
            let value = part.bytes().await.map_err(|_| BodyError::Multipart)?;
            let value = std::str::from_utf8(&value).map_err(|_| BodyError::Charset)?;
            self.push(name, value.to_owned())?;
        }
        Ok(())
    }

    /// Adds one field unless its key is there already. `Stream` and `Legs` may hold JSON text instead of nested keys.
    fn push(&mut self, key: String, value: String) -> Result<(), BodyError> {
        if key.contains('\0') || value.contains('\0') {
            return Err(BodyError::Nul);
        }
        let name = normal(&key);
        if matches!(name.as_str(), "stream" | "legs") && value.trim_start().starts_with(['{', '[']) {
            let mut expanded = self.clone();
            let mut failure = None;
            let mut json = serde_json::Deserializer::from_str(&value);
            let walk = Walk::at(&mut expanded, key.clone(), &mut failure);
            match (walk.deserialize(&mut json), failure) {
                (Ok(()), _) => {
                    *self = expanded;
                    return Ok(());
                }
                (Err(_), Some(error)) => return Err(error),
                // Not JSON after all: keep the text.
                (Err(_), None) => {}
            }
        }
        if self.list.iter().any(|field| field.name == name) {
            return Ok(());
        }
        if self.list.len() == MAX_FIELDS {
            return Err(BodyError::TooManyFields);
        }
        self.list.push(Field { key, name, value });
        Ok(())
    }

    /// The value of a field by its normal name (lower case, no `_` or `-`); empty and `null` are missing.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let field = self.list.iter().find(|field| field.name == name)?;
        let value = field.value.trim();
        (!value.is_empty() && !value.eq_ignore_ascii_case("null")).then_some(value)
    }

    pub(crate) fn any_with_prefix(&self, prefix: &str) -> bool {
        self.list.iter().any(|field| field.name.starts_with(prefix))
    }

    /// The fields as they came, as one flat JSON object; reads back by [`Fields::read_json`].
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.list
            .iter()
            .map(|field| (field.key.clone(), serde_json::Value::from(field.value.as_str())))
            .collect()
    }
}

/// The order in which fields came does not matter.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

impl Eq for Fields {}

/// Field names only: values may hold numbers.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.list.iter().map(|field| crate::status::safe_word(&field.key)))
            .finish()
    }
}

impl<'a> Encoding<'a> {
    fn of(content_type: Option<&'a str>, body: &[u8]) -> Result<Self, BodyError> {
        let media = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let first = body.iter().find(|b| !b.is_ascii_whitespace());
        match media.as_str() {
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "multipart/form-data" => content_type
                .and_then(|header| multer::parse_boundary(header).ok())
                .map(Cow::Owned)
                .or_else(|| boundary_of(body))
                .map(Self::Multipart)
                .ok_or(BodyError::Multipart),
            _ if media.ends_with("json") || first == Some(&b'{') => Ok(Self::Json),
            _ if body.starts_with(b"--") => boundary_of(body).map(Self::Multipart).ok_or(BodyError::Multipart),
            _ => Ok(Self::Form),
        }
    }
}

/// The boundary as the body's own first line has it, for a header without one.
fn boundary_of(body: &[u8]) -> Option<Cow<'static, str>> {
    let line = body.split(|b| matches!(b, b'\r' | b'\n')).next()?;
    let boundary = std::str::from_utf8(line.strip_prefix(b"--")?).ok()?.trim_end();
    // RFC 2046 §5.1.1: one to seventy characters.
    (1..=70)
        .contains(&boundary.len())
        .then(|| Cow::Owned(boundary.to_owned()))
}

/// The first value of a query's field, by its normal name, as [`Fields::get`] tells it; nothing behind it is read.
pub(crate) fn first_of(query: &str, name: &str) -> Option<String> {
    let wanted = |key: &[u8]| percent_decode(key).is_ok_and(|key| normal(&key) == name);
    // A query with more fields is refused when it is read.
    let mut fields = pairs(query).take(MAX_FIELDS).map(|pair| halves(pair.as_bytes()));
    let (_, value) = fields.find(|(key, _)| wanted(key))?;
    Some(percent_decode(value).ok()?.trim().to_owned())
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    let pairs = query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty());
    pairs
        .flat_map(|pair| match split_appended(pair) {
            Some((own, appended)) => [Some(own), Some(appended)],
            None => [Some(pair), None],
        })
        .flatten()
}

fn halves(pair: &[u8]) -> (&[u8], &[u8]) {
    let at = pair.iter().position(|byte| *byte == b'=');
    at.map_or((pair, &[]), |at| (&pair[..at], &pair[at + 1..]))
}

/// Splits `key=x?CallSid=…` (the mark also percent-encoded), for our own parameters only.
fn split_appended(pair: &str) -> Option<(&str, &str)> {
    let (key, value) = pair.split_once('=')?;
    if !matches!(normal(key).as_str(), "key" | "callid") {
        return None;
    }
    let plain = value.find('?').map(|at| (at, 1));
    let encoded = value.find("%3F").or_else(|| value.find("%3f")).map(|at| (at, 3));
    let (at, len) = plain.into_iter().chain(encoded).min()?;
    let start = key.len() + 1 + at;
    Some((&pair[..start], &pair[start + len..]))
}

/// A key as it is matched.
pub(crate) fn normal(key: &str) -> String {
    key.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn percent_decode(text: &[u8]) -> Result<String, BodyError> {
    let hex = |b: Option<&u8>| {
        b.and_then(|b| char::from(*b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let (Some(high), Some(low)) = (hex(text.get(at + 1)), hex(text.get(at + 2))) else {
                    return Err(BodyError::PercentEncoding);
                };
                out.push(high << 4 | low);
                at += 2;
            }
            byte => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8(out).map_err(|_| BodyError::Charset)
}

#[cfg(test)]
mod tests;
