//! Runs the lines of one script on one table.

use std::fmt::Write;

use sharklock_locktable::{
    Acquisition, AcquisitionId, At, Header, LockTable, RowKey, SessionHandle, TableLimits,
};

use crate::{language::Line, print};

/// A table and what surrounds it in a script: its log and its term.
pub struct Machine {
    limits: TableLimits,
    table: LockTable,
    /// The upper half of the last split.
    other: LockTable,
    index: u64,
    term: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            limits: TableLimits::default(),
            table: LockTable::new(),
            other: LockTable::new(),
            index: 0,
            term: 5,
        }
    }
}

impl Machine {
    /// The output of one line, each line of it ended.
    pub fn run(&mut self, line: &str) -> String {
        let mut line = Line::parse(line, self.table.age_ms());
        let mut output = String::new();
        if let Some(command) = line.command(self.term) {
            self.index += 1;
            let at = At { index: self.index, term: self.term, stamped_unix_ms: self.index * 1_000 };
            output = print::outcome(&self.table.apply(at, command));
        } else {
            self.look(&mut line, &mut output);
        }
        self.table.check_invariants();
        output
    }

    fn look(&mut self, line: &mut Line<'_>, output: &mut String) {
        let table = &self.table;
        match line.verb {
            "limits" => {
                let limits = TableLimits::default();
                self.limits = TableLimits {
                    seats_per_lock_max: line.option("seats").unwrap_or(limits.seats_per_lock_max),
                    waiters_per_lock_max: line
                        .option("waiters")
                        .unwrap_or(limits.waiters_per_lock_max),
                    acquisitions_per_session_max: line
                        .option("acquisitions")
                        .unwrap_or(limits.acquisitions_per_session_max),
                    ring_len_max: line.option("ring").unwrap_or(limits.ring_len_max),
                    ended_bytes_max: line.option("ended").unwrap_or(limits.ended_bytes_max),
                };
                self.table = LockTable::with_limits(self.limits);
            }
            // So much time passes between two entries.
            "pass" => self.table.pass(line.option("ms").expect("pass needs ms=")),
            "ended" => print::ended(output, table),
            "term" => self.term = line.option("term").expect("term=N"),
            "status" => {
                let (acquisition, name) = (line.acquisition(), line.name());
                let status = table.status(name.as_str(), acquisition);
                print::status(output, &status);
            }
            "hold" => {
                match table.hold(line.name().as_str(), line.token("token").expect("token=")) {
                    Some(view) => print::hold(output, &view),
                    None => output.push_str("not live\n"),
                }
            }
            "show" => match table.lock(line.name().as_str(), usize::MAX, usize::MAX) {
                Some(view) => print::lock(output, &view),
                None => output.push_str("free\n"),
            },
            "locks" => {
                let prefix = line.option::<String>("prefix").unwrap_or_default();
                let from = line.option::<String>("from").unwrap_or_default();
                let locks_max = line.option("max").unwrap_or(usize::MAX);
                for view in table.locks(&prefix, &from, locks_max, 0, 0) {
                    let (holds, waiters) = (view.holds_count, view.waiters_count);
                    writeln!(output, "{}: {holds} holds, {waiters} waiters", view.name)
                        .expect("a string takes all");
                }
            }
            "leases" => table.leases().iter().for_each(|lease| print::lease(output, lease)),
            "counts" => print::counts(output, table.counts(), table.header()),
            "flush" => print::dirty(output, &self.table.take_dirty()),
            "restore" => self.restore(output),
            "level" => {
                let level = line.option("level").expect("level=");
                let header = Header { feature_level: level, ..table.header() };
                let mut rows = table.rows();
                // Those are of level 3.
                rows.retain(|(key, _)| level >= 3 || !matches!(key, RowKey::Ended(..)));
                let table = LockTable::restore_with_limits(self.limits, header, rows);
                self.table = table.expect("rows of a table");
            }
            "split" => self.split(line),
            "other" => std::mem::swap(&mut self.table, &mut self.other),
            verb => panic!("{verb}: not a word of the language"),
        }
    }

    /// Goes on with the lower half; `other` changes to the upper one and back.
    fn split(&mut self, line: &mut Line<'_>) {
        self.other = self.table.split_off(line.word());
        self.other.check_invariants();
    }

    /// Goes on with a table made of the rows of this one.
    fn restore(&mut self, output: &mut String) {
        let (header, rows) = (self.table.header(), self.table.rows());
        let restored =
            LockTable::restore_with_limits(self.limits, header, rows).expect("rows of a table");
        assert_eq!(restored.rows(), self.table.rows(), "the restored table has other rows");
        assert_eq!(restored.header(), header, "the restored table has another header");
        assert_eq!(restored.state_hash(), self.table.state_hash(), "another hash");
        output.push_str("same rows, same hash\n");
        self.table = restored;
    }
}

/// The letters of its handle.
pub fn spell_session(session: SessionHandle) -> String {
    let letters = session.0.iter().take_while(|&&letter| letter != 0);
    letters.map(|&letter| char::from(letter)).collect()
}

/// `a.1`, or `a/2.1` for another instance than 1.
pub fn spell(acquisition: Acquisition) -> String {
    let Acquisition { session, instance, id: AcquisitionId(id) } = acquisition;
    let session = spell_session(session);
    if instance.0 == 1 {
        return format!("{session}.{id}");
    }
    format!("{session}/{}.{id}", instance.0)
}
