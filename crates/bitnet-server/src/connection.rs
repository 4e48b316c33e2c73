//! A socket that gives up when the other side stops reading, and tells when the other side has left.
//!
//! Without the first, a client that opens a stream and reads nothing would hold its connection, and what was written
//! for it, for as long as it likes: no other timer runs while hyper waits to write. Without the second, a client that
//! has sent one byte too many before it left would not be missed: hyper reads no further while it answers, and finds
//! the end of the stream only behind that byte.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::seats::{AtWork, Seat};
use crate::tally::{CountedOnce, Entered, Tally};

/// A TCP stream whose writes fail when nothing could be written for a while.
pub struct Connection {
    stream: Arc<TcpStream>,
    patience: Duration,
    stuck: Option<Stuck>,
    under_way: CountedOnce,
    seat: Arc<Seat>,
}

/// Since a write could not go on. It counts as work: a server that ends waits for it, and it keeps its place.
struct Stuck {
    over: Pin<Box<Sleep>>,
    _work: (Arc<Entered>, AtWork),
}

/// How often a client is looked for that has sent more than was read: each look costs no system call.
const LOOK: Duration = Duration::from_millis(250);

impl Connection {
    /// Wraps `stream`; writes that wait are counted in `under_way`, and keep their place.
    pub fn new(
        stream: Arc<TcpStream>,
        patience: Duration,
        under_way: CountedOnce,
        seat: Arc<Seat>,
    ) -> Connection {
        Connection {
            seat,
            stream,
            patience,
            stuck: None,
            under_way,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Stuck {
            over: Box::pin(sleep(patience)),
            _work: (self.under_way.enter(), self.seat.work()),
        });
        if stuck.over.as_mut().poll(cx).is_ready() {
            stuck.over.as_mut().reset(Instant::now() + patience);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    fn write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

/// Resolves when the other side has closed the connection, or its half of it, while `busy` says that it is being
/// answered. What it sent before need not have been read.
pub async fn until_gone(stream: &TcpStream, busy: &Tally) {
    loop {
        let Ok(_) = stream.ready(Interest::READABLE).await else {
            return;
        };
        // Whoever sends its request and closes its half at once may still get a short answer.
        sleep(LOOK).await;
        let Ok(ready) = stream.ready(Interest::READABLE).await else {
            return;
        };
        if ready.is_read_closed() && busy.count() > 0 {
            return;
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.write(cx, |stream| stream.try_write(bytes));
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.write(cx, |stream| stream.try_write_vectored(slices));
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a socket keeps nothing back
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}
