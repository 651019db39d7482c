//! What is the matter with a cluster, in one piece: the cause that explains most, what goes on in spite
//! of it, what waits, and what to do next. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_proto::v1::{
    GetStatusResponse, MasterStatus, RangeStatus, RangeTotals, StoreDuty, StoreLiveness,
    StoreStatus,
};

use super::warnings::About;

/// A healthy disk syncs in less, by far: microseconds.
const SYNC_SLOW_US: u64 = 200_000;

/// See the module. All is empty where nothing is the matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) problem: String,
    pub(super) works: String,
    pub(super) waits: String,
    pub(super) next_step: String,
    pub(super) told: Told,
}

/// Whom a verdict names, or counts: a warning that says no more than that is not needed beside it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The addresses of masters.
    masters: BTreeSet<String>,
    /// The ids of stores.
    stores: BTreeSet<u64>,
    /// Every range that has no leader.
    leaderless: bool,
    /// The lack of stores for the first range.
    bootstrap: bool,
}

impl Told {
    pub(super) fn explains(&self, about: &About) -> bool {
        match about {
            About::Master(address) => self.masters.contains(address),
            About::Store(id) => self.stores.contains(id),
            About::Leaderless => self.leaderless,
            About::Bootstrap => self.bootstrap,
            About::Cluster => false,
        }
    }

    /// These servers are silent.
    fn silent(servers: &Silent<'_>) -> Self {
        Self {
            masters: servers.masters.iter().map(|it| it.address.clone()).collect(),
            stores: servers.stores.iter().map(|it| it.store_id).collect(),
            ..Self::default()
        }
    }
}

/// What a verdict is made of beside the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// A leading master has answered.
    pub(super) is_led: bool,
    /// Some master belongs to a cluster.
    pub(super) is_formed: bool,
    /// This gateway was given masters.
    pub(super) has_masters: bool,
    /// Stores that are missing for the first range; `None`: it is there.
    pub(super) stores_missing: Option<usize>,
}

/// The verdict on a picture of which all but this is made. `ranges`: all of them.
pub(super) fn verdict(
    picture: &GetStatusResponse,
    ranges: &[RangeStatus],
    facts: Facts,
) -> Verdict {
    let mut totals = picture.range_totals.unwrap_or_default();
    let leaderless: Vec<_> = ranges.iter().filter(|range| !is_led(picture, range)).collect();
    totals.led = totals.ranges.saturating_sub(leaderless.len() as u64);
    if facts.has_masters && !facts.is_led && !facts.is_formed {
        return forming(&picture.masters);
    }
    if facts.has_masters && !facts.is_led {
        return without_masters(picture, totals);
    }
    if let Some(missing) = facts.stores_missing {
        return without_ranges(missing);
    }
    if totals.led < totals.ranges {
        return without_leaders(picture, &leaderless, totals);
    }
    let silent = Silent::of(picture, |master| !is_heard(master));
    if !silent.is_empty() {
        return without_servers(&silent);
    }
    slow_disk(&picture.stores).unwrap_or_default()
}

fn forming(masters: &[MasterStatus]) -> Verdict {
    let waiting = masters.iter().filter(|master| !master.waits_for.is_empty());
    let waiting: Vec<_> =
        waiting.map(|master| format!("{}: {}", one_master(master), master.waits_for)).collect();
    let silent: Vec<_> = masters.iter().filter(|master| !master.answers).collect();
    let why = match waiting[..] {
        [] => "no master answers".to_owned(),
        _ => waiting.join("; "),
    };
    Verdict {
        problem: format!("the cluster is still forming: {why}"),
        works: "nothing yet".to_owned(),
        waits: "everything".to_owned(),
        next_step: match silent[..] {
            [] => "wait some seconds; if it stays so, read the logs of the masters".to_owned(),
            _ => {
                let silent = listed(silent.iter().map(|master| one_master(master)));
                format!("start {silent}, with the same list of masters as the others")
            }
        },
        told: Told::default(),
    }
}

