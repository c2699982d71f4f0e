//! The Voicebot applet, and the direct stream of a connect with `StreamUrl`.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::json;

use super::{
    Call,
    applet::{self, Ask},
    caller::Caller,
    new_sid, query,
    socket::{Socket, Target},
    stream::{Over, Stream},
};
use crate::{Cause, StreamReport, settings::StartShape, settings::Streams, wire::Opening, world::World};

/// What a dynamic URL answers.
#[derive(Deserialize)]
struct Place {
    url: String,
}

/// Why no socket came about.
enum NoSocket {
    /// The call had to end first.
    Ending,
    /// The account has too many streams.
    Throttled,
    /// The URL or the handshake.
    Failed(String),
}

/// Runs a stream and returns its final report.
pub(crate) async fn run(world: &Arc<World>, call: &Arc<Call>, caller: &mut Caller, url: &str) -> StreamReport {
    let settings = call.streams(world);
    let mut report = StreamReport {
        stream_sid: new_sid(),
        url: without_user(url),
        sample_rate: settings.sample_rate,
        ..StreamReport::default()
    };
    let first = report.clone();
    let mut index = 0;
    call.update(world, |call| {
        index = call.streams.len();
        call.streams.push(first);
    });

    let guard = call.account.open_stream();
    let opened = if guard.is_some() {
        open(world, call, &settings, url, &mut report).await
    } else {
        Err(NoSocket::Throttled)
    };
    let over = match opened {
        Ok((socket, target)) => {
            let (from, to) = match settings.start {
                StartShape::Live => (call.request.customer.national(), call.request.exophone.national()),
                StartShape::Documented => (call.request.customer.e164(), call.request.exophone.e164()),
            };
            let account = call.account.get();
            let opening = Opening {
                call_sid: &call.sid,
                account_sid: &account.sid,
                from: &from,
                to: &to,
                custom_parameters: &target.parameters,
                sample_rate: target.sample_rate,
            };
            Stream {
                world,
                call,
                settings: &settings,
                opening,
                report: &mut report,
                index,
            }
            .talk(socket, caller)
            .await
        }
        Err(NoSocket::Ending) if call.cause() == Cause::Caller => Over::Caller,
        Err(NoSocket::Ending) => Over::Platform,
        Err(NoSocket::Throttled) => {
            report.detailed_status = Some("Streaming_call_throttled".to_owned());
            Over::Failed("3008 too many streams".to_owned())
        }
        Err(NoSocket::Failed(text)) => Over::Failed(text),
    };
    let (status, by, error) = match over {
        Over::Bot => ("completed", "bot", None),
        Over::Caller => ("cancelled", "user", None),
        Over::Platform => ("completed", "NA", None),
        Over::Failed(text) => ("failed", "NA", Some(text)),
    };
    report.open = false;
    report.status = Some(status.to_owned());
    report.disconnected_by = Some(by.to_owned());
    report.error = error;
    drop(guard);
    world.note(
        Some(&call.sid),
        "stream",
        json!({ "stream_sid": report.stream_sid, "what": "end", "facts": report }),
    );
    let last = report.clone();
    call.update(world, |call| call.streams[index] = last);
    report
}

async fn open(
    world: &Arc<World>,
    call: &Arc<Call>,
    settings: &Streams,
    url: &str,
    report: &mut StreamReport,
) -> Result<(Socket, Target), NoSocket> {
    let socket_url = if url.starts_with("http") {
        ask(world, call, settings, url).await?
    } else {
        url.to_owned()
    };
    report.url = without_user(&socket_url);
    let target = Target::parse(&socket_url, settings).map_err(NoSocket::Failed)?;
    report.sample_rate = target.sample_rate;
    report.custom_parameters = target.parameters.clone();
    let limit = Duration::from_millis(settings.handshake_timeout_ms);
    let mut last = String::new();
    for _ in 0..=settings.handshake_retries {
        report.handshakes += 1;
        match call.ending.run_until_cancelled(target.open(&world.tls, limit)).await {
            None => return Err(NoSocket::Ending),
            Some(Ok(socket)) => return Ok((socket, target)),
            Some(Err(error)) => {
                let facts =
                    json!({ "stream_sid": report.stream_sid, "what": "handshake failed", "facts": { "error": error } });
                world.note(Some(&call.sid), "stream", facts);
                last = error;
            }
        }
    }
    Err(NoSocket::Failed(format!("3009 failed to establish ws conn {last}")))
}

/// Asks the dynamic URL for the socket's URL.
async fn ask(world: &Arc<World>, call: &Arc<Call>, settings: &Streams, url: &str) -> Result<String, NoSocket> {
    let times = if settings.ask_url_twice { 2 } else { 1 };
    let mut answer = Err(NoSocket::Ending);
    for _ in 0..times {
        let request = Ask {
            applet: "voicebot",
            url,
            query: query::voicebot(call),
            versioned: false,
            head: false,
        };
        let Some(fetched) = applet::ask(world, call, request).await else {
            return Err(NoSocket::Ending);
        };
        answer = match fetched {
            Err(error) => Err(NoSocket::Failed(format!("3005 dynamic url: {error}"))),
            Ok(fetched) if fetched.status != 200 => Err(NoSocket::Failed(format!(
                "3005 dynamic url answered {}",
                fetched.status
            ))),
            Ok(fetched) if !fetched.is("application/json") => Err(NoSocket::Failed(
                "3006 dynamic url answered no application/json".to_owned(),
            )),
            Ok(fetched) => match serde_json::from_slice::<Place>(&fetched.body) {
                Ok(place) => Ok(place.url),
                Err(_) => Err(NoSocket::Failed("3006 dynamic url answered no {\"url\":…}".to_owned())),
            },
        };
    }
    answer
}

/// The URL without user and password.
pub(crate) fn without_user(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        Err(_) => text.to_owned(),
    }
}
