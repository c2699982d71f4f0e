use std::{fs, net::SocketAddr};

use runtime::tls::ServerFiles;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::*;

const AGES: Duration = Duration::from_hours(1);

async fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn few(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// F97: a peer that is slow with the first bytes is not waited for; one that has sent them may be silent.
#[tokio::test(start_paused = true)]
async fn the_first_bytes_come_in_time() {
    let (listener, at) = listening().await;
    let mut connections = std::pin::pin!(incoming(listener, few(9), None));
    let first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (sent, is_late) in [(0, true), (10, true), (32, true), (33, false)] {
        let mut peer = TcpStream::connect(at).await.unwrap();
        peer.write_all(&first[..sent]).await.unwrap();
        let mut connection = connections.next().await.unwrap().unwrap();
        let begun = Instant::now();
        let mut buffer = [0; 33];
        let read = timeout(AGES, connection.read_exact(&mut buffer)).await;
        let late = matches!(&read, Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut);
        assert_eq!(late, is_late, "{sent}: {read:?}");
        assert!(begun.elapsed() < AGES);
        if !is_late {
            assert!(timeout(AGES, connection.read_u8()).await.is_err(), "it is waited for");
        }
    }
}

/// F101: a handshake that does not go on is given up.
#[tokio::test(start_paused = true)]
async fn a_handshake_ends_in_time() {
    let folder = TempDir::new().unwrap();
    let files = ServerFiles {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
        client_ca: None,
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let (listener, at) = listening().await;
    let acceptor = Acceptor::read(&files).unwrap();
    let mut connections = std::pin::pin!(incoming(listener, few(9), Some(acceptor)));
    // The head of a record, and no more.
    let mut peer = TcpStream::connect(at).await.unwrap();
    peer.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let ended = connections.next().await.unwrap().map(drop).unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn connections_beyond_the_limit_wait_for_others_to_end() {
    let (listener, at) = listening().await;
    let mut connections = std::pin::pin!(incoming(listener, few(2), None));
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(TcpStream::connect(at).await.unwrap());
    }
    let one = connections.next().await.unwrap().unwrap();
    let _two = connections.next().await.unwrap().unwrap();
    assert!(timeout(AGES, connections.next()).await.is_err());
    drop(one);
    assert!(connections.next().await.unwrap().is_ok());
}
