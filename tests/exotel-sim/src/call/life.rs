//! A call from the dial to its end.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Call, Request,
    callbacks::{Courier, Kind},
    caller::{Act, Caller},
    connect, flow, voicebot,
};
use crate::{
    Callee, CallerScript, Cause, InboundCall, LedgerEntry, Mode, Phase,
    account::{AccountState, Open},
    clock, journal,
    number::Number,
    script::{Speech, Step},
    world::World,
};

/// The step of a line that nobody listens to.
const IDLE_TICK_MS: u64 = 100;

/// A call to an ExoPhone: in the ledger first, then it lives.
pub(crate) async fn call_in(
    world: &Arc<World>,
    account: &Arc<AccountState>,
    from: Number,
    to: Number,
    asked: &InboundCall,
) -> Result<String, journal::Error> {
    let mut outcome = world.take_outcome(&from);
    if asked.script.is_some() {
        outcome.caller.clone_from(&asked.script);
    }
    let app_id = account.get().exophone(&to).map(|phone| phone.flow.clone());
    let request = Request {
        mode: Mode::Inbound,
        customer: from,
        exophone: to,
        to: None,
        app_id,
        stream_url: None,
        custom_field: None,
        record: false,
        time_limit: None,
        ring_timeout: None,
        callback: None,
    };
    let call = Call::new(world, account, request, outcome);
    let entry = LedgerEntry {
        time: clock::now(),
        call_sid: call.sid.clone(),
        account_sid: asked.account.clone(),
        mode: Mode::Inbound,
        from: asked.from.clone(),
        to: Some(asked.to.clone()),
        caller_id: None,
        custom_field: None,
        outcome: call.outcome.clone(),
    };
    world.ledger.append(&entry).await?;
    begin(world, &call);
    Ok(call.sid.clone())
}

/// Starts the life of a call that is in the ledger.
pub(crate) fn begin(world: &Arc<World>, call: &Arc<Call>) {
    // What a client is held to is its own load.
    let own = call.request.mode != Mode::Stranger;
    let open = own.then(|| call.account.open_call(&call.request.exophone));
    let (world, call) = (Arc::clone(world), Arc::clone(call));
    world
        .tasks
        .clone()
        .spawn(async move { live(&world, &call, open).await });
}

/// Loads the speech of steps; what cannot be loaded is skipped and noted.
pub(crate) async fn load(world: &Arc<World>, steps: VecDeque<Step>) -> Vec<Act> {
    let mut acts = Vec::with_capacity(steps.len());
    for step in steps {
        acts.push(match step {
            Step::Speak(speech) => match world.clip(&speech).await {
                Ok(clip) => Act::Speak(clip),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "speech is left out");
                    continue;
                }
            },
            other => Act::Other(other),
        });
    }
    acts
}

async fn live(world: &Arc<World>, call: &Arc<Call>, open: Option<Open>) {
    let courier = Courier::start(world, call);
    let unanswered = ring(world, call, &courier).await;
    let status = if let Some(status) = unanswered {
        call.end(Cause::NotAnswered);
        status
    } else {
        call.update(world, |report| {
            report.phase = Phase::InProgress;
            report.answered = Some(clock::now());
        });
        note(world, call, "answered");
        courier.send(Kind::Answered).await;
        let settings = world.settings();
        let limit = call
            .request
            .time_limit
            .unwrap_or(settings.time_limit_s)
            .min(settings.time_limit_s);
        let limit = settings.scaled(Duration::from_secs(limit));
        // Only now: a call that nobody answers needs no voice.
        let script = call
            .outcome
            .caller
            .clone()
            .unwrap_or_else(|| CallerScript::new().speak(Speech::Hello));
        let mut caller = Caller::new(load(world, script.steps.into()).await);
        tokio::select! {
            () = talk(world, call, &mut caller) => {}
            () = ends_after(call, Some(limit), Cause::TimeLimit) => {}
            () = ends_after(call, script.hang_up_after_ms.map(Duration::from_millis), Cause::Caller) => {}
        }
        "completed"
    };
    drop(open);
    let cause = call.cause();
    call.update(world, |report| {
        report.phase = Phase::Ended;
        report.status = Some(status.to_owned());
        report.cause = Some(cause);
        report.ended = Some(clock::now());
    });
    note(world, call, "ended");
    if cause != Cause::Shutdown {
        courier.send(Kind::Terminal).await;
    }
}

