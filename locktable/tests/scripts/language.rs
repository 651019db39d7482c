//! The words of a script: `door` is a lock, `a.1` acquisition 1 of instance 1 of session a,
//! `a/2.1` the same of instance 2, `7` a token, `key=value` an option, `key` a flag.

use std::{collections::BTreeMap, str::FromStr};

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Ask, Cancel, Claim, Command, Condition, Downgrade, End,
    EndCause, EndQuarantine, Ending, Expire, ExpireItem, Instance, LeaseRule, Mode, Name, Owner,
    RaiseFeatureLevel, Reclaim, Recover, Release, Revoke, SessionHandle, SetAttributes,
    SetCondition, TimeUp, Timed, Token, Wait, WaitTimeout,
};

/// One line of a script: a verb, words in order, options.
pub struct Line<'a> {
    pub verb: &'a str,
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
    next: usize,
    /// Age of the range when the line is run.
    age_ms: u64,
}

const OPTIONS: &[&str] = &[
    "shared",
    "try",
    "all",
    "now",
    "generation",
    "permits",
    "wait",
    "ttl",
    "reenter",
    "owner",
    "token",
    "term",
    "reason",
    "seats",
    "waiters",
    "acquisitions",
    "ring",
    "prefix",
    "from",
    "max",
    "untold",
    "hold",
    "missed",
    "delay",
    "max_hold",
    "ask",
    "revision",
    "what",
    "level",
    "at",
    "ms",
    "aged",
    "ended",
    "seq",
    "attributes",
];

impl<'a> Line<'a> {
    pub fn parse(line: &'a str, age_ms: u64) -> Self {
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
        Self { verb, words, options, next: 0, age_ms }
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
                let told = !self.flag("untold");
                let items = self.words.iter().map(|word| expire_item(word, told)).collect();
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
                let waited = EndCause::WaitedOut { proposer_term, told: !self.flag("untold") };
                let (name, token) = (self.name(), self.token("token"));
                let cause = if self.flag("now") { now } else { waited };
                Command::End(End { name, token, cause })
            }
            "condition" => Command::SetCondition(SetCondition {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("condition needs token="),
                revision: self.option("revision").expect("condition needs revision="),
                ttl_ms: self.option("ttl").unwrap_or(10_000),
                condition: self.condition().map(|condition| *condition).unwrap_or_default(),
            }),
            "claim" => Command::Claim(Claim {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("claim needs token="),
                revision: self.option("revision").expect("claim needs revision="),
            }),
            "reclaim" => Command::Reclaim(Box::new(Reclaim {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("reclaim needs token="),
                owner: self.owner(),
                asked_ms: self.asked_ms(),
            })),
            "ask" => {
                let (acquisition, name) = (self.acquisition(), self.name());
                Command::Ask(Ask { acquisition, name })
            }
            "downgrade" => Command::Downgrade(Downgrade {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("downgrade needs token="),
            }),
            "attributes" => Command::SetAttributes(SetAttributes {
                acquisition: self.acquisition(),
                name: self.name(),
                token: self.token("token").expect("attributes needs token="),
                seq: self.option("seq").expect("attributes needs seq="),
                attributes: self.attributes(),
            }),
            "over" => Command::TimeUp(self.time_up(proposer_term)),
            "revoke" => Command::Revoke(Revoke {
                session: session(self.word()),
                reason: self.option("reason").expect("revoke needs reason="),
                operator: "op".into(),
            }),
            "raise" => {
                let level = self.option("level").expect("raise needs level=");
                Command::RaiseFeatureLevel(RaiseFeatureLevel { level })
            }
            // The majority of the range is lost.
            "recover" => Command::Recover(Recover {
                generation: self.option("generation").unwrap_or(0),
                waits: !self.flag("now"),
            }),
            "end_quarantine" => Command::EndQuarantine(EndQuarantine { proposer_term }),
            _ => return None,
        })
    }

    /// `over delay|max_hold|ask LOCK token=N revision=N`.
    fn time_up(&mut self, proposer_term: u64) -> TimeUp {
        let revision = self.option("revision").unwrap_or(0);
        let what = match self.option::<String>("what").as_deref() {
            Some("delay") => Timed::LockDelay,
            Some("max_hold") => Timed::MaxHold { revision },
            Some("ask") => Timed::AskGrace { revision },
            what => panic!("over needs what=delay, max_hold or ask, not {what:?}"),
        };
        let token = self.token("token").expect("over needs token=");
        TimeUp { name: self.name(), token, what, proposer_term }
    }

    /// `hold` or `missed=N*MS`, and `delay=`, `max_hold=`, `ask=`; none if nothing of that stands
    /// there.
    fn condition(&self) -> Option<Box<Condition>> {
        let lease = match self.option::<String>("missed") {
            Some(missed) => {
                let (missed, interval_ms) = missed.split_once('*').expect("missed=N*MS");
                let (missed, interval_ms) = (number(missed), number(interval_ms));
                LeaseRule::AfterMissed { missed, interval_ms }
            }
            None if self.flag("hold") => LeaseRule::Hold,
            None => LeaseRule::OnExpiry,
        };
        let condition = Condition {
            lease,
            lock_delay_ms: self.option("delay"),
            max_hold_ms: self.option("max_hold"),
            ask_grace_ms: self.option("ask"),
        };
        (!condition.is_default()).then(|| Box::new(condition))
    }

    fn owner(&self) -> Owner {
        let id = self.option("owner").unwrap_or_default();
        Owner { id, attributes: self.attributes(), ..Owner::default() }
    }

    /// `attributes=KEY:VALUE,KEY:VALUE`
    fn attributes(&self) -> Vec<(String, String)> {
        let text: String = self.option("attributes").unwrap_or_default();
        let parts = text.split(',').filter(|part| !part.is_empty());
        let split = |part: &str| {
            let (key, value) = part.split_once(':').expect("KEY:VALUE");
            (key.to_owned(), value.to_owned())
        };
        parts.map(split).collect()
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
        Acquire {
            acquisition,
            name,
            mode,
            ttl_ms: self.option("ttl").unwrap_or(10_000),
            wait,
            reenter: self.token("reenter"),
            owner: self.owner(),
            condition: self.condition(),
            asked_ms: self.asked_ms(),
        }
    }

    /// `aged=MS`: for so long the request was on its way.
    fn asked_ms(&self) -> u64 {
        self.age_ms - self.option::<u64>("aged").unwrap_or(0)
    }
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn acquisition(word: &str) -> Acquisition {
    let (life, id) = word.split_once('.').unwrap_or_else(|| panic!("{word:?}: session.id?"));
    let (session, instance) = life.split_once('/').unwrap_or((life, "1"));
    Acquisition {
        session: self::session(session),
        instance: Instance(number(instance)),
        id: AcquisitionId(number(id)),
    }
}

fn session(word: &str) -> SessionHandle {
    let mut handle = [0; 16];
    handle[..word.len()].copy_from_slice(word.as_bytes());
    SessionHandle(handle)
}

/// `door:a.1` is a waiter; `door#7:3` the hold with token 7, whose newest acquisition was 3.
fn expire_item(word: &str, told: bool) -> ExpireItem {
    let (what, whose) = word.split_once(':').unwrap_or_else(|| panic!("{word:?}: what to expire?"));
    match what.split_once('#') {
        Some((name, token)) => ExpireItem::Hold {
            name: name.into(),
            token: Token(number(token)),
            newest: AcquisitionId(number(whose)),
            told,
        },
        None => ExpireItem::Waiter { name: what.into(), acquisition: acquisition(whose) },
    }
}
