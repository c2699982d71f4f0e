//! The death of an edge while people talk (F77): its calls end there, each is settled, and what opened their sockets opens none
//! any more.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use exotel_sim::{CallReport, StreamReport};
use tokio::time::sleep;

use super::{Callers, Fleet, Stage};
use crate::poll;

/// Until the first call has noticed, and from then until all have: the system closes all connections of a process at once.
const NOTICED: Duration = Duration::from_secs(10);
const ALL: Duration = Duration::from_secs(1);
/// How WebSocket's client names an end without a close frame (RFC 6455 §7.1.5).
const BROKEN: u16 = 1006;
/// What a socket's URL answers when its token was used.
const USED: u16 = 404;

/// Kills one edge; returns the calls that it had, by the simulator's ids. Another edge is started in its place.
pub(super) async fn run(
    stage: &Stage<'_>,
    fleet: &mut Fleet,
    callers: &mut Callers,
) -> anyhow::Result<BTreeSet<String>> {
    // A call that begins has nothing yet that could be cut.
    callers.pause().await?;
    let control = &stage.system.control;
    let open = control
        .calls()
        .into_iter()
        .filter(|call| call.streams.iter().any(|stream| stream.open));
    let open: Vec<String> = open.map(|call| call.call_sid).collect();
    fleet.edges.kill_one().await?;
    let cut = || -> Vec<CallReport> {
        let now = open.iter().filter_map(|sid| control.call(sid).ok());
        now.filter(|call| call.streams.first().is_some_and(is_broken)).collect()
    };
    poll("a call of the dead edge to end", NOTICED, async || match cut().len() {
        0 => Err("none has"),
        _ => Ok(()),
    })
    .await?;
    sleep(ALL).await;
    let cut = cut();
    for stream in cut.iter().filter_map(|call| call.streams.first()) {
        let status = knock(&stream.url).await?;
        ensure!(
            status == USED,
            "the socket of a session whose edge died answers {status} to whoever has its URL, not {USED}"
        );
    }
    fleet.edges.raise(1).await?;
    callers.go_on();
    Ok(cut.into_iter().map(|call| call.call_sid).collect())
}

fn is_broken(stream: &StreamReport) -> bool {
    !stream.open && stream.close_code == Some(BROKEN)
}

/// Asks for an upgrade, as Exotel does.
async fn knock(url: &str) -> anyhow::Result<u16> {
    let client = reqwest::Client::builder().no_proxy().timeout(NOTICED).build()?;
    let request = client
        .get(url.replacen("ws", "http", 1))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let answer = request.send().await.map_err(reqwest::Error::without_url);
    Ok(answer.context("a socket's URL does not answer")?.status().as_u16())
}
