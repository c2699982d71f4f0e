//! `POST Calls/connect`: strict about its parameters, then the dial, then the answer that the number's script wants.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;

use super::{
    CallSid, Format,
    checks::{Connect, check},
    error::Refusal,
    params::Params,
    resource::{Resource, Single},
};
use crate::{
    Answer, LedgerEntry, Outcome,
    account::AccountState,
    call::{Call, life},
    clock, journal,
    server::Cut,
    world::World,
};

/// The largest answer that is cut or dripped: a call is far below.
const MAX_ANSWER: usize = 64 * 1024;

/// Time for the first half of a truncated answer to reach the client.
const FLUSH: Duration = Duration::from_millis(50);

const HTML: &str = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>";

pub(crate) async fn connect(
    world: &Arc<World>,
    account: &Arc<AccountState>,
    format: Format,
    request: Request,
) -> Response {
    if !account.admit_connect() {
        let retry_after = world.settings().retry_after.clone();
        return Refusal {
            retry_after,
            ..Refusal::rate()
        }
        .answer(format);
    }
    let checked = match Params::read(request).await {
        Ok(params) => check(&params, &account.get()),
        Err(refusal) => Err(refusal),
    };
    let connect = match checked {
        Ok(connect) => connect,
        Err(refusal) => return refusal.answer(format),
    };
    let outcome = world.take_outcome(&connect.request.customer);
    let (world, account) = (Arc::clone(world), Arc::clone(account));
    // A task of its own: a client that goes away does not stop the platform from dialling.
    let accepting = world
        .tasks
        .clone()
        .spawn(async move { accept(&world, &account, format, connect, outcome).await });
    accepting.await.unwrap_or_else(|_| Refusal::internal().answer(format))
}

async fn accept(
    world: &Arc<World>,
    account: &Arc<AccountState>,
    format: Format,
    connect: Connect,
    outcome: Outcome,
) -> Response {
    pause(world.settings().connect_delay_ms + outcome.dial_delay_ms).await;
    let customer = connect.request.customer.national();
    let dialled = if outcome.dials() {
        match dial(world, account, connect, outcome.clone()).await {
            Ok(call) => Some(call),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a dial is not in the ledger and was not made"
                );
                return Refusal::internal().answer(format);
            }
        }
    } else {
        None
    };
    pause(outcome.answer_delay_ms).await;
    let sid = dialled.as_ref().map(|call| call.sid.clone());
    let accepted = || match &dialled {
        Some(call) => format.answer(
            StatusCode::OK,
            &Single {
                call: Resource::of(world, call, false, None).for_format(format),
            },
        ),
        None => Refusal::internal().answer(format),
    };
    let lost = outcome.answer == Answer::Lost;
    let mut response = match outcome.answer {
        Answer::Accepted => accepted(),
        Answer::Dnd => Refusal::dnd(&customer).answer(format),
        Answer::Kyc => Refusal::kyc().answer(format),
        Answer::RateLimited { retry_after } => Refusal {
            retry_after,
            ..Refusal::rate()
        }
        .answer(format),
        Answer::Unavailable => Refusal::unavailable().answer(format),
        Answer::Html => ([(header::CONTENT_TYPE, "text/html")], HTML).into_response(),
        Answer::Lost | Answer::Empty => StatusCode::OK.into_response(),
        Answer::Truncated => truncated(accepted()).await,
        Answer::Drip { every_ms } => dripping(accepted(), Duration::from_millis(every_ms)).await,
        Answer::Custom {
            status,
            ref headers,
            ref body,
            repeat,
        } => {
            let body = body.replace("{CallSid}", sid.as_deref().unwrap_or("0"));
            custom(status, headers, &body, repeat)
        }
    };
    if lost {
        response.extensions_mut().insert(Cut);
    }
    if let Some(sid) = sid {
        response.extensions_mut().insert(CallSid(sid));
    }
    response
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// The ledger first, then the phone.
async fn dial(
    world: &Arc<World>,
    account: &Arc<AccountState>,
    connect: Connect,
    outcome: Outcome,
) -> Result<Arc<Call>, journal::Error> {
    let call = Call::new(world, account, connect.request, outcome);
    let entry = LedgerEntry {
        time: clock::now(),
        call_sid: call.sid.clone(),
        account_sid: account.get().sid.clone(),
        mode: call.request.mode,
        from: connect.from,
        to: connect.to,
        caller_id: Some(connect.caller_id),
        custom_field: call.request.custom_field.clone(),
        outcome: call.outcome.clone(),
    };
    world.ledger.append(&entry).await?;
    life::begin(world, &call);
    Ok(call)
}

/// Half of the body, then the end of the connection.
async fn truncated(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let half = bytes.slice(..bytes.len() / 2);
    let cut = async {
        tokio::time::sleep(FLUSH).await;
        Err(std::io::Error::other("cut on purpose"))
    };
    let pieces = futures_util::stream::iter([Ok(half)]).chain(futures_util::stream::once(cut));
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// One byte after the other.
async fn dripping(response: Response, every: Duration) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let drops = futures_util::stream::unfold(bytes, move |mut bytes| async move {
        if bytes.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        Some((Ok::<Bytes, std::io::Error>(bytes.split_to(1)), bytes))
    });
    Response::from_parts(parts, Body::from_stream(drops))
}

fn custom(status: u16, headers: &[(String, String)], body: &str, repeat: u32) -> Response {
    let piece = Bytes::copy_from_slice(body.as_bytes());
    let pieces = (0..repeat).map(move |_| Ok::<Bytes, std::io::Error>(piece.clone()));
    let body = if repeat == 1 {
        Body::from(body.to_owned())
    } else {
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
