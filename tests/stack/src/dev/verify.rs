//! Whether a call was as it should be.

use std::path::PathBuf;

use anyhow::Context as _;
use callbridge_proto::call::v1::{Call, CallState};
use exotel_sim::{CallReport, StreamReport};

use super::{GREETING, sound};

/// What one call came to.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    /// What was right.
    pub(super) good: Vec<String>,
    /// What was not.
    pub(super) bad: Vec<String>,
}

/// Files of one call.
#[derive(Debug, Clone)]
pub(super) struct Recordings {
    /// What the person heard.
    pub(super) person: PathBuf,
    /// What the agent heard.
    pub(super) agent: PathBuf,
}

/// Looks at the row, at the simulator's report and at the sound.
pub(super) fn verify(call: &Call, report: &CallReport, recordings: &Recordings) -> Verdict {
    let mut verdict = Verdict {
        good: Vec::new(),
        bad: Vec::new(),
    };
    let state = if call.state() == CallState::Completed {
        &mut verdict.good
    } else {
        &mut verdict.bad
    };
    state.push(format!(
        "{} ({})",
        call.state().as_str_name().trim_start_matches("CALL_STATE_"),
        or(&call.end_reason, "no reason")
    ));
    if call.exotel_call_sid != report.call_sid {
        verdict.bad.push("the row's CallSid is not the simulator's".to_owned());
    }
    match report.streams.last() {
        Some(stream) => match audio(stream, recordings) {
            Ok(heard) => {
                verdict.good.extend(heard.good);
                verdict.bad.extend(heard.bad);
            }
            Err(error) => verdict.bad.push(format!("{error:#}")),
        },
        None => verdict.bad.push("there was no audio stream".to_owned()),
    }
    verdict
}

fn audio(stream: &StreamReport, recordings: &Recordings) -> anyhow::Result<Verdict> {
    let (heard, said) = (sound::read(&recordings.person)?, sound::read(&recordings.agent)?);
    let mut verdict = Verdict {
        good: Vec::new(),
        bad: Vec::new(),
    };
    let greeting = sound::decode(GREETING)?;
    // A play-out that ran dry cuts a piece in two.
    let torn = usize::try_from(stream.underruns)
        .unwrap_or(usize::MAX)
        .saturating_mul(2);
    let mut look = |what: &str, sound: &[i16]| {
        let length = seconds(sound.len());
        match sound::find(sound, &heard) {
            Some(found) if found.missing <= torn => {
                let holes = if found.holes == 0 {
                    String::new()
                } else {
                    format!(", {} holes in the play-out", found.holes)
                };
                verdict.good.push(format!(
                    "{what} heard at {}, {length}, sample for sample{holes}",
                    seconds(found.at)
                ));
            }
            Some(found) => verdict.bad.push(format!(
                "{what}: {} of {} pieces were not heard",
                found.missing,
                sound.len() / 160
            )),
            None => verdict.bad.push(format!("{what} was not heard")),
        }
    };
    look("greeting", sound::speech(&greeting));
    let speech = sound::speech(&said);
    if speech.is_empty() {
        verdict.bad.push("the agent heard no speech".to_owned());
    } else {
        look("echo", speech);
    }
    if stream.overflow_bytes > 0 || stream.odd_messages > 0 || stream.invalid_messages > 0 {
        verdict.bad.push(format!(
            "the stream had {} bytes too many, {} odd and {} invalid messages",
            stream.overflow_bytes, stream.odd_messages, stream.invalid_messages
        ));
    }
    if let Some(first) = stream.first_audio_ms {
        verdict.good.push(format!(
            "first audio after {first} ms, {} underruns, {} gaps",
            stream.underruns, stream.gaps
        ));
    }
    Ok(verdict)
}

/// The simulator's files of a call.
pub(super) fn files(report: &CallReport) -> anyhow::Result<Recordings> {
    let stream = report.streams.last().context("there was no audio stream")?;
    let person = stream
        .heard
        .clone()
        .context("the simulator wrote no WAV of what the person heard")?;
    let agent = stream
        .said
        .clone()
        .context("the simulator wrote no WAV of what the person said")?;
    Ok(Recordings { person, agent })
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[expect(clippy::cast_precision_loss, reason = "minutes of sound are far below 2^52 samples")]
fn seconds(samples: usize) -> String {
    format!("{:.2} s", samples as f64 / 8_000.0)
}
