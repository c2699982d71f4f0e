//! What is seen from outside: one trace for each call, figures on a page and by OTLP, no secret in anything that is told, and a
//! collector that does not matter.

mod child;
mod collector;
mod figures;
mod tree;

use std::{env, fs::File, io, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use child::{CHILD, PARENT, TRACE};
use collector::Collector;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};
use tree::{attribute, hex, tree};

const LIMIT: Duration = Duration::from_mins(2);

/// Telemetry starts once in a process, and logs go to its standard error: so the whole system runs in another process. Returns its
/// log too.
async fn told(collector: &str, settings: &[(&str, &str)]) -> Result<(Value, String)> {
    let folder = TempDir::new()?;
    let log = folder.path().join("log");
    let told = run(collector, settings, File::create(&log)?.into(), folder.path()).await;
    let log = std::fs::read_to_string(log)?;
    let end = || log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
    Ok((told.with_context(end)?, log))
}

/// Runs the process, whose log goes to `log`.
async fn run(collector: &str, settings: &[(&str, &str)], log: Stdio, folder: &Path) -> Result<Value> {
    let told = folder.join("told.json");
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", "child::the_child", "--nocapture"])
        .env(CHILD, &told)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "0")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    let ended = timeout(LIMIT, child.wait()).await.context("the child does not end")??;
    ensure!(ended.success(), "the child failed");
    Ok(serde_json::from_slice(&std::fs::read(told)?)?)
}

/// The trace of an outbound call. Exotel carries no trace: what it asks and reports comes in traces of its own, and what is done
/// about the call moves into the call's, with a link to where it came from.
const OUTBOUND: &str = "\
callbridge.call.v1.CallService/PlaceCall [server]
  apply_callback [client]
  call.dial
    POST /v1/Accounts/{sid}/Calls/connect.json [client]
    dial_outcome [client]
  claim_socket [client] <- GET /ws/exotel/voice/{call_id}/{token}
  command_done [client]
  connect [client] <- GET /api/v1/exotel/{account_token}/voice/connect
  place_call [client]
  record_end [client] <- GET /api/v1/exotel/{account_token}/voice/end
  send_command [client] <- callbridge.call.v1.CallService/SendToAgent
  session <- session.start
    agent.dial
      callbridge.agent.v1.VoiceAgentService/Converse [client]
        callbridge.agent.v1.VoiceAgentService/Converse [server]
  session_event [client]
  start_session [client] <- session.start
";

/// The trace of an inbound call begins with the first webhook that tells of it.
const INBOUND: &str = "\
GET /api/v1/exotel/{account_token}/voice/connect [server]
  callbridge.ingress.v1.IngressService/ResolveConnect [server]
    connect [client]
      claim_socket [client] <- GET /ws/exotel/voice/{call_id}/{token}
      record_end [client] <- GET /api/v1/exotel/{account_token}/voice/end
      session <- session.start
        agent.dial
          callbridge.agent.v1.VoiceAgentService/Converse [client]
            callbridge.agent.v1.VoiceAgentService/Converse [server]
      session_event [client]
      start_session [client] <- session.start
";

/// A campaign is a link of its call's trace, and never its parent. How often it was dialled is the machine's to say, since such a dial
/// must not begin late.
const OF_CAMPAIGN: &str = "campaign.call <- campaign_fill\n";

/// Attributes of spans, by OpenTelemetry's conventions and our own: the span's name, and what each must have. `*` is anything.
const ATTRIBUTES: [(&str, &[(&str, &str)]); 9] = [
    (
        "callbridge.call.v1.CallService/PlaceCall",
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", "callbridge.call.v1.CallService/PlaceCall"),
            ("rpc.response.status_code", "*"),
        ],
    ),
    (
        "POST /v1/Accounts/{sid}/Calls/connect.json",
        &[
            ("http.request.method", "POST"),
            ("url.template", "/v1/Accounts/{sid}/Calls/connect.json"),
            ("http.response.status_code", "200"),
            ("server.address", "127.0.0.1"),
            ("server.port", "*"),
            ("exotel.outcome", "placed"),
        ],
    ),
    (
        "GET /api/v1/exotel/{account_token}/voice/connect",
        &[
            ("http.request.method", "GET"),
            ("http.route", "/api/v1/exotel/{account_token}/voice/connect"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("call.id", "*"),
        ],
    ),
    (
        "POST /api/v1/exotel/voice/status/{token}",
        &[("http.response.status_code", "200"), ("call.id", "*")],
    ),
    (
        "connect",
        &[
            ("db.system.name", "postgresql"),
            ("db.query.summary", "connect"),
            ("call.id", "*"),
        ],
    ),
    (
        "call.dial",
        &[("call.id", "*"), ("call.attempt", "1"), ("call.dial.outcome", "placed")],
    ),
    (
        "session",
        &[
            ("call.id", "*"),
            ("media_session.id", "*"),
            ("ended_by", "customer"),
            ("reason", "caller_hung_up"),
        ],
    ),
    ("agent.dial", &[("again", "false")]),
    (
        "callbridge.agent.v1.VoiceAgentService/Converse",
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", "callbridge.agent.v1.VoiceAgentService/Converse"),
        ],
    ),
];

