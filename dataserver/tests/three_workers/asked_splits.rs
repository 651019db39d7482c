//! An operator asks for a split: every answer that he can get from a store.

use std::time::Duration;

use sharklock_dataserver::{IdsWanted, Input};
use sharklock_multiraft::Split;
use sharklock_proto::{
    internal::v1::{
        self as internal, describe_store::Only, store_call::Body as Call, store_error::Kind,
        store_reply::Body,
    },
    v1,
};
use sharklock_rangemap::{PeerId, RangeId};

use super::rig::{RANGE, Trio};

pub const CHILD: RangeId = RangeId(1_000);

fn asked(at: Option<&str>) -> internal::SplitRange {
    internal::SplitRange {
        name: String::new(),
        range_id: RANGE.0,
        conf_ver: 1,
        version: 1,
        at: at.map(str::to_owned),
        dry_run: false,
    }
}

/// The masters' answer.
pub fn ids(wanted: IdsWanted) -> Input {
    ids_from(wanted, CHILD.0)
}

/// The same, with a number for the child and the next ones for its replicas.
fn ids_from(IdsWanted { range, epoch, key, replicas, term }: IdsWanted, child: u64) -> Input {
    assert_eq!(replicas, 3);
    let child_peers = (child + 1..=child + 3).map(PeerId).collect();
    let split = Split { epoch, key, child: RangeId(child), child_peers };
    Input::Split { range, term: Some(term), split }
}

/// What a store has said to an operator.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Split(Box<v1::SplitRangeResponse>),
    Refused(String),
    NotLeader(u64),
    Indeterminate,
}

impl Said {
    fn split(self) -> v1::SplitRangeResponse {
        match self {
            Self::Split(response) => *response,
            other => panic!("{other:?}"),
        }
    }
}

fn refused(reason: &str) -> Said {
    Said::Refused(reason.to_owned())
}

impl Trio {
    fn splitting(&mut self, store: u64, asked: internal::SplitRange) -> u64 {
        self.ask_range(store, 1, (0, 0), Call::SplitRange(asked))
    }

