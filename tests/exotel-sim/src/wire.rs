//! AgentStream messages, in the platform's two spellings.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::settings::StartShape;

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
    stream_sid: String,
    sequence: u64,
    chunk: u64,
}

impl Writer {
    pub(crate) fn new(shape: StartShape, stream_sid: String) -> Self {
        Self {
            shape,
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
        serde_json::to_string(&message).expect("strings and numbers are valid JSON")
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
        message
    }

    pub(crate) fn dtmf(&mut self, digit: char) -> String {
        let digit = serde_json::Value::from(digit.to_string());
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        format!(
            r#"{{"event":"dtmf","sequence_number":{sequence},"stream_sid":"{sid}","dtmf":{{"digit":{digit},"duration":"100"}}}}"#
        )
    }

    pub(crate) fn mark(&mut self, name: &str) -> String {
        let name = serde_json::Value::from(name);
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        format!(r#"{{"event":"mark","sequence_number":{sequence},"stream_sid":"{sid}","mark":{{"name":{name}}}}}"#)
    }

    pub(crate) fn stop(&mut self, opening: &Opening<'_>, reason: &str) -> String {
        let (sequence, sid) = (self.printed_count(), &self.stream_sid);
        let (call, account) = (opening.call_sid, serde_json::Value::from(opening.account_sid));
        format!(
            r#"{{"event":"stop","sequence_number":{sequence},"stream_sid":"{sid}","stop":{{"call_sid":"{call}","account_sid":{account},"reason":"{reason}"}}}}"#
        )
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Opening, Writer};
    use crate::settings::StartShape;

    fn messages(shape: StartShape, parameters: &BTreeMap<String, String>) -> Vec<Value> {
        let opening = Opening {
            call_sid: "c1",
            account_sid: "examplesid1",
            from: "09990000105",
            to: "04440000319",
            custom_parameters: parameters,
            sample_rate: 8_000,
        };
        let mut writer = Writer::new(shape, "s1".to_owned());
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
