//! Connections, told apart at the end: one that asked something is answered first; one that has not said its first request whole is not waited
//! for to the last. One whose reader takes nothing for too long is closed, or it would hold what is meant for it for ever.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use super::IDLE_DEADLINE;
use super::door::Visitor;

/// How long after the door was closed the first request of a connection may still take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Takes connections in.
#[derive(Clone)]
pub(super) struct Reception;

impl Accept<TcpStream, Visitor> for Reception {
    type Stream = Connection<TcpStream>;
    type Service = Visitor;
    type Future = Ready<io::Result<(Self::Stream, Visitor)>>;

    fn accept(&self, stream: TcpStream, visitor: Visitor) -> Self::Future {
        let settled = stream.set_nodelay(true);
        ready(settled.and(Ok((Connection::new(stream, &visitor), visitor))))
    }
}

/// Does what must be done before a connection can ask something: within `limit`, and soon once the door is closed.
pub(super) async fn within<T>(
    limit: Duration,
    visitor: &Visitor,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let hurry = async {
        visitor.closing().await;
        sleep(LAST_WORDS).await;
    };
    tokio::select! {
        done = timeout(limit, work) => done?,
        () = hurry => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A stream that ends for the reader when the door is closed and no request comes.
pub(super) struct Connection<S> {
    stream: S,
    visitor: Visitor,
    patience: Option<Pin<Box<Sleep>>>,
    /// Runs while the other side takes nothing of what is written.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    /// The connection of `visitor`.
    pub(super) fn new(stream: S, visitor: &Visitor) -> Self {
        Self { stream, visitor: visitor.clone(), patience: None, stall: None }
    }

    fn unless_stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(IDLE_DEADLINE)));
        stall.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() || self.visitor.is_waited_for() {
            return read;
        }
        // The server wakes every connection when it shuts down, so this is reached then.
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
        patience.as_mut().poll(cx).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_stalled(cx, shut_down)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::clock::Clock;
    use crate::http::Door;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_given_up() {
        let visitor = Visitor::new(Door::new(Clock::new()));
        let (ours, mut theirs) = duplex(64);
        let mut connection = Connection::new(ours, &visitor);
        let began = tokio::time::Instant::now();
        let slow = tokio::spawn(async move {
            let mut buffer = [0; 32];
            for _ in 0..4 {
                sleep(IDLE_DEADLINE / 2).await;
                theirs.read_exact(&mut buffer).await.unwrap();
            }
            theirs
        });
        let error = connection.write_all(&[0; 1_024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), (IDLE_DEADLINE * 3).as_secs(), "slow is not silent");
        drop(slow.await.unwrap());
    }
}
