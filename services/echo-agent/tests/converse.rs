//! A whole session over a real socket.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::{net::SocketAddr, time::Duration};

use callbridge_proto::agent::v1::{
    Audio, AudioFormat, ConverseRequest, ConverseResponse, Dtmf, LeaveAction, MarkPlayed, Start,
    converse_request::Event, converse_response::Action, voice_agent_service_client::VoiceAgentServiceClient,
};
use echo_agent::{Config, Listeners};
use runtime::Tasks;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    channel: Channel,
    tasks: Tasks,
    server: tokio::task::JoinHandle<Option<anyhow::Result<()>>>,
}

async fn running() -> Running {
    let config = Config {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        drain: Duration::from_millis(100),
    };
    let grpc = TcpListener::bind(config.address).await.unwrap();
    let url = format!("http://{}", grpc.local_addr().unwrap());
    let (tasks, own) = (Tasks::new(), Tasks::new());
    let server = own.spawn(echo_agent::run(config, Listeners { grpc }, tasks.clone()));
    Running {
        channel: Channel::from_shared(url).unwrap().connect().await.unwrap(),
        tasks,
        server,
    }
}

async fn session(channel: &Channel) -> (mpsc::Sender<ConverseRequest>, Streaming<ConverseResponse>) {
    let (edge, requests) = mpsc::channel(64);
    let mut client = VoiceAgentServiceClient::new(channel.clone());
    let answers = timeout(LIMIT, client.converse(ReceiverStream::new(requests)))
        .await
        .unwrap()
        .unwrap();
    (edge, answers.into_inner())
}

async fn send(edge: &mpsc::Sender<ConverseRequest>, event: Event) {
    edge.send(ConverseRequest { event: Some(event) }).await.unwrap();
}

async fn next(answers: &mut Streaming<ConverseResponse>) -> Result<Option<Action>, Status> {
    let answer = timeout(LIMIT, answers.message()).await.expect("an answer in time")?;
    Ok(answer.map(|answer| answer.action.expect("an action")))
}

fn start() -> Event {
    Event::Start(Start {
        audio_format: Some(AudioFormat { sample_rate: 16_000 }),
        ..Start::default()
    })
}

/// Reads until the mark and returns how many samples came before it.
async fn until_mark(answers: &mut Streaming<ConverseResponse>) -> (usize, String) {
    let mut samples = 0;
    loop {
        match next(answers).await.unwrap() {
            Some(Action::Audio(audio)) => samples += audio.pcm.len() / 2,
            Some(Action::Mark(mark)) => return (samples, mark.name),
            Some(_) => {}
            None => panic!("the stream ended after {samples} samples"),
        }
    }
}

#[tokio::test]
async fn a_session_greets_echoes_and_leaves() {
    let running = running().await;
    let (edge, mut answers) = session(&running.channel).await;
    send(&edge, start()).await;
    let (greeting, mark) = until_mark(&mut answers).await;
    assert!(
        greeting > 32_000,
        "more than two seconds of speech, not {greeting} samples"
    );
    send(
        &edge,
        Event::MarkPlayed(MarkPlayed {
            name: mark,
            cleared: false,
        }),
    )
    .await;
    for n in 0..50_i16 {
        let pcm: Vec<u8> = (0..320).flat_map(|i| (n * 320 + i).to_le_bytes()).collect();
        send(
            &edge,
            Event::Audio(Audio {
                pcm: pcm.clone().into(),
            }),
        )
        .await;
        let Some(Action::Audio(echo)) = next(&mut answers).await.unwrap() else {
            panic!("expected the echo")
        };
        assert_eq!(echo.pcm, pcm);
    }
    send(
        &edge,
        Event::Dtmf(Dtmf {
            digit: "*".to_owned(),
            duration_ms: 100,
        }),
    )
    .await;
    let (goodbye, _) = until_mark(&mut answers).await;
    assert!(goodbye > 4_000);
    let Some(Action::Metadata(facts)) = next(&mut answers).await.unwrap() else {
        panic!("expected the summary")
    };
    assert_eq!(
        (&*facts.entries["echo_frames"], &*facts.entries["echo_ms"]),
        ("50", "1000")
    );
    let Some(Action::Leave(leave)) = next(&mut answers).await.unwrap() else {
        panic!("expected it to leave")
    };
    assert_eq!(leave.action(), LeaveAction::HangUp);
    assert_eq!(next(&mut answers).await.unwrap(), None, "the stream ends with OK");
}

#[tokio::test]
async fn a_session_without_a_start_is_refused() {
    let running = running().await;
    let (edge, mut answers) = session(&running.channel).await;
    send(&edge, Event::Audio(Audio::default())).await;
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stop_moves_the_session_to_another_endpoint_and_ends_the_process() {
    let running = running().await;
    let mut health = HealthClient::new(running.channel.clone());
    let service = "callbridge.agent.v1.VoiceAgentService".to_owned();
    let status = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
    assert_eq!(status.status(), ServingStatus::Serving);

    let (edge, mut answers) = session(&running.channel).await;
    send(&edge, start()).await;
    until_mark(&mut answers).await;
    running.tasks.stop();
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::Unavailable);
    drop((edge, answers));
    timeout(LIMIT, running.server)
        .await
        .expect("the process ends")
        .unwrap()
        .unwrap()
        .unwrap();
}
