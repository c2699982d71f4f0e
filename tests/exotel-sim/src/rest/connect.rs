//! `POST Calls/connect`: strict about its parameters, then the dial, then the answer that the number's script wants.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{
    CallSid, Format,
    answer::{HTML, custom, dripping, truncated},
    checks::{Connect, check},
    error::Refusal,
    params::Params,
    resource::{Resource, Single},
};
use crate::{
    Answer, LedgerEntry, Mode, Outcome,
    account::AccountState,
    call::{self, Call, life},
    clock,
    connection::{CutAt, Stall},
    journal,
    number::Number,
    world::World,
};

/// Strangers of one connect at most: beyond, a list of them says nothing more.
const MAX_STRANGERS: u32 = 100;

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
    pause(world, world.settings().connect_delay_ms + outcome.dial_delay_ms).await;
    let customer = connect.request.customer.clone();
    let exophone = connect.request.exophone.clone();
    let made = async {
        let call = if outcome.dials() {
            Some(dial(world, account, connect, outcome.clone()).await?)
        } else if outcome.answer == Answer::Vanished {
            Some(Call::unlisted(world, account, connect.request, outcome.clone()))
        } else {
            None
        };
        strangers(world, account, &customer, &exophone, &outcome).await?;
        Ok::<_, journal::Error>(call)
    };
    let call = match made.await {
        Ok(call) => call,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a dial is not in the ledger and was not made"
            );
            return Refusal::internal().answer(format);
        }
    };
    pause(world, outcome.answer_delay_ms).await;
    let mut response = answer(world, format, &customer, &outcome, call.as_deref()).await;
    if let Some(bytes) = outcome.cut_at_byte {
        response.extensions_mut().insert(CutAt(bytes));
    }
    if let Some(call) = call {
        response.extensions_mut().insert(CallSid(call.sid.clone()));
    }
    response
}

/// The answer that the script wants.
async fn answer(world: &World, format: Format, customer: &Number, outcome: &Outcome, call: Option<&Call>) -> Response {
    let accepted = || match call {
        Some(call) => format.answer(
            StatusCode::OK,
            &Single {
                call: Resource::of(world, call, false, None).for_format(format),
            },
        ),
        None => Refusal::internal().answer(format),
    };
    let mut response = match &outcome.answer {
        Answer::Accepted | Answer::Vanished => accepted(),
        Answer::Dnd => Refusal::dnd(&customer.national()).answer(format),
        Answer::Kyc => Refusal::kyc().answer(format),
        Answer::RateLimited { retry_after } => Refusal {
            retry_after: retry_after.clone(),
            ..Refusal::rate()
        }
        .answer(format),
        Answer::Unavailable => Refusal::unavailable().answer(format),
        Answer::Html => ([(header::CONTENT_TYPE, "text/html")], HTML).into_response(),
        Answer::Lost | Answer::Stall | Answer::Empty => StatusCode::OK.into_response(),
        Answer::Truncated => truncated(accepted()).await,
        Answer::Drip { every_ms } => dripping(accepted(), Duration::from_millis(*every_ms)).await,
        Answer::Custom {
            status,
            headers,
            body,
            repeat,
        } => {
            let body = body.replace("{CallSid}", call.map_or("0", |call| &call.sid));
            custom(*status, headers, &body, *repeat)
        }
    };
    match outcome.answer {
        Answer::Lost => response.extensions_mut().insert(CutAt(0)).map(drop),
        Answer::Stall => response.extensions_mut().insert(Stall(None)).map(drop),
        _ => None,
    };
    response
}

async fn pause(world: &World, milliseconds: u64) {
    if milliseconds > 0 {
        let pause = tokio::time::sleep(Duration::from_millis(milliseconds));
        let _ = world.stop.run_until_cancelled(pause).await;
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

/// Calls that somebody else makes with the same account: from the same ExoPhone to the same person, at the same moment.
async fn strangers(
    world: &Arc<World>,
    account: &Arc<AccountState>,
    customer: &Number,
    exophone: &Number,
    outcome: &Outcome,
) -> Result<(), journal::Error> {
    for at in 0..outcome.strangers.min(MAX_STRANGERS) {
        let request = call::Request {
            mode: Mode::Stranger,
            customer: customer.clone(),
            exophone: exophone.clone(),
            to: None,
            app_id: None,
            stream_url: None,
            // Some use the field for something of their own, some do not use it.
            custom_field: (at % 2 == 1).then(|| format!("stranger-{at}")),
            record: false,
            time_limit: None,
            ring_timeout: None,
            callback: None,
        };
        let connect = Connect {
            request,
            from: customer.e164(),
            to: None,
            caller_id: exophone.national(),
        };
        let outcome = Outcome {
            callee: outcome.callee,
            answer_after_ms: outcome.answer_after_ms,
            talk_ms: outcome.talk_ms,
            list_delay_ms: outcome.list_delay_ms,
            ..Outcome::default()
        };
        dial(world, account, connect, outcome).await?;
    }
    Ok(())
}
