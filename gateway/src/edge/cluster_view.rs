//! The cluster as one picture: what its stores and its masters say of it, and what is wrong. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_proto::{
    internal::v1::{GetClusterResponse, StoreAddress, StoreDescription, StoreState},
    v1::{GetStatusResponse, MasterStatus, RangeStatus, StoreLiveness, StoreStatus},
};

use super::{
    Config,
    cluster::OtherCluster,
    master_words::Word,
    range_view::{ranges, shown, store_id, totals},
    verdict::{Facts, Verdict, verdict},
    warnings::{self, About, Warning},
};

/// The answers of everybody.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Of the stores that answered.
    pub(super) described: Vec<StoreDescription>,
    /// Of the leading master.
    pub(super) cluster: Masters,
    /// The stores that the masters have ever named to this gateway.
    pub(super) named: Vec<StoreAddress>,
    /// The stores to which this gateway has a connection.
    pub(super) linked: BTreeSet<u64>,
    /// For how long it has had none to those that it was connected to.
    pub(super) lost: BTreeMap<u64, Duration>,
    /// What each master says of itself, by its address.
    pub(super) words: BTreeMap<String, Word>,
}

/// The words of the masters.
#[derive(Debug, Default)]
pub(super) enum Masters {
    /// This gateway knows none.
    #[default]
    None,
    /// None that leads has answered.
    Silent,
    /// The leading one.
    Leading(GetClusterResponse),
    /// They answer for another cluster, which is none of this gateway's business.
    Other(OtherCluster),
}

/// The whole picture.
pub(super) fn picture(seen: Seen, config: &Config) -> GetStatusResponse {
    let mut warnings = Vec::new();
    let ranges = ranges(&seen.described);
    let answered: BTreeSet<u64> = seen.described.iter().map(store_id).collect();
    let said = || seen.words.values().filter_map(|word| word.said.as_ref());
    let cluster_name = cluster_name(&seen.words).unwrap_or_else(|| config.cluster_name.clone());
    let mut facts = Facts {
        is_led: matches!(seen.cluster, Masters::Leading(_)),
        is_formed: !seen.described.is_empty() || said().any(|said| said.member_id > 0),
        has_masters: !matches!(seen.cluster, Masters::None | Masters::Other(_)),
        stores_missing: None,
    };
    let mut picture = GetStatusResponse {
        version: config.version.clone(),
        node: config.node.clone(),
        admin_address: config.admin_address.clone(),
        commit: config.commit.clone(),
        cluster_name,
        masters: masters_alone(&seen.words),
        range_totals: Some(totals(&ranges)),
        ..GetStatusResponse::default()
    };
    match &seen.cluster {
        Masters::None => {}
        // The verdict says all about it.
        Masters::Silent => {}
        Masters::Other(why) => {
            picture.masters = Vec::new();
            let text = format!("the masters' addresses answer for {why}");
            warnings.push(Warning { about: About::Cluster, text });
        }
        Masters::Leading(cluster) => {
            picture.cluster_id = format!("{:x}", cluster.cluster_id);
            picture.masters = masters(cluster);
            complete_masters(&mut picture.masters, &seen.words);
            facts.stores_missing = stores_missing(cluster);
            warnings.extend(warnings::of_masters(&picture.masters));
            warnings.extend(facts.stores_missing.map(warnings::of_bootstrap));
        }
    }
    if let Some(first) = seen.described.first() {
        picture.cluster_id.clone_from(&first.cluster_id);
    }
    picture.stores = stores(seen);
    warnings.extend(warnings::of_stores(&picture.stores));
    warnings.extend(warnings::of_ranges(&ranges, &answered));
    let Verdict { problem, works, waits, next_step, told } = verdict(&picture, &ranges, facts);
    (picture.problem, picture.works) = (problem, works);
    (picture.waits, picture.next_step) = (waits, next_step);
    picture.ranges = shown(ranges);
    for Warning { about, text } in warnings {
        if !told.explains(&about) {
            picture.unexplained_warnings.push(text.clone());
        }
        picture.warnings.push(text);
    }
    picture
}

/// What the masters call the cluster.
pub(super) fn cluster_name(words: &BTreeMap<String, Word>) -> Option<String> {
    let said = words.values().filter_map(|word| word.said.as_ref());
    said.map(|said| said.cluster_name.clone()).find(|name| !name.is_empty())
}

