//! The bounds of docs/SEMANTICS.md that hold once everything is mended: a range with a live majority has a
//! leader within 10 s (L3), and grants what is free.

use std::time::Duration;

use sharklock_client::Client;
use sharklock_history::Recorder;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::witness::{Want, Witness};

/// L3: from the mending until a free lock of each range is granted.
pub const GRANTED_WITHIN: Duration = Duration::from_secs(10);

/// Asks for a free lock of each group, again and again after each mending.
#[derive(Debug)]
pub struct Bounds {
    witnesses: Vec<Witness>,
    asked: u32,
}

/// How long the slowest group took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Until the last of all groups had granted.
    pub took: Duration,
    /// Groups that did not grant in time, with the error.
    pub late: Vec<String>,
}

impl Bounds {
    /// A client for each group; their sessions are labelled from `first_session`.
    ///
    /// # Panics
    /// When an endpoint is no address.
    pub fn new(groups: u32, first_session: u32, endpoints: &[String]) -> Self {
        let witness = |group| {
            let client = Client::builder().endpoints(endpoints).identity("bounds").build();
            Witness::labelled(client.expect("the endpoints are addresses"), first_session + group)
        };
        Self { witnesses: (0..groups).map(witness).collect(), asked: 0 }
    }

    /// Waits until every group grants a lock that nobody has, or the bound is over.
    pub async fn demand(&mut self) -> Recovery {
        self.asked += 1;
        let (asked, begin) = (self.asked, Instant::now());
        let mut asking = JoinSet::new();
        for (group, mut witness) in (0_u32..).zip(self.witnesses.drain(..)) {
            asking.spawn(async move {
                let want = Want::exclusive(&format!("g{group}/bounds/{asked}"));
                let result = match witness.acquire(&want.within(GRANTED_WITHIN)).await {
                    Ok(held) => {
                        let took = begin.elapsed();
                        let _ = witness.release(held).await;
                        Ok(took)
                    }
                    Err(error) => Err(format!("g{group}: {error}")),
                };
                (group, witness, result)
            });
        }
        let mut ended = asking.join_all().await;
        ended.sort_unstable_by_key(|(group, ..)| *group);
        let mut recovery = Recovery { took: Duration::ZERO, late: Vec::new() };
        for (_, witness, result) in ended {
            self.witnesses.push(witness);
            match result {
                Ok(took) => recovery.took = recovery.took.max(took),
                Err(why) => recovery.late.push(why),
            }
        }
        recovery
    }

    /// What its clients saw.
    pub fn into_recorders(self) -> Vec<Recorder> {
        self.witnesses.into_iter().map(Witness::into_recorder).collect()
    }
}
