//! The gateway's way to a data server in the same process.

use sharklock_dataserver::LocalLink;
use sharklock_gateway::StoreLink;
use sharklock_proto::{Lane, internal::v1::StoreCall};

/// Joins the two crates, which do not know each other.
pub struct InProcess(pub LocalLink);

impl StoreLink for InProcess {
    fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>> {
        self.0.send(lane, calls)
    }
}
