//! Those who watch locks: one question after the other, each at any gateway, as `Client::watch` asks.

use sharklock_gateway::{outbox::Answer, validate};
use sharklock_proto::internal::v1::store_reply::Body;
use sharklock_proto::v1::{WatchLockRequest, WatchLockResponse};
use sharklock_rangemap::RangeId;

use crate::check::{SHOWN_MAX, SeenState};
use crate::note;
use crate::poll::leader_of;
use crate::world::{Event, MS, S, World};

/// A question that is not answered for so long is given up: a gateway answers after 5 s at the latest.
const PATIENCE_NS: u64 = 7 * S;
/// So long the state of a lock may be another than its watcher knows, beside what delays make of it,
/// while nothing is wrong: a question meets a leader that leads no more, and goes to the next.
const LATE_NS: u64 = 4 * S;

/// Somebody who watches one lock.
#[derive(Debug)]
pub struct Watcher {
    name: String,
    /// The question under way: which gateway, in which life, by which call.
    asked: Option<(usize, u32, u64)>,
    /// Only what was planned behind the last question counts.
    turn: u64,
    /// What it was told last: version, index, tag.
    last: Option<(u64, u64, u64)>,
    state: SeenState,
    /// What the lock's leader had when it was last looked at, in which range and term, and since when.
    truth: (SeenState, RangeId, u64),
    truth_since_ns: u64,
}

impl Watcher {
    /// The lock.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl World {
    /// Watchers begin.
    pub(crate) fn begin_watches(&mut self) {
        let names: Vec<String> = (0..self.options.watchers)
            .map(|_| self.names.draw(&mut self.dice.agreements).to_owned())
            .collect();
        for name in names {
            let watcher = self.watchers.len();
            self.watchers.push(Watcher {
                name,
                asked: None,
                turn: 0,
                last: None,
                state: SeenState::default(),
                truth: (SeenState::default(), RangeId(0), 0),
                truth_since_ns: 0,
            });
            self.queue.plan(S, Event::Watch { watcher, turn: 0 });
        }
    }

    /// A watcher asks, for the first time, behind an answer, or since none has come.
    pub(crate) fn watch(&mut self, number: usize, turn: u64) {
        let now = self.now;
        if self.watchers[number].turn != turn || self.watches_are_over {
            return;
        }
        let up = self.gateways_up();
        let watcher = &mut self.watchers[number];
        watcher.turn += 1;
        watcher.asked = None;
        let again = Event::Watch { watcher: number, turn: watcher.turn };
        if up.is_empty() {
            return self.queue.plan(now + S / 2, again);
        }
        self.queue.plan(now + PATIENCE_NS, again);
        let request = WatchLockRequest {
            name: watcher.name.clone(),
            shown_max: SHOWN_MAX as u32,
            state_tag: watcher.last.map(|(.., tag)| tag),
        };
        let at = *self.dice.agreements.pick(&up);
        let gateway = &mut self.gateways[at - 1];
        let (life, now_us) = (gateway.life, gateway.now_us(now));
        let process = gateway.process.as_mut().expect("it is up");
        let call = process.asks(now_us, "watcher", validate::watch_lock(request));
        process.watched.insert(call, number);
        watcher.asked = Some((at, life, call));
        self.after_gateway(at);
    }

    /// A gateway answers a watcher.
    pub(crate) fn watch_answered(&mut self, gateway: usize, number: usize, answer: Answer) {
        let life = self.gateways[gateway - 1].life;
        let watcher = &mut self.watchers[number];
        if watcher.asked != Some((gateway, life, answer.call_id)) {
            return;
        }
        watcher.asked = None;
        watcher.turn += 1;
        let turn = watcher.turn;
        let pause = match answer.reply {
            Ok(Body::WatchLock(response)) => {
                self.watcher_hears(number, &response);
                self.dice.agreements.below(50 * MS)
            }
            Ok(_) | Err(_) => self.dice.agreements.between(50, 500) * MS,
        };
        self.queue.plan(self.now + pause, Event::Watch { watcher: number, turn });
    }

    fn watcher_hears(&mut self, number: usize, response: &WatchLockResponse) {
        let name = self.watchers[number].name.clone();
        self.looked_at(&name, response.position);
        let Some(position) = response.position else { return };
        let told = SeenState::told(response.lock.as_ref());
        let (version, index) = (position.version, position.applied_index);
        let range = RangeId(position.range_id);
        note!(self, "watcher {number} hears of {name} at {index} of r{range}: {told:?}");
        self.counters.count("states that watchers were told");
        if let Err(what) = self.checks.watched.told((range, index), &name, &told) {
            return self.violated("S15", std::slice::from_ref(&name), format_args!("{what}"));
        }
        let watcher = &mut self.watchers[number];
        let last = watcher.last.replace((version, index, response.state_tag));
        if let Some((of, before, tag)) = last {
            if (version, index) < (of, before) {
                let what = format!(
                    "who watches {name} was told its state at {before} in version {of}, and asked \
                     behind that of {index} in version {version}"
                );
                return self.violated("S15", &[name], format_args!("{what}"));
            }
            let same = tag == response.state_tag;
            self.counters.count(if same { "watches without news" } else { "watches with news" });
        }
        let watcher = &mut self.watchers[number];
        if watcher.state != told {
            // Of a state that lasted for less than a poll nobody else knows.
            (watcher.state, watcher.truth_since_ns) = (told, self.now);
        }
    }

    /// L7 for watchers, from what leaders have.
    pub(crate) fn poll_watches(&mut self) {
        let (now, stalls) = (self.now, !self.is_settled());
        let late_ns = LATE_NS + self.slack_ns();
        for number in 0..self.watchers.len() {
            let name = self.watchers[number].name.clone();
            let range = self.range_of(&name);
            let Some(leader) = leader_of(&self.stores, range) else { continue };
            let (Some(table), Some(status)) = (leader.table(range), leader.status(range)) else {
                continue;
            };
            let truth = (SeenState::in_table(table, &name), range, status.term);
            let watcher = &mut self.watchers[number];
            if stalls || watcher.truth != truth {
                (watcher.truth, watcher.truth_since_ns) = (truth, now);
                continue;
            }
            let (known, since) = (&watcher.state, watcher.truth_since_ns);
            if *known != truth.0 && now > since + late_ns && !self.watches_are_over {
                let truth = &truth.0;
                let what =
                    format!("{name} is {truth:?} since {since}, and its watcher knows {known:?}");
                return self.violated("L7", &[name], format_args!("{what}"));
            }
        }
    }
}
