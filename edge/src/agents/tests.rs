//! Dialling, against real servers.

use std::sync::atomic::{AtomicUsize, Ordering};

use callbridge_proto::agent::v1::{
    Audio, ConverseRequest, ConverseResponse, OutgoingAudio,
    voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
};
use futures_util::{StreamExt as _, stream::BoxStream};
use rcgen::CertifiedKey;
use runtime::Tasks;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Streaming,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// A call to an agent that never reads.
const DEAF: &str = "deaf";

fn with_roots(roots: &RootCertStore) -> Agents {
    runtime::install_crypto_provider();
    let stall = Duration::from_secs(10);
    Agents::with_roots(Allow::parse("loopback").unwrap(), 100, stall, roots)
}

fn agents() -> Agents {
    with_roots(&RootCertStore::empty())
}

fn opening(call_id: &str) -> Opening {
    Opening {
        start: Start {
            call_id: call_id.to_owned(),
            ..Start::default()
        },
        names: Names::default(),
    }
}

async fn dial(agents: &Agents, endpoints: &[&str], call_id: &str) -> Result<(usize, Link), Unreachable> {
    let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
    agents.dial(endpoints, 0, false, opening(call_id), PATIENCE).await
}

/// Says back what it hears.
struct Echo;

#[tonic::async_trait]
impl VoiceAgentService for Echo {
    type ConverseStream = BoxStream<'static, Result<ConverseResponse, Status>>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let mut events = request.into_inner();
        let first = events.message().await?.and_then(|message| message.event);
        let Some(Event::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        let deaf = start.call_id == DEAF;
        let spoken = events.filter_map(move |event| async move {
            if deaf {
                std::future::pending::<()>().await;
            }
            let Some(Event::Audio(audio)) = event.ok()?.event else {
                return None;
            };
            let (pcm, generation) = (audio.pcm, 0);
            let action = Some(Action::Audio(OutgoingAudio { pcm, generation }));
            Some(Ok(ConverseResponse { action }))
        });
        Ok(Response::new(spoken.boxed()))
    }
}

/// A port, and how many connections came to it.
async fn listen() -> (
    String,
    Arc<AtomicUsize>,
    impl futures_util::Stream<Item = io::Result<tokio::net::TcpStream>>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let incoming = TcpListenerStream::new(listener).inspect(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (address, connections, incoming)
}

/// An agent, with HTTP/2 windows for a stream and a connection of its own.
async fn echo(windows: Option<(u32, u32)>) -> (String, Arc<AtomicUsize>) {
    let (address, connections, incoming) = listen().await;
    let (stream, connection) = windows.unzip();
    let server = Server::builder()
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .add_service(VoiceAgentServiceServer::new(Echo));
    Tasks::new().spawn(server.serve_with_incoming(incoming));
    (format!("http://{address}"), connections)
}

/// A server that knows no agent's stream.
async fn no_agent() -> (String, Arc<AtomicUsize>) {
    let (address, connections, incoming) = listen().await;
    let (_, health) = tonic_health::server::health_reporter();
    Tasks::new().spawn(Server::builder().add_service(health).serve_with_incoming(incoming));
    (format!("http://{address}"), connections)
}

fn audio() -> Event {
    Event::Audio(Audio {
        pcm: vec![7; 8192].into(),
    })
}

/// Sends as much as goes, and counts it.
async fn pour(link: &mut Link, poured: &AtomicUsize) {
    loop {
        match link.next(true).await {
            Turn::Send => {
                link.send(audio());
                poured.fetch_add(1, Ordering::SeqCst);
            }
            Turn::Said(said) => assert!(matches!(said, Said::Action(_)), "{said:?}"),
        }
    }
}

/// Sends audio and waits until it is back.
async fn round_trip(link: &mut Link) {
    assert!(matches!(link.next(true).await, Turn::Send));
    link.send(audio());
    let said = link.next(false).await;
    assert!(
        matches!(said, Turn::Said(Said::Action(Some(Action::Audio(_))))),
        "{said:?}"
    );
}

/// F71: an agent that reads one of its streams no more costs that call alone. Where its server's windows would let it cost
/// others, the next stream has a connection of its own.
#[tokio::test]
async fn a_stalled_stream_stalls_no_other() {
    for (windows, expected) in [(Some((65_535, 20 * 65_535)), 1), (Some((65_535, 65_535)), 2), (None, 2)] {
        let (url, connections) = echo(windows).await;
        let agents = agents();
        let (_, mut deaf) = dial(&agents, &[&url], DEAF).await.unwrap();
        let (_, mut other) = dial(&agents, &[&url], "call").await.unwrap();
        let poured = AtomicUsize::new(0);
        let talk = async {
            // Until nothing more goes to the deaf one, and on.
            let (mut before, mut still) = (0, 0);
            while still < 50 {
                round_trip(&mut other).await;
                let now = poured.load(Ordering::SeqCst);
                still = if now == before && now > 0 { still + 1 } else { 0 };
                before = now;
            }
        };
        let talked = timeout(PATIENCE, async {
            tokio::select! {
                () = talk => {}
                () = pour(&mut deaf, &poured) => {}
            }
        });
        assert!(talked.await.is_ok(), "{windows:?}: the other call is stalled");
        assert_eq!(connections.load(Ordering::SeqCst), expected, "{windows:?}");
    }
}

/// Many calls, few connections; and warm ones for the next calls.
#[tokio::test]
async fn streams_share_connections_as_far_as_the_windows_allow() {
    let (url, connections) = echo(Some((65_535, 6 * 65_535 - 1))).await;
    let agents = agents();
    let mut links = Vec::new();
    for _ in 0..25 {
        links.push(dial(&agents, &[&url], "call").await.unwrap().1);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5);
    for link in &mut links {
        round_trip(link).await;
    }
    links.clear();
    for _ in 0..25 {
        links.push(dial(&agents, &[&url], "call").await.unwrap().1);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5, "all were kept");
}

/// F73: when an agent has just broken, what is warm may be as dead.
#[tokio::test]
async fn a_reconnect_uses_no_warm_connection() {
    let (url, connections) = no_agent().await;
    for (again, expected) in [(false, 1), (true, 2)] {
        let agents = agents();
        connections.store(0, Ordering::SeqCst);
        agents.warm_up(&url).await;
        let dialed = agents.dial(vec![url.clone()], 0, again, opening(""), RETRY_LIMIT).await;
        assert_eq!(dialed.err(), Some(Unreachable));
        assert_eq!(connections.load(Ordering::SeqCst), expected, "again: {again}");
    }
}

/// F74: the host behind a warm connection is gone without a word; the call costs a moment, not the agent.
#[tokio::test]
async fn a_warm_connection_that_is_dead_is_left_for_a_new_one() {
    let (url, connections) = echo(None).await;
    let agents = agents();
    // The kernel takes the connection, and nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hole = format!("http://{}", silent.local_addr().unwrap());
    for _ in 0..2 {
        agents.grpc.pretend_warm(&url, &hole);
    }
    let begun = Instant::now();
    let (_, mut link) = dial(&agents, &[&url], "call").await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    round_trip(&mut link).await;
    let (_, mut next) = dial(&agents, &[&url], "call").await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 2, "the other one is as dead");
    round_trip(&mut next).await;
    drop(silent);
}

