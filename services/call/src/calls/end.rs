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
use tracing::{Instrument as _, info, info_span, warn};

use super::{
    record::{Note, record},
    state::Event,
};
use crate::{
    app::App,
    error::Error,
    ingress::commands,
    store::{calls::Call, sessions},
};

/// Asks to end a call and returns it as it stands. Asking again is no mistake.
///
/// # Errors
/// `NotFound`.
pub async fn end(app: &Arc<App>, caller: &str, id: CallId, reason: &str) -> Result<Call, Error> {
    let mut conn = app.db.conn().await?;
    let note = Note::from("api").with("caller", caller).with("reason", reason);
    let (call, changed, live) = conn
        .transaction::<_, Error, _>(async |conn| {
            let (call, changed) =
                record(conn, id, &Event::EndRequested, note).await?.ok_or_else(|| Error::not_found("call", id))?;
            let live = sessions::live(conn, id).await?.is_some();
            Ok((call, changed, live))
        })
        .instrument(info_span!("db.transaction", otel.name = "end_call"))
        .await?;
    if changed {
        app.hub.committed(id);
    }
    if call.state.is_terminal() {
        return Ok(call);
    }
    if live {
        let leave = Leave {
            action: LeaveAction::HangUp.into(),
            reason: "ended_by_request".to_owned(),
            ..Leave::default()
        };
        match commands::send(app, id, command::Action::Leave(leave)).await {
            Ok(_) => {}
            // The session ended in between; the read-back that follows it ends the call.
            Err(Error::Precondition { .. }) => info!(call.id = %id, "the audio had ended before the call was asked to end"),
            Err(error) => return Err(error),
        }
    } else if let (true, Some(sid)) = (changed, call.call_sid.clone()) {
        let credentials = app.vault.open_for_call(&mut conn, call.account_id, call.phone_id).await?.credentials;
        let app_of_task = Arc::clone(app);
        app.tasks.spawn(async move { try_hang_up(&app_of_task, id, &credentials, &sid).await });
    }
    Ok(call)
}

/// Asks Exotel once to hang up. No such request is documented, so a refusal is expected: the connect request is refused, or the
/// socket closed, when somebody answers all the same.
pub async fn try_hang_up(app: &App, id: CallId, credentials: &Credentials, sid: &str) {
    match app.exotel.hang_up(credentials, sid).await {
        Ok(answer) => info!(call.id = %id, ?answer, "asked Exotel to hang up"),
        Err(error) => warn!(call.id = %id, %error, "Exotel could not be asked to hang up"),
    }
}
