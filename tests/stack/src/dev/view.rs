//! What is on the screen. Plain where it is no terminal, or `NO_COLOR` is set.

pub(super) mod campaign;

use std::{env, path::Path, process::ExitCode, time::Duration};

use anstream::{eprintln, println};
use callbridge_proto::call::v1::{Call, CallEvent, CallState};
use owo_colors::OwoColorize as _;

use super::{demo::Ended, folder::Folder};
use crate::{Registered, Stack};

/// A fact longer than this says nothing at a glance.
const LONGEST_FACT: usize = 40;

/// Facts that are for programs.
const UNSHOWN: [&str; 4] = ["media_session_id", "stream_sid", "dial_call_seconds", "call_type"];

/// The longest word is UNCONFIRMED or IN_PROGRESS.
const STATE_WIDTH: usize = 11;

/// Which of the two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Outbound,
    Inbound,
}

impl Line {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    fn label(self) -> String {
        match self {
            Self::Outbound => format!("{:<8}", "outbound").cyan().to_string(),
            Self::Inbound => format!("{:<8}", "inbound").magenta().to_string(),
        }
    }
}

/// One call's events as they come, each with the time since the first.
pub(super) struct Timeline {
    line: Line,
    first: Option<Duration>,
    state: CallState,
}

impl Timeline {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            first: None,
            state: CallState::Unspecified,
        }
    }

    pub(super) fn show(&mut self, event: &CallEvent) {
        let at = event.at.unwrap_or_default();
        let at = Duration::new(at.seconds.unsigned_abs(), at.nanos.unsigned_abs());
        let since = at.saturating_sub(*self.first.get_or_insert(at));
        let changed = event.state() != self.state;
        self.state = event.state();
        let state = if changed {
            coloured(self.state)
        } else {
            " ".repeat(STATE_WIDTH)
        };
        let facts = facts(event);
        let time = format!("{:>7.2} s", since.as_secs_f64());
        let (kind, source) = (format!("{:<18}", event.r#type), format!("{:<10}", event.source));
        println!(
            "  {} {}  {kind} {} {state} {}",
            time.dimmed(),
            self.line.label(),
            source.dimmed(),
            facts.dimmed()
        );
    }
}

fn facts(event: &CallEvent) -> String {
    let mut facts: Vec<String> = event
        .data
        .iter()
        .filter(|(key, value)| !UNSHOWN.contains(&key.as_str()) && !value.is_empty() && value.len() <= LONGEST_FACT)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    facts.sort();
    facts.join(" ")
}

fn state_word(state: CallState) -> &'static str {
    state.as_str_name().trim_start_matches("CALL_STATE_")
}

fn coloured(state: CallState) -> String {
    // Padded before it is coloured: escape sequences have no width.
    let word = format!("{:<STATE_WIDTH$}", state_word(state));
    match state {
        CallState::Completed => word.green().bold().to_string(),
        CallState::InProgress => word.green().to_string(),
        CallState::Failed | CallState::Canceled | CallState::NoAnswer | CallState::Busy => {
            word.red().bold().to_string()
        }
        CallState::Unconfirmed => word.yellow().to_string(),
        CallState::Unspecified | CallState::Queued | CallState::Dialing | CallState::Placed | CallState::Ringing => {
            word.blue().to_string()
        }
    }
}

pub(super) fn title(folder: &Folder) {
    println!("{}", "callbridge on this machine".bold());
    println!("  {} {}", "state".dimmed(), shown(folder.path()).dimmed());
    println!();
}

pub(super) fn ready(name: &str, what: &str, took: Duration) {
    let took = if took.is_zero() {
        String::new()
    } else {
        format!("{:.2} s", took.as_secs_f64())
    };
    println!("  {} {name:<14} {what}  {}", "✓".green(), took.dimmed());
}

pub(super) fn registered(registered: &Registered) {
    let greeting = registered.greeting.as_ref().map_or(0, |greeting| greeting.duration_ms);
    println!("  {} {:<14} {}", "✓".green(), "account", registered.account_id);
    println!(
        "  {} {:<14} {} ({})",
        "✓".green(),
        "phone",
        registered.phone_id,
        registered.phone_number
    );
    println!(
        "  {} {:<14} {} (greeting of {greeting} ms)",
        "✓".green(),
        "agent",
        registered.agent.id
    );
}

pub(super) fn calls_begin() {
    println!();
    println!("{}", "one call out, one call in".bold());
}

pub(super) fn ended(ended: &Ended) {
    let Ended {
        line,
        call,
        said,
        recordings,
        verdict,
    } = ended;
    println!();
    println!("{} {}", line.label().bold(), call.id.dimmed());
    println!("    {} {}", "took".dimmed(), durations(call));
    for text in &verdict.good {
        println!("    {} {text}", "✓".green());
    }
    for text in &verdict.bad {
        println!("    {} {}", "✗".red(), text.red());
    }
    if !said.is_empty() {
        println!("    {} {}", "agent said".dimmed(), said.join(" · "));
    }
    if let Some(files) = recordings {
        println!("    {} {}", "person heard".dimmed(), shown(&files.person));
        println!("    {} {}", "agent heard ".dimmed(), shown(&files.agent));
    }
}

