//! The moments that a person notices: the first word of a greeting, the agent's coming, silence after an interruption. Calls
//! one after another, on an edge that has nothing else to do.

use std::{rc::Rc, time::Duration};

use anyhow::Context as _;
use callbridge_proto::call::v1::{CallFilter, GetCallRequest, ListCallsRequest, WatchCallRequest, WatchCallResponse};
use tokio::{
    sync::watch,
    task::{LocalSet, spawn_local},
    time::{Instant, interval, sleep, timeout},
};

use super::{
    phone::{self, Line, Phone},
    room::Room,
};
use crate::{Clients, load::progress::Progress, poll};

/// How many calls, behind a first one that makes what they find warm.
const CALLS: usize = 30;
/// A person's frame.
const FRAME: Duration = Duration::from_millis(20);
/// A voice that interrupts: a square wave well above what the echo agent takes for speech (`services/echo-agent`, detector).
const VOICE: [u8; 320] = {
    let mut pcm = [0; 320];
    let mut at = 0;
    while at < pcm.len() {
        // The high bytes of ±8,192, at 500 Hz.
        pcm[at + 1] = if at / 16 % 2 == 0 { 0x20 } else { 0xe0 };
        at += 2;
    }
    pcm
};
/// How many frames the person speaks; 100 ms are speech.
const VOICE_FRAMES: usize = 20;
/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The times of each call, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Moments {
    /// From `start` to the first frame of the greeting, on the wire.
    pub(super) greeting: Vec<f64>,
    /// From `start` to the agent's stream, call-service and its database included, as the call's log has it.
    pub(super) agent: Vec<f64>,
    /// From an agent's `Clear` to `clear` on the wire, behind which no more of the turn is sent, as the session counted it.
    pub(super) clear: Vec<f64>,
}

/// Makes the calls, to a phone whose agent greets and listens.
///
/// # Errors
/// When one of them fails.
pub(super) async fn watch(line: &Line, clients: &Clients, phone_id: &str) -> anyhow::Result<Moments> {
    let mut moments = Moments::default();
    let progress = Progress::new("moments: calls", CALLS as u64);
    for number in 0..=CALLS {
        let greeting = LocalSet::new().run_until(interrupt(line, number)).await;
        let greeting = greeting.with_context(|| format!("call {number} of the moments"))?;
        let (agent, clear) = told(clients, phone_id, number + 1).await?;
        if number > 0 {
            moments.greeting.push(greeting.as_secs_f64() * 1_000.0);
            moments.agent.push(agent);
            moments.clear.push(clear);
        }
        progress.at(number as u64);
    }
    Ok(moments)
}

/// One call: hears the greeting begin, speaks into it, and hangs up. How long the first word took.
async fn interrupt(line: &Line, number: usize) -> anyhow::Result<Duration> {
    let (up, mut ups) = watch::channel(0);
    let room = Room::new(FRAME, 1, up);
    // Numbers that no other call of the run has.
    let phone = Phone::call(line, &room, 90_000_000 + number).await?;
    let begun = Instant::now();
    let mut listening = spawn_local(phone::listen(Rc::clone(&phone), Rc::clone(&room)));
    let heard = tokio::select! {
        heard = timeout(PATIENCE, ups.changed()) => heard,
        ended = &mut listening => return Err(ended?.err().context("the call ended by itself")?),
    };
    heard.context("no greeting was heard")??;
    let first_word = begun.elapsed();
    let mut frames = interval(FRAME);
    for _ in 0..VOICE_FRAMES {
        frames.tick().await;
        phone.borrow_mut().media(&VOICE)?;
    }
    sleep(10 * FRAME).await;
    phone.borrow_mut().hang_up()?;
    sleep(5 * FRAME).await;
    listening.abort();
    Ok(first_word)
}

/// What the log has of the latest of so many calls: when the agent came, and how long `clear` took, in milliseconds.
async fn told(clients: &Clients, phone_id: &str, calls: usize) -> anyhow::Result<(f64, f64)> {
    let filter = CallFilter {
        phone_id: phone_id.to_owned(),
        ..CallFilter::default()
    };
    let all = ListCallsRequest {
        filter: Some(filter),
        page_size: 200,
        ..ListCallsRequest::default()
    };
    let (call_id, quality) = poll("a call's quality", PATIENCE, async || {
        let mut client = clients.calls();
        let found = client
            .list_calls(all.clone())
            .await
            .map_err(|status| status.to_string())?;
        let found = found.into_inner().calls;
        let Some(latest) = found.first().filter(|_| found.len() == calls) else {
            return Err(format!("{} calls are there", found.len()));
        };
        let call_id = latest.id.clone();
        let asked = GetCallRequest {
            call_id: call_id.clone(),
        };
        let call = client.get_call(asked).await.map_err(|status| status.to_string())?;
        let session = call
            .into_inner()
            .call
            .and_then(|call| call.media_sessions.into_iter().next());
        match session {
            Some(session) if session.ended_at.is_some() => Ok((call_id, session.quality)),
            _ => Err("the session has not ended".to_owned()),
        }
    })
    .await?;
    anyhow::ensure!(
        quality.contains_key("clears"),
        "the agent did not hear the interruption"
    );
    let clear = quality.get("clear_to_silence_ms").copied().unwrap_or_default();
    let watched = WatchCallRequest {
        call_id,
        ..WatchCallRequest::default()
    };
    let mut events = clients.calls().watch_call(watched).await?.into_inner();
    let connected = async {
        while let Some(WatchCallResponse { event: Some(event) }) = events.message().await? {
            if event.r#type == "agent_connected" {
                let after = event.data.get("after_ms").context("agent_connected has no after_ms")?;
                return Ok(after.parse::<f64>()?);
            }
        }
        anyhow::bail!("the agent did not come")
    };
    let agent = timeout(PATIENCE, connected).await.context("the agent did not come")??;
    Ok((agent, f64::from(i32::try_from(clear)?)))
}
