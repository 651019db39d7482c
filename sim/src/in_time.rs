//! L7: what was agreed comes about in time, once faults have ceased: a hold with a bound ends, and
//! what is asked back comes back. And an operator who ends at last what stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use sharklock_dataserver::Pace;
use sharklock_gateway::validate;
use sharklock_locktable::LockTable;
use sharklock_proto::v1::ForceReleaseRequest;
use sharklock_rangemap::RangeId;

use crate::client::{Stage, Taken};
use crate::gateway::Look;
use crate::note;
use crate::poll::leader_of;
use crate::world::{S, World};

/// Holds of a lock that an operator looks at.
const SHOWN_MAX: usize = 100;
/// One in so many polls an operator looks whether anything is left that stays.
const FREED_EVERY: u64 = 10;

/// A wait for what was agreed, and the leaders of its range when it began: each other leader begins
/// all times anew.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    at_ns: u64,
    range: RangeId,
    leader_changes: u64,
}

/// What must come about, by instance and acquisition.
pub type Dues = BTreeMap<(u64, u64), Since>;

impl World {
    /// L7, but for watchers.
    pub(crate) fn poll_agreements(&mut self) {
        if self.is_winding_down {
            if self.polls_count.is_multiple_of(FREED_EVERY) && !self.watches_are_over {
                self.end_what_stays();
            }
            return;
        }
        if !self.is_settled() {
            return;
        }
        let mut dues = std::mem::take(&mut self.dues);
        let mut found = BTreeMap::new();
        let mut late = None;
        for client in &self.clients {
            let Some(process) = client.process.as_ref().filter(|it| !it.is_closing) else {
                continue;
            };
            for (ticket, taken) in &process.taken {
                let Some(bound) = self.due_within(taken) else { continue };
                let key = (process.instance, *ticket);
                let range = self.range_of(&taken.request.name);
                let leader_changes = self.checks.replicas.leader_changes(range);
                let here = Since { at_ns: self.now, range, leader_changes };
                let same =
                    |since: &Since| (since.range, since.leader_changes) == (range, leader_changes);
                let since = dues.remove(&key).filter(same).unwrap_or(here);
                if self.now > since.at_ns + bound {
                    late = Some((Arc::clone(&taken.request.name), key, since.at_ns, bound));
                }
                found.insert(key, since);
            }
        }
        self.dues = found;
        if let Some((name, (instance, id), since, bound)) = late {
            let what = format!(
                "acquisition {id} of instance {instance} on {name} should have been ended, or been \
                 taken back, within {bound} ns of {since}"
            );
            self.violated("L7", &[name.to_string()], format_args!("{what}"));
        }
    }

    /// How long it may take from now on at most: the end of a bounded hold, or a reclaim, which waits
    /// for a lease.
    fn due_within(&self, taken: &Taken) -> Option<u64> {
        let election = Pace::default().election_max().as_nanos() as u64;
        let around = 2 * election + 2 * S + self.slack_ns();
        match &taken.stage {
            Stage::Acquiring { .. } => {
                taken.request.reclaim?;
                let lease = taken.request.ttl.as_nanos() as u64;
                Some(lease * 104 / 100 + around)
            }
            Stage::Held(held) if !held.is_changing => {
                let agreement = taken.cell.agreement()?;
                let most = agreement.condition.max_hold?.as_nanos() as u64;
                // Its client hears of it at the next keepalive.
                let interval = (agreement.ttl.as_nanos() as u64 / 3).min(5 * S);
                Some(most * 104 / 100 + interval + around)
            }
            Stage::Held(_) | Stage::Releasing { .. } => None,
        }
    }

    /// Nobody comes back for what stays: an operator ends it.
    fn end_what_stays(&mut self) {
        let mut left = Vec::new();
        for range in self.checks.tiling.all() {
            let leader = leader_of(&self.stores, range.range);
            let Some(table) = leader.and_then(|it| it.table(range.range)) else { continue };
            left.extend(staying(table));
        }
        for (name, token) in left {
            self.end_one(name, token);
        }
    }

    fn end_one(&mut self, name: String, token: u64) {
        let now = self.now;
        let up = self.gateways.iter().position(|it| it.process.is_some() && it.paused_until <= now);
        let Some(at) = up else { return };
        note!(self, "g{}: the operator ends what stays of {name}, token {token}", at + 1);
        self.counters.count("orphans that an operator ends");
        self.checks.agreed.freed(now, &name);
        let gateway = &mut self.gateways[at];
        let now_us = gateway.now_us(now);
        let process = gateway.process.as_mut().expect("it is up");
        let request = ForceReleaseRequest {
            name: name.clone(),
            token: Some(token),
            reason: "nobody comes back".to_owned(),
            now: false,
            operator: format!("g{}", at + 1),
        };
        let call = process.asks(now_us, "operator", validate::force_release(request));
        process.asked.insert(call, Look { asked_ns: now, name, token: None, by: None });
        self.after_gateway(at + 1);
    }
}

/// The orphans of a table.
fn staying(table: &LockTable) -> Vec<(String, u64)> {
    let mut left = Vec::new();
    for lock in table.locks("", "", usize::MAX, SHOWN_MAX, 0) {
        let orphans = lock.holds.iter().filter(|hold| hold.orphaned);
        left.extend(orphans.map(|hold| (lock.name.as_str().to_owned(), hold.grant.token.0)));
    }
    left
}
