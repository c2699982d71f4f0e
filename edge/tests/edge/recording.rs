//! Recordings: what is on them, what slow, full and lost disks cost, and what a crash leaves.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use callbridge_proto::{
    agent::v1::{Clear, OutgoingAudio, converse_request::Event, converse_response::Action},
    call::v1::RecordingState,
    ingress::v1::ReportRecordingRequest,
};
use edge::{
    recording::{Settings, align::Side},
    session::{Limits, Opening, Session, playout::Plan},
};
use runtime::objects::Place;
use tempfile::TempDir;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, timeout},
};
use tonic::Status;

use crate::{
    frames::{self, pcm, sound},
    http::{sha256, wav},
    peers::{Asked, Bench, MEDIA, Manner, Script, agent, hears, told},
    web::{Socket, get},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// What Exotel may have and not have played when the person hangs up, in samples.
const LEAD: usize = 4000;

/// A spool with a store in it.
fn settings(folder: &Path) -> Settings {
    Settings {
        spool: folder.join("spool"),
        store: Place::folder(&folder.join("stored")).unwrap(),
        limit: 1 << 30,
        kept: Duration::from_hours(1),
    }
}

async fn bench(script: Script, settings: Settings) -> Bench {
    let script = Script {
        record_audio: true,
        ..script
    };
    let bench = Bench::with(script, |config| config.recordings = Some(settings)).await;
    // What answers has its place on the disk.
    get(bench.public, "/").await;
    bench
}

/// With an agent that says what it hears.
async fn echoing(settings: Settings) -> (Bench, UnboundedReceiver<Event>) {
    let (url, events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    (bench(script, settings).await, events)
}

async fn begin(to: SocketAddr, bench: &Bench) -> Socket {
    let mut socket = Socket::open(to, &bench.socket_path(), None).await.unwrap();
    socket.send(frames::connected()).await;
    socket.send(frames::start(8000)).await;
    socket
}

/// A second of something that repeats nowhere, in pieces of 20 ms with their times.
/// The last word on a recording, and the words before it.
async fn reported(bench: &mut Bench) -> (Vec<RecordingState>, ReportRecordingRequest) {
    let mut before = Vec::new();
    loop {
        let Asked::Recording(report) = bench.asked().await else {
            continue;
        };
        if report.state() != RecordingState::Uploading {
            return (before, report);
        }
        before.push(report.state());
    }
}

/// Both sides of a stored recording, as the report has it.
fn sides(folder: &Path, report: &ReportRecordingRequest) -> (Vec<i16>, Vec<i16>) {
    let file = fs::read(folder.join("stored").join(&report.object_key)).unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&report.sha256), sha256(&file));
    assert_eq!(report.size_bytes, file.len() as u64);
    let reader = hound::WavReader::new(&file[..]).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().bits_per_sample), (2, 16));
    assert_eq!(
        u64::from(reader.duration()) * 1000 / u64::from(reader.spec().sample_rate),
        report.duration_ms
    );
    let samples: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
    let side = |first: usize| samples.iter().copied().skip(first).step_by(2).collect();
    (side(0), side(1))
}

fn find(sound: &[i16], whole: &[i16]) -> Option<usize> {
    whole.windows(sound.len()).position(|window| window == sound)
}

/// The place of the next session's recording, before there is one.
fn place(folder: &Path) -> PathBuf {
    let edges: Vec<_> = fs::read_dir(folder.join("spool")).unwrap().flatten().collect();
    assert_eq!(edges.len(), 1, "one edge has its folder");
    let place = edges[0].path().join(MEDIA);
    fs::create_dir(&place).unwrap();
    place
}

fn spool_is_empty(folder: &Path) -> bool {
    let edges = fs::read_dir(folder.join("spool")).unwrap().flatten();
    edges
        .flat_map(|edge| fs::read_dir(edge.path()).into_iter().flatten().flatten())
        .all(|entry| entry.file_name() == "lock")
}

/// Both sides are whole, each on its own channel, and the spool is empty afterwards.
#[tokio::test]
async fn both_sides_are_on_the_recording() {
    let folder = TempDir::new().unwrap();
    let (greeting, said) = (sound(4000), sound(8000));
    let (manner, _say) = told();
    let (url, mut events) = agent(manner).await;
    let script = Script {
        agents: vec![url],
        greeting: wav(&greeting),
        greeting_sha256: sha256(&wav(&greeting)),
        ..Script::default()
    };
    let mut bench = bench(script, settings(folder.path())).await;
    let mut socket = begin(bench.public, &bench).await;
    socket.say(&said).await;
    assert_eq!(socket.listen(4000).await, greeting);
    hears(&mut events, |event| matches!(event, Event::GreetingEnded(_))).await;
    socket.send(frames::stop("callended")).await;
    let (before, report) = reported(&mut bench).await;
    assert_eq!(before, [RecordingState::Uploading]);
    assert_eq!(
        (report.state(), report.reason.as_str(), report.missing_ms),
        (RecordingState::Stored, "", 0)
    );
    assert_eq!(
        (report.media_session_id.as_str(), report.object_key.as_str()),
        (MEDIA, format!("call_1/{MEDIA}.wav").as_str())
    );
    let (customer, agent) = sides(folder.path(), &report);
    assert_eq!(customer.len(), agent.len());
    assert!(find(&said, &customer).is_some(), "the person, whole and in one piece");
    assert!(
        find(&greeting, &agent).is_some(),
        "the greeting, whole and in one piece"
    );
    bench.tasks.stop();
    timeout(PATIENCE, bench.ended).await.unwrap().unwrap().unwrap().unwrap();
    assert!(spool_is_empty(folder.path()));
}