    fn said(&mut self, store: u64, tag: u64) -> Said {
        match self.answer(store, tag) {
            None => Said::Nothing,
            Some(Body::SplitRange(response)) => Said::Split(Box::new(response)),
            Some(Body::Error(error)) => match error.kind.expect("an error says which") {
                Kind::Refused(refused) => {
                    assert!(refused.message.ends_with(|end: char| end != ' '), "{refused:?}");
                    Said::Refused(refused.reason)
                }
                Kind::NotLeader(at) => Said::NotLeader(at.leader_store_id),
                Kind::Indeterminate(_) => Said::Indeterminate,
                other => panic!("{other:?}"),
            },
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Asks, and what is said at once.
    fn asked_for(&mut self, store: u64, asked: internal::SplitRange) -> Said {
        let tag = self.splitting(store, asked);
        self.settle();
        self.said(store, tag)
    }

    /// The one split that waits for ids at this store.
    pub fn only_wanted(&mut self) -> IdsWanted {
        let mut wanted = std::mem::take(&mut self.ids_wanted);
        assert_eq!(wanted.len(), 1, "{wanted:?}");
        wanted.remove(0)
    }

    fn with_locks(names: &[&str]) -> (Self, u64) {
        let (mut trio, leader) = Self::new();
        for (id, name) in (1..).zip(names) {
            trio.granted(leader, name, id);
        }
        (trio, leader)
    }
}

fn bounds(part: Option<v1::RangePart>) -> (u64, String, String, u64) {
    let part = part.expect("both halves are told of");
    assert_eq!(part.store_ids, [1, 2, 3]);
    (part.range_id, part.start, part.end, part.epoch.expect("it has one").version)
}

#[test]
fn a_split_is_answered_once_it_is_applied_and_tells_of_both_halves() {
    let (mut trio, leader) = Trio::with_locks(&["a", "b", "c", "d"]);
    let tag = trio.splitting(leader, asked(None));
    trio.settle();
    assert_eq!(trio.said(leader, tag), Said::Nothing, "it waits for ids");
    let ranges = trio.describe(leader).ranges;
    assert_eq!((ranges.len(), ranges[0].splitting_at.as_str()), (1, "c"));
    let wanted = trio.only_wanted();
    assert_eq!((wanted.range, wanted.key.as_str()), (RANGE, "c"), "the middle of its names");
    trio.hangs = Some(leader);
    trio.parks = Some(leader % 3 + 1);
    trio.alone = Some((leader + 1) % 3 + 1);
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert_eq!(trio.said(leader, tag), Said::Nothing, "it is on no disk but one");
    (trio.parks, trio.alone) = (None, None);
    let parked = std::mem::take(&mut trio.parked);
    trio.deliver(parked);
    trio.comes_back();
    let split = trio.said(leader, tag).split();
    assert!(split.done && split.because.contains("2 locks are below it, 2 are not"), "{split:?}");
    assert_eq!(split.at, "c");
    let position = split.position.expect("it was applied somewhere");
    assert_eq!((position.range_id, position.version), (RANGE.0, 2));
    assert_eq!(bounds(split.lower), (RANGE.0, String::new(), "c".into(), 2));
    assert_eq!(bounds(split.upper), (CHILD.0, "c".into(), String::new(), 2));
    let ranges = trio.describe(leader).ranges;
    assert_eq!(ranges.iter().map(|range| range.locks).collect::<Vec<_>>(), [2, 2]);
    assert!(ranges.iter().all(|range| range.splitting_at.is_empty()));
}

#[test]
fn a_repetition_is_answered_as_the_first_and_splits_nothing() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    let first = trio.splitting(leader, asked(Some("m")));
    let second = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.tell(leader, ids(wanted));
    let third = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let answers = [first, second, third].map(|tag| trio.said(leader, tag).split());
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let late = trio.asked_for(leader, asked(Some("m"))).split();
    assert!(late.done && late.upper == answers[0].upper && late.lower == answers[0].lower);
    assert!(trio.ids_wanted.is_empty());
    assert_eq!(trio.worker(leader).stats().splits.operator, 1);
    // Not the same: another place, or nobody knows which.
    assert_eq!(trio.asked_for(leader, asked(Some("c"))), refused("RANGE_CHANGED"));
    assert_eq!(trio.asked_for(leader, asked(None)), refused("RANGE_CHANGED"));
}

#[test]
fn a_dry_run_says_where_and_does_nothing() {
    let (mut trio, leader) = Trio::with_locks(&["a", "b", "c"]);
    let plan = trio.asked_for(leader, internal::SplitRange { dry_run: true, ..asked(None) });
    let plan = plan.split();
    assert!(!plan.done && plan.because.contains("the middle"), "{plan:?}");
    let epoch = plan.epoch.expect("by which it was decided");
    assert_eq!((plan.at.as_str(), epoch.conf_ver, epoch.version), ("b", 1, 1));
    let locks = [&plan.lower, &plan.upper].map(|part| part.as_ref().expect("a half").locks);
    assert_eq!(locks, [1, 2]);
    assert_eq!(bounds(plan.upper), (0, "b".into(), String::new(), 2));
    trio.pass(Duration::from_secs(1));
    assert!(trio.ids_wanted.is_empty() && trio.describe(leader).ranges.len() == 1);
}

#[test]
fn what_cannot_be_split_is_refused_with_the_reason() {
    let (mut trio, leader) = Trio::with_locks(&["a"]);
    for (at, reason) in [(None, "SPLIT_NO_MIDDLE"), (Some(""), "SPLIT_AT_BOUND")] {
        assert_eq!(trio.asked_for(leader, asked(at)), refused(reason), "{at:?}");
    }
    for (asked, reason) in [
        (internal::SplitRange { version: 7, ..asked(Some("m")) }, "RANGE_CHANGED"),
        (internal::SplitRange { conf_ver: 7, ..asked(Some("m")) }, "RANGE_CHANGED"),
        (internal::SplitRange { range_id: 7, ..asked(Some("m")) }, "RANGE_CHANGED"),
    ] {
        assert_eq!(trio.asked_for(leader, asked), refused(reason));
    }
    let follower = leader % 3 + 1;
    assert_eq!(trio.asked_for(follower, asked(Some("m"))), Said::NotLeader(leader));
    trio.asked_for(leader, asked(Some("m")));
    let wanted = trio.only_wanted();
    trio.tell(leader, ids(wanted));
    trio.settle();
    let lower = |at| internal::SplitRange { version: 2, ..asked(Some(at)) };
    assert_eq!(trio.asked_for(leader, lower("m")), refused("SPLIT_AT_BOUND"));
    assert_eq!(trio.asked_for(leader, lower("mm")), refused("SPLIT_OUTSIDE"));
    assert_eq!(trio.worker(leader).stats().split_refusals, 7);
}

#[test]
fn one_split_of_a_range_runs_at_a_time() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    let running = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    assert_eq!(trio.asked_for(leader, asked(Some("c"))), refused("SPLIT_RUNNING"), "ids");
    let wanted = trio.only_wanted();
    trio.alone = Some(leader);
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert_eq!(trio.asked_for(leader, asked(Some("c"))), refused("SPLIT_RUNNING"), "the log");
    let dry = internal::SplitRange { dry_run: true, ..asked(Some("m")) };
    assert_eq!(trio.asked_for(leader, dry), refused("SPLIT_RUNNING"));
    assert_eq!(trio.said(leader, running), Said::Nothing);
    trio.alone = None;
    trio.pass(Duration::from_secs(3));
    assert!(trio.said(leader, running).split().done);
}

