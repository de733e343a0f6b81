//! Connections: HTTP/1.1 with limits on how many there are and on how long a client may neither
//! say nor read anything, and an end that lets running answers finish.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::connection::Connection;

/// How long the head of a request may take, and a connection may stay open between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the body of a request may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may read nothing of an answer that waits to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at a time. More wait for the system to hand them over.
const MAX_CONNECTIONS: usize = 2048;

/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// How long no connection is accepted after that has failed: most likely there are as many as
/// the system allows, and some will end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests until `stop` is ready. Then no connection is accepted any more, those
/// without a request are closed, and the returned future is ready when all answers are sent.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            (accepted, place) = accept(&listener, &room) => match accepted {
                Ok((stream, _)) => start(stream, place, router.clone(), &connections),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            () = &mut stop => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (
    io::Result<(TcpStream, SocketAddr)>,
    Option<OwnedSemaphorePermit>,
) {
    // Nobody closes it, so there is always a place in the end.
    let place = Arc::clone(room).acquire_owned().await.ok();
    (listener.accept().await, place)
}

/// Whether the connection that was to be accepted is at fault, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn start(
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    router: Router,
    connections: &GracefulShutdown,
) {
    // Tokens are small, and nobody should wait for them to be many.
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(Connection::new(stream, WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(stream, TowerToHyperService::new(router));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // A client that leaves, or breaks the protocol, is told by the closed connection.
        let _ = connection.await;
        drop(place);
    });
}
