//! Histories of what clients of a lock service did and saw, and independent judges of them.
//!
//! A history is written down by clients ([`Recorder`]), on the monotonic clock of one machine, and
//! judged afterwards ([`check()`]). The judges share no code with the product: an oracle that shares
//! code shares bugs. They know nothing of the servers' inside; all they lean on is that a fencing
//! token orders the grants of a lock, which makes them exact and fast where a search over all
//! orders would not end.
//!
//! A call whose outcome is not known may have happened: it excuses nothing and accuses nobody.

mod check;
mod journal;
mod oracle;
mod record;
mod recorder;
mod text;

pub use check::{Counts, Kind, Report, Violation, check};
pub use journal::Journal;
pub use oracle::{FencingOracle, OracleFault, StaleToken, Versioned};
pub use record::{End, Hold, LockId, Mode, Position, Record, What};
pub use recorder::{History, Recorder};
pub use text::{ReadError, read, write};
