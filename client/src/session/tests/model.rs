//! Clients against a small model of a cluster over a network that delays, loses, repeats and
//! reorders, in virtual time. The model knows leases as D7 has them: a lease runs a full ttl from
//! the arrival of what renews it, and its end is the next waiter's grant.
//!
//! What must hold at every step: two clients never both believe to hold a lock (S1 as far as it is
//! the client's, S5); a lost guard stays lost; every acquisition is decided once. At the end, when
//! all is given back and the network is whole, nobody holds or waits anywhere (R1).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{super::*, check};
use crate::{
    condition::Condition,
    error::{AcquireError, LostReason},
    ids::{FencingToken, Position},
    request::{LockMode, Request, Wait},
};

const CLIENTS: usize = 3;
const TTL: Duration = Duration::from_secs(3);
const CHAOS_UNTIL: Duration = Duration::from_secs(60);
const QUIET_UNTIL: Duration = Duration::from_secs(90);

#[test]
fn two_clients_never_hold_one_lock() {
    let mut totals = Totals::default();
    for seed in 0..300 {
        World::new(seed).run(&mut totals);
    }
    // Chaos that reaches none of this would prove nothing.
    assert!(totals.granted > 3_000, "{totals:?}");
    assert!(totals.lost > 100, "{totals:?}");
    assert!(totals.expired > 100, "{totals:?}");
    assert!(totals.refused > 100, "{totals:?}");
    assert!(totals.dropped > 100, "{totals:?}");
    assert!(totals.reconnects > 100, "{totals:?}");
    assert!(totals.by_spare > 1_000, "{totals:?}");
    assert!(totals.moves > 100, "{totals:?}");
    assert!(totals.spares_left > 100, "{totals:?}");
}

#[derive(Debug, Default)]
struct Totals {
    granted: u64,
    lost: u64,
    expired: u64,
    refused: u64,
    dropped: u64,
    reconnects: u64,
    by_spare: u64,
    moves: u64,
    spares_left: u64,
}

struct World {
    random: pace::Jitter,
    now: Duration,
    clients: Vec<Client>,
    cluster: Cluster,
    /// Packets that are under way, by time of arrival.
    wire: BTreeMap<(Duration, u64), Packet>,
    packets_count: u64,
    seed: u64,
}

enum Packet {
    Call { client: usize, connection: u64, call: Call },
    Answer { client: usize, connection: u64, event: Event },
}

struct Client {
    core: SessionCore,
    newest: u64,
    /// The connection that is up, or the time of the next try.
    connection: Result<u64, Duration>,
    /// The same of the spare one, while the session wants it.
    spare: Option<Result<u64, Duration>>,
    connections_count: u64,
    /// Nothing passes until then, either way.
    silent_until: Duration,
    asking: BTreeMap<AcquisitionId, String>,
    guards: BTreeMap<AcquisitionId, GuardSeen>,
    acts_at: Duration,
}

struct GuardSeen {
    name: String,
    valid_until: Duration,
    lost: bool,
    given_back_at: Duration,
}

/// The asker: a client and its acquisition.
type Asker = (usize, AcquisitionId);

#[derive(Default)]
struct Cluster {
    locks: BTreeMap<String, Lock>,
    finished: BTreeMap<Asker, GoneReason>,
    /// The receiver of an acquisition's news: the connection that named it last.
    named_on: BTreeMap<Asker, u64>,
    token: u64,
    news: Vec<(Asker, String, PushedKind)>,
}

#[derive(Default)]
struct Lock {
    hold: Option<Held>,
    waiters: VecDeque<(Asker, Duration)>,
}

struct Held {
    asker: Asker,
    token: FencingToken,
    until: Duration,
}

impl Cluster {
    fn settle(&mut self, name: &str) {
        let lock = self.locks.entry(name.to_owned()).or_default();
        if lock.hold.is_none()
            && let Some((asker, until)) = lock.waiters.pop_front()
        {
            self.token += 1;
            let token = FencingToken::from_u64(self.token);
            lock.hold = Some(Held { asker, token, until });
            let what = PushedKind::Granted { token, fence_floor: token };
            self.news.push((asker, name.to_owned(), what));
        }
    }

