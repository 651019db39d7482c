//! The gRPC server of an internal port: other processes of the cluster are its only clients.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Server,
    server::{Router, TcpIncoming},
};

use crate::dialling::{PING_EVERY, PONG_WITHIN};

/// Streams of a connection at a time. tonic's default is no limit; a process opens a handful.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Streams that a peer may have reset before they were taken (RUSTSEC-2023-0034); h2's default, which
/// tonic would keep, but a default is not a decision.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we may have reset for a peer's errors (RUSTSEC-2024-0003); tonic switches it off.
const ERROR_RESETS_MAX: usize = 1_024;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// As on the dialling side.
const WINDOW_BYTES: u32 = 4 << 20;
/// How long calls may take to end when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Why a server stopped before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server of an internal port failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A server with the limits of internal ports (gateway.md, *Limits of the server*), to add services
/// to.
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
}

/// Serves until `stop`; then nothing new is accepted, and what was asked may end within a second.
/// Streams without an end are their services' to end when they hear of `stop`.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => Some(served),
        () = stop.cancelled() => None,
    };
    match served {
        Some(served) => Ok(served?),
        None => match tokio::time::timeout(STOP_WITHIN, serving).await {
            Ok(served) => Ok(served?),
            // A client that is still there loses its connection with the process.
            Err(_elapsed) => Ok(()),
        },
    }
}
