//! Tokens that were genuine and are used up: calls came in, their sockets were opened, and streams started and ended.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use exotel::{
    paths,
    token::{Purpose, TokenKeys},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_postgres::Client;

use super::{flood, log::Log};
use crate::{Registered, Stack, load::capture::Statement, poll, postgres::Postgres};

/// How many calls.
const CALLS: usize = 20;
/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A token that is used up.
pub(super) struct Token {
    /// The socket's path, a secret that is worth nothing any more.
    pub(super) path: String,
    /// As PostgreSQL writes them.
    pub(super) nonce: String,
    pub(super) call: String,
}

impl Token {
    /// Whether a statement is about it or its call.
    pub(super) fn is_meant_by(&self, statement: &Statement) -> bool {
        let mut values = statement.values.iter().flatten();
        values.any(|value| *value == self.nonce || *value == self.call)
    }
}

/// Makes them, and waits until all is quiet again.
pub(super) async fn make(
    stack: &Stack,
    registered: &Registered,
    postgres: &Postgres,
    edge: SocketAddr,
) -> anyhow::Result<Vec<Token>> {
    let database = stack.database_url.rsplit_once('/').map_or("", |(_, name)| name);
    let sql = postgres.connect(database.split('?').next().unwrap_or(database)).await?;
    // What is asked here is nobody's request.
    sql.batch_execute("SET log_min_duration_statement = -1").await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut streams = Vec::new();
    let mut paths = Vec::new();
    for at in 0..CALLS {
        let (sid, customer) = (format!("used-{at}"), format!("0981234{at:04}"));
        let query = [
            ("CallSid", sid.as_str()),
            ("CallFrom", &customer),
            ("CallTo", &registered.phone_number),
            ("Direction", "incoming"),
        ];
        let answer: Value = client
            .get(&registered.urls.connect_url)
            .query(&query)
            .send()
            .await?
            .json()
            .await?;
        let url = answer["url"].as_str().context("a connect request got no URL")?;
        let path = url
            .find("/ws/")
            .map(|from| url[from..].to_owned())
            .context("a socket's URL")?;
        let start = json!({
            "event": "start", "sequence_number": "1", "stream_sid": sid,
            "start": {
                "stream_sid": sid, "call_sid": sid, "account_sid": registered.account_sid,
                "from": customer, "to": registered.phone_number,
                "media_format": { "encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps" },
            },
        });
        streams.push(begin(edge, &path, &start.to_string()).await?);
        paths.push((sid, path));
    }
    until(&sql, "started_at IS NOT NULL").await?;
    drop(streams);
    until(&sql, "ended_at IS NOT NULL").await?;
    let mut used = Vec::new();
    for (sid, path) in paths {
        let row = "SELECT nonce::text, call_id::text FROM media_sessions WHERE stream_sid = $1";
        let row = sql.query_one(row, &[&sid]).await?;
        used.push(Token {
            path,
            nonce: row.get(0),
            call: row.get(1),
        });
    }
    Ok(used)
}

async fn until(sql: &Client, state: &str) -> anyhow::Result<()> {
    let wanted = format!("SELECT count(*) FROM media_sessions WHERE {state}");
    poll("the used sessions", PATIENCE, async || {
        let row = sql.query_one(&wanted, &[]).await.map_err(|error| error.to_string())?;
        let so_far: i64 = row.get(0);
        if usize::try_from(so_far) == Ok(CALLS) {
            Ok(())
        } else {
            Err(format!("{so_far} are {state}"))
        }
    })
    .await?;
    Ok(())
}

/// Opens a socket and says `start`.
async fn begin(edge: SocketAddr, path: &str, start: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(edge).await?;
    stream.write_all(flood::upgrade(path).as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 101 "),
        "an upgrade with a genuine token was refused"
    );
    // A whole text message, masked with zeros (RFC 6455 §5.2).
    let length = u16::try_from(start.len())?.to_be_bytes();
    let frame = [&[0x81, 0x80 | 0x7e][..], &length, &[0; 4], start.as_bytes()].concat();
    stream.write_all(&frame).await?;
    Ok(stream)
}

/// The statements that a token with a right MAC causes and that nothing else does: without any, nothing could be counted.
pub(super) async fn own(
    log: &Log,
    used: &[Token],
    keys: &TokenKeys,
    edge: SocketAddr,
    idle: &[Statement],
) -> anyhow::Result<HashSet<String>> {
    let mark = log.mark()?;
    let first = used.first().context("no token was made")?;
    ensure!(
        flood::once(edge, &flood::upgrade(&first.path)).await?,
        "a used token opened a socket again"
    );
    let expires = u32::try_from(runtime::Clock::system().unix_seconds() + 60)?;
    let token = keys.mint(Purpose::Callback, first.call.parse()?, [7; 8], expires);
    let path = paths::STATUS.replace("{token}", &token);
    let callback = format!("POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-length: 0\r\n\r\n");
    ensure!(!flood::once(edge, &callback).await?, "a genuine callback was refused");
    let found = poll("the statements of a used token", PATIENCE, async || {
        let statements = log.since(mark).map_err(|error| error.to_string())?;
        let own: HashSet<String> = statements
            .into_iter()
            .filter(|statement| first.is_meant_by(statement))
            .map(|statement| statement.text)
            .filter(|text| !idle.iter().any(|other| other.text == *text))
            .collect();
        let has = |word: &str| own.iter().any(|text| text.contains(word));
        if has("media_sessions") && has("INSERT INTO \"webhook_inbox\"") {
            Ok(own)
        } else {
            Err(format!("{} statements", own.len()))
        }
    });
    Ok(found.await?)
}
