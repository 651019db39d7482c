//! Sessions with all that issue 13 gave them, against a small cluster (`cluster`) over a network that
//! delays, loses, repeats and reorders, in virtual time: conditions, changes of holds, asks,
//! downgrades, re-entry, lives that crash or go on beside their successors, holds that are taken back,
//! orderly ends, operators. Drivers run as shipped, and speak the API's messages.
//!
//! `judge` says what must hold at every step. At the end, when the network is whole and all is given
//! back, every wish has been answered and nobody holds or waits anywhere.
//!
//! `SHARKLOCK_LIVES_SEED=N` runs one seed, `SHARKLOCK_LIVES_SEEDS=N` the first N.

mod cluster;
mod judge;
mod life;

use std::{collections::BTreeMap, env, time::Duration};

use sharklock_proto::v1;

use self::{
    cluster::{Cluster, LifeId, Line, failed},
    judge::Judge,
    life::{Guard, Life, Notes},
};
use super::{super::*, check};

const SESSIONS: usize = 3;
const NAMES: u64 = 3;
const TTL: Duration = Duration::from_secs(3);
const CHAOS_UNTIL: Duration = Duration::from_secs(60);
/// From here on users give everything back.
const LAST_END_AT: Duration = Duration::from_secs(80);
const OVER_AT: Duration = Duration::from_secs(130);

#[test]
fn lives_keep_the_promise_of_their_holds() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut counts = Counts::default();
    if let Some(seed) = number("SHARKLOCK_LIVES_SEED") {
        return World::new(seed).run(&mut counts);
    }
    for seed in 0..number("SHARKLOCK_LIVES_SEEDS").unwrap_or(300) {
        World::new(seed).run(&mut counts);
    }
    // Chaos that reaches none of this would prove nothing.
    for (what, at_least) in REACHED {
        let count = counts.0.get(what).copied().unwrap_or(0);
        assert!(count >= at_least, "{what}: {count} of {at_least}: {counts:?}");
    }
}

const REACHED: [(&str, u64); 34] = [
    ("acquired", 2500),
    ("not acquired", 5000),
    ("joined", 300),
    ("claimed", 700),
    ("agreed anew", 600),
    ("told of an agreement", 500),
    ("downgraded", 150),
    ("told of a downgrade", 150),
    ("told of attributes", 400),
    ("asked", 250),
    ("heard of an ask", 180),
    ("nobody waits", 10),
    ("GONE_REASON_ASKED_FOR", 100),
    ("GONE_REASON_HELD_TOO_LONG", 200),
    ("GONE_REASON_FORCE_RELEASED", 500),
    ("GONE_REASON_RECLAIMED", 100),
    ("orphaned", 50),
    ("orphan taken back", 15),
    ("orphan ended", 20),
    ("reclaimed", 70),
    ("revoked", 200),
    ("crashed", 100),
    ("beside its successor", 50),
    ("frozen", 150),
    ("closed", 300),
    ("lost: closed", 40),
    ("lost: unrenewed", 150),
    ("lost: reclaimed", 30),
    ("lost: held too long", 150),
    ("lost: asked for", 70),
    ("lost: force-released", 400),
    ("heard of no release", 150),
    ("by spare", 1500),
    ("moved to the spare", 700),
];

/// How often something happened.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

struct World {
    seed: u64,
    random: pace::Jitter,
    now: Duration,
    /// The youngest of each session, and older ones that have not noticed.
    lives: Vec<Life>,
    notes: [Notes; SESSIONS],
    cluster: Cluster,
    judge: Judge,
    /// Packets that are under way, by time of arrival.
    wire: BTreeMap<(Duration, u64), Packet>,
    packets_count: u64,
    operator_acts_at: Duration,
}

