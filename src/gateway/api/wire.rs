//! A connection of the API below HTTP: what becomes of peers that do not read.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long what a peer still sends is read once all is answered, so that it gets to read its
/// answer: with anything unread, the kernel would reset the connection.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are thrown away at a time.
const SCRATCH: usize = 8 * 1_024;

/// A stream that reads nothing while nothing can be written, so that a peer cannot ask without end
/// for what it does not take; that fails once the peer has taken nothing for too long; and that is
/// shut down slowly.
pub(super) struct Wire {
    stream: TcpStream,
    /// Time in which a peer has to take something of what is there for it.
    patience: Duration,
    /// Runs while something cannot be written.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Wants to read, but for that.
    reader: Option<Waker>,
    /// Runs once there is nothing more to write.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Wire {
        Wire { stream, patience, stalled: None, reader: None, lingering: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stalled.is_some() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            return Poll::Ready(written);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        let end = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut scratch = [MaybeUninit::uninit(); SCRATCH];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
            if scratch.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Runs a test with a wire of little patience and its peer.
    fn with_wire<T: Future<Output = ()>>(patience: Duration, test: impl Fn(Wire, TcpStream) -> T) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let peer = TcpStream::connect(address).await.expect("a peer");
            let (stream, _) = listener.accept().await.expect("its connection");
            test(Wire::new(stream, patience), peer).await;
        });
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        with_wire(Duration::from_millis(50), |mut wire, peer| async move {
            let error = loop {
                if let Err(error) = wire.write_all(&[0; 64 * 1_024]).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(peer);
        });
    }

    /// Nothing more is read meanwhile, and reading goes on when the peer takes something.
    #[test]
    fn who_does_not_read_is_not_read() {
        with_wire(Duration::from_secs(600), |mut wire, mut peer| async move {
            peer.write_all(b"more").await.expect("it is sent");
            let mut written = 0;
            let block = [0; 64 * 1_024];
            std::future::poll_fn(|cx| {
                while let Poll::Ready(count) = Pin::new(&mut wire).poll_write(cx, &block) {
                    written += count.expect("no error");
                }
                Poll::Ready(())
            })
            .await;
            let (mut input, mut output) = tokio::io::split(wire);
            let (mut got, mut rest) = ([0; 4], vec![0; written]);
            tokio::select! {
                biased;
                _ = input.read_exact(&mut got) => panic!("it was read"),
                () = tokio::task::yield_now() => {}
            }
            let (read, _, taken) = tokio::join!(
                input.read_exact(&mut got),
                output.write_all(b"the end"),
                peer.read_exact(&mut rest),
            );
            assert_eq!(read.expect("it is read"), 4);
            taken.expect("all that was written");
            assert_eq!(&got, b"more");
        });
    }

    /// What is still on its way from the peer is read, and the peer can read its answer.
    #[test]
    fn an_answer_outlives_what_is_still_being_sent() {
        with_wire(Duration::from_secs(600), |mut wire, mut peer| async move {
            let talking = tokio::spawn(async move {
                peer.write_all(&vec![0; 8 << 20]).await.expect("all of it is read");
                let mut answer = String::new();
                peer.read_to_string(&mut answer).await.expect("an answer");
                answer
            });
            wire.write_all(b"too large").await.expect("it is written");
            wire.shutdown().await.expect("it is shut down");
            drop(wire);
            assert_eq!(talking.await.expect("no panic"), "too large");
        });
    }
}
