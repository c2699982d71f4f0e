//! What a session counts instead of logging each frame.

use std::{collections::HashMap, time::Duration};

/// Something that is measured each time that it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// From `start` until the first audio was sent.
    FirstAudio(Duration),
    /// From `start` until the agent's stream was open.
    AgentConnected(Duration),
    /// From the agent's `Clear` until no more of the turn left.
    ClearToSilence(Duration),
    /// How late Exotel sent a mark back.
    MarkLag(Duration),
}

/// Moments that wait to be taken. Whoever has more at one time has measured enough.
const MOMENTS: usize = 64;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The figures of one session. They go out once, with its end.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            moments: Vec<Moment>,
        }

        impl Counters {
            /// Notes how long something took.
            pub(super) fn measure(&mut self, moment: Moment) {
                if self.moments.len() < MOMENTS {
                    self.moments.push(moment);
                }
            }

            /// Takes what was measured.
            pub(super) fn moments(&mut self) -> impl Iterator<Item = Moment> {
                self.moments.drain(..)
            }

            /// All that are not zero, by name.
            pub fn quality(&self) -> HashMap<String, i64> {
                [$((stringify!($name), self.$name)),*]
                    .into_iter()
                    .filter(|(_, value)| *value != 0)
                    .map(|(name, value)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX)))
                    .collect()
            }
        }
    };
}

/// Keeps the largest, in milliseconds.
pub(super) fn raise(counter: &mut u64, value: Duration) {
    *counter = (*counter).max(u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
}

counters! {
    /// Audio frames (packets) from Exotel.
    frames_in,
    /// Audio frames (packets) to Exotel.
    frames_out,
    /// Bytes of audio from Exotel, as it was coded.
    bytes_in,
    /// Bytes of audio to Exotel, as PCM.
    bytes_out,

    /// Frames that could not be used: all of the next six.
    bad_frames,
    /// Binary frames.
    bad_binary,
    /// Text that is no JSON of a frame's shape, or too deep.
    bad_json,
    /// Frames without a field that their event needs.
    bad_fields,
    /// Audio that is not base64.
    bad_base64,
    /// Frames that name another stream, a second `start` among them.
    bad_stream,
    /// Messages beyond 64 KiB; each ends the session.
    too_large,
    /// Other breaches of the WebSocket protocol; each ends the session.
    protocol_errors,
    /// The socket ended without a close, perhaps in the middle of a frame.
    broken_off,
    /// Audio, keys and marks before `start`, dropped.
    early_frames,
    /// The same `start` again.
    repeated_starts,
    /// Events that need no action, and marks that are not ours.
    other_events,
    /// Pings that were not answered in time, on a silent line.
    missed_pongs,

    /// Audio frames that are missing from the numbering.
    gaps,
    /// Milliseconds of silence put in for them, where that is wanted.
    filled_ms,
    /// Audio frames that came again or too late, and were dropped.
    repeats,
    /// How unevenly audio frames arrived, in milliseconds, at the end (RFC 3550 §6.4.1, by Exotel's timestamps).
    jitter_ms,
    /// The same at its worst.
    max_jitter_ms,
    /// Milliseconds of the person's audio that a slow agent cost.
    dropped_in_ms,

    /// Milliseconds of audio that came from the agent, whatever became of it.
    agent_audio_ms,
    /// Milliseconds of the agent's audio beyond what is buffered.
    dropped_out_ms,
    /// Milliseconds of the agent's audio of interrupted turns.
    stale_out_ms,
    /// Milliseconds from `start` until the first audio was sent.
    first_audio_ms,
    /// Times the person heard a gap because the agent's audio came too late.
    underruns,
    /// Milliseconds of silence added to fill the last packet of a turn.
    padded_ms,
    /// Barge-ins.
    clears,
    /// Milliseconds from the agent's `Clear` until no more of the turn left, at worst.
    clear_to_silence_ms,
    /// Milliseconds that were left of the packet that Exotel was playing then, at most: a `clear` does not stop it.
    clear_tail_ms,
    /// Marks that the agent asked for.
    marks,
    /// Milliseconds that Exotel sent a mark back after its time, at worst.
    mark_lag_ms,
    /// Marks that Exotel did not send back.
    unanswered_marks,

    /// Messages of the agent that break the contract, dropped.
    bad_agent_messages,
    /// Reconnects to an agent in mid-call.
    agent_retries,
}
