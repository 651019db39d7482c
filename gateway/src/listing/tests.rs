//! Pages beside ranges that split meanwhile, and the naive list of all names.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_proto::v1::{ListLocksRequest, LockInfo, Position};

use super::*;
use crate::validate;

/// A small generator: a failing seed is found again.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn name(&mut self) -> String {
        let length = 1 + self.below(4);
        (0..length).map(|_| ["a", "b", "/", "ä"][self.below(4) as usize]).collect()
    }
}

/// Ranges and what is held in them, as they really are.
#[derive(Default)]
struct Cluster {
    held: BTreeSet<String>,
    /// Where ranges begin, the first aside.
    starts: BTreeSet<String>,
}

impl Cluster {
    fn end_of(&self, name: &str) -> String {
        let behind = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
        self.starts.range::<str, _>(behind).next().cloned().unwrap_or_default()
    }

    fn answer(&self, asked: &ListRange, fits: usize) -> RangeLocks {
        let end = self.end_of(&asked.from);
        let here = self.held.range(asked.from.clone()..).filter(|name| {
            name.starts_with(&asked.prefix) && (end.is_empty() || name.as_str() < end.as_str())
        });
        let lock = |name: &String| LockInfo { name: name.clone(), ..LockInfo::default() };
        let shown = (asked.locks_max as usize).min(fits);
        let locks: Vec<_> = here.clone().take(shown).map(lock).collect();
        let has_more = here.count() > locks.len();
        RangeLocks { position: Some(Position::default()), locks, has_more, end }
    }
}

/// What a gateway believes of where ranges begin.
fn behind(believed: &BTreeSet<String>, name: &str, max: usize) -> Vec<String> {
    let behind = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
    believed.range::<str, _>(behind).take(max).cloned().collect()
}

fn begin(prefix: &str, page_size: u32, page_token: &str) -> Listing {
    let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
    let request = ListLocksRequest { prefix, page_size, page_token };
    validate::list_locks(request).expect("a token of this list")
}

/// A page by a gateway that believes this, while ranges split and names come and go.
fn page(
    dice: &mut Dice,
    mut listing: Listing,
    believed: &BTreeSet<String>,
    cluster: &mut Cluster,
    kept: &BTreeSet<String>,
) -> ListLocksResponse {
    let mut asked = 0;
    loop {
        let round = listing.round(|from, max| behind(believed, from, max));
        asked += round.len();
        assert!(asked <= RANGES_MAX && round.len() <= AT_ONCE_MAX);
        // They are answered in any order, and in between anything may happen.
        let mut answers = BTreeMap::new();
        while answers.len() < round.len() {
            happen(dice, cluster, kept);
            let number = dice.below(round.len() as u64) as usize;
            let fits = 1 + dice.below(6) as usize;
            answers.entry(number).or_insert_with(|| cluster.answer(&round[number], fits));
        }
        let is_cut = (asked > 1 && dice.one_in(8)).then(|| dice.below(8) as usize);
        for (number, answer) in answers {
            if is_cut == Some(number) {
                // It did not answer in time.
                return listing.into_page();
            }
            if !listing.take(&round[number], answer).expect("it answers the question") {
                break;
            }
        }
        if round.is_empty() {
            return listing.into_page();
        }
    }
}

fn happen(dice: &mut Dice, cluster: &mut Cluster, kept: &BTreeSet<String>) {
    let name = dice.name();
    match dice.below(4) {
        0 => _ = cluster.starts.insert(name),
        1 => _ = cluster.held.insert(name),
        2 if !kept.contains(&name) => _ = cluster.held.remove(&name),
        _ => {}
    }
}

