//! What an edge that is measured has around it: call-service and its database in this process, and an agent that echoes.

use std::{net::SocketAddr, path::Path, time::Duration};

use callbridge_proto::directory::v1::AudioSettings;
use data_encoding::BASE64;
use exotel::paths::STATIC_SOCKET;

use super::{phone::Line, pieces::Piece, room, run::Server};
use crate::{Registered, Registration, Settings, Stack, poll, port};

/// A debug build on a busy machine, under a program that watches it.
const READY: Duration = Duration::from_mins(1);

/// All of it.
pub(super) struct Scene {
    /// call-service, and its database.
    pub(super) stack: Stack,
    /// Says what it hears, in a process of its own.
    pub(super) agent: Server,
    /// A phone whose calls the agent answers.
    pub(super) echoed: Registered,
}

impl Scene {
    /// Starts it. What is sent back is in chunks of so many milliseconds.
    ///
    /// # Errors
    /// When something does not come up.
    pub(super) async fn start(cores: &[usize], folder: &Path, chunk_ms: u32) -> anyhow::Result<Self> {
        let agent = Server::start(Piece::Agent, cores, folder, |_| Settings::new()).await?;
        let stack = Stack::builder().start().await?;
        let mut registration = Registration::new("load")?;
        registration.agent.endpoints = vec![format!("http://{}", agent.address)];
        let bytes = i32::try_from(u64::from(chunk_ms) * room::RATE * 2 / 1_000)?;
        registration.phone.audio = Some(AudioSettings {
            min_packet_bytes: bytes,
            max_packet_bytes: bytes,
            ..AudioSettings::default()
        });
        let echoed = stack.register(registration).await?;
        Ok(Self { stack, agent, echoed })
    }

    /// Starts an edge in a process of its own, under a program that watches it if there is one, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub(super) async fn edge(
        &self,
        cores: &[usize],
        folder: &Path,
        watcher: &[&str],
        set: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Server> {
        let internal = SocketAddr::from(([127, 0, 0, 1], port::lasting()?));
        let edge = Server::start_under(watcher, Piece::Edge, cores, folder, |address| {
            let mut settings = self.stack.edge_settings.clone();
            settings.insert("EDGE_ADDR".to_owned(), address.to_string());
            settings.insert("EDGE_INTERNAL_ADDR".to_owned(), internal.to_string());
            set(&mut settings);
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
        Ok(edge)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something does not end.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.agent.end().await?;
        self.stack.shut_down().await
    }
}

/// Calls to a phone over an edge.
pub(super) fn line(edge: &Server, registered: &Registered) -> Line {
    let credentials = format!("{}:{}", registered.account_id, registered.urls.account_token);
    Line {
        address: edge.address,
        path: STATIC_SOCKET,
        authorization: format!("Basic {}", BASE64.encode(credentials.as_bytes())),
        account_sid: registered.account_sid.clone(),
        to: registered.phone_number.clone(),
        first: 0,
    }
}
