//! Soft knowledge of the leading master, which it learns anew when it begins to lead: when the stores
//! were heard last, and who leads which range. Soft, like every gateway's and every range leader's
//! knowledge: nothing that is lost with it can do harm. Which process speaks for a store is in the
//! replicated state ([`StoreRecord::start`]), and what another one says does not come this far.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_proto::{Start, internal::v1::StoreState};
use sharklock_rangemap::{RangeId, StoreId};

use crate::{
    refusal::{Reason, Refusal},
    state::StoreRecord,
};

/// When a silent store counts as what (decisions.md, *Defaults*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilenceLimits {
    /// Without a heartbeat for so long it is disconnected: its process may have ended.
    pub disconnected: Duration,
    /// Without one for so long it is down.
    pub down: Duration,
}

impl Default for SilenceLimits {
    fn default() -> Self {
        Self { disconnected: Duration::from_secs(10), down: Duration::from_secs(300) }
    }
}

/// See the module.
///
/// Invariants:
/// - what is kept of a store was heard from the process that speaks for it;
/// - the term of a range's leader never falls;
/// - `by_level` has exactly the ranges in `leaders`.
#[derive(Clone, Debug)]
pub struct Presence {
    limits: SilenceLimits,
    /// When this master began to lead. Every store counts as heard then.
    since: Duration,
    stores: BTreeMap<StoreId, Heard>,
    leaders: BTreeMap<RangeId, Leader>,
    by_level: BTreeSet<(u64, RangeId)>,
}

#[derive(Clone, Debug)]
struct Heard {
    address: String,
    at: Duration,
    counts: Counts,
    /// The last of its heartbeats.
    seq: u64,
    /// Everything up to this change of what it leads has been taken in.
    upto: u64,
    /// Its process has said that it ends.
    has_left: bool,
}

impl Heard {
    fn new(at: Duration, address: String) -> Self {
        let counts = Counts::default();
        Self { address, at, counts, seq: 0, upto: 0, has_left: false }
    }
}

/// A heartbeat, but for its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Counts the heartbeats of a life.
    pub seq: u64,
    /// The change behind which its reports begin.
    pub since: u64,
    /// What the store has.
    pub counts: Counts,
}

/// Replicas of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub replicas: u32,
    /// Those that lead.
    pub leaders: u32,
}

/// The leader of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its store.
    pub store: StoreId,
    /// In this term.
    pub term: u64,
    /// The rules that the range follows, as it said last.
    pub level: u64,
}

impl Presence {
    /// Of a master that begins to lead.
    pub fn begin(now: Duration, limits: SilenceLimits) -> Self {
        let (stores, leaders) = (BTreeMap::new(), BTreeMap::new());
        Self { limits, since: now, stores, leaders, by_level: BTreeSet::new() }
    }

    /// Whether a process may speak for a store that is known by `record`, as far as it depends on who
    /// was heard.
    ///
    /// # Errors
    /// Another one does, or may.
    pub fn may_speak(
        &self,
        now: Duration,
        store: StoreId,
        record: &StoreRecord,
        (start, address): (Start, &str),
    ) -> Result<(), Refusal> {
        let heard = self.stores.get(&store);
        let has_left = heard.is_some_and(|heard| heard.has_left);
        if record.start == start {
            return if has_left { Err(has_said_good_bye(store)) } else { Ok(()) };
        }
        let silence = now.saturating_sub(heard.map_or(self.since, |heard| heard.at));
        if has_left || silence >= self.limits.disconnected {
            return Ok(());
        }
        match heard {
            // A port is one process's: who answers at the address of the last one has outlived it.
            Some(heard) if heard.address == address => Ok(()),
            Some(heard) => Err(Refusal::new(
                Reason::StoreCopied,
                format!(
                    "store {store} is alive at {}: this data directory is a copy of its, or the \
                     same. Stop that process first, or start this one with an empty directory",
                    heard.address
                ),
            )),
            None if record.address == address => Ok(()),
            None => Err(Refusal::new(
                Reason::Undecided,
                format!(
                    "store {store} was at {}; whether it still is shows within {} s",
                    record.address,
                    self.limits.disconnected.as_secs()
                ),
            )),
        }
    }

    /// From now on the process at this address speaks for the store.
    pub fn speaks(&mut self, now: Duration, store: StoreId, address: String) {
        self.stores.insert(store, Heard::new(now, address));
    }

    /// The process that speaks for the store ends: the next one need not wait.
    pub fn leaves(&mut self, store: StoreId) {
        if let Some(heard) = self.stores.get_mut(&store) {
            heard.has_left = true;
        }
    }

    /// A heartbeat of the process that speaks for the store. True: its reports go on where those
    /// before ended, and are to be taken in. They are not where something is missing in between,
    /// which another master has heard; nor where a later heartbeat has been heard already.
    pub fn heartbeat(&mut self, now: Duration, store: StoreId, address: &str, beat: Beat) -> bool {
        let heard = self.stores.entry(store);
        let heard = heard.or_insert_with(|| Heard::new(now, address.to_owned()));
        heard.at = now;
        if beat.seq <= heard.seq {
            return false;
        }
        (heard.seq, heard.counts) = (beat.seq, beat.counts);
        beat.since <= heard.upto
    }

    /// Reports up to this change have been taken in. The change up to which all are.
    pub fn heard_to(&mut self, store: StoreId, upto: u64) -> u64 {
        self.stores.get_mut(&store).map_or(0, |heard| {
            heard.upto = heard.upto.max(upto);
            heard.upto
        })
    }

    /// A store says that it leads a range, and by which rules. True: that it leads is news.
    pub fn leads(&mut self, range: RangeId, now: Leader) -> bool {
        let before = self.leaders.get(&range).copied();
        if before.is_some_and(|before| before.term > now.term) {
            return false;
        }
        if let Some(before) = before {
            self.by_level.remove(&(before.level, range));
        }
        self.by_level.insert((now.level, range));
        let is_news = before.is_none_or(|before| before.term < now.term);
        // Two stores never lead in one term; should one say so, the first is believed.
        let store = if is_news { now.store } else { before.map_or(now.store, |it| it.store) };
        self.leaders.insert(range, Leader { store, ..now });
        is_news
    }

    /// The ranges that a store leads by older rules than these.
    pub fn led_below(&self, store: StoreId, level: u64) -> impl Iterator<Item = (RangeId, Leader)> {
        let below = self.by_level.range(..(level, RangeId(0)));
        below
            .map(|(_, range)| (*range, self.leaders[range]))
            .filter(move |(_, it)| it.store == store)
    }

    /// The leader of a range, as far as it is known.
    pub fn leader(&self, range: RangeId) -> Option<Leader> {
        self.leaders.get(&range).copied()
    }

    /// Whether a store is heard of, since when not, and what it has said that it has.
    pub fn of(&self, now: Duration, store: StoreId) -> (StoreState, Duration, Option<Counts>) {
        let heard = self.stores.get(&store);
        let silence = now.saturating_sub(heard.map_or(self.since, |heard| heard.at));
        let state = match silence {
            silence if silence >= self.limits.down => StoreState::Down,
            silence if silence >= self.limits.disconnected => StoreState::Disconnected,
            _ => StoreState::Up,
        };
        (state, silence, heard.filter(|heard| heard.seq > 0).map(|heard| heard.counts))
    }
}

fn has_said_good_bye(store: StoreId) -> Refusal {
    let message = format!("this process of store {store} has said that it ends: start another one");
    Refusal::new(Reason::StoreSuperseded, message)
}
