//! The gate of a split (D7, hole 8): from the proposal of a split until it has been applied, also as
//! one that came too late, the leader gives no answer with a seq for its range.
//!
//! A client counts its lease from the attempt whose seq an answer echoes. A follower may apply the
//! split first, win the election of the child, and give all leases a ttl and an election from that
//! moment. So an answer of the parent's leader about a name that has left is right only if its call
//! was received before that moment.
//!
//! Nobody applies a split before it is proposed. With the gate shut, an answer that leaves is either
//! from before the proposal, or from behind the application, when the parent has no leases but those
//! that stay with it: whatever was received between the two is never told of a name that has left.
//! That holds whatever proves leadership. Where each answer waits for a ReadIndex round or for its own
//! entry, as today, the same follows from the order of commits: what is received once the split is
//! committed is read, or decided, behind it. The gate keeps the leases safe without leaning on that,
//! and if a round were ever saved.
//!
//! What is kept back is not lost. Outcomes keep their order, and events that came with them stay
//! between them, so that no push overtakes the answer before it.

use std::collections::VecDeque;

use sharklock_locktable::Outcome;
use sharklock_multiraft::Split;

use crate::{
    front::{Asker, Query, Read, ReplyTo},
    triggers::Measure,
};

/// Items of keepalives that are kept back. Past it the oldest go without an answer: their clients
/// have repeated them by then, as a split that takes so long has a disk that hangs.
const ITEMS_HELD_MAX: usize = 65_536;

/// The outcome of one command of an entry that was applied while the gate was shut.
#[derive(Debug)]
pub struct HeldOutcome {
    /// Index of the entry.
    pub index: u64,
    /// The asker.
    pub asker: Asker,
    /// The decision.
    pub outcome: Outcome,
}

/// Why a split is made, and for whom.
#[derive(Clone, Debug, Default)]
pub struct SplitWish {
    /// Why it is made where it is, for people.
    pub because: String,
    /// What the range has too much of, if nobody had to ask.
    pub excess_of: Option<Measure>,
    /// The ways of the answers to those who have asked.
    pub askers: Vec<ReplyTo>,
}

/// Everything that was behind a gate.
#[derive(Debug)]
pub struct Opened {
    /// The split, whether it took effect or came too late.
    pub split: Split,
    /// Why it was wanted, and who waits for it.
    pub wish: SplitWish,
    /// In the order of the log.
    pub outcomes: Vec<HeldOutcome>,
    /// In the order in which they were proved.
    pub keepalives: Vec<Read>,
}

/// See the module. It is shut while it exists.
///
/// Invariants:
/// - `outcomes` are in the order of the log, in front of the split: those are bounded by what Raft
///   takes in uncommitted, and what is behind the split waits for it anyway;
/// - `keepalives` have been proved and lack nothing but the gate. They have `items` items, at most
///   `ITEMS_HELD_MAX` and those of one keepalive.
#[derive(Debug)]
pub struct Gate {
    split_at: u64,
    split: Split,
    wish: SplitWish,
    outcomes: Vec<HeldOutcome>,
    keepalives: VecDeque<Read>,
    items: usize,
}

impl Gate {
    /// Shut since a split was proposed that stands at this index. Whoever wished it waits for its outcome.
    pub fn shut(split_at: u64, split: Split, wish: SplitWish) -> Self {
        let (outcomes, keepalives) = (Vec::new(), VecDeque::new());
        Self { split_at, split, wish, outcomes, keepalives, items: 0 }
    }

    /// The split.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The split, and whoever wished it.
    pub fn split_and_wish(&mut self) -> (&Split, &mut SplitWish) {
        (&self.split, &mut self.wish)
    }

    /// Whether the entry at `index`, which was applied, is the split, or stands where it was lost.
    pub fn opens_at(&self, index: u64) -> bool {
        self.split_at <= index
    }

    /// Keeps back what an entry has led to.
    pub fn hold(&mut self, index: u64, asker: Asker, outcome: Outcome) {
        self.outcomes.push(HeldOutcome { index, asker, outcome });
    }

