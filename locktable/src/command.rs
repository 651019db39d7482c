//! The commands of a lock table. Commands come out of the range's Raft log, in order; nothing
//! else changes a table.

use crate::{Acquisition, AcquisitionId, Condition, Name, SessionHandle, Token};

/// The place of a command in the log, and when its leader proposed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Raft index of the entry. Several commands of one entry share it.
    pub index: u64,
    /// Raft term of the entry.
    pub term: u64,
    /// The proposing leader's wall clock, Unix milliseconds. Shown to people, never compared.
    pub stamped_unix_ms: u64,
}

/// How a lock is wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One holder.
    Exclusive,
    /// Any number of sharers.
    Shared,
    /// `n` of `of` units. The edge has checked 1 <= n <= of.
    Permits {
        /// Units wanted.
        n: u32,
        /// Units the lock has.
        of: u32,
    },
}

/// How long an acquisition may queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: granted at once or refused.
    Try,
    /// Up to so many milliseconds; the leader's clock ends it by [`WaitTimeout`].
    AtMost(u64),
    /// Until granted.
    Unbounded,
}

/// The acquirer, as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Given by the client.
    pub id: String,
    /// The client's address as its gateway saw it.
    pub address: String,
    /// Given by the client; sorted by key.
    pub attributes: Vec<(String, String)>,
}

/// A command of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Grant, queue or refuse.
    Acquire(Box<Acquire>),
    /// Close one acquisition of a hold, or all.
    Release(Release),
    /// Withdraw an acquisition in whatever state.
    Cancel(Cancel),
    /// End what the leader's lease clock found unrenewed.
    Expire(Expire),
    /// End a wait.
    WaitTimeout(WaitTimeout),
    /// Stop renewal of holds that an operator wants ended.
    Ending(Ending),
    /// End a hold after its Ending, or at once by an operator's explicit wish.
    End(End),
    /// Change what may end a hold.
    SetCondition(SetCondition),
    /// Make the condition `hold` take effect.
    Claim(Claim),
    /// Take a hold back for a newer life of its session.
    Reclaim(Box<Reclaim>),
    /// Ask holders who agreed to be asked for the lock.
    Ask(Ask),
    /// Turn an exclusive hold into a shared one.
    Downgrade(Downgrade),
    /// Change what a holder tells people about its hold.
    SetAttributes(SetAttributes),
    /// A time that a condition set is over.
    TimeUp(TimeUp),
    /// Take everything away from a session.
    Revoke(Revoke),
    /// Follow the rules of a later version from here on.
    RaiseFeatureLevel(RaiseFeatureLevel),
    /// Go on without entries that are lost.
    Recover(Recover),
    /// Grant again, after a quarantine.
    EndQuarantine(EndQuarantine),
}

impl Command {
    /// The lowest feature level under which apply takes it (D19). A leader does not propose it
    /// below, since replicas of an older build would stop at it.
    pub fn feature_level(&self) -> u64 {
        match self {
            Self::Acquire(acquire) if acquire.condition.as_ref().is_some_and(|it| !it.is_default()) => 2,
            Self::Acquire(_)
            | Self::Release(_)
            | Self::Cancel(_)
            | Self::Expire(_)
            | Self::WaitTimeout(_)
            | Self::Ending(_)
            | Self::End(_)
            // It is how the others get in.
            | Self::RaiseFeatureLevel(_)
            // Losses ask for no level.
            | Self::Recover(_)
            | Self::EndQuarantine(_) => 1,
            Self::SetCondition(_)
            | Self::Claim(_)
            | Self::Reclaim(_)
            | Self::Ask(_)
            | Self::Downgrade(_)
            | Self::TimeUp(_)
            | Self::Revoke(_) => 2,
            Self::SetAttributes(_) => 4,
        }
    }

    /// The oldest feature level whose programs know what it asks for.
    pub fn known_from(&self) -> u64 {
        match self {
            Self::RaiseFeatureLevel(raise) => raise.level,
            Self::Recover(_) | Self::EndQuarantine(_) => 3,
            other => other.feature_level(),
        }
    }