/// Lets the phone ring; a status when nobody answered.
async fn ring(world: &Arc<World>, call: &Arc<Call>, courier: &Courier) -> Option<&'static str> {
    let settings = world.settings();
    if !call.pause(settings.scaled_ms(settings.ring_delay_ms)).await {
        return Some(unanswered(call));
    }
    if call.request.mode == Mode::Inbound {
        return None;
    }
    match call.outcome.callee {
        Callee::Busy => return Some("busy"),
        Callee::Fails => return Some("failed"),
        Callee::Answers | Callee::NoAnswer => {}
    }
    call.update(world, |report| {
        report.phase = Phase::Ringing;
        report.ringing = Some(clock::now());
    });
    note(world, call, "ringing");
    courier.send(Kind::Ringing).await;
    let limit = settings.scaled(Duration::from_secs(
        call.request.ring_timeout.unwrap_or(settings.ring_timeout_s),
    ));
    let answer = settings.scaled_ms(call.outcome.answer_after_ms.unwrap_or(settings.answer_delay_ms));
    let answers = call.outcome.callee == Callee::Answers && answer <= limit;
    if !call.pause(if answers { answer } else { limit }).await {
        return Some(unanswered(call));
    }
    (!answers).then_some("no-answer")
}

/// The status of a call that was ended while it rang.
fn unanswered(call: &Call) -> &'static str {
    match call.cause() {
        Cause::Caller => "busy",
        Cause::Rest => "canceled",
        _ => "failed",
    }
}

/// Ends the call after a time, and then waits for ever: the conversation itself returns.
async fn ends_after(call: &Call, after: Option<Duration>, cause: Cause) {
    if let Some(after) = after {
        tokio::time::sleep(after).await;
        call.end(cause);
    }
    std::future::pending::<()>().await;
}

/// What happens after the answer. Returns with a cause set.
async fn talk(world: &Arc<World>, call: &Arc<Call>, caller: &mut Caller) {
    match (
        call.request.mode,
        &call.request.app_id,
        &call.request.stream_url,
        &call.request.to,
    ) {
        (Mode::TwoNumbers, _, _, Some(to)) => {
            connect::second_leg(world, call, to, call.request.ring_timeout, None).await;
            call.end(Cause::Callee);
        }
        (Mode::Stranger, ..) => {
            let settings = world.settings();
            let talk = settings.scaled_ms(call.outcome.talk_ms.unwrap_or(settings.talk_ms));
            if call.pause(talk).await {
                call.end(Cause::Caller);
            }
        }
        (Mode::Stream, _, Some(url), _) => {
            voicebot::run(world, call, caller, url).await;
            call.end(Cause::Bot);
        }
        (_, Some(app_id), _, _) => match flow::run(world, call, caller, app_id).await {
            flow::Over::HungUp => call.end(Cause::Flow),
            flow::Over::Ending => {}
            flow::Over::RanOut => silence(world, call, caller).await,
        },
        // An ExoPhone without a flow: the platform hangs up.
        _ => call.end(Cause::Flow),
    }
}

/// The silent open line after a flow without Hangup.
async fn silence(world: &Arc<World>, call: &Arc<Call>, caller: &mut Caller) {
    note(world, call, "silent line");
    caller.set_rate(8_000);
    let heard = [0_i16; 800];
    while call.pause(Duration::from_millis(IDLE_TICK_MS)).await {
        let added = call.added_steps();
        if !added.is_empty() {
            caller.insert(load(world, added).await);
        }
        if caller.tick(&heard).hung_up {
            call.end(Cause::Caller);
        }
    }
}

fn note(world: &World, call: &Call, what: &str) {
    let report = call.report.borrow();
    world.note(
        Some(&call.sid),
        "call",
        json!({ "what": what, "status": report.status, "cause": report.cause }),
    );
}
