//! The shape of an AgentStream frame as serde reads it: every field that any event uses, each optional.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

/// Exotel sends at most three custom parameters; more than this is not Exotel.
const MAX_PARAMETERS: usize = 16;

/// One frame. Both key styles are fields of their own, because a frame may carry both.
#[derive(Default, serde::Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(borrow, default)]
    pub(super) event: Word<'a>,
    #[serde(borrow, default)]
    pub(super) stream_sid: Word<'a>,
    #[serde(borrow, default, rename = "streamSid")]
    pub(super) stream_sid_camel: Word<'a>,
    #[serde(borrow, default)]
    pub(super) sequence_number: Word<'a>,
    #[serde(borrow, default, rename = "sequenceNumber")]
    pub(super) sequence_number_camel: Word<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) media: MediaBody<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) start: StartBody<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) dtmf: SmallBody<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) mark: SmallBody<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) stop: SmallBody<'a>,
    /// One document shows events without an object of their own.
    #[serde(borrow, default)]
    pub(super) digit: Word<'a>,
    #[serde(borrow, default)]
    pub(super) duration: Word<'a>,
    #[serde(borrow, default)]
    pub(super) name: Word<'a>,
    #[serde(borrow, default)]
    pub(super) reason: Word<'a>,
}

impl<'a> Frame<'a> {
    pub(super) fn read(text: &'a str) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let frame = loose(&mut json)?;
        json.end().map(|()| frame)
    }
}

#[derive(Default, serde::Deserialize)]
pub(super) struct MediaBody<'a> {
    #[serde(borrow, default)]
    pub(super) payload: Word<'a>,
    #[serde(borrow, default)]
    pub(super) chunk: Word<'a>,
    #[serde(borrow, default)]
    pub(super) timestamp: Word<'a>,
    #[serde(borrow, default)]
    pub(super) stream_sid: Word<'a>,
}

/// The objects of `dtmf`, `mark` and `stop`.
#[derive(Default, serde::Deserialize)]
pub(super) struct SmallBody<'a> {
    #[serde(borrow, default)]
    pub(super) digit: Word<'a>,
    #[serde(borrow, default)]
    pub(super) duration: Word<'a>,
    #[serde(borrow, default)]
    pub(super) name: Word<'a>,
    #[serde(borrow, default)]
    pub(super) reason: Word<'a>,
}

#[derive(Default, serde::Deserialize)]
pub(super) struct StartBody<'a> {
    #[serde(borrow, default)]
    pub(super) stream_sid: Word<'a>,
    #[serde(borrow, default, rename = "streamSid")]
    pub(super) stream_sid_camel: Word<'a>,
    #[serde(borrow, default)]
    pub(super) call_sid: Word<'a>,
    #[serde(borrow, default, rename = "callSid")]
    pub(super) call_sid_camel: Word<'a>,
    #[serde(borrow, default)]
    pub(super) account_sid: Word<'a>,
    #[serde(borrow, default, rename = "accountSid")]
    pub(super) account_sid_camel: Word<'a>,
    #[serde(borrow, default)]
    pub(super) from: Word<'a>,
    #[serde(borrow, default)]
    pub(super) to: Word<'a>,
    #[serde(borrow, default, deserialize_with = "loose")]
    pub(super) media_format: Format<'a>,
    #[serde(borrow, default, rename = "mediaFormat", deserialize_with = "loose")]
    pub(super) media_format_camel: Format<'a>,
    #[serde(default)]
    pub(super) custom_parameters: Parameters,
    #[serde(default, rename = "customParameters")]
    pub(super) custom_parameters_camel: Parameters,
}

#[derive(Default, serde::Deserialize)]
pub(super) struct Format<'a> {
    #[serde(borrow, default)]
    sample_rate: Word<'a>,
    #[serde(borrow, default, rename = "sampleRate")]
    sample_rate_camel: Word<'a>,
}

impl Format<'_> {
    pub(super) fn rate(&self) -> Option<u32> {
        self.sample_rate
            .get()
            .or(self.sample_rate_camel.get())
            .and_then(super::read_rate)
    }
}

/// A scalar of any JSON type as text; objects, arrays and null count as missing.
#[derive(Default)]
pub(super) struct Word<'a>(Option<Cow<'a, str>>);

impl<'a> Word<'a> {
    /// Takes the text out, without the blanks around it, unless it is blank.
    pub(super) fn take(&mut self) -> Option<Cow<'a, str>> {
        let text = match self.0.take()? {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        };
        (!text.is_empty()).then_some(text)
    }

    /// The text, unless it is blank.
    pub(super) fn get(&self) -> Option<&str> {
        self.text().map(str::trim).filter(|text| !text.is_empty())
    }

    /// The text exactly as it came.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// A whole number, without the unit or fraction behind it.
    pub(super) fn number(&self) -> Option<u64> {
        let text = self.get()?;
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor).map(Self)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Reads an object as `T`, and takes anything else for an empty one.
fn loose<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    struct Loose<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Loose<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(T::default())
        }

        fn visit_str<E>(self, _: &str) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_bool<E>(self, _: bool) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_u64<E>(self, _: u64) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_i64<E>(self, _: i64) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_f64<E>(self, _: f64) -> Result<T, E> {
            Ok(T::default())
        }

        fn visit_unit<E>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    deserializer.deserialize_any(Loose(PhantomData))
}

/// Custom parameters: the first value of a repeated key wins, values are scalars.
#[derive(Default)]
pub(super) struct Parameters(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        loose::<D, Pairs>(deserializer).map(|pairs| Self(pairs.0))
    }
}

#[derive(Default)]
struct Pairs(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Word<'de>>()? {
                    if pairs.len() < MAX_PARAMETERS {
                        pairs
                            .entry(key)
                            .or_insert_with(|| value.text().unwrap_or_default().to_owned());
                    }
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}
