//! What the agent does, decided without IO: one message in, the answers out. This is the file to replace.

use std::collections::HashMap;

use bytes::Bytes;
use callbridge_proto::agent::v1::{
    Clear, ConverseRequest, ConverseResponse, Leave, LeaveAction, Mark, Metadata, OutgoingAudio, Speaker, Start,
    Transcript, converse_request::Event, converse_response::Action,
};
use serde::Deserialize;

use crate::{detector::Detector, speech::Phrase, tone};

/// Audio is sent in pieces of this length, so that a barge-in need not wait for one long message.
const PIECE_MS: u32 = 100;

/// As many digits as `say_digits` plays: 6.4 s of tones, well within what an edge holds.
const MAX_DIGITS: usize = 32;

/// The mark after the agent's own greeting.
const GREETED: &str = "greeting";

/// Why a session cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The first message was something else.
    #[error("the first message of a session must be start")]
    NotStarted,
    /// A second start.
    #[error("the session has started already")]
    StartedTwice,
    /// Not a rate of the contract.
    #[error("audio_format.sample_rate must be 8000, 16000 or 24000, not {0}")]
    SampleRate(u32),
}

/// Samples per second of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleRate {
    /// 8000.
    Khz8,
    /// 16000.
    Khz16,
    /// 24000.
    Khz24,
}

impl SampleRate {
    /// Samples per second.
    pub fn hertz(self) -> u32 {
        match self {
            Self::Khz8 => 8_000,
            Self::Khz16 => 16_000,
            Self::Khz24 => 24_000,
        }
    }

    /// Samples in so many milliseconds.
    pub fn samples(self, milliseconds: u32) -> u32 {
        self.hertz() / 1_000 * milliseconds
    }
}

impl TryFrom<u32> for SampleRate {
    type Error = Refused;

    fn try_from(hertz: u32) -> Result<Self, Refused> {
        [Self::Khz8, Self::Khz16, Self::Khz24]
            .into_iter()
            .find(|rate| rate.hertz() == hertz)
            .ok_or(Refused::SampleRate(hertz))
    }
}

/// The agent's configuration (`Agent.config`); what it does not know it leaves alone.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Wishes {
    /// Whether it greets.
    greet: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { greet: true }
    }
}

/// A JSON message from the company's own services.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Instruction {
    say_digits: Option<String>,
    hang_up: bool,
}

/// Where the conversation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The caller hears a greeting: the stored one, or the agent's own.
    Greeting,
    /// The agent speaks until this mark was played.
    Speaking(String),
    /// The caller hears herself.
    Echoing,
    /// The agent left, or the session ended.
    Over,
}

/// What the session amounted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    frames: u64,
    bytes: u64,
    digits: u64,
    barge_ins: u64,
}

/// A session that has started.
#[derive(Debug, Clone)]
struct Session {
    rate: SampleRate,
    phase: Phase,
    /// The agent's turn; a barge-in begins the next.
    generation: u64,
    /// Replies so far, for the names of their marks.
    marks: u64,
    detector: Detector,
    tally: Tally,
}

/// One conversation, from `Start` to `Stop`.
#[derive(Debug, Clone, Default)]
pub struct Conversation(Option<Session>);

impl Conversation {
    /// Waits for `Start`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one message and returns the answers, in order.
    ///
    /// # Errors
    /// When the session cannot begin as asked; it is over then.
    pub fn hear(&mut self, request: ConverseRequest) -> Result<Vec<ConverseResponse>, Refused> {
        let mut answers = Vec::new();
        match (&mut self.0, request.event) {
            (None, Some(Event::Start(start))) => self.0 = Some(Session::begin(&start, &mut answers)?),
            (None, _) => return Err(Refused::NotStarted),
            (Some(_), Some(Event::Start(_))) => return Err(Refused::StartedTwice),
            (Some(session), Some(event)) => session.hear(event, &mut answers),
            // A kind of message that is newer than this agent.
            (Some(_), None) => {}
        }
        Ok(answers
            .into_iter()
            .map(|action| ConverseResponse { action: Some(action) })
            .collect())
    }

    /// Whether the agent has nothing more to say.
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|session| session.phase == Phase::Over)
    }
}

impl Session {
    fn begin(start: &Start, answers: &mut Vec<Action>) -> Result<Self, Refused> {
        let rate = SampleRate::try_from(start.audio_format.map_or(0, |format| format.sample_rate))?;
        let mut session = Self {
            rate,
            phase: Phase::Echoing,
            generation: 1,
            marks: 0,
            detector: Detector::new(rate),
            tally: Tally::default(),
        };
        // A configuration that does not read as ours is another agent's business, not a reason to lose the call.
        let wishes: Wishes = serde_json::from_str(&start.agent_config).unwrap_or_default();
        if start.greeting_ms > 0 {
            session.phase = Phase::Greeting;
        } else if wishes.greet {
            session.say(
                Phrase::Greeting.text(),
                &Phrase::Greeting.samples(rate),
                GREETED.to_owned(),
                answers,
            );
            session.phase = Phase::Greeting;
        }
        Ok(session)
    }

