//! A hold and its lease.

use crate::state::{ClientIndex, Id, Ticks, Token};

/// What may end a hold, beside its release and operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// The end of its lease.
    OnExpiry,
    /// `hold`: the end of its lease until it is claimed, and then nothing.
    Hold,
    /// `max_hold` and `ask_holder`: beside the end of its lease a time, or a waiter who has asked.
    Bounded,
}

/// Whose wish it is that a hold ends before its client lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndingCause {
    /// An operator's, for the lock or for all of the session.
    Operator,
    /// A newer instance's of its session, which takes it back.
    Reclaim,
    /// The condition's: held for too long, or asked for.
    Clause,
}

/// A lease, as the leader that counts it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The id whose lease it is where rule OneLeasePerHold is off; else 0.
    pub of: Id,
    /// Until the deadline.
    pub left: Ticks,
    /// Its end is in the log or on the way there.
    pub pending: bool,
    /// The lease that would be left if the last receipt while pending had counted.
    pub heard: Ticks,
}

impl Lease {
    /// A lease that starts now.
    pub fn full(ttl: Ticks) -> Self {
        Self { of: 0, left: ttl, pending: false, heard: 0 }
    }

    /// A receipt: the deadline moves, or the receipt is remembered while an end is pending.
    pub fn renew(&mut self, ttl: Ticks) {
        if self.pending {
            self.heard = ttl;
        } else {
            self.left = self.left.max(ttl);
        }
    }

    pub fn tick(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.heard = self.heard.saturating_sub(1);
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hold {
    /// Its token.
    pub token: Token,
    /// Its client, as the log names clients.
    pub owner: ClientIndex,
    /// The ids open on it, as bits.
    pub open: u8,
    /// The ids that were closed on it, as bits.
    pub closed: u8,
    /// The newest id that ever joined.
    pub newest: Id,
    /// Its lease; one per id where rule OneLeasePerHold is off.
    pub leases: Vec<Lease>,
    /// Ending has been applied, for this.
    pub ending: Option<EndingCause>,
    /// What may end it.
    pub condition: Condition,
    /// Its client has seen it, and has put the condition `hold` into force: at its lease's end it is
    /// orphaned.
    pub claimed: bool,
    /// Its lease is longer than others.
    pub longer: bool,
    /// A waiter has asked for it.
    pub asked: bool,
    /// It has no lease any more and waits for its session.
    pub orphan: bool,
    /// Revision of the condition.
    pub revision: u8,
    /// The client that gets it when it ends.
    pub reclaimer: Option<(ClientIndex, Id)>,
    /// Ticks since the last receipt that named an open id, up to a bound.
    pub unnamed: u8,
}

impl Hold {
    /// A fresh hold with the default condition and nobody's id on it.
    pub fn new(token: Token, owner: ClientIndex, id: Id, lease: Lease) -> Self {
        Self {
            token,
            owner,
            open: 0,
            closed: 0,
            newest: id,
            leases: vec![lease],
            ending: None,
            condition: Condition::OnExpiry,
            claimed: false,
            longer: false,
            asked: false,
            orphan: false,
            revision: 0,
            reclaimer: None,
            unnamed: 0,
        }
    }

    /// Whether an acquisition of the owner is open on it.
    pub fn has(&self, owner: ClientIndex, id: Id) -> bool {
        self.owner == owner && self.open & (1 << id) != 0
    }

    /// Whether Ending has been applied.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether an operator's word, or a clause, ends it.
    pub fn is_taken_away(&self) -> bool {
        matches!(self.ending, Some(EndingCause::Operator | EndingCause::Clause))
    }

    /// Every lease of it anew.
    pub fn restart(&mut self, left: Ticks) {
        for lease in &mut self.leases {
            *lease = Lease { left, pending: false, heard: 0, ..*lease };
        }
    }
}
