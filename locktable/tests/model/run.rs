//! One case: tables and their models, side by side.

use std::collections::BTreeMap;

use sharklock_locktable::{
    At, Command, Counts, FEATURE_LEVEL, Header, Lease, LockTable, Name, Row, RowKey, Status,
    TableLimits,
};

use crate::{
    commands::{Commands, Dice, TERM, names},
    naive::Naive,
    seen::Seen,
    sessions,
};

/// A table, its model, and the image that flushes have made of it.
struct Half {
    table: LockTable,
    model: Naive,
    image: BTreeMap<RowKey, Row>,
    commands: Commands,
}

pub struct Run {
    limits: TableLimits,
    /// One table, or after splits the parts.
    halves: Vec<Half>,
    steps: u64,
    log: bool,
    seen: Seen,
}

impl Run {
    pub fn new(number: u64, log: bool) -> Self {
        let mut dice = Dice(number);
        let limits = TableLimits {
            seats_per_lock_max: 2 + dice.roll(5) as usize,
            waiters_per_lock_max: 2 + dice.roll(5) as usize,
            acquisitions_per_session_max: 3 + dice.roll(6) as usize,
            // Short ones forget at once, the longest spans two rows of the image.
            ring_len_max: [1, 4, 4, 24, 24, 24, 24, 300][dice.roll(8) as usize],
            // A few lives at once, some hundred, all.
            ended_bytes_max: [300, 1_500, 20_000, 1 << 20][dice.roll(8).min(3) as usize],
        };
        // Some begin under the rules of a level before.
        let level = match dice.roll(12) {
            level @ 1..FEATURE_LEVEL => level,
            _ => FEATURE_LEVEL,
        };
        let mut table = LockTable::with_limits(limits);
        if level != FEATURE_LEVEL {
            let header = Header { feature_level: level, ..table.header() };
            table = LockTable::restore_with_limits(limits, header, vec![]).expect("it is empty");
        }
        table.count_prefixes(&prefixes());
        let (model, commands) = (Naive::new(limits, level), Commands::new(names()));
        let half = Half { table, model, image: BTreeMap::new(), commands };
        Self { limits, halves: vec![half], steps: 0, log, seen: Seen::default() }
    }

    pub fn step(&mut self, number: u64) {
        self.steps += 1;
        let mut dice = Dice(number);
        let index = dice.roll(self.halves.len() as u64) as usize;
        match dice.roll(400) {
            0..4 => self.flush(index),
            // Little, or more than a generation, or more than is remembered.
            7..15 => self.pass(
                index,
                [200, 900, 900, 4_000, 4_000, 6_000, 20_000, 40_000][dice.roll(8) as usize],
            ),
            4 => self.restart(index, true),
            5 => self.restart(index, false),
            6 => self.split(index, &mut dice),
            _ => self.apply(index, &mut dice),
        }
    }

    pub fn finish(mut self) -> Seen {
        for index in 0..self.halves.len() {
            self.halves[index].check_views();
            self.restart(index, true);
        }
        self.seen
    }

    fn apply(&mut self, index: usize, dice: &mut Dice) {
        let at = At { index: self.steps, term: TERM, stamped_unix_ms: 1_000_000 + self.steps };
        let half = &mut self.halves[index];
        let command = half.commands.make(dice, &half.model);
        if self.log {
            println!("{index}: {command:?}");
        }
        let lost = half.model.lost;
        half.apply(at, command, &mut self.seen);
        if half.model.lost != lost {
            self.seen.note_that("cut".into());
        }
        half.table.check_invariants();
        if self.steps.is_multiple_of(8) {
            half.check_views();
            half.check_status(dice);
        }
    }

    fn pass(&mut self, index: usize, ms: u64) {
        self.seen.note_that("pass".into());
        let half = &mut self.halves[index];
        let lost = half.model.lost;
        if self.log {
            println!("{index}: {ms} ms pass");
        }
        half.table.pass(ms);
        half.model.pass(ms);
        if half.model.lost != lost {
            self.seen.note_that("forgotten".into());
        }
        half.table.check_invariants();
        half.check_views();
    }

    fn flush(&mut self, index: usize) {
        self.seen.note_that("flush".into());
        let rows_max = 1 + self.steps as usize % 7;
        self.halves[index].flush(rows_max);
    }

    /// The table must be what its rows say; then the run goes on with the restored one.
    fn restart(&mut self, index: usize, from_image: bool) {
        self.seen.note_that("restart".into());
        if self.log {
            println!("{index}: restart");
        }
        let half = &mut self.halves[index];
        half.flush(if from_image { 2 } else { usize::MAX });
        if !from_image {
            // As a snapshot that is installed: it becomes the image.
            half.image = half.table.rows().into_iter().collect();
        }
        let rows = half.image.clone().into_iter().collect();
        let header = half.table.header();
        let restored = LockTable::restore_with_limits(self.limits, header, rows);
        let mut restored = restored.expect("the rows are those of a table");
        restored.count_prefixes(&prefixes());
        for prefix in prefixes() {
            let (is, was) = (&restored, &half.table);
            assert_eq!(is.bytes_under(prefix.as_str()), was.bytes_under(prefix.as_str()));
        }
        assert_eq!(restored.bytes(), half.table.bytes());
        assert_eq!(restored.header(), header);
        assert_eq!(restored.rows(), half.table.rows());
        assert_eq!(restored.state_hash(), half.table.state_hash());
        restored.check_invariants();
        half.table = restored;
    }

