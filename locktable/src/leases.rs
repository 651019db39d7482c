//! The leases of a table, for the lease clock of a new leader: in runs, since a large table has more
//! of them than fit into one turn of its worker, or one by one.

use std::ops::Bound;

use crate::{
    Acquisition, AcquisitionId, Agreement, DelayRow, HoldRow, LockTable, Name, Token, Wait,
    WaiterRow, lock::Lock, sessions::Place,
};

/// A lease as a new leader finds it. Deadlines are in no image: the leader begins them anew (D7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Of a hold.
    Hold {
        /// The lock.
        name: Name,
        /// The hold.
        token: Token,
        /// Lease, milliseconds.
        ttl_ms: u64,
        /// The newest acquisition that ever joined it: what an Expire must name.
        newest: AcquisitionId,
        /// The acquisitions open on it, oldest first.
        acquisitions: Vec<Acquisition>,
        /// It is ending: nothing renews it, and End is due after the lease in full.
        ending: bool,
        /// The condition under which it may end. Its times begin anew, too.
        agreement: Agreement,
        /// A waiter has asked for the lock.
        asked: bool,
    },
    /// Of a waiter, in the queue or for a reclaimed hold.
    Waiter {
        /// The lock.
        name: Name,
        /// The waiter.
        acquisition: Acquisition,
        /// Lease, milliseconds.
        ttl_ms: u64,
        /// When its wait ends.
        wait: Wait,
    },
    /// No lease, but a time that runs like one: the place of an ended hold stays taken.
    Delay {
        /// The lock.
        name: Name,
        /// The hold that has ended.
        token: Token,
        /// For how long, milliseconds; begun anew by a new leader, hence never too short.
        delay_ms: u64,
    },
}

/// A place in the order of a table's leases. It stays where it is while the table changes: what comes
/// before it is not shown again, what comes behind it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCursor {
    name: Name,
    spot: Spot,
}

/// The place of a lease in its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    Delay(Token),
    /// With the lease of its reclaimer.
    Hold(Token),
    Waiter(u64),
}

/// The owner of a lease at that place.
#[derive(Clone, Copy)]
enum Leased<'a> {
    Delay(&'a DelayRow),
    Hold(&'a HoldRow),
    Waiter(&'a WaiterRow),
}

impl LockTable {
    /// Every lease in order of names: of each lock the delays, the holds with their reclaimers, by
    /// token, then the waiters in order. An orphan has none.
    pub fn leases(&self) -> Vec<Lease> {
        self.leases_after(None, usize::MAX).0
    }

    /// The leases behind a place, in the order of [`LockTable::leases`], after at most so many steps;
    /// and the place where it stopped, unless that is the end. A step finds up to two leases.
    pub fn leases_after(
        &self,
        after: Option<&LeaseCursor>,
        steps_max: usize,
    ) -> (Vec<Lease>, Option<LeaseCursor>) {
        let mut leases = Vec::new();
        let mut steps = 0;
        let from = after.map_or(Bound::Unbounded, |after| Bound::Included(after.name.as_str()));
        for (name, lock) in self.locks.range::<str, _>((from, Bound::Unbounded)) {
            let seen = after.filter(|after| after.name == *name).map(|after| after.spot);
            for (spot, leased) in lock.leased().filter(|(spot, _)| Some(*spot) > seen) {
                leases.extend(leases_of(name, leased));
                steps += 1;
                if steps >= steps_max {
                    return (leases, Some(LeaseCursor { name: name.clone(), spot }));
                }
            }
        }
        (leases, None)
    }

    /// The lease of a live hold; none for an orphan.
    pub fn lease_of_hold(&self, name: &str, token: Token) -> Option<Lease> {
        let (name, lock) = self.locks.get_key_value(name)?;
        let hold = lock.holds.get(token).filter(|hold| !hold.row.is_orphan())?;
        Some(lease_on(name, &hold.row))
    }

    /// The lease of an acquisition that waits, in the queue or for a reclaimed hold.
    pub fn lease_of_waiter(&self, name: &str, acquisition: Acquisition) -> Option<Lease> {
        let open =
            self.ledger.sessions.get(acquisition).filter(|open| open.name.as_str() == name)?;
        let lock = self.locks.get(name)?;
        match open.place {
            Place::Held(_) => None,
            Place::Waiting(ticket) => {
                let waiter = lock.queue.get(ticket)?;
                leases_of(&open.name, Leased::Waiter(&waiter.row)).next()
            }
            Place::Reclaiming(token) => lease_of_reclaimer(&open.name, &lock.holds.get(token)?.row),
        }
    }
}

impl Lock {
    fn leased(&self) -> impl Iterator<Item = (Spot, Leased<'_>)> {
        let delays = self.holds.delays().map(|delay| &delay.row);
        let delays = delays.map(|delay| (Spot::Delay(delay.token), Leased::Delay(delay)));
        let holds = self.holds.iter().map(|hold| &hold.row);
        let holds = holds.map(|hold| (Spot::Hold(hold.token), Leased::Hold(hold)));
        let waiters = self.queue.iter().map(|waiter| &waiter.row);
        let waiters = waiters.map(|waiter| (Spot::Waiter(waiter.ticket), Leased::Waiter(waiter)));
        delays.chain(holds).chain(waiters)
    }
}

fn leases_of(name: &Name, leased: Leased<'_>) -> impl Iterator<Item = Lease> {
    let (first, second) = match leased {
        Leased::Delay(delay) => {
            let &DelayRow { token, delay_ms, .. } = delay;
            (Some(Lease::Delay { name: name.clone(), token, delay_ms }), None)
        }
        Leased::Hold(hold) if hold.is_orphan() => (None, None),
        Leased::Hold(hold) => (Some(lease_on(name, hold)), lease_of_reclaimer(name, hold)),
        Leased::Waiter(waiter) => {
            let &WaiterRow { acquisition, ttl_ms, wait, .. } = waiter;
            (Some(Lease::Waiter { name: name.clone(), acquisition, ttl_ms, wait }), None)
        }
    };
    first.into_iter().chain(second)
}

fn lease_on(name: &Name, hold: &HoldRow) -> Lease {
    Lease::Hold {
        name: name.clone(),
        token: hold.token,
        ttl_ms: hold.ttl_ms,
        newest: hold.open_ids.newest(),
        acquisitions: hold.acquisitions(),
        ending: hold.ending().is_some(),
        agreement: hold.agreement(),
        asked: hold.is_asked(),
    }
}

fn lease_of_reclaimer(name: &Name, hold: &HoldRow) -> Option<Lease> {
    let reclaimer = hold.reclaimer()?;
    Some(Lease::Waiter {
        name: name.clone(),
        acquisition: reclaimer.acquisition,
        ttl_ms: hold.ttl_ms,
        wait: Wait::Unbounded,
    })
}