    fn expire(&mut self, now: Duration, totals: &mut Totals) {
        let names: Vec<_> = self.locks.keys().cloned().collect();
        for name in names {
            let lock = self.locks.entry(name.clone()).or_default();
            let mut ended = Vec::new();
            lock.waiters.retain(|(asker, until)| {
                let lives = *until > now;
                if !lives {
                    ended.push(*asker);
                }
                lives
            });
            if lock.hold.as_ref().is_some_and(|held| held.until <= now) {
                ended.extend(lock.hold.take().map(|held| held.asker));
            }
            for asker in ended {
                totals.expired += 1;
                self.finished.insert(asker, GoneReason::Expired);
                let (how, why) = (GoneReason::Expired, LostReason::Expired);
                let what = PushedKind::Gone { how, why };
                self.news.push((asker, name.clone(), what));
            }
            self.settle(&name);
        }
    }

    /// The full ttl and its share for drift, from the arrival: late is always safe.
    fn lease(now: Duration) -> Duration {
        now + TTL * 101 / 100
    }

    fn call(&mut self, now: Duration, client: usize, call: Call) -> (Seq, Answer) {
        match call {
            Call::Acquire { seq, id, request, wait } => {
                let outcome = self.acquire(now, (client, id), &request.name, wait);
                let position = Position::default();
                let (ttl, agreement) = (Some(TTL), None);
                let answer = AcquireAnswer { id, echoed: seq, outcome, ttl, agreement, position };
                (seq, Answer::Acquire(answer))
            }
            Call::Release { seq, id, name, token } => {
                let lock = self.locks.entry(name.to_string()).or_default();
                let holds = |held: &Held| held.asker == (client, id) && held.token == token;
                let gone = if lock.hold.as_ref().is_some_and(holds) {
                    lock.hold = None;
                    self.finished.insert((client, id), GoneReason::Released);
                    None
                } else {
                    Some(*self.finished.get(&(client, id)).unwrap_or(&GoneReason::Unknown))
                };
                self.settle(&name);
                (seq, Answer::Released { gone })
            }
            Call::Cancel { seq, id, name } => {
                let lock = self.locks.entry(name.to_string()).or_default();
                lock.waiters.retain(|(asker, _)| *asker != (client, id));
                lock.hold.take_if(|held| held.asker == (client, id));
                self.finished.entry((client, id)).or_insert(GoneReason::Cancelled);
                self.settle(&name);
                (seq, Answer::Cancelled)
            }
            Call::KeepAlive { seq, items } => {
                assert!(items.len() <= KEEP_ALIVE_ITEMS_MAX, "{} items", items.len());
                let answer = |(name, id)| self.item(now, client, seq, name, id);
                (seq, Answer::KeepAlive(items.into_iter().map(answer).collect()))
            }
            Call::Change { .. } | Call::Ask { .. } => unreachable!("nobody wants it here"),
        }
    }

    fn acquire(&mut self, now: Duration, asker: Asker, name: &str, wait: Wait) -> AcquireOutcome {
        if let Some(reason) = self.finished.get(&asker) {
            return AcquireOutcome::Gone(*reason);
        }
        let lock = self.locks.entry(name.to_owned()).or_default();
        let known = lock.hold.as_ref().is_some_and(|held| held.asker == asker)
            || lock.waiters.iter().any(|(waiter, _)| *waiter == asker);
        if !known {
            let free = lock.hold.is_none() && lock.waiters.is_empty();
            if wait == Wait::Try && !free {
                self.finished.insert(asker, GoneReason::Refused);
                return AcquireOutcome::HeldByOther { holders: Vec::new(), waiters: 0 };
            }
            lock.waiters.push_back((asker, Self::lease(now)));
        }
        let granted_now = lock.hold.is_none();
        self.settle(name);
        if granted_now {
            self.news.pop();
        }
        self.renew(now, asker, name);
        let lock = &self.locks[name];
        match &lock.hold {
            Some(held) if held.asker == asker => {
                AcquireOutcome::Granted { token: held.token, fence_floor: held.token }
            }
            _ => AcquireOutcome::Queued { place: 1, holders: Vec::new() },
        }
    }

    fn renew(&mut self, now: Duration, asker: Asker, name: &str) {
        let lock = self.locks.entry(name.to_owned()).or_default();
        for held in lock.hold.iter_mut().filter(|held| held.asker == asker) {
            held.until = held.until.max(Self::lease(now));
        }
        for (_, until) in lock.waiters.iter_mut().filter(|(waiter, _)| *waiter == asker) {
            *until = (*until).max(Self::lease(now));
        }
    }

