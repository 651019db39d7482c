//! The state hash (S9): equal states have equal hashes, whatever their history. It is the wrapping
//! sum of one XXH3 per component (hold, waiter, finished acquisition, ended id, fence floor), so that a change
//! costs only the components it touches, plus one for the header, taken when the hash is read. It
//! finds replicas that diverge by a fault; it does not resist someone who wants a collision.
//!
//! The encoding of a component is fixed, because hashes are stored with the image: a tag byte, then
//! its fields in the order of their declaration, integers little-endian, strings and lists preceded
//! by their length as u64, an option as a byte 0 or 1 before its value. A field that feature level
//! 2 has added follows only where it is not the default, so that rows of level 1 hash as they did;
//! ended ids and the age come with level 3; what level 4 has added to a row stands at its end behind
//! the byte 4, where it is not all the default.

use twox_hash::XxHash3_64;

use crate::{
    Acquisition, AcquisitionId, Condition, DelayRow, EndingCause, EndingMark, Extras, FinishedRow,
    Header, HoldRow, LeaseRule, Mode, Name, Owner, Token, Wait, WaiterRow,
};

const TAG_HOLD: u8 = 1;
const TAG_WAITER: u8 = 2;
const TAG_FINISHED: u8 = 3;
const TAG_FENCE_FLOOR: u8 = 4;
const TAG_HEADER: u8 = 5;
const TAG_DELAY: u8 = 6;
const TAG_ENDED: u8 = 7;

/// Before what level 4 has added. No condition begins with it, so nothing else can look like it.
const LEVEL_4: u8 = 4;

/// The hash of one component, kept beside it so that taking it out again costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    /// Of nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// That of both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

/// The sum over all components that are in the table.
///
/// Invariants:
/// - `sum` is the wrapping sum of the digests of exactly the components in the table.
#[derive(Debug)]
pub(crate) struct StateHash {
    sum: u64,
    encoding: Encoding,
}

impl StateHash {
    pub(crate) fn new() -> Self {
        Self { sum: 0, encoding: Encoding(Vec::with_capacity(256)) }
    }

    /// The hash of the whole state under this header. `spans` is what the generations of ended
    /// acquisitions have beside them.
    pub(crate) fn with_header(
        &self,
        header: &Header,
        spans: impl Iterator<Item = [u64; 4]>,
    ) -> u64 {
        let mut encoding = Encoding(Vec::with_capacity(64));
        encoding.byte(TAG_HEADER);
        encoding.u64(header.generation.into());
        encoding.u64(header.token_counter);
        encoding.u64(header.ticket_counter);
        encoding.u64(header.ring_first);
        encoding.u64(header.ring_next);
        encoding.u64(header.feature_level);
        if header.feature_level >= 3 {
            encoding.u64(header.age_ms);
            encoding.u64(header.lost_ms);
            encoding.u64(header.ended_next);
            spans.flatten().for_each(|number| encoding.u64(number));
        }
        if header.recovered_ms != 0 {
            encoding.u64(header.recovered_ms);
            encoding.byte(header.quarantine.code());
        }
        self.sum.wrapping_add(encoding.digest().0)
    }

    pub(crate) fn add_hold(&mut self, name: &Name, hold: &HoldRow) -> Digest {
        let encoding = self.encoding.begin(TAG_HOLD, name);
        encoding.u64(hold.token.0);
        encoding.bytes(&hold.session.0);
        encoding.u64(hold.instance.0);
        encoding.len(hold.open_ids.len());
        hold.open_ids.iter().for_each(|id| encoding.u64(id.0));
        encoding.u64(hold.open_ids.newest().0);
        let highest_closed_id = hold.extras().highest_closed_id;
        encoding.option(highest_closed_id, |encoding, AcquisitionId(id)| encoding.u64(id));
        encoding.mode(hold.mode);
        encoding.u64(hold.ttl_ms);
        encoding.owner(&hold.owner);
        encoding.u64(hold.granted_unix_ms);
        encoding.option(hold.ending().map(|mark| mark.reason.as_str()), Encoding::text);
        if let Some(extras) = hold.extras.as_deref().filter(|extras| !is_level_1(extras)) {
            encoding.extras(extras);
        }
        encoding.level_4_of_hold(hold);
        self.add()
    }

    pub(crate) fn add_waiter(&mut self, name: &Name, waiter: &WaiterRow) -> Digest {
        let encoding = self.encoding.begin(TAG_WAITER, name);
        encoding.u64(waiter.ticket);
        encoding.acquisition(waiter.acquisition);
        encoding.mode(waiter.mode);
        encoding.u64(waiter.ttl_ms);
        encoding.wait(waiter.wait);
        encoding.owner(&waiter.owner);
        encoding.u64(waiter.queued_unix_ms);
        if let Some(condition) = &waiter.condition {
            encoding.condition(condition);
        }
        if waiter.arrival != 0 {
            encoding.byte(LEVEL_4);
            encoding.u64(waiter.arrival);
        }
        self.add()
    }