    /// The locks that it names; none where it concerns all of the range. Apply touches no others.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let (one, items) = match self {
            Self::Acquire(acquire) => (Some(&acquire.name), &[][..]),
            Self::Release(release) => (Some(&release.name), &[][..]),
            Self::Cancel(cancel) => (Some(&cancel.name), &[][..]),
            Self::Expire(expire) => (None, expire.items.as_slice()),
            Self::WaitTimeout(timeout) => (Some(&timeout.name), &[][..]),
            Self::Ending(ending) => (Some(&ending.name), &[][..]),
            Self::End(end) => (Some(&end.name), &[][..]),
            Self::SetCondition(set) => (Some(&set.name), &[][..]),
            Self::Claim(claim) => (Some(&claim.name), &[][..]),
            Self::Reclaim(reclaim) => (Some(&reclaim.name), &[][..]),
            Self::Ask(ask) => (Some(&ask.name), &[][..]),
            Self::Downgrade(downgrade) => (Some(&downgrade.name), &[][..]),
            Self::SetAttributes(set) => (Some(&set.name), &[][..]),
            Self::TimeUp(time_up) => (Some(&time_up.name), &[][..]),
            Self::Revoke(_)
            | Self::RaiseFeatureLevel(_)
            | Self::Recover(_)
            | Self::EndQuarantine(_) => (None, &[][..]),
        };
        one.into_iter().chain(items.iter().map(ExpireItem::name))
    }
}

/// See [`Command::Acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Names it; a duplicate finds its first outcome.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// How it is wanted.
    pub mode: Mode,
    /// Lease, milliseconds.
    pub ttl_ms: u64,
    /// How long it may queue.
    pub wait: Wait,
    /// Join the live hold with this token instead of asking for a grant.
    pub reenter: Option<Token>,
    /// The acquirer, as people see it; re-entry also demands the same `id`.
    pub owner: Owner,
    /// The condition under which the hold may end; none is the default, `on_expiry`. A re-entry
    /// brings none.
    pub condition: Option<Box<Condition>>,
    /// Age of the range when a gateway got this request, at the earliest: if something that ended
    /// then may be forgotten, this may be a copy of it. 0 is earlier than all.
    pub asked_ms: u64,
}

/// See [`Command::Release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The acquisition to close.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold.
    pub token: Token,
    /// Close every acquisition of the hold.
    pub all: bool,
}

/// See [`Command::Cancel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The acquisition to withdraw.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
}

/// See [`Command::Expire`]. Nothing happens unless the entry's term is `proposer_term` (D7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expire {
    /// The leases that the leader saw unrenewed.
    pub items: Vec<ExpireItem>,
    /// Term of the leader that decided.
    pub proposer_term: u64,
}

/// One lease to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpireItem {
    /// A hold, unless another acquisition has joined since.
    Hold {
        /// The lock.
        name: Name,
        /// The hold.
        token: Token,
        /// The newest acquisition that had ever joined it when the leader decided, whether still
        /// open or not: a joiner that has been closed again had its lease renewed too (hole 6).
        newest: AcquisitionId,
        /// Whether its client may have been told of the grant: only then a lock-delay has someone
        /// to wait for.
        told: bool,
    },
    /// A waiter, unless it has been granted since.
    Waiter {
        /// The lock.
        name: Name,
        /// The waiter.
        acquisition: Acquisition,
    },
}

impl ExpireItem {
    /// The lock.
    pub fn name(&self) -> &Name {
        match self {
            Self::Hold { name, .. } | Self::Waiter { name, .. } => name,
        }
    }
}

/// See [`Command::WaitTimeout`]. Nothing happens unless the entry's term is `proposer_term` and
/// the acquisition still waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitTimeout {
    /// The waiter.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// Term of the leader that decided.
    pub proposer_term: u64,
}

/// See [`Command::Ending`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The lock.
    pub name: Name,
    /// The hold; every live hold of the lock when absent.
    pub token: Option<Token>,
    /// Why, shown to the holder.
    pub reason: String,
    /// The operator who asked, for the record.
    pub operator: String,
}

/// See [`Command::End`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The lock.
    pub name: Name,
    /// The hold; absent only in `Cause::Operator`: every live hold of the lock.
    pub token: Option<Token>,
    /// On whose word.
    pub cause: EndCause,
}

