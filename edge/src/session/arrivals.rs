//! How the person's audio arrives: its numbering, its evenness, and what is missing of it.

use std::time::Duration;

use exotel::stream::Media;
use tokio::time::Instant;

use super::counters::Counters;

/// A numbering that falls back this far has begun anew; less is a repeat.
const RENUMBERED: u64 = 1000;
/// So many repeats in a row are none, but another numbering: the agent must not be deaf for the rest of a call.
const MAX_REPEATS: u8 = 3;
/// One gap is filled with at most so much silence: more would only make the agent's time wrong.
const MAX_FILL: Duration = Duration::from_secs(1);
/// A step of Exotel's clock beyond this is another clock.
const CLOCK_STEP: i64 = 60_000_000;

/// What to do with a piece of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was heard before.
    Repeat,
    /// It is new, and this much is missing before it.
    New(Duration),
}

/// Where the audio is.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    chunk: Option<u64>,
    timestamp_ms: Option<u64>,
    /// How long the last piece was.
    length: Duration,
    repeats: u8,
    began: Option<Instant>,
    /// The last piece's time of arrival less its timestamp, in microseconds.
    transit: Option<i64>,
    /// The estimate of RFC 3550 §6.4.1, in sixteenths of microseconds as in its §A.8.
    jitter: i64,
}

impl Arrivals {
    /// Takes the next piece, which is this long.
    pub(super) fn take(&mut self, now: Instant, media: &Media, length: Duration, counters: &mut Counters) -> Arrival {
        let lost = match (self.chunk, media.chunk) {
            (Some(last), Some(chunk)) if chunk <= last => {
                // A repeat has the time of what it repeats, where times are told.
                let is_newer = media
                    .timestamp_ms
                    .is_some_and(|new| self.timestamp_ms.is_some_and(|last| new > last));
                if !is_newer && last - chunk < RENUMBERED && self.repeats < MAX_REPEATS {
                    self.repeats += 1;
                    counters.repeats += 1;
                    return Arrival::Repeat;
                }
                0
            }
            (Some(last), Some(chunk)) => {
                self.repeats = 0;
                chunk - last - 1
            }
            _ => 0,
        };
        counters.gaps = counters.gaps.saturating_add(lost);
        self.evenness(now, media.timestamp_ms, counters);
        let missing = if lost == 0 {
            Duration::ZERO
        } else {
            self.missing(lost, media.timestamp_ms, length)
        };
        // Sequence numbers count all events, so only chunk numbers tell of missing audio (F88).
        if media.chunk.is_some() {
            (self.chunk, self.timestamp_ms) = (media.chunk, media.timestamp_ms);
        }
        self.length = length;
        Arrival::New(missing)
    }

    /// By the timestamps, where they are told; else as if the pieces had all been as long as this one.
    fn missing(&self, lost: u64, timestamp_ms: Option<u64>, length: Duration) -> Duration {
        let told = match (self.timestamp_ms, timestamp_ms) {
            (Some(before), Some(this)) => this.checked_sub(before).map(Duration::from_millis),
            _ => None,
        };
        let missing = match told {
            Some(told) => told.saturating_sub(self.length),
            None => length.saturating_mul(u32::try_from(lost).unwrap_or(u32::MAX)),
        };
        missing.min(MAX_FILL)
    }

    fn evenness(&mut self, now: Instant, timestamp_ms: Option<u64>, counters: &mut Counters) {
        let Some(sent) = timestamp_ms.and_then(|ms| i64::try_from(ms).ok()?.checked_mul(1000)) else {
            return;
        };
        let began = *self.began.get_or_insert(now);
        let arrived = i64::try_from((now - began).as_micros()).unwrap_or(i64::MAX);
        let transit = arrived.saturating_sub(sent);
        if let Some(last) = self.transit.replace(transit) {
            let difference = transit.saturating_sub(last).saturating_abs();
            if difference < CLOCK_STEP {
                self.jitter += difference - ((self.jitter + 8) >> 4);
            }
        }
        counters.jitter_ms = u64::try_from(self.jitter / 16_000).unwrap_or(0);
        counters.max_jitter_ms = counters.max_jitter_ms.max(counters.jitter_ms);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const PIECE: Duration = Duration::from_millis(20);

    fn media(chunk: Option<u64>, timestamp_ms: Option<u64>) -> Media {
        Media {
            sequence: None,
            chunk,
            timestamp_ms,
            payload: Bytes::new(),
        }
    }

    fn take(arrivals: &mut Arrivals, chunk: u64, timestamp_ms: Option<u64>) -> Arrival {
        let media = media(Some(chunk), timestamp_ms);
        arrivals.take(Instant::now(), &media, PIECE, &mut Counters::default())
    }

    /// F88.
    #[test]
    fn what_is_missing_is_told_by_the_times_or_by_the_numbers() {
        for (second, told, missing) in [
            ((2, None), Arrival::New(Duration::ZERO), "nothing"),
            ((4, None), Arrival::New(2 * PIECE), "two pieces"),
            ((4, Some(100)), Arrival::New(Duration::from_millis(80)), "by the times"),
            ((4, Some(5)), Arrival::New(Duration::ZERO), "times that do not fit"),
            ((u64::MAX, None), Arrival::New(MAX_FILL), "very much"),
            (
                (u64::MAX, Some(u64::MAX)),
                Arrival::New(MAX_FILL),
                "very much, by the times",
            ),
            ((1, Some(0)), Arrival::Repeat, "a repeat"),
        ] {
            let mut arrivals = Arrivals::default();
            assert_eq!(take(&mut arrivals, 1, Some(0)), Arrival::New(Duration::ZERO));
            let (chunk, timestamp) = second;
            assert_eq!(take(&mut arrivals, chunk, timestamp), told, "{missing}");
        }
    }

    /// RFC 3550 §6.4.1: pieces that come by turns 20 and 60 ms apart have a jitter that goes to 20 ms; even ones have none.
    #[test]
    fn the_jitter_is_the_recommendations() {
        for (apart, expected) in [([40, 40], 0..1), ([20, 60], 18..21)] {
            let (mut arrivals, mut counters) = (Arrivals::default(), Counters::default());
            let mut now = Instant::now();
            for i in 0..200_usize {
                arrivals.take(now, &media(Some(i as u64), Some(40 * i as u64)), PIECE, &mut counters);
                now += Duration::from_millis(apart[i % 2]);
            }
            assert!(expected.contains(&counters.jitter_ms), "{apart:?}: {counters:?}");
        }
    }

    proptest! {
        /// F88: no numbers break anything, and no more is missing than is allowed.
        #[test]
        fn any_numbers_are_taken(pieces in proptest::collection::vec((any::<Option<u64>>(), any::<Option<u64>>(), 0_u64..100_000), 0..50)) {
            let (mut arrivals, mut counters) = (Arrivals::default(), Counters::default());
            let mut now = Instant::now();
            for (chunk, timestamp_ms, wait) in pieces {
                now += Duration::from_millis(wait);
                let arrival = arrivals.take(now, &media(chunk, timestamp_ms), PIECE, &mut counters);
                prop_assert!(matches!(arrival, Arrival::Repeat) || matches!(arrival, Arrival::New(missing) if missing <= MAX_FILL));
            }
            prop_assert!(counters.max_jitter_ms < 60_001);
        }
    }
}