fn without_masters(picture: &GetStatusResponse, totals: RangeTotals) -> Verdict {
    let masters = &picture.masters;
    let voters = || masters.iter().filter(|master| master.is_voter);
    let answering = voters().filter(|master| master.answers).count();
    let needed = voters().count() / 2 + 1;
    let since = masters.iter().filter(|it| it.answers).map(|it| it.leaderless_ms).max();
    let since = match since {
        Some(ms) if ms >= 1_000 => format!(", for {} s", ms / 1_000),
        _ => String::new(),
    };
    let leaderless = totals.ranges.saturating_sub(totals.led);
    let ranges = match leaderless {
        0 => String::new(),
        1 => "; and 1 range has no leader".to_owned(),
        count => format!("; and {count} ranges have no leader"),
    };
    let lost = answering < needed;
    let count = voters().count();
    let problem = match lost {
        true => format!(
            "the masters have no majority{since}: {answering} of {count} answer, {needed} are needed{ranges}"
        ),
        false => {
            format!("no master leads{since}, although {answering} of {count} answer{ranges}")
        }
    };
    let orders = "splits, moves, repairs, new stores, and every order of an operator";
    let silent = Silent::of(picture, |master| !master.answers);
    Verdict {
        problem,
        works: what_works(totals),
        waits: match leaderless {
            0 => orders.to_owned(),
            _ => format!("the locks of ranges without a leader; {orders}"),
        },
        next_step: match lost {
            true => silent.start(),
            false => {
                "look again in some seconds: an election may be under way; if it stays so, read \
                      the logs of the masters"
                    .to_owned()
            }
        },
        told: Told { leaderless: true, ..Told::silent(&silent) },
    }
}

fn without_ranges(missing: usize) -> Verdict {
    Verdict {
        problem: match missing {
            0 => "the first range is being made".to_owned(),
            1 => "the cluster has no range yet: it waits for 1 more store".to_owned(),
            _ => format!("the cluster has no range yet: it waits for {missing} more stores"),
        },
        works: "nothing yet".to_owned(),
        waits: "every lock".to_owned(),
        next_step: match missing {
            0 => "look again in a second".to_owned(),
            1 => "start 1 more data server".to_owned(),
            _ => format!("start {missing} more data servers"),
        },
        told: Told { bootstrap: true, ..Told::default() },
    }
}

fn without_leaders(
    picture: &GetStatusResponse,
    leaderless: &[&RangeStatus],
    totals: RangeTotals,
) -> Verdict {
    let first = leaderless.first().expect("fewer are led than there are");
    let is_there =
        |id: &u64| picture.stores.iter().any(|store| store.store_id == *id && !is_missed(store));
    let voters = &first.voter_store_ids;
    let there = voters.iter().filter(|id| is_there(id)).count();
    let needed = voters.len() / 2 + 1;
    let is_wanted = |store: &&StoreStatus| {
        leaderless.iter().any(|range| range.voter_store_ids.contains(&store.store_id))
    };
    let mut silent = Silent::of(picture, |master| !is_heard(master));
    silent.stores.retain(is_wanted);
    let nodes: BTreeSet<_> = silent.stores.iter().map(|store| &store.node).collect();
    silent.masters.retain(|master| !master.node.is_empty() && nodes.contains(&master.node));
    let is_missing = !silent.stores.is_empty();
    let which = match leaderless {
        [range] if range.leader_store_id != 0 => {
            format!("the leader of range {} does not answer", range.range_id)
        }
        [range] => format!("range {} has no leader", range.range_id),
        _ => format!(
            "{} ranges have no leader, range {} among them",
            leaderless.len(),
            first.range_id
        ),
    };
    let problem = match there < needed {
        true => {
            format!("{which}: {there} of its {} replicas answer, {needed} are needed", voters.len())
        }
        false => format!("{which}, although {there} of its {} replicas answer", voters.len()),
    };
    let is_lost = is_missing && there < needed;
    Verdict {
        problem,
        works: what_works(totals),
        waits: "acquires, renewals and releases in that: its holders lose their locks with their leases, \
                and nobody else gets these before it has a leader"
            .to_owned(),
        next_step: match is_lost {
            true => format!(
                "{}; if the data is lost for good, `sharklock recover ls` says how to go on",
                silent.start()
            ),
            false => "look again in some seconds: an election may be under way".to_owned(),
        },
        told: Told {
            leaderless: true,
            ..if is_lost { Told::silent(&silent) } else { Told::default() }
        },
    }
}

