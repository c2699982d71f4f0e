//! Asks a campaign's hook before its calls are dialled: never within a transaction, for two seconds at most, and what is not
//! answered with yes is not dialled.

mod turn;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use callbridge_proto::{
    agent::v1::{CheckDialRequest, CheckDialResponse, DialDecision, dial_hook_service_client::DialHookServiceClient},
    id::{CallId, CampaignId, ContactId},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use runtime::endpoint::Allow;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tower::service_fn;
use tracing::warn;
use url::Url;

pub use self::turn::Hooks;
use self::turn::Turn;
use super::settled;
use crate::{
    app::App,
    calls::{
        queued::{self, undialled},
        record::Note,
        state::Outcome,
    },
    error::Error,
    store::{
        calls::{self, Change},
        campaigns::{
            Campaign,
            hooks::{self, Question},
        },
    },
};

/// How long the hook may take, the connection included.
const LIMIT: Duration = Duration::from_secs(2);
/// Calls asked about at one time for one campaign.
const AT_ONCE: i64 = 32;
/// How long a call waits whose hook did not answer.
const AGAIN: TimeDelta = TimeDelta::seconds(15);
/// How long a hook is left alone that could not be reached.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// How long a contact waits when the hook says later and not when, and at most.
const LATER: TimeDelta = TimeDelta::minutes(5);
/// Each time costs a row: a hook that always says later must not fill the table.
const SOONEST: TimeDelta = TimeDelta::minutes(1);
const LATEST: TimeDelta = TimeDelta::days(7);
const REASON_CHARS: usize = 128;

/// Asks about the next calls of a campaign that has a hook, in a task of its own: one batch at a time.
///
/// # Errors
/// Of the database.
pub(super) async fn ask(app: &Arc<App>, campaign: &Campaign) -> Result<(), Error> {
    let Some(endpoint) = campaign.hook_endpoint.clone() else {
        return Ok(());
    };
    let Some(mut turn) = Turn::take(app, campaign.id) else {
        return Ok(());
    };
    let Ok(permit) = Arc::clone(&app.hook_permits).try_acquire_owned() else {
        return Ok(());
    };
    let questions = hooks::take(&mut *app.db.conn().await?, campaign.id(), AT_ONCE).await?;
    if questions.is_empty() {
        return Ok(());
    }
    let (app_of_task, id) = (Arc::clone(app), campaign.id());
    app.tasks.spawn(async move {
        let app = app_of_task;
        let channel = timeout(LIMIT, connect(&app.config.agent_endpoints, &endpoint)).await;
        let channel = channel.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = &channel {
            warn!(campaign.id = %id, %error, "a campaign's hook cannot be reached: its calls wait");
            turn.alone_until = Some(Instant::now() + LEFT_ALONE);
        }
        let channel = channel.ok();
        stream::iter(questions)
            .for_each_concurrent(None, |question| async {
                let (call, channel) = (question.id, channel.clone());
                if let Err(error) = settle(&app, id, question, channel).await {
                    warn!(call.id = %CallId(call), %error, "what a hook said could not be written; it is asked again");
                }
            })
            .await;
        drop((permit, turn));
        // The next ones may be asked about, and these dialled.
        app.hub.campaign_changed();
    });
    Ok(())
}

/// Asks about one call and writes the answer.
async fn settle(
    app: &Arc<App>,
    campaign: CampaignId,
    question: Question,
    channel: Option<Channel>,
) -> Result<(), Error> {
    let (call, was_due) = (CallId(question.id), question.was_due);
    let answer = match channel {
        Some(channel) => one(campaign, question, channel).await,
        None => None,
    };
    let decision = answer.as_ref().map(CheckDialResponse::decision);
    let now = calls::database_now(&*app.db.conn().await?).await?;
    match decision {
        Some(DialDecision::Allow) => {
            hooks::allow(&mut *app.db.conn().await?, call.0, was_due).await?;
            Ok(())
        }
        Some(DialDecision::Never) => {
            let reason = answer.map(|answer| answer.reason).unwrap_or_default();
            drop_call(app, call, settled::HOOK_NEVER, None, reason).await
        }
        Some(DialDecision::Later | DialDecision::Unspecified) => {
            let answer = answer.unwrap_or_default();
            let delay = answer
                .delay
                .and_then(|delay| TimeDelta::try_seconds(delay.seconds))
                .filter(|delay| *delay > TimeDelta::zero());
            let until = now + delay.unwrap_or(LATER).clamp(SOONEST, LATEST);
            // Its place in the queue is for others: the contact is due again then.
            drop_call(app, call, settled::HOOK_LATER, Some(until), answer.reason).await
        }
        None => {
            let wait = (now + AGAIN, "hook_unavailable");
            queued::put_off(app, &mut *app.db.conn().await?, call, wait, |_, _| true).await
        }
    }
}

/// None: no answer that can be understood.
async fn one(campaign: CampaignId, question: Question, channel: Channel) -> Option<CheckDialResponse> {
    let request = CheckDialRequest {
        campaign_id: campaign.to_string(),
        contact_id: question
            .contact_id
            .map(|id| ContactId(id).to_string())
            .unwrap_or_default(),
        call_id: CallId(question.id).to_string(),
        number: question.number,
        attempt: question.calls,
        variables: serde_json::from_value(question.variables).unwrap_or_default(),
    };
    let mut client = DialHookServiceClient::new(channel);
    let answered = timeout(LIMIT, client.check_dial(request)).await;
    match answered {
        Ok(Ok(answer)) => Some(answer.into_inner()),
        // The code alone: what the hook writes may be about the person.
        Ok(Err(status)) => {
            warn!(campaign.id = %campaign, code = ?status.code(), "a campaign's hook failed: the call waits");
            None
        }
        Err(_) => {
            warn!(campaign.id = %campaign, "a campaign's hook did not answer in time: the call waits");
            None
        }
    }
}

/// Ends a queued call by this word. `until` is when its contact is due again, if it is.
async fn drop_call(
    app: &Arc<App>,
    id: CallId,
    word: &str,
    until: Option<DateTime<Utc>>,
    reason: String,
) -> Result<(), Error> {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS).collect();
    let note = Note::from("campaign").with("hook_reason", reason).changing(Change {
        due_at: until,
        ..Change::default()
    });
    let end = (undialled(Outcome::Canceled, word), note);
    queued::end(app, &mut *app.db.conn().await?, id, end, |_, _| true).await
}

/// Connects to exactly the address that was checked (F124).
async fn connect(allow: &Allow, endpoint: &str) -> io::Result<Channel> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
    let url = Url::parse(endpoint).map_err(|_| wrong("the hook's endpoint is no URL"))?;
    let host = url.host_str().ok_or_else(|| wrong("the hook's endpoint has no host"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let port = url
        .port_or_known_default()
        .ok_or_else(|| wrong("the hook's endpoint has no port"))?;
    let resolved = tokio::net::lookup_host((host.as_str(), port)).await?;
    let address = allow.dialled(&host, resolved)?[0];
    let mut endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(io::Error::other)?;
    if url.scheme() == "https" {
        endpoint = endpoint
            .tls_config(ClientTlsConfig::new().with_webpki_roots())
            .map_err(io::Error::other)?;
    }
    let connected = endpoint.connect_with_connector(service_fn(move |_| tcp(address))).await;
    connected.map_err(io::Error::other)
}

async fn tcp(address: SocketAddr) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}