#[test]
fn names_that_are_held_throughout_are_listed_once_and_in_order_whatever_splits() {
    let mut empty = 0;
    for seed in 0..3_000 {
        let dice = &mut Dice::new(seed);
        let kept: BTreeSet<_> = (0..dice.below(40)).map(|_| dice.name()).collect();
        let mut cluster = Cluster { held: kept.clone(), ..Cluster::default() };
        for _ in 0..dice.below(30) {
            cluster.starts.insert(dice.name());
        }
        let prefix = if dice.one_in(2) { String::new() } else { dice.name() };
        let mut believed = cluster.starts.clone();
        let (mut listed, mut token): (Vec<String>, _) = (Vec::new(), String::new());
        loop {
            // Any gateway, which knows what is now, or what was, or more than is true.
            match dice.below(4) {
                0 => believed = cluster.starts.clone(),
                1 => _ = believed.insert(dice.name()),
                2 => believed.retain(|_| !dice.one_in(3)),
                _ => {}
            }
            let page_size = 1 + dice.below(12) as u32;
            let listing = begin(&prefix, page_size, &token);
            let page = page(dice, listing, &believed, &mut cluster, &kept);
            assert!(page.locks.len() <= page_size as usize, "seed {seed}");
            assert!(!page.positions.is_empty(), "seed {seed}: it says where it held");
            empty += usize::from(page.locks.is_empty() && !page.next_page_token.is_empty());
            listed.extend(page.locks.into_iter().map(|lock| lock.name));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert!(listed.is_sorted_by(|a, b| a < b), "seed {seed}: {listed:?}");
        let wanted = kept.iter().filter(|name| name.starts_with(&prefix));
        let lacks: Vec<_> = wanted.filter(|name| !listed.contains(name)).collect();
        assert!(lacks.is_empty(), "seed {seed}: {lacks:?} of {listed:?}");
        let strangers = listed.iter().find(|name| !name.starts_with(&prefix));
        assert_eq!(strangers, None, "seed {seed}");
    }
    assert!(empty > 50, "pages without a lock are among them: {empty}");
}

#[test]
fn ten_thousand_empty_ranges_are_many_short_calls_and_not_one_long_one() {
    let starts: BTreeSet<_> = (1..10_000).map(|range| format!("{range:05}")).collect();
    let cluster = Cluster { held: BTreeSet::from(["z".to_owned()]), starts: starts.clone() };
    let (mut token, mut pages, mut ranges) = (String::new(), 0, 0);
    loop {
        let mut listing = begin("", 1_000, &token);
        let mut rounds = 0;
        loop {
            let round = listing.round(|from, max| behind(&starts, from, max));
            if round.is_empty() {
                break;
            }
            rounds += 1;
            for question in round {
                let part = cluster.answer(&question, 1_000);
                assert!(listing.take(&question, part).expect("it answers"));
                ranges += 1;
            }
        }
        assert!(rounds <= 12, "round trips of one call");
        pages += 1;
        let page = listing.into_page();
        assert!(page.positions.len() <= RANGES_MAX);
        token = page.next_page_token;
        if token.is_empty() {
            assert_eq!(page.locks.len(), 1);
            break;
        }
        assert_eq!(page.locks.len(), 0, "a page with a token and nothing in it");
    }
    assert_eq!((ranges, pages), (10_000, 10_000_usize.div_ceil(RANGES_MAX)));
}

#[test]
fn small_ranges_fill_a_page_together_and_a_list_ends_with_its_prefix() {
    let starts = ["b", "jobs/2", "jobs/4", "jobs/6", "jobsx", "k"].map(str::to_owned);
    let starts = BTreeSet::from(starts);
    let held = ["a", "jobs/1", "jobs/3", "jobs/4", "jobs/5", "jobsx", "z"].map(str::to_owned);
    let cluster = Cluster { held: BTreeSet::from(held), starts: starts.clone() };
    let mut listing = begin("jobs/", 1_000, "");
    let mut asked = Vec::new();
    loop {
        let round = listing.round(|from, max| behind(&starts, from, max));
        if round.is_empty() {
            break;
        }
        for question in &round {
            let part = cluster.answer(question, 1_000);
            listing.take(question, part).expect("it answers");
        }
        asked.push(round.into_iter().map(|question| question.from).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(asked, ["jobs/", "jobs/2 jobs/4", "jobs/6"], "and no range behind the prefix");
    let page = listing.into_page();
    let names: Vec<_> = page.locks.iter().map(|lock| lock.name.as_str()).collect();
    assert_eq!(names, ["jobs/1", "jobs/3", "jobs/4", "jobs/5"]);
    assert_eq!((page.next_page_token, page.positions.len()), (String::new(), 4));
}

#[test]
fn what_would_make_the_list_wrong_is_no_answer() {
    let lock = |name: &str| LockInfo { name: name.to_owned(), ..LockInfo::default() };
    let part = |names: &[&str], has_more, end: &str| RangeLocks {
        position: None,
        locks: names.iter().map(|name| lock(name)).collect(),
        has_more,
        end: end.to_owned(),
    };
    let token = page_token::encode("j", "jb");
    let mut listing = begin("j", 2, &token);
    let question = listing.round(|_, _| Vec::new()).remove(0);
    for (why, bad) in [
        ("a name that was listed before", part(&["ja"], false, "")),
        ("a name without the prefix", part(&["jb", "k"], false, "")),
        ("out of order", part(&["jd", "jc"], false, "")),
        ("twice", part(&["jc", "jc"], false, "")),
        ("more than was asked for", part(&["jb", "jc", "jd"], false, "")),
        ("a name of the next range", part(&["jc"], false, "jc")),
        ("a range that does not have the first name", part(&[], false, "jb")),
        ("no end of it", part(&[], true, "")),
    ] {
        let taken = listing.clone().take(&question, bad);
        assert_eq!(taken, Err(bad_answer()), "{why}");
    }
    assert_eq!(listing.take(&question, part(&["jb", "jc"], true, "jd")), Ok(true));
    assert!(listing.round(|_, _| Vec::new()).is_empty(), "the page is full");
    assert_eq!(listing.into_page().next_page_token, page_token::encode("j", "jc\0"));
}

#[test]
fn parts_that_are_asked_for_together_share_the_bytes_of_a_page() {
    let mut listing = begin("", 1_000, "");
    let mut widths = Vec::new();
    let starts = |_: &str, max| (0..max).map(|at| format!("{at}")).collect();
    loop {
        let round = listing.round(starts);
        if round.is_empty() {
            break;
        }
        widths.push(round.len());
        assert!(round.iter().map(|it| it.bytes_max as usize).sum::<usize>() <= PAGE_BYTES_MAX);
    }
    assert_eq!(widths, [1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 1]);
    assert_eq!(widths.iter().sum::<usize>(), RANGES_MAX);
}