fn without_servers(silent: &Silent<'_>) -> Verdict {
    let names = silent.names();
    let replaced = match silent.stores[..] {
        [] => "",
        _ => {
            "; a store that stays away is replaced where there are others: `sharklock schedule show`"
        }
    };
    Verdict {
        problem: format!("{} {}", listed(names.iter().cloned()), do_not_answer(names.len())),
        works: match silent.stores[..] {
            [] => "everything: the masters have a majority".to_owned(),
            _ => "every lock: all ranges have leaders".to_owned(),
        },
        waits: String::new(),
        next_step: format!("{}{replaced}", silent.start()),
        told: Told::silent(silent),
    }
}

/// Half of the syncs of the last minute are so slow that every lock there waits for them.
fn slow_disk(stores: &[StoreStatus]) -> Option<Verdict> {
    let slow = stores.iter().filter(|store| store.answers && store.sync_p50_us >= SYNC_SLOW_US);
    let slowest = slow.max_by_key(|store| store.sync_p50_us)?;
    let StoreStatus { store_id, node, address, sync_p50_us, .. } = slowest;
    let store = named("store", *store_id, node, address);
    Some(Verdict {
        problem: format!(
            "the disk of {store} is slow: half of its syncs take {} ms or more",
            sync_p50_us / 1_000
        ),
        works: "every lock, as slowly as that disk where it leads".to_owned(),
        waits: String::new(),
        next_step:
            "look at that disk, and at what else writes to it; `sharklock schedule show` tells \
                    whether leaders move away from it"
                .to_owned(),
        told: Told::default(),
    })
}

fn what_works(RangeTotals { ranges, led, .. }: RangeTotals) -> String {
    match (ranges, led) {
        (0, _) => "nothing that this gateway knows of: no store answers".to_owned(),
        (_, 0) => "looks at the cluster; no lock".to_owned(),
        (ranges, led) if ranges == led => {
            "locks are acquired, renewed and released: all ranges have leaders".to_owned()
        }
        (ranges, led) => {
            format!("locks are acquired, renewed and released in {led} of {ranges} ranges")
        }
    }
}

/// Somebody leads the range, and answers as far as one knows.
fn is_led(picture: &GetStatusResponse, range: &RangeStatus) -> bool {
    let leader = picture.stores.iter().find(|store| store.store_id == range.leader_store_id);
    range.leader_store_id != 0 && leader.is_none_or(|leader| !is_missed(leader))
}

/// A store that should be there, and is not.
pub(super) fn is_missed(store: &StoreStatus) -> bool {
    let is_silent = !store.is_linked || !store.answers;
    let is_lost = matches!(store.liveness(), StoreLiveness::Down | StoreLiveness::Disconnected);
    store.duty() != StoreDuty::Gone && (is_silent || is_lost)
}

fn is_heard(master: &MasterStatus) -> bool {
    master.is_up || master.answers
}

fn do_not_answer(count: usize) -> &'static str {
    if count == 1 { "does not answer" } else { "do not answer" }
}

/// Servers that should answer and do not.
struct Silent<'a> {
    masters: Vec<&'a MasterStatus>,
    stores: Vec<&'a StoreStatus>,
}

impl<'a> Silent<'a> {
    /// Stores that are missed, and masters: `is_silent` of them, and those of the same nodes that do not
    /// answer this gateway either, although the leading master may not miss them yet.
    fn of(picture: &'a GetStatusResponse, is_silent: impl Fn(&MasterStatus) -> bool) -> Self {
        let stores: Vec<_> = picture.stores.iter().filter(|store| is_missed(store)).collect();
        let is_beside = |master: &MasterStatus| {
            let of_its_node = |store: &&StoreStatus| store.node == master.node;
            !master.answers && !master.node.is_empty() && stores.iter().any(of_its_node)
        };
        let masters = picture.masters.iter().filter(|it| is_silent(it) || is_beside(it)).collect();
        Self { masters, stores }
    }

    fn is_empty(&self) -> bool {
        self.masters.is_empty() && self.stores.is_empty()
    }

