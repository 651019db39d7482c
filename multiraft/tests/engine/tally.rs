//! A state machine for tests: words with the token under which each was written last, and a
//! counter that hands out tokens. Its header is the counter, its rows are the words.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_multiraft::{BadImage, DirtyRow, EntryAt, StateMachine};
use twox_hash::XxHash3_64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub tokens: BTreeMap<String, u64>,
    pub counter: u64,
    dirty: BTreeSet<String>,
}

/// An entry that writes `word` under the next token.
pub fn put(word: &str) -> Vec<u8> {
    format!("+{word}").into_bytes()
}

/// An entry that removes `word`.
pub fn remove(word: &str) -> Vec<u8> {
    format!("-{word}").into_bytes()
}

impl StateMachine for Tally {
    /// The counter after the entry.
    type Output = u64;

    fn empty() -> Self {
        Self::default()
    }

    fn knows(data: &[u8]) -> Result<(), String> {
        match data.first() {
            Some(b'!') => Err("it needs a newer tally".to_owned()),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, _at: EntryAt, _version: u64, data: &[u8]) -> u64 {
        let text = std::str::from_utf8(data).expect("entries of this test are text");
        let (verb, word) = text.split_at(1);
        match verb {
            "+" => {
                self.counter += 1;
                self.tokens.insert(word.to_owned(), self.counter);
            }
            "-" => {
                self.tokens.remove(word);
            }
            _ => panic!("unknown command {text}"),
        }
        self.dirty.insert(word.to_owned());
        self.counter
    }

    fn split_off(&mut self, key: &str) -> Self {
        let tokens = self.tokens.split_off(key);
        self.dirty.extend(tokens.keys().cloned());
        let dirty = tokens.keys().cloned().collect();
        Self { tokens, counter: self.counter, dirty }
    }

    fn take_dirty(&mut self) -> Vec<DirtyRow> {
        self.take_some_dirty(usize::MAX).0
    }

    fn take_some_dirty(&mut self, rows_max: usize) -> (Vec<DirtyRow>, bool) {
        let rest = self.dirty.iter().nth(rows_max).cloned();
        let rest = rest.map(|from| self.dirty.split_off(&from)).unwrap_or_default();
        let dirty = std::mem::replace(&mut self.dirty, rest);
        let row = |word: String| {
            let token = self.tokens.get(&word).map(|token| token.to_be_bytes().to_vec());
            (word.into_bytes(), token)
        };
        (dirty.into_iter().map(row).collect(), self.dirty.is_empty())
    }

    fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    fn header(&self) -> Vec<u8> {
        self.counter.to_be_bytes().to_vec()
    }

    fn state_hash(&self) -> u64 {
        let words = self.tokens.iter();
        let hashes =
            words.map(|(word, token)| XxHash3_64::oneshot_with_seed(*token, word.as_bytes()));
        hashes.fold(self.counter, u64::wrapping_add)
    }

    fn restore(
        header: &[u8],
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, BadImage> {
        // Newer tallies have longer headers.
        if header.len() > 8 {
            return Err(BadImage::Newer("it is a newer tally: upgrade this server".to_owned()));
        }
        let number = |bytes: &[u8]| {
            let bytes = <[u8; 8]>::try_from(bytes);
            bytes.map(u64::from_be_bytes).map_err(|_| BadImage::Corrupt("not a number".to_owned()))
        };
        let mut tokens = BTreeMap::new();
        for (word, token) in rows {
            let word =
                String::from_utf8(word).map_err(|_| BadImage::Corrupt("not a word".to_owned()))?;
            tokens.insert(word, number(&token)?);
        }
        Ok(Self { tokens, counter: number(header)?, dirty: BTreeSet::new() })
    }
}
