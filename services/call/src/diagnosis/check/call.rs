//! What a call showed.

use std::time::Duration;

use callbridge_proto::id::CallId;

use super::{Check, Outcome};

const CALL: &str = "call";
const AUDIO: &str = "audio";
const HANGUP: &str = "hangup_applet";
const CALLBACK: &str = "callback";
/// The checks that only a call can make.
const NAMES: [&str; 4] = [CALL, AUDIO, HANGUP, CALLBACK];

/// What was seen of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The call; none where it was not placed.
    pub(crate) id: Option<CallId>,
    /// Whether it goes through a flow.
    pub(crate) flow: bool,
    /// How far it came.
    pub(crate) placed: Placed,
    /// The audio, if there was any session.
    pub(crate) audio: Option<Audio>,
    /// What happened after our side had left.
    pub(crate) end: End,
    /// Whether a status callback came.
    pub(crate) callback: Option<String>,
}

/// How far the call came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It was not placed; the text says why and what to do.
    Refused(String),
    /// It still waits, for this reason.
    Waits(String),
    /// It ended before anybody answered: state, end reason and Exotel's own word.
    Unanswered(&'static str, String, String),
    /// Whether it was placed is not known.
    Unconfirmed,
    /// It rings, or is said to be placed, and nothing more happened.
    Silent,
    /// Somebody answered, after so long.
    Answered(Duration),
}

/// What came over the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Audio {
    /// Messages with audio from Exotel.
    pub(crate) frames: u64,
    /// Bytes of it.
    pub(crate) bytes: u64,
    /// Who answered on our side.
    pub(crate) agent: Agent,
}

/// What was seen of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    /// It took the call, and so many messages with audio went to the person.
    Answered {
        /// Messages to Exotel.
        frames: u64,
    },
    /// It did not, in time.
    Silent,
    /// The person hung up before that was clear.
    Unseen,
}

/// What happened after our side had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It did not come to that, or the person hung up first.
    Unseen,
    /// The call ended, after so long.
    Ended(Duration),
    /// Exotel says that it goes on.
    Open,
    /// Whether it ended is not known.
    Unknown,
}

/// The checks that need a call, where there was none.
pub(crate) fn not_called(why: &str) -> [Check; 4] {
    NAMES.map(|name| Check::skipped(name, why))
}

/// Checks the call, its audio, its end and its callback.
pub(crate) fn call(seen: &Seen) -> [Check; 4] {
    let placed = placed(&seen.placed);
    let answered = matches!(seen.placed, Placed::Answered(_));
    let mut checks = if answered {
        [placed, audio(seen), hangup(seen), callback(seen)]
    } else {
        let [_, audio, hangup, callback] = not_called("nobody answered");
        [placed, audio, hangup, callback]
    };
    for check in &mut checks {
        check.call = seen.id;
    }
    checks
}

fn placed(placed: &Placed) -> Check {
    match placed {
        Placed::Answered(after) => Check::passed(CALL, format!("placed, and answered after {} s", after.as_secs())),
        Placed::Refused(why) => Check::failed(
            CALL,
            format!("the call was not placed: {why}"),
            "do what it says, and try again",
        ),
        Placed::Waits(reason) => Check::failed(
            CALL,
            format!("the call was not dialled: it waits ({reason})"),
            match reason.as_str() {
                "calling_hours" => {
                    "try again within the account's calling hours, or give a reason to call outside of them"
                }
                _ => "see what the call waits for, and try again",
            },
        ),
        Placed::Unconfirmed => Check::warning(
            CALL,
            "Exotel did not answer the dial, and it is not known whether it called",
            "try again when Exotel answers; nobody dials this call again",
        ),
        Placed::Silent => Check::warning(
            CALL,
            "Exotel took the call, and neither an answer nor an end was heard of in time",
            "see whether the phone rang, and the call's timeline later",
        ),
        Placed::Unanswered(state, reason, code) => unanswered(state, reason, code),
    }
}

