//! Following calls: one by its versions, all by a cursor. Nothing is missed and nothing comes twice, also after a disconnect and
//! beside a transaction that stays open for hours.

use std::sync::Arc;

use callbridge_proto::id::CallId;
use data_encoding::BASE64URL_NOPAD;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::list::Filter;
use crate::{
    app::App,
    error::Error,
    store::{
        calls,
        events::{self, Event, Place},
    },
};

/// Events read at one time.
const PAGE: i64 = 200;
/// Events on their way to one watcher. A watcher that does not read for longer is slow.
const IN_FLIGHT: usize = 64;
/// The database is asked this often even when nothing wakes the watcher: a wake-up can be lost.
const POLL: std::time::Duration = std::time::Duration::from_secs(5);
/// A watcher of all calls gets its cursor at least this often, whatever its filter keeps back, so that it resumes near where it was.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(10);
/// A watcher that takes nothing for this long is closed.
const SLOW: std::time::Duration = std::time::Duration::from_secs(10);

/// An event, or the cursor alone.
pub struct Seen {
    /// What happened; none in a heartbeat.
    pub event: Option<Arc<Event>>,
    /// Where to resume.
    pub cursor: String,
}

/// A place as the API shows it: opaque.
pub fn cursor(place: Place) -> String {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&place.tx.to_be_bytes());
    bytes[8..].copy_from_slice(&place.id.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The place of a cursor.
///
/// # Errors
/// Invalid when it is not one of ours.
pub fn place(cursor: &str) -> Result<Place, Error> {
    let bad = || Error::invalid("cursor", "give back the cursor of a response unchanged");
    let bytes: [u8; 16] = BASE64URL_NOPAD
        .decode(cursor.as_bytes())
        .ok()
        .and_then(|b| b.try_into().ok())
        .ok_or_else(bad)?;
    let (tx, id) = bytes.split_at(8);
    let number = |part: &[u8]| part.try_into().map(i64::from_be_bytes).map_err(|_| bad());
    let place = Place {
        tx: number(tx)?,
        id: number(id)?,
    };
    if place.tx < 0 || place.id < 0 {
        Err(bad())
    } else {
        Ok(place)
    }
}

/// Follows one call from a version on. Ends after the terminal event, unless late facts are wanted too.
///
/// # Errors
/// `NotFound`; later errors come through the stream.
pub async fn one(
    app: &Arc<App>,
    id: CallId,
    after: i64,
    late_facts: bool,
) -> Result<mpsc::Receiver<Result<Event, Error>>, Error> {
    let mut conn = app.db.conn().await?;
    calls::find(&mut conn, id)
        .await?
        .ok_or_else(|| Error::not_found("call", id))?;
    drop(conn);
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let stopping = app_of_task.tasks.stopping();
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping => Err(Error::unavailable("this replica shuts down: watch again with the last version")),
            end = follow_one(&app_of_task, id, after, late_facts, &sender) => end,
        };
        if let Err(error) = end {
            // The watcher may be gone, or too slow to hear why.
            let _ = timeout(SLOW, sender.send(Err(error))).await;
        }
    });
    Ok(receiver)
}

async fn follow_one(
    app: &App,
    id: CallId,
    mut after: i64,
    late_facts: bool,
    sender: &mpsc::Sender<Result<Event, Error>>,
) -> Result<(), Error> {
    let mut waiter = app.hub.wait(id);
    loop {
        let mut conn = app.db.conn().await?;
        let page = events::of_call(&mut conn, id, after, PAGE).await?;
        // A watcher that resumes after the end must not wait for ever.
        let over = match page.last() {
            Some(event) => event.state.is_terminal(),
            None => calls::find(&mut conn, id)
                .await?
                // The timeline of a blanked call may be dropped.
                .is_none_or(|call| call.state.is_terminal() && (call.version <= after || call.blanked_at.is_some())),
        };
        drop(conn);
        let full = i64::try_from(page.len()) == Ok(PAGE);
        for event in page {
            after = event.version;
            match timeout(SLOW, sender.send(Ok(event))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    return Err(Error::exhausted(
                        "WATCHER_TOO_SLOW",
                        "events came faster than they were read: watch again with the last version",
                    ));
                }
            }
        }
        if full {
            continue;
        }
        if over && !late_facts {
            return Ok(());
        }
        // A timeout only means that nothing happened, as far as this replica knows.
        let _ = timeout(POLL, waiter.changed()).await;
    }
}

