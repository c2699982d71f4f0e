//! `cargo load forged`: what forged and replayed tokens cost the edge and the database, beside a path that is not there.

mod flood;
mod log;
mod used;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use callbridge_proto::id::CallId;
use exotel::{
    paths,
    token::{Purpose, TokenKeys},
};
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use self::{
    flood::{Flood, Told},
    log::Log,
};
use super::{arguments::Arguments, audio::pieces::Piece, machine, result, say};
use crate::{
    Registration, Stack,
    child::{Child, Spec},
    poll, port,
    postgres::{Binaries, Durability, Options, Postgres},
    target,
};

/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// Without any request: whatever is asked then, loops ask.
const IDLE: Duration = Duration::from_secs(5);
/// What an applet's request asks with.
const QUERY: &str = "?CallSid=forged&CallFrom=09812340017&CallTo=08040000155&Direction=incoming";
/// The call in forged tokens; there is none.
const FORGED: CallId = CallId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001));

/// A kind of request, with what it is compared with.
struct Kind {
    name: &'static str,
    /// To a path that is not there, of the same length and with the same headers.
    plain: Flood,
    forged: Flood,
    plain_per_s: Vec<f64>,
    forged_per_s: Vec<f64>,
}

impl Kind {
    fn ratio(&self) -> f64 {
        machine::median(&self.forged_per_s) / machine::median(&self.plain_per_s)
    }
}

/// What became of replayed tokens.
struct Replayed {
    per_s: f64,
    sent: u64,
    accepted: u64,
    /// Statements about one token that came once.
    reads_max: usize,
    /// Statements about all of them, which came again and again.
    reads: usize,
}

/// Measures and prints.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let binaries = Binaries::find().await?;
    let path = folder.join("postgres.log");
    // What an earlier run left would be read, too.
    let _ = fs::remove_file(&path);
    let options = Options {
        durability: Durability::Machine,
        parent: Some(folder.clone()),
        log: Some(path.clone()),
    };
    let postgres = Postgres::start_with(&binaries, options).await?;
    let outcome = measure(arguments, &folder, &postgres, Log::new(path)).await;
    postgres.stop().await;
    outcome
}

async fn measure(arguments: &Arguments, folder: &Path, postgres: &Postgres, log: Log) -> anyhow::Result<()> {
    let url = postgres.create_database().await?;
    // Loops that ask seldom: what is asked is then asked because of a request.
    let stack = Stack::builder()
        .database_url(&url)
        .call_setting("POLL_INTERVAL", "60s")
        .start()
        .await?;
    let registered = stack.register(Registration::new("load")?).await?;
    let (mut edge, address) = edge(&stack, folder).await?;
    log.begin(postgres).await?;
    let used = used::make(&stack, &registered, postgres, address).await?;
    say("load: what is asked when nobody comes, and for a genuine token");
    let mark = log.mark()?;
    sleep(IDLE).await;
    let idle = log.since(mark)?;
    let keys = TokenKeys::parse(&stack.keys.token_keys)?;
    let own = used::own(&log, &used, &keys, address, &idle).await?;

    let mut kinds = kinds(&keys)?;
    let length = Duration::from_secs(arguments.seconds);
    let (mut accepted, mut queries) = (0, 0);
    for round in 1..=arguments.rounds {
        for kind in &mut kinds {
            // The one that comes first takes turns.
            for forged in [round % 2 == 0, round % 2 != 0] {
                let mark = log.mark()?;
                let flood = if forged { &kind.forged } else { &kind.plain };
                let Told { per_s, others, .. } = flood.run(address, length).await?;
                if forged {
                    kind.forged_per_s.push(per_s);
                    accepted += others;
                    queries += log.for_forged(mark, &FORGED.0.to_string(), &own, &used)?;
                } else {
                    kind.plain_per_s.push(per_s);
                    ensure!(
                        others == 0,
                        "a path that is not there was answered otherwise than with 404"
                    );
                }
            }
            say(&format!(
                "load: round {round} of {}: forged {} {:.0}/s, not there {:.0}/s, ratio so far {:.2}",
                arguments.rounds,
                kind.name,
                kind.forged_per_s.last().unwrap_or(&0.0),
                kind.plain_per_s.last().unwrap_or(&0.0),
                kind.ratio(),
            ));
        }
    }
    let replayed = replay(&log, &used, address, length).await?;
    edge.kill().await.context("after it was measured")?;
    stack.shut_down().await?;
    tell(arguments, &kinds, accepted, queries, &replayed)
}

/// An edge of its own process.
async fn edge(stack: &Stack, folder: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let local = || Ok::<_, std::io::Error>(SocketAddr::from(([127, 0, 0, 1], port::lasting()?)));
    let (address, internal) = (local()?, local()?);
    let mut settings = stack.edge_settings.clone();
    settings.insert("EDGE_ADDR".to_owned(), address.to_string());
    settings.insert("EDGE_INTERNAL_ADDR".to_owned(), internal.to_string());
    let spec = Spec {
        program: None,
        name: Piece::Edge.word(),
        arguments: Piece::Edge.arguments(address, &[]),
        settings,
        log: folder.join("forged-edge.log"),
    };
    let child = spec.start(None)?;
    let ready = format!("http://{internal}/readyz");
    let client = reqwest::Client::builder().no_proxy().build()?;
    poll("the edge", READY, async || match client.get(&ready).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(answer.status().to_string()),
        Err(error) => Err(error.to_string()),
    })
    .await?;
    Ok((child, address))
}