/// The masters as each of them says while none leads, in order of their ids.
fn masters_alone(words: &BTreeMap<String, Word>) -> Vec<MasterStatus> {
    let said = words.values().filter_map(|word| word.said.as_ref());
    let newest = said.max_by_key(|said| said.term);
    let members = newest.map(|newest| newest.members.as_slice()).unwrap_or_default();
    let of = |(address, word): (&String, &Word)| {
        let member = members.iter().find(|member| member.address == *address);
        MasterStatus {
            member_id: member.map_or(0, |it| it.member_id),
            address: address.clone(),
            is_up: word.answers,
            is_voter: member.is_none_or(|it| !it.is_learner),
            ..MasterStatus::default()
        }
    };
    let mut masters: Vec<_> = words.iter().map(of).collect();
    // What is only on this gateway's list is no member any more.
    if newest.is_some_and(|newest| !newest.members.is_empty()) {
        masters.retain(|master| master.member_id > 0);
    }
    complete_masters(&mut masters, words);
    masters.sort_by(|a, b| (a.member_id, &a.address).cmp(&(b.member_id, &b.address)));
    masters
}

/// Adds what each master says of itself.
pub(super) fn complete_masters(masters: &mut [MasterStatus], words: &BTreeMap<String, Word>) {
    for master in masters {
        let Some(word) = words.get(&master.address) else { continue };
        master.answers = word.answers;
        master.silent_ms = word.silent.as_millis() as u64;
        let Some(said) = &word.said else { continue };
        master.node.clone_from(&said.node);
        master.version.clone_from(&said.version);
        master.admin_address.clone_from(&said.admin_address);
        if word.answers {
            master.term = master.term.max(said.term);
            master.leaderless_ms = said.leaderless_ms;
            master.clock_ahead_ms = word.clock_ahead_ms;
            master.waits_for.clone_from(&said.waits_for);
        }
    }
}

/// The masters in order of their ids.
pub(super) fn masters(cluster: &GetClusterResponse) -> Vec<MasterStatus> {
    let leader = cluster.masters.iter().find(|master| master.is_leader);
    let last = leader.map_or(0, |leader| leader.matched_index);
    let mut masters: Vec<_> = cluster
        .masters
        .iter()
        .map(|master| MasterStatus {
            member_id: master.member_id,
            address: master.address.clone(),
            is_leader: master.is_leader,
            is_up: master.is_up,
            term: master.term,
            lag: last.saturating_sub(master.matched_index),
            is_voter: master.is_voter,
            is_leaving: master.is_leaving,
            step: master.step.clone(),
            ..MasterStatus::default()
        })
        .collect();
    masters.sort_by_key(|master| master.member_id);
    masters
}

/// All stores of which anybody has told, in order of their ids.
fn stores(seen: Seen) -> Vec<StoreStatus> {
    let mut stores: BTreeMap<u64, StoreStatus> = BTreeMap::new();
    let answered: BTreeSet<u64> = seen.described.iter().map(store_id).collect();
    let said = seen.words.values().filter_map(|word| word.said.as_ref());
    for told in said.max_by_key(|said| said.term).map_or(&[][..], |said| &said.stores) {
        let status = StoreStatus {
            store_id: told.store_id,
            ident: format!("{:x}", told.ident),
            address: told.address.clone(),
            node: told.node.clone(),
            duty: told.duty,
            labels: told.labels.clone(),
            version: told.version.clone(),
            ..StoreStatus::default()
        };
        stores.insert(told.store_id, status);
    }
    for StoreAddress { store_id, ident, address } in seen.named {
        let status = stores.entry(store_id).or_default();
        (status.store_id, status.ident) = (store_id, format!("{ident:x}"));
        status.address = address;
    }
    for StoreDescription { store, ranges, .. } in seen.described {
        let Some(mut status) = store else { continue };
        let is_led = |range: &&RangeStatus| range.leader_store_id == status.store_id;
        status.leaders_count = ranges.iter().filter(is_led).count() as u32;
        status.replicas_count = ranges.len() as u32;
        if let Some(known) = stores.remove(&status.store_id) {
            (status.duty, status.labels, status.version) =
                (known.duty, known.labels, known.version);
        }
        stores.insert(status.store_id, status);
    }
    if let Masters::Leading(cluster) = seen.cluster {
        for told in cluster.stores {
            let liveness = match told.state() {
                StoreState::Unspecified => StoreLiveness::Unspecified,
                StoreState::Up => StoreLiveness::Up,
                StoreState::Disconnected => StoreLiveness::Disconnected,
                StoreState::Down => StoreLiveness::Down,
            };
            let status = stores.entry(told.store_id).or_default();
            status.duty = told.duty;
            status.labels = told.labels;
            if !told.node.is_empty() {
                status.node = told.node;
            }
            status.version = told.version;
            status.store_id = told.store_id;
            status.ident = format!("{:x}", told.ident);
            status.address = told.address;
            status.set_liveness(liveness);
            status.heard_ms = told.heard_ms;
            status.replicas_count = told.replicas_count;
            status.leaders_count = told.leaders_count;
        }
    }
    for status in stores.values_mut() {
        status.is_linked = seen.linked.contains(&status.store_id);
        status.answers = answered.contains(&status.store_id);
        let lost = seen.lost.get(&status.store_id).copied().unwrap_or_default();
        status.silent_ms = if status.answers { 0 } else { lost.as_millis() as u64 };
    }
    stores.into_values().collect()
}

