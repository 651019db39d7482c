//! A line of a script: a verb, words in order, `key=value` options and flags.

use std::collections::BTreeMap;
use std::str::FromStr;

use sharklock_rangemap::RangeId;

use crate::node::RANGE;

const OPTIONS: &[&str] = &[
    // Of clusters.
    "voters",
    "learners",
    "spare",
    "ranges",
    "log_max",
    // Of commands.
    "range",
    "as",
    "keep",
    "child",
    "version",
    // Of forged messages.
    "from",
    "to",
    "from_peer",
    "to_peer",
    "from_store",
    "to_store",
    "body_from",
    "cluster",
    "conf_ver",
    "t",
    "after",
    "entries",
    "c",
    "has",
    "read",
    "snapshot_request",
    "type",
];

const FLAGS: &[&str] = &["batch", "no", "bundle", "no_body", "conf_change", "empty"];

pub struct Line<'a> {
    pub verb: &'a str,
    pub words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Self {
        let mut parts = line.split_whitespace();
        let verb = parts.next().expect("a line has a verb");
        let (mut words, mut options) = (vec![], BTreeMap::new());
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) if OPTIONS.contains(&key) => _ = options.insert(key, value),
                None if FLAGS.contains(&part) => _ = options.insert(part, ""),
                Some(_) => panic!("{part}: no such option"),
                None => words.push(part),
            }
        }
        Self { verb, words, options }
    }

    pub fn flag(&self, key: &str) -> bool {
        self.options.contains_key(key)
    }

    pub fn option<T: FromStr>(&self, key: &str) -> Option<T> {
        let value = self.options.get(key)?;
        Some(value.parse().unwrap_or_else(|_| panic!("{key}={value}: not understood")))
    }

    pub fn number(&self, key: &str) -> u64 {
        self.option(key).unwrap_or_default()
    }

    /// The `place`th word as a number.
    pub fn nth(&self, place: usize) -> Option<u64> {
        let word = self.words.get(place)?;
        Some(word.parse().unwrap_or_else(|_| panic!("{word}: expected a number")))
    }

    pub fn store(&self) -> u64 {
        self.nth(0).unwrap_or_else(|| panic!("{} which store?", self.verb))
    }

    pub fn range(&self) -> RangeId {
        RangeId(self.option("range").unwrap_or(RANGE.0))
    }

    /// `1>2`: a direction between two stores.
    pub fn direction(&self) -> Option<(u64, u64)> {
        self.words.iter().find_map(|word| {
            let (from, to) = word.split_once('>')?;
            Some((from.parse().expect("a store"), to.parse().expect("a store")))
        })
    }
}

/// `6@7`: index 6 of term 7.
pub fn place(text: &str) -> (u64, u64) {
    let (index, term) = text.split_once('@').unwrap_or((text, "0"));
    (index.parse().expect("an index"), term.parse().expect("a term"))
}
