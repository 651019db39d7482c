//! Old calls that come again, over streams of others: what a slow path of the network may do.

use std::collections::{BTreeSet, VecDeque};

use sharklock_gateway::SessionPort;
use sharklock_gateway::validate::Frame;
use sharklock_proto::v1::{SessionRequest, session_call};

use crate::gateway::UnaryGhost;
use crate::note;
use crate::streams::Half;
use crate::world::{S, World};

/// Calls of clients that may come again.
const CAPTURED_MAX: usize = 512;
/// A request spends at most so long on its way to a gateway: pings end the connection (10 s and 5 s).
const AGE_MAX_NS: u64 = 15 * S;

/// A call that was seen on the network.
#[derive(Clone, Debug)]
struct Captured {
    at_ns: u64,
    instance: u64,
    half: Half,
    request: SessionRequest,
}

/// What was seen, and what of it came again.
#[derive(Debug, Default)]
pub struct Replays {
    captured: VecDeque<Captured>,
    /// Acquisitions whose Acquire came again: instance and id.
    again: BTreeSet<(u64, u64)>,
    /// Those that their client knows to be nowhere, so that nothing of them may come again.
    dead: BTreeSet<(u64, u64)>,
}

impl Replays {
    /// A client sends something that others may repeat.
    pub fn capture(&mut self, now: u64, instance: u64, half: Half, request: &SessionRequest) {
        if self.captured.len() >= CAPTURED_MAX {
            self.captured.pop_front();
        }
        let request = request.clone();
        self.captured.push_back(Captured { at_ns: now, instance, half, request });
    }

    /// A client gives up an acquisition of which it knows that nobody has heard: every Acquire was
    /// answered as not done. True, unless one of them has come again, which no client can know;
    /// from now on none does.
    pub fn is_dead(&mut self, instance: u64, id: u64) -> bool {
        let is_dead = !self.again.contains(&(instance, id));
        if is_dead {
            self.dead.insert((instance, id));
        }
        is_dead
    }
}

impl World {
    /// Somebody repeats a call that was seen earlier, over a stream of its own to some gateway.
    pub(crate) fn replay(&mut self) {
        let oldest = self.now.saturating_sub(AGE_MAX_NS);
        let Replays { captured, again, dead } = &mut self.replays;
        while captured.front().is_some_and(|captured| captured.at_ns < oldest) {
            captured.pop_front();
        }
        if captured.is_empty() {
            return;
        }
        let at = self.dice.faults.below(captured.len() as u64) as usize;
        let Captured { at_ns, instance, half, mut request } = captured[at].clone();
        let number = 1 + self.dice.faults.below(self.gateways.len() as u64) as usize;
        if self.gateways[number - 1].process.is_none() {
            return;
        }
        request.calls.retain(|call| {
            let Some(session_call::Body::Acquire(it)) = &call.body else { return true };
            let key = (instance, it.acquisition_id);
            let lives = !dead.contains(&key);
            if lives {
                again.insert(key);
            }
            lives
        });
        note!(
            self,
            "a ghost repeats what instance {instance} sent at {at_ns} ({half:?}) to g{number}"
        );
        self.checks.died_again(instance, self.now);
        let gateway = &mut self.gateways[number - 1];
        if gateway.paused_until > self.now {
            return gateway.late.push((instance, request));
        }
        self.ghost_speaks(number, instance, request);
    }

    /// What came while a gateway stood still is read.
    pub(crate) fn late_ghosts_speak(&mut self, number: usize) {
        for (instance, request) in std::mem::take(&mut self.gateways[number - 1].late) {
            self.counters.count("old calls that a gateway reads late");
            self.ghost_speaks(number, instance, request);
        }
    }

    fn ghost_speaks(&mut self, number: usize, instance: u64, request: SessionRequest) {
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(self.now);
        let Some(process) = &mut gateway.process else { return };
        self.checks.died_again(instance, self.now);
        let acquire = request.calls.iter().find_map(|call| match &call.body {
            Some(session_call::Body::Acquire(acquire)) => Some(acquire.clone()),
            _ => None,
        });
        if let Some(acquire) = acquire
            && self.dice.faults.one_in(3)
        {
            // As a unary call whose caller will go away.
            let frame = Frame::of_call(&request.session_id, instance);
            let until_ns = self.now + self.dice.faults.below(5 * S);
            let hub = &process.hub;
            process.unary.extend(UnaryGhost::ask(hub, now_us, until_ns, &frame, acquire));
            self.after_gateway(number);
            return;
        }
        let opened = SessionPort::open(&process.hub, "ghost".to_owned());
        if let (false, Ok(mut port)) = (request.calls.is_empty(), opened)
            && port.take_in(now_us, request).is_ok()
        {
            process.ghosts.push((self.now + 5 * S, port));
        }
        self.after_gateway(number);
    }
}
