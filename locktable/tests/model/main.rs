//! Random commands against a naive model that shares no code with the table: same replies, same
//! changes, same views, and at any moment a table restored from rows is the table.

mod commands;
mod naive;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{Debug, Write},
};

use proptest::{
    prelude::any,
    test_runner::{Config, RngSeed, TestRunner},
};
use sharklock_locktable::{
    At, Command, Counts, Limits, LockTable, Outcome, Reply, Row, RowKey, Status,
};

use crate::{
    commands::{Commands, Dice, TERM, names},
    naive::Naive,
};

const CASES: u32 = 400;
const COMMANDS_PER_CASE: usize = 1_300;

/// Every way to answer and every change: the run must meet each of them often, else it tests less
/// than it seems to.
const ANSWERS_AND_CHANGES: &str = "Granted Queued StillHeld Released Cancelled Holds Done \
    Finished::Unknown Finished::Released Finished::Cancelled Finished::Expired \
    Finished::WaitTimedOut Finished::TryRefused Finished::ForceReleased Finished::HoldLost \
    Refused::ModeMismatch Refused::WouldDeadlock Refused::TooManyWaiters \
    Refused::TooManyAcquisitions Refused::AcquisitionReused Refused::NotReenterable \
    +Queued +Granted +Joined +Closed +WaiterLeft +HoldEnded +EndingBegan +ExpireMissed";

/// How often each of [`ANSWERS_AND_CHANGES`] came.
type Seen = BTreeMap<String, usize>;

fn note(seen: &mut Seen, outcome: &Outcome) {
    let reply = match &outcome.reply {
        Reply::Finished(how) => format!("Finished::{}", variant(how)),
        Reply::Refused(why) => format!("Refused::{}", variant(why)),
        reply => variant(reply),
    };
    *seen.entry(reply).or_default() += 1;
    for change in &outcome.changes {
        *seen.entry(format!("+{}", variant(change))).or_default() += 1;
    }
}

/// The name of an enum's variant, without formatting the rest.
fn variant(value: &impl Debug) -> String {
    struct FirstWord(String);
    impl Write for FirstWord {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let word: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
            self.0.push_str(&word);
            if word.len() == text.len() { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    let mut word = FirstWord(String::new());
    // It ends with an error at the first character that belongs to no name.
    let _ended = write!(word, "{value:?}");
    word.0
}

/// A table, its model, and the image that flushes have made of it.
struct Run {
    limits: Limits,
    table: LockTable,
    model: Naive,
    image: BTreeMap<RowKey, Row>,
    applied: Vec<Command>,
    seen: Seen,
}

impl Run {
    fn new(dice: &mut Dice) -> Self {
        let limits = Limits {
            waiters_per_lock_max: 2 + dice.roll(5) as usize,
            acquisitions_per_session_max: 3 + dice.roll(6) as usize,
            // Short ones forget at once, the longer ones span several rows of the image.
            ring_len_max: [1, 4, 24, 300, 1_000][dice.roll(5) as usize],
        };
        let (table, model) = (LockTable::with_limits(limits), Naive::new(limits));
        Self { limits, table, model, image: BTreeMap::new(), applied: vec![], seen: Seen::new() }
    }

    fn apply(&mut self, command: Command) {
        let index = self.applied.len() as u64 + 1;
        let at = At { index, term: TERM, stamped_unix_ms: 1_000_000 + index };
        self.applied.push(command.clone());
        let expected = self.model.apply(at, &command);
        let outcome = self.table.apply(at, command);
        note(&mut self.seen, &expected);
        assert_eq!(outcome, expected, "after {:#?}", self.applied.last());
    }

    fn check_views(&self) {
        let names = names();
        let expected: Vec<_> = names.iter().filter_map(|name| self.model.lock(name)).collect();
        assert_eq!(self.table.locks("", None, usize::MAX, usize::MAX, usize::MAX), expected);
        assert_eq!(self.table.leases(), self.model.leases(&names));
        let counts = Counts {
            locks: expected.len(),
            holds: self.model.held.len(),
            waiters: self.model.waiting.len(),
            finished: self.model.finished_count(),
        };
        assert_eq!(self.table.counts(), counts);
        let header = self.table.header();
        assert_eq!(header.token_counter, self.model.tokens);
        assert_eq!(header.ring_next, self.model.gone_ever);
        for hold in &self.model.held {
            assert_eq!(self.table.hold(hold.name.as_str(), hold.token), Some(hold.view()));
        }
    }

    fn check_status(&self, commands: &mut Commands, dice: &mut Dice) {
        let acquisition = commands.acquisition(dice);
        for name in names() {
            let expected = self.model.status(&name, acquisition);
            assert_eq!(self.table.status(name.as_str(), acquisition), expected);
            let token = match expected {
                Status::Held { grant, .. } => Some(grant.token),
                Status::Waiting { .. } | Status::Finished(_) => None,
            };
            assert_eq!(self.table.hold_of(name.as_str(), acquisition), token);
        }
    }

    fn flush(&mut self) {
        for (key, row) in self.table.take_dirty() {
            match row {
                Some(row) => drop(self.image.insert(key, row)),
                None => assert!(self.image.remove(&key).is_some(), "{key:?} was not there"),
            }
        }
        assert!(self.table.take_dirty().is_empty());
    }

    /// The table must be what its rows say; then the run goes on with the restored one.
    fn restart(&mut self, from_image: bool) {
        self.flush();
        let rows =
            if from_image { self.image.clone().into_iter().collect() } else { self.table.rows() };
        let header = self.table.header();
        let restored = LockTable::restore_with_limits(self.limits, header, rows);
        let restored = restored.expect("the rows are those of a table");
        assert_eq!(restored.header(), header);
        assert_eq!(restored.rows(), self.table.rows());
        assert_eq!(restored.state_hash(), self.table.state_hash());
        self.table = restored;
    }
}

fn run(numbers: &[u64]) -> Seen {
    let mut run = Run::new(&mut Dice(numbers.first().copied().unwrap_or(0)));
    let mut commands = Commands::default();
    for (step, &number) in numbers.iter().enumerate() {
        let mut dice = Dice(number);
        match dice.roll(103) {
            100 => run.flush(),
            101 => run.restart(true),
            102 => run.restart(false),
            kind => {
                let command = commands.make(kind, &mut dice, &run.model);
                run.apply(command);
            }
        }
        if step % 8 == 0 {
            run.check_views();
            run.check_status(&mut commands, &mut Dice(number));
        }
        if step % 32 == 0 {
            run.table.check_invariants();
        }
    }
    run.check_views();
    run.table.check_invariants();
    run.restart(true);
    run.seen
}

#[test]
fn the_table_does_what_the_model_does() {
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(0x5ea1_0c4b),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let seen = RefCell::new(Seen::new());
    let numbers = proptest::collection::vec(any::<u64>(), COMMANDS_PER_CASE);
    TestRunner::new(config)
        .run(&numbers, |numbers| {
            for (what, times) in run(&numbers) {
                *seen.borrow_mut().entry(what).or_default() += times;
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let seen = seen.into_inner();
    println!("{seen:#?}");
    for what in ANSWERS_AND_CHANGES.split_whitespace() {
        let times = seen.get(what).copied().unwrap_or(0);
        assert!(times >= 100, "{what} came only {times} times");
    }
    let replies = seen.iter().filter(|(what, _)| !what.starts_with('+'));
    let commands: usize = replies.map(|(_, times)| times).sum();
    assert!(commands >= 200_000, "only {commands} commands");
}
