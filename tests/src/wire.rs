//! Raw gRPC: calls that no client would make, and errors as they stand on the wire.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sharklock_proto::v1::{
    AcquireRequest, CancelRequest, KeepAliveItem, KeepAliveRequest, LockMode, ReleaseRequest,
    lock_service_client::LockServiceClient,
};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::server::Server;

/// An own connection to a server.
///
/// # Panics
/// When it cannot be made.
pub async fn channel(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.endpoint()).expect("an address");
    let endpoint = endpoint.connect_timeout(Duration::from_secs(5));
    endpoint.connect().await.expect("the server accepts connections")
}

/// The lock service over an own connection.
pub async fn locks(server: &Server) -> LockServiceClient<Channel> {
    LockServiceClient::new(channel(server).await)
}

/// A session made by hand.
#[derive(Debug)]
pub struct Session {
    /// The secret.
    pub id: Bytes,
    /// The life of its client.
    pub instance: u64,
    numbers: AtomicU64,
}

impl Default for Session {
    fn default() -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(1);
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let mut id = [0xa5; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        Self { id: Bytes::copy_from_slice(&id), instance: 1, numbers: AtomicU64::new(1) }
    }
}

impl Session {
    /// The next life of its client.
    pub fn next_life(&self) -> Self {
        let instance = self.instance + 1;
        Self { id: self.id.clone(), instance, numbers: AtomicU64::new(1) }
    }

    /// A number that was not used before: for acquisitions and attempts.
    pub fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A good acquire that only tries.
    pub fn acquire(&self, name: &str) -> AcquireRequest {
        AcquireRequest {
            session_id: self.id.clone(),
            instance: self.instance,
            acquisition_id: self.next(),
            seq: self.next(),
            name: name.to_owned(),
            mode: LockMode::Exclusive.into(),
            wait_ms: Some(0),
            ..AcquireRequest::default()
        }
    }

    /// The release of an acquisition.
    pub fn release(&self, name: &str, token: u64, acquisition_id: u64) -> ReleaseRequest {
        ReleaseRequest {
            session_id: self.id.clone(),
            instance: self.instance,
            name: name.to_owned(),
            token,
            acquisition_id,
            all: false,
        }
    }

    /// The cancel of an acquisition.
    pub fn cancel(&self, name: &str, acquisition_id: u64) -> CancelRequest {
        CancelRequest {
            session_id: self.id.clone(),
            instance: self.instance,
            name: name.to_owned(),
            acquisition_id,
        }
    }

    /// A keepalive of some acquisitions.
    pub fn keep_alive(&self, items: &[(&str, u64)]) -> KeepAliveRequest {
        let item = |(name, acquisition_id): &(&str, u64)| KeepAliveItem {
            name: (*name).to_owned(),
            acquisition_id: *acquisition_id,
        };
        KeepAliveRequest {
            session_id: self.id.clone(),
            instance: self.instance,
            seq: self.next(),
            items: items.iter().map(item).collect(),
        }
    }
}

/// `ErrorInfo.reason` of an error; empty when it carries none.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// `ErrorInfo.domain` of an error; empty when it carries none.
pub fn domain(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.domain).unwrap_or_default()
}
