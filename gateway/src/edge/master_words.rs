//! What each master says of itself, asked now and then: so that there is something to tell when none
//! leads any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sharklock_proto::internal::v1::DescribeMasterResponse;
use sharklock_transport::wall_unix_ms;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{
    cluster_view::cluster_name,
    directory::Directory,
    fan_out::{Bounds, FanOut},
    host::Host,
    verdict::named,
};

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The same while no cluster is known: who waits for one to form wants to see it come.
const ASK_EVERY_FORMING: Duration = Duration::from_secs(1);
/// A master answers from memory.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// One master, as far as this gateway has heard of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    /// What it said last; `None`: it has never answered.
    pub(super) said: Option<DescribeMasterResponse>,
    /// It has answered the last question.
    pub(super) answers: bool,
    /// Since it has answered; zero if it never has, or does so.
    pub(super) silent: Duration,
    /// How far its wall clock was ahead of this process's, milliseconds.
    pub(super) clock_ahead_ms: i64,
}

/// What is remembered of one.
#[derive(Debug, Default)]
struct Memory {
    said: Option<DescribeMasterResponse>,
    answers: bool,
    answered: Option<Instant>,
    clock_ahead_ms: i64,
}

/// What all masters have said, by the address at which they were asked.
#[derive(Debug, Default)]
pub(super) struct MasterWords(Mutex<BTreeMap<String, Memory>>);

impl MasterWords {
    /// Asks all that are known, at once. `served`: the cluster of this gateway, as hex, if it knows one:
    /// the word of another cluster's master counts for nothing.
    pub(super) async fn ask(&self, masters: &Arc<dyn Directory>, served: Option<&str>) {
        let addresses = self.addresses(&**masters);
        let all = Instant::now() + ANSWERS_WITHIN;
        let bounds = Bounds { at_once: addresses.len().max(1), each: ANSWERS_WITHIN, all };
        let mut asking = FanOut::new(addresses.iter().cloned(), bounds, |address| {
            let masters = masters.clone();
            async move {
                let asked = wall_unix_ms();
                let said = masters.describe_master(&address).await;
                // Its clock was read somewhere between the two.
                let middle = asked.midpoint(wall_unix_ms());
                (address, said.map(|said| (said.unix_ms as i64 - middle as i64, said)))
            }
        });
        let mut answers = BTreeMap::new();
        while let Some((_, (address, said))) = asking.next().await {
            match said {
                Ok((_, said)) if is_of_another(&said, served) => {}
                Ok((ahead_ms, said)) => drop(answers.insert(address, Some((ahead_ms, said)))),
                // An older program answers, and has nothing to say of itself.
                Err(status) if status.code() == Code::Unimplemented => {
                    answers.insert(address, None);
                }
                Err(_silent) => {}
            }
        }
        let mut memories = self.memories();
        memories.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let answer = answers.remove(&address);
            let memory = memories.entry(address).or_default();
            memory.answers = answer.is_some();
            if let Some(said) = answer {
                memory.answered = Some(Instant::now());
                memory.clock_ahead_ms = said.as_ref().map_or(0, |(ahead_ms, _)| *ahead_ms);
                memory.said = said.map(|(_, said)| said);
            }
        }
    }

    /// Everything that was said, by address.
    pub(super) fn words(&self) -> BTreeMap<String, Word> {
        let word = |memory: &Memory| {
            let silent = match (memory.answers, memory.answered) {
                (false, Some(answered)) => answered.elapsed(),
                _ => Duration::ZERO,
            };
            Word {
                said: memory.said.clone(),
                answers: memory.answers,
                silent,
                clock_ahead_ms: memory.clock_ahead_ms,
            }
        };
        self.memories().iter().map(|(address, memory)| (address.clone(), word(memory))).collect()
    }

    /// What the masters wait for while there is no cluster, in words for people.
    pub(super) fn wait_for(&self) -> String {
        let words = self.words();
        let waiting: Vec<_> = words
            .iter()
            .filter_map(|(address, word)| {
                let said = word.said.as_ref().filter(|_| word.answers)?;
                let waits = match said.waits_for.as_str() {
                    "" => "it knows no leading master",
                    waits => waits,
                };
                Some(format!("{}: {waits}", named("master", said.member_id, &said.node, address)))
            })
            .collect();
        match &waiting[..] {
            [] if words.is_empty() => "this gateway has asked no master yet".to_owned(),
            [] => {
                let asked: Vec<_> = words.into_keys().collect();
                format!("no master answers at {}", asked.join(", "))
            }
            _ => waiting.join("; "),
        }
    }

    /// The masters of the list, and those that they have named.
    fn addresses(&self, masters: &dyn Directory) -> BTreeSet<String> {
        let mut addresses: BTreeSet<String> = masters.addresses().into_iter().collect();
        let memories = self.memories();
        let said = memories.values().filter_map(|memory| memory.said.as_ref());
        // One that has joined knows who the others are today, whoever is on the list.
        let newest = said.max_by_key(|said| said.term);
        if let Some(newest) = newest.filter(|newest| !newest.members.is_empty()) {
            addresses.extend(newest.members.iter().map(|member| member.address.clone()));
        }
        addresses
    }

    fn memories(&self) -> MutexGuard<'_, BTreeMap<String, Memory>> {
        // A panic cannot leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_another(said: &DescribeMasterResponse, served: Option<&str>) -> bool {
    let told = format!("{:x}", said.cluster_id);
    served.is_some_and(|served| !told.is_empty() && told != served)
}

/// Asks for as long as the gateway serves.
pub(super) async fn keep_asking(host: Arc<Host>) {
    let Some(masters) = host.masters.clone() else { return std::future::pending().await };
    loop {
        host.master_words.ask(&masters, host.cluster.id()).await;
        if let Some(name) = cluster_name(&host.master_words.words()) {
            host.cluster.call(&name);
        }
        sleep(match host.cluster.id() {
            Some(_) => ASK_EVERY,
            None => ASK_EVERY_FORMING,
        })
        .await;
    }
}
