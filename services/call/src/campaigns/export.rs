//! A campaign's results as a CSV file (RFC 4180), one row for each attempt that was dialled.

use std::sync::Arc;

use bytes::Bytes;
use callbridge_proto::id::{CallId, CampaignId, ContactId};
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::{sync::mpsc, time::timeout};
use uuid::Uuid;

use super::retry::Outcome;
use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    store::campaigns::{
        self,
        results::{self, Attempt},
    },
};

/// Attempts read at one time.
const PAGE: i64 = 500;
/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// A reader that takes nothing for this long is gone.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The columns, in order.
pub const COLUMNS: [&str; 16] = [
    "contact_id",
    "number",
    "contact_state",
    "call_id",
    "exotel_call_sid",
    "phone_number",
    "state",
    "outcome",
    "end_reason",
    "ended_by",
    "dialed_at",
    "answered_at",
    "ended_at",
    "ring_seconds",
    "talk_seconds",
    "price",
];

/// Streams the file in pieces.
///
/// # Errors
/// `NotFound`.
pub async fn export(app: &Arc<App>, id: CampaignId) -> Result<mpsc::Receiver<Result<Bytes, Error>>, Error> {
    let mut conn = app.db.conn().await?;
    campaigns::find(&mut conn, id)
        .await?
        .ok_or_else(|| Error::not_found("campaign", id))?;
    drop(conn);
    audit::shown(&app.trail, Subject::Id(&id)).await?;
    let (sender, receiver) = mpsc::channel(2);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        if let Err(error) = send(&app_of_task, id, &sender).await {
            let _ = timeout(PATIENCE, sender.send(Err(error))).await;
        }
    });
    Ok(receiver)
}

async fn send(app: &App, id: CampaignId, sender: &mpsc::Sender<Result<Bytes, Error>>) -> Result<(), Error> {
    let mut text = Vec::new();
    line(&mut text, COLUMNS.iter().copied());
    let mut after = Uuid::nil();
    loop {
        if app.tasks.is_stopping() {
            return Err(Error::unavailable("this replica shuts down: export again"));
        }
        let page = results::page(&mut *app.db.conn().await?, id, after, PAGE).await?;
        for attempt in &page {
            let cells = cells(attempt);
            line(&mut text, cells.iter().map(String::as_str));
        }
        let last = i64::try_from(page.len()) != Ok(PAGE);
        while text.len() >= PIECE || (last && !text.is_empty()) {
            let piece: Vec<u8> = text.drain(..text.len().min(PIECE)).collect();
            if !matches!(timeout(PATIENCE, sender.send(Ok(piece.into()))).await, Ok(Ok(()))) {
                return Ok(());
            }
        }
        match page.last() {
            Some(attempt) if !last => after = attempt.id,
            _ => return Ok(()),
        }
    }
}

fn cells(attempt: &Attempt) -> [String; COLUMNS.len()] {
    let outcome = Outcome::of(attempt.state, &attempt.end_reason, attempt.agent_unavailable).map_or("", Outcome::word);
    let time = |at: Option<DateTime<Utc>>| {
        at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
            .unwrap_or_default()
    };
    let seconds = |n: Option<i32>| n.map(|n| n.to_string()).unwrap_or_default();
    [
        attempt
            .contact_id
            .map(|id| ContactId(id).to_string())
            .unwrap_or_default(),
        attempt.number.clone(),
        attempt.contact_state.clone(),
        CallId(attempt.id).to_string(),
        attempt.call_sid.clone(),
        attempt.exophone.clone(),
        attempt.state.label().to_owned(),
        outcome.to_owned(),
        attempt.end_reason.clone(),
        attempt.ended_by.clone(),
        time(attempt.dialed_at),
        time(attempt.answered_at),
        time(attempt.ended_at),
        seconds(attempt.ring_seconds),
        seconds(attempt.talk_seconds),
        attempt.price.clone(),
    ]
}

/// Adds a line. Cells with a comma, a quote or a line end are quoted.
fn line<'a>(text: &mut Vec<u8>, cells: impl Iterator<Item = &'a str>) {
    let mut writer = csv_core::WriterBuilder::new()
        .terminator(csv_core::Terminator::CRLF)
        .build();
    let mut piece = [0; 1024];
    for (place, cell) in cells.enumerate() {
        if place > 0 {
            write(text, &mut piece, |out| {
                let (result, wrote) = writer.delimiter(out);
                (result, 0, wrote)
            });
        }
        let mut rest = cell.as_bytes();
        write(text, &mut piece, |out| {
            let (result, read, wrote) = writer.field(rest, out);
            rest = &rest[read..];
            (result, read, wrote)
        });
    }
    write(text, &mut piece, |out| {
        let (result, wrote) = writer.terminator(out);
        (result, 0, wrote)
    });
}

/// Repeats a step of the writer until its output has found room.
fn write(
    text: &mut Vec<u8>,
    piece: &mut [u8],
    mut step: impl FnMut(&mut [u8]) -> (csv_core::WriteResult, usize, usize),
) {
    loop {
        let (result, _, wrote) = step(piece);
        text.extend_from_slice(&piece[..wrote]);
        if result == csv_core::WriteResult::InputEmpty {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_have_to_be() {
        let mut text = Vec::new();
        line(&mut text, ["plain", "a,b", "a \"b\"", "a\nb", ""].into_iter());
        let long = "x".repeat(5_000);
        line(&mut text, [long.as_str(), "end"].into_iter());
        let text = String::from_utf8(text).unwrap();
        let expected = format!("plain,\"a,b\",\"a \"\"b\"\"\",\"a\nb\",\r\n{long},end\r\n");
        assert_eq!(text, expected);
    }
}