/// Stores that are missing for the first range; `None`: the cluster has it.
fn stores_missing(cluster: &GetClusterResponse) -> Option<usize> {
    let up = cluster.stores.iter().filter(|store| store.state() == StoreState::Up).count();
    let missing = (cluster.replicas_wanted as usize).saturating_sub(up);
    (!cluster.is_bootstrapped).then_some(missing)
}

#[cfg(test)]
mod tests {
    use sharklock_proto::{
        internal::v1::{ClusterStore, DescribeMasterResponse, MasterAddress, MasterMember},
        v1::{RangeStatus, ReplicaStatus},
    };

    use super::{
        super::{cluster::Served, range_view::LAG_WARNED},
        *,
    };

    fn description(store_id: u64, ranges: &[(u64, u64, u64)]) -> StoreDescription {
        let status = |&(range_id, leader_store_id, term): &(u64, u64, u64)| RangeStatus {
            range_id,
            leader_store_id,
            term,
            // So that the view that was taken can be told.
            locks: store_id,
            ..RangeStatus::default()
        };
        StoreDescription {
            cluster_id: "c1".to_owned(),
            store: Some(StoreStatus { store_id, uptime_ms: 7, ..StoreStatus::default() }),
            ranges: ranges.iter().map(status).collect(),
            ..StoreDescription::default()
        }
    }

    fn store(store_id: u64, state: StoreState, heard_ms: u64) -> ClusterStore {
        let address = format!("host{store_id}:7710");
        ClusterStore { store_id, address, state: state.into(), heard_ms, ..Default::default() }
    }

    fn master(member_id: u64, is_leader: bool, is_up: bool, matched_index: u64) -> MasterMember {
        let address = format!("host{member_id}:7720");
        MasterMember { member_id, address, is_leader, is_up, matched_index, ..Default::default() }
    }

    fn healthy() -> Seen {
        let cluster = GetClusterResponse {
            cluster_id: vec![0xc1].into(),
            masters: vec![master(2, false, true, 90), master(1, true, true, 100)],
            stores: (1..=3).map(|id| store(id, StoreState::Up, 200)).collect(),
            replicas_wanted: 3,
            is_bootstrapped: true,
            waiting_masters: Vec::new(),
        };
        Seen {
            described: (1..=3).map(|id| description(id, &[(1, 2, 6)])).collect(),
            cluster: Masters::Leading(cluster),
            named: Vec::new(),
            linked: (1..=3).collect(),
            lost: BTreeMap::new(),
            words: [word(1, 1), word(2, 1)].into(),
        }
    }

    /// The word of a master that follows this one; 0: none.
    fn word(member_id: u64, leader: u64) -> (String, Word) {
        let address = |id: u64| format!("host{id}:7720");
        let member = |member_id| MasterAddress {
            member_id,
            address: address(member_id),
            ..MasterAddress::default()
        };
        let said = DescribeMasterResponse {
            member_id,
            address: address(member_id),
            node: format!("n{member_id}"),
            cluster_name: "prod".to_owned(),
            leader: if leader == 0 { String::new() } else { address(leader) },
            leaderless_ms: if leader == 0 { 9_000 } else { 0 },
            members: (1..=2).map(member).collect(),
            ..DescribeMasterResponse::default()
        };
        let word = Word { said: Some(said), answers: true, ..Word::default() };
        (address(member_id), word)
    }

    fn config() -> Config {
        Config { version: "1.2.3".to_owned(), node: "n1".to_owned(), ..Config::default() }
    }

    #[test]
    fn a_healthy_cluster_has_no_warnings() {
        let picture = picture(healthy(), &config());
        assert_eq!(picture.version, "1.2.3");
        assert_eq!(picture.warnings, Vec::<String>::new());
        let masters: Vec<_> = picture.masters.iter().map(|it| (it.member_id, it.lag)).collect();
        assert_eq!(masters, [(1, 0), (2, 10)]);
        let store = &picture.stores[2];
        assert_eq!((store.store_id, store.uptime_ms, store.heard_ms), (3, 7, 200));
        assert!(store.is_linked && store.answers && store.liveness() == StoreLiveness::Up);
        assert_eq!((picture.node.as_str(), picture.cluster_name.as_str()), ("n1", "prod"));
        assert_eq!((picture.masters[1].node.as_str(), picture.problem.as_str()), ("n2", ""));
    }

