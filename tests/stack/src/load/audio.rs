//! `cargo load audio`: what a call's audio costs on its way through the edge and back, beside servers that only echo.

pub(super) mod cores;
mod direct;
mod figures;
mod frame;
mod generator;
mod histogram;
mod moments;
mod pattern;
mod phone;
pub(super) mod pieces;
mod room;
mod run;
mod usage;

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use callbridge_proto::directory::v1::AudioSettings;
use data_encoding::BASE64;
use exotel::paths::STATIC_SOCKET;

use self::{
    cores::Cores,
    figures::Figures,
    generator::{Plan, Target},
    moments::Moments,
    phone::Line,
    pieces::{ECHO_PATH, Piece},
    run::{Measured, Server, measure},
};
use super::{arguments::Arguments, say};
use crate::{Registered, Registration, Settings, Stack, poll, port, target};

/// A person's voice.
const GREETING: &[u8] = include_bytes!("../../speech/greeting.wav");
/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// Measures and prints.
pub(super) async fn run(arguments: &Arguments, cores: &Cores, processors: usize) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let with = |target| Plan {
        target,
        streams: arguments.streams,
        chunk: Duration::from_millis(arguments.chunk_ms.into()),
        cores: cores.generator.clone(),
    };
    let length = Duration::from_secs(arguments.seconds);

    let socket = Server::start(Piece::Socket, &cores.server, &folder, |_| Settings::new()).await?;
    let line = Line {
        address: socket.address,
        path: ECHO_PATH,
        authorization: String::new(),
        account_sid: String::new(),
        to: String::new(),
    };
    let of_socket = measure("axum echo", with(Target::Socket(line)), &[&socket], length).await?;
    socket.end().await?;

    let agent = Server::start(Piece::Agent, &cores.server, &folder, |_| Settings::new()).await?;
    let plan = with(Target::Agent(agent.address));
    let of_agent = measure("tonic echo", plan, &[&agent], length).await?;
    agent.end().await?;

    let (of_edge, moments) = through_the_edge(cores, &folder, length, arguments.chunk_ms, with).await?;
    Figures::new(arguments, processors, of_socket, of_agent, of_edge, moments).tell(arguments)
}

/// The calls of the product: call-service and PostgreSQL are this process's and its children, the edge and the agent are
/// processes of their own. What is sent back is in chunks of the same length. Then some calls to an agent that greets.
async fn through_the_edge(
    cores: &Cores,
    folder: &Path,
    length: Duration,
    chunk_ms: u32,
    with: impl FnOnce(Target) -> Plan,
) -> anyhow::Result<(Measured, Moments)> {
    let agent = Server::start(Piece::Agent, &cores.others, folder, |_| Settings::new()).await?;
    let stack = Stack::builder().start().await?;
    let mut registration = Registration::new("load")?;
    registration.agent.endpoints = vec![format!("http://{}", agent.address)];
    let bytes = i32::try_from(u64::from(chunk_ms) * room::RATE * 2 / 1_000)?;
    registration.phone.audio = Some(AudioSettings {
        min_packet_bytes: bytes,
        max_packet_bytes: bytes,
        ..AudioSettings::default()
    });
    let registered = stack.register(registration).await?;
    let mut greeter = Registration::new("moments")?;
    greeter.greeting = Some(GREETING.to_vec());
    let greeter = stack.register(greeter).await?;

    let internal = std::net::SocketAddr::from(([127, 0, 0, 1], port::lasting()?));
    let edge = Server::start(Piece::Edge, &cores.server, folder, |address| {
        let mut settings = stack.edge_settings.clone();
        settings.insert("EDGE_ADDR".to_owned(), address.to_string());
        settings.insert("EDGE_INTERNAL_ADDR".to_owned(), internal.to_string());
        settings
    })
    .await?;
    let client = reqwest::Client::builder().no_proxy().timeout(READY).build()?;
    poll("the edge to be ready", READY, async || {
        let answer = client.get(format!("http://{internal}/readyz")).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await?;

    let line = |registered: &Registered| {
        let credentials = format!("{}:{}", registered.account_id, registered.urls.account_token);
        Line {
            address: edge.address,
            path: STATIC_SOCKET,
            authorization: format!("Basic {}", BASE64.encode(credentials.as_bytes())),
            account_sid: registered.account_sid.clone(),
            to: registered.phone_number.clone(),
        }
    };
    let plan = with(Target::Socket(line(&registered)));
    let measured = measure("edge", plan, &[&edge, &agent], length).await?;
    let moments = moments::watch(&line(&greeter), &stack.clients(), &greeter.phone_id).await?;
    edge.end().await?;
    agent.end().await?;
    stack.shut_down().await?;
    Ok((measured, moments))
}
