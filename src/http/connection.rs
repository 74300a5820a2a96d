//! Connections, told apart at the end: one that asked something is answered first; one that has not said its first request whole is not waited
//! for to the last.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

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
}

impl<S> Connection<S> {
    /// The connection of `visitor`.
    pub(super) fn new(stream: S, visitor: &Visitor) -> Self {
        Self { stream, visitor: visitor.clone(), patience: None }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
