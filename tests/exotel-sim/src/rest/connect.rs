//! `POST Calls/connect`: strict about its parameters, then the dial, then the answer that the number's script wants.

use std::{sync::Arc, time::Duration};

use axum::{
    body::HttpBody as _,
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
    Answer, Arrival, Fate, LedgerEntry, Mode, Outcome,
    account::AccountState,
    call::{self, Call, life},
    clock,
    connection::{CutAt, Stall},
    faults::Plan,
    journal,
    number::Number,
    world::World,
};

/// Strangers of one connect at most: beyond, a list of them says nothing more.
const MAX_STRANGERS: u32 = 100;

/// The shortest head of an answer that is in use: what is cut at any byte is cut within the answer.
const HEAD: u64 = 100;

pub(crate) async fn connect(
    world: &Arc<World>,
    sid: &str,
    account: Result<Arc<AccountState>, Refusal>,
    format: Format,
    request: Request,
) -> Response {
    let (world, sid) = (Arc::clone(world), sid.to_owned());
    // A task of its own: a client that goes away does not stop the platform from dialling, and is journalled too.
    let accepting = world
        .tasks
        .clone()
        .spawn(async move { receive(&world, &sid, account, format, request).await });
    accepting.await.unwrap_or_else(|_| Refusal::internal().answer(format))
}

/// Journals the arrival, whatever it is, and then lets happen what has to.
async fn receive(
    world: &Arc<World>,
    sid: &str,
    account: Result<Arc<AccountState>, Refusal>,
    format: Format,
    request: Request,
) -> Response {
    let params = Params::read(request).await;
    let given = |key| Some(params.as_ref().ok()?.get(key)?.to_owned());
    let mut arrival = Arrival {
        time: clock::now(),
        account_sid: sid.to_owned(),
        custom_field: given("CustomField"),
        from: given("From"),
        caller_id: given("CallerId"),
        fate: Fate::Refused,
        fault: None,
    };
    let decided = decide(world, account, params);
    match &decided {
        Ok(accepted) => {
            let dials = accepted.plan.outcome.dials();
            arrival.fate = if dials { Fate::Dialled } else { Fate::NotDialled };
            arrival.fault = accepted.plan.fault;
        }
        Err((fate, _)) => arrival.fate = *fate,
    }
    if let Err(error) = world.arrivals.append(&arrival).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a connect is not in the journal and is refused"
        );
        return Refusal::internal().answer(format);
    }
    match decided {
        Ok(accepted) => accept(world, format, accepted).await,
        Err((_, refusal)) => refusal.answer(format),
    }
}

/// A connect that passed all checks, and what becomes of it.
struct Accepted {
    account: Arc<AccountState>,
    connect: Connect,
    plan: Plan,
}

fn decide(
    world: &World,
    account: Result<Arc<AccountState>, Refusal>,
    params: Result<Params, Refusal>,
) -> Result<Accepted, (Fate, Refusal)> {
    let account = account.map_err(|refusal| (Fate::Unauthorized, refusal))?;
    if !account.admit_connect() {
        let refusal = Refusal {
            retry_after: world.settings().retry_after.clone(),
            ..Refusal::rate()
        };
        return Err((Fate::RateLimited, refusal));
    }
    let params = params.map_err(|refusal| (Fate::Unreadable, refusal))?;
    let connect = check(&params, &account.get()).map_err(|refusal| (Fate::Refused, refusal))?;
    let plan = world.plan(&connect.request.customer);
    Ok(Accepted { account, connect, plan })
}

async fn accept(world: &Arc<World>, format: Format, accepted: Accepted) -> Response {
    let Accepted { account, connect, plan } = accepted;
    let (account, outcome) = (&account, plan.outcome);
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
    let length = HEAD + response.body().size_hint().lower();
    let by_chance = plan.cut.map(|share| part(length, share));
    if let Some(bytes) = outcome.cut_at_byte.or(by_chance) {
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

/// A share of a length, from its begin to before its end.
fn part(length: u64, share: f64) -> u64 {
    // In millionths, which floating point and integers agree on.
    let millionths = Duration::from_secs_f64(share.clamp(0.0, 1.0)).as_micros();
    let part = u128::from(length) * millionths / 1_000_000;
    u64::try_from(part).unwrap_or(0).min(length.saturating_sub(1))
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
