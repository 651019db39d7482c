//! The ranges with which a world begins: where the name space is cut, and which stores have them.

use sharklock_proto::internal::v1::RangeDescriptor;
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use crate::dice::Dice;
use crate::names::Names;
use crate::options::Options;

/// Voters of each range.
pub const REPLICAS: usize = 3;

/// All ranges, in order of their names.
///
/// Invariant: they tile the name space.
#[derive(Clone, Debug)]
pub struct Ranges {
    made: Vec<Descriptor>,
    by_hand: bool,
}

impl Ranges {
    /// As many as the options say, each on three of the stores.
    pub fn draw_all(options: &Options, names: &Names, dice: &mut Dice) -> Self {
        let count = options.ranges.max(1) as usize;
        let starts: Vec<Vec<u8>> = (0..count).map(|at| start(at, names)).collect();
        let descriptor = |at: usize| {
            let end = starts.get(at + 1).cloned().unwrap_or_default();
            let bounds = Bounds { start: starts[at].clone(), end };
            let range = at as u64 + 1;
            let replica = |store: u64| Replica {
                peer: PeerId(10 * range + store),
                store: StoreId(store),
                role: Role::Voter,
            };
            let replicas = some_stores(options.stores.max(REPLICAS as u64), dice)
                .into_iter()
                .map(replica)
                .collect();
            let epoch = Epoch { version: 1, conf_ver: 1 };
            Descriptor::new(RangeId(range), bounds, epoch, replicas)
        };
        let made = (0..count).map(descriptor).collect();
        // Masters make the one range of a cluster that begins; of more they only hear.
        Self { made, by_hand: count > 1 || options.masters == 0 }
    }

    /// The range that has a name.
    pub fn of(&self, name: &str) -> RangeId {
        let begins = |it: &Descriptor| it.bounds.start.as_slice() <= name.as_bytes();
        self.made[self.made.partition_point(begins) - 1].range
    }

    /// All of them, in order of names.
    pub fn all(&self) -> &[Descriptor] {
        &self.made
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = RangeId> + use<> {
        (1..=self.made.len() as u64).map(RangeId)
    }

    /// Whether stores are born with their replicas; else the masters have them made.
    pub fn are_made_by_hand(&self) -> bool {
        self.by_hand
    }
}

/// A descriptor as masters and stores send it.
///
/// # Panics
/// It describes no range: nobody here sends such a one.
pub fn descriptor(wire: &RangeDescriptor) -> Descriptor {
    Descriptor::try_from(wire).unwrap_or_else(|why| panic!("{why}: {wire:?}"))
}

/// The first name of a range: half of the ranges begin with a name that somebody locks, since bounds
/// are where off-by-one errors live.
fn start(at: usize, names: &Names) -> Vec<u8> {
    let first = names.first_in(at).filter(|_| !at.is_multiple_of(2));
    match (at, first) {
        (0, _) => Vec::new(),
        (_, Some(first)) => first.as_bytes().to_vec(),
        (_, None) => Names::prefix(at).into_bytes(),
    }
}

/// Three of the stores; nothing is drawn where there are no others.
fn some_stores(stores: u64, dice: &mut Dice) -> Vec<u64> {
    let mut left: Vec<u64> = (1..=stores).collect();
    while left.len() > REPLICAS {
        left.remove(dice.below(left.len() as u64) as usize);
    }
    left
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::check_tiling;

    use super::*;

    #[test]
    fn ranges_tile_the_name_space_and_every_name_lies_in_its_own() {
        for (seed, stores, ranges) in [(1, 3, 1), (2, 5, 2), (3, 7, 40)] {
            let mut options = Options::draw(seed);
            (options.stores, options.ranges) = (stores, ranges);
            let names = Names::draw_all(&options, &mut Dice::new(seed, "tasks"));
            let made = Ranges::draw_all(&options, &names, &mut Dice::new(seed, "ranges"));
            check_tiling(made.all()).expect("they tile");
            assert_eq!(made.ids().count() as u64, ranges);
            let mut used = std::collections::BTreeSet::new();
            for name in names.all() {
                let range = made.of(name);
                let descriptor = made.all().iter().find(|it| it.range == range).expect("it is one");
                assert!(descriptor.bounds.contains(name.as_bytes()), "{name}");
                used.insert(range);
            }
            assert_eq!(used.len() as u64, ranges, "names are spread over all of them");
            let begins = |it: &&Descriptor| {
                names.all().any(|name| name.as_bytes() == it.bounds.start.as_slice())
            };
            assert_eq!(made.all().iter().filter(begins).count() as u64, ranges / 2);
        }
    }
}
