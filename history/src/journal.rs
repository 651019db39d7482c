//! A history that goes to its file while it is made: whoever is killed leaves what it has seen so far.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::record::{LockId, Record};
use crate::recorder::Recorder;
use crate::text::{format_line, name_line, record_line};

/// The notes of many recorders, one after the other, in the format of [`crate::write`].
#[derive(Debug)]
pub struct Journal<W> {
    to: W,
    ids: BTreeMap<String, LockId>,
}

impl<W: Write> Journal<W> {
    /// Begins a history.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut to: W) -> io::Result<Self> {
        writeln!(to, "{}", format_line())?;
        Ok(Self { to, ids: BTreeMap::new() })
    }

    /// Adds what [`Recorder::take`] has taken. The last lines may stay in the writer until
    /// [`Journal::flush`].
    ///
    /// # Errors
    /// When it cannot be written.
    ///
    /// # Panics
    /// When a record's lock has no name there.
    pub fn append(&mut self, notes: &Recorder) -> io::Result<()> {
        for record in notes.records() {
            let name = notes.name(record.lock);
            let lock = match self.ids.get(name) {
                Some(id) => *id,
                None => {
                    let id = u32::try_from(self.ids.len()).expect("fewer than 2^32 locks");
                    writeln!(self.to, "{}", name_line(id as usize, name))?;
                    self.ids.insert(name.to_owned(), LockId(id));
                    LockId(id)
                }
            };
            writeln!(self.to, "{}", record_line(&Record { lock, ..*record }))?;
        }
        Ok(())
    }

    /// Hands everything over to the operating system: it outlives the process from then on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Position, What};
    use crate::{History, read};

    fn note(recorder: &mut Recorder, name: &str, session: u32) {
        let lock = recorder.lock(name);
        let (position, what) = (Position::UNKNOWN, What::Unknown { reenter: 0 });
        let (acquisition, invoked, returned) = (1, 1, 2);
        recorder.push(Record { lock, session, acquisition, invoked, returned, position, what });
    }

    fn named(history: &History) -> Vec<(u32, String)> {
        history.records.iter().map(|it| (it.session, history.name(it.lock))).collect()
    }

    #[test]
    fn parts_of_several_recorders_are_read_as_one_history() {
        let (mut one, mut other) = (Recorder::default(), Recorder::default());
        let mut journal = Journal::begin(Vec::new()).expect("a vector takes all");
        note(&mut one, "a", 1);
        note(&mut one, "b", 1);
        journal.append(&one.take()).expect("a vector takes all");
        note(&mut other, "b", 2);
        journal.append(&other.take()).expect("a vector takes all");
        // The numbers of locks stay what they were, and what was taken is not taken again.
        note(&mut one, "b", 3);
        note(&mut one, "c", 3);
        journal.append(&one.take()).expect("a vector takes all");
        let history = read(&journal.to[..]).expect("it is a history");
        let expected = [(1, "a"), (1, "b"), (2, "b"), (3, "b"), (3, "c")];
        assert_eq!(named(&history), expected.map(|(session, name)| (session, name.to_owned())));
        assert!(one.is_empty() && one.take().is_empty());
    }
}
