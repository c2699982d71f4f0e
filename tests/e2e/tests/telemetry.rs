//! What is seen from outside: one trace for each call, and no secret in anything that is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::{
    agent::v1::converse_request::Event,
    call::v1::{PlaceCallRequest, SendToAgentRequest, WaitFor},
    directory::v1::ExotelCredentials,
};
use e2e::{Agent, Story, quick, registration};
use exotel_sim::{CallerScript, Outcome};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind},
};
use runtime::{
    Tasks,
    config::Vars,
    telemetry::{self, Settings},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// Where the child writes what must not be told. Its presence makes a process the child.
const CHILD: &str = "E2E_TELEMETRY_CHILD";
/// The caller's own trace.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// The caller's own span.
const PARENT: &str = "b7ad6b7169203331";
const OUTBOUND: &str = "+919812345077";
const INBOUND: &str = "+919812345088";
/// Keys that a person presses: a PIN.
const PIN: &str = "70351946";
const LIMIT: Duration = Duration::from_mins(1);

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(spans.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Result<(Self, String)> {
        let collector = Self::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let service = TraceServiceServer::new(collector.clone());
        Tasks::new().spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok((collector, url))
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

/// All that is told by a process that has two calls, and whose log tells as much as it can.
struct Told {
    spans: Vec<Span>,
    log: String,
    /// What must not be told, by what it is.
    secrets: BTreeMap<String, String>,
}

/// Telemetry starts once in a process, and logs go to its standard error: so the whole system runs in another process.
async fn told() -> Result<Told> {
    let (collector, url) = Collector::start().await?;
    let folder = TempDir::new()?;
    let (log, secrets) = (folder.path().join("log"), folder.path().join("secrets.json"));
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", "the_child", "--nocapture"])
        .env(CHILD, &secrets)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .kill_on_drop(true)
        .spawn()?;
    let ended = timeout(LIMIT, child.wait()).await.context("the child does not end")??;
    let log = std::fs::read_to_string(log)?;
    ensure!(
        ended.success(),
        "the child failed: {}",
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    );
    Ok(Told {
        spans: collector.spans(),
        log,
        secrets: serde_json::from_slice(&std::fs::read(secrets)?)?,
    })
}

/// Not a test by itself: the process that [`told`] runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_child() -> Result<()> {
    let Some(secrets) = env::var_os(CHILD).map(PathBuf::from) else {
        return Ok(());
    };
    let telemetry = telemetry::start("callbridge-test", &Settings::read(&mut Vars::from_process()))?;
    let done = Box::pin(two_calls(&secrets)).await;
    telemetry.shut_down().await;
    done
}

async fn two_calls(secrets: &Path) -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    registration.account.credentials = Some(ExotelCredentials {
        api_key: "canarykey5e1f".to_owned(),
        api_token: "canarytoken9b7d".to_owned(),
    });
    let story = Story::with(quick(), registration).await?;
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
    let call = story
        .stack
        .clients()
        .calls()
        .place_call(request)
        .await?
        .into_inner()
        .call
        .context("no call")?;
    let mut session = agent.session().await?;
    session.start().await?;
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
    story
        .stack
        .clients()
        .calls()
        .send_to_agent(SendToAgentRequest {
            call_id: call.id.clone(),
            json,
        })
        .await?;
    session
        .until(|event| matches!(event, Event::Message(_)).then_some(()))
        .await?;
    let socket = story.stack.control().call(&call.exotel_call_sid)?.streams[0]
        .url
        .clone();
    story.stack.control().hang_up(&call.exotel_call_sid)?;
    story.ended(&call.id).await?;

    story
        .call_in(INBOUND, CallerScript::new().silence(100).hang_up())
        .await?;
    let inbound = story.inbound_row().await?;
    story.ended(&inbound.id).await?;
    // A refused request and a refused number are told, too.
    let wrong = PlaceCallRequest {
        to: "99001122".to_owned(),
        ..story.request("")
    };
    let refused = story.stack.clients().calls().place_call(wrong).await;
    ensure!(refused.is_err(), "a wrong number was taken");

    let keys = &story.stack.keys;
    let told = json!({
        "the callee": OUTBOUND[3..],
        "the caller": INBOUND[3..],
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
        // Not secret: which calls the spans are about.
        "id outbound": call.id,
        "id inbound": inbound.id,
    });
    std::fs::write(secrets, serde_json::to_vec(&told)?)?;
    story.stack.shut_down().await
}

/// As `Debug` shows a column's value.
fn bytes(text: &str) -> String {
    format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned()
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(json!(format!("{:?}", found.value)))
}

fn by_name<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn parent<'a>(spans: &'a [Span], of: &Span) -> Option<&'a Span> {
    spans
        .iter()
        .find(|span| span.trace_id == of.trace_id && span.span_id == of.parent_span_id)
}

