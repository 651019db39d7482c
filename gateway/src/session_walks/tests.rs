//! Walks beside ranges that split meanwhile, and the naive list of all that there is.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_proto::v1::{Holder, Position, RevokedHold, SessionLock};

use super::*;
use crate::walk::RANGES_MAX;

/// A small generator: a failing seed is found again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }

    fn name(&mut self) -> String {
        let length = 1 + self.below(3);
        (0..length).map(|_| ["a", "b", "c", "d"][self.below(4) as usize]).collect()
    }
}

/// Who holds which names, and where ranges begin, the first aside.
#[derive(Default)]
struct Cluster {
    holds: BTreeMap<u8, BTreeSet<String>>,
    starts: BTreeSet<String>,
}

fn handle(session: u8) -> Bytes {
    vec![session; 16].into()
}

fn hex(session: u8) -> String {
    format!("{session:02x}").repeat(16)
}

impl Cluster {
    fn random(dice: &mut Dice) -> Self {
        let mut cluster = Self::default();
        for _ in 0..dice.below(60) {
            let (session, name) = (dice.below(6) as u8, dice.name());
            cluster.holds.entry(session).or_default().insert(name);
        }
        (0..dice.below(12)).for_each(|_| cluster.split(dice));
        cluster
    }

    fn split(&mut self, dice: &mut Dice) {
        self.starts.insert(dice.name());
    }

    fn behind(&self, name: &str, max: usize) -> Vec<String> {
        let behind = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
        self.starts.range::<str, _>(behind).take(max).cloned().collect()
    }

    /// The range of this name: where it begins and ends.
    fn bounds(&self, name: &str) -> (String, String) {
        let start =
            self.starts.iter().rfind(|start| start.as_str() <= name).cloned().unwrap_or_default();
        (start, self.behind(name, 1).pop().unwrap_or_default())
    }

    fn of(&self, session: u8, from: &str, end: &str) -> Vec<String> {
        let all = self.holds.get(&session).into_iter().flatten();
        let here =
            all.filter(|name| name.as_str() >= from && (end.is_empty() || name.as_str() < end));
        here.cloned().collect()
    }

    fn sessions(&self, asked: &ListRangeSessions) -> RangeSessions {
        let (start, end) = self.bounds(&asked.from);
        let mut sessions = Vec::new();
        let mut next = Bytes::new();
        for &session in self.holds.keys().filter(|session| handle(**session) > asked.after) {
            if sessions.len() == asked.sessions_max as usize {
                next = sessions.last().map(|last: &(u8, u32)| handle(last.0)).unwrap_or_default();
                break;
            }
            let count = self.of(session, &start, &end).len() as u32;
            if count > 0 {
                sessions.push((session, count));
            }
        }
        let summary = |(session, holds_count)| SessionSummary {
            session: hex(session),
            holds_count,
            ..SessionSummary::default()
        };
        let sessions = sessions.into_iter().map(summary).collect();
        RangeSessions { position: Some(Position::default()), sessions, next, end }
    }

    fn session(&self, asked: &GetRangeSession) -> RangeSession {
        let (_, end) = self.bounds(&asked.from);
        let names = self.of(asked.session[0], &asked.from, &end);
        let has_more = names.len() > asked.locks_max as usize;
        let lock = |name| SessionLock { name, ..SessionLock::default() };
        let locks = names.into_iter().take(asked.locks_max as usize).map(lock).collect();
        RangeSession { position: Some(Position::default()), locks, has_more, end }
    }

    fn revoke(&mut self, asked: &RevokeRangeSession) -> RangeRevoked {
        let (start, end) = self.bounds(&asked.from);
        let names = self.of(asked.session[0], &start, &end);
        for name in &names {
            self.holds.get_mut(&asked.session[0]).expect("it has some").remove(name);
        }
        let hold = |name| RevokedHold { name, holder: Some(Holder::default()), ended: false };
        let holds: Vec<_> = names.into_iter().map(hold).collect();
        let (position, holds_count) = (Some(Position::default()), holds.len() as u32);
        RangeRevoked { position, holds, holds_count, waiters_count: 1, end }
    }
}

/// All pages of a walk, while ranges split. `$begin` makes a walk from a token.
macro_rules! walk {
    ($dice:expr, $cluster:expr, $begin:expr, $answer:ident) => {{
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let mut walk = $begin(token);
            let mut asked = 0;
            loop {
                let round = walk.round(|from, max| $cluster.behind(from, max));
                asked += round.len();
                assert!(asked <= RANGES_MAX);
                let is_over = round.is_empty();
                for question in round {
                    if $dice.below(3) == 0 {
                        $cluster.split($dice);
                    }
                    let part = $cluster.$answer(&question);
                    if !walk.take(&question, part).expect("it is an answer") {
                        break;
                    }
                }
                if is_over {
                    break;
                }
            }
            let page = walk.into_page();
            token = page.next_page_token.clone();
            pages.push(page);
            if token.is_empty() {
                break pages;
            }
        }
    }};
}

