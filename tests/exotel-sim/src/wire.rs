//! AgentStream messages, in the platform's spellings.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::{KeyCase, StartShape};

/// What a bot sends. Unknown fields are ignored, as the platform does.
#[derive(Debug, Deserialize)]
pub(crate) struct FromBot {
    pub(crate) event: String,
    #[serde(default)]
    pub(crate) media: Option<Media>,
    #[serde(default)]
    pub(crate) mark: Option<Mark>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Media {
    pub(crate) payload: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Mark {
    pub(crate) name: String,
}

/// A number that the live platform prints as a string.
#[derive(Serialize)]
#[serde(untagged)]
enum Count {
    Text(String),
    Number(u64),
}

#[derive(Serialize)]
struct Start<'a> {
    event: &'a str,
    stream_sid: &'a str,
    sequence_number: Count,
    #[serde(rename = "start")]
    facts: StartFacts<'a>,
}

#[derive(Serialize)]
struct StartFacts<'a> {
    stream_sid: &'a str,
    call_sid: &'a str,
    account_sid: &'a str,
    from: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_parameters: Option<&'a BTreeMap<String, String>>,
    media_format: MediaFormat,
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    sample_rate: String,
    bit_rate: String,
}

/// Who and what `start` names; numbers already in the shape's form.
pub(crate) struct Opening<'a> {
    pub(crate) call_sid: &'a str,
    pub(crate) account_sid: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) custom_parameters: &'a BTreeMap<String, String>,
    pub(crate) sample_rate: u32,
}

/// Writes the messages of one stream and numbers them.
#[derive(Debug)]
pub(crate) struct Writer {
    shape: StartShape,
    keys: KeyCase,
    stream_sid: String,
    sequence: u64,
    chunk: u64,
}

impl Writer {
    pub(crate) fn new(shape: StartShape, keys: KeyCase, stream_sid: String) -> Self {
        Self {
            shape,
            keys,
            stream_sid,
            sequence: 0,
            chunk: 0,
        }
    }

    pub(crate) fn connected() -> String {
        r#"{"event":"connected"}"#.to_owned()
    }

    pub(crate) fn start(&mut self, opening: &Opening<'_>) -> String {
        let live = self.shape == StartShape::Live;
        let kilobits = opening.sample_rate * 16 / 1_000;
        let given = !opening.custom_parameters.is_empty() || !live;
        let sequence_number = self.count();
        let message = Start {
            event: "start",
            stream_sid: &self.stream_sid,
            sequence_number,
            facts: StartFacts {
                stream_sid: &self.stream_sid,
                call_sid: opening.call_sid,
                account_sid: opening.account_sid,
                from: opening.from,
                to: opening.to,
                custom_parameters: given.then_some(opening.custom_parameters),
                media_format: MediaFormat {
                    encoding: if live { "base64" } else { "raw" },
                    sample_rate: opening.sample_rate.to_string(),
                    bit_rate: if live {
                        format!("{kilobits}kbps")
                    } else {
                        kilobits.to_string()
                    },
                },
            },
        };
        self.spelled(serde_json::to_string(&message).expect("strings and numbers are valid JSON"))
    }

    /// The message with its keys in the other case, if that is wanted.
    fn spelled(&self, message: String) -> String {
        if self.keys == KeyCase::Snake {
            return message;
        }
        let message = serde_json::from_str(&message).expect("our own JSON");
        camel(message, "").to_string()
    }

