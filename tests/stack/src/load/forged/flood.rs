//! Requests as fast as the edge answers them, written by hand: a client that costs more than the server would hide the server's cost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64URL_NOPAD;
use runtime::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::keys::random;

/// Connections of a flood.
const CONNECTIONS: usize = 16;
/// Requests that are sent without waiting for answers, so that the edge has always something to do.
const AHEAD: usize = 16;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
const REFUSED: &[u8] = b"HTTP/1.1 404 ";

/// Requests that are sent again and again.
#[derive(Clone)]
pub(super) struct Flood(Arc<Vec<String>>);

/// What came of a flood.
pub(super) struct Told {
    pub(super) per_s: f64,
    pub(super) sent: u64,
    /// Answers that were no 404.
    pub(super) others: u64,
}

impl Flood {
    pub(super) fn new(requests: impl Iterator<Item = String>) -> Self {
        Self(Arc::new(requests.collect()))
    }

    /// Sends for so long.
    pub(super) async fn run(&self, to: SocketAddr, length: Duration) -> anyhow::Result<Told> {
        let begun = Instant::now();
        let tasks = Tasks::new();
        let mut running = Vec::new();
        for at in 0..CONNECTIONS {
            let requests = Arc::clone(&self.0);
            running.push(tasks.spawn(async move { send(&requests, at, to, begun + length).await }));
        }
        let (mut sent, mut others) = (0, 0);
        for sender in running {
            let (of_sender, wrong) = sender.await?.context("a sender was dropped")??;
            sent += of_sender;
            others += wrong;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
        let per_s = sent as f64 / begun.elapsed().as_secs_f64();
        Ok(Told { per_s, sent, others })
    }
}

/// One connection's share. How many were answered, and how many otherwise than with 404.
async fn send(requests: &[String], first: usize, to: SocketAddr, until: Instant) -> anyhow::Result<(u64, u64)> {
    ensure!(!requests.is_empty(), "a flood has no requests");
    let mut stream = TcpStream::connect(to).await.context("cannot connect to the edge")?;
    stream.set_nodelay(true)?;
    let (mut next, mut sent, mut others) = (first * requests.len() / CONNECTIONS, 0, 0);
    let (mut batch, mut answers) = (String::new(), Vec::new());
    while Instant::now() < until {
        batch.clear();
        for _ in 0..AHEAD {
            batch.push_str(&requests[next % requests.len()]);
            next += 1;
        }
        stream.write_all(batch.as_bytes()).await?;
        answers.clear();
        let mut read = 0;
        while read < AHEAD {
            let taken = timeout(PATIENCE, stream.read_buf(&mut answers));
            let taken = taken.await.context("the edge does not answer")??;
            ensure!(taken > 0, "the edge closed a connection in the middle of a flood");
            while let Some(length) = answer(&answers) {
                others += u64::from(!answers.starts_with(REFUSED));
                answers.drain(..length);
                read += 1;
            }
        }
        sent += AHEAD as u64;
    }
    Ok((sent, others))
}

/// The length of the first whole answer.
fn answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let body = text
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    (bytes.len() >= head + body).then_some(head + body)
}

/// One request alone. Whether it was answered with 404.
pub(super) async fn once(to: SocketAddr, request: &str) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(to).await.context("cannot connect to the edge")?;
    stream.write_all(request.as_bytes()).await?;
    let mut answers = Vec::new();
    while answer(&answers).is_none() {
        let taken = timeout(PATIENCE, stream.read_buf(&mut answers));
        ensure!(
            taken.await.context("the edge does not answer")?? > 0,
            "the edge gave no answer"
        );
    }
    Ok(answers.starts_with(REFUSED))
}

/// An upgrade as Exotel asks for it.
pub(super) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Tokens that look like this one: with each of its bits the other way round, and as many random ones.
pub(super) fn forged(genuine: &str) -> anyhow::Result<Vec<String>> {
    let bytes = BASE64URL_NOPAD.decode(genuine.as_bytes()).context("a token")?;
    let mut tokens = Vec::new();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        tokens.push(BASE64URL_NOPAD.encode(&flipped));
        let mut other = random::<63>().context("the system gives no random bytes")?;
        // Past the length and the version, and past the purpose and the expiry in half of them.
        other[0] = bytes[0];
        if bit % 2 == 0 {
            other[..7].copy_from_slice(&bytes[..7]);
        }
        tokens.push(BASE64URL_NOPAD.encode(&other));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let one = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nabcde";
        assert_eq!(answer(one), Some(one.len()));
        assert_eq!(answer(&one[..one.len() - 1]), None);
        assert_eq!(answer(&[&one[..], b"HTTP/1.1"].concat()), Some(one.len()));
        assert_eq!(answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81"), Some(36));
    }

    #[test]
    fn a_forged_token_is_never_the_genuine_one() {
        let genuine = BASE64URL_NOPAD.encode(&[1; 63]);
        let tokens = forged(&genuine).unwrap();
        assert_eq!(tokens.len(), 2 * 504);
        assert!(
            tokens
                .iter()
                .all(|token| token.len() == genuine.len() && *token != genuine)
        );
    }
}