#[derive(Clone)]
enum Packet {
    Call { line: Line, call: v1::SessionCall },
    Answer { line: Line, answer: v1::SessionAnswer },
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            random: pace::Jitter::new(seed),
            now: Duration::ZERO,
            lives: Vec::new(),
            notes: Default::default(),
            cluster: Cluster::default(),
            judge: Judge::new(seed),
            wire: BTreeMap::new(),
            packets_count: 0,
            operator_acts_at: Duration::from_secs(5),
        };
        for session in 0..SESSIONS {
            world.begin_life(session);
        }
        world
    }

    /// The next life of a session, as the state file has it: a larger instance.
    fn begin_life(&mut self, session: usize) {
        self.notes[session].instance += 1 + self.random.draw() % 3;
        let id = (session, self.notes[session].instance);
        let config = SessionConfig {
            call_timeout: Duration::from_secs(4),
            gateways_count: 1 + (self.seed as usize + session) % 3,
            jitter_seed: self.seed * 1000 + id.1,
            numbers_after: 0,
        };
        self.lives.push(Life::new(id, config, self.now));
    }

    fn run(mut self, counts: &mut Counts) {
        while self.now < OVER_AT {
            self.step(counts);
            self.judge.believers(self.now, &self.lives, &self.cluster);
        }
        for life in &self.lives {
            self.judge.left(life);
        }
        self.judge.nothing_is_left(&self.cluster);
        for (what, count) in &self.cluster.counts {
            *counts.0.entry(what).or_default() += count;
        }
    }

    fn chaos(&self) -> bool {
        self.now < CHAOS_UNTIL
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random.draw() % below
    }

    fn draw_ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.draw(below))
    }

    /// To the next moment at which anything happens, but not further than 100 ms.
    fn step(&mut self, counts: &mut Counts) {
        let awake = self.lives.iter().filter(|life| life.frozen_until <= self.now);
        let dues = awake.filter_map(|life| life.driver.next_due());
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let next = dues.chain(arrival).min().unwrap_or(Duration::MAX);
        let at_most = self.now + Duration::from_millis(100);
        self.now = next.min(at_most).max(self.now + Duration::from_nanos(1));
        self.cluster.pass(self.now);
        while let Some(first) = self.wire.first_entry().filter(|first| first.key().0 <= self.now) {
            let packet = first.remove();
            self.arrive(packet, counts);
        }
        for at in 0..self.lives.len() {
            if self.lives[at].frozen_until > self.now {
                continue;
            }
            self.connect(at, counts);
            if self.lives[at].acts_at <= self.now {
                self.act(at, counts);
            }
            if self.lives[at].driver.next_due().is_some_and(|due| due <= self.now) {
                self.turn(at, counts);
            }
        }
        self.crash(counts);
        self.operate(counts);
        for (line, event) in std::mem::take(&mut self.cluster.news) {
            let body = Some(v1::session_answer::Body::Event(event));
            let answer = v1::SessionAnswer { call_id: 0, body };
            self.send(Packet::Answer { line, answer });
        }
    }

    fn connect(&mut self, at: usize, counts: &mut Counts) {
        let broken = self.chaos() && self.draw(400) == 0;
        let spare_broken = self.chaos() && self.draw(400) == 0;
        let silenced = self.chaos() && self.draw(400) == 0;
        let frozen = self.chaos() && self.draw(2_000) == 0;
        let (pause, silence) = (self.draw_ms(6_000), self.draw_ms(6_000));
        let (now, life) = (self.now, &mut self.lives[at]);
        if silenced {
            life.silent_until = now + silence;
        }
        if frozen {
            life.frozen_until = now + silence;
            counts.note("frozen");
        }
        match life.connection {
            Ok(_) if broken => {
                life.connection = Err(now + pause);
                life.driver.disconnected(now, "broken".to_owned());
                self.turn(at, counts);
            }
            Err(when) if when <= now => {
                life.connections_count += 1;
                life.connection = Ok(life.connections_count);
                life.driver.connected(now);
                counts.note("connected");
                self.turn(at, counts);
            }
            Ok(_) | Err(_) => {}
        }
        let life = &mut self.lives[at];
        match life.spare {
            Some(Ok(_)) if spare_broken => {
                life.spare = Some(Err(now + pause));
                life.driver.spare_lost(now);
                self.turn(at, counts);
            }
            Some(Err(when)) if when <= now => {
                life.connections_count += 1;
                life.spare = Some(Ok(life.connections_count));
                life.driver.spare_connected(now);
                self.turn(at, counts);
            }
            Some(_) | None => {}
        }
    }

    /// Ends the turn of a life, and carries out what it wants.
    fn turn(&mut self, at: usize, counts: &mut Counts) {
        let now = self.now;
        let life = &mut self.lives[at];
        let mut output = std::mem::take(&mut life.output);
        life.driver.turn(now, &mut output);
        check(&life.driver.core);
        for told in output.told.drain(..) {
            let notes = &mut self.notes[life.id.0];
            let draw = self.random.draw();
            life.told(now, draw, told, notes, &mut self.judge, &self.cluster, counts);
        }
        self.judge.calls(now, &self.lives[at], &output.urgent);
        for call in output.spare.drain(..) {
            counts.note("by spare");
            let number =
                self.lives[at].spare.and_then(Result::ok).expect("calls need a connection");
            self.send(Packet::Call { line: (self.lives[at].id, number), call });
        }
        let pause = self.draw_ms(500);
        let life = &mut self.lives[at];
        if output.move_to_spare {
            counts.note("moved to the spare");
            life.connection = life.spare.take().expect("there is one to move to");
        }
        match (output.spare_wanted, life.spare) {
            (true, None) => life.spare = Some(Err(now + pause)),
            (false, Some(_)) => life.spare = None,
            (true, Some(_)) | (false, None) => {}
        }
        if output.leave_spare {
            life.spare = life.spare.map(|_| Err(now + pause));
        }
        if output.reconnect {
            life.connection = Err(now + pause);
        }
        let (id, connection) = (life.id, life.connection);
        for call in output.acquires.drain(..).chain(output.urgent.drain(..)) {
            let number = connection.expect("calls need a connection");
            self.send(Packet::Call { line: (id, number), call });
        }
        self.lives[at].output = output;
    }

    /// The acts of a life's users.
    fn act(&mut self, at: usize, counts: &mut Counts) {
        let pause = self.draw_ms(1_500);
        let (now, chaos) = (self.now, self.chaos());
        self.lives[at].acts_at = now + pause;
        let session = self.lives[at].id.0;
        let is_youngest = self.lives[at].id.1 == self.notes[session].instance;
        if self.lives[at].is_over {
            // Its program begins anew.
            self.lives.remove(at);
            self.begin_life(session);
            return;
        }
        let last_end = now >= LAST_END_AT && self.lives[at].began < LAST_END_AT;
        if last_end || chaos && is_youngest && self.draw(300) == 0 {
            counts.note("closed");
            let grace = self.draw_ms(3_000);
            self.lives[at].close(now, grace);
            return self.turn(at, counts);
        }
        if is_youngest && !self.lives[at].is_closing && !(chaos && self.draw(3) == 0) {
            self.take_back(at, counts);
        }
        let mut draws = [(); 8].map(|()| self.random.draw());
        draws[0] %= 12;
        let life = &mut self.lives[at];
        life.give_back_what_is_over(now, chaos, draws[1]);
        if chaos && !life.is_closing {
            life.want(now, draws, &mut self.notes[session], counts);
        }
        self.turn(at, counts);
    }

    /// As [`Client::reclaim_all`](crate::Client::reclaim_all): looks at each lock that the notes name,
    /// and takes back what is still there.
    fn take_back(&mut self, at: usize, counts: &mut Counts) {
        let id = self.lives[at].id;
        let notes = &self.notes[id.0];
        let older: Vec<_> = notes.holds.iter().filter(|(_, hold)| hold.instance < id.1).collect();
        let named: Vec<_> =
            older.iter().filter_map(|(_, hold)| Some((hold.name.clone(), hold.grant?.0))).collect();
        let mut wanted = Vec::new();
        for (number, hold) in older {
            if self.lives[at].takes_back.values().any(|it| it == number) {
                continue;
            }
            let known = hold.grant.map(|(token, _)| token);
            let lock = self.cluster.locks.get(&hold.name);
            let ours = lock.iter().flat_map(|lock| &lock.holds);
            let ours: Vec<_> = ours
                .filter(|it| it.life.0 == id.0 && it.life.1 < id.1)
                .map(|it| it.token)
                .collect();
            let known_there = known.filter(|token| ours.contains(token));
            let unnamed = ours.iter().find(|it| !named.contains(&(hold.name.clone(), **it)));
            let found = known_there.or(unnamed.copied()).or(known);
            wanted.push((*number, hold.name.clone(), found));
        }
        for (number, name, token) in wanted {
            let notes = &mut self.notes[id.0];
            match token {
                None => drop(notes.holds.remove(&number)),
                Some(token) => {
                    counts.note("reclaims");
                    let shared = self.cluster.locks.get(&name).is_some_and(|lock| {
                        lock.holds.iter().any(|hold| hold.token == token && hold.shared)
                    });
                    self.lives[at].reclaim(self.now, number, &name, token, shared, notes);
                }
            }
        }
        self.turn(at, counts);
    }

    /// A process ends without a word, or is taken for dead and goes on.
    fn crash(&mut self, counts: &mut Counts) {
        for at in (0..self.lives.len()).rev() {
            let Life { id, ends_at, .. } = self.lives[at];
            if ends_at.is_some_and(|ends_at| ends_at <= self.now || !self.chaos()) {
                self.lives.remove(at);
                continue;
            }
            if ends_at.is_some() || !self.chaos() || self.draw(3_000) != 0 {
                continue;
            }
            counts.note("crashed");
            let goes_on_for = self.draw_ms(8_000);
            if self.draw(2) == 0 {
                self.lives.remove(at);
            } else {
                counts.note("beside its successor");
                self.lives[at].ends_at = Some(self.now + goes_on_for);
            }
            self.begin_life(id.0);
        }
    }

    fn operate(&mut self, counts: &mut Counts) {
        if !self.chaos() || self.operator_acts_at > self.now {
            return;
        }
        self.operator_acts_at = self.now + self.draw_ms(12_000);
        if self.draw(3) == 0 {
            counts.note("revocations");
            let session = self.draw(SESSIONS as u64) as usize;
            self.cluster.revoke(self.now, session);
        } else {
            counts.note("force-releases");
            let name = name(self.draw(NAMES));
            self.cluster.force_release(self.now, &name);
        }
    }

    /// Delays up to a second, and in chaos loses one in ten and repeats one in twenty.
    fn send(&mut self, packet: Packet) {
        let (Packet::Call { line, .. } | Packet::Answer { line, .. }) = &packet;
        let from = self.lives.iter().find(|life| life.id == line.0);
        let silent = from.is_some_and(|life| life.silent_until > self.now);
        if self.chaos() && (silent || self.draw(10) == 0) {
            return;
        }
        let slow = self.draw(10) == 0;
        let delay = self.draw_ms(if slow && self.chaos() { 4_000 } else { 20 });
        if self.chaos() && self.draw(20) == 0 && matches!(packet, Packet::Call { .. }) {
            let later = delay + self.draw_ms(4_000);
            self.put(later, packet.clone());
        }
        self.put(delay, packet);
    }

    fn put(&mut self, delay: Duration, packet: Packet) {
        self.packets_count += 1;
        self.wire.insert((self.now + delay, self.packets_count), packet);
    }

    fn arrive(&mut self, packet: Packet, counts: &mut Counts) {
        match packet {
            Packet::Call { line, call } => {
                let fate = if self.chaos() { self.draw(40) } else { 2 };
                let call_id = call.call_id;
                let mut answer = match fate {
                    0 => v1::SessionAnswer { call_id, body: Some(failed(14, "NOT_LEADER")) },
                    _ => self.cluster.call(self.now, line, call),
                };
                if fate == 1 {
                    answer.body = Some(failed(14, "INDETERMINATE"));
                }
                self.send(Packet::Answer { line, answer });
            }
            Packet::Answer { line, answer } => {
                let at = self.lives.iter().position(|life| life.id == line.0);
                // A packet for a connection or a life that is gone is lost.
                let Some(at) = at.filter(|at| self.lives[*at].hears(line.1)) else { return };
                let frozen_for = self.lives[at].frozen_until.saturating_sub(self.now);
                if !frozen_for.is_zero() {
                    return self.put(frozen_for, Packet::Answer { line, answer });
                }
                let message = v1::SessionResponse { answers: vec![answer] };
                self.lives[at].driver.take_in(self.now, message);
                self.turn(at, counts);
            }
        }
    }
}

fn name(number: u64) -> String {
    format!("lock-{number}")
}
