//! What the edge of a live session is told to do. A command is a row before it is sent, and is sent until it is answered.

use std::sync::Arc;

use callbridge_proto::{
    agent::v1::{Leave, LeaveAction},
    id::{CallId, CommandId, EdgeId},
    ingress::v1::{Command, CommandDone, command::Action},
};
use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::PhoneNumber;
use prost::Message as _;
use tracing::Instrument as _;

use super::word;
use crate::{
    app::App,
    audit::{self, Subject},
    calls::record::{Note, annotate, record_locked},
    error::Error,
    store::{
        calls::{self, Call, Change},
        commands::{self, NewCommand},
        sessions,
    },
    toll::{Dialler, Prefixes},
    trace,
};

/// The column's limit; SendToAgent's own limit is lower.
const MAX_BYTES: usize = 64 * 1024;
/// Commands that one session may have open: an edge that does not answer must not be buried.
const MAX_OPEN: i64 = 100;

/// A command that is about to be committed.
pub struct Queued {
    /// Found again on the timeline.
    pub id: CommandId,
    /// Whom to wake after the commit.
    pub edge: Option<EdgeId>,
    /// The call after it.
    pub call: Call,
}

impl Queued {
    /// Wakes the edge's stream, if it is attached here. Other replicas look every second. Call it after the commit.
    pub fn wake(&self, app: &App) {
        if let Some(edge) = self.edge {
            app.edges.wake(edge);
        }
    }
}

/// Tells the edge of a call's live session to do something. Returns once that is committed. Where it has somebody rung, it counts among
/// the calls of the day of `counted`.
///
/// # Errors
/// `NotFound`, Precondition with reason `NO_LIVE_SESSION`, or Spent (`DAILY_CALLS_SPENT`).
pub async fn send(app: &Arc<App>, call: CallId, action: Action, counted: Option<&Dialler>) -> Result<CommandId, Error> {
    let mut conn = app.db.reserved().await?;
    let queued = conn
        .transaction::<_, Error, _>(async |conn| {
            let (row, now) = calls::lock(conn, call)
                .await?
                .ok_or_else(|| Error::not_found("call", call))?;
            trace::follow(&row);
            audit::changed(conn, Subject::Id(&call)).await?;
            let queued = queue(conn, app, row, now, action, "api").await?;
            if let Some(dialler) = counted
                && !dialler.count(conn, &app.config.toll).await?
            {
                return Err(dialler.spent(&app.config.toll));
            }
            Ok(queued)
        })
        .instrument(trace::finding("send_command"))
        .await?;
    queued.wake(app);
    app.hub.committed(call);
    Ok(queued.id)
}

/// As [`send`], for a row that the caller locked in this transaction.
///
/// # Errors
/// As [`send`].
pub async fn queue(
    conn: &mut AsyncPgConnection,
    app: &App,
    call: Call,
    now: DateTime<Utc>,
    action: Action,
    source: &'static str,
) -> Result<Queued, Error> {
    let session = sessions::live(conn, call.id()).await?.ok_or_else(|| {
        Error::precondition(
            "NO_LIVE_SESSION",
            "no agent is on this call now: watch it for media_started",
        )
    })?;
    if commands::count_open(conn, session.id()).await? >= MAX_OPEN {
        return Err(Error::exhausted(
            "TOO_MANY_COMMANDS",
            "the call's edge has not carried out earlier commands: try again later",
        ));
    }
    let id = CommandId(app.clock.new_uuid());
    let note = Note::from(source).with("command_id", id.to_string());
    let (kind, note) = match &action {
        Action::Leave(leave) => {
            let (change, note) = leaving(&app.config.toll.prefixes, leave, note);
            ("leave_requested", note.changing(change))
        }
        Action::Message(_) => ("agent_message", note),
    };
    let command = Command {
        command_id: id.to_string(),
        media_session_id: session.id().to_string(),
        action: Some(action),
    };
    let command = command.encode_to_vec();
    if command.len() > MAX_BYTES {
        return Err(Error::invalid("json", "at most 16 KiB"));
    }
    commands::insert(
        conn,
        &NewCommand {
            id: id.0,
            call_id: call.id,
            media_session_id: session.id,
            command,
        },
    )
    .await?;
    let (call, _) = record_locked(conn, call, now, None, Some(kind), note).await?;
    Ok(Queued {
        id,
        edge: session.edge_id.map(EdgeId),
        call,
    })
}