    fn hear(&mut self, event: Event, answers: &mut Vec<Action>) {
        if self.phase == Phase::Over {
            return;
        }
        match event {
            Event::Audio(audio) => self.listen(audio.pcm, answers),
            Event::Dtmf(dtmf) => self.key(&dtmf.digit, answers),
            // A mark that was cleared, or is not the newest, belongs to speech that something else followed.
            Event::MarkPlayed(mark) => {
                let greeted = self.phase == Phase::Greeting && mark.name == GREETED;
                if greeted || self.phase == Phase::Speaking(mark.name) {
                    self.quiet();
                }
            }
            Event::GreetingEnded(_) => {
                if self.phase == Phase::Greeting {
                    self.quiet();
                }
            }
            Event::Message(message) => self.obey(&message.json, answers),
            Event::Stop(_) => {
                answers.push(self.summary());
                self.phase = Phase::Over;
            }
            // This agent says so little that the edge's queue never matters; a second Start is refused before.
            Event::Playout(_) | Event::Start(_) => {}
        }
    }

    /// The caller's voice: comes back, or interrupts.
    fn listen(&mut self, pcm: Bytes, answers: &mut Vec<Action>) {
        if self.phase == Phase::Echoing {
            return self.echo(pcm, answers);
        }
        if let Some(onset) = self.detector.hear(&pcm) {
            self.tally.barge_ins += 1;
            self.interrupt(answers);
            self.echo(onset.into(), answers);
        }
    }

    fn echo(&mut self, pcm: Bytes, answers: &mut Vec<Action>) {
        self.tally.frames += 1;
        self.tally.bytes += pcm.len() as u64;
        answers.push(Action::Audio(OutgoingAudio {
            pcm,
            generation: self.generation,
        }));
    }

    fn key(&mut self, digit: &str, answers: &mut Vec<Action>) {
        self.tally.digits += 1;
        match digit {
            "*" => self.leave(Phrase::Goodbye, LeaveAction::HangUp, "star_pressed", answers),
            "#" => self.leave(Phrase::OneMoment, LeaveAction::ContinueFlow, "hash_pressed", answers),
            _ => {
                let Some(tone) = single(digit).and_then(|digit| tone::dtmf(digit, self.rate)) else {
                    return;
                };
                // Whoever presses a key has heard enough of the greeting; earlier replies are played out.
                if self.phase == Phase::Greeting {
                    self.interrupt(answers);
                }
                let mut samples = Phrase::YouPressed.samples(self.rate);
                samples.extend(tone);
                // The digit itself stays out of the transcript: it can be part of a PIN.
                self.reply(Phrase::YouPressed.text(), &samples, answers);
            }
        }
    }

    fn obey(&mut self, json: &str, answers: &mut Vec<Action>) {
        let instruction: Instruction = serde_json::from_str(json).unwrap_or_default();
        if let Some(digits) = instruction.say_digits {
            let tones = digits
                .chars()
                .filter_map(|digit| tone::dtmf(digit, self.rate))
                .take(MAX_DIGITS);
            let samples = tones.collect::<Vec<_>>().concat();
            if !samples.is_empty() {
                self.reply("(digits)", &samples, answers);
            }
        }
        if instruction.hang_up {
            self.leave(Phrase::Goodbye, LeaveAction::HangUp, "asked_by_message", answers);
        }
    }

    /// Speaks, after what it is saying already, and does not echo until that was heard.
    fn reply(&mut self, text: &str, samples: &[i16], answers: &mut Vec<Action>) {
        self.marks += 1;
        let mark = format!("said-{}", self.marks);
        self.say(text, samples, mark.clone(), answers);
        if self.phase == Phase::Echoing {
            self.detector.reset();
        }
        self.phase = Phase::Speaking(mark);
    }

    fn say(&self, text: &str, samples: &[i16], mark: String, answers: &mut Vec<Action>) {
        for piece in samples.chunks(self.rate.samples(PIECE_MS) as usize) {
            let pcm: Vec<u8> = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            answers.push(Action::Audio(OutgoingAudio {
                pcm: pcm.into(),
                generation: self.generation,
            }));
        }
        answers.push(Action::Transcript(Transcript {
            speaker: Speaker::Agent.into(),
            text: text.to_owned(),
            r#final: true,
            language: "en".to_owned(),
        }));
        answers.push(Action::Mark(Mark { name: mark }));
    }

    /// Stops speaking at once; what follows is the next turn.
    fn interrupt(&mut self, answers: &mut Vec<Action>) {
        if self.phase != Phase::Echoing {
            answers.push(Action::Clear(Clear {
                generation: self.generation,
            }));
            self.generation += 1;
            self.quiet();
        }
    }

    fn quiet(&mut self) {
        self.phase = Phase::Echoing;
        self.detector.reset();
    }

    fn leave(&mut self, phrase: Phrase, action: LeaveAction, reason: &str, answers: &mut Vec<Action>) {
        self.interrupt(answers);
        self.reply(phrase.text(), &phrase.samples(self.rate), answers);
        answers.push(self.summary());
        answers.push(Action::Leave(Leave {
            action: action.into(),
            branch_b: false,
            transfer_to: String::new(),
            reason: reason.to_owned(),
        }));
        self.phase = Phase::Over;
    }

    fn summary(&self) -> Action {
        let Tally {
            frames,
            bytes,
            digits,
            barge_ins,
        } = self.tally;
        let echo_ms = bytes / 2 * 1_000 / u64::from(self.rate.hertz());
        let entries = [
            ("echo_frames", frames),
            ("echo_ms", echo_ms),
            ("digits", digits),
            ("barge_ins", barge_ins),
        ];
        let entries: HashMap<_, _> = entries.map(|(key, value)| (key.to_owned(), value.to_string())).into();
        Action::Metadata(Metadata { entries })
    }
}

/// The only character of a text.
fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

#[cfg(test)]
mod tests;