    #[test]
    fn masters_of_another_cluster_are_told_apart() {
        let served = Served::default();
        served.take(&[0xc1; 16]).expect("it is the first");
        let other = served.take(&[0xee; 16]).expect_err("it is another");
        let seen = Seen { cluster: Masters::Other(other), ..healthy() };
        let picture = picture(seen, &config());
        assert_eq!(picture.masters, []);
        let (other, served) = ("ee".repeat(16), "c1".repeat(16));
        let both = format!("cluster {other}, and this gateway serves cluster {served}");
        assert!(picture.warnings[0].contains(&both), "{:?}", picture.warnings);
    }

    #[test]
    fn what_is_wrong_is_said_in_sentences() {
        let mut seen = healthy();
        let Masters::Leading(cluster) = &mut seen.cluster else { unreachable!("it leads") };
        cluster.masters[0].is_up = false;
        cluster.stores[1] = store(2, StoreState::Disconnected, 12_400);
        seen.linked = [1].into();
        seen.described = vec![description(1, &[(1, 2, 6), (2, 0, 3), (3, 1, 1)])];
        let described = seen.described[0].store.as_mut().expect("it says who it is");
        described.lost_replicas = vec!["its replica of range 8 is lost".to_owned()];
        described.behind_replicas = vec!["its replica of range 9: it stays behind".to_owned()];
        let replica = |store_id, is_active, in_snapshot, lag| ReplicaStatus {
            store_id,
            is_active,
            in_snapshot,
            lag,
            ..ReplicaStatus::default()
        };
        seen.described[0].ranges[2].replicas = vec![
            ReplicaStatus { is_leader: true, ..replica(1, false, false, 0) },
            replica(2, false, false, 7),
            replica(3, true, true, 9),
            replica(4, true, false, LAG_WARNED + 1),
            ReplicaStatus { is_new: true, ..replica(5, false, false, 6) },
            replica(5, true, false, LAG_WARNED),
        ];
        let awaits = |range: &mut RangeStatus, log_bytes| {
            (range.awaited_range_id, range.log_bytes, range.log_bytes_max) = (9, log_bytes, 16_000);
        };
        awaits(&mut seen.described[0].ranges[1], 1_000);
        awaits(&mut seen.described[0].ranges[2], 1_001);
        assert_eq!(
            picture(seen, &config()).warnings,
            [
                "master 2 (n2, host2:7720) is down",
                "store 2 at host2:7710 has not been heard of for 12 s",
                "store 3 at host3:7710 is not connected to this gateway",
                "store 1 at host1:7710: its replica of range 8 is lost",
                "store 1 at host1:7710: its replica of range 9: it stays behind",
                "range 1 has no leader that answers: store 2 led it last",
                "range 2 has no leader: its locks wait",
                "nobody has led range 9 since it was split off range 3; the log that is kept for it \
                 takes 1001 bytes, and beyond 16000 nobody can acquire in range 3",
                "the leader of range 3 does not hear of its replica on store 2, which lacks 7 \
                 entries",
                "store 3 is being sent a snapshot of range 3",
                "store 4 lacks 1001 entries of range 3",
            ]
        );
    }

    #[test]
    fn without_a_master_there_is_still_a_picture() {
        let mut seen = Seen { cluster: Masters::Silent, ..healthy() };
        let (address, lost) = word(2, 0);
        let silent = Duration::from_secs(42);
        seen.words = [word(1, 0), (address, Word { answers: false, silent, ..lost })].into();
        seen.described.pop();
        seen.linked = [1, 2].into();
        let address = "host3:7710".to_owned();
        seen.named = vec![StoreAddress { store_id: 3, ident: vec![0xab].into(), address }];
        let picture = picture(seen, &config());
        assert_eq!((picture.cluster_id.as_str(), picture.masters.len()), ("c1", 2));
        let master = &picture.masters[1];
        assert_eq!((master.member_id, master.node.as_str()), (2, "n2"));
        assert_eq!((master.answers, master.silent_ms), (false, 42_000));
        assert_eq!(picture.masters[0].leaderless_ms, 9_000);
        assert_eq!((picture.stores.len(), picture.stores[2].ident.as_str()), (3, "ab"));
        assert_eq!(picture.warnings.len(), 1, "{:?}", picture.warnings);
        let problem = "the masters have no majority, for 9 s: 1 of 2 answer, 2 are needed";
        assert_eq!(picture.problem, problem);
    }
}
