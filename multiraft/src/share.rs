//! How the replicas on a disk are shared out over the raft workers of a store.
//!
//! What two replicas must know of each other is known inside one share only: that their names overlap,
//! that one is born out of the other's split, that a log is kept for a child. So those are kept
//! together, and all else is spread, in the order of names, since neighbours tend to be busy at the
//! same time.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use sharklock_rangemap::RangeId;

use crate::birth::INITIAL;
use crate::recover::Replayed;
use crate::state_machine::StateMachine;

/// Where names begin and end; an empty end is none.
type Span = (Vec<u8>, Vec<u8>);

/// The replicas of each share, in their order. Equal disks are shared out equally.
pub(crate) fn share_out<M: StateMachine>(
    mut replicas: Vec<Replayed<M>>,
    count: NonZeroUsize,
) -> Vec<Vec<Replayed<M>>> {
    if count.get() == 1 {
        return vec![replicas];
    }
    let places = replicas.iter().enumerate();
    let places: BTreeMap<_, _> = places.map(|(at, replica)| (range_of(replica), at)).collect();
    let lives: Vec<_> = replicas.iter().map(lives).collect();
    let mut ties = Vec::new();
    for (at, replica) in replicas.iter_mut().enumerate() {
        let child_at = |child: RangeId| places.get(&child).copied();
        // As with the next image: nobody has to be told of a child that lives.
        replica.loaded.state.forget_splits(|child| child_at(child).is_some_and(|at| lives[at]));
        let splits = replica.loaded.state.splits().iter();
        ties.extend(splits.filter_map(|split| Some((at, child_at(split.child)?))));
    }
    let spans: Vec<_> = replicas.iter().map(span).collect();
    let of = shares(&spans, &ties, count.get());
    let mut shares: Vec<_> = (0..count.get()).map(|_| Vec::new()).collect();
    for (replica, share) in replicas.into_iter().zip(of) {
        shares[share].push(replica);
    }
    shares
}

fn range_of<M: StateMachine>(replica: &Replayed<M>) -> RangeId {
    replica.loaded.state.descriptor().range
}

/// As `Store::lives` has it: with the child of a split of which this is true its parent's log need not
/// be kept any more.
fn lives<M: StateMachine>(replica: &Replayed<M>) -> bool {
    let state = &replica.loaded.state;
    state.applied().term > INITIAL || state.is_shell()
}

/// The names of a replica before the splits that its replay has found.
fn span<M: StateMachine>(replica: &Replayed<M>) -> Span {
    let own = &replica.loaded.state.descriptor().bounds;
    let halves = replica.halves.iter().map(|half| &half.descriptor.bounds);
    let ends = halves.map(|bounds| &bounds.end).chain([&own.end]);
    let last = ends.max_by(|a, b| compare_ends(a, b)).expect("it has an end of its own");
    (own.start.clone(), last.clone())
}

fn compare_ends(a: &[u8], b: &[u8]) -> Ordering {
    a.is_empty().cmp(&b.is_empty()).then_with(|| a.cmp(b))
}

/// The share of each. `ties` names pairs that stay together whatever their names are.
fn shares(spans: &[Span], ties: &[(usize, usize)], count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..spans.len()).collect();
    order.sort_by_key(|at| (&spans[*at].0, *at));
    let mut groups = Groups((0..spans.len()).collect());
    ties.iter().for_each(|(a, b)| groups.join(*a, *b));
    let mut last: Option<(usize, &[u8])> = None;
    for at in &order {
        let (start, end) = &spans[*at];
        last = match last {
            Some((before, last)) if last.is_empty() || start.as_slice() < last => {
                groups.join(before, *at);
                Some((*at, if compare_ends(last, end).is_lt() { end } else { last }))
            }
            _ => Some((*at, end)),
        };
    }
    let mut sizes = vec![0; count];
    let mut of_group = BTreeMap::new();
    for at in &order {
        let group = groups.of(*at);
        let least = || (0..count).min_by_key(|share| sizes[*share]).expect("there is a share");
        let share = *of_group.entry(group).or_insert_with(least);
        sizes[share] += 1;
    }
    (0..spans.len()).map(|at| of_group[&groups.of(at)]).collect()
}

/// For each, another one of its group; for one of each group itself.
struct Groups(Vec<usize>);

impl Groups {
    fn of(&self, mut at: usize) -> usize {
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spans: &[(&str, &str)], count: usize) -> Vec<usize> {
        tied(spans, &[], count)
    }

    fn tied(spans: &[(&str, &str)], ties: &[(usize, usize)], count: usize) -> Vec<usize> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let spans: Vec<_> = spans.iter().map(|(start, end)| (bytes(start), bytes(end))).collect();
        shares(&spans, ties, count)
    }

    #[test]
    fn neighbours_are_spread_in_the_order_of_names() {
        assert_eq!(of(&[("m", ""), ("", "c"), ("c", "f"), ("f", "m")], 2), [1, 0, 1, 0]);
        assert_eq!(of(&[("m", ""), ("", "c"), ("c", "f"), ("f", "m")], 4), [3, 0, 1, 2]);
        assert_eq!(of(&[("m", ""), ("", "c")], 1), [0, 0]);
        assert_eq!(of(&[], 4), []);
    }

    /// One of them is what a replay has split off another, or the disk is damaged: both are found out
    /// where they are together.
    #[test]
    fn whatever_overlaps_stays_together() {
        assert_eq!(of(&[("a", "p"), ("", "a"), ("c", "d"), ("p", "q")], 3), [1, 0, 1, 2]);
        assert_eq!(of(&[("a", ""), ("c", "d"), ("x", "")], 3), [0, 0, 0]);
        assert_eq!(of(&[("a", "d"), ("c", "f"), ("e", "g"), ("g", "h")], 3), [0, 0, 0, 1]);
    }

    #[test]
    fn a_parent_stays_with_children_that_nobody_leads_yet() {
        let spans = [("", "c"), ("c", "f"), ("f", "m"), ("m", "")];
        assert_eq!(tied(&spans, &[(0, 3)], 3), [0, 1, 2, 0]);
        assert_eq!(tied(&spans, &[(0, 3), (3, 1)], 3), [0, 0, 1, 0]);
        assert_eq!(tied(&spans, &[(2, 1), (2, 2)], 2), [0, 1, 1, 0]);
    }
}
