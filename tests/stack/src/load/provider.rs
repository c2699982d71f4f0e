//! An Exotel that answers every request at once: whatever it takes would be Exotel's time, not ours. Its calls never end.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use runtime::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A connect is below 2 KiB.
const MAX_REQUEST: usize = 16 * 1024;

/// Answers until the tasks stop.
pub(super) async fn start(tasks: &Tasks) -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen for the provider")?;
    let address = listener.local_addr()?;
    let tasks_of_loop = tasks.clone();
    tasks.spawn(async move {
        let stopping = tasks_of_loop.stopping();
        tokio::pin!(stopping);
        loop {
            let accepted = tokio::select! {
                () = &mut stopping => return,
                accepted = listener.accept() => accepted,
            };
            if let Ok((stream, _)) = accepted {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                tasks_of_loop.spawn(async move {
                    // A client that goes away is no trouble.
                    let _ = answer(stream, number).await;
                });
            }
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, number: u64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(2_048);
    while !is_whole(&request) && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let body = body(&request, number);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What a request is answered with: the calls that a list names, or a new call.
fn body(request: &[u8], number: u64) -> String {
    let of = |sid: &str| {
        format!(
            r#"{{"Sid":"{sid}","DateCreated":"2026-01-01 00:00:00","Status":"in-progress","Direction":"outbound-api"}}"#
        )
    };
    let line = String::from_utf8_lossy(request);
    let query = line.lines().next().and_then(|line| line.split([' ', '?']).nth(2));
    let named = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).find(|(name, _)| name == "Sid");
    match named {
        Some((_, sids)) => {
            let calls: Vec<String> = sids.split(',').map(of).collect();
            format!(
                r#"{{"Metadata":{{"Total":{}}},"Calls":[{}]}}"#,
                calls.len(),
                calls.join(",")
            )
        }
        None => format!(r#"{{"Call":{}}}"#, of(&format!("{number:032x}"))),
    }
}

/// Whether the head and as much of a body as it announces are there.
fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok());
    request.len() >= head + 4 + length.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_calls_that_it_is_asked_for() {
        let list = body(
            b"GET /v1/Accounts/a/Calls.json?details=true&Sid=aa%2Cbb HTTP/1.1\r\n\r\n",
            1,
        );
        assert!(
            list.contains(r#""Sid":"aa""#) && list.contains(r#""Sid":"bb""#),
            "{list}"
        );
        assert!(
            body(b"POST /v1/Accounts/a/Calls/connect.json HTTP/1.1\r\n\r\n", 1).starts_with(r#"{"Call":{"Sid":"0"#)
        );
    }

    #[test]
    fn a_request_is_whole_with_its_body() {
        assert!(!is_whole(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"));
        assert!(is_whole(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"));
        assert!(is_whole(b"GET / HTTP/1.1\r\n\r\n"));
        assert!(!is_whole(b"GET / HTTP/1.1\r\n"));
    }
}