/// On whose word a hold ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The leader of this term waited out the lease after Ending. Nothing happens in an entry of
    /// another term, nor to a hold that is not Ending.
    WaitedOut {
        /// Term of the leader that decided.
        proposer_term: u64,
        /// See [`ExpireItem::Hold`].
        told: bool,
    },
    /// An operator wants it now and accepts that the promise is broken.
    Operator {
        /// Why, for the record.
        reason: String,
        /// The operator who asked, for the record.
        operator: String,
    },
}

/// See [`Command::SetCondition`]. Nothing happens if the hold's revision is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCondition {
    /// An acquisition of the hold's session and instance.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold.
    pub token: Token,
    /// The revision of the condition that the client knows.
    pub revision: u64,
    /// Lease from here on, milliseconds. Never shorter than before: a leader that did not answer
    /// under the old one could not know how long its client counts.
    pub ttl_ms: u64,
    /// The condition from here on.
    pub condition: Condition,
}

/// See [`Command::Claim`]. Nothing happens if the hold's revision is another: a late copy must not
/// undo what the client has agreed since (hole 22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// An acquisition of the hold's session and instance.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold, whose grant the client has seen.
    pub token: Token,
    /// The revision of the condition that the client knows.
    pub revision: u64,
}

/// See [`Command::Reclaim`]. The hold goes to the new acquisition under a new token, with its mode,
/// ttl and condition: at once if it is an orphan, else after the notice of an Ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// The acquisition that is to hold; of the hold's session, and of a newer instance unless the
    /// hold is an orphan.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold as the session knew it.
    pub token: Token,
    /// The acquirer, as people see it.
    pub owner: Owner,
    /// See [`Acquire::asked_ms`].
    pub asked_ms: u64,
}

/// See [`Command::Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The waiter that asks.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
}

/// See [`Command::Downgrade`]. The hold goes on under a new token, with everything open on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downgrade {
    /// An acquisition that is open on the hold.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold, exclusive until now.
    pub token: Token,
}

/// See [`Command::SetAttributes`]. Nothing happens if the hold knows a later `seq`: attributes that were
/// sent before must not come back by a late copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAttributes {
    /// An acquisition of the hold's session and instance.
    pub acquisition: Acquisition,
    /// The lock.
    pub name: Name,
    /// The hold.
    pub token: Token,
    /// The client's count of its changes to this hold's attributes; 1 is the first.
    pub seq: u64,
    /// All attributes from here on; sorted by key.
    pub attributes: Vec<(String, String)>,
}

/// See [`Command::TimeUp`]. Nothing happens unless the entry's term is `proposer_term` and what it
/// names is as the leader saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeUp {
    /// The lock.
    pub name: Name,
    /// The hold, or the ended one whose delay runs.
    pub token: Token,
    /// The time that is over.
    pub what: Timed,
    /// Term of the leader that decided.
    pub proposer_term: u64,
}

/// A time that a condition sets. The leader's clock begins it anew whenever it begins to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// Of the clause `lock_delay`.
    LockDelay,
    /// Of the clause `max_hold`.
    MaxHold {
        /// The revision of the condition that said so.
        revision: u64,
    },
    /// Of the clause `ask_holder`, since a waiter asked.
    AskGrace {
        /// The revision of the condition that said so.
        revision: u64,
    },
}

/// See [`Command::Revoke`]. Its waiters leave at once; its holds get the notice of an Ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// The session.
    pub session: SessionHandle,
    /// Why, shown to the holder.
    pub reason: String,
    /// The operator who asked, for the record.
    pub operator: String,
}

/// See [`Command::RaiseFeatureLevel`]. A level below the present one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaiseFeatureLevel {
    /// The level that every replica's store supports.
    pub level: u64,
}

/// See [`Command::Recover`]. Nobody proposes it: the only replica that is left of a range makes it its
/// last entry of the log that was, when its majority is lost for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recover {
    /// Of the tokens from here on, at least; always a later one than before.
    pub generation: u16,
    /// Whether nothing is granted until [`EndQuarantine`].
    pub waits: bool,
}

/// See [`Command::EndQuarantine`]. Nothing happens unless the entry's term is `proposer_term`. It serves
/// a bounded number of waiters, and is proposed again until none is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndQuarantine {
    /// Term of the leader that decided.
    pub proposer_term: u64,
}
