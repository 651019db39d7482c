//! L5: a core of stores that reach each other keeps its leader, whatever the others do
//! (Cloudflare lost its control plane to one bad link for six hours in 2020: failure story 7).

use sharklock_multiraft::{RoleChange, RoleNow};

use crate::network::Network;
use crate::node::RANGE;
use crate::weather::{MS, SECOND, Weather};

/// The fate of the one store that is not in the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// It hears all but the leader: the Cloudflare story.
    DeafToLeader,
    /// All hear it but the leader.
    MuteToLeader,
    /// Both directions between it and the leader are cut.
    ApartFromLeader,
    /// It is cut off and comes back, again and again.
    ComesAndGoes,
    /// Its process dies and comes back, again and again.
    Restarts,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::None,
    Trouble::Deaf,
    Trouble::Mute,
    Trouble::DeafToLeader,
    Trouble::MuteToLeader,
    Trouble::ApartFromLeader,
    Trouble::ComesAndGoes,
    Trouble::Restarts,
];

fn trouble(network: &mut Network, kind: Trouble, leader: u64, odd: u64, round: u64) {
    let all: Vec<u64> = network.weather.layout.stores().filter(|it| *it != odd).collect();
    match kind {
        Trouble::None => {}
        Trouble::Deaf => all.iter().for_each(|store| network.cut(*store, odd)),
        Trouble::Mute => all.iter().for_each(|store| network.cut(odd, *store)),
        Trouble::DeafToLeader => network.cut(leader, odd),
        Trouble::MuteToLeader => network.cut(odd, leader),
        Trouble::ApartFromLeader => {
            network.cut(leader, odd);
            network.cut(odd, leader);
        }
        Trouble::ComesAndGoes if round.is_multiple_of(2) => {
            for store in all {
                network.cut(store, odd);
                network.cut(odd, store);
            }
        }
        Trouble::ComesAndGoes => network.mend_all(),
        Trouble::Restarts if round.is_multiple_of(2) => network.crash(odd),
        Trouble::Restarts => network.start(odd),
    }
}

/// A minute of trouble for the store that is `behind` places behind the leader.
fn keeps_its_leader(seed: u64, voters: u64, behind: u64, kind: Trouble) {
    let mut weather = Weather::calm(voters);
    weather.propose = 150 * MS;
    weather.read = 200 * MS;
    let mut network = Network::new(seed, weather);
    assert!(network.run_until(10 * SECOND, |it| it.leader(RANGE).is_some()), "L3");
    network.run_for(5 * SECOND);
    let leader = network.leader(RANGE).expect("it is calm");
    let odd = (leader + behind - 1) % voters + 1;
    for node in network.cluster.nodes.values_mut() {
        node.roles.retain(|change| matches!(change.role, RoleNow::Leader { .. }));
    }
    let before = network.cluster.nodes[&leader].roles.clone();
    // Rounds of different lengths, shorter and longer than an election.
    let mut round = 0;
    let end = network.now + 60 * SECOND;
    while network.now < end {
        trouble(&mut network, kind, leader, odd, round);
        network.run_for((300 + 700 * (round % 7)) * MS);
        round += 1;
    }
    let context = format!("seed {seed}, {voters} voters, {behind} behind, {kind:?}");
    assert_eq!(network.leader(RANGE), Some(leader), "{context}");
    assert_eq!(network.cluster.nodes[&leader].roles, before, "{context}: it led without a break");
    for (store, node) in &network.cluster.nodes {
        let elected = |change: &RoleChange| matches!(change.role, RoleNow::Leader { .. });
        let led = node.roles.iter().any(elected);
        assert!(!led || *store == leader, "{context}: {store} was elected, too");
    }
    let applied = network.cluster.nodes[&leader].status().applied;
    assert!(applied > 200, "{context}: only {applied} entries went through");
}

#[test]
fn a_stable_core_keeps_its_leader_for_a_minute() {
    for seed in 0..3 {
        for kind in TROUBLES {
            for (voters, behind) in [(3, 1), (3, 2), (5, 1), (5, 3)] {
                keeps_its_leader(seed, voters, behind, kind);
            }
        }
    }
}
