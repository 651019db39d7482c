//! The rules of D7–D9, each of which can be switched off to see what it is for.

/// One rule of the design. The text of each is what a scenario prints when it is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An answer to a keepalive speaks of each item, and never of a whole session.
    AnswersPerItem,
    /// An answer says "gone" only of a name inside the bounds of the range at that moment.
    GoneWithinBounds,
    /// "Gone" counts only if its keepalive was sent after an answer for that acquisition had come.
    GoneNeedsLaterKeepAlive,
    /// An Expire names the token that its leader saw.
    ExpireNamesToken,
    /// An Expire names the newest id that its leader saw, and misses if another has joined.
    ExpireNamesNewest,
    /// The receipt of a duplicate Acquire, a re-entry, a Claim or a Reclaim renews the hold.
    EveryReceiptRenews,
    /// A command that a scan decides enters the log ahead of whatever is received later.
    ScanEntersLogInOrder,
    /// A keepalive is not answered for a lease whose end is pending.
    SilentWhilePending,
    /// Every attempt has a seq, which its answer echoes; the client counts from that attempt.
    SeqEchoed,
    /// A pushed grant carries no time.
    PushCarriesNoTime,
    /// A hold has one lease, whatever the number of ids open on it.
    OneLeasePerHold,
    /// A command of a leader's clock does nothing in an entry of another term.
    ProposerTerm,
    /// A leader proves that it leads after the receipt, before it answers with a seq.
    ProofOfLeadership,
    /// The scan runs only after the mailbox that stood at its start is drained.
    ScanAfterMailbox,
    /// A new leader gives every lease in full.
    FullLeaseAtNewLeader,
    /// No answer with a seq from the proposal of a split to its apply.
    SilentWhileSplitting,
    /// The server counts with the slower of its clocks.
    SlowerServerClock,
    /// A hold is ended early in two commits only: Ending, then End after a full lease.
    EndingFirst,
    /// From the apply of Ending no keepalive renews the hold.
    EndingStopsRenewal,
    /// A re-entry on an ending hold is refused.
    EndingRefusesReentry,
    /// A Claim on an ending hold is refused.
    EndingRefusesClaim,
    /// A Reclaim of an ending hold is refused.
    EndingRefusesReclaim,
    /// A new leader and a split child wait for End in full again.
    EndWaitsInFullAgain,
    /// An acknowledgement of an Ending closes the ids that its client has lost, each by its id, and
    /// never the whole hold: an id may have joined of which the client has not heard.
    AcknowledgedById,
    /// A Release names the id that it closes.
    ReleaseNamesId,
    /// A live hold remembers the ids that were closed on it.
    HoldRemembersClosed,
    /// A range remembers the acquisitions that have finished.
    RingOfFinished,
    /// An attempt that was sent before the range forgot something, and is not known, is not done:
    /// it may be a copy of what is forgotten.
    DoubtfulIsNotDone,
    /// A re-entry names the token that it joins, and gets that or nothing.
    ReenterNamesToken,
    /// A keepalive renews what it names, and nothing else of its session.
    RenewalNamesItems,
    /// A Cancel that finds nothing is remembered.
    CancelRecorded,
    /// A grant for which the client has no open acquisition is answered with Release.
    UnknownGrantReleased,
    /// A wait time-out is a no-op on what is held.
    TimeoutSparesHolds,
    /// An acquisition is named by session, instance and id.
    InstanceInIdentity,
    /// A Reclaim of a live hold is an Ending first.
    ReclaimWaits,
    /// A client whose grant was not handed out yet takes a newer token for the one that counts, and
    /// gives back one that is not its guard's.
    NewestGrantCounts,
    /// A Reclaim gets a new token.
    ReclaimGetsNewToken,
    /// A Claim and a SetCondition do nothing if the condition's revision has moved.
    ConditionRevision,
    /// A split child goes on counting tokens where its parent stood.
    ChildCopiesCounter,
    /// The condition `hold` takes effect by a Claim, after its client has seen the grant.
    HoldNeedsClaim,
    /// An orphan is refused whatever its client wants agreed about it: it is gone for that client.
    OrphanRefusesAgreement,
    /// A lease that would get shorter by an agreement is refused.
    LeaseNeverShorter,
    /// A longer lease counts only for attempts that were sent after it was known.
    LongerLeaseFromKnown,
    /// The time of a condition ends nothing once something else is agreed.
    TimeUpNamesAgreement,
    /// The grace of a holder who was asked ends its hold only if somebody waits then.
    GraceNeedsWaiter,
    /// A claimed hold becomes an orphan, and is not freed, if its reclaimer has gone away.
    LeftReclaimOrphans,
    /// An operator's word ends a hold also where an instance of its session is taking it back.
    OperatorEndsReclaim,
    /// A Reclaim is refused to all instances but newer ones; an orphan's own may have it back.
    ReclaimByNewer,
    /// The instance of a new life is larger than those of all before, whatever the clock says.
    InstanceGrows,
    /// A revocation takes the session's waiters out of the queues.
    RevokeEndsWaits,
    /// A revocation grants nothing before all of the session's places are given up.
    RevokeServesLast,
}

impl Rule {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 51] = [
        Self::AnswersPerItem,
        Self::GoneWithinBounds,
        Self::GoneNeedsLaterKeepAlive,
        Self::ExpireNamesToken,
        Self::ExpireNamesNewest,
        Self::EveryReceiptRenews,
        Self::ScanEntersLogInOrder,
        Self::SilentWhilePending,
        Self::SeqEchoed,
        Self::PushCarriesNoTime,
        Self::OneLeasePerHold,
        Self::ProposerTerm,
        Self::ProofOfLeadership,
        Self::ScanAfterMailbox,
        Self::FullLeaseAtNewLeader,
        Self::SilentWhileSplitting,
        Self::SlowerServerClock,
        Self::EndingFirst,
        Self::EndingStopsRenewal,
        Self::EndingRefusesReentry,
        Self::EndingRefusesClaim,
        Self::EndingRefusesReclaim,
        Self::EndWaitsInFullAgain,
        Self::AcknowledgedById,
        Self::ReleaseNamesId,
        Self::HoldRemembersClosed,
        Self::RingOfFinished,
        Self::DoubtfulIsNotDone,
        Self::ReenterNamesToken,
        Self::RenewalNamesItems,
        Self::CancelRecorded,
        Self::UnknownGrantReleased,
        Self::TimeoutSparesHolds,
        Self::InstanceInIdentity,
        Self::ReclaimWaits,
        Self::NewestGrantCounts,
        Self::ReclaimGetsNewToken,
        Self::ConditionRevision,
        Self::ChildCopiesCounter,
        Self::HoldNeedsClaim,
        Self::OrphanRefusesAgreement,
        Self::LeaseNeverShorter,
        Self::LongerLeaseFromKnown,
        Self::TimeUpNamesAgreement,
        Self::GraceNeedsWaiter,
        Self::LeftReclaimOrphans,
        Self::OperatorEndsReclaim,
        Self::ReclaimByNewer,
        Self::InstanceGrows,
        Self::RevokeEndsWaits,
        Self::RevokeServesLast,
    ];
}

/// Which rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u64);

impl Rules {
    /// All: the design.
    pub const DESIGN: Self = Self((1 << Rule::ALL.len()) - 1);

    /// These rules less some.
    pub fn without(self, off: &[Rule]) -> Self {
        Self(off.iter().fold(self.0, |rules, rule| rules & !(1 << *rule as u64)))
    }

    /// Whether a rule holds.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u64) != 0
    }
}