/// F76, F78: an edge that stops ends only when its recordings are in the store, also of a call that the drain cuts off.
#[tokio::test]
async fn a_drained_edge_stores_its_recordings_before_it_ends() {
    let folder = TempDir::new().unwrap();
    let (url, _events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        record_audio: true,
        ..Script::default()
    };
    let recordings = settings(folder.path());
    let mut bench = Bench::with(script, |config| {
        (config.recordings, config.drain) = (Some(recordings), Duration::from_millis(200));
    })
    .await;
    let mut socket = begin(bench.public, &bench).await;
    let said = sound(8000);
    socket.say(&said).await;
    assert_eq!(socket.listen(8000).await, said);
    bench.tasks.stop();
    assert_eq!(socket.closed().await, (1001, "drained".to_owned()));
    timeout(PATIENCE, &mut bench.ended)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(spool_is_empty(folder.path()), "nothing is left for the next edge");
    let (_, report) = reported(&mut bench).await;
    assert_eq!(
        (report.state(), report.missing_ms),
        (RecordingState::Stored, 0),
        "{}",
        report.reason
    );
    assert!(find(&said, &sides(folder.path(), &report).0).is_some());
}

/// F72: what the person did not hear for interrupting is not on the recording; what she heard is, when she heard it.
#[test]
fn a_barge_in_cuts_the_recording_where_the_person_heard_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let limits = Limits {
        start: Duration::from_secs(10),
        idle: Duration::from_mins(1),
    };
    let mut session = Session::new(start, limits);
    session.text(start, &frames::start(8000));
    session.may_record(start);
    let opening = Opening {
        endpoints: 1,
        record: true,
        ..Opening::default()
    };
    session.started(start, opening);
    session.agent_connected(start, 0);
    let spoken = sound(16_000);
    let audio = |generation, samples: &[i16]| {
        Some(Action::Audio(OutgoingAudio {
            pcm: pcm(samples.iter().copied()).into(),
            generation,
        }))
    };
    session.agent(at(100), audio(1, &spoken));
    let mut sent = 0;
    let mut settle = |session: &mut Session, now| {
        while session.plan(now) == Plan::Send {
            let Some(text) = session.next_text(now) else { break };
            if let frames::Sent::Audio(pcm) = frames::read(&text) {
                sent += pcm.len() / 2;
            }
        }
        sent
    };
    for ms in (100..=600).step_by(20) {
        settle(&mut session, at(ms));
    }
    let sent = settle(&mut session, at(600));
    assert!(
        sent > 4000 + 3000,
        "Exotel has the half second that was played, and a lead"
    );
    session.agent(at(600), Some(Action::Clear(Clear { generation: 1 })));
    settle(&mut session, at(600));
    // The next turn follows a quarter of a second later.
    session.agent(at(850), audio(2, &spoken[..800]));
    for ms in (850..=1000).step_by(20) {
        settle(&mut session, at(ms));
    }
    let (samples, dropped) = session.end_recording(at(1000)).unwrap();
    assert_eq!((samples, dropped), (8000, 0));
    let mut heard = vec![0; 8000];
    while let Some(piece) = session.recorded() {
        assert_eq!(piece.side, Side::Agent);
        let at = usize::try_from(piece.at).unwrap();
        let samples = frames::samples(&piece.pcm);
        heard[at..at + samples.len()].copy_from_slice(&samples);
    }
    let mut wanted = vec![0; 8000];
    wanted[800..4800].copy_from_slice(&spoken[..4000]);
    wanted[6800..7600].copy_from_slice(&spoken[..800]);
    assert_eq!(heard, wanted);
}

