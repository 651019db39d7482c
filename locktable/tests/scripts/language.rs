//! The words of a script: `door` is a lock, `a.1` acquisition 1 of instance 1 of session a,
//! `a/2.1` the same of instance 2, `7` a token, `key=value` an option, `key` a flag.

use std::{collections::BTreeMap, str::FromStr};

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Cancel, Command, End, EndCause, Ending, Expire,
    ExpireItem, Instance, Mode, Name, Owner, Release, SessionHandle, Token, Wait, WaitTimeout,
};

/// One line of a script: a verb, words in order, options.
pub struct Line<'a> {
    pub verb: &'a str,
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
    next: usize,
}

const OPTIONS: &[&str] = &[
    "shared",
    "try",
    "all",
    "now",
    "permits",
    "wait",
    "ttl",
    "reenter",
    "owner",
    "token",
    "term",
    "reason",
    "waiters",
    "acquisitions",
    "ring",
    "prefix",
    "after",
    "max",
];

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Self {
        let mut parts = line.split_whitespace();
        let verb = parts.next().expect("a line has a verb");
        let (mut words, mut options) = (vec![], BTreeMap::new());
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if OPTIONS.contains(&key) {
                options.insert(key, value);
            } else {
                words.push(part);
            }
        }
        Self { verb, words, options, next: 0 }
    }

    /// The next word.
    pub fn word(&mut self) -> &'a str {
        self.next += 1;
        self.words.get(self.next - 1).copied().unwrap_or_else(|| panic!("{}: words?", self.verb))
    }

    pub fn name(&mut self) -> Name {
        self.word().into()
    }

    pub fn acquisition(&mut self) -> Acquisition {
        acquisition(self.word())
    }

    pub fn flag(&self, key: &str) -> bool {
        self.options.contains_key(key)
    }

    pub fn option<T: FromStr>(&self, key: &str) -> Option<T> {
        let value = self.options.get(key)?;
        Some(value.parse().unwrap_or_else(|_| panic!("{key}={value}: not understood")))
    }

    pub fn token(&self, key: &str) -> Option<Token> {
        self.option(key).map(Token)
    }

    /// The command of the log that this line stands for, if it stands for one.
    pub fn command(&mut self, term: u64) -> Option<Command> {
        let proposer_term = self.option("term").unwrap_or(term);
        Some(match self.verb {
            "acquire" => Command::Acquire(Box::new(self.acquire())),
            "release" => Command::Release(Release {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("release needs token="),
                all: self.flag("all"),
            }),
            "cancel" => {
                let (acquisition, name) = (self.acquisition(), self.name());
                Command::Cancel(Cancel { acquisition, name })
            }
            "expire" => {
                let items = self.words.iter().map(|word| expire_item(word)).collect();
                Command::Expire(Expire { items, proposer_term })
            }
            "timeout" => {
                let (acquisition, name) = (self.acquisition(), self.name());
                Command::WaitTimeout(WaitTimeout { acquisition, name, proposer_term })
            }
            "ending" => Command::Ending(Ending {
                name: self.name(),
                token: self.token("token"),
                reason: self.option("reason").expect("ending needs reason="),
                operator: "op".into(),
            }),
            "end" => {
                let now = EndCause::Operator { reason: "r".into(), operator: "op".into() };
                let waited = EndCause::WaitedOut { proposer_term };
                let (name, token) = (self.name(), self.token("token"));
                let cause = if self.flag("now") { now } else { waited };
                Command::End(End { name, token, cause })
            }
            _ => return None,
        })
    }

    fn acquire(&mut self) -> Acquire {
        let acquisition = self.acquisition();
        let name = self.name();
        let mode = match self.option::<String>("permits") {
            Some(permits) => {
                let (n, of) = permits.split_once('/').expect("permits=N/OF");
                Mode::Permits { n: number(n), of: number(of) }
            }
            None if self.flag("shared") => Mode::Shared,
            None => Mode::Exclusive,
        };
        let wait = match self.option("wait") {
            Some(ms) => Wait::AtMost(ms),
            None if self.flag("try") => Wait::Try,
            None => Wait::Unbounded,
        };
        let id = self.option("owner").unwrap_or_default();
        Acquire {
            acquisition,
            name,
            mode,
            ttl_ms: self.option("ttl").unwrap_or(10_000),
            wait,
            reenter: self.token("reenter"),
            owner: Owner { id, ..Owner::default() },
        }
    }
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn acquisition(word: &str) -> Acquisition {
    let (life, id) = word.split_once('.').unwrap_or_else(|| panic!("{word:?}: session.id?"));
    let (session, instance) = life.split_once('/').unwrap_or((life, "1"));
    let mut handle = [0; 16];
    handle[..session.len()].copy_from_slice(session.as_bytes());
    Acquisition {
        session: SessionHandle(handle),
        instance: Instance(number(instance)),
        id: AcquisitionId(number(id)),
    }
}

/// `door:a.1` is a waiter; `door#7:3` the hold with token 7, whose newest acquisition was 3.
fn expire_item(word: &str) -> ExpireItem {
    let (what, whose) = word.split_once(':').unwrap_or_else(|| panic!("{word:?}: what to expire?"));
    match what.split_once('#') {
        Some((name, token)) => ExpireItem::Hold {
            name: name.into(),
            token: Token(number(token)),
            newest: AcquisitionId(number(whose)),
        },
        None => ExpireItem::Waiter { name: what.into(), acquisition: acquisition(whose) },
    }
}