    /// Each process once, by the name that people gave it.
    fn names(&self) -> Vec<String> {
        let mut nodes: BTreeMap<&str, Vec<(&str, u64, &str)>> = BTreeMap::new();
        for it in &self.masters {
            nodes.entry(&it.node).or_default().push(("master", it.member_id, &it.address));
        }
        for it in &self.stores {
            nodes.entry(&it.node).or_default().push(("store", it.store_id, &it.address));
        }
        let mut names = Vec::new();
        for (node, mut roles) in nodes {
            roles.sort_unstable();
            match (node, &roles[..]) {
                ("", _) => names.extend(roles.iter().map(|(it, id, at)| named(it, *id, "", at))),
                (_, [(it, id, at)]) => names.push(named(it, *id, node, at)),
                _ => {
                    let roles = roles.iter().map(|(it, id, at)| named(it, *id, "", at));
                    names.push(format!("{node} ({})", roles.collect::<Vec<_>>().join(", ")));
                }
            }
        }
        names
    }

    /// What to do about them. A process that takes connections and says nothing may stand still.
    fn start(&self) -> String {
        let stands_still = |store: &&&StoreStatus| store.is_linked && !store.answers;
        let paused = if self.stores.iter().any(|store| stands_still(&store)) {
            ", or resume it if it stands still (SIGSTOP, swapping)"
        } else {
            ""
        };
        format!("start {}{paused}", listed(self.names().into_iter()))
    }
}

fn one_master(master: &MasterStatus) -> String {
    named("master", master.member_id, &master.node, &master.address)
}

