//! The process that is watched.

use std::{env, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::{
    agent::v1::{Clear, converse_request::Event, converse_response::Action},
    call::v1::{Call, Direction, PlaceCallRequest, SendToAgentRequest, WaitFor},
    directory::v1::ExotelCredentials,
};
use e2e::{Agent, PATIENCE, Session, Story, campaign, http, quick, registration, tone};
use exotel_sim::{CallerScript, Outcome};
use runtime::{
    config::Vars,
    telemetry::{self, Settings},
};
use serde_json::{Value, json};
use stack::poll;
use tonic::Request;

/// Where the child writes what it tells. Its presence makes a process the child.
pub(crate) const CHILD: &str = "E2E_TELEMETRY_CHILD";
/// The caller's own trace.
pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// The caller's own span.
pub(crate) const PARENT: &str = "b7ad6b7169203331";
const OUTBOUND: &str = "+919812345077";
const INBOUND: &str = "+919812345088";
/// Is busy.
const CONTACT: &str = "+919812349901";
/// Keys that a person presses: a PIN.
const PIN: &str = "70351946";

/// Whether this process is one.
pub(crate) fn is_one() -> bool {
    env::var_os(CHILD).is_some()
}

/// Not a test by itself: the process that the others run.
#[tokio::test(flavor = "multi_thread")]
async fn the_child() -> Result<()> {
    let Some(path) = env::var_os(CHILD).map(PathBuf::from) else {
        return Ok(());
    };
    let telemetry = telemetry::start("callbridge-test", &Settings::read(&mut Vars::from_process()))?;
    let told = Box::pin(two_calls()).await;
    telemetry.shut_down().await;
    Ok(std::fs::write(path, serde_json::to_vec(&told?)?)?)
}

async fn two_calls() -> Result<Value> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    registration.account.credentials = Some(ExotelCredentials {
        api_key: "canarykey5e1f".to_owned(),
        api_token: "canarytoken9b7d".to_owned(),
    });
    let story = Story::with(quick(), registration).await?;
    let (call, socket) = outbound(&story, &mut agent).await?;
    let call_sid = story.call_in(INBOUND, CallerScript::new()).await?;
    // Kept until the call is over: an agent that leaves would end it.
    let mut session = agent.session().await?;
    session.start().await?;
    story.stack.control().hang_up(&call_sid)?;
    let inbound = story.inbound_row().await?;
    story.ended(&inbound.id).await?;
    drop(session);
    // Its only contact is busy and is called again in an hour, so that it goes on running.
    let campaign = story
        .campaign_of(campaign::later(), &campaign::numbers([CONTACT.to_owned()]))
        .await?;
    poll("the campaign's dial", PATIENCE, async || {
        match story.list(Direction::Outbound).await.unwrap_or_default().as_slice() {
            [newest, _] if newest.dialed_at.is_some() => Ok(()),
            calls => Err(format!("{} calls", calls.len())),
        }
    })
    .await?;
    // A refused request and a refused number are told, too.
    let wrong = PlaceCallRequest {
        to: "99001122".to_owned(),
        ..story.request("")
    };
    let refused = story.stack.clients().calls().place_call(wrong).await;
    ensure!(refused.is_err(), "a wrong number was taken");

    let pages = json!({
        "call-service": page(story.stack.call_services[0].internal, "callbridge_campaign_contacts").await?,
        "edge": page(story.stack.edges[0].internal, "otel_sdk_processor_span_processed").await?,
    });
    let keys = &story.stack.keys;
    let told = json!({
        "outbound": call.id,
        "inbound": inbound.id,
        "campaign": campaign.id,
        "pages": pages,
        "secrets": {
            "the callee": OUTBOUND[3..],
            "the caller": INBOUND[3..],
            "a contact": CONTACT[3..],
            "a wrong number": "99001122",
            "the callee, as bytes": bytes(OUTBOUND),
            "the caller, as bytes": bytes(INBOUND),
            "our number": story.registered.phone_number[3..],
            "the PIN": PIN,
            "the API key": keys.api_key,
            "the edge's API key": keys.edge_api_key,
            "CREDENTIAL_KEYS": keys.credential_keys[2..],
            "TOKEN_KEYS": keys.token_keys[2..],
            "the account's token": story.registered.urls.account_token,
            "the socket's token": socket.rsplit('/').next(),
            "Exotel's key": "canarykey5e1f",
            "Exotel's token": "canarytoken9b7d",
            "Exotel's key and token, for HTTP Basic": data_encoding::BASE64.encode(b"canarykey5e1f:canarytoken9b7d"),
            "metadata": "canarymetadata",
            "a message": "canarymessage",
        },
    });
    story.stack.shut_down().await?;
    Ok(told)
}