#[test]
fn nothing_is_split_while_leadership_is_handed_over() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    let waits = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.tell(leader, Input::HandOver);
    let asks = trio.splitting(leader, asked(Some("m")));
    assert_eq!(wanted.key, "m");
    trio.tell(leader, ids(wanted));
    let later = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    for tag in [waits, asks, later] {
        assert_eq!(trio.said(leader, tag), refused("HANDING_OVER"));
    }
    let next = trio.elected();
    assert_ne!(next, leader);
    assert_eq!(trio.describe(next).ranges.len(), 1);
}

#[test]
fn without_a_master_the_split_waits_and_locks_go_on() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    let tag = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    trio.granted(leader, "b", 9);
    let wanted = trio.only_wanted();
    let no_ids = Input::NoIds { wanted: wanted.clone(), why: "nobody leads".to_owned() };
    trio.tell(leader, no_ids);
    trio.settle();
    assert_eq!(trio.said(leader, tag), refused("NO_MASTER"));
    // Late ids are as good as others.
    let again = trio.splitting(leader, asked(Some("m")));
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert!(trio.said(leader, again).split().done);
}

#[test]
fn a_store_has_no_more_replicas_than_it_may() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    trio.worker_mut(leader).set_ranges_elsewhere(1_998);
    trio.asked_for(leader, asked(Some("m")));
    let wanted = trio.only_wanted();
    trio.worker_mut(leader).set_ranges_elsewhere(1_999);
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert_eq!(trio.asked_for(leader, asked(Some("m"))), refused("TOO_MANY_RANGES"));
    assert_eq!(trio.describe(leader).ranges.len(), 1, "it was full by the time of its ids");
    let elsewhere = leader % 3 + 1;
    assert_eq!(trio.describe(elsewhere).ranges.len(), 1);
}

#[test]
fn a_leader_that_steps_down_says_whether_it_may_be_split() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    trio.alone = Some(leader);
    let waits = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.said(leader, waits), Said::NotLeader(0), "not proposed");
    trio.alone = None;
    let next = trio.elected();
    assert_ne!(next, leader);
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert_eq!(trio.describe(next).ranges.len(), 1, "ids that come too late");

    let tag = trio.splitting(next, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.alone = Some(next);
    trio.tell(next, ids(wanted));
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.said(next, tag), Said::Indeterminate, "proposed");
}

/// Whoever hears that a store leads no more, so that nothing was done, finds nothing done later.
#[test]
fn ids_that_were_wanted_in_an_earlier_term_split_nothing_and_answer_nobody() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    trio.alone = Some(leader);
    let first = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.said(leader, first), Said::NotLeader(0));
    trio.alone = None;
    while trio.elected() != leader {
        let other = trio.elected();
        trio.alone = Some(other);
        trio.pass(Duration::from_secs(5));
        trio.alone = None;
        trio.pass(Duration::from_secs(1));
    }
    trio.tell(leader, ids(wanted.clone()));
    trio.settle();
    assert_eq!(trio.describe(leader).ranges.len(), 1, "nobody waits for it any more");

    let second = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let again = trio.only_wanted();
    assert!(again.term > wanted.term);
    trio.tell(leader, ids(wanted.clone()));
    trio.tell(leader, Input::NoIds { wanted, why: "too late".to_owned() });
    trio.settle();
    assert_eq!(trio.said(leader, second), Said::Nothing, "it waits for ids of its own");
    trio.tell(leader, ids(again));
    trio.settle();
    assert!(trio.said(leader, second).split().done);
}

