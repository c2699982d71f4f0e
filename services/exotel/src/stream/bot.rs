//! AgentStream seen from Exotel's end, for bots that were written for Exotel: what Exotel tells them is written, what they
//! say is read. Written as captured live: snake case, and every scalar a string.

use bytes::Bytes;
use data_encoding::BASE64;
use std::fmt::Write as _;

use super::{Frame, FrameError, push_json};

/// What a bot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Speech: 16-bit little-endian mono PCM, of any length.
    Audio(Bytes),
    /// Wants to be told when what it said before was heard.
    Mark {
        /// As it is to be sent back.
        name: String,
    },
    /// Takes back what was not heard.
    Clear,
    /// An event that Exotel takes no notice of.
    Other,
}

/// Reads one text frame of a bot. Its stream id is not looked at: it is optional, and written in two ways (exotel.md §5.3).
pub fn decode(text: &str) -> Result<Said, FrameError> {
    let frame = Frame::read(text).map_err(|_| FrameError::Json)?;
    match frame.event.get().ok_or(FrameError::Missing("event"))? {
        "media" => frame.media().map(|media| Said::Audio(media.payload)),
        "mark" => {
            let name = frame.mark.name.text().or(frame.name.text());
            let name = name.ok_or(FrameError::Missing("mark.name"))?.to_owned();
            Ok(Said::Mark { name })
        }
        "clear" => Ok(Said::Clear),
        _ => Ok(Said::Other),
    }
}

/// The first frame of all.
pub const CONNECTED: &str = r#"{"event":"connected"}"#;

/// Which stream a bot is told that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The stream's id.
    pub stream_sid: String,
    /// The call's id.
    pub call_sid: String,
    /// The account's name.
    pub account_sid: String,
}

/// One stream to a bot: numbers its frames. Audio is timed by what was sent before it, so that what was dropped on the way
/// is no gap.
#[derive(Debug)]
pub struct Feed {
    names: Names,
    sample_rate: u32,
    sequence: u64,
    chunk: u64,
    bytes: u64,
}

impl Feed {
    /// A stream at so many samples per second.
    pub fn new(names: Names, sample_rate: u32) -> Self {
        Self {
            names,
            sample_rate: sample_rate.max(1),
            sequence: 0,
            chunk: 0,
            bytes: 0,
        }
    }

    /// Writes the `start`. Numbers in E.164; the parameters keep their order, since some bots take the first one for an id.
    pub fn start(&mut self, from: &str, to: &str, custom_parameters: &[(String, String)]) -> String {
        let mut text = self.open("start");
        let Names {
            stream_sid,
            call_sid,
            account_sid,
        } = &self.names;
        text.push_str(r#","start":{"#);
        let fields = [
            ("stream_sid", stream_sid),
            ("call_sid", call_sid),
            ("account_sid", account_sid),
        ];
        for (key, value) in fields {
            push_pair(&mut text, key, value);
            text.push(',');
        }
        push_pair(&mut text, "from", from);
        text.push(',');
        push_pair(&mut text, "to", to);
        if !custom_parameters.is_empty() {
            text.push_str(r#","custom_parameters":{"#);
            for (at, (key, value)) in custom_parameters.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                push_pair(&mut text, key, value);
            }
            text.push('}');
        }
        let (rate, kbps) = (self.sample_rate, self.sample_rate * 16 / 1000);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#","media_format":{{"encoding":"base64","sample_rate":"{rate}","bit_rate":"{kbps}kbps"}}}}}}"#
        );
        text
    }

