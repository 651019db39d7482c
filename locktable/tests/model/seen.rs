//! The events that a run met: it must meet every way to answer and every change often, else it
//! tests less than it seems to.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Write},
};

use sharklock_locktable::{Change, ConditionFlaw, EndingCause, Outcome, Refusal, Reply};

const MUST_BE_SEEN: &str = "Granted Queued StillHeld Released Cancelled Holds Revoked Agreed AttributesSet \
    Done Indeterminate \
    Finished::Unknown Finished::Released Finished::Cancelled Finished::Expired \
    Finished::WaitTimedOut Finished::TryRefused Finished::ForceReleased Finished::HoldLost \
    Finished::Orphaned Finished::Reclaimed Finished::HeldTooLong Finished::AskedFor \
    Refused::ModeMismatch Refused::WouldDeadlock Refused::SharedReentry Refused::TooManyHolders \
    Refused::TooManyWaiters \
    Refused::TooManyAcquisitions Refused::AcquisitionReused Refused::NotReenterable \
    Refused::HoldEnding Refused::LeaseShortened Refused::NotReclaimable Refused::NotWaiting \
    Refused::FeatureLevel Refused::Quarantine \
    Flaw::ZeroDuration Flaw::MissedTooFew Flaw::TtlIsNotMissedIntervals Flaw::HoldWithMaxHold \
    Flaw::HoldWithAskHolder Flaw::WithReentry Flaw::NothingToClaim \
    +Queued +Granted +Joined +Closed +WaiterLeft::Expired +WaiterLeft::Cancelled \
    +WaiterLeft::WaitTimedOut +WaiterLeft::ForceReleased +WaiterLeft::Reclaimed \
    +HoldEnded::Released +HoldEnded::Expired +HoldEnded::ForceReleased +HoldEnded::Reclaimed \
    +HoldEnded::HeldTooLong +HoldEnded::AskedFor +EndingBegan +ExpireMissed +Orphaned +Downgraded \
    +ConditionSet +Claimed +AttributesSet +Asked +AskDropped +DelayBegan +DelayEnded +QuarantineEnds \
    flush restart split pass forgotten cut";

// A new variant does not compile here until somebody has looked at the list above.
const _: fn(&Reply, &Refusal, &ConditionFlaw, &Change, EndingCause) =
    |reply, why, flaw, it, end| {
        match reply {
            Reply::Granted(_) | Reply::Queued { .. } | Reply::Finished(_) | Reply::Refused(_) => {}
            Reply::StillHeld { .. } | Reply::Released | Reply::Cancelled | Reply::Holds(_) => {}
            Reply::Revoked { .. } | Reply::AttributesSet { .. } => {}
            Reply::Agreed(_) | Reply::Done | Reply::Indeterminate => {}
        }
        match why {
            Refusal::ModeMismatch | Refusal::WouldDeadlock => {}
            Refusal::TooManyHolders { .. } | Refusal::TooManyWaiters { .. } => {}
            Refusal::TooManyAcquisitions { .. } | Refusal::AcquisitionReused => {}
            Refusal::NotReenterable | Refusal::Condition(_) | Refusal::HoldEnding => {}
            Refusal::LeaseShortened | Refusal::NotReclaimable | Refusal::NotWaiting => {}
            Refusal::FeatureLevel | Refusal::SharedReentry | Refusal::Quarantine => {}
        }
        match flaw {
            ConditionFlaw::ZeroDuration | ConditionFlaw::MissedTooFew => {}
            ConditionFlaw::TtlIsNotMissedIntervals | ConditionFlaw::HoldWithMaxHold => {}
            ConditionFlaw::HoldWithAskHolder | ConditionFlaw::WithReentry => {}
            ConditionFlaw::NothingToClaim => {}
        }
        match it {
            Change::Queued { .. } | Change::Granted { .. } | Change::Joined { .. } => {}
            Change::Closed { .. } | Change::WaiterLeft { .. } | Change::HoldEnded { .. } => {}
            Change::EndingBegan { .. } | Change::ExpireMissed { .. } | Change::Orphaned { .. } => {}
            Change::Downgraded { .. } | Change::ConditionSet { .. } | Change::Asked { .. } => {}
            Change::AskDropped { .. } | Change::DelayBegan { .. } | Change::DelayEnded { .. } => {}
            Change::QuarantineEnds { .. }
            | Change::AttributesSet { .. }
            | Change::Claimed { .. } => {}
        }
        match end {
            EndingCause::Operator | EndingCause::MaxHold => {}
            EndingCause::AskGrace | EndingCause::Reclaim => {}
        }
    };

/// How often each thing came.
#[derive(Default)]
pub struct Seen {
    times: BTreeMap<String, u64>,
    commands: u64,
}

impl Seen {
    pub fn note(&mut self, outcome: &Outcome) {
        self.commands += 1;
        self.note_that(match &outcome.reply {
            Reply::Finished(how) => format!("Finished::{}", variant(how)),
            Reply::Refused(Refusal::Condition(flaw)) => format!("Flaw::{}", variant(flaw)),
            Reply::Refused(why) => format!("Refused::{}", variant(why)),
            reply => variant(reply),
        });
        for change in &outcome.changes {
            self.note_that(match change {
                Change::WaiterLeft { how, .. } => format!("+WaiterLeft::{}", variant(how)),
                Change::HoldEnded { how, .. } => format!("+HoldEnded::{}", variant(how)),
                change => format!("+{}", variant(change)),
            });
        }
    }

    pub fn note_that(&mut self, what: String) {
        *self.times.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: Self) {
        self.commands += other.commands;
        for (what, times) in other.times {
            *self.times.entry(what).or_default() += times;
        }
    }

    /// Commands applied.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Panics if something came less than once in 100,000 commands.
    pub fn check_floors(&self, commands: u64) {
        assert!(self.commands >= commands, "only {} commands", self.commands);
        for what in MUST_BE_SEEN.split_whitespace() {
            let times = self.times.get(what).copied().unwrap_or(0);
            assert!(times > 0 && times * 100_000 >= commands, "{what} came only {times} times");
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} commands", self.commands)?;
        self.times.iter().try_for_each(|(what, times)| writeln!(f, "{times:>9} {what}"))
    }
}

/// The name of an enum's variant, without formatting the rest.
fn variant(value: &impl Debug) -> String {
    struct FirstWord(String);
    impl Write for FirstWord {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let word: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
            self.0.push_str(&word);
            if word.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let mut word = FirstWord(String::new());
    // It ends with an error at the first character that belongs to no name.
    let _ended = write!(word, "{value:?}");
    word.0
}