    pub(crate) fn add_delay(&mut self, name: &Name, delay: &DelayRow) -> Digest {
        let encoding = self.encoding.begin(TAG_DELAY, name);
        encoding.u64(delay.token.0);
        encoding.mode(delay.mode);
        encoding.u64(delay.delay_ms);
        encoding.u64(delay.since_unix_ms);
        self.add()
    }

    pub(crate) fn add_finished(&mut self, number: u64, finished: &FinishedRow) -> Digest {
        let encoding = self.encoding.begin(TAG_FINISHED, &finished.name);
        encoding.u64(number);
        encoding.acquisition(finished.acquisition);
        encoding.byte(finished.how.code());
        encoding.option(finished.token, |encoding, Token(token)| encoding.u64(token));
        self.add()
    }

    pub(crate) fn add_fence_floor(&mut self, name: &Name, floor: Token) -> Digest {
        self.encoding.begin(TAG_FENCE_FLOOR, name).u64(floor.0);
        self.add()
    }

    pub(crate) fn add_ended(&mut self, generation: u64, acquisition: Acquisition) -> Digest {
        let Acquisition { session, instance, id } = acquisition;
        let mut bytes = [TAG_ENDED; 41];
        bytes[1..9].copy_from_slice(&generation.to_le_bytes());
        bytes[9..25].copy_from_slice(&session.0);
        bytes[25..33].copy_from_slice(&instance.0.to_le_bytes());
        bytes[33..].copy_from_slice(&id.0.to_le_bytes());
        let digest = Digest(XxHash3_64::oneshot(&bytes));
        self.put(digest);
        digest
    }

    /// Adds what another table had.
    pub(crate) fn put(&mut self, digest: Digest) {
        self.sum = self.sum.wrapping_add(digest.0);
    }

    pub(crate) fn remove(&mut self, digest: Digest) {
        self.sum = self.sum.wrapping_sub(digest.0);
    }

    /// The sum without a header, to compare with a recomputed one.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    fn add(&mut self) -> Digest {
        let digest = self.encoding.digest();
        self.sum = self.sum.wrapping_add(digest.0);
        digest
    }
}

/// One component as bytes. One buffer serves all, so hashing does not allocate.
#[derive(Debug)]
struct Encoding(Vec<u8>);

impl Encoding {
    fn begin(&mut self, tag: u8, name: &Name) -> &mut Self {
        self.0.clear();
        self.byte(tag);
        self.text(name.as_str());
        self
    }

    fn digest(&self) -> Digest {
        Digest(XxHash3_64::oneshot(&self.0))
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        self.u64(len as u64);
    }

    fn text(&mut self, text: &str) {
        self.len(text.len());
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, option: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.byte(option.is_some().into());
        if let Some(value) = option {
            encode(self, value);
        }
    }

    fn acquisition(&mut self, acquisition: Acquisition) {
        self.bytes(&acquisition.session.0);
        self.u64(acquisition.instance.0);
        self.u64(acquisition.id.0);
    }

    fn mode(&mut self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.byte(1),
            Mode::Shared => self.byte(2),
            Mode::Permits { n, of } => {
                self.byte(3);
                self.u64(n.into());
                self.u64(of.into());
            }
        }
    }

    fn wait(&mut self, wait: Wait) {
        match wait {
            Wait::Try => self.byte(1),
            Wait::AtMost(ms) => {
                self.byte(2);
                self.u64(ms);
            }
            Wait::Unbounded => self.byte(3),
        }
    }

    fn owner(&mut self, owner: &Owner) {
        self.text(&owner.id);
        self.text(&owner.address);
        self.len(owner.attributes.len());
        for (key, value) in &owner.attributes {
            self.text(key);
            self.text(value);
        }
    }

    fn condition(&mut self, condition: &Condition) {
        match condition.lease {
            LeaseRule::OnExpiry => self.byte(1),
            LeaseRule::AfterMissed { missed, interval_ms } => {
                self.byte(2);
                self.u64(missed.into());
                self.u64(interval_ms);
            }
            LeaseRule::Hold => self.byte(3),
        }
        self.option(condition.lock_delay_ms, Self::u64);
        self.option(condition.max_hold_ms, Self::u64);
        self.option(condition.ask_grace_ms, Self::u64);
    }

    /// Without what level 1 has, which stands before.
    fn extras(&mut self, extras: &Extras) {
        self.condition(&extras.condition);
        self.u64(extras.revision);
        self.byte(extras.claimed.into());
        self.byte(extras.orphaned.into());
        self.option(extras.token_before, |encoding, Token(token)| encoding.u64(token));
        self.option(extras.asked.as_ref().map(|mark| mark.since_unix_ms), Self::u64);
        self.option(extras.ending.as_ref(), |encoding, mark| {
            encoding.byte(mark.cause.code());
            encoding.option(mark.reclaimer.as_ref(), |encoding, reclaimer| {
                encoding.acquisition(reclaimer.acquisition);
                encoding.owner(&reclaimer.owner);
            });
        });
    }

    /// What level 4 has added.
    fn level_4_of_hold(&mut self, hold: &HoldRow) {
        let Extras { asked, attributes_seq, .. } = hold.extras();
        let by = asked.as_ref().and_then(|mark| mark.by.as_ref());
        if hold.arrival == 0 && *attributes_seq == 0 && by.is_none() {
            return;
        }
        self.byte(LEVEL_4);
        self.u64(hold.arrival);
        self.u64(*attributes_seq);
        self.option(by, |encoding, by| {
            encoding.bytes(&by.session.0);
            encoding.text(&by.owner_id);
        });
    }
}