    /// Writes the person's audio: 16-bit little-endian mono PCM at the stream's rate.
    pub fn media(&mut self, pcm: &[u8]) -> String {
        self.chunk += 1;
        let timestamp = self.bytes * 500 / u64::from(self.sample_rate);
        self.bytes += pcm.len() as u64;
        let mut text = self.open("media");
        text.reserve(64 + BASE64.encode_len(pcm.len()));
        let _ = write!(
            text,
            r#","media":{{"chunk":"{}","timestamp":"{timestamp}","payload":""#,
            self.chunk
        );
        BASE64.encode_append(pcm, &mut text);
        text.push_str(r#""}}"#);
        text
    }

    /// Writes a key that the person pressed.
    pub fn dtmf(&mut self, digit: &str, duration_ms: u32) -> String {
        let mut text = self.open("dtmf");
        text.push_str(r#","dtmf":{"#);
        push_pair(&mut text, "digit", digit);
        let _ = write!(text, r#","duration":"{duration_ms}"}}}}"#);
        text
    }

    /// Writes the bot's mark back: what it said before was heard.
    pub fn mark(&mut self, name: &str) -> String {
        let mut text = self.open("mark");
        text.push_str(r#","mark":{"#);
        push_pair(&mut text, "name", name);
        text.push_str("}}");
        text
    }

    /// Writes the end of the stream: the person hung up, or it ends for another reason.
    pub fn stop(&mut self, hung_up: bool) -> String {
        let mut text = self.open("stop");
        text.push_str(r#","stop":{"#);
        push_pair(&mut text, "call_sid", &self.names.call_sid);
        text.push(',');
        push_pair(&mut text, "account_sid", &self.names.account_sid);
        text.push(',');
        push_pair(&mut text, "reason", if hung_up { "callended" } else { "stopped" });
        text.push_str("}}");
        text
    }

    /// What each event but the first begins with.
    fn open(&mut self, event: &str) -> String {
        self.sequence += 1;
        let mut text = format!(
            r#"{{"event":"{event}","sequence_number":"{}","stream_sid":"#,
            self.sequence
        );
        push_json(&mut text, &self.names.stream_sid);
        text
    }
}

fn push_pair(text: &mut String, key: &str, value: &str) {
    push_json(text, key);
    text.push(':');
    push_json(text, value);
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;
    use crate::stream::{self, Incoming, Media, Received};

    fn feed(sample_rate: u32) -> Feed {
        let names = Names {
            stream_sid: "s1".into(),
            call_sid: "c1".into(),
            account_sid: "acme\"1".into(),
        };
        Feed::new(names, sample_rate)
    }

    /// What the frame says, of the stream that all of them name.
    fn event(text: &str) -> Result<Incoming, FrameError> {
        let Received { stream_sid, event } = stream::decode(text)?;
        assert_eq!(stream_sid.as_deref(), Some("s1"), "{text}");
        Ok(event)
    }

    /// The keys, the order and the strings of the live capture (exotel.md §5.1).
    #[test]
    fn frames_as_exotel_writes_them() {
        let mut feed = feed(8000);
        let parameters = [
            ("z".to_owned(), "é".to_owned()),
            ("call_id".to_owned(), "call_1".to_owned()),
        ];
        assert_snapshot!(feed.start("+919990000105", "+914440000319", &parameters), @r#"{"event":"start","sequence_number":"1","stream_sid":"s1","start":{"stream_sid":"s1","call_sid":"c1","account_sid":"acme\"1","from":"+919990000105","to":"+914440000319","custom_parameters":{"z":"é","call_id":"call_1"},"media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#);
        assert_snapshot!(feed.media(&[0; 320]).replace(&BASE64.encode(&[0; 320]), "…"), @r#"{"event":"media","sequence_number":"2","stream_sid":"s1","media":{"chunk":"1","timestamp":"0","payload":"…"}}"#);
        assert_snapshot!(feed.media(&[1, 2]), @r#"{"event":"media","sequence_number":"3","stream_sid":"s1","media":{"chunk":"2","timestamp":"20","payload":"AQI="}}"#);
        assert_snapshot!(feed.dtmf("5", 100), @r#"{"event":"dtmf","sequence_number":"4","stream_sid":"s1","dtmf":{"digit":"5","duration":"100"}}"#);
        assert_snapshot!(feed.mark("a\"b"), @r#"{"event":"mark","sequence_number":"5","stream_sid":"s1","mark":{"name":"a\"b"}}"#);
        assert_snapshot!(feed.stop(true), @r#"{"event":"stop","sequence_number":"6","stream_sid":"s1","stop":{"call_sid":"c1","account_sid":"acme\"1","reason":"callended"}}"#);
        assert!(feed.stop(false).ends_with(r#""reason":"stopped"}}"#));
        assert!(!feed.start("", "", &[]).contains("custom_parameters"));
    }

    #[test]
    fn what_bots_say() {
        for (text, said) in [
            (
                r#"{"event":"media","streamSid":"x","media":{"payload":"AQI="}}"#,
                Said::Audio(Bytes::from_static(&[1, 2])),
            ),
            (
                r#"{"event":"mark","stream_sid":"x","mark":{"name":"end"}}"#,
                Said::Mark { name: "end".into() },
            ),
            (r#"{"event":"clear","streamSid":"x"}"#, Said::Clear),
            (r#"{"event":"start"}"#, Said::Other),
            (r#"{"event":"pong"}"#, Said::Other),
        ] {
            assert_eq!(decode(text), Ok(said), "{text}");
        }
        for (text, error) in [
            ("", FrameError::Json),
            (r#"{"event":"media","media":{"payload":"%"}}"#, FrameError::Base64),
            (r#"{"event":"mark"}"#, FrameError::Missing("mark.name")),
        ] {
            assert_eq!(decode(text), Err(error), "{text}");
        }
    }

    proptest! {
        /// Both ends understand each other, whatever is in a name and however audio is cut.
        #[test]
        fn the_other_end_reads_what_is_written(
            name in "\\PC{1,20}", digit in "[0-9*#]", rate in prop::sample::select(vec![8000u32, 16_000, 24_000]),
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 1..8),
        ) {
            let mut feed = feed(rate);
            let start = match event(&feed.start("+919990000105", "", &[("k".into(), name.clone())])) {
                Ok(Incoming::Start(start)) => start,
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!((start.sample_rate, start.account_sid.as_str()), (rate, "acme\"1"));
            prop_assert_eq!(start.custom_parameters.get("k"), Some(&name));
            let mut before = 0;
            for (at, piece) in (1..).zip(&pieces) {
                let text = feed.media(piece);
                let expected = Media {
                    sequence: Some(at + 1),
                    chunk: Some(at),
                    timestamp_ms: Some(before * 500 / u64::from(rate)),
                    payload: piece.clone().into(),
                };
                prop_assert_eq!(event(&text), Ok(Incoming::Media(expected)));
                before += piece.len() as u64;
                let bot = stream::media("s1", piece, None);
                prop_assert_eq!(decode(&bot), Ok(Said::Audio(piece.clone().into())));
            }
            prop_assert_eq!(event(&feed.dtmf(&digit, 7)), Ok(Incoming::Dtmf { digit, duration_ms: Some(7) }));
            if !name.trim().is_empty() {
                let trimmed = name.trim().to_owned();
                prop_assert_eq!(event(&feed.mark(&name)), Ok(Incoming::Mark { name: trimmed }));
            }
            prop_assert_eq!(decode(&stream::mark("s1", &name)), Ok(Said::Mark { name }));
            prop_assert_eq!(event(&feed.stop(true)), Ok(Incoming::Stop { hung_up: true }));
            prop_assert_eq!(event(&feed.stop(false)), Ok(Incoming::Stop { hung_up: false }));
            prop_assert_eq!(decode(&stream::clear("s1")), Ok(Said::Clear));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = decode(&text);
        }
    }
}
