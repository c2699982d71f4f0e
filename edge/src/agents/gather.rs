//! A connection whose writes are gathered: what the streams that it carries have to say at one moment goes out in one system
//! call. The HTTP/2 library writes and flushes each frame by itself.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use runtime::Tasks;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, Join, ReadHalf, WriteHalf},
    task::yield_now,
    time::timeout,
};

use super::KEEP_ALIVE;

/// What is gathered at most, in bytes: beyond, the writer waits. As much is on its way out meanwhile.
const MOST: usize = 64 * 1024;
/// What is gathered by one copy, in bytes: 100 ms of audio with its envelope fit.
const PIECE: usize = 2 * 1024;

/// A peer that takes nothing for so long does not answer the keep-alive either.
const STALLED: Duration = KEEP_ALIVE.0.saturating_add(KEEP_ALIVE.1);

/// Gathers what is written from now on, in a task of its own.
pub(super) fn gathered<T>(io: T, tasks: &Tasks) -> Join<ReadHalf<T>, DuplexStream>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = io::split(io);
    let (near, far) = io::duplex(MOST);
    // An error shows at the other half, too.
    tasks.spawn_apart(async move { drop(send(far, writer).await) });
    io::join(reader, near)
}

/// Sends on what comes, until it ends.
async fn send<T: AsyncWrite>(mut words: DuplexStream, mut writer: WriteHalf<T>) -> io::Result<()> {
    let mut batch = BytesMut::new();
    loop {
        batch.reserve(PIECE);
        if words.read_buf(&mut batch).await? == 0 {
            return timeout(STALLED, writer.shutdown()).await?;
        }
        // Whoever else has something to say now says it first.
        yield_now().await;
        while batch.len() < MOST && matches!(words.read_buf(&mut batch).now_or_never(), Some(Ok(1..))) {
            batch.reserve(PIECE);
        }
        // TLS keeps what it has taken until it is flushed.
        let sent = async {
            writer.write_all_buf(&mut batch).await?;
            writer.flush().await
        };
        timeout(STALLED, sent).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Poll},
    };

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// A stream whose system calls are counted.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_said_at_one_moment_goes_out_at_once() {
        let (near, mut far) = io::duplex(MOST);
        let calls = Arc::new(AtomicUsize::new(0));
        let mut io = gathered(Counted(near, Arc::clone(&calls)), &Tasks::new());
        for round in 1..=3 {
            for frame in 0..10 {
                io.write_all(&[frame; 100]).await.unwrap();
                io.flush().await.unwrap();
            }
            let mut heard = [0; 1000];
            far.read_exact(&mut heard).await.unwrap();
            assert!(heard.chunks(100).zip(0..).all(|(piece, frame)| piece == [frame; 100]));
            assert_eq!(calls.load(Ordering::SeqCst), round);
        }
    }

    /// Keeps what it takes until it is flushed, as TLS may.
    struct Keeping(DuplexStream, Vec<u8>);

    impl AsyncRead for Keeping {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Keeping {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Self(io, kept) = &mut *self;
            while !kept.is_empty() {
                let written = std::task::ready!(Pin::new(&mut *io).poll_write(cx, kept))?;
                kept.drain(..written);
            }
            Pin::new(io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_encryption_keeps_is_sent_too() {
        let (near, mut far) = io::duplex(10);
        let mut io = gathered(Keeping(near, Vec::new()), &Tasks::new());
        io.write_all(&[7; 1000]).await.unwrap();
        let mut heard = [0; 1000];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [7; 1000]);
    }

    #[tokio::test]
    async fn a_broken_connection_shows() {
        let (near, far) = io::duplex(1);
        let mut io = gathered(near, &Tasks::new());
        drop(far);
        let mut all = [0];
        assert_eq!(io.read(&mut all).await.unwrap(), 0);
        while io.write_all(&all).await.is_ok() {
            yield_now().await;
        }
    }

    proptest! {
        /// Whoever writes may go at once: the last words are said, in any pieces, however little the peer takes at a time.
        #[test]
        fn all_is_sent_in_order(pieces in prop::collection::vec(1usize..3 * MOST / 2, 1..6), room in 1usize..5000) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = io::duplex(room);
                let mut io = gathered(near, &Tasks::new());
                let said: Vec<u8> = (0..251).cycle().take(pieces.iter().sum()).collect();
                let mut heard = Vec::new();
                let say = async {
                    let mut rest = &said[..];
                    for length in &pieces {
                        let (piece, others) = rest.split_at(*length);
                        io.write_all(piece).await.unwrap();
                        rest = others;
                    }
                    drop(io);
                };
                let (read, ()) = tokio::join!(far.read_to_end(&mut heard), say);
                read.unwrap();
                assert!(heard == said);
            });
        }
    }
}