/// Pieces that come before call-service has answered wait, but not any number of them, however short they are.
#[test]
fn early_pieces_are_bounded_in_number() {
    let start = Instant::now();
    let limits = Limits {
        start: Duration::from_secs(10),
        idle: Duration::from_mins(1),
    };
    let mut session = Session::new(start, limits);
    session.text(start, &frames::start(8000));
    session.may_record(start);
    for chunk in 1..=5000 {
        session.text(start, &frames::media(chunk, &pcm([7])));
    }
    let opening = Opening {
        record: true,
        ..Opening::default()
    };
    session.started(start, opening);
    let (_, dropped) = session.end_recording(start).unwrap();
    assert_eq!(dropped, 5000 - 4096);
}

/// A disk that hangs is waited for by nobody: what is said comes back as ever, and the call ends.
#[tokio::test]
async fn a_disk_that_hangs_does_not_touch_the_audio() {
    let folder = TempDir::new().unwrap();
    let (mut bench, _events) = echoing(settings(folder.path())).await;
    // Whoever opens a pipe for writing hangs until somebody reads.
    let (track, pipe) = (place(folder.path()).join("customer.pcm"), folder.path().join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::hard_link(&pipe, &track).unwrap();
    let mut socket = begin(bench.public, &bench).await;
    let said = sound(16_000);
    socket.say(&said).await;
    assert_eq!(socket.listen(16_000).await, said);
    socket.send(frames::stop("callended")).await;
    assert_eq!(socket.closed().await.0, 1000);
    assert_eq!(bench.end().await.1.reason, "caller_hung_up");
    // Now the disk answers, and has lost the person's side.
    fs::remove_file(track).unwrap();
    let reader = tokio::task::spawn_blocking(move || fs::read(pipe));
    let (_, report) = reported(&mut bench).await;
    assert_eq!(
        (report.state(), report.reason.as_str()),
        (RecordingState::Incomplete, "disk_error")
    );
    assert_eq!(report.missing_ms, 2000);
    let (customer, agent) = sides(folder.path(), &report);
    assert!(customer.iter().all(|sample| *sample == 0));
    let heard = &said[..said.len() - LEAD];
    assert!(
        find(heard, &agent).is_some(),
        "the other side is whole, as far as it was heard"
    );
    assert!(reader.await.unwrap().unwrap().is_empty());
}

/// A full disk costs what it cannot take, with the reason, and the call goes on.
#[tokio::test]
async fn a_full_disk_makes_a_recording_incomplete() {
    let folder = TempDir::new().unwrap();
    let (mut bench, _events) = echoing(settings(folder.path())).await;
    symlink("/dev/full", place(folder.path()).join("customer.pcm")).unwrap();
    let mut socket = begin(bench.public, &bench).await;
    let said = sound(8000);
    socket.say(&said).await;
    assert_eq!(socket.listen(8000).await, said);
    socket.send(frames::stop("callended")).await;
    let (_, report) = reported(&mut bench).await;
    assert_eq!(
        (report.state(), report.reason.as_str(), report.missing_ms),
        (RecordingState::Incomplete, "disk_full", 1000)
    );
    let heard = &said[..said.len() - LEAD];
    assert!(find(heard, &sides(folder.path(), &report).1).is_some());
}

/// The spool has a limit of its own, before the disk's.
#[tokio::test]
async fn a_spool_at_its_limit_takes_no_more() {
    let folder = TempDir::new().unwrap();
    let little = Settings {
        limit: 1000,
        ..settings(folder.path())
    };
    let (mut bench, _events) = echoing(little).await;
    let mut socket = begin(bench.public, &bench).await;
    let said = sound(8000);
    socket.say(&said).await;
    assert_eq!(socket.listen(8000).await, said);
    socket.send(frames::stop("callended")).await;
    let (_, report) = reported(&mut bench).await;
    assert_eq!(
        (report.state(), report.reason.as_str()),
        (RecordingState::Failed, "spool_limit")
    );
}

/// An edge without a place for recordings says so, and the call goes on without one.
#[tokio::test]
async fn an_edge_without_a_spool_says_so() {
    let (url, _events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        record_audio: true,
        ..Script::default()
    };
    let mut bench = Bench::new(script).await;
    let mut socket = begin(bench.public, &bench).await;
    socket.say(&sound(1600)).await;
    assert_eq!(socket.listen(1600).await, sound(1600));
    let (_, report) = reported(&mut bench).await;
    assert_eq!(
        (report.state(), report.reason.as_str()),
        (RecordingState::Failed, "no_spool")
    );
}

/// A store and a call-service that are away are tried again, and the recording waits on the disk.
#[tokio::test]
async fn a_store_that_is_away_is_tried_again() {
    let folder = TempDir::new().unwrap();
    let (mut bench, _events) = echoing(settings(folder.path())).await;
    // Where the call's folder should be there is something else.
    let obstacle = folder.path().join("stored/call_1");
    fs::write(&obstacle, "").unwrap();
    let mut socket = begin(bench.public, &bench).await;
    let said = sound(8000);
    socket.say(&said).await;
    assert_eq!(socket.listen(8000).await, said);
    socket.send(frames::stop("callended")).await;
    let uploading = |asked| matches!(asked, Asked::Recording(report) if report.state() == RecordingState::Uploading);
    // The second time means that the first has failed.
    for _ in 0..2 {
        while !uploading(bench.asked().await) {}
    }
    fs::remove_file(obstacle).unwrap();
    bench.set(|script| script.failures.push_back(Status::unavailable("not now")));
    let (_, report) = reported(&mut bench).await;
    assert_eq!(report.state(), RecordingState::Stored);
    assert!(find(&said, &sides(folder.path(), &report).0).is_some());
}

/// A process that is killed when the test is over.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What an edge that was killed in mid-call has on the disk is stored by the next one, as far as it goes.
#[tokio::test]
async fn a_crash_leaves_a_recording_that_the_next_edge_stores() {
    let folder = TempDir::new().unwrap();
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        record_audio: true,
        ..Script::default()
    };
    let first = Bench::new(script).await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_edge"))
        .env_clear()
        .envs(first.vars.iter().map(|(name, value)| (*name, value.as_str())))
        .env("EDGE_ADDR", address.to_string())
        .env("RECORDING_SPOOL", folder.path().join("spool"))
        .env("RECORDING_STORE", format!("file://{}/stored", folder.path().display()))
        .spawn()
        .unwrap();
    let mut child = Process(child);
    let until = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < until, "the edge does not listen");
        tokio::task::yield_now().await;
    }
    let mut socket = begin(address, &first).await;
    let said = sound(24_000);
    socket.say(&said).await;
    hears(&mut events, |event| matches!(event, Event::Audio(_))).await;
    let track = |folder: &Path| {
        let edge = fs::read_dir(folder.join("spool")).ok()?.flatten().next()?;
        fs::metadata(edge.path().join(MEDIA).join("customer.pcm")).ok()
    };
    let until = Instant::now() + PATIENCE;
    while track(folder.path()).is_none_or(|track| track.len() < 40_000) {
        assert!(Instant::now() < until, "nothing comes to the disk");
        tokio::task::yield_now().await;
    }
    child.0.kill().unwrap();
    child.0.wait().unwrap();

    let mut second = bench(Script::default(), settings(folder.path())).await;
    let (_, report) = reported(&mut second).await;
    assert_eq!(
        (report.state(), report.reason.as_str()),
        (RecordingState::Incomplete, "edge_crashed")
    );
    assert_eq!(report.media_session_id, MEDIA);
    let (customer, agent) = sides(folder.path(), &report);
    assert_eq!(customer.len(), agent.len());
    let begins = customer.iter().position(|sample| *sample != 0).unwrap();
    let kept = customer[begins..].get(..8_000).unwrap();
    assert_eq!(find(kept, &said), Some(0), "what was written is there");
    second.tasks.stop();
    timeout(PATIENCE, second.ended)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(spool_is_empty(folder.path()), "nothing is left of it");
}

