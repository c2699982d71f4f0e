use callbridge_proto::agent::v1::{Dtmf, Transcript};

use super::*;

fn reports() -> Reports {
    Reports::new(Clock::system())
}

fn sent(reports: &Reports) -> Vec<(i64, &'static str)> {
    let mut sent = Vec::new();
    while let Some(message) = reports.next() {
        if let Some(Upward::Event(event)) = message.message {
            let name = match event.event {
                Some(Event::Ended(_)) => "ended",
                Some(Event::Dtmf(_)) => "dtmf",
                Some(Event::Transcript(_)) => "transcript",
                _ => "other",
            };
            sent.push((event.sequence, name));
        }
    }
    sent
}

fn command(id: &str, session: &str) -> Command {
    Command {
        command_id: id.into(),
        media_session_id: session.into(),
        action: Some(Action::Message(Message { json: "{}".into() })),
    }
}

fn answers(reports: &Reports) -> Vec<(String, bool)> {
    let mut answers = Vec::new();
    while let Some(message) = reports.next() {
        if let Some(Upward::CommandDone(done)) = message.message {
            answers.push((done.command_id, done.done));
        }
    }
    answers
}

#[test]
fn what_is_not_acknowledged_is_sent_again_with_its_number() {
    let reports = reports();
    let (mut reporter, _orders) = reports.open("media_1".into()).unwrap();
    reporter.report(Event::Dtmf(Dtmf::default()));
    reporter.report(Event::Transcript(Transcript::default()));
    assert_eq!(reports.snapshot(), ["media_1"]);
    assert_eq!(sent(&reports), [(1, "dtmf"), (2, "transcript")]);
    reports.acknowledge("media_1", 1);
    drop(reporter);
    assert_eq!(sent(&reports), [(3, "ended")]);
    assert_eq!(reports.snapshot(), [""; 0]);
    assert_eq!(sent(&reports), [(2, "transcript"), (3, "ended")]);
    assert!(!reports.is_flushed());
    reports.acknowledge("media_1", 3);
    assert!(reports.is_flushed() && reports.state().logs.is_empty() && reports.state().ended.is_empty());
}

#[test]
fn a_session_has_one_socket() {
    let reports = reports();
    let (reporter, _orders) = reports.open("media_1".into()).unwrap();
    assert!(reports.open("media_1".into()).is_none());
    assert_eq!(reports.live(), ["media_1"]);
    drop(reporter);
    assert!(reports.live().is_empty() && reports.open("media_1".into()).is_none());
    assert_eq!(sent(&reports), [(1, "ended")]);
    reports.acknowledge("media_1", 1);
    assert!(reports.open("media_1".into()).is_some());
}

#[tokio::test]
async fn who_waits_is_told_of_the_last_acknowledgement() {
    let reports = reports();
    let (mut reporter, _orders) = reports.open("media_1".into()).unwrap();
    reporter.acknowledged().await;
    reporter.report(Event::Dtmf(Dtmf::default()));
    reporter.report(Event::Dtmf(Dtmf::default()));
    assert_eq!(sent(&reports), [(1, "dtmf"), (2, "dtmf")]);
    let mut waiting = std::pin::pin!(reporter.acknowledged());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    reports.acknowledge("media_1", 1);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    reports.acknowledge("media_1", 2);
    waiting.await;
}

#[test]
fn an_outage_costs_talk_and_never_the_end() {
    let reports = reports();
    let (mut reporter, _orders) = reports.open("media_1".into()).unwrap();
    reporter.report(Event::Dtmf(Dtmf::default()));
    for _ in 0..2 * MAX_EVENTS {
        reporter.report(Event::Transcript(Transcript::default()));
    }
    drop(reporter);
    let sent = sent(&reports);
    assert_eq!(sent.len(), MAX_EVENTS + 1);
    assert_eq!((sent[0], sent[MAX_EVENTS]), ((1, "dtmf"), (257, "ended")));
    assert_eq!(reports.take_dropped(), MAX_EVENTS as u64 + 1);
}

#[test]
fn a_command_is_carried_out_once_and_answered_each_time() {
    let reports = reports();
    let (reporter, mut orders) = reports.open("media_1".into()).unwrap();
    reports.command(command("cmd_1", "media_1"));
    assert!(matches!(orders.try_recv(), Ok(Order::Message { .. })));
    reports.command(command("cmd_1", "media_1"));
    assert_eq!(answers(&reports), [], "nothing is known of it yet");
    reporter.done("cmd_1".into(), true);
    reports.command(command("cmd_2", "media_1"));
    reporter.done("cmd_2".into(), false);
    reports.command(command("cmd_3", "media_1"));
    let first = [("cmd_1".into(), true), ("cmd_2".into(), false)];
    assert_eq!(answers(&reports), first);
    assert!(orders.try_recv().is_ok() && orders.try_recv().is_ok() && orders.try_recv().is_err());
    // Also once the session is over: what was carried out stays so, and the rest never will be.
    drop(reporter);
    for id in ["cmd_1", "cmd_2", "cmd_3"] {
        reports.command(command(id, "media_1"));
    }
    let again = [("cmd_1".into(), true), ("cmd_2".into(), false), ("cmd_3".into(), false)];
    assert_eq!(answers(&reports), again);
}

/// call-service may be quicker with a command than with its answer to the session's start.
#[tokio::test(start_paused = true)]
async fn a_command_that_comes_before_its_session_waits_for_it() {
    let reports = reports();
    for id in ["cmd_1", "cmd_2", "cmd_1"] {
        reports.command(command(id, "media_1"));
    }
    reports.command(command("cmd_3", "media_2"));
    assert!(!reports.has_next());
    let (_reporter, mut orders) = reports.open("media_1".into()).unwrap();
    for expected in ["cmd_1", "cmd_2"] {
        let order = orders.try_recv();
        assert!(
            matches!(&order, Ok(Order::Message { command_id, .. }) if command_id == expected),
            "{order:?}"
        );
    }
    assert!(orders.try_recv().is_err());
    // Nobody comes for the third.
    let begun = Instant::now();
    while !reports.has_next() {
        reports.woken().await;
    }
    assert_eq!(begun.elapsed().as_secs(), EARLY_LIMIT.as_secs());
    assert_eq!(answers(&reports), [("cmd_3".into(), false)]);
    for i in 0..=MAX_EARLY {
        reports.command(command(&format!("cmd_{i}"), "media_3"));
    }
    assert_eq!(answers(&reports), [(format!("cmd_{MAX_EARLY}"), false)]);
}

#[test]
fn what_waits_is_bounded_in_bytes_too() {
    let reports = reports();
    let (mut reporter, _orders) = reports.open("media_1".into()).unwrap();
    reporter.report(Event::Dtmf(Dtmf::default()));
    for _ in 0..200 {
        reporter.report(Event::Transcript(Transcript {
            text: "a".repeat(8 * 1024),
            ..Transcript::default()
        }));
    }
    let weigh = || {
        let state = reports.state();
        let log = &state.logs["media_1"];
        assert_eq!(log.bytes, log.events.iter().map(size).sum::<usize>());
        (log.bytes, log.events.len())
    };
    let (bytes, events) = weigh();
    assert!(
        bytes <= MAX_EVENT_BYTES && (60..=64).contains(&events),
        "{bytes} {events}"
    );
    drop(reporter);
    let sent = sent(&reports);
    assert_eq!((sent[0].1, sent[events].1), ("dtmf", "ended"));
    reports.acknowledge("media_1", 2);
    assert_eq!(weigh().1, events - 1);
}
