//! The gRPC server of an internal port: other processes of the cluster are its only clients.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};

use crate::{
    acceptor::PeerAcceptor,
    dialling::{PING_EVERY, PONG_WITHIN},
    frames::{Frames, is_spoken},
};

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

/// Connections that speak gRPC and that nobody serves yet.
const UNSERVED_MAX: usize = 64;
/// Connections that have not said yet who they are. More are not accepted meanwhile.
const UNKNOWN_MAX: usize = 1_024;
/// A connection says at once what it speaks.
const FIRST_LETTER_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to accept a connection, the first of which has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

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

/// Peers that speak frames instead of gRPC, at the same port.
#[derive(Clone)]
pub struct FramePeers {
    /// Takes what they say.
    pub acceptor: PeerAcceptor,
    /// Reads their connections: best the runtime of the thread for which these are meant.
    pub runtime: Handle,
}

/// Serves until `stop`; then nothing new is accepted, and what was asked may end within a second.
/// Streams without an end are their services' to end when they hear of `stop`. `frames` get the
/// connections that begin with the preamble of frames; without it they are refused as gRPC refuses
/// what it does not understand.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    frames: Option<FramePeers>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (sender, receiver) = mpsc::channel(UNSERVED_MAX);
    let incoming = ReceiverStream::new(receiver);
    let serving = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => Some(served),
        never = accept(listener, frames, sender) => match never {},
        () = stop.cancelled() => None,
    };
    match served {
        Some(served) => Ok(served?),
        None => match timeout(STOP_WITHIN, serving).await {
            Ok(served) => Ok(served?),
            // A client that is still there loses its connection with the process.
            Err(_elapsed) => Ok(()),
        },
    }
}

/// Accepts connections, and hands them to whoever speaks their language. The port is closed when
/// this is dropped.
async fn accept(
    listener: TcpListener,
    frames: Option<FramePeers>,
    calls: mpsc::Sender<io::Result<TcpStream>>,
) -> Infallible {
    let unknown = Arc::new(Semaphore::new(UNKNOWN_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _address)) => stream,
            // Out of descriptors, as a rule: others end meanwhile.
            Err(why) => {
                tracing::debug!(%why, "a connection was not accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // A connection that is broken already says so when it is read.
        let _ = stream.set_nodelay(true);
        let Some(frames) = &frames else {
            let _ = calls.send(Ok(stream)).await;
            continue;
        };
        let permit = Arc::clone(&unknown).acquire_owned().await.expect("it is never closed");
        tokio::spawn(tell_apart(stream, frames.clone(), calls.clone(), permit));
    }
}

/// Waits for the first letter of a connection, and hands it over.
async fn tell_apart(
    stream: TcpStream,
    frames: FramePeers,
    calls: mpsc::Sender<io::Result<TcpStream>>,
    _until_known: OwnedSemaphorePermit,
) {
    match is_spoken(&stream, FIRST_LETTER_WITHIN).await {
        // Where the receiver is gone this process ends, and the connection with it.
        Some(false) => drop(calls.send(Ok(stream)).await),
        Some(true) => {
            if let Ok(Ok(accepted)) = timeout(FIRST_LETTER_WITHIN, Frames::accept(stream)).await {
                frames.acceptor.serve(accepted, &frames.runtime).await;
            }
        }
        None => {}
    }
}
