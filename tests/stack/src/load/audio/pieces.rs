//! The driver as one of its own children: the edge as it is, or a server that only echoes.

use std::{ffi::OsString, net::SocketAddr, pin::Pin, process::ExitCode};

use anyhow::Context as _;
use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    response::Response,
    routing::get,
    serve::ListenerExt as _,
};
use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, OutgoingAudio,
    converse_request::Event,
    converse_response::Action,
    voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
};
use clap::{Parser, Subcommand, ValueEnum};
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tonic::{
    Request, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::cores;
use crate::{child, load::failed};

/// The first argument of a child.
const PIECE: &str = "piece";
/// The path of the echoing WebSocket.
pub(super) const ECHO_PATH: &str = "/echo";
/// More than a connection of the generator has; hyper's default is 200.
const MAX_STREAMS: u32 = 2_000;
/// As the echo agent has them (`edge/README.md`, Invariants): a stream may be sent so much ahead of what is read, and all
/// streams of a connection together.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one piece until its standard input ends.
    Piece {
        /// Which.
        #[arg(value_enum)]
        name: Piece,
        /// Where it listens, unless its settings say that.
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// The processors that it may use.
        #[arg(long, value_delimiter = ',')]
        cores: Vec<usize>,
    },
}

/// The pieces that are processes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::load) enum Piece {
    /// The edge.
    Edge,
    /// The service.
    CallService,
    /// An agent that says what it hears.
    Agent,
    /// A WebSocket that says what it hears.
    Socket,
}

impl Piece {
    /// The word of the command line.
    pub(in crate::load) fn word(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::CallService => "call-service",
            Self::Agent => "agent",
            Self::Socket => "socket",
        }
    }

    /// The arguments of a child.
    pub(in crate::load) fn arguments(self, listen: SocketAddr, cores: &[usize]) -> Vec<String> {
        let mut arguments = vec![PIECE.to_owned(), self.word().to_owned(), format!("--listen={listen}")];
        arguments.extend(cores.iter().map(|core| format!("--cores={core}")));
        arguments
    }
}

/// Runs a piece if that is what the command line asks for.
pub(in crate::load) fn run_if_asked() -> Option<ExitCode> {
    let is_piece = std::env::args_os().nth(1) == Some(OsString::from(PIECE));
    is_piece.then(|| {
        let Command::Piece { name, listen, cores } = Arguments::parse().command;
        child::die_with_driver();
        // Before there is another thread.
        if let Err(error) = cores::pin(&cores) {
            return failed(&error);
        }
        match name {
            Piece::Edge => child::edge(),
            Piece::CallService => child::call_service(),
            Piece::Agent | Piece::Socket => match echo(name, listen) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            },
        }
    })
}

fn echo(name: Piece, listen: Option<SocketAddr>) -> anyhow::Result<()> {
    runtime::descriptors::raise();
    let listen = listen.context("--listen is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        match name {
            Piece::Socket => {
                let router = Router::new().route(ECHO_PATH, get(upgrade));
                let listener = listener.tap_io(|stream| {
                    // Slower, but no reason to refuse.
                    let _ = stream.set_nodelay(true);
                });
                axum::serve(listener, router).await.context("the listener failed")
            }
            _ => Server::builder()
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .add_service(VoiceAgentServiceServer::new(Echo))
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
                .await
                .context("the listener failed"),
        }
    })
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(say_it_again)
}

async fn say_it_again(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Says what it hears, and nothing else.
struct Echo;

#[tonic::async_trait]
impl VoiceAgentService for Echo {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<ConverseResponse, Status>> + Send>>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<tonic::Response<Self::ConverseStream>, Status> {
        let answers = request.into_inner().filter_map(|request| async move {
            let audio = match request {
                Ok(ConverseRequest {
                    event: Some(Event::Audio(audio)),
                }) => audio,
                Ok(_) => return None,
                Err(status) => return Some(Err(status)),
            };
            let audio = OutgoingAudio {
                pcm: audio.pcm,
                generation: 0,
            };
            Some(Ok(ConverseResponse {
                action: Some(Action::Audio(audio)),
            }))
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_childs_command_line_is_sound() {
        super::Arguments::command().debug_assert();
        let listen = SocketAddr::from(([127, 0, 0, 1], 9));
        let arguments = Piece::Agent.arguments(listen, &[1, 2]);
        let parsed = super::Arguments::parse_from([vec!["load".to_owned()], arguments].concat());
        let Command::Piece {
            name,
            listen: at,
            cores,
        } = parsed.command;
        assert_eq!((name, at, cores), (Piece::Agent, Some(listen), vec![1, 2]));
    }
}
