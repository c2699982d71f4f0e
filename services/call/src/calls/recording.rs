//! Recordings for whoever asks: ours from the object store, Exotel's from Exotel.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use callbridge_proto::id::{CallId, MediaSessionId};
use data_encoding::HEXLOWER;
use exotel::rest::RestError;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::sync::{
    OwnedSemaphorePermit,
    mpsc::{self, error::SendTimeoutError},
};

use crate::{
    app::App,
    error::Error,
    store::{
        calls::{self, Call},
        recordings::State,
        sessions,
    },
};

/// As GetRecording promises.
const CHUNK: usize = 64 * 1024;
/// Pieces on their way to a slow reader.
const AHEAD: usize = 4;
/// Who reads nothing for so long loses its place among those who fetch recordings.
const UNREAD_LIMIT: Duration = Duration::from_mins(1);
/// And hears of it if it reads on by then.
const LAST_WORD_LIMIT: Duration = Duration::from_mins(10);

/// What a recording is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Such as `audio/wav`.
    pub content_type: String,
    /// Length of the file, where it is known.
    pub size: Option<u64>,
    /// Of the file, lower-case hex; empty where it is not known.
    pub sha256: String,
}

/// Whose recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Ours of a session, or of the first that has one.
    Edge(Option<MediaSessionId>),
    /// Exotel's of the call.
    Exotel,
}

/// A recording and the pieces of its file.
pub type Fetched = (Header, mpsc::Receiver<Result<Bytes, Error>>);

/// Begins to fetch a recording.
///
/// # Errors
/// `NotFound`; `RECORDING_NOT_READY`, `RECORDING_NOT_REACHABLE`, `RECORDING_REFUSED`; Exhausted when too many are fetched;
/// Unavailable when the store or Exotel does not answer.
pub async fn fetch(app: &Arc<App>, id: CallId, wanted: Wanted) -> Result<Fetched, Error> {
    let permit = Arc::clone(&app.recording_permits).try_acquire_owned().map_err(|_| {
        Error::exhausted(
            "TOO_MANY_RECORDINGS",
            "too many recordings are being fetched; try again in a moment",
        )
    })?;
    let call = calls::find(&mut *app.db.conn().await?, id)
        .await?
        .ok_or_else(|| Error::not_found("call", id))?;
    match wanted {
        Wanted::Edge(session) => ours(app, &call, session, permit).await,
        Wanted::Exotel => exotels(app, &call, permit).await,
    }
}

fn not_ready(message: &str) -> Error {
    Error::precondition("RECORDING_NOT_READY", message)
}

async fn ours(
    app: &Arc<App>,
    call: &Call,
    session: Option<MediaSessionId>,
    permit: OwnedSemaphorePermit,
) -> Result<Fetched, Error> {
    let missing = || Error::not_found("recording of call", call.id());
    let sessions = sessions::of_call(&*app.db.conn().await?, call.id()).await?;
    let asked = sessions
        .into_iter()
        .filter(|found| session.is_none_or(|id| found.id() == id));
    let recordings: Vec<_> = asked.map(|session| session.recording).collect();
    let is_there = |state: Option<State>| matches!(state, Some(State::Stored | State::Incomplete));
    let Some(recording) = recordings.iter().find(|recording| is_there(recording.state)) else {
        let is_coming = |state: Option<State>| matches!(state, Some(State::Pending | State::Uploading));
        return Err(if recordings.iter().any(|recording| is_coming(recording.state)) {
            not_ready("the recording is not in the object store yet; ask again later")
        } else {
            missing()
        });
    };
    let store = app.recordings.clone().ok_or_else(|| {
        Error::precondition(
            "RECORDING_NOT_REACHABLE",
            "call-service does not know where recordings are: set RECORDING_STORE as at the edge",
        )
    })?;
    let key = recording.key.as_deref().ok_or_else(missing)?;
    let object = match store.get(&Path::from(key)).await {
        Ok(object) => object,
        Err(object_store::Error::NotFound { .. }) => return Err(missing()),
        Err(error) => {
            tracing::warn!(%error, call.id = %call.id(), "the object store does not give a recording");
            return Err(Error::unavailable("the object store does not answer; try again"));
        }
    };
    let header = Header {
        content_type: "audio/wav".to_owned(),
        size: Some(object.meta.size),
        sha256: recording
            .sha256
            .as_deref()
            .map(|hash| HEXLOWER.encode(hash))
            .unwrap_or_default(),
    };
    let (pieces, receiver) = mpsc::channel(AHEAD);
    let broke_off = |_| Error::unavailable("the recording broke off; try again");
    spawn(app, permit, pieces, object.into_stream().map_err(broke_off));
    Ok((header, receiver))
}

