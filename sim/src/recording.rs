//! What clients' tasks have done with locks, written down for the judges of the history.

use sharklock_client::{LockMode, LostReason};
use sharklock_history::{End, Hold, Mode, Position, Record, What};

use crate::client::{Stage, Taken};
use crate::world::World;

impl World {
    pub(crate) fn record_end_of_process(
        &mut self,
        number: usize,
        instance: u64,
        ticket: u64,
        taken: &Taken,
    ) {
        match &taken.stage {
            Stage::Acquiring { .. } => {
                let what = unknown(taken);
                self.record(instance, ticket, taken, Position::UNKNOWN, what);
            }
            Stage::Held(_) => {
                self.record_held(number, instance, ticket, taken, (End::Open, 0, 0));
            }
            Stage::Releasing { since_ns, .. } => {
                let end = (End::ReleaseUnknown, *since_ns, 0);
                self.record_held(number, instance, ticket, taken, end);
            }
        }
    }

    pub(crate) fn record_unknown(&mut self, number: usize, ticket: u64, taken: &Taken) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let what = unknown(taken);
        self.record(process.instance, ticket, taken, Position::UNKNOWN, what);
    }

    /// A grant with its end: what, since when, known when.
    pub(crate) fn record_held(
        &mut self,
        number: usize,
        instance: u64,
        ticket: u64,
        taken: &Taken,
        (end, end_invoked, end_returned): (End, u64, u64),
    ) {
        let held = taken.held().expect("only what was held has an end");
        // Since it was asked for, the user is content if others share: whatever ended it then.
        let (end, end_invoked, end_returned) = match held.downgrade_ns {
            Some(asked) if end != End::Released => (End::ReleaseUnknown, asked, 0),
            Some(asked) => (end, asked.min(end_invoked), end_returned),
            None => (end, end_invoked, end_returned),
        };
        let clock = &self.clients[number - 1].clock;
        let valid_until = clock.when(taken.cell.valid_until()).unwrap_or(u64::MAX);
        let position = held.grant.position;
        let position = Position {
            range: position.range as u32,
            version: position.version as u32,
            applied_index: position.applied_index,
        };
        let mode = match taken.request.mode {
            LockMode::Exclusive => Mode::Exclusive,
            LockMode::Shared => Mode::Shared,
            LockMode::Permits { n, of } => Mode::Permits { units: n as u16, units_max: of as u16 },
        };
        let what = What::Granted(Hold {
            token: held.grant.token.as_u64(),
            fence_floor: held.grant.fence_floor.as_u64(),
            valid_until,
            end_invoked,
            end_returned,
            mode,
            // Neither stands in the queue.
            reentered: taken.request.reenter.is_some() || taken.passes_queue,
            end,
        });
        let returned = held.since_ns;
        self.push_record(instance, ticket, taken, returned, position, what);
    }

    pub(crate) fn record(
        &mut self,
        instance: u64,
        ticket: u64,
        taken: &Taken,
        position: Position,
        what: What,
    ) {
        let returned = self.now;
        self.push_record(instance, ticket, taken, returned, position, what);
    }

    fn push_record(
        &mut self,
        instance: u64,
        acquisition: u64,
        taken: &Taken,
        returned: u64,
        position: Position,
        what: What,
    ) {
        let name = &taken.request.name;
        if self.names.is_broken(name) {
            return;
        }
        let lock = self.recorder.lock(name);
        let (session, invoked) = (instance as u32, taken.asked_ns);
        let acquisition = taken.recorded_as(acquisition);
        self.recorder.push(Record {
            lock,
            session,
            acquisition,
            invoked,
            returned,
            position,
            what,
        });
    }
}

fn unknown(taken: &Taken) -> What {
    What::Unknown { reenter: taken.request.reenter.map_or(0, |token| token.as_u64()) }
}

/// How a hold ended for its client.
pub fn end_of(reason: &LostReason) -> End {
    match reason {
        LostReason::Unrenewed => End::Lapsed,
        // It stops, and its release says so; whether that arrives is another matter.
        LostReason::ForceReleased { .. }
        | LostReason::HeldTooLong
        | LostReason::AskedFor
        | LostReason::Reclaimed
        | LostReason::Closed => End::ReleaseUnknown,
        _ => End::ToldGone,
    }
}