    /// `timestamp` is in milliseconds from the stream's start.
    pub(crate) fn media(&mut self, timestamp: u64, audio: &[u8]) -> String {
        self.chunk += 1;
        let (sequence, sid, chunk) = (self.printed_count(), &self.stream_sid, self.printed(self.chunk));
        let mut message = String::with_capacity(160 + audio.len() * 4 / 3);
        message.push_str(r#"{"event":"media","sequence_number":"#);
        message.push_str(&sequence);
        message.push_str(r#","stream_sid":""#);
        message.push_str(sid);
        message.push_str(r#"","media":{"chunk":"#);
        message.push_str(&chunk);
        message.push_str(r#","timestamp":""#);
        message.push_str(&timestamp.to_string());
        message.push_str(r#"","payload":""#);
        BASE64.encode_append(audio, &mut message);
        message.push_str(r#""}}"#);
        self.spelled(message)
    }

    pub(crate) fn dtmf(&mut self, digit: char) -> String {
        let digit = serde_json::Value::from(digit.to_string());
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        self.spelled(format!(
            r#"{{"event":"dtmf","sequence_number":{sequence},"stream_sid":"{sid}","dtmf":{{"digit":{digit},"duration":"100"}}}}"#
        ))
    }

    pub(crate) fn mark(&mut self, name: &str) -> String {
        let name = serde_json::Value::from(name);
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        self.spelled(format!(
            r#"{{"event":"mark","sequence_number":{sequence},"stream_sid":"{sid}","mark":{{"name":{name}}}}}"#
        ))
    }

    pub(crate) fn stop(&mut self, opening: &Opening<'_>, reason: &str) -> String {
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        let (call, account) = (opening.call_sid, serde_json::Value::from(opening.account_sid));
        self.spelled(format!(
            r#"{{"event":"stop","sequence_number":{sequence},"stream_sid":"{sid}","stop":{{"call_sid":"{call}","account_sid":{account},"reason":"{reason}"}}}}"#
        ))
    }

    fn count(&mut self) -> Count {
        self.sequence += 1;
        match self.shape {
            StartShape::Live => Count::Text(self.sequence.to_string()),
            StartShape::Documented => Count::Number(self.sequence),
        }
    }

    fn printed_count(&mut self) -> String {
        self.sequence += 1;
        self.printed(self.sequence)
    }

    fn printed(&self, number: u64) -> String {
        match self.shape {
            StartShape::Live => format!("\"{number}\""),
            StartShape::Documented => number.to_string(),
        }
    }
}

/// A value with all keys in camel case, but for the custom parameters' own: those are the customer's. `within` is the key that
/// it is under.
fn camel(value: Value, within: &str) -> Value {
    match value {
        Value::Object(members) if within != "custom_parameters" => members
            .into_iter()
            .map(|(key, value)| {
                let value = camel(value, &key);
                (camel_word(&key), value)
            })
            .collect(),
        other => other,
    }
}

fn camel_word(word: &str) -> String {
    let mut parts = word.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Opening, Writer};
    use crate::settings::{KeyCase, StartShape};

    fn messages(shape: StartShape, parameters: &BTreeMap<String, String>) -> Vec<Value> {
        spelled(shape, KeyCase::Snake, parameters)
    }

    fn spelled(shape: StartShape, keys: KeyCase, parameters: &BTreeMap<String, String>) -> Vec<Value> {
        let opening = Opening {
            call_sid: "c1",
            account_sid: "examplesid1",
            from: "09990000105",
            to: "04440000319",
            custom_parameters: parameters,
            sample_rate: 8_000,
        };
        let mut writer = Writer::new(shape, keys, "s1".to_owned());
        let texts = [
            writer.start(&opening),
            writer.media(100, &[1, 2, 3]),
            writer.media(200, &[]),
            writer.dtmf('#'),
            writer.mark("say \"hi\""),
            writer.stop(&opening, "callended"),
        ];
        texts
            .iter()
            .map(|text| serde_json::from_str(text).expect("valid JSON"))
            .collect()
    }

    #[test]
    fn the_live_shape_is_the_captured_one() {
        let all = messages(StartShape::Live, &BTreeMap::new());
        assert_eq!(
            all[0],
            json!({"event":"start","stream_sid":"s1","sequence_number":"1","start":{"stream_sid":"s1","call_sid":"c1",
                "account_sid":"examplesid1","from":"09990000105","to":"04440000319",
                "media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}})
        );
        assert_eq!(
            all[2],
            json!({"event":"media","sequence_number":"3","stream_sid":"s1","media":{"chunk":"2","timestamp":"200","payload":""}})
        );
        assert_eq!(all[3]["dtmf"], json!({"digit":"#","duration":"100"}));
        assert_eq!(all[4]["mark"]["name"], "say \"hi\"");
        assert_eq!(
            all[5]["stop"],
            json!({"call_sid":"c1","account_sid":"examplesid1","reason":"callended"})
        );
    }

    #[test]
    fn keys_in_camel_case() {
        let parameters = BTreeMap::from([("my_key".to_owned(), "b_c".to_owned())]);
        let all = spelled(StartShape::Live, KeyCase::Camel, &parameters);
        assert_eq!(
            all[0],
            json!({"event":"start","streamSid":"s1","sequenceNumber":"1","start":{"streamSid":"s1","callSid":"c1",
                "accountSid":"examplesid1","from":"09990000105","to":"04440000319","customParameters":{"my_key":"b_c"},
                "mediaFormat":{"encoding":"base64","sampleRate":"8000","bitRate":"128kbps"}}})
        );
        assert_eq!(
            all[2],
            json!({"event":"media","sequenceNumber":"3","streamSid":"s1","media":{"chunk":"2","timestamp":"200","payload":""}})
        );
        assert_eq!(
            all[5]["stop"],
            json!({"callSid":"c1","accountSid":"examplesid1","reason":"callended"})
        );
    }

    #[test]
    fn the_documented_shape_has_numbers_and_parameters() {
        let all = messages(
            StartShape::Documented,
            &BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        );
        assert_eq!(all[0]["sequence_number"], 1);
        assert_eq!(all[0]["start"]["custom_parameters"], json!({"a":"b"}));
        assert_eq!(
            all[0]["start"]["media_format"],
            json!({"encoding":"raw","sample_rate":"8000","bit_rate":"128"})
        );
        assert_eq!(all[1]["media"]["chunk"], 1);
        assert_eq!(all[1]["media"]["payload"], "AQID");
    }
}
