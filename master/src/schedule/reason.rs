//! Why the scheduler does something, and why it does not.

use std::{fmt, time::Duration};

use sharklock_rangemap::StoreId;

use super::SlowDisk;

/// Why something is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody is at work on a joint configuration.
    JointLeft,
    /// Nobody is at work on a learner.
    LearnerLeft {
        /// Its store.
        store: StoreId,
    },
    /// The store of a voter is down.
    Down {
        /// The store.
        store: StoreId,
        /// Since then it has not been heard.
        silent_for: Duration,
    },
    /// Operators have said that the store of a voter is lost.
    Gone {
        /// The store.
        store: StoreId,
    },
    /// The leader does not hear of a voter, though its store is up.
    Unheard {
        /// The store.
        store: StoreId,
        /// Since then.
        silent_for: Duration,
    },
    /// A store is to become empty.
    Drains {
        /// The store.
        store: StoreId,
    },
    /// The range has fewer voters than it should.
    Few {
        /// So many.
        voters: usize,
        /// It should have so many.
        wanted: usize,
    },
    /// The range has more voters than it should.
    Many {
        /// So many.
        voters: usize,
        /// It should have so many.
        wanted: usize,
    },
    /// Two replicas of the range are nearer to each other than they have to be.
    Together {
        /// One of their stores.
        store: StoreId,
        /// The other.
        with: StoreId,
        /// What they share: `zone b`.
        shared: String,
    },
    /// The disk of the leader is slow.
    Slow {
        /// Its store.
        store: StoreId,
        /// How slow.
        disk: SlowDisk,
    },
    /// The ranges that a store leads have more load than those of others.
    Load(Uneven),
    /// A store leads more ranges than others.
    Leaders(Uneven),
    /// A store has more replicas than others.
    Replicas(Uneven),
}

/// Two stores that do unequal work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uneven {
    /// The one that does more.
    pub from: StoreId,
    /// It has so much.
    pub has: u64,
    /// The one that does less.
    pub to: StoreId,
    /// It has so much.
    pub other_has: u64,
    /// What a store has on the average, rounded.
    pub mean: u64,
}

/// A span of time as people read it: `5m12s`.
pub(super) struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.as_secs();
        match (s / 3600, s / 60 % 60, s % 60) {
            (0, 0, 0) if !self.0.is_zero() => write!(f, "{}ms", self.0.as_millis()),
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, s) => write!(f, "{m}m{s:02}s"),
            (h, m, s) => write!(f, "{h}h{m:02}m{s:02}s"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JointLeft => write!(f, "a change of the members was left half-done"),
            Self::LearnerLeft { store } => write!(f, "a learner was left behind on store {store}"),
            Self::Down { store, silent_for } => {
                write!(f, "store {store} has been down for {}", Span(*silent_for))
            }
            Self::Gone { store } => write!(f, "store {store} is gone"),
            Self::Unheard { store, silent_for } => {
                let span = Span(*silent_for);
                write!(f, "the leader has not heard of the replica on store {store} for {span}")
            }
            Self::Drains { store } => write!(f, "store {store} drains"),
            Self::Few { voters, wanted } => {
                let plural = if *voters == 1 { "" } else { "s" };
                write!(f, "{voters} voter{plural} instead of {wanted}")
            }
            Self::Many { voters, wanted } => write!(f, "{voters} voters instead of {wanted}"),
            Self::Together { store, with, shared } => {
                write!(f, "stores {store} and {with} are both in {shared}, and need not be")
            }
            Self::Slow { store, disk: SlowDisk { p99, median } } => write!(
                f,
                "the disk of store {store} is slow: p99 of syncs {}, median of all stores {}",
                Span(*p99),
                Span(*median)
            ),
            Self::Load(uneven) => write!(f, "{}", told(uneven, "commands/s")),
            Self::Leaders(uneven) => write!(f, "{}", told(uneven, "leaders")),
            Self::Replicas(uneven) => write!(f, "{}", told(uneven, "replicas")),
        }
    }
}

fn told(uneven: &Uneven, what: &str) -> String {
    let Uneven { from, has, to, other_has, mean } = uneven;
    format!("store {from} has {has} {what}, store {to} {other_has}, the mean is {mean}")
}