/// Forged tokens of each purpose, and requests to paths that are not there.
fn kinds(keys: &TokenKeys) -> anyhow::Result<[Kind; 4]> {
    let expires = u32::try_from(runtime::Clock::system().unix_seconds() + 86_400).unwrap_or(u32::MAX);
    let kind = |name, purpose, there: &str, (word, other): (&str, &str), request: fn(&str) -> String| {
        let not_there = there.replace(word, other);
        let tokens = flood::forged(&keys.mint(purpose, FORGED.0, [7; 8], expires))?;
        let requests = |path: &str| {
            let fill = |token: &String| {
                let path = path.replace("{call_id}", &FORGED.to_string());
                request(&path.replace("{token}", token).replace("{account_token}", token))
            };
            Flood::new(tokens.iter().map(fill))
        };
        anyhow::Ok(Kind {
            name,
            plain: requests(&not_there),
            forged: requests(there),
            plain_per_s: Vec::new(),
            forged_per_s: Vec::new(),
        })
    };
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-length: 0\r\n\r\n");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: edge\r\n\r\n");
    let connect = paths::CONNECT.to_owned() + QUERY;
    let legacy = format!("{}?key={{account_token}}&{}", paths::LEGACY_CONNECT, &QUERY[1..]);
    Ok([
        kind(
            "callbacks",
            Purpose::Callback,
            paths::STATUS,
            ("/status/", "/static/"),
            post,
        )?,
        kind(
            "sockets",
            Purpose::Socket,
            paths::SOCKET,
            ("/ws/", "/sw/"),
            flood::upgrade,
        )?,
        kind("connects", Purpose::Account, &connect, ("/connect?", "/tcennoc?"), get)?,
        kind(
            "older_connects",
            Purpose::Account,
            &legacy,
            ("/connect?", "/tcennoc?"),
            get,
        )?,
    ])
}

/// Sends used tokens: each one once, and then all of them again and again.
async fn replay(log: &Log, used: &[used::Token], address: SocketAddr, length: Duration) -> anyhow::Result<Replayed> {
    let mark = log.mark()?;
    let mut accepted = 0;
    for token in used {
        accepted += u64::from(!flood::once(address, &flood::upgrade(&token.path)).await?);
    }
    let seen = log.about(mark, used).await?;
    let reads_max = seen.iter().copied().max().unwrap_or(0);
    ensure!(
        seen.iter().all(|reads| *reads > 0),
        "a replay left no trace in PostgreSQL's log, so nothing can be counted there"
    );
    let mark = log.mark()?;
    let flood = Flood::new(used.iter().map(|token| flood::upgrade(&token.path)));
    let Told { per_s, sent, others } = flood.run(address, length).await?;
    let reads = log.about(mark, used).await?.iter().sum();
    // Four for each token in a minute, of which one more may begin.
    let most = used.len() * 4 * usize::try_from(length.as_secs() / 60 + 2)?;
    ensure!(
        reads <= most,
        "used tokens that came again and again were looked at {reads} times, {most} at most"
    );
    Ok(Replayed {
        per_s,
        sent,
        accepted: accepted + others,
        reads_max,
        reads,
    })
}

fn tell(
    arguments: &Arguments,
    kinds: &[Kind],
    accepted: u64,
    queries: usize,
    replayed: &Replayed,
) -> anyhow::Result<()> {
    let ratio = kinds.iter().map(Kind::ratio).fold(f64::INFINITY, f64::min);
    let load = machine::load_average();
    if let Some(path) = &arguments.json {
        let kinds: serde_json::Map<_, _> = kinds
            .iter()
            .map(|kind| {
                let per_s = json!({ "per_s": kind.forged_per_s, "not_there_per_s": kind.plain_per_s });
                (kind.name.to_owned(), per_s)
            })
            .collect();
        let all = json!({
            "accepted": accepted, "queries": queries, "ratio_to_404": ratio, "kinds": kinds,
            "replays": replayed.sent, "replays_per_s": replayed.per_s, "replay_accepted": replayed.accepted,
            "replay_reads_max": replayed.reads_max, "replay_reads": replayed.reads,
            "processors": machine::processors(), "load_avg": load,
        });
        fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let of_kind = |kind: &Kind| {
        let per_s = machine::median(&kind.forged_per_s);
        format!("{0}_ratio={1:.2} {0}_per_s={per_s:.0}", kind.name, kind.ratio())
    };
    let of_kinds: Vec<_> = kinds.iter().map(of_kind).collect();
    result(&format!(
        "accepted={accepted} queries={queries} ratio_to_404={ratio:.2} {} replay_accepted={} replay_reads_max={} \
        replays={} replays_per_s={:.0} replay_reads={} processors={} load_avg={load}",
        of_kinds.join(" "),
        replayed.accepted,
        replayed.reads_max,
        replayed.sent,
        replayed.per_s,
        replayed.reads,
        machine::processors(),
    ));
    ensure!(
        accepted == 0 && queries == 0 && replayed.accepted == 0 && replayed.reads_max <= 1,
        "a forged or used token was taken, or cost the database more than it may"
    );
    Ok(())
}