/// A recording that nobody could store for too long is given up and said to be.
#[tokio::test]
async fn a_recording_that_is_too_old_is_given_up() {
    let folder = TempDir::new().unwrap();
    let left = folder.path().join("spool/edge_of_before").join(MEDIA);
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("../lock"), "").unwrap();
    fs::write(
        left.join("about.json"),
        format!(r#"{{"call":"call_1","session":"{MEDIA}","rate":8000}}"#),
    )
    .unwrap();
    fs::write(left.join("customer.pcm"), vec![1; 1000]).unwrap();
    let impatient = Settings {
        kept: Duration::ZERO,
        ..settings(folder.path())
    };
    let mut bench = bench(Script::default(), impatient).await;
    let (before, report) = reported(&mut bench).await;
    assert!(before.is_empty());
    assert_eq!(
        (report.state(), report.reason.as_str()),
        (RecordingState::Failed, "spool_expired")
    );
}

/// A recording of a session that call-service does not know is kept nowhere: nobody would ever take it away.
#[tokio::test]
async fn a_recording_that_nobody_knows_is_removed() {
    let folder = TempDir::new().unwrap();
    let (mut bench, _events) = echoing(settings(folder.path())).await;
    let mut socket = begin(bench.public, &bench).await;
    socket.say(&sound(1600)).await;
    assert_eq!(socket.listen(1600).await, sound(1600));
    bench.set(|script| {
        let unknown = || Status::not_found("no such session");
        script.failures.extend([unknown(), unknown()]);
    });
    socket.send(frames::stop("callended")).await;
    let (_, report) = reported(&mut bench).await;
    assert_eq!(report.state(), RecordingState::Stored);
    bench.tasks.stop();
    timeout(PATIENCE, bench.ended).await.unwrap().unwrap().unwrap().unwrap();
    assert!(spool_is_empty(folder.path()) && !folder.path().join("stored").join(&report.object_key).exists());
}
