//! A voice agent over gRPC.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, Leave, OutgoingAudio,
    converse_request::Event,
    converse_response::Action,
    voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
};
use futures_util::{StreamExt as _, stream};
use runtime::Tasks;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{Boxed, PATIENCE};

/// How an agent behaves.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Says back what it hears.
    Echo,
    /// Says what it is told to; the channel's end ends its half.
    Told(Arc<Mutex<Option<mpsc::UnboundedReceiver<Action>>>>),
    /// Refuses each stream.
    Refuse,
    /// Breaks off after the start.
    Break,
    /// Answers nothing, not even with headers, until the caller ends.
    Listen,
    /// Takes the stream and never reads it.
    Deaf,
}

#[derive(Clone)]
pub(crate) struct Agent {
    manner: Manner,
    heard: mpsc::UnboundedSender<Event>,
}

#[tonic::async_trait]
impl VoiceAgentService for Agent {
    type ConverseStream = Boxed<ConverseResponse>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let mut events = request.into_inner();
        let heard = self.heard.clone();
        let respond = |action| Ok(ConverseResponse { action: Some(action) });
        match &self.manner {
            Manner::Refuse => Err(Status::unavailable("not today")),
            Manner::Break => {
                let start = events.message().await?.unwrap();
                heard.send(start.event.unwrap()).unwrap();
                Ok(Response::new(
                    stream::once(async { Err(Status::internal("crashed")) }).boxed(),
                ))
            }
            Manner::Listen => {
                while let Some(event) = events.message().await? {
                    let _ = heard.send(event.event.unwrap());
                }
                Ok(Response::new(stream::empty().boxed()))
            }
            Manner::Deaf => {
                // The stream holds what is not read, so it lives as long as the answer.
                let deaf = stream::unfold(events, move |events| async move {
                    std::future::pending::<()>().await;
                    Some((respond(Action::Leave(Leave::default())), events))
                });
                Ok(Response::new(deaf.boxed()))
            }
            Manner::Echo => {
                let stream = events.filter_map(move |event| {
                    let event = event.ok().and_then(|event| event.event);
                    let answer = match &event {
                        Some(Event::Audio(audio)) => Some(Action::Audio(OutgoingAudio {
                            pcm: audio.pcm.clone(),
                            generation: 0,
                        })),
                        _ => None,
                    };
                    if let Some(event) = event {
                        let _ = heard.send(event);
                    }
                    std::future::ready(answer.map(respond))
                });
                Ok(Response::new(stream.boxed()))
            }
            Manner::Told(actions) => {
                let actions = actions.lock().unwrap().take().expect("one stream");
                Tasks::new().spawn(async move {
                    while let Ok(Some(event)) = events.message().await {
                        let _ = heard.send(event.event.unwrap());
                    }
                });
                Ok(Response::new(
                    UnboundedReceiverStream::new(actions).map(respond).boxed(),
                ))
            }
        }
    }
}

/// An agent's URL, and what it hears.
pub(crate) async fn agent(manner: Manner) -> (String, mpsc::UnboundedReceiver<Event>) {
    let (heard, events) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = VoiceAgentServiceServer::new(Agent { manner, heard });
    let server = tonic::transport::Server::builder().add_service(service);
    Tasks::new().spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (url, events)
}

/// What a server says that is none of an agent's answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lie {
    /// Trailers only, with a status that does not exist.
    Status,
    /// A web page.
    NotGrpc,
    /// A message of another contract.
    Garbage,
    /// A message of two gigabytes.
    Giant,
    /// An end without trailers.
    Unfinished,
}

/// A server that lies; its URL.
pub(crate) async fn liar(lie: Lie) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move || async move {
        let response = axum::http::Response::builder().header("content-type", "application/grpc");
        let message: &[u8] = match lie {
            Lie::Status => return response.header("grpc-status", "999").body(Body::empty()).unwrap(),
            Lie::NotGrpc => return axum::http::Response::new(Body::from("<html>hello</html>")),
            Lie::Garbage => &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff],
            Lie::Giant => &[0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3],
            Lie::Unfinished => &[],
        };
        response.body(Body::from(message)).unwrap()
    };
    let path = "/callbridge.agent.v1.VoiceAgentService/Converse";
    let routes = Routes::from(axum::Router::new().route(path, axum::routing::post(answer)));
    let server = tonic::transport::Server::builder().add_routes(routes);
    Tasks::new().spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

/// An agent that says what the test tells it.
pub(crate) fn told() -> (Manner, mpsc::UnboundedSender<Action>) {
    let (say, actions) = mpsc::unbounded_channel();
    (Manner::Told(Arc::new(Mutex::new(Some(actions)))), say)
}

pub(crate) async fn heard(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    timeout(PATIENCE, events.recv())
        .await
        .expect("the agent hears nothing")
        .expect("the agent is gone")
}

pub(crate) async fn hears(events: &mut mpsc::UnboundedReceiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = heard(events).await;
        if wanted(&event) {
            return event;
        }
    }
}
