//! How the audio of a phone's calls is sent and read.

use std::time::Duration;

use callbridge_proto::directory::v1::{AudioEncoding, AudioSettings};
use exotel::stream::Encoding;

/// Packets are multiples of this many bytes of PCM; a shorter one makes Exotel wait 20 ms (`exotel.md` §5.3).
pub const PACKET: usize = 320;
/// The documented packet, which Exotel wants at least where its buffer leads.
const FULL_PACKET: usize = 3200;
/// Half a second at 24 kHz: what is larger would be more than the longest lead.
const LARGEST_PACKET: usize = 24_000;
/// Audio sent ahead of its time is at most this much, so that `clear` is heard at once (F72).
pub const MAX_LEAD: Duration = Duration::from_millis(500);
/// Less would be heard as gaps on an ordinary network.
const MIN_LEAD: Duration = Duration::from_millis(100);

/// A phone's settings, each within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// How audio is coded on the socket, both ways.
    pub encoding: Encoding,
    /// Bytes of PCM in the packets while Exotel's buffer is empty.
    pub min_packet: usize,
    /// Bytes of PCM in the packets once it leads.
    pub max_packet: usize,
    /// How far audio is sent ahead of its time.
    pub lead: Duration,
    /// Packets say where in the stream they are.
    pub positions: bool,
    /// What is missing from the numbering is silence.
    pub fill_gaps: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            encoding: Encoding::Pcm16,
            min_packet: PACKET,
            max_packet: FULL_PACKET,
            lead: MAX_LEAD,
            positions: false,
            fill_gaps: false,
        }
    }
}

impl From<&AudioSettings> for Tuning {
    /// call-service has checked the settings; what it may let through one day is bounded here all the same. 0 is the default.
    fn from(settings: &AudioSettings) -> Self {
        let default = Self::default();
        let packet = |bytes: i32, default: usize| match usize::try_from(bytes) {
            Ok(0) | Err(_) => default,
            Ok(bytes) => (bytes / PACKET * PACKET).clamp(PACKET, LARGEST_PACKET),
        };
        let min_packet = packet(settings.min_packet_bytes, default.min_packet);
        Self {
            encoding: match settings.encoding() {
                AudioEncoding::Unspecified | AudioEncoding::Pcm16 => Encoding::Pcm16,
                AudioEncoding::Mulaw => Encoding::MuLaw,
            },
            min_packet,
            max_packet: packet(settings.max_packet_bytes, default.max_packet).max(min_packet),
            lead: match u64::try_from(settings.lead_ms) {
                Ok(0) | Err(_) => default.lead,
                Ok(ms) => Duration::from_millis(ms).clamp(MIN_LEAD, MAX_LEAD),
            },
            positions: settings.positions,
            fill_gaps: settings.fill_gaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_bounded_and_zero_is_the_default() {
        assert_eq!(Tuning::from(&AudioSettings::default()), Tuning::default());
        let wild = AudioSettings {
            min_packet_bytes: i32::MAX,
            max_packet_bytes: 333,
            lead_ms: i32::MAX,
            encoding: 7,
            ..AudioSettings::default()
        };
        let tuning = Tuning::from(&wild);
        assert_eq!((tuning.min_packet, tuning.max_packet), (LARGEST_PACKET, LARGEST_PACKET));
        assert_eq!((tuning.lead, tuning.encoding), (MAX_LEAD, Encoding::Pcm16));
        let small = AudioSettings {
            min_packet_bytes: 1,
            max_packet_bytes: 700,
            lead_ms: 1,
            ..AudioSettings::default()
        };
        let tuning = Tuning::from(&small);
        assert_eq!(
            (tuning.min_packet, tuning.max_packet, tuning.lead),
            (320, 640, MIN_LEAD)
        );
    }
}