/// The names from a span up to the one whose parent is elsewhere.
fn ancestry(spans: &[Span], of: &Span) -> Vec<String> {
    let mut names = vec![of.name.clone()];
    let mut at = of;
    while let Some(next) = parent(spans, at) {
        names.push(next.name.clone());
        at = next;
    }
    names
}

fn is_linked(span: &Span, trace: &str) -> bool {
    span.links.iter().any(|link| hex(&link.trace_id) == trace)
}

/// One trace spans a call, and F122 and F123: secrets and numbers planted in every field are nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_trace_and_nothing_secret_is_told() -> Result<()> {
    if env::var_os(CHILD).is_some() {
        return Ok(());
    }
    let Told { spans, log, secrets } = told().await?;
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();

    // The caller's span → PlaceCall → the transaction, and the dial with its one POST and its outcome.
    let placed = by_name(&spans, "callbridge.call.v1.CallService/PlaceCall");
    let placed = placed
        .iter()
        .find(|span| hex(&span.trace_id) == TRACE)
        .with_context(|| format!("{names:?}"))?;
    assert_eq!(
        (hex(&placed.parent_span_id).as_str(), placed.kind()),
        (PARENT, SpanKind::Server)
    );
    let of_call = |name: &str| {
        by_name(&spans, name)
            .into_iter()
            .filter(|span| hex(&span.trace_id) == TRACE)
            .collect::<Vec<_>>()
    };
    let [transaction] = &of_call("place_call")[..] else {
        anyhow::bail!("{names:?}")
    };
    assert_eq!(
        ancestry(&spans, transaction),
        ["place_call", "callbridge.call.v1.CallService/PlaceCall"]
    );
    let [connect] = &of_call("exotel.connect")[..] else {
        anyhow::bail!("{names:?}")
    };
    let road = [
        "exotel.connect",
        "call.dial",
        "callbridge.call.v1.CallService/PlaceCall",
    ];
    assert_eq!(
        (ancestry(&spans, connect), connect.kind()),
        (road.map(str::to_owned).to_vec(), SpanKind::Client)
    );
    assert_eq!(of_call("dial_outcome").len(), 1);

    // Exotel carries no trace: the webhook's own trace goes from the edge into call-service, which links the call's.
    for (route, method) in [
        ("voice/connect", "ResolveConnect"),
        ("voice/end", "RecordEnd"),
        ("voice/status", "RecordStatus"),
    ] {
        let method = format!("callbridge.ingress.v1.IngressService/{method}");
        let served = by_name(&spans, &method);
        let road = served.iter().map(|span| ancestry(&spans, span)).collect::<Vec<_>>();
        let from_edge = |road: &Vec<String>| road.iter().any(|name| name.contains(route));
        assert!(road.iter().any(from_edge), "{method}: {road:?}");
    }
    for transaction in ["connect", "claim_socket", "start_session", "apply_callback"] {
        let all = by_name(&spans, transaction);
        assert!(
            all.iter().any(|span| is_linked(span, TRACE)),
            "{transaction} is not linked to the call: {all:?}"
        );
    }
    // A session is as long as a conversation: a trace of its own, linked with the call's.
    let sessions = by_name(&spans, "session");
    let linked: Vec<_> = sessions.iter().filter(|span| is_linked(span, TRACE)).collect();
    let [session] = &linked[..] else {
        anyhow::bail!("{sessions:?}")
    };
    assert!(session.parent_span_id.is_empty());
    let id = attribute(session, "call.id")
        .map(|id| id.to_string())
        .unwrap_or_default();
    assert!(id.contains(&secrets["id outbound"]), "{id}");

    let told = format!("{log}\n{spans:#?}");
    // A process that logs more than it can write leaves lines out, and the last ones are the inbound call's.
    assert!(
        log.contains(&secrets["id outbound"]),
        "the log does not tell of the call"
    );
    assert!(
        told.contains(&secrets["id inbound"]),
        "nothing tells of the inbound call"
    );
    let mut leaks = Vec::new();
    for (what, secret) in secrets.iter().filter(|(what, _)| !what.starts_with("id ")) {
        assert!(secret.len() >= 8, "{what} is too short to be looked for");
        leaks.extend(
            told.lines()
                .filter(|line| line.contains(secret.as_str()))
                .map(|line| format!("{what}: {line}")),
        );
    }
    assert!(
        leaks.is_empty(),
        "{} lines tell a secret:\n{}",
        leaks.len(),
        leaks[..leaks.len().min(12)].join("\n")
    );
    Ok(())
}