/// Follows all calls that match, from a place on, without end.
pub fn all(app: &Arc<App>, from: Option<Place>, filter: Filter) -> mpsc::Receiver<Result<Seen, Error>> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let stopping = app_of_task.tasks.stopping();
        let end = tokio::select! {
            () = sender.closed() => return,
            () = stopping => Err(Error::unavailable("this replica shuts down: watch again with the last cursor")),
            end = follow_all(&app_of_task, from, &filter, &sender) => end,
        };
        if let Err(error) = end {
            // The watcher may be gone, or too slow to hear why.
            let _ = timeout(SLOW, sender.send(Err(error))).await;
        }
    });
    receiver
}

async fn follow_all(
    app: &App,
    from: Option<Place>,
    filter: &Filter,
    sender: &mpsc::Sender<Result<Seen, Error>>,
) -> Result<(), Error> {
    // The tail first, then the past: what happens in between comes by both ways and is told apart by its place.
    let mut tail = app.hub.tail().await;
    let mut conn = app.db.conn().await?;
    let horizon = events::horizon(&mut conn).await?;
    let mut at = from.unwrap_or(Place { tx: horizon, id: 0 });
    // A first response tells the cursor, so that even a watcher that saw no event can resume.
    hand_over(
        sender,
        Seen {
            event: None,
            cursor: cursor(at),
        },
    )
    .await?;
    drop(conn);
    loop {
        let mut conn = app.db.conn().await?;
        let page = events::after(&mut conn, at, horizon, PAGE).await?;
        // A watcher that reads slowly must not hold a connection.
        drop(conn);
        let full = i64::try_from(page.len()) == Ok(PAGE);
        for event in page {
            at = event.place();
            pass_on(app, filter, sender, Arc::new(event)).await?;
        }
        if !full {
            break;
        }
        hand_over(
            sender,
            Seen {
                event: None,
                cursor: cursor(at),
            },
        )
        .await?;
    }
    let mut beat = Instant::now() + HEARTBEAT;
    loop {
        match timeout_at(beat, tail.recv()).await {
            Ok(Ok(event)) if event.place() > at => {
                at = event.place();
                pass_on(app, filter, sender, event).await?;
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(too_slow()),
            // Also beside events that the filter keeps back.
            Err(_) => {
                hand_over(
                    sender,
                    Seen {
                        event: None,
                        cursor: cursor(at),
                    },
                )
                .await?;
                beat = Instant::now() + HEARTBEAT;
            }
        }
    }
}

async fn pass_on(
    app: &App,
    filter: &Filter,
    sender: &mpsc::Sender<Result<Seen, Error>>,
    event: Arc<Event>,
) -> Result<(), Error> {
    let at = event.place();
    if !filter.is_empty() {
        let mut conn = app.db.conn().await?;
        let call = calls::find(&mut conn, CallId(event.call_id)).await?;
        drop(conn);
        if !call.is_some_and(|call| filter.matches(&call, event.state)) {
            return Ok(());
        }
    }
    hand_over(
        sender,
        Seen {
            event: Some(event),
            cursor: cursor(at),
        },
    )
    .await
}

async fn hand_over(sender: &mpsc::Sender<Result<Seen, Error>>, seen: Seen) -> Result<(), Error> {
    match timeout(SLOW, sender.send(Ok(seen))).await {
        // A closed stream ends this task by itself.
        Ok(_) => Ok(()),
        Err(_) => Err(too_slow()),
    }
}

fn too_slow() -> Error {
    Error::exhausted(
        "WATCHER_TOO_SLOW",
        "events came faster than they were read: watch again with the last cursor",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_given_and_nothing_else_is() {
        let at = Place {
            tx: 7_000_000_001,
            id: 42,
        };
        assert_eq!(place(&cursor(at)).ok(), Some(at));
        for wrong in ["", "AAAA", "not a cursor", "//////////////////////"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
