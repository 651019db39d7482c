//! The faults of a cluster, a sentence each, with what each is about. Pure.

use std::collections::BTreeSet;

use sharklock_proto::v1::{MasterStatus, RangeStatus, StoreDuty, StoreLiveness, StoreStatus};

use super::{range_view::faults, verdict::named};

/// A status warns of so many ranges one by one.
const RANGES_MAX: usize = 10;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) about: About,
    pub(super) text: String,
}

/// What a fault follows from, if that is told already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A master at this address that is silent.
    Master(String),
    /// A store with this id that is silent.
    Store(u64),
    /// A range that nobody leads.
    Leaderless,
    /// There are too few stores for the first range.
    Bootstrap,
    /// It stands for itself.
    Cluster,
}

impl Warning {
    fn new(about: About, text: impl Into<String>) -> Self {
        Self { about, text: text.into() }
    }
}

/// Masters of which the leading one does not hear.
pub(super) fn of_masters(masters: &[MasterStatus]) -> impl Iterator<Item = Warning> {
    masters.iter().filter(|master| !master.is_up).map(|master| {
        let MasterStatus { member_id, address, node, .. } = master;
        let text = format!("{} is down", named("master", *member_id, node, address));
        Warning::new(About::Master(address.clone()), text)
    })
}

/// There are so many stores too few for the first range.
pub(super) fn of_bootstrap(missing: usize) -> Warning {
    let text = match missing {
        0 => "the first range is being made: no lock can be taken yet".to_owned(),
        1 => {
            "waiting for 1 more store to make the first range: no lock can be taken yet".to_owned()
        }
        _ => format!(
            "waiting for {missing} more stores to make the first range: no lock can be taken yet"
        ),
    };
    Warning::new(About::Bootstrap, text)
}

/// Stores that are silent, have lost something, or are full.
pub(super) fn of_stores(stores: &[StoreStatus]) -> Vec<Warning> {
    // One that was declared gone is missed by nobody.
    let wanted = stores.iter().filter(|store| store.duty() != StoreDuty::Gone);
    let silent = wanted.filter_map(|store| {
        let told = format!("{} {}", name(store), silence(store)?);
        Some(Warning::new(About::Store(store.store_id), told))
    });
    let ailing = stores.iter().flat_map(|store| {
        let ailing = store.lost_replicas.iter().chain(&store.behind_replicas);
        ailing.map(move |why| Warning::new(About::Cluster, format!("{}: {why}", name(store))))
    });
    let full = stores.iter().filter(|store| store.state_alarm).map(|store| {
        let (store, used, max) = (name(store), store.state_bytes, store.state_bytes_max);
        let text = format!(
            "the locks of {store} take {used} bytes of memory, and beyond {max} (memory.store_max) \
             nobody can acquire there"
        );
        Warning::new(About::Cluster, text)
    });
    silent.chain(ailing).chain(full).collect()
}

fn name(store: &StoreStatus) -> String {
    named("store", store.store_id, &store.node, &store.address)
}

fn silence(store: &StoreStatus) -> Option<String> {
    let seconds = store.heard_ms / 1_000;
    match store.liveness() {
        StoreLiveness::Down => Some(format!("is down: not heard of for {seconds} s")),
        StoreLiveness::Disconnected => Some(format!("has not been heard of for {seconds} s")),
        StoreLiveness::Up | StoreLiveness::Unspecified if !store.is_linked => {
            Some("is not connected to this gateway".to_owned())
        }
        StoreLiveness::Up | StoreLiveness::Unspecified if !store.answers => {
            Some("does not answer this gateway".to_owned())
        }
        StoreLiveness::Up | StoreLiveness::Unspecified => None,
    }
}

/// The first ranges that wait for something one by one, and how many more do. `answered`: the stores
/// that have answered.
pub(super) fn of_ranges(ranges: &[RangeStatus], answered: &BTreeSet<u64>) -> Vec<Warning> {
    let mut waiting = ranges.iter().filter(|range| !range.waits_for.is_empty());
    let first = waiting.by_ref().take(RANGES_MAX);
    let mut warnings: Vec<_> = first.flat_map(|range| faults(range, answered)).collect();
    let more = match waiting.count() {
        0 => return warnings,
        1 => "1 more range waits for something: list all ranges".to_owned(),
        more => format!("{more} more ranges wait for something: list all ranges"),
    };
    warnings.push(Warning::new(About::Cluster, more));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_waits_for_stores_says_for_how_many() {
        let said = [3, 2, 1, 0].map(|missing| of_bootstrap(missing).text);
        let expected = [
            "waiting for 3 more stores to",
            "waiting for 2 more stores to",
            "waiting for 1 more store to",
            "the first range is being made",
        ];
        for (said, begins) in said.iter().zip(expected) {
            assert!(said.starts_with(begins), "{said}");
        }
    }
}
