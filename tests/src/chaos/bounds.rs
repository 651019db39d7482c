//! The bounds of docs/SEMANTICS.md that hold once everything is mended: a range with a live majority has a
//! leader within 10 s (L3), and grants what is free.

use std::time::Duration;

use anyhow::Result;
use sharklock_client::Client;
use sharklock_history::Recorder;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::names::inside;
use crate::witness::{Want, Witness};

/// L3: from the mending until a free lock of each range is granted.
pub const GRANTED_WITHIN: Duration = Duration::from_secs(10);

/// Asks for a free lock of each range, again and again after each mending.
#[derive(Debug)]
pub struct Bounds {
    endpoints: Vec<String>,
    first_session: u32,
    /// One for each range that is asked at a time.
    witnesses: Vec<Witness>,
    asked: u32,
}

/// How long the slowest range took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Until the last of all ranges had granted.
    pub took: Duration,
    /// Names that were not granted in time, with the error.
    pub late: Vec<String>,
}

impl Bounds {
    /// Its clients reach the cluster at these endpoints; their sessions are labelled from `first_session`.
    pub fn new(first_session: u32, endpoints: &[&str]) -> Self {
        let endpoints = endpoints.iter().map(|it| (*it).to_owned()).collect();
        Self { endpoints, first_session, witnesses: Vec::new(), asked: 0 }
    }

    /// Waits until every range grants a lock that nobody has, or the bound is over. `starts` says where each
    /// range begins.
    ///
    /// # Errors
    /// When an endpoint is no address.
    pub async fn demand(&mut self, starts: &[String]) -> Result<Recovery> {
        while self.witnesses.len() < starts.len() {
            let client = Client::builder().endpoints(&self.endpoints).identity("bounds").build()?;
            let number = u32::try_from(self.witnesses.len())?;
            self.witnesses.push(Witness::labelled(client, self.first_session + number));
        }
        self.asked += 1;
        let (label, begin) = (format!("bounds-{}", self.asked), Instant::now());
        let mut asking = JoinSet::new();
        for (start, mut witness) in starts.iter().zip(self.witnesses.drain(..starts.len())) {
            let name = inside(start, &label);
            asking.spawn(async move {
                let want = Want::exclusive(&name).within(GRANTED_WITHIN);
                let result = match witness.acquire(&want).await {
                    Ok(held) => {
                        let took = begin.elapsed();
                        let _ = witness.release(held).await;
                        Ok(took)
                    }
                    Err(error) => Err(format!("{name}: {error}")),
                };
                (witness, result)
            });
        }
        let mut recovery = Recovery { took: Duration::ZERO, late: Vec::new() };
        for (witness, result) in asking.join_all().await {
            self.witnesses.push(witness);
            match result {
                Ok(took) => recovery.took = recovery.took.max(took),
                Err(why) => recovery.late.push(why),
            }
        }
        recovery.late.sort_unstable();
        Ok(recovery)
    }

    /// What its clients saw.
    pub fn into_recorders(self) -> Vec<Recorder> {
        self.witnesses.into_iter().map(Witness::into_recorder).collect()
    }
}
