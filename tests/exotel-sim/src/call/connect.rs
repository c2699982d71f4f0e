//! Dials a second person: the Connect applet, and connects between two numbers.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Call,
    applet::{self, Ask},
    flow::Progress,
    query,
};
use crate::{Callee, Leg, number::Number, world::World};

/// Numbers of one answer that are dialled.
const MAX_NUMBERS: usize = 10;

/// A second leg and what the next applet is told of it.
pub(crate) struct Dial {
    pub(crate) leg: Leg,
    /// Seconds from the dial to the end: includes ringing.
    pub(crate) with_ringing_s: u64,
    pub(crate) recording_url: Option<String>,
}

/// What a Connect URL answers.
#[derive(Deserialize)]
struct Answer {
    destination: Destination,
    #[serde(default)]
    record: bool,
    #[serde(default)]
    max_ringing_duration: Option<u64>,
    #[serde(default)]
    max_conversation_duration: Option<u64>,
}

#[derive(Deserialize)]
struct Destination {
    numbers: Vec<String>,
}

/// Dials the applet's numbers one after the other until one answers; `None` when nobody was dialled.
pub(crate) async fn run(
    world: &Arc<World>,
    call: &Arc<Call>,
    progress: &Progress,
    urls: Vec<String>,
    numbers: Vec<String>,
) -> Option<Dial> {
    let answer = if urls.is_empty() {
        let destination = Destination { numbers };
        Answer {
            destination,
            record: false,
            max_ringing_duration: None,
            max_conversation_duration: None,
        }
    } else {
        ask(world, call, progress, urls).await?
    };
    let mut last = None;
    for number in answer.destination.numbers.iter().take(MAX_NUMBERS) {
        let Some(number) = Number::parse(number) else { continue };
        let mut dial = second_leg(
            world,
            call,
            &number,
            answer.max_ringing_duration,
            answer.max_conversation_duration,
        )
        .await;
        let talked = dial.leg.status == "completed";
        if talked && answer.record {
            call.update(world, |report| report.recorded = true);
            dial.recording_url = Some(call.recording_url(world));
        }
        last = Some(dial);
        if talked || call.ending.is_cancelled() {
            break;
        }
    }
    last
}

async fn ask(world: &Arc<World>, call: &Arc<Call>, progress: &Progress, urls: Vec<String>) -> Option<Answer> {
    for url in urls {
        let query = query::passthru(call, progress, world.settings().stream_facts);
        let request = Ask {
            applet: "connect",
            url: &url,
            query,
            versioned: true,
            head: false,
        };
        let Ok(fetched) = applet::ask(world, call, request).await? else {
            continue;
        };
        if fetched.status == 200
            && fetched.is("application/json")
            && let Ok(answer) = serde_json::from_slice(&fetched.body)
        {
            return Some(answer);
        }
    }
    None
}

/// Rings a second person and lets the two talk. Durations are in seconds.
pub(crate) async fn second_leg(
    world: &Arc<World>,
    call: &Arc<Call>,
    number: &Number,
    ringing: Option<u64>,
    conversation: Option<u64>,
) -> Dial {
    let settings = world.settings();
    let outcome = world.outcome(number);
    let began = Instant::now();
    let ring_limit = settings.scaled(Duration::from_secs(ringing.unwrap_or(settings.ring_timeout_s)));
    let answer_after = settings.scaled_ms(outcome.answer_after_ms.unwrap_or(settings.answer_delay_ms));
    let mut status = if call.pause(settings.scaled_ms(settings.ring_delay_ms)).await {
        "completed"
    } else {
        "canceled"
    };
    let mut talked = Duration::ZERO;
    if status == "completed" {
        status = match outcome.callee {
            Callee::Busy => "busy",
            Callee::Fails => "failed",
            Callee::Answers if answer_after <= ring_limit => {
                if call.pause(answer_after).await {
                    "completed"
                } else {
                    "canceled"
                }
            }
            Callee::NoAnswer | Callee::Answers => {
                if call.pause(ring_limit).await {
                    "no-answer"
                } else {
                    "canceled"
                }
            }
        };
        if status == "completed" {
            let answered = Instant::now();
            let mut talk = Duration::from_millis(outcome.talk_ms.unwrap_or(settings.talk_ms));
            if let Some(limit) = conversation {
                talk = talk.min(Duration::from_secs(limit));
            }
            call.pause(settings.scaled(talk)).await;
            talked = answered.elapsed();
        }
    }
    let leg = Leg {
        number: number.national(),
        status: status.to_owned(),
        seconds: i64::try_from(talked.as_secs()).unwrap_or(i64::MAX),
    };
    call.update(world, |report| report.legs.push(leg.clone()));
    Dial {
        leg,
        with_ringing_s: began.elapsed().as_secs(),
        recording_url: None,
    }
}