/// What a leave means for the rest of the call's flow: the columns to set, and the facts for the timeline. Whom the prefixes do not
/// allow is not dialled next, whoever names the number (F126).
pub fn leaving(prefixes: &Prefixes, leave: &Leave, note: Note) -> (Change, Note) {
    let mut note = note;
    let reason = word(&leave.reason);
    if !reason.is_empty() {
        note = note.with("reason", reason);
    }
    match LeaveAction::try_from(leave.action) {
        Ok(LeaveAction::ContinueFlow) => {
            note = note
                .with("action", "continue_flow")
                .with("branch", if leave.branch_b { "b" } else { "a" });
            let target = if leave.transfer_to.is_empty() {
                None
            } else {
                let number = PhoneNumber::parse(&leave.transfer_to);
                let problem = match &number {
                    Err(_) => Some("unreadable"),
                    Ok(number) if prefixes.allow(number).is_err() => Some("not_allowed"),
                    Ok(_) => None,
                };
                if let Some(problem) = problem {
                    note.data.insert("transfer_to".to_owned(), problem.into());
                }
                number.ok().filter(|_| problem.is_none())
            };
            if let Some(number) = &target {
                note = note.with("transfer_to", number.to_string());
            }
            let change = Change {
                transfer_to: Some(target.map(|number| number.expose().to_owned())),
                branch_b: Some(leave.branch_b),
                ..Change::default()
            };
            (change, note)
        }
        Ok(LeaveAction::HangUp | LeaveAction::Unspecified) | Err(_) => {
            (Change::default(), note.with("action", "hang_up"))
        }
    }
}

/// An edge says that a command was carried out, or could not be. Returns the call it belongs to, if that is news.
///
/// # Errors
/// Of the database.
pub async fn done(app: &Arc<App>, edge: EdgeId, message: &CommandDone) -> Result<(), Error> {
    let Ok(id) = message.command_id.parse::<CommandId>() else {
        return Ok(());
    };
    let mut conn = app.db.reserved().await?;
    let Some(call) = commands::call_of(&mut conn, id).await? else {
        return Ok(());
    };
    let finished = conn
        .transaction::<_, Error, _>(async |conn| {
            if let Some((row, _)) = calls::lock(conn, call).await? {
                trace::follow(&row);
            }
            if !commands::finish(conn, id, edge, message.done).await? {
                return Ok(false);
            }
            let note = Note::from("media")
                .with("command_id", id.to_string())
                .with("done", message.done.to_string());
            annotate(conn, call, "command_done", note).await?;
            Ok(true)
        })
        .instrument(trace::finding("command_done"))
        .await?;
    if finished {
        app.hub.committed(call);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(action: LeaveAction, transfer_to: &str) -> Leave {
        Leave {
            action: action.into(),
            branch_b: true,
            transfer_to: transfer_to.to_owned(),
            reason: "done".to_owned(),
        }
    }

    #[test]
    fn going_on_sets_the_branch_and_whom_to_dial() {
        let india = Prefixes::parse("+91").unwrap();
        let (change, note) = leaving(
            &india,
            &leave(LeaveAction::ContinueFlow, "09812345678"),
            Note::from("agent"),
        );
        assert_eq!(change.transfer_to, Some(Some("+919812345678".to_owned())));
        assert_eq!(change.branch_b, Some(true));
        assert_eq!(note.data["transfer_to"], "+91******5678");
        assert_eq!(note.data["branch"], "b");
    }

    #[test]
    fn an_unreadable_number_dials_nobody_and_nor_does_a_foreign_one() {
        let india = Prefixes::parse("+91").unwrap();
        for (number, told) in [("+12", "unreadable"), ("+442079460123", "not_allowed")] {
            let (change, note) = leaving(&india, &leave(LeaveAction::ContinueFlow, number), Note::from("agent"));
            assert_eq!(change.transfer_to, Some(None));
            assert_eq!(note.data["transfer_to"], told);
        }
    }

    #[test]
    fn hanging_up_leaves_the_flow_alone() {
        let india = Prefixes::parse("+91").unwrap();
        let (change, note) = leaving(&india, &leave(LeaveAction::HangUp, "09812345678"), Note::from("agent"));
        assert!(change == Change::default());
        assert_eq!(note.data["action"], "hang_up");
        assert_eq!(note.data["reason"], "done");
    }
}
