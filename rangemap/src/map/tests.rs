//! The map against a naive one, and against the true history of a cluster's ranges.

use proptest::prelude::*;

use super::*;
use crate::descriptor::{PeerId, Replica, Role, StoreId};

/// Names are one byte below this, so that the naive model can simply try them all.
const NAMES: u8 = 12;

fn names() -> impl Iterator<Item = Vec<u8>> {
    std::iter::once(Vec::new()).chain((0..NAMES).map(|name| vec![name]))
}

fn bounds(start: u8, end: u8) -> Bounds {
    let start = if start == 0 { Vec::new() } else { vec![start] };
    let end = if end >= NAMES { Vec::new() } else { vec![end] };
    Bounds { start, end }
}

fn replicas(stores: &[u64]) -> Vec<Replica> {
    let replica = |store: &u64| Replica {
        peer: PeerId(100 + store),
        store: StoreId(*store),
        role: Role::Voter,
    };
    stores.iter().map(replica).collect()
}

fn descriptor(range: u64, (start, end): (u8, u8), version: u64, conf_ver: u64) -> Descriptor {
    let epoch = Epoch { version, conf_ver };
    Descriptor::new(RangeId(range), bounds(start, end), epoch, replicas(&[1, 2, 3]))
}

/// The meaning of the map, without any cleverness.
#[derive(Default)]
struct Naive(Vec<Descriptor>);

impl Naive {
    fn insert(&mut self, offered: Descriptor) -> Result<Vec<Descriptor>, ()> {
        if self.0.contains(&offered) {
            return Ok(Vec::new());
        }
        let mut displaced = Vec::new();
        let mut kept = Vec::new();
        for known in &self.0 {
            let shared = names().any(|n| known.bounds.contains(&n) && offered.bounds.contains(&n));
            let same = known.range == offered.range;
            if !shared && !same {
                kept.push(known.clone());
                continue;
            }
            let key = |d: &Descriptor| (d.epoch.version, if same { d.epoch.conf_ver } else { 0 });
            if key(&offered) <= key(known) {
                return Err(());
            }
            displaced.push(known.clone());
        }
        kept.push(offered);
        self.0 = kept;
        displaced.sort_by_key(|d| d.range);
        Ok(displaced)
    }
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let span = (0..NAMES).prop_flat_map(|start| (Just(start), start + 1..=NAMES));
    (1..6u64, span, 1..6u64, 1..4u64)
        .prop_map(|(range, span, version, conf_ver)| descriptor(range, span, version, conf_ver))
}

proptest! {
    #[test]
    fn agrees_with_the_naive_map(offers in prop::collection::vec(any_descriptor(), 1..40)) {
        let mut map = RangeMap::default();
        let mut naive = Naive::default();
        for offered in offers {
            let before = map.clone();
            let answer = map.insert(offered.clone());
            let expected = naive.insert(offered);
            match answer {
                Ok(mut displaced) => {
                    displaced.sort_by_key(|d| d.range);
                    prop_assert_eq!(Ok(displaced), expected);
                }
                Err(_) => {
                    prop_assert!(expected.is_err());
                    prop_assert_eq!(&before, &map, "a refusal changes nothing");
                }
            }
            prop_assert_eq!(map.len(), naive.0.len());
            for name in names() {
                let expected = naive.0.iter().find(|d| d.bounds.contains(&name));
                prop_assert_eq!(map.at(&name), expected);
            }
            for range in (1..6).map(RangeId) {
                prop_assert_eq!(map.range(range), naive.0.iter().find(|d| d.range == range));
            }
            let tiles = names().all(|n| map.at(&n).is_some());
            prop_assert_eq!(map.check_tiling().is_ok(), tiles);
        }
    }

    /// Ranges split and change members; a cache hears of it late, twice, in any order. Once it has
    /// heard everything it knows the truth, and nothing it hears is ever a contradiction.
    #[test]
    fn any_order_of_news_ends_in_the_truth(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..NAMES, any::<bool>()), 0..25),
        order in prop::collection::vec(any::<u32>(), 100),
        twice in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut truth = vec![descriptor(1, (0, NAMES), 1, 1)];
        let mut news = truth.clone();
        for (which, at, split) in changes {
            let which = which.index(truth.len());
            if split {
                let at = bounds(at, NAMES).start;
                let parent = &mut truth[which];
                if parent.bounds.start == at || !parent.bounds.contains(&at) {
                    continue;
                }
                parent.epoch.version += 1;
                let mut child = parent.clone();
                parent.bounds.end = at.clone();
                child.bounds.start = at;
                child.range = RangeId(news.len() as u64 + 1);
                news.extend([truth[which].clone(), child.clone()]);
                truth.push(child);
            } else {
                truth[which].epoch.conf_ver += 1;
                news.push(truth[which].clone());
            }
        }
        let repeats: Vec<_> = twice.iter().map(|index| index.get(&news).clone()).collect();
        news.extend(repeats);
        let mut keyed: Vec<_> = order.iter().cycle().zip(news).collect();
        keyed.sort_by_key(|(key, _)| **key);
        let mut map = RangeMap::default();
        for (_, known) in keyed {
            if let Err(error) = map.insert(known) {
                prop_assert!(matches!(error, InsertError::Stale { .. }), "{}", error);
            }
        }
        prop_assert_eq!(map.check_tiling(), Ok(()));
        truth.sort_by(|a, b| a.bounds.start.cmp(&b.bounds.start));
        prop_assert_eq!(map.iter().cloned().collect::<Vec<_>>(), truth);
    }
}

