//! A client that sees every byte and how the connection ends.

use std::io::ErrorKind;

use data_encoding::BASE64;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::form_urlencoded;

use crate::{EXOPHONE, PATIENCE, World};

/// What came, and how it ended.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// `None` is an orderly end.
    pub(crate) error: Option<ErrorKind>,
}

impl Received {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A connect into the flow, as bytes.
pub(crate) fn connect_bytes(from: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("From", from),
            ("CallerId", EXOPHONE),
            ("Url", "http://my.exotel.com/examplesid1/exoml/start_voice/77"),
        ])
        .extend_pairs(more)
        .finish();
    let authorization = BASE64.encode(b"simkey:simtoken");
    let length = body.len();
    format!(
        "POST /v1/Accounts/examplesid1/Calls/connect.json HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\
         authorization: Basic {authorization}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl World {
    /// Sends the bytes on a connection of its own.
    pub(crate) async fn open(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.simulator.addr())
            .await
            .expect("the simulator listens");
        stream.write_all(bytes).await.expect("sends");
        stream
    }

    /// A connect, and all that comes back.
    pub(crate) async fn raw_dial(&self, from: &str, more: &[(&str, &str)]) -> Received {
        let stream = self.open(&connect_bytes(from, more)).await;
        receive(stream).await
    }
}

/// Reads to the end.
pub(crate) async fn receive(mut stream: TcpStream) -> Received {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("an end in time");
    Received {
        bytes,
        error: read.err().map(|error| error.kind()),
    }
}