#[test]
fn a_range_that_is_not_on_the_disk_yet_is_told_of_so_that_no_name_is_left_out() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    trio.asked_for(leader, asked(Some("m")));
    let wanted = trio.only_wanted();
    trio.tell(leader, ids(wanted));
    // All, the one that has a name, and the child: asked in one turn.
    let whats = || [None, Some(Only::Name("z".to_owned())), Some(Only::RangeId(CHILD.0))];
    let names = |trio: &mut Trio| {
        let ask = |only| {
            let question = internal::DescribeStore { heard: None, only };
            trio.ask(leader, 1, Call::Describe(question))
        };
        let tags = whats().map(ask);
        trio.look(leader);
        tags.map(|tag| {
            let Some(Body::Describe(described)) = trio.answer(leader, tag) else {
                panic!("it answers")
            };
            let bounds = |range: v1::RangeStatus| (range.range_id, range.start, range.end);
            described.ranges.into_iter().map(bounds).collect::<Vec<_>>()
        })
    };
    let whole = (RANGE.0, String::new(), String::new());
    let halves =
        [(RANGE.0, String::new(), "m".to_owned()), (CHILD.0, "m".to_owned(), String::new())];
    // After each step, whatever the disk has: the whole, then both halves.
    let mut seen = Vec::new();
    for _ in 0..20 {
        let [all, named, child] = names(&mut trio);
        assert_eq!(named, all[all.len() - 1..]);
        assert_eq!(child, all[1..], "nothing as long as there is none");
        seen.push(all);
        trio.step();
    }
    seen.dedup();
    assert_eq!(seen, [vec![whole], halves.to_vec()]);
}

/// Each of them keeps a part of the log, and would be lost with it.
#[test]
fn nothing_is_split_while_too_many_children_have_never_had_a_leader() {
    let (mut trio, leader) = Trio::with_locks(&["a"]);
    trio.hears_only = Some(RANGE);
    let asked_in = |version, at: &str| internal::SplitRange { version, ..asked(Some(at)) };
    for number in 1..=64 {
        let at = format!("m{:02}", 99 - number);
        let tag = trio.splitting(leader, asked_in(number, &at));
        trio.settle();
        let wanted = trio.only_wanted();
        trio.tell(leader, ids_from(wanted, 1_000 * number));
        trio.settle();
        assert!(trio.said(leader, tag).split().done, "{number}");
    }
    let dry = internal::SplitRange { dry_run: true, ..asked_in(65, "b") };
    for asked in [asked_in(65, "b"), dry] {
        assert_eq!(trio.asked_for(leader, asked), refused("CHILDREN_AWAITED"));
    }
    assert!(trio.ids_wanted.is_empty());

    trio.hears_only = None;
    trio.pass(Duration::from_secs(5));
    let tag = trio.splitting(leader, asked_in(65, "b"));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.tell(leader, ids_from(wanted, 65_000));
    trio.settle();
    assert!(trio.said(leader, tag).split().done, "all of them live");
    assert_eq!(trio.worker(leader).store().ranges().len(), 66);
}

/// Masters that were restored from an older state give ids twice. Applied, the split would make the
/// range smaller, and its names belong to nobody.
#[test]
fn a_split_with_ids_that_are_in_use_is_refused() {
    let (mut trio, leader) = Trio::with_locks(&["a", "z"]);
    let done = trio.splitting(leader, asked(Some("m")));
    trio.settle();
    let wanted = trio.only_wanted();
    trio.tell(leader, ids(wanted));
    trio.settle();
    assert!(trio.said(leader, done).split().done);
    // The range's own, and its child's.
    for child in [RANGE.0, CHILD.0] {
        let asked = internal::SplitRange { version: 2, ..asked(Some("c")) };
        let tag = trio.splitting(leader, asked);
        trio.settle();
        let wanted = trio.only_wanted();
        trio.tell(leader, ids_from(wanted, child));
        trio.settle();
        assert_eq!(trio.said(leader, tag), refused("IDS_UNUSABLE"), "{child}");
    }
    // As many replicas of the child as there are of the range.
    let asked = internal::SplitRange { version: 2, ..asked(Some("c")) };
    let tag = trio.splitting(leader, asked);
    trio.settle();
    let Input::Split { range, term, mut split } = ids_from(trio.only_wanted(), 2_000) else {
        unreachable!("it is one")
    };
    split.child_peers.pop();
    trio.tell(leader, Input::Split { range, term, split });
    trio.settle();
    assert_eq!(trio.said(leader, tag), refused("IDS_UNUSABLE"));
    assert_eq!(trio.worker(leader).store().ranges(), [RANGE, CHILD]);
    assert_eq!(trio.granted(leader, "c", 9), 3, "and the range goes on");
}