    /// Both parts go on.
    fn split(&mut self, index: usize, dice: &mut Dice) {
        let half = &mut self.halves[index];
        if half.commands.names.len() < 2 {
            return;
        }
        self.seen.note_that("split".into());
        let at = 1 + dice.roll(half.commands.names.len() as u64 - 1) as usize;
        let at = half.commands.names[at].clone();
        if self.log {
            println!("{index}: split at {at}");
        }
        let upper = Half {
            table: half.table.split_off(at.as_str()),
            model: half.model.split_off(at.as_str()),
            image: BTreeMap::new(),
            commands: half.commands.split_off(&at),
        };
        for half in [&*half, &upper] {
            half.table.check_invariants();
            half.check_views();
        }
        self.halves.push(upper);
    }
}

/// Some that are prefixes of one another, and of names.
fn prefixes() -> Vec<Name> {
    let mut prefixes: Vec<Name> = names();
    prefixes.truncate(2);
    prefixes.push("".into());
    prefixes
}

impl Half {
    fn apply(&mut self, at: At, command: Command, seen: &mut Seen) {
        let expected = self.model.apply(at, &command);
        let was = command.clone();
        let outcome = self.table.apply(at, command);
        seen.note(&expected);
        assert_eq!(outcome, expected, "after {was:#?}");
    }

    fn check_views(&self) {
        let names = &self.commands.names;
        let expected: Vec<_> = names.iter().filter_map(|name| self.model.lock(name)).collect();
        assert_eq!(self.table.locks("", "", usize::MAX, usize::MAX, usize::MAX), expected);
        assert_eq!(self.table.leases(), self.model.leases(names));
        self.check_runs_of_leases();
        sessions::check(&self.table, &self.model);
        let counts = Counts {
            locks: expected.len(),
            holds: self.model.held.len(),
            waiters: self.model.waiting.len(),
            delays: self.model.delayed.len(),
            finished: self.model.finished_count(),
        };
        assert_eq!(self.table.counts(), counts);
        assert_eq!(self.table.bytes() == 0, expected.is_empty(), "{}", self.table.bytes());
        let header = self.table.header();
        assert_eq!(header.token_counter, self.model.tokens);
        assert_eq!(u64::from(header.generation), self.model.generation);
        assert_eq!(header.recovered_ms, self.model.recovered);
        assert_eq!(header.quarantine, self.model.quarantine);
        assert_eq!(header.ring_next, self.model.gone_ever);
        assert_eq!(header.age_ms, self.model.age);
        assert_eq!(header.lost_ms, self.model.lost);
        assert_eq!(header.ended_next, self.model.generations);
        assert_eq!(self.table.ended_bytes(), self.model.ended_bytes());
        assert_eq!(header.feature_level, self.model.level);
        for hold in &self.model.held {
            assert_eq!(self.table.hold(hold.name.as_str(), hold.token), Some(hold.view()));
        }
    }

    /// In runs, and one by one, they are the same.
    fn check_runs_of_leases(&self) {
        let all = self.table.leases();
        let steps_max = 1 + all.len() % 3;
        let (mut seen, mut at) = (Vec::new(), None);
        loop {
            let (run, stopped) = self.table.leases_after(at.as_ref(), steps_max);
            assert!(run.len() <= 2 * steps_max);
            seen.extend(run);
            at = stopped;
            if at.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        for lease in all {
            let alone = match &lease {
                Lease::Hold { name, token, .. } => self.table.lease_of_hold(name.as_str(), *token),
                Lease::Waiter { name, acquisition, .. } => {
                    self.table.lease_of_waiter(name.as_str(), *acquisition)
                }
                Lease::Delay { .. } => continue,
            };
            assert_eq!(alone, Some(lease));
        }
    }

    fn check_status(&mut self, dice: &mut Dice) {
        let acquisition = self.commands.acquisition(dice);
        for name in &self.commands.names {
            let expected = self.model.status(name, acquisition);
            assert_eq!(self.table.status(name.as_str(), acquisition), expected);
            let held = self.table.hold_of(name.as_str(), acquisition);
            match expected {
                Status::Held { grant, .. } => assert_eq!(held, Some(grant.token)),
                // Of an orphan, at most.
                Status::Finished(how) if held.is_some() => {
                    assert_eq!(how, sharklock_locktable::Finished::Orphaned);
                }
                Status::Waiting { .. } | Status::Finished(_) => assert_eq!(held, None),
            }
        }
    }

    /// A first image comes in pieces of about so many rows.
    fn flush(&mut self, rows_max: usize) {
        let mut is_all = false;
        while !is_all {
            let rows;
            (rows, is_all) = self.table.take_some_dirty(rows_max);
            for (key, row) in rows {
                match row {
                    Some(row) => drop(self.image.insert(key, row)),
                    None => assert!(self.image.remove(&key).is_some(), "{key:?} was not there"),
                }
            }
        }
        assert!(self.table.take_dirty().is_empty());
        // What is on the disk now is the table, to the row; but what has ended is added in small rows.
        let rows: Vec<_> = self.image.clone().into_iter().collect();
        let whole: Vec<_> = self.table.rows();
        let keys = |rows: &[(RowKey, Row)]| {
            let is_whole = |key: &RowKey| !matches!(key, RowKey::Ended(_, row) if *row > 0);
            rows.iter().map(|it| it.0.clone()).filter(is_whole).collect::<Vec<_>>()
        };
        assert_eq!(keys(&rows), keys(&whole));
    }
}