/// Whether level 1 could have written it.
fn is_level_1(extras: &Extras) -> bool {
    let Extras { highest_closed_id, ending, .. } = extras;
    let by_operator = |mark: &EndingMark| mark.cause == EndingCause::Operator;
    let level_1 = Extras {
        highest_closed_id: *highest_closed_id,
        ending: ending.clone().filter(by_operator),
        ..Extras::default()
    };
    *extras == level_1
}

#[cfg(test)]
mod tests {
    use crate::{AskMark, AskedBy, Instance, OpenIds, Reclaimer, SessionHandle};

    use super::*;

    fn hold(extras: Extras) -> HoldRow {
        HoldRow {
            token: Token(1),
            session: SessionHandle([1; 16]),
            instance: Instance(1),
            open_ids: OpenIds::one(AcquisitionId(1)),
            mode: Mode::Exclusive,
            ttl_ms: 1,
            owner: Owner::default().into(),
            granted_unix_ms: 1,
            arrival: 0,
            extras: Some(Box::new(extras)),
        }
    }

    fn conditions() -> Vec<Condition> {
        let none = Condition::default;
        let missed = |missed, interval_ms| LeaseRule::AfterMissed { missed, interval_ms };
        vec![
            Condition { lock_delay_ms: Some(1), ..none() },
            Condition { max_hold_ms: Some(1), ..none() },
            Condition { ask_grace_ms: Some(1), ..none() },
            Condition { ask_grace_ms: Some(2), ..none() },
            Condition { lease: LeaseRule::Hold, ..none() },
            Condition { lease: missed(3, 4), ..none() },
            Condition { lease: missed(4, 4), ..none() },
            Condition { lease: missed(3, 5), ..none() },
        ]
    }

    /// Replicas that differ in one field of one hold must not look alike.
    #[test]
    fn every_field_of_extras_is_in_the_hash() {
        let none = Extras::default;
        let mark = |cause, id: Option<u64>| {
            let acquisition = |id| Acquisition {
                session: SessionHandle([1; 16]),
                instance: Instance(2),
                id: AcquisitionId(id),
            };
            let owner = Owner::default;
            let reclaimer =
                id.map(|id| Reclaimer { acquisition: acquisition(id), owner: owner().into() });
            Some(EndingMark { cause, reason: String::new(), reclaimer })
        };
        let asked = |since_unix_ms, by: Option<(u8, &str)>| {
            let by = by.map(|(session, owner_id)| AskedBy {
                session: SessionHandle([session; 16]),
                owner_id: owner_id.into(),
            });
            Some(Box::new(AskMark { since_unix_ms, by }))
        };
        let conditions = conditions().into_iter();
        let mut all: Vec<_> = conditions.map(|condition| Extras { condition, ..none() }).collect();
        all.extend([
            none(),
            Extras { revision: 1, ..none() },
            Extras { claimed: true, ..none() },
            Extras { orphaned: true, ..none() },
            Extras { highest_closed_id: Some(AcquisitionId(0)), ..none() },
            Extras { token_before: Some(Token(0)), ..none() },
            Extras { asked: asked(0, None), ..none() },
            Extras { asked: asked(1, None), ..none() },
            Extras { asked: asked(0, Some((1, "a"))), ..none() },
            Extras { asked: asked(0, Some((2, "a"))), ..none() },
            Extras { asked: asked(0, Some((1, "b"))), ..none() },
            Extras { attributes_seq: 1, ..none() },
            Extras { attributes_seq: 2, ..none() },
            Extras { ending: mark(EndingCause::Operator, None), ..none() },
            Extras { ending: mark(EndingCause::MaxHold, None), ..none() },
            Extras { ending: mark(EndingCause::AskGrace, None), ..none() },
            Extras { ending: mark(EndingCause::Reclaim, None), ..none() },
            Extras { ending: mark(EndingCause::Reclaim, Some(1)), ..none() },
            Extras { ending: mark(EndingCause::Reclaim, Some(2)), ..none() },
        ]);
        let name = Name::from("a");
        let digests = all.iter().map(|it| StateHash::new().add_hold(&name, &hold(it.clone())).0);
        let mut digests: std::collections::BTreeSet<_> = digests.collect();
        let arrivals = [1, 2].map(|arrival| HoldRow { arrival, ..hold(none()) });
        digests.extend(arrivals.map(|hold| StateHash::new().add_hold(&name, &hold).0));
        assert_eq!(digests.len(), all.len() + 2);
    }
}
