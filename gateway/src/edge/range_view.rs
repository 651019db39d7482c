//! The ranges of the cluster as one list: what the stores that answer say of them, what each waits for,
//! and how they are shown where there are many. Pure.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use sharklock_proto::{
    internal::v1::StoreDescription,
    v1::{ListRangesResponse, RangeStatus, RangeTotals},
};

use super::warnings::{About, Warning};
use crate::{
    failure::{Failure, Reason},
    validate::{RangeList, Which},
};

/// A replica that lacks more entries than this is worth a word: about what a busy range commits in a
/// second.
pub(super) const LAG_WARNED: u64 = 1_000;

/// A log that is kept for a range which nobody leads is worth a word from this part of its maximum on:
/// what a log takes at most otherwise.
const AWAITED_WARNED: u64 = 16;

/// A status shows so many ranges one by one; of more it shows only those that wait for something.
const SHOWN_MAX: usize = 10;
/// And of those at most so many.
const SHOWN_IN_TROUBLE_MAX: usize = 100;
/// The store that describes itself.
pub(super) fn store_id(description: &StoreDescription) -> u64 {
    description.store.as_ref().map_or(0, |store| store.store_id)
}

/// The view of each range by the store that knows most, its leader, with what the range waits for; in
/// order of names.
pub(super) fn ranges(described: &[StoreDescription]) -> Vec<RangeStatus> {
    let mut ranges: BTreeMap<u64, (bool, &RangeStatus)> = BTreeMap::new();
    for description in described {
        for range in &description.ranges {
            let seen = (range.leader_store_id == store_id(description), range);
            match ranges.entry(range.range_id) {
                Entry::Vacant(entry) => drop(entry.insert(seen)),
                Entry::Occupied(mut entry) if rank(seen) > rank(*entry.get()) => {
                    entry.insert(seen);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    let answered: BTreeSet<u64> = described.iter().map(store_id).collect();
    let complete = |(_, range): (bool, &RangeStatus)| RangeStatus {
        waits_for: faults(range, &answered).into_iter().map(|it| it.text).collect(),
        ..range.clone()
    };
    let mut ranges: Vec<_> = ranges.into_values().map(complete).collect();
    ranges.sort_by(|a, b| (&a.start, a.range_id).cmp(&(&b.start, b.range_id)));
    ranges
}

/// How much a store that says this of a range knows: its leader knows most. Of others whose terms are
/// equal, one that lags behind may not have applied a split.
fn rank((leads, range): (bool, &RangeStatus)) -> (u64, bool, u64, u64, u64) {
    let at = range.position.unwrap_or_default();
    (range.term, leads, at.version, at.conf_ver, at.applied_index)
}

/// What a range waits for, or lacks.
pub(super) fn faults(range: &RangeStatus, answered: &BTreeSet<u64>) -> Vec<Warning> {
    let mut faults = Vec::new();
    let mut push = |about, text| faults.push(Warning { about, text });
    let RangeStatus { range_id, leader_store_id, replicas, .. } = range;
    let RangeStatus { awaited_range_id: awaited, log_bytes, log_bytes_max, .. } = range;
    if *leader_store_id == 0 {
        let text = format!("range {range_id} has no leader: its locks wait");
        push(About::Leaderless, text);
    } else if !answered.contains(leader_store_id) {
        let text = format!(
            "range {range_id} has no leader that answers: store {leader_store_id} led it last"
        );
        push(About::Leaderless, text);
    }
    if *awaited != 0 && *log_bytes > log_bytes_max / AWAITED_WARNED {
        let text = format!(
            "nobody has led range {awaited} since it was split off range {range_id}; the log that is \
             kept for it takes {log_bytes} bytes, and beyond {log_bytes_max} nobody can acquire in \
             range {range_id}"
        );
        push(About::Leaderless, text);
    }
    // Of one that is new nothing is known yet.
    for replica in replicas.iter().filter(|replica| !replica.is_leader && !replica.is_new) {
        let (store, lag) = (replica.store_id, replica.lag);
        if replica.in_snapshot {
            let text = format!("store {store} is being sent a snapshot of range {range_id}");
            push(About::Cluster, text);
        } else if !replica.is_active {
            let lacks =
                if lag == 0 { String::new() } else { format!(", which lacks {lag} entries") };
            let text = format!(
                "the leader of range {range_id} does not hear of its replica on store {store}{lacks}"
            );
            push(About::Store(store), text);
        } else if lag > LAG_WARNED {
            push(
                About::Store(store),
                format!("store {store} lacks {lag} entries of range {range_id}"),
            );
        }
    }
    faults
}

/// Sums over all ranges.
pub(super) fn totals(ranges: &[RangeStatus]) -> RangeTotals {
    let mut totals = RangeTotals { ranges: ranges.len() as u64, ..RangeTotals::default() };
    for range in ranges {
        totals.led += u64::from(range.leader_store_id != 0);
        totals.in_trouble += u64::from(!range.waits_for.is_empty());
        totals.locks += range.locks;
        totals.holds += range.holds;
        totals.waiters += range.waiters;
        totals.state_bytes += range.state_bytes;
    }
    totals
}

/// Those that a status shows.
pub(super) fn shown(mut ranges: Vec<RangeStatus>) -> Vec<RangeStatus> {
    if ranges.len() > SHOWN_MAX {
        ranges.retain(|range| !range.waits_for.is_empty());
        ranges.truncate(SHOWN_IN_TROUBLE_MAX);
    }
    ranges
}

/// A page of ranges.
///
/// # Errors
/// One was asked for, and nobody who answers has it.
pub(super) fn page(
    ranges: Vec<RangeStatus>,
    list: &RangeList,
) -> Result<ListRangesResponse, Failure> {
    if let Some(which) = &list.which {
        let only = find(ranges, which)?;
        return Ok(ListRangesResponse { ranges: vec![only], next_page_token: String::new() });
    }
    // A range that splits between two pages begins where it began: either it is on this page whole, or
    // all that it has become is on the next.
    let from = ranges.partition_point(|range| range.start < list.from);
    let mut ranges = ranges;
    let mut page = ranges.split_off(from);
    let rest = page.split_off(page.len().min(list.page_size as usize));
    let next_page_token = rest.first().map(|next| next.start.clone()).unwrap_or_default();
    Ok(ListRangesResponse { ranges: page, next_page_token })
}

/// The range that is meant. Where stores contradict each other on who has a name, since some have not
/// applied a split, the newest bounds count.
///
/// # Errors
/// Nobody who answers has it.
pub(super) fn find(ranges: Vec<RangeStatus>, which: &Which) -> Result<RangeStatus, Failure> {
    let is_meant = |range: &RangeStatus| match which {
        Which::Id(id) => range.range_id == *id,
        Which::Named(name) => range.start <= *name && (range.end.is_empty() || *name < range.end),
    };
    let version = |range: &RangeStatus| range.position.unwrap_or_default().version;
    let found = ranges.into_iter().filter(is_meant).max_by_key(version);
    found.ok_or_else(|| {
        let message = match which {
            Which::Id(id) => format!("no store that answers has range {id}: list all ranges"),
            Which::Named(_) => "no store that answers has a range with this name".to_owned(),
        };
        Failure::new(Reason::RangeUnknown, message)
    })
}

#[cfg(test)]
mod tests {
    use sharklock_proto::v1::{Position, StoreStatus};

    use super::{super::warnings, *};

    fn range(range_id: u64, start: &str, end: &str, version: u64) -> RangeStatus {
        let position = Some(Position { range_id, version, ..Position::default() });
        let (start, end) = (start.to_owned(), end.to_owned());
        RangeStatus { range_id, start, end, position, leader_store_id: 1, ..Default::default() }
    }

    fn description(store_id: u64, ranges: Vec<RangeStatus>) -> StoreDescription {
        let store = Some(StoreStatus { store_id, ..StoreStatus::default() });
        StoreDescription { store, ranges, ..StoreDescription::default() }
    }

    fn list(page_size: u32, from: &str) -> RangeList {
        RangeList { which: None, page_size, from: from.to_owned() }
    }

    fn ids(ranges: &[RangeStatus]) -> Vec<u64> {
        ranges.iter().map(|range| range.range_id).collect()
    }

    #[test]
    fn of_each_range_the_leader_of_the_newest_term_is_believed() {
        let of = |store_id: u64, ranges: &[(u64, u64, u64)]| {
            let status = |&(range_id, leader_store_id, term): &(u64, u64, u64)| RangeStatus {
                range_id,
                leader_store_id,
                term,
                // So that the view that was taken can be told.
                locks: store_id,
                ..RangeStatus::default()
            };
            description(store_id, ranges.iter().map(status).collect())
        };
        let described = vec![
            of(3, &[(1, 2, 6), (2, 0, 4)]),
            of(1, &[(1, 1, 5), (2, 1, 4)]),
            of(2, &[(1, 2, 6)]),
        ];
        let views: Vec<_> =
            ranges(&described).iter().map(|range| (range.range_id, range.locks)).collect();
        assert_eq!(views, [(1, 2), (2, 1)]);
    }

    #[test]
    fn of_followers_of_one_term_the_one_that_has_applied_the_split_is_believed() {
        let behind = description(2, vec![range(1, "", "", 4)]);
        let ahead = description(3, vec![range(1, "", "m", 5), range(9, "m", "", 5)]);
        for described in [[behind.clone(), ahead.clone()], [ahead, behind]] {
            let seen = ranges(&described);
            assert_eq!(ids(&seen), [1, 9]);
            assert_eq!(seen[0].end, "m");
        }
    }

    #[test]
    fn pages_cover_all_names_once_also_while_a_range_splits_between_them() {
        let before = vec![range(1, "", "f", 5), range(7, "f", "m", 5), range(8, "m", "", 5)];
        let first = page(before, &list(1, "")).expect("a page");
        assert_eq!((ids(&first.ranges), first.next_page_token.as_str()), (vec![1], "f"));
        let now = vec![
            range(1, "", "c", 6),
            range(20, "c", "f", 6),
            range(7, "f", "h", 6),
            range(21, "h", "m", 6),
            range(8, "m", "", 5),
        ];
        let second = page(now.clone(), &list(2, "f")).expect("a page");
        assert_eq!((ids(&second.ranges), second.next_page_token.as_str()), (vec![7, 21], "m"));
        let third = page(now, &list(2, "m")).expect("a page");
        assert_eq!((ids(&third.ranges), third.next_page_token.as_str()), (vec![8], ""));
        let none = page(Vec::new(), &list(2, "x")).expect("a page");
        assert_eq!((none.ranges.len(), none.next_page_token.as_str()), (0, ""));
    }

    #[test]
    fn a_range_is_found_by_its_id_and_by_a_name_that_it_has() {
        let all = || vec![range(1, "", "f", 5), range(2, "", "", 4), range(7, "f", "", 5)];
        let found = |which| find(all(), &which).map(|range| range.range_id);
        assert_eq!(found(Which::Id(7)), Ok(7));
        assert_eq!(found(Which::Named("e".into())), Ok(1), "the newest bounds");
        assert_eq!(found(Which::Named("f".into())), Ok(7));
        let failure = found(Which::Id(3)).expect_err("nobody has it");
        assert_eq!(failure.reason, Reason::RangeUnknown);
        let only = RangeList { which: Some(Which::Id(7)), ..list(1, "") };
        assert_eq!(ids(&page(all(), &only).expect("it is there").ranges), [7]);
    }

    #[test]
    fn many_ranges_are_summed_up_and_only_those_in_trouble_are_named() {
        let of = |count: u64, broken: &[u64]| -> Vec<RangeStatus> {
            let one = |id: u64| RangeStatus {
                leader_store_id: u64::from(!broken.contains(&id)),
                locks: 10,
                waiters: 2,
                ..range(id, &format!("{id:05}"), &format!("{:05}", id + 1), 1)
            };
            ranges(&[description(1, (0..count).map(one).collect())])
        };
        let few = of(10, &[3]);
        assert_eq!(totals(&few).ranges, 10);
        assert_eq!(shown(few).len(), 10, "all of them");
        let many = of(1_000, &[3, 500]);
        let expected = RangeTotals {
            ranges: 1_000,
            led: 998,
            in_trouble: 2,
            locks: 10_000,
            waiters: 2_000,
            ..RangeTotals::default()
        };
        assert_eq!(totals(&many), expected);
        assert_eq!(ids(&shown(many)), [3, 500]);
        let broken: Vec<_> = (0..300).collect();
        let bad = of(1_000, &broken);
        let warnings = warnings::of_ranges(&bad, &[1].into());
        let first = Warning {
            about: About::Leaderless,
            text: "range 0 has no leader: its locks wait".to_owned(),
        };
        assert_eq!((warnings.len(), &warnings[0]), (11, &first));
        assert_eq!(warnings[10].text, "290 more ranges wait for something: list all ranges");
        assert_eq!(shown(bad).len(), 100);
    }
}
