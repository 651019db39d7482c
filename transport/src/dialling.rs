//! How a process of a cluster connects to another.

use std::{net::IpAddr, time::Duration};

use tonic::transport::{Channel, Endpoint};

/// Until a connection must stand: twice what a lost SYN costs.
pub const DIAL_WITHIN: Duration = Duration::from_secs(2);
/// A process that says nothing is asked for a sign of life this often …
pub const PING_EVERY: Duration = Duration::from_secs(2);
/// … and is taken for gone when none comes for so long. Raft notices a silent leader sooner and by
/// itself; this ends connections that no packet crosses any more, so that one is sought that does not
/// wait for TCP's back-off.
pub const PONG_WITHIN: Duration = Duration::from_secs(2);
/// Bytes that a peer may send on a stream, and on a connection, before they are read. Each class of
/// messages has a connection of its own, so one is as large as the other.
const WINDOW_BYTES: u32 = 4 << 20;

/// How connections are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialling {
    /// The local address from which connections leave; None: the system chooses. Firewalls, and the
    /// fault proxy of our tests, tell by it who speaks.
    pub source: Option<IpAddr>,
}

impl Dialling {
    /// Connections to `address` (`HOST:PORT`).
    ///
    /// # Errors
    /// When it is not an address; a sentence for people.
    pub fn endpoint(self, address: &str) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_invalid| format!("`{address}` is not an address: want HOST:PORT"))?;
        Ok(endpoint
            .local_address(self.source)
            .connect_timeout(DIAL_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES))
    }

    /// A connection that stands.
    ///
    /// # Errors
    /// When there is none within [`DIAL_WITHIN`]; a sentence for people.
    pub async fn connect(self, address: &str) -> Result<Channel, String> {
        let endpoint = self.endpoint(address)?;
        // The time-out of the endpoint covers TCP; a peer may take that and then say nothing.
        match tokio::time::timeout(DIAL_WITHIN, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| innermost(&error)),
            Err(_elapsed) => Err(format!("no connection within {} s", DIAL_WITHIN.as_secs())),
        }
    }
}

/// The deepest cause: what the operating system says.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
