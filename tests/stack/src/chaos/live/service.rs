//! What a Service of Kubernetes is to its clients: one address, and each new connection goes to one of the endpoints of that
//! moment. A connection that was made stays, whatever becomes of the endpoints.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use runtime::Tasks;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Duration, timeout},
};

/// A process on this machine accepts at once, or does not at all.
const CONNECT: Duration = Duration::from_secs(1);

/// A running Service. Cheap to clone.
#[derive(Debug, Clone)]
pub(in super::super) struct Service {
    address: SocketAddr,
    endpoints: Arc<watch::Sender<Vec<SocketAddr>>>,
    refused: Arc<AtomicU64>,
}

impl Service {
    /// Starts one without endpoints.
    pub(in super::super) async fn start(tasks: &Tasks) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot listen for a Service")?;
        let service = Self {
            address: listener.local_addr()?,
            endpoints: Arc::default(),
            refused: Arc::default(),
        };
        let (serving, of_connections) = (service.clone(), tasks.clone());
        tasks.spawn(async move {
            let mut turn = 0;
            loop {
                let Ok((from, _)) = listener.accept().await else {
                    continue;
                };
                turn += 1;
                let endpoints = serving.endpoints.borrow().clone();
                let to = endpoints.get(turn % endpoints.len().max(1)).copied();
                of_connections.spawn(serving.clone().join(from, to));
            }
        });
        Ok(service)
    }

    /// Where clients connect to.
    pub(in super::super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that no endpoint took. None is tried at another one: Kubernetes does not either.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The endpoints.
    pub(super) fn endpoints(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.endpoints.subscribe()
    }

    /// New connections go to these from now on.
    pub(super) fn lead_to(&self, endpoints: Vec<SocketAddr>) {
        self.endpoints.send_if_modified(|current| {
            let changed = *current != endpoints;
            *current = endpoints;
            changed
        });
    }

    async fn join(self, mut from: TcpStream, to: Option<SocketAddr>) {
        let connected = match to {
            Some(to) => timeout(CONNECT, TcpStream::connect(to)).await.ok().and_then(Result::ok),
            None => None,
        };
        let Some(mut to) = connected else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let _ = from.set_nodelay(true);
        let _ = to.set_nodelay(true);
        // Its end, however it comes, is the end of both halves.
        let _ = copy_bidirectional(&mut from, &mut to).await;
    }
}
