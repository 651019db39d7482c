//! What the clients of a run have left in its directory, read as far as it is there: one that is missing is
//! told, and the others are judged all the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sharklock_history::{History, LockId, Record, What, read};

use super::clients::SHELLS;
use super::load::{history_file, surprises_file};
use super::resource::SUMMARY;
use super::shell::Counted;

/// All of it.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The histories of all clients as one.
    pub history: History,
    /// How many grants each process of clients had.
    pub grants: BTreeMap<String, u64>,
    /// What the resource of slow holders saw; null where it left nothing.
    pub resource: serde_json::Value,
    /// The counter of shells, and how often they counted.
    pub counted: Counted,
    /// What is missing, and what surprised clients, in words.
    pub faults: Vec<String>,
}

impl Evidence {
    /// Reads what processes with these names have left in `out`.
    pub fn read(out: &Path, loads: &[String], bounds: History) -> Self {
        let mut evidence = Self::default();
        let mut numbers = BTreeMap::new();
        evidence.add(bounds, &mut numbers);
        for label in loads {
            evidence.grants.insert(label.clone(), 0);
            match history_of(&history_file(out, label)) {
                Ok(history) => {
                    let granted = |it: &&Record| matches!(it.what, What::Granted(_));
                    let grants = history.records.iter().filter(granted).count();
                    evidence.grants.insert(label.clone(), grants as u64);
                    evidence.add(history, &mut numbers);
                }
                Err(why) => evidence.faults.push(format!("{label} has left no history: {why:#}")),
            }
            match surprises(&surprises_file(out, label)) {
                Ok(seen) => {
                    let told = seen.iter().map(|(what, n)| format!("{label}: {n} times: {what}"));
                    evidence.faults.extend(told);
                }
                Err(why) => evidence.faults.push(format!("{label} did not end in order: {why:#}")),
            }
        }
        match resource(&out.join(SUMMARY)) {
            Ok((summary, faults)) => {
                evidence.resource = summary;
                evidence.faults.extend(faults);
            }
            Err(why) => evidence.faults.push(format!("the resource has left nothing: {why:#}")),
        }
        match Counted::read(out, &SHELLS) {
            Ok(counted) => {
                evidence.counted = counted;
                evidence.faults.extend(counted.fault());
            }
            Err(why) => evidence.faults.push(format!("a shell has left nothing: {why:#}")),
        }
        evidence
    }

    /// Adds the history of one process. `numbers` has the locks that are known.
    fn add(&mut self, one: History, numbers: &mut BTreeMap<String, LockId>) {
        let all = &mut self.history;
        let mut ids = Vec::new();
        for name in one.names {
            let next = u32::try_from(all.names.len()).expect("fewer than 2^32 locks");
            let id = *numbers.entry(name.clone()).or_insert(LockId(next));
            if id.0 == next {
                all.names.push(name);
            }
            ids.push(id);
        }
        let renamed =
            one.records.into_iter().map(|it| Record { lock: ids[it.lock.0 as usize], ..it });
        all.records.extend(renamed);
    }
}

/// The whole lines of a history: a process that was killed may have left half of one.
fn history_of(path: &Path) -> Result<History> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    read(&bytes[..whole]).with_context(|| path.display().to_string())
}

/// Errors of clients that no fault explains.
fn surprises(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

fn resource(path: &Path) -> Result<(serde_json::Value, Vec<String>)> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let summary: serde_json::Value = serde_json::from_str(&text)?;
    let faults = summary["faults"].as_array().into_iter().flatten();
    let faults = faults.map(|fault| format!("the resource: {fault}")).collect();
    Ok((summary, faults))
}

/// Servers that ended by a bug, whoever started them again, by the logs of all containers.
///
/// # Errors
/// When these cannot be read.
pub fn panics(logs: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs).with_context(|| logs.display().to_string())? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        for line in text.lines().filter(|line| line.contains("this is a bug")) {
            let line: String = line.chars().take(400).collect();
            found.push(format!("{}: {line}", path.display()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use sharklock_history::{Journal, Position, Recorder};

    use super::*;

    fn journal(path: &Path, session: u32, names: &[&str]) {
        let mut recorder = Recorder::default();
        for name in names {
            let lock = recorder.lock(name);
            let (position, what) = (Position::UNKNOWN, What::Unknown { reenter: 0 });
            let (acquisition, invoked, returned) = (1, 1, 2);
            recorder.push(Record { lock, session, acquisition, invoked, returned, position, what });
        }
        let mut journal = Journal::begin(fs::File::create(path).expect("a file")).expect("a head");
        journal.append(&recorder).expect("it is written");
    }

    #[test]
    fn what_is_there_is_read_and_what_is_missing_is_told() {
        let out = tempfile::tempdir().expect("a directory");
        let out = out.path();
        journal(&history_file(out, "one"), 1, &["a", "b"]);
        fs::write(surprises_file(out, "one"), r#"{"it smells": 3}"#).expect("it is written");
        // This one was killed while it wrote.
        journal(&history_file(out, "two"), 2, &["b", "c"]);
        let cut = fs::read(history_file(out, "two")).expect("it was written");
        fs::write(history_file(out, "two"), &cut[..cut.len() - 9]).expect("it is written");
        let labels = ["one", "two", "three"].map(str::to_owned);
        let evidence = Evidence::read(out, &labels, History::default());
        let History { names, records } = &evidence.history;
        let seen: Vec<_> =
            records.iter().map(|it| (it.session, names[it.lock.0 as usize].as_str())).collect();
        assert_eq!(seen, [(1, "a"), (1, "b"), (2, "b")]);
        let begins = [
            "one: 3 times: it smells",
            "two did not end in order",
            "three has left no history",
            "three did not end in order",
            "the resource has left nothing",
            "a shell has left nothing",
        ];
        for (fault, begin) in evidence.faults.iter().zip(begins) {
            assert!(fault.starts_with(begin), "{fault}");
        }
        assert_eq!(evidence.faults.len(), begins.len());
    }
}
