//! News from a gateway's core to its owner: things that are worth counting, and those that the
//! owner may be waiting for. Nothing comes back, so that the core decides the same whoever listens.

use crate::{failure::Reason, outbox::Settled};

/// Why a route was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMiss {
    /// The store does not lead the range.
    NotLeader,
    /// The store has no such range, or another version of it.
    Moved,
    /// This gateway knew no range for the name.
    Unknown,
}

impl RouteMiss {
    /// All of them, in order of declaration.
    pub const ALL: [Self; 3] = [Self::NotLeader, Self::Moved, Self::Unknown];

    /// As a label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotLeader => "not_leader",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
        }
    }
}

/// See the module. Called from whatever thread calls the hub, sometimes under its locks: never call
/// the hub from here.
pub trait Observer: Send + Sync + 'static {
    /// A call was answered for good.
    fn settled(&self, _settled: Settled, _now_us: u64) {}
    /// A call of a Session stream is answered with an error.
    fn failed(&self, _reason: Reason) {}
    /// A stream was opened.
    fn stream_opened(&self) {}
    /// A stream was closed.
    fn stream_closed(&self) {}
    /// A store pushed an event.
    fn event(&self) {}
    /// An event's stream was gone or too far behind.
    fn event_dropped(&self) {}
    /// A stream is ended since its client does not read.
    fn overrun(&self) {}
    /// A reply's call or stream was gone.
    fn late_reply(&self) {}
    /// Keepalives were sent.
    fn keepalive_batch(&self) {}
    /// A call did not go where its range is.
    fn route_missed(&self, _why: RouteMiss) {}
    /// A call that a store did not do was sent to another.
    fn sent_again(&self) {}
    /// The gateway has noticed that it stood still.
    fn stood_still(&self) {}
    /// Whether the gateway can serve is not as it was.
    fn ready_changed(&self, _ready: bool) {}
    /// [`Hub::next_due_us`](crate::Hub::next_due_us) may be earlier than it was.
    fn due_sooner(&self) {}
}

impl Observer for () {}
