//! Orders of call-service, and its absence.

use callbridge_proto::{
    agent::v1::{Leave, LeaveAction, Message, converse_request::Event},
    ingress::v1::{
        Command, attach_edge_request::Message as Upward, attach_edge_response::Message as Downward, command,
        session_event::Event as Report,
    },
};

use crate::{
    frames::{self, pcm},
    peers::{Bench, MEDIA, Manner, Script, agent, heard, hears, with_agent},
    web::begin,
};

#[expect(clippy::unnecessary_wraps, reason = "as the channel takes it")]
fn command(id: &str, action: command::Action) -> Option<Downward> {
    let (command_id, media_session_id) = (id.to_owned(), MEDIA.to_owned());
    Some(Downward::Command(Command {
        command_id,
        media_session_id,
        action: Some(action),
    }))
}

#[tokio::test]
async fn commands_reach_the_session_once_and_are_answered() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
    let mut socket = begin(&bench).await;
    let Some(Report::AgentConnected(_)) = bench.event().await.event else {
        panic!()
    };
    let down = bench.call_service.down.clone();
    let message = |id| {
        command(
            id,
            command::Action::Message(Message {
                json: r#"{"a":1}"#.into(),
            }),
        )
    };
    let mut done = Vec::new();
    for _ in 0..2 {
        down.send(message("cmd_1")).unwrap();
        let Upward::CommandDone(command) = bench.control().await else {
            panic!()
        };
        done.push((command.command_id, command.done));
    }
    down.send(Some(Downward::Command(Command {
        command_id: "cmd_2".into(),
        media_session_id: MEDIA.into(),
        action: None,
    })))
    .unwrap();
    let leave = Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    };
    down.send(command("cmd_3", command::Action::Leave(leave))).unwrap();
    while done.len() < 4 {
        if let Upward::CommandDone(command) = bench.control().await {
            done.push((command.command_id, command.done));
        }
    }
    done.sort();
    let expected = [("cmd_1", true), ("cmd_1", true), ("cmd_2", false), ("cmd_3", true)];
    assert_eq!(done, expected.map(|(id, done)| (id.to_owned(), done)));
    assert_eq!(socket.closed().await, (1000, "ended_by_request".to_owned()));
    let mut messages = 0;
    loop {
        match heard(&mut events).await {
            Event::Message(message) => {
                messages += 1;
                assert_eq!(message.json, r#"{"a":1}"#);
            }
            Event::Stop(stop) => {
                assert_eq!(stop.reason, "ended_by_request");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(messages, 1);
}

/// call-service sends a command as soon as it has committed the start, before the edge has its answer or the greeting.
#[tokio::test]
async fn a_command_before_the_session_is_carried_out() {
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let Upward::Hello(_) = bench.control().await else {
        panic!()
    };
    let leave = Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    };
    let early = command("cmd_1", command::Action::Leave(leave));
    bench.call_service.down.send(early).unwrap();
    let known = Downward::Command(Command {
        command_id: "cmd_2".into(),
        media_session_id: MEDIA.into(),
        action: None,
    });
    bench.call_service.down.send(Some(known)).unwrap();
    let mut socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "ended_by_request".to_owned()));
    let mut done = Vec::new();
    while done.len() < 2 {
        if let Upward::CommandDone(command) = bench.control().await {
            done.push((command.command_id, command.done));
        }
    }
    done.sort();
    assert_eq!(done, [("cmd_1".to_owned(), true), ("cmd_2".to_owned(), false)]);
}

/// F75: call-service goes and comes back; the call does not notice, and nothing that was reported is lost.
#[tokio::test]
async fn a_broken_control_stream_is_attached_again() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        no_acks: true,
        ..Script::default()
    })
    .await;
    let Upward::Hello(hello) = bench.control().await else {
        panic!()
    };
    assert!(hello.media_session_ids.is_empty());
    let mut socket = begin(&bench).await;
    assert_eq!(bench.event().await.sequence, 1);
    bench.set(|script| script.no_acks = false);
    bench.call_service.down.send(None).unwrap();
    let Upward::Hello(again) = bench.control().await else {
        panic!()
    };
    assert_eq!(
        (again.edge_id, again.media_session_ids),
        (hello.edge_id, vec![MEDIA.to_owned()])
    );
    assert_eq!(bench.heartbeat().await.media_session_ids, [MEDIA]);
    let repeated = bench.event().await;
    assert_eq!(repeated.sequence, 1);
    assert!(matches!(repeated.event, Some(Report::AgentConnected(_))));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    // Now it says that it does not know the session.
    bench.set(|script| script.unknown = vec![MEDIA.to_owned()]);
    bench.call_service.down.send(None).unwrap();
    assert_eq!(socket.closed().await, (1000, "unknown_session".to_owned()));
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
    assert_eq!(bench.end().await.1.reason, "unknown_session");
}
