//! Which ranges there are and who leads them, looked at all the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use sharklock_client::{Client, GetStatusResponse};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::wait::now;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A gateway that does not answer is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// A range has another leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderChange {
    /// When that was seen, on the clock of histories.
    pub at: u64,
    /// The range.
    pub range: u64,
    /// The node that leads it; empty: none does.
    pub leader: String,
}

/// A range that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSeen {
    /// Its first name; empty: from the begin of all.
    pub start: String,
    /// When it was first seen, on the clock of histories.
    pub since: u64,
}

/// Everything that a watch has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All changes of leaders; the first of each range shows who led when it was first seen.
    pub changes: Vec<LeaderChange>,
    /// All ranges, by their ids.
    pub ranges: BTreeMap<u64, RangeSeen>,
    leaders: BTreeMap<u64, String>,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Looks once through this client, and goes on looking.
    ///
    /// # Errors
    /// When the first look fails.
    pub async fn start(client: Client) -> Result<Self> {
        let mut first = Seen::default();
        first.take(&timeout(ANSWER_MAX, client.status()).await??, now());
        let seen = Arc::new(Mutex::new(first));
        let all = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                if let Ok(Ok(status)) = timeout(ANSWER_MAX, client.status()).await {
                    all.lock().expect("nobody panics with it").take(&status, now());
                }
            }
        });
        Ok(Self { seen, looking })
    }

    /// Everything so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("nobody panics with it").clone()
    }

    /// Where each range begins that was seen so far.
    pub fn starts(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("nobody panics with it");
        seen.ranges.values().map(|range| range.start.clone()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Seen {
    fn take(&mut self, status: &GetStatusResponse, at: u64) {
        for range in &status.ranges {
            let id = range.range_id;
            let seen = || RangeSeen { start: range.start.clone(), since: at };
            self.ranges.entry(id).or_insert_with(seen);
            let store = status.stores.iter().find(|store| store.store_id == range.leader_store_id);
            let leader = store.map_or_else(String::new, |store| store.node.clone());
            if self.leaders.get(&id) != Some(&leader) {
                self.leaders.insert(id, leader.clone());
                self.changes.push(LeaderChange { at, range: id, leader });
            }
        }
    }
}