fn unanswered(state: &str, reason: &str, code: &str) -> Check {
    let code = if code.is_empty() {
        String::new()
    } else {
        format!(", {code}")
    };
    let seen = format!("the call ended before anybody answered: {state} ({reason}{code})");
    let (outcome, advice) = match reason {
        "no_answer" | "busy" | "ended_by_request" => (
            Outcome::Warning,
            "call somebody who answers and stays on the line for a few seconds",
        ),
        "expired" => (
            Outcome::Failed,
            "the call waited for its turn for a minute: see the account's calls_per_minute and the caps of account, phone and agent",
        ),
        "kyc" => (Outcome::Failed, "complete the account's KYC in Exotel's dashboard"),
        "dnd" => (
            Outcome::Failed,
            "the number is on the do-not-disturb register, or a trial account may not call it: call another one, or verify it in the \
             dashboard",
        ),
        "no_balance" => (Outcome::Failed, "recharge the account"),
        "bad_credentials" => (Outcome::Failed, "set the API key and token again"),
        "bad_parameter" => (
            Outcome::Failed,
            "see that the number is an ExoPhone of the account and that app_id is a flow of it",
        ),
        "forbidden" => (
            Outcome::Failed,
            "the account may not do this: with DIAL_MODE_STREAM ask Exotel to enable Connect Voice AI; else see its list of allowed \
             addresses and whether it is suspended",
        ),
        _ => (Outcome::Failed, "see the call's timeline"),
    };
    Check::new(CALL, outcome, seen, advice)
}

fn audio(seen: &Seen) -> Check {
    match seen.audio {
        Some(Audio {
            agent: Agent::Silent, ..
        }) => Check::failed(
            AUDIO,
            "the audio socket opened, and the agent did not answer: the person hears silence",
            "see whether the agent's endpoints can be reached from the edge, AGENT_ENDPOINT_ALLOW, and the call's timeline",
        ),
        Some(Audio { frames: 0, .. }) => Check::warning(
            AUDIO,
            "the audio socket opened, and no audio came",
            "see whether the person's side is muted, and try again",
        ),
        Some(Audio { frames, bytes, agent }) => {
            let said = match agent {
                Agent::Answered { frames } => format!(", and {frames} went back from the agent"),
                Agent::Silent | Agent::Unseen => String::new(),
            };
            Check::passed(
                AUDIO,
                format!("{frames} messages with {bytes} bytes of audio came over the socket{said}"),
            )
        }
        None if seen.flow => Check::failed(
            AUDIO,
            "somebody answered, and no audio socket was opened",
            "see that the flow of app_id begins with a Voicebot applet, that its URL is the account's connect_url, and that AgentStream is \
             enabled for the account",
        ),
        None => Check::failed(
            AUDIO,
            "somebody answered, and no audio socket was opened",
            "see that Connect Voice AI is enabled for the account, and the checks of the edge above",
        ),
    }
}

fn hangup(seen: &Seen) -> Check {
    if !seen.flow {
        return Check::skipped(HANGUP, "without a flow the call ends with its audio");
    }
    match seen.end {
        End::Ended(after) => Check::passed(
            HANGUP,
            format!("the call ended {} s after the agent had left", after.as_secs()),
        ),
        End::Open => Check::failed(
            HANGUP,
            "the agent has left, and the call goes on: the person hears silence",
            "put a Hangup applet at the end of the flow, on both branches of each Passthru",
        ),
        End::Unknown => Check::warning(
            HANGUP,
            "whether the call ended after the agent had left is not known",
            "see the call's timeline later",
        ),
        End::Unseen => Check::skipped(HANGUP, "the call ended before the agent left, or had no audio"),
    }
}

fn callback(seen: &Seen) -> Check {
    match (&seen.callback, seen.end) {
        (Some(how), _) => Check::passed(CALLBACK, format!("Exotel told of the call's end by callback ({how})")),
        (None, End::Ended(_)) => Check::warning(
            CALLBACK,
            "the call's end is known, and no callback told of it in time",
            "callbridge asks Exotel itself, so nothing is lost but time; see whether something before the edge stops POST requests",
        ),
        (None, End::Open | End::Unknown | End::Unseen) => Check::skipped(CALLBACK, "the call's end was not seen"),
    }
}