#[test]
fn tiling_errors_say_where() {
    let check = |spans: &[(u64, (u8, u8))], expected: Result<(), TilingError>| {
        let all: Vec<_> =
            spans.iter().map(|(range, span)| descriptor(*range, *span, 1, 1)).collect();
        assert_eq!(check_tiling(&all), expected, "{spans:?}");
    };
    let r = RangeId;
    check(&[], Err(TilingError::Empty));
    check(&[(1, (0, NAMES))], Ok(()));
    check(&[(2, (5, NAMES)), (1, (0, 5))], Ok(()));
    check(&[(1, (1, NAMES))], Err(TilingError::GapBefore { range: r(1) }));
    check(&[(1, (0, 4))], Err(TilingError::GapAtEnd { range: r(1) }));
    check(&[(1, (0, 4)), (2, (5, NAMES))], Err(TilingError::GapBefore { range: r(2) }));
    let overlap = TilingError::Overlap { left: r(1), right: r(2) };
    check(&[(1, (0, 6)), (2, (5, NAMES))], Err(overlap));
    check(&[(1, (0, NAMES)), (2, (5, NAMES))], Err(overlap));
    check(&[(7, (0, 6)), (7, (6, NAMES))], Err(TilingError::RangeTwice { range: r(7) }));
}

#[test]
fn two_claims_at_one_epoch_are_a_contradiction() {
    let mut map = RangeMap::default();
    map.insert(descriptor(1, (0, 6), 3, 1)).unwrap();
    let error = map.insert(descriptor(2, (5, NAMES), 3, 9)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the descriptor of range 2 (version 3, conf_ver 9) contradicts that of range 1 \
         (version 3, conf_ver 1): both claim the same names at the same epoch"
    );
    let error = map.insert(descriptor(1, (0, 5), 3, 1)).unwrap_err();
    assert!(matches!(error, InsertError::Contradiction { .. }), "{error}");
}

#[test]
fn malformed_descriptors_are_refused_with_a_reason() {
    let good = descriptor(1, (2, 4), 1, 1);
    let check = |spoil: &dyn Fn(&mut Descriptor), expected: &str| {
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = RangeMap::default().insert(bad).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(&|d| d.range = RangeId(0), "range_id is 0, which means none");
    check(&|d| d.epoch.version = 0, "range 1: version is 0, and it begins at 1");
    check(&|d| d.epoch.conf_ver = 0, "range 1: conf_ver is 0, and it begins at 1");
    let no_names = "range 1: end is not after start, so that it holds no name";
    check(&|d| d.bounds.end = vec![2], no_names);
    check(&|d| d.bounds.end = vec![1], no_names);
    let no_id = |field| format!("range 1: replicas[{field} is 0, which means none");
    check(&|d| d.replicas[1].store = StoreId(0), &no_id("1].store_id"));
    check(&|d| d.replicas[2].peer = PeerId(0), &no_id("2].peer_id"));
    let twice = |field, id| format!("range 1: replicas[1].{field} is {id} as another's is");
    check(&|d| d.replicas[1].peer = PeerId(101), &twice("peer_id", 101));
    check(&|d| d.replicas[1].store = StoreId(1), &twice("store_id", 1));
    let roles = |roles: [Role; 3]| {
        move |d: &mut Descriptor| {
            d.replicas.iter_mut().zip(roles).for_each(|(replica, role)| replica.role = role)
        }
    };
    let none = "range 1: replicas: none of them votes";
    check(&roles([Role::Learner; 3]), none);
    let half = |half| format!("{none} in the {half} half of the joint configuration");
    check(&roles([Role::JointOutgoing, Role::Learner, Role::JointOutgoing]), &half("incoming"));
    check(&roles([Role::JointIncoming, Role::Learner, Role::JointIncoming]), &half("outgoing"));
}

#[test]
fn a_joint_configuration_needs_a_voter_in_each_half() {
    use Role::{JointIncoming, JointOutgoing, Learner, Voter};
    for (roles, voters) in [
        ([Voter, JointIncoming, JointOutgoing], vec![1, 2, 3]),
        ([JointIncoming, JointOutgoing, Learner], vec![1, 2]),
        ([Voter, JointOutgoing, Learner], vec![1, 2]),
        ([Learner, Voter, JointIncoming], vec![2, 3]),
    ] {
        let mut joint = descriptor(1, (2, 4), 1, 1);
        joint.replicas.iter_mut().zip(roles).for_each(|(replica, role)| replica.role = role);
        assert_eq!(joint.validate(), Ok(()), "{roles:?}");
        assert!(joint.is_joint());
        let stores: Vec<_> = joint.voters().map(|voter| voter.store.0).collect();
        assert_eq!(stores, voters, "{roles:?}");
    }
}
