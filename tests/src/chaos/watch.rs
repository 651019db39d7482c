//! Who leads which range, looked at all the time, for the report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sharklock_client::{Client, GetStatusResponse};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::timeline::group_of;
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
    /// The group of names in which it begins.
    pub group: u32,
    /// The node that leads it; empty: none does.
    pub leader: String,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Vec<LeaderChange>>>,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Begins to look through this client.
    pub fn start(client: Client) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            let mut leaders = BTreeMap::new();
            loop {
                if let Ok(Ok(status)) = timeout(ANSWER_MAX, client.status()).await {
                    all.lock()
                        .expect("nobody panics with it")
                        .extend(changes(&mut leaders, &status));
                }
                sleep(LOOK_EVERY).await;
            }
        });
        Self { seen, looking }
    }

    /// All changes so far; the first look shows who led at the begin.
    pub fn changes(&self) -> Vec<LeaderChange> {
        self.seen.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

fn changes(leaders: &mut BTreeMap<u64, String>, status: &GetStatusResponse) -> Vec<LeaderChange> {
    let mut changes = Vec::new();
    for range in &status.ranges {
        let store = status.stores.iter().find(|store| store.store_id == range.leader_store_id);
        let leader = store.map_or_else(String::new, |store| store.node.clone());
        if leaders.get(&range.range_id) != Some(&leader) {
            leaders.insert(range.range_id, leader.clone());
            let group = group_of(&range.start).unwrap_or(0);
            changes.push(LeaderChange { at: now(), range: range.range_id, group, leader });
        }
    }
    changes
}