fn durations(call: &Call) -> String {
    let mut parts = Vec::new();
    if let Some(ring) = call.ring_seconds {
        parts.push(format!("ring {ring} s"));
    }
    if let Some(talk) = call.talk_seconds {
        parts.push(format!("talk {talk} s"));
    }
    let seconds = |time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map(|time| Duration::new(time.seconds.unsigned_abs(), time.nanos.unsigned_abs()))
    };
    if let (Some(from), Some(to)) = (seconds(&call.queued_at), seconds(&call.ended_at)) {
        parts.push(format!("{:.1} s in all", to.saturating_sub(from).as_secs_f64()));
    }
    if !call.ended_by.is_empty() {
        parts.push(format!("ended by {}", call.ended_by));
    }
    parts.join(", ")
}

/// Where things are, and what to try: with a call of before, and a campaign.
pub(super) fn next_steps(stack: &Stack, registered: &Registered, call: Option<&str>, campaign: Option<&str>) {
    let (key, grpc) = (&stack.keys.api_key, stack.grpc_address());
    let auth = format!("-H 'authorization: Bearer {key}'");
    let call = call.unwrap_or("call_…");
    println!();
    println!("{}", "where things are".bold());
    let internal = |piece: &crate::Piece| {
        piece
            .internal
            .map(|address| format!("http://{address}/metrics"))
            .unwrap_or_default()
    };
    let rows = [
        (
            "call-service",
            format!("{grpc} (gRPC)   {}", internal(&stack.call_services[0])),
        ),
        ("edge", format!("{}   {}", stack.edge_url(), internal(&stack.edges[0]))),
        ("simulator", stack.simulator_url()),
        ("echo-agent", stack.agent_url()),
        ("database", stack.database_url.clone()),
        ("API key", key.clone()),
        ("account token", registered.urls.account_token.clone()),
        ("account", registered.account_id.clone()),
        ("phone", format!("{} {}", registered.phone_id, registered.phone_number)),
        ("agent", registered.agent.id.clone()),
    ];
    for (name, value) in rows {
        println!("  {:<14} {value}", name.dimmed());
    }
    println!();
    println!("{}", "to try".bold());
    let grpcurl = format!("grpcurl -plaintext {auth}");
    let place = format!(
        r#"{{"idempotency_key": "try-1", "to": "+919812340019", "phone_id": "{}"}}"#,
        registered.phone_id
    );
    let inbound = format!(
        r#"{{"account": "{}", "from": "+919812340020", "to": "{}"}}"#,
        registered.account_sid, registered.phone_number
    );
    let service = "callbridge.call.v1.CallService";
    let mut commands = vec![
        ("what there is", format!("{grpcurl} {grpc} list")),
        ("the contract", format!("{grpcurl} {grpc} describe {service}")),
        (
            "place a call",
            format!("{grpcurl} -d '{place}' {grpc} {service}/PlaceCall"),
        ),
        (
            "watch a call",
            format!("{grpcurl} -d '{{\"call_id\": \"{call}\"}}' {grpc} {service}/WatchCall"),
        ),
        (
            "watch all calls",
            format!("{grpcurl} -d '{{}}' {grpc} {service}/WatchCalls"),
        ),
        (
            "call in",
            format!(
                "curl -H 'content-type: application/json' -d '{inbound}' {}/control/inbound",
                stack.simulator_url()
            ),
        ),
    ];
    if let Some(id) = campaign {
        let campaigns = "callbridge.campaign.v1.CampaignService";
        let of = format!(r#"-d '{{"campaign_id": "{id}"}}' {grpc} {campaigns}"#);
        commands.push(("see the campaign", format!("{grpcurl} {of}/GetCampaign")));
        commands.push((
            "send more contacts",
            format!(
                "CALLBRIDGE_API_KEY={key} cargo run -p callbridge-cli -- --endpoint http://{grpc} campaigns import {id} more.csv"
            ),
        ));
        commands.push(("call them", format!("{grpcurl} {of}/ResumeCampaign")));
    }
    for (what, command) in commands {
        println!("  {}", format!("# {what}").dimmed());
        println!("  {command}");
    }
}

pub(super) fn waiting() {
    println!();
    println!("{}", "Everything stays up until Ctrl-C.".bold());
}

pub(super) fn stopped(took: Duration) {
    println!();
    println!("{}", format!("stopped in {:.1} s", took.as_secs_f64()).dimmed());
}

/// One line for something that went wrong while all is up.
pub(super) fn trouble(error: &anyhow::Error) {
    eprintln!("{} {error:#}", "error:".red().bold());
}

/// One line for something that ends the program.
pub(super) fn failed(error: &anyhow::Error) -> ExitCode {
    trouble(error);
    ExitCode::FAILURE
}

/// A path as short as it can be typed here.
fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
