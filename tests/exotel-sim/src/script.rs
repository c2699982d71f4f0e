//! What the person on the phone does while a bot listens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The steps of a caller, one after the other. Their clock runs while a stream is open, and on the silent line after a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallerScript {
    /// The steps; afterwards the caller is silent.
    pub steps: Vec<Step>,
    /// Hangs up so long after the answer, wherever the call is.
    pub hang_up_after_ms: Option<u64>,
}

impl CallerScript {
    /// A caller who says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The whole small conversation of a demonstration: listens, greets, asks, thanks, hangs up.
    pub fn conversation() -> Self {
        Self::new()
            .wait_for_audio_end(800)
            .speak(Speech::Hello)
            .wait_for_audio_end(800)
            .speak(Speech::Question)
            .wait_for_audio_end(800)
            .speak(Speech::Goodbye)
            .silence(1_000)
            .hang_up()
    }

    /// Says something.
    #[must_use]
    pub fn speak(self, speech: Speech) -> Self {
        self.step(Step::Speak(speech))
    }

    /// Says nothing for so many milliseconds.
    #[must_use]
    pub fn silence(self, milliseconds: u64) -> Self {
        self.step(Step::Silence(milliseconds))
    }

    /// Presses keys.
    #[must_use]
    pub fn press(self, digits: impl Into<String>) -> Self {
        self.step(Step::Press(digits.into()))
    }

    /// Waits until the bot has spoken and has then been silent for so many milliseconds; gives up after 15 s.
    #[must_use]
    pub fn wait_for_audio_end(self, silent_ms: u64) -> Self {
        self.step(Step::WaitForAudioEnd {
            silent_ms,
            timeout_ms: 15_000,
        })
    }

    /// Hangs up.
    #[must_use]
    pub fn hang_up(self) -> Self {
        self.step(Step::HangUp)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// One thing a caller does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Says something.
    Speak(Speech),
    /// Is silent for so many milliseconds.
    Silence(u64),
    /// Presses keys, one every 120 ms.
    Press(String),
    /// Waits for the bot to have spoken since the last such step, and then to be silent.
    WaitForAudioEnd {
        /// How long it has to be silent.
        silent_ms: u64,
        /// When to give up.
        timeout_ms: u64,
    },
    /// Hangs up.
    HangUp,
}

/// Speech: built in, or a WAV file (mono or the left channel, 16-bit, any rate).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speech {
    /// "Hello, who is calling please?", 2.2 s; or the file of `Config::speech`.
    #[default]
    Hello,
    /// "Could you tell me when my order will arrive?", 2.3 s.
    Question,
    /// "Thank you. Goodbye.", 1.8 s.
    Goodbye,
    /// A file.
    File(PathBuf),
}
