//! The control stream of one edge process: a snapshot, then events; acknowledgements and commands the other way.
//!
//! A stream that breaks says nothing about the sessions: they are unknown until the edge attaches again, and end, presumed, only
//! when their lease runs out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use callbridge_proto::{
    id::{CallId, CommandId, EdgeId, MediaSessionId},
    ingress::v1::{
        AttachEdgeRequest, AttachEdgeResponse, Command, CommandDone, EventAck, Hello, SessionEvent, Welcome,
        attach_edge_request, attach_edge_response, session_event::Event,
    },
};
use chrono::TimeDelta;
use diesel_async::AsyncConnection as _;
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{Instrument as _, info, warn};
use uuid::Uuid;

use super::{commands, edges::Attachment, session_events};
use crate::{
    app::App,
    calls::record::{Note, record_locked},
    error::Error,
    store::{calls, commands as command_rows, sessions},
    trace,
};

/// An edge presents itself at once.
const HELLO: Duration = Duration::from_secs(10);
/// An edge sends a heartbeat every ten seconds; three that are missing mean that it hangs.
const SILENCE: Duration = Duration::from_secs(35);
/// Answers on their way to one edge: a few hundred acknowledgements are a second of a busy edge.
pub const IN_FLIGHT: usize = 256;
/// An edge that takes no answer for this long hangs.
const SLOW: Duration = Duration::from_secs(10);
/// Commands read at one time.
const COMMANDS: i64 = 100;

/// The way back to the edge.
pub type Answers = mpsc::Sender<Result<AttachEdgeResponse, Error>>;

/// Serves one edge's stream until either side ends it. `requests` ends when the edge or the connection does.
pub async fn serve(app: Arc<App>, requests: impl Stream<Item = AttachEdgeRequest> + Send, answers: Answers) {
    let requests = std::pin::pin!(requests);
    if let Err(error) = run(&app, requests, &answers).await {
        // Nobody to tell is no trouble.
        let _ = timeout(SLOW, answers.send(Err(error))).await;
    }
}

