//! `cargo load audio`: what a call's audio costs on its way through the edge and back, beside servers that only echo.

pub(super) mod cores;
mod direct;
mod figures;
mod frame;
mod generator;
mod histogram;
pub(super) mod idle;
mod moments;
mod phone;
pub(super) mod pieces;
mod room;
mod run;
mod scene;
pub(super) mod tracing;
mod usage;

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;

use self::{
    cores::Cores,
    figures::Figures,
    generator::{Plan, Target},
    moments::Moments,
    phone::Line,
    pieces::{ECHO_PATH, Piece},
    run::{Measured, Server, measure},
    scene::{Scene, line},
};
use super::{arguments::Arguments, say};
use crate::{Registration, Settings, target};

/// A person's voice.
const GREETING: &[u8] = include_bytes!("../../speech/greeting.wav");

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
        first: 0,
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
    let scene = Scene::start(&cores.others, folder, chunk_ms).await?;
    let mut greeter = Registration::new("moments")?;
    greeter.greeting = Some(GREETING.to_vec());
    let greeter = scene.stack.register(greeter).await?;
    let edge = scene.edge(&cores.server, folder, &[], |_| ()).await?;

    let plan = with(Target::Socket(line(&edge, &scene.echoed)));
    let measured = measure("edge", plan, &[&edge, &scene.agent], length).await?;
    let moments = moments::watch(&line(&edge, &greeter), &scene.stack.clients(), &greeter.phone_id).await?;
    edge.end().await?;
    scene.end().await?;
    Ok((measured, moments))
}
