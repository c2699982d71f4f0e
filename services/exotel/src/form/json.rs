//! JSON as flat fields.

use super::{BodyError, Fields, MAX_FIELDS};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Deepest nesting: `Legs[0][Leg][Id]` needs four levels.
const MAX_DEPTH: usize = 8;

/// Walks JSON straight into fields: a `serde_json::Value` would keep the last of repeated keys.
pub(super) struct Walk<'f> {
    fields: &'f mut Fields,
    path: String,
    depth: usize,
    /// Why the walk stopped, since serde's errors carry only text.
    failure: &'f mut Option<BodyError>,
}

impl<'f> Walk<'f> {
    /// A walk of a whole document, which has to be an object.
    pub(super) fn new(fields: &'f mut Fields, failure: &'f mut Option<BodyError>) -> Self {
        Self {
            fields,
            path: String::new(),
            depth: 0,
            failure,
        }
    }

    /// A walk of one field's value.
    pub(super) fn at(fields: &'f mut Fields, path: String, failure: &'f mut Option<BodyError>) -> Self {
        Self {
            fields,
            path,
            depth: 1,
            failure,
        }
    }

    fn fail<T, E: serde::de::Error>(self, failure: BodyError) -> Result<T, E> {
        *self.failure = Some(failure);
        Err(E::custom(failure))
    }

    fn leaf<E: serde::de::Error>(self, value: String) -> Result<(), E> {
        if self.depth == 0 {
            return self.fail(BodyError::Json);
        }
        let Self {
            fields, path, failure, ..
        } = self;
        fields.push(path, value).map_err(|error| {
            *failure = Some(error);
            E::custom(error)
        })
    }

    fn child(&mut self, key: &str) -> Walk<'_> {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}[{key}]", self.path)
        };
        Walk {
            fields: self.fields,
            path,
            depth: self.depth + 1,
            failure: self.failure,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            return self.fail(BodyError::TooDeep);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(self.child(&key))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        if self.depth == 0 {
            return Err(A::Error::custom("not an object"));
        }
        let mut index = 0_usize;
        while seq.next_element_seed(self.child(&index.to_string()))?.is_some() {
            index += 1;
            // Even elements that add no field (empty objects) must end somewhere.
            if index > MAX_FIELDS {
                return self.fail(BodyError::TooManyFields);
            }
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.leaf(value.to_owned())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.leaf(value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.leaf(value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.leaf(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.leaf(value.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.leaf(String::new())
    }
}