/// `store 2 (node-3, 127.0.0.1:7910)`.
pub(super) fn named(what: &str, id: u64, node: &str, address: &str) -> String {
    let number = if id == 0 { String::new() } else { format!(" {id}") };
    match node {
        "" => format!("{what}{number} at {address}"),
        node => format!("{what}{number} ({node}, {address})"),
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    match &names[..] {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(id: u64, answers: bool) -> MasterStatus {
        MasterStatus {
            member_id: id,
            address: format!("h{id}:7720"),
            node: format!("node-{id}"),
            answers,
            is_up: answers,
            is_voter: true,
            ..MasterStatus::default()
        }
    }

    fn store(id: u64, answers: bool) -> StoreStatus {
        StoreStatus {
            store_id: id,
            address: format!("h{id}:7710"),
            node: format!("node-{id}"),
            is_linked: answers,
            answers,
            ..StoreStatus::default()
        }
    }

    fn range(id: u64, leader: u64) -> RangeStatus {
        RangeStatus {
            range_id: id,
            leader_store_id: leader,
            voter_store_ids: vec![1, 2, 3],
            ..RangeStatus::default()
        }
    }

    /// Masters and stores 1 to 3, of which these answer.
    fn picture(up: &[u64], ranges: &[RangeStatus]) -> GetStatusResponse {
        let led = ranges.iter().filter(|range| range.leader_store_id > 0).count() as u64;
        let totals = RangeTotals { ranges: ranges.len() as u64, led, ..RangeTotals::default() };
        GetStatusResponse {
            masters: (1..=3).map(|id| master(id, up.contains(&id))).collect(),
            stores: (1..=3).map(|id| store(id, up.contains(&id))).collect(),
            range_totals: Some(totals),
            ..GetStatusResponse::default()
        }
    }

    const WELL: Facts =
        Facts { is_led: true, is_formed: true, has_masters: true, stores_missing: None };

    #[test]
    fn nothing_is_said_of_a_cluster_that_is_well() {
        let ranges = [range(1, 2)];
        assert_eq!(verdict(&picture(&[1, 2, 3], &ranges), &ranges, WELL), Verdict::default());
    }

    #[test]
    fn a_majority_that_is_lost_explains_the_rest() {
        let mut ranges = vec![range(1, 1)];
        let mut seen = picture(&[1], &ranges);
        seen.masters[0].leaderless_ms = 42_300;
        let facts = Facts { is_led: false, ..WELL };
        let told = verdict(&seen, &ranges, facts);
        assert_eq!(
            told.problem,
            "the masters have no majority, for 42 s: 1 of 3 answer, 2 are needed"
        );
        assert!(told.works.starts_with("locks are acquired"), "{told:?}");
        let node = |id| format!("node-{id} (master {id} at h{id}:7720, store {id} at h{id}:7710)");
        assert_eq!(told.next_step, format!("start {} and {}", node(2), node(3)));
        seen.masters[1].is_voter = false;
        let told = verdict(&seen, &ranges, facts);
        assert!(told.problem.ends_with("1 of 2 answer, 2 are needed"), "{told:?}");
        ranges[0].leader_store_id = 0;
        let told = verdict(&picture(&[1], &ranges), &ranges, facts);
        assert!(told.problem.ends_with("; and 1 range has no leader"), "{told:?}");
        assert_eq!(told.works, "looks at the cluster; no lock");
        let told = verdict(&picture(&[1, 2], &ranges), &ranges, facts);
        assert!(told.problem.starts_with("no master leads, although 2 of 3 answer"), "{told:?}");
    }

    #[test]
    fn a_cluster_that_forms_says_who_is_missing() {
        let mut seen = picture(&[1], &[]);
        for master in &mut seen.masters {
            (master.member_id, master.node) = (0, String::new());
        }
        seen.masters[0].waits_for = "it has not met h2:7720, h3:7720".to_owned();
        let facts = Facts { is_led: false, is_formed: false, ..WELL };
        let told = verdict(&seen, &[], facts);
        assert_eq!(
            told.problem,
            "the cluster is still forming: master at h1:7720: it has not met h2:7720, h3:7720"
        );
        assert!(told.next_step.starts_with("start master at h2:7720 and master at h3:7720, "));
        let told =
            verdict(&picture(&[1, 2, 3], &[]), &[], Facts { stores_missing: Some(2), ..WELL });
        assert!(told.problem.ends_with("it waits for 2 more stores"), "{told:?}");
    }

    #[test]
    fn a_range_without_a_majority_names_the_stores_that_are_missing() {
        let ranges = [range(1, 1), range(7, 0)];
        let told = verdict(&picture(&[1], &ranges), &ranges, WELL);
        assert_eq!(told.problem, "range 7 has no leader: 1 of its 3 replicas answer, 2 are needed");
        assert_eq!(told.works, "locks are acquired, renewed and released in 1 of 2 ranges");
        assert!(told.next_step.starts_with("start node-2 (master 2 at h2:7720, "), "{told:?}");
        let told = verdict(&picture(&[1, 3], &ranges), &ranges, WELL);
        assert_eq!(told.problem, "range 7 has no leader, although 2 of its 3 replicas answer");
        let told = verdict(&picture(&[2, 3], &[range(1, 1)]), &[range(1, 1)], WELL);
        let problem = "the leader of range 1 does not answer, although 2 of its 3 replicas answer";
        assert_eq!(told.problem, problem);
        assert!(told.next_step.contains("an election may be under way"), "{told:?}");
    }

    #[test]
    fn one_that_is_down_is_named_with_what_goes_on() {
        let ranges = [range(1, 1)];
        let told = verdict(&picture(&[1, 2], &ranges), &ranges, WELL);
        let node = "node-3 (master 3 at h3:7720, store 3 at h3:7710)";
        assert_eq!(told.problem, format!("{node} does not answer"));
        for about in [About::Master("h3:7720".to_owned()), About::Store(3)] {
            assert!(told.told.explains(&about), "{about:?}");
        }
        assert!(!told.told.explains(&About::Store(2)) && !told.told.explains(&About::Cluster));
        let mut seen = picture(&[1, 2], &ranges);
        (seen.masters[2].is_up, seen.stores[2].is_linked) = (true, true);
        let told = verdict(&seen, &ranges, WELL);
        assert_eq!(told.problem, format!("{node} does not answer"));
        assert!(told.next_step.contains("resume it if it stands still"), "{told:?}");
        seen.masters[2].is_up = false;
        seen.stores.truncate(2);
        let told = verdict(&seen, &ranges, WELL);
        assert_eq!(told.problem, "master 3 (node-3, h3:7720) does not answer");
        seen.masters.truncate(2);
        assert_eq!(verdict(&seen, &ranges, WELL), Verdict::default());
        seen.stores[1].sync_p50_us = 301_000;
        let told = verdict(&seen, &ranges, WELL);
        let slow =
            "the disk of store 2 (node-2, h2:7710) is slow: half of its syncs take 301 ms or more";
        assert_eq!(told.problem, slow);
    }
}