/// One trace spans a call, metrics go out beside it, and F122 and F123: secrets and numbers planted in every field are nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_trace_and_nothing_secret_is_told() -> Result<()> {
    if child::is_one() {
        return Ok(());
    }
    let (collector, url) = Collector::start(true).await?;
    let (told, log) = told(&url, &[]).await?;
    let taken = collector.taken();
    let spans = &taken.spans;

    // Who applies a callback is the request that brought it, or the loop that looks for those that wait.
    let tree = |trace: &str| tree(spans, trace).replace(" <- POST /api/v1/exotel/voice/status/{token}", "");
    assert_eq!(tree(TRACE), OUTBOUND);
    let placed = spans
        .iter()
        .find(|span| hex(&span.trace_id) == TRACE && span.name.ends_with("/PlaceCall"));
    assert_eq!(placed.map(|span| hex(&span.parent_span_id)).as_deref(), Some(PARENT));
    let of = |name: &str, call: Option<&str>| {
        let found = spans
            .iter()
            .find(|span| span.name == name && attribute(span, "call.id").as_deref() == call);
        found.map(|span| hex(&span.trace_id)).unwrap_or_default()
    };
    assert_eq!(of("session", told["outbound"].as_str()), TRACE);
    assert_eq!(tree(&of("session", told["inbound"].as_str())), INBOUND);
    let call = spans
        .iter()
        .find(|span| attribute(span, "campaign.id").as_deref() == told["campaign"].as_str())
        .context("the campaign's call has no trace")?;
    let of_campaign = tree(&hex(&call.trace_id));
    assert!(of_campaign.starts_with(OF_CAMPAIGN), "{of_campaign}");
    assert!(of_campaign.contains("\n  call.claim\n    call.dial\n"), "{of_campaign}");
    let others = || spans.iter().filter(|span| span.trace_id != call.trace_id);
    for (name, wanted) in ATTRIBUTES {
        for span in others().filter(|span| span.name == name) {
            for (key, value) in wanted {
                let found = attribute(span, key).with_context(|| format!("{name} has no {key}"))?;
                ensure!(*value == "*" || found == *value, "{name} has {key} = {found}");
            }
        }
    }
    assert!(taken.metrics.contains("callbridge.calls.ended"), "{:?}", taken.metrics);
    for wanted in ["service.name", "service.version", "service.instance.id"] {
        assert!(taken.resource.contains(wanted), "{:?}", taken.resource);
    }

    let told_all = format!("{log}\n{spans:#?}\n{}", told["pages"]);
    // A process that logs more than it can write leaves lines out, and the last ones are the inbound call's.
    for id in ["outbound", "inbound"] {
        let id = told[id].as_str().context("no call")?;
        assert!(told_all.contains(id), "nothing tells of {id}");
    }
    let mut leaks = Vec::new();
    for (what, secret) in told["secrets"].as_object().context("no secrets")? {
        let secret = secret.as_str().context("no text")?;
        assert!(secret.len() >= 8, "{what} is too short to be looked for");
        leaks.extend(
            told_all
                .lines()
                .filter(|line| line.contains(secret))
                .map(|line| format!("{what}: {line}")),
        );
    }
    assert!(
        leaks.is_empty(),
        "{} lines tell a secret:\n{}",
        leaks.len(),
        leaks[..leaks.len().min(12)].join("\n")
    );
    figures::all_are_there(&told["pages"])
}

/// F128: a collector that takes what it is sent and never answers. Calls are as always, spans beyond the queue are dropped and
/// counted, and the process ends although the collector still has not answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_nothing_up() -> Result<()> {
    if child::is_one() {
        return Ok(());
    }
    let (collector, url) = Collector::start(false).await?;
    let hour = "3600000";
    let settings = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", hour),
        ("OTEL_BSP_EXPORT_TIMEOUT", hour),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
    ];
    let (told, _) = told(&url, &settings).await?;
    let sent = collector.taken().spans.len();
    assert!((1..=4).contains(&sent), "{sent} spans were sent: more than one batch");
    let page = told["pages"]["edge"].as_str().context("no page")?;
    let dropped = page
        .lines()
        .find(|line| line.starts_with("otel_sdk_processor_span_processed_total{error_type=\"queue_full\""))
        .and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(dropped.is_some_and(|dropped| dropped > 0), "{dropped:?} were dropped");
    Ok(())
}

/// F129: a log that nobody reads. Calls are as always, and the process ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_nothing_up() -> Result<()> {
    if child::is_one() {
        return Ok(());
    }
    let (collector, url) = Collector::start(true).await?;
    let (reader, writer) = io::pipe()?;
    let folder = TempDir::new()?;
    let told = run(&url, &[], writer.into(), folder.path()).await?;
    assert!(!collector.taken().spans.is_empty());
    let page = told["pages"]["edge"].as_str().context("no page")?;
    assert!(
        page.contains("callbridge_log_lines_dropped_total"),
        "what is lost is not counted"
    );
    drop(reader);
    Ok(())
}
