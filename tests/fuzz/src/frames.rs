//! AgentStream frames, read from both ends.

use bytes::Bytes;
use exotel::stream::{
    self, Encoding, FrameError, Incoming, Media, Position, Received,
    bot::{self, Feed, Names, Said},
};

/// Longest event name that is kept (`exotel::stream`).
const MAX_EVENT: usize = 32;
/// Custom parameters that are kept.
const MAX_PARAMETERS: usize = 16;

/// Exotel's text frames (F84, F85): what is read is bounded by what came, and what is written of it reads back the same.
pub fn frames(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = stream::decode(text);
    assert_eq!(read, stream::decode(text), "a frame is read in two ways");
    let Ok(Received { stream_sid, event }) = read else {
        return;
    };
    let sid = stream_sid.as_deref().unwrap_or("s");
    assert!(sid.len() <= text.len() && !sid.trim().is_empty());
    match event {
        Incoming::Media(media) => audio(sid, &media, text.len()),
        Incoming::Mark { name } => {
            assert!(name.len() <= text.len());
            let back = stream::decode(&stream::mark(sid, &name)).map(|received| received.event);
            assert_eq!(back, Ok(Incoming::Mark { name }));
        }
        Incoming::Dtmf { digit, .. } => assert_eq!(digit.chars().count(), 1),
        Incoming::Start(start) => {
            assert!((4000..=48_000).contains(&start.sample_rate));
            assert!(start.custom_parameters.len() <= MAX_PARAMETERS);
            assert!(!start.call_sid.is_empty() && start.stream_sid == sid);
            let shown = format!("{start:?}");
            for end in [&start.from, &start.to] {
                let number = end.number.as_ref().map(exotel::PhoneNumber::expose);
                let shown_elsewhere =
                    |number: &str| [sid, &start.call_sid, &start.account_sid].concat().contains(number);
                assert!(number.is_none_or(|number| !shown.contains(number) || shown_elsewhere(number)));
            }
        }
        Incoming::Other(word) => assert!(word.chars().count() <= MAX_EVENT),
        Incoming::Connected | Incoming::Stop { .. } => {}
    }
}

fn audio(sid: &str, media: &Media, length: usize) {
    let payload = &media.payload;
    assert!(payload.len() <= length * 3 / 4, "more audio than there was text");
    let position = media.chunk.zip(media.timestamp_ms);
    let position = position.map(|(chunk, timestamp_ms)| Position { chunk, timestamp_ms });
    let written = stream::media(sid, payload, position);
    let Ok(Received {
        stream_sid,
        event: Incoming::Media(back),
    }) = stream::decode(&written)
    else {
        unreadable(&written)
    };
    assert_eq!((stream_sid.as_deref(), &back.payload), (Some(sid), payload));
    if position.is_some() {
        assert_eq!((back.chunk, back.timestamp_ms), (media.chunk, media.timestamp_ms));
    }
    let pcm = Encoding::MuLaw.to_pcm(payload.clone());
    assert_eq!(
        (pcm.len(), Encoding::MuLaw.samples(payload.len())),
        (2 * payload.len(), payload.len())
    );
    assert_eq!(Encoding::MuLaw.from_pcm(&pcm).len(), payload.len());
}

/// A bot's text frames, and what a bot is told: both ends of the protocol agree about every piece of audio and every mark.
pub fn bot_frames(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bot::decode(text) {
        Ok(Said::Audio(pcm)) => {
            assert!(pcm.len() <= text.len() * 3 / 4, "more audio than there was text");
            assert_eq!(
                bot::decode(&stream::media("s", &pcm, None)),
                Ok(Said::Audio(pcm.clone()))
            );
            told(text, &pcm);
        }
        Ok(Said::Mark { name }) => {
            assert!(name.len() <= text.len());
            assert_eq!(bot::decode(&stream::mark("s", &name)), Ok(Said::Mark { name }));
        }
        Ok(Said::Clear) => assert_eq!(bot::decode(&stream::clear("s")), Ok(Said::Clear)),
        Ok(Said::Other) => {}
        Err(error) => assert!(matches!(
            error,
            FrameError::Json | FrameError::Base64 | FrameError::Missing("event" | "mark.name" | "media.payload")
        )),
    }
}

/// A stream whose names are any text: the frames are read as they were meant.
fn told(name: &str, pcm: &Bytes) {
    let names = Names {
        stream_sid: "s".to_owned(),
        call_sid: format!("c{name}c"),
        account_sid: format!("a{name}a"),
    };
    let mut feed = Feed::new(names.clone(), 8000);
    let text = feed.start("+919812345678", "+918040000155", &[(name.to_owned(), name.to_owned())]);
    let Ok(Incoming::Start(start)) = stream::decode(&text).map(|received| received.event) else {
        unreadable(&text)
    };
    assert_eq!((start.call_sid, start.account_sid), (names.call_sid, names.account_sid));
    assert_eq!(start.custom_parameters.get(name).map(String::as_str), Some(name));
    let text = feed.media(pcm);
    let Ok(Incoming::Media(media)) = stream::decode(&text).map(|received| received.event) else {
        unreadable(&text)
    };
    assert_eq!(
        (&media.payload, media.chunk, media.timestamp_ms),
        (pcm, Some(1), Some(0))
    );
}

#[track_caller]
fn unreadable(text: &str) -> ! {
    unreachable!("our own frame is not read as what it is: {text}")
}