    fn item(
        &mut self,
        now: Duration,
        client: usize,
        seq: Seq,
        name: Arc<str>,
        id: AcquisitionId,
    ) -> KeepAliveAnswer {
        let asker = (client, id);
        self.renew(now, asker, &name);
        let lock = &self.locks[&*name];
        let state = match &lock.hold {
            Some(held) if held.asker == asker => {
                KeepAliveState::Held { token: held.token, fence_floor: held.token, asked: None }
            }
            _ if lock.waiters.iter().any(|(waiter, _)| *waiter == asker) => {
                KeepAliveState::Waiting { place: 1 }
            }
            _ => KeepAliveState::Gone(*self.finished.get(&asker).unwrap_or(&GoneReason::Unknown)),
        };
        let position = Position::default();
        KeepAliveAnswer { name: name.to_string(), id, echoed: seq, state, position }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let client = |index: usize| Client {
            core: SessionCore::new(SessionConfig {
                call_timeout: Duration::from_secs(4),
                // One that has no choice, and others.
                gateways_count: 1 + (seed as usize + index) % 3,
                jitter_seed: seed * 10 + index as u64,
                numbers_after: 0,
            }),
            newest: 0,
            connection: Err(Duration::ZERO),
            spare: None,
            connections_count: 0,
            silent_until: Duration::ZERO,
            asking: BTreeMap::new(),
            guards: BTreeMap::new(),
            acts_at: Duration::ZERO,
        };
        Self {
            random: pace::Jitter::new(seed),
            now: Duration::ZERO,
            clients: (0..CLIENTS).map(client).collect(),
            cluster: Cluster::default(),
            wire: BTreeMap::new(),
            packets_count: 0,
            seed,
        }
    }

    fn run(mut self, totals: &mut Totals) {
        while self.now < QUIET_UNTIL {
            self.step(totals);
            self.judge();
        }
        for client in &self.clients {
            assert_eq!(
                client.core.acquisitions_count(),
                0,
                "seed {}: {:?}",
                self.seed,
                client.core
            );
            assert!(client.asking.is_empty(), "seed {}: never decided", self.seed);
        }
        for (name, lock) in &self.cluster.locks {
            let left = lock.hold.is_some() || !lock.waiters.is_empty();
            assert!(!left, "seed {}: {name} is still held or waited for", self.seed);
        }
    }

