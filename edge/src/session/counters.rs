//! What a session counts instead of logging each frame.

use std::collections::HashMap;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The figures of one session. They go out once, with its end.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
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

counters! {
    /// Audio frames from Exotel.
    frames_in,
    /// Audio frames to Exotel.
    frames_out,
    /// Bytes of audio from Exotel.
    bytes_in,
    /// Bytes of audio to Exotel.
    bytes_out,
    /// Frames that could not be read, were binary or named another stream.
    bad_frames,
    /// Audio frames that are missing from the numbering.
    gaps,
    /// Audio frames that came again or too late, and were dropped.
    repeats,
    /// Audio frames before `start`, dropped.
    early_frames,
    /// Events that need no action.
    other_events,
    /// Milliseconds of the person's audio that a slow agent cost.
    dropped_in_ms,
    /// Milliseconds of the agent's audio beyond what is buffered.
    dropped_out_ms,
    /// Milliseconds of the agent's audio of interrupted turns.
    stale_out_ms,
    /// Barge-ins.
    clears,
    /// Marks that the agent asked for.
    marks,
    /// Times the person heard a gap because the agent's audio came too late.
    underruns,
    /// Milliseconds of silence added to fill the last packet of a turn.
    padded_ms,
    /// Messages of the agent that break the contract, dropped.
    bad_agent_messages,
    /// Reconnects to an agent in mid-call.
    agent_retries,
    /// Milliseconds from `start` until the first audio was sent.
    first_audio_ms,
}