fn list(token: String, page_size: u32) -> SessionList {
    let walk = Walk::new("x".to_owned(), &token, page_size).expect("a token of this list");
    let (session_prefix, owner) = (String::new(), String::new());
    SessionList { walk, session_prefix, owner, page: ListSessionsResponse::default() }
}

/// A part that a session was told of before begins below the end of that.
#[test]
fn every_hold_of_every_session_is_counted_once_whatever_splits() {
    for seed in 0..400 {
        let dice = &mut Dice(seed);
        let mut cluster = Cluster::random(dice);
        let page_size = [1, 2, 3, 100][dice.below(4) as usize];
        let pages = walk!(dice, cluster, |token| list(token, page_size), sessions);
        let mut counts = BTreeMap::<String, (u32, Option<String>)>::new();
        for range in pages.into_iter().flat_map(|page| page.ranges) {
            assert!(!range.sessions.is_empty());
            for session in range.sessions {
                let (count, told) = counts.entry(session.session).or_default();
                let is_new = |told: &String| !told.is_empty() && range.start >= *told;
                if told.as_ref().is_none_or(is_new) {
                    *count += session.holds_count;
                    *told = Some(range.end.clone());
                }
            }
        }
        let counts: Vec<_> = counts.into_iter().map(|(of, (count, _))| (of, count)).collect();
        let held = cluster.holds.iter().map(|(of, names)| (hex(*of), names.len() as u32));
        assert_eq!(counts, held.collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn every_lock_of_a_session_is_told_of_once_and_in_order_whatever_splits() {
    for seed in 0..400 {
        let dice = &mut Dice(seed);
        let mut cluster = Cluster::random(dice);
        let page_size = [1, 2, 7, 100][dice.below(4) as usize];
        let look = |token: String| SessionLook {
            walk: Walk::new("x".to_owned(), &token, page_size).expect("a token of this list"),
            handle: handle(3),
            page: GetSessionResponse::default(),
        };
        let pages = walk!(dice, cluster, look, session);
        assert!(pages.iter().all(|page| page.locks.len() <= page_size as usize));
        let names = pages.into_iter().flat_map(|page| page.locks).map(|lock| lock.name);
        assert_eq!(names.collect::<Vec<_>>(), cluster.of(3, "", ""), "seed {seed}");
    }
}

#[test]
fn a_revocation_reaches_every_hold_and_counts_each_once_whatever_splits() {
    for seed in 0..400 {
        let dice = &mut Dice(seed);
        let mut cluster = Cluster::random(dice);
        let before = cluster.of(3, "", "");
        let revocation = |token: String| Revocation {
            walk: Walk::new("x".to_owned(), &token, 9).expect("a token of it").step_by_step(),
            handle: handle(3),
            reason: "why".to_owned(),
            operator: String::new(),
            dry_run: false,
            page: RevokeSessionResponse::default(),
        };
        let pages = walk!(dice, cluster, revocation, revoke);
        let asked: usize = pages.iter().map(|page| page.positions.len()).sum();
        assert_eq!(pages.iter().map(|page| page.waiters_count).sum::<u64>(), asked as u64);
        assert_eq!(pages.iter().map(|page| page.holds_count).sum::<u64>(), before.len() as u64);
        let names = pages.into_iter().flat_map(|page| page.holds).map(|hold| hold.name);
        assert_eq!(names.collect::<Vec<_>>(), before, "seed {seed}");
        assert!(cluster.of(3, "", "").is_empty());
    }
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    let part = |next: &[u8], end: &str, sessions| RangeSessions {
        position: None,
        sessions: vec![SessionSummary::default(); sessions],
        next: next.to_vec().into(),
        end: end.to_owned(),
    };
    let mut walk = Walk::new("x".to_owned(), "", 1).expect("the first page");
    walk.goes_to(Some(Place { from: "m".to_owned(), after: handle(5) }), 0, 0);
    let bad = [
        part(&[5; 16], "z", 1),
        part(&[4; 16], "z", 1),
        part(&[], "m", 1),
        part(&[], "a", 1),
        part(&[], "", 2),
    ];
    for part in bad {
        let mut list = SessionList { walk: walk.clone(), ..list(String::new(), 1) };
        let question = list.round(|_, _| Vec::new()).remove(0);
        list.take(&question, part).expect_err("it cannot be right");
    }
    let mut list = SessionList { walk: walk.clone(), ..list(String::new(), 1) };
    let question = list.round(|_, _| Vec::new()).remove(0);
    assert!(list.take(&question, part(&[6; 16], "z", 1)).expect("it may be right"));
}