    fn judge(&self) {
        let mut holders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, client) in self.clients.iter().enumerate() {
            for guard in client.guards.values() {
                if !guard.lost && guard.valid_until > self.now {
                    holders.entry(&guard.name).or_default().push(index);
                }
            }
        }
        for (name, holders) in holders {
            let [_] = holders[..] else {
                panic!("seed {}, {:?}: {name} is held by {holders:?}", self.seed, self.now);
            };
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
    fn step(&mut self, totals: &mut Totals) {
        let dues = self.clients.iter().filter_map(|client| client.core.next_due());
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let next = dues.chain(arrival).min().unwrap_or(Duration::MAX);
        let at_most = self.now + Duration::from_millis(100);
        self.now = next.min(at_most).max(self.now + Duration::from_nanos(1));
        self.cluster.expire(self.now, totals);
        while let Some(((at, _), _)) = self.wire.first_key_value() {
            if *at > self.now {
                break;
            }
            if let Some((_, packet)) = self.wire.pop_first() {
                self.arrive(packet, totals);
            }
        }
        for index in 0..CLIENTS {
            self.connect(index, totals);
            if self.clients[index].acts_at <= self.now {
                self.act(index, totals);
            }
            if self.clients[index].core.next_due().is_some_and(|due| due <= self.now) {
                self.handle(index, Event::Tick, totals);
            }
        }
        self.tell_news();
    }

    fn connect(&mut self, index: usize, totals: &mut Totals) {
        let broken = self.chaos() && self.draw(400) == 0;
        let silenced = self.chaos() && self.draw(400) == 0;
        let (pause, silence) = (self.draw_ms(6_000), self.draw_ms(6_000));
        let now = self.now;
        let client = &mut self.clients[index];
        if silenced {
            client.silent_until = now + silence;
        }
        match client.connection {
            Ok(_) if broken => {
                client.connection = Err(now + pause);
                let event = Event::Disconnected { why: "broken".into() };
                self.handle(index, event, totals);
            }
            Err(at) if at <= now => {
                client.connections_count += 1;
                client.connection = Ok(client.connections_count);
                totals.reconnects += u64::from(client.connections_count > 1);
                self.handle(index, Event::Connected, totals);
            }
            Ok(_) | Err(_) => {}
        }
        self.connect_spare(index, totals);
    }

    fn connect_spare(&mut self, index: usize, totals: &mut Totals) {
        let broken = self.chaos() && self.draw(400) == 0;
        let pause = self.draw_ms(1_000);
        let now = self.now;
        let client = &mut self.clients[index];
        match client.spare {
            Some(Ok(_)) if broken => {
                client.spare = Some(Err(now + pause));
                self.handle(index, Event::SpareLost, totals);
            }
            Some(Err(at)) if at <= now => {
                client.connections_count += 1;
                client.spare = Some(Ok(client.connections_count));
                self.handle(index, Event::SpareConnected, totals);
            }
            Some(_) | None => {}
        }
    }

    /// The acts of the client's user.
    fn act(&mut self, index: usize, totals: &mut Totals) {
        let pause = self.draw_ms(1_500);
        let choice = self.draw(10);
        let name = format!("lock-{}", self.draw(2));
        let wait = match self.draw(3) {
            0 => Wait::Try,
            1 => Wait::AtMost(self.draw_ms(5_000) + Duration::from_millis(1)),
            _ => Wait::Unbounded,
        };
        let (now, chaos) = (self.now, self.chaos());
        let client = &mut self.clients[index];
        client.acts_at = now + pause;
        let over: Vec<_> = client
            .guards
            .iter()
            .filter(|(_, guard)| guard.given_back_at <= now || !chaos)
            .map(|(id, _)| *id)
            .collect();
        let dropped = match client.asking.first_key_value() {
            Some((id, _)) if choice == 0 || !chaos => Some(*id),
            _ => None,
        };
        if let Some(id) = dropped {
            client.asking.remove(&id);
            totals.dropped += 1;
        }
        for id in over.iter().chain(&dropped) {
            self.clients[index].guards.remove(id);
            self.handle(index, Event::Close { id: *id }, totals);
        }
        let client = &mut self.clients[index];
        if chaos && choice > 3 && client.asking.len() < 3 {
            client.newest += 1;
            let id = AcquisitionId(client.newest);
            client.asking.insert(id, name.clone());
            let request = Request {
                name: Arc::from(name),
                mode: LockMode::Exclusive,
                ttl: TTL,
                wait,
                reenter: None,
                reclaim: None,
                condition: Condition::default(),
                ask: false,
                owner: Arc::from(""),
                attributes: BTreeMap::new(),
                traceparent: String::new(),
            };
            self.handle(index, Event::Acquire { id, request: Arc::new(request) }, totals);
        }
    }

    fn handle(&mut self, index: usize, event: Event, totals: &mut Totals) {
        let mut effects = Effects::default();
        self.clients[index].core.handle(self.now, event, &mut effects);
        check(&self.clients[index].core);
        for notice in effects.notices {
            self.notice(index, notice, totals);
        }
        for call in effects.spare {
            totals.by_spare += 1;
            let spare = self.clients[index].spare;
            let connection = spare.and_then(Result::ok).expect("calls need a connection");
            self.send(Packet::Call { client: index, connection, call });
        }
        if effects.move_to_spare {
            totals.moves += 1;
            let client = &mut self.clients[index];
            client.connection = client.spare.take().expect("there is one to move to");
        }
        let pause = self.draw_ms(500);
        let client = &mut self.clients[index];
        match (client.core.is_spare_wanted(), client.spare) {
            (true, None) => client.spare = Some(Err(self.now + pause)),
            (false, Some(_)) => client.spare = None,
            (true, Some(_)) | (false, None) => {}
        }
        if effects.leave_spare {
            totals.spares_left += 1;
            client.spare = client.spare.map(|_| Err(self.now + pause));
        }
        for call in effects.acquires.into_iter().chain(effects.urgent) {
            let connection = self.clients[index].connection.expect("calls need a connection");
            self.send(Packet::Call { client: index, connection, call });
        }
        if effects.reconnect {
            let pause = self.draw_ms(500);
            self.clients[index].connection = Err(self.now + pause);
        }
    }

    fn notice(&mut self, index: usize, notice: Notice, totals: &mut Totals) {
        let held_for = self.draw_ms(9_000);
        let (now, seed) = (self.now, self.seed);
        let client = &mut self.clients[index];
        match notice {
            Notice::Decided { id, result: Ok(grant) } => {
                totals.granted += 1;
                let name = client.asking.remove(&id).expect("decided once, and while asking");
                let guard = GuardSeen {
                    name,
                    valid_until: grant.valid_until,
                    lost: false,
                    given_back_at: now + held_for,
                };
                client.guards.insert(id, guard);
            }
            Notice::Decided { id, result: Err(error) } => {
                totals.refused += u64::from(matches!(error, AcquireError::Held { .. }));
                client.asking.remove(&id).expect("decided once, and while asking");
            }
            Notice::Renewed { id, valid_until, .. } => {
                let guard = client.guards.get_mut(&id).expect("renewed while the guard is out");
                assert!(!guard.lost, "seed {seed}: renewed after its loss");
                assert!(guard.valid_until > now, "seed {seed}: renewed after its lapse");
                guard.valid_until = guard.valid_until.max(valid_until);
            }
            Notice::Lost { id, .. } => {
                totals.lost += 1;
                let guard = client.guards.get_mut(&id).expect("lost while the guard is out");
                assert!(!guard.lost, "seed {seed}: lost twice");
                guard.lost = true;
            }
            Notice::Jeopardy { .. } | Notice::Closed { .. } => {}
            Notice::Agreed { .. } | Notice::Asked { .. } | Notice::Changed { .. } => {
                unreachable!("nobody wants it here")
            }
        }
    }

    /// Delays up to a second, and in chaos loses one in ten and repeats one in twenty.
    fn send(&mut self, packet: Packet) {
        let (client, silent) = match &packet {
            Packet::Call { client, .. } | Packet::Answer { client, .. } => {
                (*client, self.clients[*client].silent_until > self.now)
            }
        };
        let lost = self.chaos() && (silent || self.draw(10) == 0);
        if lost {
            return;
        }
        let slow = self.draw(10) == 0;
        let delay = self.draw_ms(if slow && self.chaos() { 4_000 } else { 20 });
        let repeated = self.chaos() && self.draw(20) == 0;
        if let (true, Packet::Call { connection, call, .. }) = (repeated, &packet) {
            let call = call.clone();
            let again = Packet::Call { client, connection: *connection, call };
            let later = delay + self.draw_ms(4_000);
            self.put(later, again);
        }
        self.put(delay, packet);
    }

    fn put(&mut self, delay: Duration, packet: Packet) {
        self.packets_count += 1;
        self.wire.insert((self.now + delay, self.packets_count), packet);
    }

    fn arrive(&mut self, packet: Packet, totals: &mut Totals) {
        match packet {
            Packet::Call { client, connection, call } => {
                let mut named = BTreeSet::new();
                match &call {
                    Call::Acquire { id, .. } => drop(named.insert(*id)),
                    Call::KeepAlive { items, .. } => named.extend(items.iter().map(|(_, id)| *id)),
                    Call::Release { .. } | Call::Cancel { .. } => {}
                    Call::Change { .. } | Call::Ask { .. } => {}
                }
                for id in named {
                    self.cluster.named_on.insert((client, id), connection);
                }
                let (seq, answer) = self.cluster.call(self.now, client, call);
                let event = Event::Answered { seq, answer };
                self.send(Packet::Answer { client, connection, event });
            }
            Packet::Answer { client, connection, event } => {
                // A packet for a connection that is gone is lost.
                let to = &self.clients[client];
                if to.connection == Ok(connection) || to.spare == Some(Ok(connection)) {
                    self.handle(client, event, totals);
                }
            }
        }
    }

    fn tell_news(&mut self) {
        for ((client, id), name, what) in std::mem::take(&mut self.cluster.news) {
            let Some(connection) = self.cluster.named_on.get(&(client, id)).copied() else {
                continue;
            };
            let event = Event::Pushed(Pushed { name, id, what, position: Position::default() });
            self.send(Packet::Answer { client, connection, event });
        }
    }
}
