//! Ending a call on request: at once while it waits, through the media session while it is live, and as soon as there is
//! something to end while it is being dialled.

use std::sync::Arc;

use callbridge_proto::{
    agent::v1::{Leave, LeaveAction},
    id::CallId,
    ingress::v1::command,
};
use diesel_async::AsyncConnection as _;
use exotel::rest::Credentials;
use tracing::{Instrument as _, info, warn};

use super::{
    record::{Note, record_locked},
    state::Event,
};
use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    ingress::commands,
    store::{calls, calls::Call, sessions},
    trace,
};

/// Asks to end a call and returns it as it stands. Asking again is no mistake.
///
/// # Errors
/// `NotFound`.
pub async fn end(app: &Arc<App>, caller: &str, id: CallId, reason: &str) -> Result<Call, Error> {
    let mut conn = app.db.conn().await?;
    let note = Note::from("api").with("caller", caller).with("reason", reason);
    let (call, changed, leave) = conn
        .transaction::<_, Error, _>(async |conn| {
            let (row, now) = calls::lock(conn, id)
                .await?
                .ok_or_else(|| Error::not_found("call", id))?;
            trace::follow(&row);
            audit::changed_on_request(conn, Subject::Id(&id)).await?;
            let (call, changed) = record_locked(conn, row, now, Some(&Event::EndRequested), None, note).await?;
            // One request is one command, committed with it; it is sent until the edge answers.
            if !changed || call.state.is_terminal() || sessions::live(conn, id).await?.is_none() {
                return Ok((call, changed, None));
            }
            let leave = Leave {
                action: LeaveAction::HangUp.into(),
                reason: "ended_by_request".to_owned(),
                ..Leave::default()
            };
            let queued = commands::queue(conn, app, call, now, command::Action::Leave(leave), "api").await?;
            Ok((queued.call.clone(), changed, Some(queued)))
        })
        .instrument(trace::finding("end_call"))
        .await?;
    drop(conn);
    if !changed {
        return Ok(call);
    }
    app.hub.committed(id);
    match (leave, &call.call_sid) {
        (Some(leave), _) => leave.wake(app),
        (None, Some(sid)) if !call.state.is_terminal() => {
            let (app_of_task, call, sid) = (Arc::clone(app), call.clone(), sid.clone());
            app.tasks.spawn(async move {
                match credentials(&app_of_task, &call).await {
                    Ok(credentials) => try_hang_up(&app_of_task, call.id(), &credentials, &sid).await,
                    Err(error) => warn!(call.id = %call.id(), %error, "Exotel cannot be asked to hang up"),
                }
            });
        }
        (None, _) => {}
    }
    Ok(call)
}

async fn credentials(app: &App, call: &Call) -> Result<Credentials, Error> {
    let mut conn = app.db.conn().await?;
    Ok(app
        .vault
        .open_for_call(&mut conn, call.account_id, call.phone_id)
        .await?
        .credentials)
}

/// Asks Exotel once to hang up. No such request is documented, so a refusal is expected: the connect request is refused, or the
/// socket closed, when somebody answers all the same.
pub async fn try_hang_up(app: &App, id: CallId, credentials: &Credentials, sid: &str) {
    match app.exotel.hang_up(credentials, sid).await {
        Ok(answer) => info!(call.id = %id, ?answer, "asked Exotel to hang up"),
        Err(error) => warn!(call.id = %id, %error, "Exotel could not be asked to hang up"),
    }
}