    /// Keeps back the keepalives among those questions. The others carry no seq, and go on.
    pub fn hold_keepalives(&mut self, reads: Vec<Read>) -> Vec<Read> {
        let (keepalives, looks): (Vec<_>, Vec<_>) =
            reads.into_iter().partition(|read| matches!(read.query, Query::KeepAlive { .. }));
        for read in keepalives {
            self.items += items(&read);
            self.keepalives.push_back(read);
        }
        while self.items > ITEMS_HELD_MAX && self.keepalives.len() > 1 {
            self.items -= self.keepalives.pop_front().map_or(0, |read| items(&read));
        }
        looks
    }

    /// All that was kept back, now that it may go.
    pub fn open(self) -> Opened {
        let Self { split, wish, outcomes, keepalives, .. } = self;
        Opened { split, wish, outcomes, keepalives: keepalives.into() }
    }

    /// Who waits for it, if it never goes: the keepalives of which nothing was done, and those whose
    /// commands were decided or who wait for the split.
    pub fn waiting(self) -> (Vec<ReplyTo>, Vec<ReplyTo>) {
        let keepalives = self.keepalives.into_iter().map(|read| read.to).collect();
        let decided = self.outcomes.iter().filter_map(|held| held.asker.reply_to());
        (keepalives, decided.chain(self.wish.askers).collect())
    }
}

fn items(read: &Read) -> usize {
    match &read.query {
        Query::KeepAlive { items, .. } => items.len(),
        Query::CheckToken(_)
        | Query::GetLock(_)
        | Query::ListRange(_)
        | Query::WatchLock { .. }
        | Query::ListSessions(..)
        | Query::GetSession(..)
        | Query::PlanRevocation(..)
        | Query::RevokeNothing(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::{internal::v1::StoreCall, v1};
    use sharklock_rangemap::{Epoch, RangeId};

    use super::*;
    use crate::{front::LinkId, wire::Caller};

    fn gate() -> Gate {
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let split = Split { epoch, key: "m".into(), child: RangeId(2), child_peers: Vec::new() };
        let to = vec![ReplyTo { link: LinkId(1), tag: 77 }];
        Gate::shut(9, split, SplitWish { askers: to, ..SplitWish::default() })
    }

    fn read(tag: u64, query: Query) -> Read {
        Read { to: ReplyTo { link: LinkId(1), tag }, query }
    }

    fn keepalive(tag: u64, count: usize) -> Read {
        let session = vec![1; 16].into();
        let mut call = StoreCall { session, instance: 1, ..StoreCall::default() };
        let caller = Caller::of(&mut call).expect("it says whose it is");
        let items = vec![v1::KeepAliveItem::default(); count];
        read(tag, Query::KeepAlive { caller, seq: 1, asker: None, items })
    }

    #[test]
    fn looks_pass_and_keepalives_wait_the_oldest_without_an_answer_if_there_are_too_many() {
        let mut gate = gate();
        let look = read(1, Query::CheckToken(v1::CheckTokenRequest::default()));
        let passed = gate.hold_keepalives(vec![keepalive(2, 10), look, keepalive(3, 20)]);
        assert_eq!(passed.iter().map(|read| read.to.tag).collect::<Vec<_>>(), [1]);
        assert!(gate.hold_keepalives(vec![keepalive(4, ITEMS_HELD_MAX - 25)]).is_empty());
        assert_eq!(gate.items, ITEMS_HELD_MAX - 5);
        gate.hold_keepalives(vec![keepalive(5, ITEMS_HELD_MAX + 1)]);
        assert_eq!(gate.items, ITEMS_HELD_MAX + 1, "one alone is never too many");
        let kept = gate.open().keepalives;
        assert_eq!(kept.iter().map(|read| read.to.tag).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn it_opens_with_the_split_or_with_what_stands_in_its_place() {
        let gate = gate();
        assert_eq!([8, 9, 10].map(|index| gate.opens_at(index)), [false, true, true]);
        let (not_done, decided) = gate.waiting();
        assert_eq!((not_done.len(), decided[0].tag), (0, 77), "whether it is split is not known");
    }
}
