//! Connections: HTTP/1.1 with limits on how long a client may say nothing, and an end that
//! lets running answers finish.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How long the head of a request may take, and a connection may stay open between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the body of a request may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long no connection is accepted after that has failed: most likely there are as many as
/// the system allows, and some will end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests until `stop` is ready. Then no connection is accepted any more, those
/// without a request are closed, and the returned future is ready when all answers are sent.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => start(stream, router.clone(), &connections),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            () = &mut stop => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
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

fn start(stream: TcpStream, router: Router, connections: &GracefulShutdown) {
    // Tokens are small, and nobody should wait for them to be many.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // A client that leaves, or breaks the protocol, is told by the closed connection.
        let _ = connection.await;
    });
}