/// A call within the caller's trace, with all that an agent does. Returns the socket's URL too.
async fn outbound(story: &Story, agent: &mut Agent) -> Result<(Call, String)> {
    story
        .stack
        .control()
        .set_outcome(OUTBOUND, Outcome::answered_by(CallerScript::new()))?;
    let mut request = Request::new(PlaceCallRequest {
        wait_for: WaitFor::Answered.into(),
        metadata: [("order".to_owned(), "canarymetadata".to_owned())].into(),
        ..story.request(OUTBOUND)
    });
    request
        .metadata_mut()
        .insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse()?);
    let placed = story.stack.clients().calls().place_call(request).await?;
    let call = placed.into_inner().call.context("no call")?;
    let mut session = agent.session().await?;
    session.start().await?;
    converse(story, &call, &mut session).await?;
    // Exotel's count of streams is compared with ours while there is one.
    page(story.stack.call_services[0].internal, "callbridge_streams_drift").await?;
    let socket = story.stack.control().call(&call.exotel_call_sid)?.streams[0]
        .url
        .clone();
    story.stack.control().hang_up(&call.exotel_call_sid)?;
    story.ended(&call.id).await?;
    story.told(&call.exotel_call_sid).await?;
    Ok((call, socket))
}

async fn converse(story: &Story, call: &Call, session: &mut Session) -> Result<()> {
    // Of a mark whose echo is late, as on a busy machine, no lag is told.
    for mark in ["one", "two", "three"] {
        session.speak(&tone(1600), 1).await;
        session.mark(mark).await;
        session
            .until(|event| matches!(event, Event::MarkPlayed(_)).then_some(()))
            .await?;
    }
    // Ten seconds, which are interrupted.
    session.speak(&tone(80_000), 2).await;
    session.send(Action::Clear(Clear { generation: 2 })).await;

    story.stack.control().press(&call.exotel_call_sid, PIN)?;
    let mut keys = String::new();
    while keys.len() < PIN.len() {
        keys += &session
            .until(|event| {
                if let Event::Dtmf(dtmf) = event {
                    Some(dtmf.digit)
                } else {
                    None
                }
            })
            .await?;
    }
    let json = r#"{"canarymessage":1}"#.to_owned();
    let message = SendToAgentRequest {
        call_id: call.id.clone(),
        json,
    };
    story.stack.clients().calls().send_to_agent(message).await?;
    session
        .until(|event| matches!(event, Event::Message(_)).then_some(()))
        .await
}

/// A piece's page of metrics, as soon as this is on it.
async fn page(internal: Option<SocketAddr>, wanted: &str) -> Result<String> {
    let url = format!("http://{}/metrics", internal.context("no internal listener")?);
    let client = http()?;
    let page = poll(wanted, PATIENCE, async || {
        let page = async { client.get(&url).send().await?.error_for_status()?.text().await };
        match page.await {
            Ok(page) if page.contains(wanted) => Ok(page),
            Ok(_) => Err("it is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    Ok(page.await?)
}

/// As `Debug` shows a column's value.
fn bytes(text: &str) -> String {
    format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned()
}
