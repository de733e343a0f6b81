//! A connection whose other end has to read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A connection that breaks off where nothing can be written for a while: the other end does
/// not read, and what is still to be sent would wait in memory for ever.
pub struct Connection {
    stream: TcpStream,
    patience: Duration,
    /// Runs while the system takes nothing.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    /// What came of a write; an error if there have been none for too long.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::net;
    use std::thread;
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    /// Both ends of a connection.
    async fn pair() -> (Connection, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Connection::new(stream, PATIENCE), other)
    }

    async fn write(connection: &mut Connection) -> io::Result<usize> {
        let bytes = vec![0; 1 << 16];
        poll_fn(|context| Pin::new(&mut *connection).poll_write(context, &bytes)).await
    }

    #[tokio::test]
    async fn an_end_that_does_not_read_is_given_up() {
        let (mut connection, other) = pair().await;
        // Until what the system keeps is full.
        let error = loop {
            if let Err(error) = write(&mut connection).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(other);
    }

    #[tokio::test]
    async fn an_end_that_reads_slowly_is_waited_for() {
        let (mut connection, mut other) = pair().await;
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            // Breaks that are shorter than the patience, but together are longer.
            while other.read(&mut buffer).unwrap() > 0 {
                thread::sleep(PATIENCE / 10);
            }
        });
        let start = Instant::now();
        while start.elapsed() < 3 * PATIENCE {
            write(&mut connection).await.unwrap();
        }
        drop(connection);
        reader.join().unwrap();
    }
}