/// F73, F74: after some calls nobody tries an endpoint any more that takes connections and drops them.
#[tokio::test]
async fn an_endpoint_that_always_fails_is_left_alone() {
    let (url, _connections) = echo(None).await;
    let (address, tries, mut incoming) = listen().await;
    Tasks::new().spawn(async move { while incoming.next().await.is_some() {} });
    for broken in [format!("http://{address}"), format!("ws://{address}/")] {
        let agents = agents();
        let mut after = Vec::new();
        for _ in 0..6 {
            let (index, mut link) = dial(&agents, &[&broken, &url], "call").await.unwrap();
            assert_eq!(index, 1);
            round_trip(&mut link).await;
            after.push(tries.load(Ordering::SeqCst));
        }
        assert!(after[1] < after[2], "{after:?}");
        assert_eq!(after[2..], [after[2]; 4], "it is not dialled any more");
        // It is better than nothing.
        assert_eq!(dial(&agents, &[&broken], "call").await.err(), Some(Unreachable));
        assert!(tries.load(Ordering::SeqCst) > after[5]);
    }
}

/// A name and a key that only those trust who are told to.
fn certificate() -> (CertifiedKey<rcgen::KeyPair>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (made, roots)
}

/// The connection's windows are known under TLS as well, and a certificate of nobody we know is refused.
#[tokio::test]
async fn grpc_over_tls() {
    let (made, roots) = certificate();
    let agents = with_roots(&roots);
    let (address, connections, incoming) = listen().await;
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    let server = Server::builder()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(10 * 65_535)
        .tls_config(ServerTlsConfig::new().identity(identity))
        .unwrap()
        .add_service(VoiceAgentServiceServer::new(Echo));
    Tasks::new().spawn(server.serve_with_incoming(incoming));
    let url = format!("https://{}", address.replace("127.0.0.1", "localhost"));
    let mut links = Vec::new();
    for _ in 0..3 {
        let (_, mut link) = dial(&agents, &[&url], "call").await.unwrap();
        round_trip(&mut link).await;
        links.push(link);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert_eq!(dial(&self::agents(), &[&url], "call").await.err(), Some(Unreachable));
}

#[tokio::test]
async fn bots_over_tls() {
    let (made, roots) = certificate();
    let agents = with_roots(&roots);
    let (address, _connections, mut incoming) = listen().await;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificates: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let bot = Tasks::new().spawn(async move {
        let stream = incoming.next().await.unwrap().unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let connected = socket.next().await.unwrap().unwrap();
        // One that trusts nobody gives up by itself.
        let mut stranger = incoming.next().await.unwrap().unwrap();
        let refused = acceptor.accept(&mut stranger).await.is_err();
        let _ = stranger.read(&mut [0]).await;
        // It stays open as long as the test looks at it.
        (connected.into_text().unwrap().to_string(), refused, socket)
    });
    let url = format!("wss://{}/bot", address.replace("127.0.0.1", "localhost"));
    let (_, mut link) = dial(&agents, &[&url], "call").await.unwrap();
    let pump = async {
        let turn = link.next(false).await;
        panic!("{turn:?}")
    };
    let stranger = async {
        assert_eq!(dial(&self::agents(), &[&url], "call").await.err(), Some(Unreachable));
        bot.await.unwrap().unwrap()
    };
    let (connected, refused, _open) = tokio::select! {
        said = timeout(PATIENCE, stranger) => said.unwrap(),
        never = pump => never,
    };
    assert_eq!(connected, r#"{"event":"connected"}"#);
    assert!(refused);
}
