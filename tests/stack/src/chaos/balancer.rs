//! What a Service of Kubernetes is to the edge: one address for all replicas, each connection to one that accepts it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use runtime::Tasks;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::{Duration, timeout},
};

/// A replica on this machine accepts at once or is dead; one that is stopped accepts for ever.
const CONNECT: Duration = Duration::from_millis(500);

/// Starts it and returns its address.
pub(super) async fn start(tasks: &Tasks, replicas: Vec<SocketAddr>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.context("cannot listen for the edge's connections")?;
    let address = listener.local_addr()?;
    let of_connections = tasks.clone();
    tasks.spawn(async move {
        let mut first = 0;
        loop {
            let Ok((from, _)) = listener.accept().await else {
                continue;
            };
            first += 1;
            let mut order = replicas.clone();
            order.rotate_left(first % replicas.len().max(1));
            of_connections.spawn(join(from, order));
        }
    });
    Ok(address)
}

/// Joins a connection to the first replica that accepts one; without any it is closed.
async fn join(mut from: TcpStream, replicas: Vec<SocketAddr>) {
    for replica in replicas {
        if let Ok(Ok(mut to)) = timeout(CONNECT, TcpStream::connect(replica)).await {
            let _ = from.set_nodelay(true);
            let _ = to.set_nodelay(true);
            // Its end, however it comes, is the end of both halves.
            let _ = copy_bidirectional(&mut from, &mut to).await;
            return;
        }
    }
}