async fn exotels(app: &Arc<App>, call: &Call, permit: OwnedSemaphorePermit) -> Result<Fetched, Error> {
    let Some(url) = call.recording_url.as_deref() else {
        return Err(if call.record && call.blanked_at.is_none() {
            not_ready("Exotel has not said yet where its recording is; ask again later")
        } else {
            Error::not_found("Exotel's recording of call", call.id())
        });
    };
    let mut conn = app.db.conn().await?;
    let opened = app
        .vault
        .open_for_call(&mut conn, call.account_id, call.phone_id)
        .await?;
    drop(conn);
    let recording = app
        .exotel
        .recording(&opened, url)
        .await
        .map_err(|error| refusal(&error))?;
    let header = Header {
        content_type: recording.content_type.clone(),
        size: recording.size,
        sha256: String::new(),
    };
    let (pieces, receiver) = mpsc::channel(AHEAD);
    let stream = stream::try_unfold(recording, async |mut recording| {
        let piece = recording.chunk().await.map_err(|error| refusal(&error))?;
        Ok(piece.map(|piece| (piece, recording)))
    });
    spawn(app, permit, pieces, stream);
    Ok((header, receiver))
}

/// What Exotel's refusal means for whoever asked.
fn refusal(error: &RestError) -> Error {
    match error {
        RestError::ForeignRecording => Error::precondition("RECORDING_REFUSED", error.to_string()),
        RestError::Status(404) => not_ready("Exotel does not have the recording yet; ask again in some minutes"),
        RestError::Status(401 | 403) => Error::precondition(
            "BAD_CREDENTIALS",
            "Exotel does not give the recording with the credentials of this call's phone or account",
        ),
        RestError::Endpoint(_) | RestError::Setup(_) => Error::internal(error.to_string()),
        _ => Error::unavailable(error.to_string()),
    }
}

/// Hands a file to whoever asked, in pieces such as may be.
fn spawn(
    app: &App,
    permit: OwnedSemaphorePermit,
    pieces: mpsc::Sender<Result<Bytes, Error>>,
    file: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) {
    app.tasks.spawn(async move {
        let is_unread = send(&pieces, file)
            .await
            .is_err_and(|error| matches!(error, SendTimeoutError::Timeout(_)));
        // Others may have its place, but it must not take what it has for the whole file.
        drop(permit);
        if is_unread {
            let told = Error::unavailable("the recording was not read for a minute; ask for it again");
            let _ = pieces.send_timeout(Err(told), LAST_WORD_LIMIT).await;
        }
    });
}

/// Sends a file until its end or its first error. An error: nobody listens, or whoever asked does not read.
async fn send(
    pieces: &mpsc::Sender<Result<Bytes, Error>>,
    file: impl Stream<Item = Result<Bytes, Error>>,
) -> Result<(), SendTimeoutError<Result<Bytes, Error>>> {
    tokio::pin!(file);
    while let Some(piece) = file.next().await {
        let mut bytes = match piece {
            Ok(bytes) => bytes,
            Err(error) => return pieces.send_timeout(Err(error), UNREAD_LIMIT).await,
        };
        while !bytes.is_empty() {
            let piece = bytes.split_to(CHUNK.min(bytes.len()));
            pieces.send_timeout(Ok(piece), UNREAD_LIMIT).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Whoever does not read a recording keeps nobody from another one.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_read_is_given_up() {
        let begun = Instant::now();
        let file = || stream::iter((0..3).map(|_| Ok(vec![7; 3 * CHUNK / 2].into())));
        let (pieces, mut receiver) = mpsc::channel(AHEAD);
        let sent = send(&pieces, file()).await;
        assert!(matches!(sent, Err(SendTimeoutError::Timeout(_))));
        assert_eq!(begun.elapsed(), UNREAD_LIMIT);

        let reading = async {
            let mut all = 0;
            while let Some(piece) = receiver.recv().await {
                all += piece.unwrap().len();
            }
            all
        };
        let sending = async {
            let sent = send(&pieces, file()).await;
            drop(pieces);
            sent
        };
        let (sent, read) = tokio::join!(sending, reading);
        assert!(sent.is_ok());
        assert_eq!(read, AHEAD * CHUNK / 2 + AHEAD * CHUNK / 4 + 9 * CHUNK / 2);
    }
}
