//! Which ranges there are and who leads them, looked at all the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use sharklock_client::{Client, GetStatusResponse};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::look::look_at;
use crate::wait::now;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    /// Each time in which looks failed one after the other, in order.
    pub blind: Vec<Blind>,
    leaders: BTreeMap<u64, String>,
    sees: bool,
}

/// Looks that failed one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// When the first of them began, on the clock of histories.
    pub from: u64,
    /// When one succeeded again; until then, the last that failed.
    pub until: u64,
    /// Why the last failed.
    pub why: String,
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
        first.take(&look_at(&client).await?, now());
        let seen = Arc::new(Mutex::new(first));
        let all = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                let asked = now();
                let looked = look_at(&client).await;
                let mut seen = all.lock().expect("nobody panics with it");
                match looked {
                    Ok(status) => seen.take(&status, now()),
                    Err(why) => seen.failed(asked, format!("{why:#}")),
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
    fn failed(&mut self, asked: u64, why: String) {
        if std::mem::take(&mut self.sees) {
            self.blind.push(Blind { from: asked, until: asked, why: String::new() });
        }
        if let Some(blind) = self.blind.last_mut() {
            (blind.until, blind.why) = (now(), why);
        }
    }

    fn take(&mut self, status: &GetStatusResponse, at: u64) {
        if !std::mem::replace(&mut self.sees, true)
            && let Some(blind) = self.blind.last_mut()
        {
            blind.until = at;
        }
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
