//! All that is kept about a number, as JSON lines.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use exotel::PhoneNumber;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use uuid::Uuid;

use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    store::exports::{self, OF_CALL, OF_NUMBER},
};

/// Calls read at one time.
const CALLS: i64 = 50;
/// Rows of a kind read at one time: the largest are 64 KiB, most of them less than one.
const ROWS: i64 = 100;
/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Streams the lines in pieces.
///
/// # Errors
/// Of the database.
pub(crate) async fn export(app: &Arc<App>, number: PhoneNumber) -> Result<mpsc::Receiver<Result<Bytes, Error>>, Error> {
    audit::shown(&app.trail, Subject::Number(number.expose())).await?;
    let (sender, receiver) = mpsc::channel(2);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let mut lines = Lines {
            text: Vec::new(),
            sender,
        };
        let sent = match send(&app_of_task, number.expose(), &mut lines).await {
            Ok(()) => lines.flush().await,
            Err(error) => Err(error),
        };
        if let Err(Stop::Failed(error)) = sent {
            let _ = timeout(PATIENCE, lines.sender.send(Err(error))).await;
        }
    });
    Ok(receiver)
}

/// Why no more lines are sent.
enum Stop {
    Failed(Error),
    /// The reader is gone.
    Unread,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Lines {
    text: Vec<u8>,
    sender: mpsc::Sender<Result<Bytes, Error>>,
}

impl Lines {
    async fn add(&mut self, kind: &str, row: Value) -> Result<(), Stop> {
        self.text
            .extend_from_slice(json!({ "kind": kind, "row": row }).to_string().as_bytes());
        self.text.push(b'\n');
        while self.text.len() >= PIECE {
            let piece = self.text.drain(..PIECE).collect::<Vec<_>>();
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        if self.text.is_empty() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.text);
        self.send(rest).await
    }

    async fn send(&self, piece: Vec<u8>) -> Result<(), Stop> {
        match timeout(PATIENCE, self.sender.send(Ok(piece.into()))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Stop::Unread),
        }
    }
}

async fn send(app: &App, number: &str, lines: &mut Lines) -> Result<(), Stop> {
    let mut after = Uuid::nil();
    loop {
        let page = exports::calls(&mut *app.db.conn().await?, number, after, CALLS).await?;
        let last = i64::try_from(page.len()) != Ok(CALLS);
        for (id, row) in page {
            if app.tasks.is_stopping() {
                return Err(Error::unavailable("this replica shuts down: export again").into());
            }
            lines.add("call", row).await?;
            for (kind, query) in OF_CALL {
                let mut skip = 0;
                while let Some(next) = of_call(app, query, id, skip).await?.send(lines, kind).await? {
                    skip += next;
                }
            }
            after = id;
        }
        if last {
            break;
        }
    }
    for (kind, query) in OF_NUMBER {
        let mut skip = 0;
        while let Some(next) = of_number(app, query, number, skip).await?.send(lines, kind).await? {
            skip += next;
        }
    }
    Ok(())
}

struct Page(Vec<exports::Line>);

impl Page {
    /// How many there were, if there may be more.
    async fn send(self, lines: &mut Lines, kind: &str) -> Result<Option<i64>, Stop> {
        let whole = i64::try_from(self.0.len()) == Ok(ROWS);
        for line in self.0 {
            lines.add(kind, line.row).await?;
        }
        Ok(whole.then_some(ROWS))
    }
}

async fn of_call(app: &App, query: &str, call: Uuid, skip: i64) -> Result<Page, Error> {
    let mut conn = app.db.conn().await?;
    Ok(Page(exports::of_call(&mut conn, query, call, skip, ROWS).await?))
}

async fn of_number(app: &App, query: &str, number: &str, skip: i64) -> Result<Page, Error> {
    let mut conn = app.db.conn().await?;
    Ok(Page(exports::of_number(&mut conn, query, number, skip, ROWS).await?))
}
