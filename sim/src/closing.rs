//! Clients that close themselves, as `Client::close` does at the end of a program: their guards are
//! lost first, their users stop, and then everything is given back.

use sharklock_client::LostReason;
use sharklock_history::End;

use crate::client::{Stage, Taken};
use crate::note;
use crate::world::{MS, World};

/// Users get so long to stop, at most.
const GRACE_MAX_MS: u64 = 8_000;

impl World {
    /// A client closes itself, and comes back as another instance.
    pub(crate) fn client_closes(&mut self, number: usize, back_ns: u64) {
        let grace_ms = self.dice.agreements.below(GRACE_MAX_MS);
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = client.process.as_mut().filter(|process| !process.is_closing) else {
            return;
        };
        let grace = std::time::Duration::from_millis(grace_ms);
        process.driver.close(now, grace);
        process.is_closing = true;
        process.closes_at = Some(now + grace);
        process.back_ns = back_ns;
        note!(self, "c{number} closes within {grace_ms} ms");
        self.counters.count("clients that close themselves");
        if client.paused_until <= self.now {
            self.client_turn(number);
        }
    }

    /// Users of guards that are lost since their client closes stop some time; those that take too long
    /// are not asked any more.
    pub(crate) fn users_stop(&mut self, number: usize) {
        let now_ns = self.now;
        let client = &mut self.clients[number - 1];
        let now = client.now(now_ns);
        let Some(process) = &mut client.process else { return };
        if !process.is_closing {
            return;
        }
        let is_over = process.closes_at.is_some_and(|at| at <= now);
        let instance = process.instance;
        let is_out = |taken: &Taken| {
            matches!(taken.stage, Stage::Held(_)) && taken.cell.lost() == Some(&LostReason::Closed)
        };
        let mut late = Vec::new();
        for (ticket, taken) in process.taken.iter_mut().filter(|(_, taken)| is_out(taken)) {
            let Stage::Held(held) = &mut taken.stage else { continue };
            if is_over {
                late.push(*ticket);
            } else if !std::mem::replace(&mut held.is_stopping, true) {
                let stops = now_ns + self.dice.agreements.below(GRACE_MAX_MS) * MS;
                held.until_ns = held.until_ns.min(stops);
                (held.use_ns, held.reenter_ns, held.change_ns) = (None, None, None);
            }
        }
        for ticket in late {
            let Some(process) = &mut self.clients[number - 1].process else { return };
            let Some(taken) = process.taken.remove(&ticket) else { continue };
            self.counters.count("guards that a close did not wait for");
            let (name, token) = (&taken.request.name, taken.held().map(|it| it.grant.token));
            self.checks.beliefs.end(name, instance, ticket);
            self.checks.agreed.changes(name, token.map_or(0, |token| token.as_u64()));
            let end = (End::ReleaseUnknown, now_ns, 0);
            self.record_held(number, instance, ticket, &taken, end);
        }
    }

    /// A client that has closed itself ends.
    pub(crate) fn has_closed(&mut self, number: usize) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let back = process.back_ns;
        self.counters.count("clients that have closed themselves");
        self.client_ends(number, Some(back));
    }
}
