//! Recordings for whoever asks: ours from the object store, Exotel's from Exotel.

use std::sync::Arc;

use bytes::Bytes;
use callbridge_proto::id::{CallId, MediaSessionId};
use data_encoding::HEXLOWER;
use exotel::rest::RestError;
use futures_util::StreamExt as _;
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument as _;

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
    let sessions = sessions::of_call(&mut *app.db.conn().await?, call.id()).await?;
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
    let mut stream = object.into_stream();
    let sending = async move {
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|_| Error::unavailable("the recording broke off; try again"));
            if !send(&pieces, piece).await {
                return;
            }
        }
    };
    spawn(app, permit, sending);
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
    let mut recording = app
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
    let sending = async move {
        loop {
            let piece = match recording.chunk().await {
                Ok(Some(piece)) => Ok(piece),
                Ok(None) => return,
                Err(error) => Err(refusal(&error)),
            };
            if !send(&pieces, piece).await {
                return;
            }
        }
    };
    spawn(app, permit, sending);
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

/// Sends a piece in such as may be. False: nobody listens, or it was the last.
async fn send(pieces: &mpsc::Sender<Result<Bytes, Error>>, piece: Result<Bytes, Error>) -> bool {
    let mut bytes = match piece {
        Ok(bytes) => bytes,
        Err(error) => {
            // In vain when nobody listens.
            let _ = pieces.send(Err(error)).await;
            return false;
        }
    };
    while !bytes.is_empty() {
        if pieces.send(Ok(bytes.split_to(CHUNK.min(bytes.len())))).await.is_err() {
            return false;
        }
    }
    true
}

fn spawn(app: &App, permit: OwnedSemaphorePermit, sending: impl Future<Output = ()> + Send + 'static) {
    let sending = async move {
        sending.await;
        drop(permit);
    };
    app.tasks.spawn(sending.in_current_span());
}
