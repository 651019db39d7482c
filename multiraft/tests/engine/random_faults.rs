//! Three stores under random losses, restarts and slow disks. What must hold whatever happens:
//! acknowledged entries stay, nobody votes twice in a term, a term has one leader, equal indices
//! have equal states, and no honest message is refused.

use proptest::prelude::*;

use crate::cluster::Cluster;
use crate::node::RANGE;
use crate::tally::put;

#[derive(Clone, Debug)]
enum Step {
    /// Every store's clock moves on.
    Tick,
    /// One store turns.
    Turn(u64),
    /// One store's disk takes its batch.
    Write(u64),
    /// Everything in transit arrives; the numbered one is lost, if there is one.
    Deliver(Option<usize>),
    /// A leader, if any, takes an entry.
    Propose,
    Read,
    Flush(u64),
    /// Power is lost.
    Restart(u64),
    Isolate(u64),
    Heal,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let store = || 1..=3_u64;
    let step = prop_oneof![
        8 => Just(Step::Tick),
        12 => store().prop_map(Step::Turn),
        10 => store().prop_map(Step::Write),
        12 => prop::option::weighted(0.2, 0..4_usize).prop_map(Step::Deliver),
        6 => Just(Step::Propose),
        1 => Just(Step::Read),
        2 => store().prop_map(Step::Flush),
        1 => store().prop_map(Step::Restart),
        1 => store().prop_map(Step::Isolate),
        2 => Just(Step::Heal),
    ];
    prop::collection::vec(step, 50..600)
}

fn take_step(cluster: &mut Cluster, step: Step, word: usize) {
    match step {
        Step::Tick => cluster.nodes.values_mut().for_each(|node| node.store.tick()),
        Step::Turn(store) => cluster.turn(store),
        Step::Write(store) => drop(cluster.write(store).expect("no fault is planned")),
        Step::Deliver(lost) => {
            if let Some(lost) = lost.filter(|lost| *lost < cluster.in_transit.len()) {
                cluster.in_transit.remove(lost);
            }
            cluster.deliver();
        }
        Step::Propose => {
            for store in 1..=3 {
                cluster.try_propose(store, RANGE, put(&format!("w{}", word % 7)));
            }
        }
        Step::Read => {
            for store in 1..=3 {
                cluster.read(store, RANGE);
            }
        }
        Step::Flush(store) => cluster.node(store).store.flush(),
        Step::Restart(store) => cluster.restart(store),
        Step::Isolate(store) => drop(cluster.isolated.insert(store)),
        Step::Heal => cluster.isolated.clear(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_entries_survive(steps in steps()) {
        let mut cluster = Cluster::fresh(3);
        cluster.elect();
        for (word, step) in steps.into_iter().enumerate() {
            take_step(&mut cluster, step, word);
        }
        cluster.isolated.clear();
        let leader = cluster.elect();
        let last = cluster.checks.applied_max(RANGE);
        prop_assert!(cluster.node(leader).status().applied >= last);
    }
}
