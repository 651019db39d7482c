//! An operator who takes away what a session has, range by range, at one gateway.

use sharklock_gateway::outbox::Answer;
use sharklock_gateway::session_walks::Revocation;
use sharklock_gateway::validate::{self, Checked, Frame};
use sharklock_proto::internal::v1::store_reply::Body;
use sharklock_proto::internal::v1::{RevokeRangeSession, store_call};
use sharklock_proto::v1::{ReleaseRequest, RevokeSessionRequest};

use crate::note;
use crate::world::{Event, MS, World};

/// A revocation on its way. One that fails is not repeated: ranges that were asked have revoked.
#[derive(Debug)]
pub struct Revoking {
    gateway: usize,
    life: u32,
    call: u64,
    order: RevokeRangeSession,
    walk: Revocation,
}

/// The handle of a session: what operators know of it.
pub fn handle_of(secret: &bytes::Bytes) -> String {
    let request = ReleaseRequest {
        name: "any".to_owned(),
        token: 1,
        acquisition_id: 1,
        ..ReleaseRequest::default()
    };
    // Gateways name the session of each call by it.
    let checked = validate::release(&Frame::of_call(secret, 1), request).expect("it is in order");
    let session = checked.session().expect("a release is of a session");
    session.handle().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    pub(crate) fn plan_revocation(&mut self) {
        let mean = self.options.revoke_mean_ms;
        if mean > 0 && !self.is_winding_down {
            let at = self.now + self.dice.agreements.around(mean * MS) + MS;
            self.queue.plan(at, Event::Revoke);
        }
    }

    /// An operator takes everything away from a client.
    pub(crate) fn revoke(&mut self) {
        self.plan_revocation();
        let now = self.now;
        let up = self.gateways_up();
        if up.is_empty() || self.is_winding_down {
            return;
        }
        let gateway = *self.dice.agreements.pick(&up);
        let client = 1 + self.dice.agreements.below(self.clients.len() as u64) as usize;
        let request = RevokeSessionRequest {
            session: handle_of(&self.clients[client - 1].secret),
            reason: "simulated".to_owned(),
            operator: format!("g{gateway}"),
            dry_run: self.dice.agreements.one_in(8),
            page_token: String::new(),
        };
        let is_real = !request.dry_run;
        let walk = match validate::revoke_session(request) {
            Ok(walk) => walk,
            Err(why) => return self.violated("S14", &[], format_args!("a revocation: {why:?}")),
        };
        note!(self, "g{gateway}: the operator revokes c{client}, for good: {is_real}");
        self.counters.count("revocations");
        if is_real {
            self.checks.agreed.revoked(now, client);
        }
        let life = self.gateways[gateway - 1].life;
        let order = RevokeRangeSession::default();
        self.revoking = Some(Revoking { gateway, life, call: 0, order, walk });
        self.revoke_on();
    }

    /// The next range is asked.
    fn revoke_on(&mut self) {
        let Some(revoking) = &mut self.revoking else { return };
        let number = revoking.gateway;
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(self.now);
        let process = gateway.process.as_mut().filter(|_| gateway.life == revoking.life);
        let Some(process) = process else { return };
        let round = revoking.walk.round(|from, max| process.hub.starts_behind(from, max));
        let Some(order) = round.into_iter().next() else {
            self.revoking = None;
            return self.counters.count("revocations that went everywhere");
        };
        revoking.order = order.clone();
        let question = Checked::of_range(store_call::Body::RevokeRangeSession(order));
        revoking.call = process.asks(now_us, "operator", Ok(question));
        self.after_gateway(number);
    }

    /// A gateway answers its operator, perhaps about a revocation.
    pub(crate) fn revocation_answered(&mut self, number: usize, answer: &Answer) -> bool {
        let life = self.gateways[number - 1].life;
        let key = (number, life, answer.call_id);
        let Some(revoking) = &mut self.revoking else { return false };
        if (revoking.gateway, revoking.life, revoking.call) != key {
            return false;
        }
        match &answer.reply {
            Ok(Body::RevokeRangeSession(part)) => {
                let (holds, waiters) = (part.holds_count, part.waiters_count);
                let Revoking { order, walk, .. } = revoking;
                match walk.take(order, part.clone()) {
                    Ok(_) => {
                        self.counters.add("holds revoked", holds.into());
                        self.counters.add("waits revoked", waiters.into());
                        self.revoke_on();
                    }
                    Err(why) => self.violated("S14", &[], format_args!("a part of it: {why:?}")),
                }
            }
            Ok(_) | Err(_) => self.revoking = None,
        }
        true
    }
}
