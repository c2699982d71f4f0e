//! How the audio of a phone's calls is sent and read.

use std::ops::RangeInclusive;

use callbridge_proto::directory::v1 as api;
use serde_json::json;

use crate::{
    error::Violations,
    store::phones::{Audio, Coding},
};

/// Exotel's packets are multiples of this (`exotel.md` §5.3).
const PACKET: i32 = 320;
/// Half a second at the highest rate.
const LARGEST_PACKET: i32 = 24_000;
/// What the edge takes for 0.
const DEFAULT_PACKETS: (i32, i32) = (320, 3200);
const DEFAULT_LEAD_MS: i32 = 500;
const LEADS_MS: RangeInclusive<i32> = 100..=500;
/// Half a millisecond at 8 kHz: a packet of more than half the lead would come when Exotel's buffer is empty already.
const PACKET_PER_LEAD_MS: i32 = 8;

/// Checks settings. None is the default.
pub(super) fn read(
    wrong: &mut Violations,
    field: &str,
    settings: Option<&api::AudioSettings>,
) -> Option<serde_json::Value> {
    let settings = settings?;
    let at = |name: &str| format!("{field}.{name}");
    let (min, max) = (settings.min_packet_bytes, settings.max_packet_bytes);
    for (name, bytes) in [("min_packet_bytes", min), ("max_packet_bytes", max)] {
        wrong.require(
            (0..=LARGEST_PACKET).contains(&bytes) && bytes % PACKET == 0,
            &at(name),
            "is a multiple of 320 up to 24000, or 0 for the default",
        );
    }
    let or = |bytes, default| if bytes == 0 { default } else { bytes };
    let (default_min, default_max) = DEFAULT_PACKETS;
    wrong.require(
        or(min, default_min) <= or(max, default_max),
        &at("max_packet_bytes"),
        "is at least min_packet_bytes (the defaults are 3200 and 320)",
    );
    wrong.require(
        settings.lead_ms == 0 || LEADS_MS.contains(&settings.lead_ms),
        &at("lead_ms"),
        "is from 100 to 500, or 0 for 500",
    );
    // One that is wrong itself is told above.
    let lead_ms = or(settings.lead_ms, DEFAULT_LEAD_MS).clamp(*LEADS_MS.start(), *LEADS_MS.end());
    wrong.require(
        or(min, default_min) <= PACKET_PER_LEAD_MS * lead_ms,
        &at("min_packet_bytes"),
        "is at most 8 bytes for each millisecond of lead_ms (4000 for the default of 500): a longer one would always be late",
    );
    let encoding = match api::AudioEncoding::try_from(settings.encoding) {
        Ok(api::AudioEncoding::Unspecified | api::AudioEncoding::Pcm16) => Coding::Pcm16,
        Ok(api::AudioEncoding::Mulaw) => Coding::Mulaw,
        Err(_) => {
            wrong.add(at("encoding"), "is AUDIO_ENCODING_PCM16 or AUDIO_ENCODING_MULAW");
            Coding::Pcm16
        }
    };
    let audio = Audio {
        min_packet_bytes: min,
        max_packet_bytes: max,
        lead_ms: settings.lead_ms,
        positions: settings.positions,
        fill_gaps: settings.fill_gaps,
        encoding,
    };
    (audio != Audio::default()).then(|| json!(audio))
}

/// Stored settings, for clients and the edge.
pub fn shown(audio: Audio) -> api::AudioSettings {
    let encoding = match audio.encoding {
        Coding::Pcm16 => api::AudioEncoding::Pcm16,
        Coding::Mulaw => api::AudioEncoding::Mulaw,
    };
    api::AudioSettings {
        min_packet_bytes: audio.min_packet_bytes,
        max_packet_bytes: audio.max_packet_bytes,
        lead_ms: audio.lead_ms,
        positions: audio.positions,
        fill_gaps: audio.fill_gaps,
        encoding: encoding.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn fields(settings: &api::AudioSettings) -> Vec<String> {
        let mut wrong = Violations::new();
        read(&mut wrong, "audio", Some(settings));
        match wrong.finish() {
            Ok(()) => Vec::new(),
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn settings_are_kept_and_shown_as_they_came() {
        let settings = api::AudioSettings {
            min_packet_bytes: 640,
            max_packet_bytes: 1600,
            lead_ms: 200,
            positions: true,
            fill_gaps: true,
            encoding: api::AudioEncoding::Mulaw.into(),
        };
        let mut wrong = Violations::new();
        let kept = read(&mut wrong, "audio", Some(&settings)).unwrap();
        assert!(wrong.finish().is_ok());
        assert_eq!(shown(serde_json::from_value(kept).unwrap()), settings);
        // A row of an older release may lack what is new.
        let old: Audio = serde_json::from_str(r#"{"lead_ms":200}"#).unwrap();
        assert_eq!((old.lead_ms, old.encoding), (200, Coding::Pcm16));
        assert_eq!(
            read(&mut Violations::new(), "audio", Some(&api::AudioSettings::default())),
            None
        );
    }

    #[test]
    fn each_bound_is_named() {
        let settings = api::AudioSettings::default();
        for (settings, wrong) in [
            (
                api::AudioSettings {
                    min_packet_bytes: 321,
                    ..settings
                },
                vec!["audio.min_packet_bytes"],
            ),
            (
                api::AudioSettings {
                    min_packet_bytes: -320,
                    ..settings
                },
                vec!["audio.min_packet_bytes"],
            ),
            (
                api::AudioSettings {
                    max_packet_bytes: 24_320,
                    ..settings
                },
                vec!["audio.max_packet_bytes"],
            ),
            (
                api::AudioSettings {
                    min_packet_bytes: 3520,
                    ..settings
                },
                vec!["audio.max_packet_bytes"],
            ),
            (
                api::AudioSettings {
                    lead_ms: 99,
                    ..settings
                },
                vec!["audio.lead_ms"],
            ),
            (
                api::AudioSettings {
                    lead_ms: 501,
                    ..settings
                },
                vec!["audio.lead_ms"],
            ),
            (
                api::AudioSettings {
                    lead_ms: i32::MAX,
                    ..settings
                },
                vec!["audio.lead_ms"],
            ),
            (
                api::AudioSettings {
                    encoding: 9,
                    ..settings
                },
                vec!["audio.encoding"],
            ),
            (
                api::AudioSettings {
                    min_packet_bytes: 3200,
                    lead_ms: 100,
                    ..settings
                },
                vec!["audio.min_packet_bytes"],
            ),
            (
                api::AudioSettings {
                    min_packet_bytes: 3200,
                    lead_ms: 400,
                    ..settings
                },
                vec![],
            ),
        ] {
            assert_eq!(fields(&settings), wrong);
        }
    }
}
