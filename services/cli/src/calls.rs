//! Calls.

mod show;
mod watch;

use callbridge_proto::call::v1::{
    Call, CallFilter, CallState, Direction, EndCallRequest, ListCallsRequest, TransferCallRequest,
};
use clap::{Args, Subcommand};
use prost_types::Timestamp;

use crate::{Failure, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: usize = 200;

/// What can be done with calls.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists calls, newest first.
    List {
        #[command(flatten)]
        filter: Filter,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Shows a call with its audio sessions and its timeline.
    Show {
        /// The call's id.
        id: String,
    },
    /// Shows what happens, as it happens: to one call until it is over, or to all until Ctrl-C.
    Watch {
        /// The call's id; without one, all calls that match.
        id: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// With an id: go on after the call's end, for facts that come late, until Ctrl-C.
        #[arg(long, requires = "id")]
        follow: bool,
    },
    /// Ends a call: one that waits at once, a live one by the agent leaving.
    End {
        /// The call's id.
        id: String,
        /// Kept on the timeline.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Takes the agent off a live call and has the flow dial a person.
    Transfer {
        /// The call's id.
        id: String,
        /// The number to dial.
        #[arg(long, value_name = "NUMBER")]
        to: String,
        /// Kept on the timeline.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
}

/// Which calls; all that is given must hold.
#[derive(Debug, Default, Args)]
pub(crate) struct Filter {
    /// In this state, such as queued, in_progress or failed; may be repeated.
    #[arg(long = "state", value_name = "STATE", value_parser = state)]
    states: Vec<CallState>,
    /// inbound or outbound.
    #[arg(long, value_name = "DIRECTION", value_parser = direction)]
    direction: Option<Direction>,
    /// From or to this phone, by its id.
    #[arg(long, value_name = "ID")]
    phone: Option<String>,
    /// With this agent, by its id.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Of this campaign, by its id.
    #[arg(long, value_name = "ID")]
    campaign: Option<String>,
    /// With this person's number.
    #[arg(long, value_name = "NUMBER")]
    number: Option<String>,
    /// Placed with the API key of this name.
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Queued at or after this time, such as 2026-11-26T09:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    after: Option<Timestamp>,
    /// Queued before this time.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    before: Option<Timestamp>,
    /// Only calls that a person should look at.
    #[arg(long)]
    needs_review: bool,
}

impl Filter {
    fn message(self) -> CallFilter {
        CallFilter {
            states: self.states.into_iter().map(Into::into).collect(),
            direction: self.direction.unwrap_or_default().into(),
            phone_id: self.phone.unwrap_or_default(),
            agent_id: self.agent.unwrap_or_default(),
            customer_number: self.number.unwrap_or_default(),
            caller: self.caller.unwrap_or_default(),
            queued_after: self.after,
            queued_before: self.before,
            needs_review: self.needs_review,
            campaign_id: self.campaign.unwrap_or_default(),
        }
    }
}

fn state(word: &str) -> Result<CallState, String> {
    CallState::from_str_name(&format!("CALL_STATE_{}", word.to_ascii_uppercase()))
        .filter(|state| *state != CallState::Unspecified)
        .ok_or_else(|| {
            "states are queued, dialing, unconfirmed, placed, ringing, in_progress, completed, no_answer, busy, failed and canceled"
                .to_owned()
        })
}

fn direction(word: &str) -> Result<Direction, String> {
    match word {
        "inbound" => Ok(Direction::Inbound),
        "outbound" => Ok(Direction::Outbound),
        _ => Err("directions are inbound and outbound".to_owned()),
    }
}

pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let at = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| {
        "a time is written as RFC 3339 has it: 2026-11-26T09:00:00Z or 2026-11-26T14:30:00+05:30".to_owned()
    })?;
    Ok(Timestamp {
        seconds: at.timestamp(),
        nanos: 0,
    })
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { filter, limit } => list(client, out, filter, limit).await,
        Command::Show { id } => show::run(client, out, id).await,
        Command::Watch {
            id: Some(id), follow, ..
        } => watch::one(client, out, id, follow).await,
        Command::Watch { id: None, filter, .. } => watch::all(client, out, filter.message()).await,
        Command::End { id, reason } => {
            let request = EndCallRequest { call_id: id, reason };
            let answer = client.calls().end_call(request).await;
            let call = answer
                .map_err(client.failed("end the call"))?
                .into_inner()
                .call
                .unwrap_or_default();
            if out.json {
                return Ok(out.message(&call)?);
            }
            let state = words::call_state(call.state());
            let what = if call.ended_at.is_some() {
                format!("{} is over: {state} ({})", call.id, call.end_reason)
            } else {
                format!("{} is being ended: {state}", call.id)
            };
            Ok(out.line(&what)?)
        }
        Command::Transfer { id, to, reason } => {
            let request = TransferCallRequest {
                call_id: id.clone(),
                to,
                reason,
            };
            let answer = client.calls().transfer_call(request).await;
            let answer = answer.map_err(client.failed("hand the call over"))?.into_inner();
            if out.json {
                return Ok(out.message(&answer)?);
            }
            Ok(out.line(&format!("{id} is being handed over ({})", answer.command_id))?)
        }
    }
}

async fn list(client: &Client, out: &mut Out<'_>, filter: Filter, limit: usize) -> Result<(), Failure> {
    let filter = filter.message();
    let (mut calls, mut page_token) = (Vec::new(), String::new());
    while calls.len() < limit {
        let size = (limit - calls.len()).min(PAGE);
        let request = ListCallsRequest {
            filter: Some(filter.clone()),
            page_size: i32::try_from(size).unwrap_or(1),
            page_token,
        };
        let answer = client.calls().list_calls(request).await;
        let page = answer.map_err(client.failed("list calls"))?.into_inner();
        calls.extend(page.calls);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if out.json {
        for call in &calls {
            out.message(call)?;
        }
        return Ok(());
    }
    let rows = calls.iter().map(|call| row(out, call)).collect();
    let head = ["id", "queued", "direction", "person", "phone", "state", "why", "talk"];
    Ok(out.table(head, rows)?)
}

fn row(out: &Out<'_>, call: &Call) -> [String; 8] {
    let why = if call.end_reason.is_empty() {
        &call.waiting_reason
    } else {
        &call.end_reason
    };
    [
        call.id.clone(),
        words::time(call.queued_at),
        words::direction(call.direction()),
        out.number(&call.customer_number),
        call.phone_number.clone(),
        words::call_state(call.state()),
        why.clone(),
        call.talk_seconds
            .map(|seconds| format!("{seconds} s"))
            .unwrap_or_default(),
    ]
}