async fn run(
    app: &Arc<App>,
    mut requests: std::pin::Pin<&mut (impl Stream<Item = AttachEdgeRequest> + Send)>,
    answers: &Answers,
) -> Result<(), Error> {
    let stopping = app.tasks.stopping();
    tokio::pin!(stopping);
    let first = tokio::select! {
        () = &mut stopping => return Err(shutting_down()),
        first = timeout(HELLO, requests.next()) => first,
    };
    let Ok(Some(AttachEdgeRequest {
        message: Some(attach_edge_request::Message::Hello(hello)),
    })) = first
    else {
        return Err(Error::invalid("hello", "the first message, within ten seconds"));
    };
    let mut attached = Attached::begin(app, &hello, answers).await?;
    info!(edge.id = %attached.edge, sessions = attached.told.len(), "an edge has attached");
    let result = loop {
        tokio::select! {
            () = &mut stopping => break Err(shutting_down()),
            () = attached.place.replaced() => {
                break Err(Error::aborted("REPLACED", "a newer stream of this edge took over"));
            }
            () = answers.closed() => break Ok(()),
            request = requests.next() => match request {
                Some(request) => {
                    if let Err(error) = attached.take(app, answers, request).await {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            },
            () = attached.place.command_waits() => attached.deliver(app, answers).await?,
            _ = attached.poll.tick() => attached.deliver(app, answers).await?,
            _ = attached.renew.tick() => {
                if attached.heard.elapsed() > SILENCE {
                    break Err(Error::unavailable("no heartbeat came: attach again"));
                }
                attached.renew(app).await;
            }
        }
    };
    info!(edge.id = %attached.edge, "an edge's stream has ended; its sessions stay live until their lease runs out");
    result
}

fn shutting_down() -> Error {
    Error::unavailable("this replica shuts down: attach again")
}

struct Attached {
    edge: EdgeId,
    place: Attachment,
    /// Sessions that live by the edge's word: of its last heartbeat, and of its events since then.
    told: HashSet<Uuid>,
    /// Commands that were sent on this stream and have no answer yet, with their sessions.
    delivered: HashMap<Uuid, Uuid>,
    heard: Instant,
    poll: tokio::time::Interval,
    renew: tokio::time::Interval,
}

impl Attached {
    /// Takes the snapshot and answers with the sessions that the edge must close.
    async fn begin(app: &Arc<App>, hello: &Hello, answers: &Answers) -> Result<Self, Error> {
        let edge: EdgeId = hello
            .edge_id
            .parse()
            .map_err(|error| Error::invalid("hello.edge_id", format!("{error}")))?;
        let place = app.edges.attach(edge);
        let mut attached = Self {
            edge,
            place,
            told: ids(&hello.media_session_ids).collect(),
            delivered: HashMap::new(),
            heard: Instant::now(),
            poll: every(app.config.poll_interval),
            renew: every(app.config.attach_renew),
        };
        // What the edge holds beyond these is over, or was never there.
        attached.told = attached.renew_once(app).await?;
        let unknown_media_session_ids = hello
            .media_session_ids
            .iter()
            .filter(|id| {
                id.parse::<MediaSessionId>()
                    .is_ok_and(|id| !attached.told.contains(&id.0))
            })
            .cloned()
            .collect();
        send(
            answers,
            attach_edge_response::Message::Welcome(Welcome {
                unknown_media_session_ids,
            }),
        )
        .await?;
        Ok(attached)
    }

    async fn take(&mut self, app: &Arc<App>, answers: &Answers, request: AttachEdgeRequest) -> Result<(), Error> {
        self.heard = Instant::now();
        match request.message {
            Some(attach_edge_request::Message::Hello(_)) => {
                Err(Error::invalid("hello", "only once, as the first message"))
            }
            Some(attach_edge_request::Message::Event(event)) => self.event(app, answers, event).await,
            Some(attach_edge_request::Message::CommandDone(done)) => self.done(app, &done).await,
            Some(attach_edge_request::Message::Heartbeat(heartbeat)) => {
                self.told = ids(&heartbeat.media_session_ids).collect();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn event(&mut self, app: &Arc<App>, answers: &Answers, event: SessionEvent) -> Result<(), Error> {
        // An event that names no session can be neither applied nor acknowledged.
        let Ok(session) = event.media_session_id.parse::<MediaSessionId>() else {
            return Ok(());
        };
        session_events::apply(app, self.edge, session, &event).await?;
        if matches!(event.event, Some(Event::Ended(_))) {
            self.told.remove(&session.0);
            self.delivered.retain(|_, of| *of != session.0);
        } else {
            self.told.insert(session.0);
        }
        let ack = EventAck {
            media_session_id: event.media_session_id,
            sequence: event.sequence,
        };
        send(answers, attach_edge_response::Message::Ack(ack)).await
    }

    async fn done(&mut self, app: &Arc<App>, done: &CommandDone) -> Result<(), Error> {
        commands::done(app, self.edge, done).await?;
        if let Ok(id) = done.command_id.parse::<CommandId>() {
            self.delivered.remove(&id.0);
        }
        Ok(())
    }

    /// Sends the commands that wait. While the database is away they go on waiting.
    async fn deliver(&mut self, app: &Arc<App>, answers: &Answers) -> Result<(), Error> {
        let known: Vec<Uuid> = self.delivered.keys().copied().collect();
        let waiting = async {
            let mut conn = app.db.reserved().await?;
            Ok::<_, Error>(command_rows::for_edge(&mut conn, self.edge, &known, COMMANDS).await?)
        };
        let waiting = match waiting.await {
            Ok(waiting) => waiting,
            Err(error) => {
                warn!(edge.id = %self.edge, %error, "commands could not be read; they are looked for again");
                return Ok(());
            }
        };
        for (id, session, bytes) in waiting {
            self.delivered.insert(id, session);
            match Command::decode(bytes.as_slice()) {
                Ok(command) => send(answers, attach_edge_response::Message::Command(command)).await?,
                Err(error) => warn!(command.id = %id, %error, "a stored command cannot be read"),
            }
        }
        Ok(())
    }

    async fn renew(&self, app: &Arc<App>) {
        if let Err(error) = self.renew_once(app).await {
            warn!(edge.id = %self.edge, %error, "the lease of an edge's sessions could not be renewed; it is tried again");
        }
    }

    /// Vouches for the sessions that the edge holds, and takes back the presumed end of one that lapsed meanwhile. Returns
    /// those that are live.
    async fn renew_once(&self, app: &Arc<App>) -> Result<HashSet<Uuid>, Error> {
        let told: Vec<Uuid> = self.told.iter().copied().collect();
        let mut conn = app.db.reserved().await?;
        sessions::renew_edge(&mut conn, self.edge, &told, lease(app)).await?;
        // What lapsed is not renewed, but opened again below.
        let open = sessions::open_of_edge(&mut conn, self.edge, &told).await?;
        drop(conn);
        for (id, call, _) in open.iter().filter(|(.., presumed)| *presumed) {
            match reopen(app, self.edge, MediaSessionId(*id), CallId(*call)).await {
                Ok(()) => {}
                Err(Error::Db(error)) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    warn!(call.id = %CallId(*call), %error, "a session that lives on could not be opened again");
                }
            }
        }
        Ok(open.into_iter().map(|(id, ..)| id).collect())
    }
}

/// How long a session counts as live after the last news of its edge.
pub fn lease(app: &App) -> TimeDelta {
    app.config.attach_lease
}

/// The ids among an edge's words.
fn ids(words: &[String]) -> impl Iterator<Item = Uuid> {
    words
        .iter()
        .filter_map(|word| Some(word.parse::<MediaSessionId>().ok()?.0))
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn send(answers: &Answers, message: attach_edge_response::Message) -> Result<(), Error> {
    match timeout(SLOW, answers.send(Ok(AttachEdgeResponse { message: Some(message) }))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Error::unavailable("the edge is gone")),
        Err(_) => Err(Error::unavailable("the edge takes no answers: attach again")),
    }
}

/// Takes back the presumed end of a session that the edge still has.
async fn reopen(app: &Arc<App>, edge: EdgeId, session: MediaSessionId, call: CallId) -> Result<(), Error> {
    let mut conn = app.db.reserved().await?;
    let lease = lease(app);
    let reopened = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, call).await? else {
                return Ok(false);
            };
            trace::follow(&call);
            if !sessions::reopen(conn, session, edge, lease).await? {
                return Ok(false);
            }
            let note = Note::from("media").with("media_session_id", session.to_string());
            record_locked(conn, call, now, None, Some("media_reopened"), note).await?;
            Ok(true)
        })
        .instrument(trace::finding("reopen_session"))
        .await?;
    if reopened {
        app.hub.committed(call);
    }
    Ok(())
}