/// Why nothing is done for a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Operators have paused the scheduler.
    Paused,
    /// Another master has begun to lead just now.
    JustBegun {
        /// It will be looked at after so long.
        left: Duration,
    },
    /// So many stores are down that the fault may be with the masters' own network.
    TooManyDown {
        /// So many.
        down: usize,
        /// Of so many.
        stores: usize,
    },
    /// So many stores are not heard of just now: nothing is balanced.
    TooManySilent {
        /// So many.
        silent: usize,
        /// Of so many.
        stores: usize,
    },
    /// An operator is at work on the range.
    UnderWay {
        /// For so long.
        since: Duration,
    },
    /// Nobody who is heard leads the range.
    NoLeader,
    /// A majority of its voters is not heard: nothing can be committed, no change of members either.
    QuorumLost {
        /// Voters that are heard.
        live: usize,
        /// All of them.
        voters: usize,
    },
    /// No store that is up and serves is without a replica of the range.
    NoPlace {
        /// Stores that are up and serve, and know the rules that the range follows.
        stores: usize,
        /// Voters of the range.
        voters: usize,
    },
    /// None of the other voters can lead.
    NobodyElse,
    /// The change would leave too few voters that are heard.
    WouldLoseQuorum {
        /// So many would be left.
        live: usize,
        /// Of so many.
        voters: usize,
    },
    /// As much is under way at these stores as may be; its turn comes.
    Busy,
    /// Its leader changed lately.
    CoolsDown {
        /// It stays for so long.
        left: Duration,
    },
}

impl Hindrance {
    /// Its kind, for tables and scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::JustBegun { .. } => "just-begun",
            Self::TooManyDown { .. } => "too-many-down",
            Self::TooManySilent { .. } => "too-many-silent",
            Self::UnderWay { .. } => "under-way",
            Self::NoLeader => "no-leader",
            Self::QuorumLost { .. } => "quorum-lost",
            Self::NoPlace { .. } => "no-place",
            Self::NobodyElse => "nobody-else",
            Self::WouldLoseQuorum { .. } => "would-lose-quorum",
            Self::Busy => "busy",
            Self::CoolsDown { .. } => "cools-down",
        }
    }

    /// Whether it does not end by itself, so that operators should know.
    pub fn lasts(&self) -> bool {
        !matches!(self, Self::UnderWay { .. } | Self::Busy | Self::CoolsDown { .. })
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => {
                write!(f, "the scheduler is paused; `sharklock schedule resume` ends that")
            }
            Self::JustBegun { left } => {
                let left = Span(*left);
                write!(f, "another master has begun to lead; the scheduler goes on in {left}")
            }
            Self::TooManyDown { down, stores } => write!(
                f,
                "{down} of {stores} stores are down, more than a third, so the network may be to \
                 blame; bring them back, or remove those that are lost for ever"
            ),
            Self::TooManySilent { silent, stores } => write!(
                f,
                "{silent} of {stores} stores are not heard of, more than a third: bring them back, \
                 or remove those that are lost for ever, before stores are balanced"
            ),
            Self::UnderWay { since } => {
                write!(f, "an operator has been at work on it for {}", Span(*since))
            }
            Self::NoLeader => write!(f, "it has no leader that is heard"),
            Self::QuorumLost { live, voters } => write!(
                f,
                "{live} of its {voters} voters are heard, which is no majority: bring their stores \
                 back"
            ),
            Self::NoPlace { stores, voters } => write!(
                f,
                "all {stores} stores that are up, serve and know its rules have a replica of it, or \
                 it would come to an even number of voters ({voters} now): add a store, or upgrade \
                 one that runs an older version"
            ),
            Self::NobodyElse => write!(f, "none of its other voters is heard and able to lead"),
            Self::WouldLoseQuorum { live, voters } => write!(
                f,
                "{live} of {voters} voters would be left that are heard, which is no majority"
            ),
            Self::Busy => write!(f, "as much is under way at these stores as may be at a time"),
            Self::CoolsDown { left } => {
                write!(f, "its leader changed lately, and stays for {} more", Span(*left))
            }
        }
    }
}
