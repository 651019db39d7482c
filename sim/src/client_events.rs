//! What happens to clients: their connection, their turns, starts and ends. What their tasks do
//! with locks stands in `tasks.rs`.

use sharklock_client::session::take_message;
use sharklock_history::{Position, Record, What};
use sharklock_locktable::Token;
use sharklock_proto::v1::{self, SessionResponse, session_answer, session_call};

use crate::check::{Belief, Checks};
use crate::client::{Link, Task};
use crate::node::Node;
use crate::note;
use crate::store::StoreNode;
use crate::streams::{ConnId, End, Half, Payload};
use crate::world::{Event, MS, S, World};

/// As in the client's link: connecting and opening both streams. Where there is another gateway, that
/// one is tried so soon; here instead of the first, there beside it.
const DIAL_TIMEOUT_NS: u64 = 5 * S;
const DIAL_TIMEOUT_OF_MANY_NS: u64 = 250 * MS;
/// What clocks that run in parts per million lose at each reading.
const ROUNDING_NS: u64 = 1_000;
impl World {
    pub(crate) fn client_starts(&mut self, number: usize) {
        if self.is_winding_down || self.clients[number - 1].process.is_some() {
            return;
        }
        self.last_instance += 1;
        let instance = self.last_instance;
        let tasks = (0..self.options.tasks.max(1))
            .map(|_| {
                let think = self.dice.tasks.around(self.options.think_mean_ms * MS);
                Task { ticket: None, next_ns: self.now + think }
            })
            .collect();
        let (seed, gateways) = (self.dice.tasks.number(), self.gateways.len());
        let is_another = self.dice.tasks.one_in(2);
        let has_file = self.opens_file(number, instance);
        let client = &mut self.clients[number - 1];
        if is_another && !has_file {
            client.secret = instance.to_le_bytes().repeat(2).into();
        }
        client.paused_until = 0;
        client.backlog.clear();
        client.start(instance, seed, gateways, tasks);
        note!(self, "c{number} starts, instance {instance}");
        self.arm_client(number);
    }

    /// The process ends, and comes back as another instance, if at all.
    pub(crate) fn client_ends(&mut self, number: usize, back_ns: Option<u64>) {
        let client = &mut self.clients[number - 1];
        let Some(mut process) = client.process.take() else { return };
        client.backlog.clear();
        let instance = process.instance;
        note!(self, "c{number} ends, instance {instance}");
        let taken = std::mem::take(&mut process.taken);
        for (ticket, taken) in taken {
            self.dies_holding(number, &taken);
            let name = &taken.request.name;
            self.checks.agreed.may_wait_on(self.now, name, (instance, ticket));
            self.record_end_of_process(number, instance, ticket, &taken);
        }
        let dice = &mut self.dice.agreements;
        if let Some(file) = &mut self.clients[number - 1].file {
            file.survives(|| dice.one_in(2));
        }
        self.checks.beliefs.end_all(instance);
        self.checks.died(instance, self.now);
        let silently = self.dice.faults.one_in(3);
        for (conn, end) in self.streams.of(Node::Client(number)) {
            self.hang_up(conn, end, silently);
        }
        if let Some(back) = back_ns {
            self.queue.plan(self.now + back, Event::ClientStarts(number));
        }
    }

    pub(crate) fn client_pauses(&mut self, number: usize, until: u64) {
        let client = &mut self.clients[number - 1];
        client.paused_until = client.paused_until.max(until);
    }

    pub(crate) fn client_resumes(&mut self, number: usize) {
        let client = &mut self.clients[number - 1];
        if client.paused_until > self.now || client.process.is_none() {
            return;
        }
        let dials = std::mem::take(&mut client.dials_due);
        for (conn, payload) in std::mem::take(&mut client.backlog) {
            self.client_takes(number, conn, payload);
            self.client_turn(number);
        }
        self.client_turn(number);
        for (life, dial, since) in dials {
            self.client_dials(number, life, dial, since);
        }
    }

    pub(crate) fn heal_clients(&mut self) {
        for number in 1..=self.clients.len() {
            self.clients[number - 1].paused_until = self.now;
            if self.clients[number - 1].process.is_none() {
                self.queue.plan(self.now, Event::ClientStarts(number));
            } else {
                self.client_resumes(number);
            }
        }
    }

    /// Something arrives; `None`: the connection is gone.
    pub(crate) fn client_receives(
        &mut self,
        number: usize,
        conn: ConnId,
        payload: Option<Payload>,
    ) {
        let client = &mut self.clients[number - 1];
        if client.process.is_none() {
            return;
        }
        if client.paused_until > self.now {
            return client.backlog.push((conn, payload));
        }
        self.client_takes(number, conn, payload);
        self.client_turn(number);
    }

    fn client_takes(&mut self, number: usize, conn: ConnId, payload: Option<Payload>) {
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return };
        let is_spare = process.spare == Link::Up(conn);
        if !is_spare && process.link != Link::Up(conn) {
            return;
        }
        match payload {
            Some(Payload::Response(_, response)) => {
                if !is_spare {
                    process.rotation.answered();
                }
                process.driver.take_in(now, (*response).clone());
                self.trace_response(number, &response);
                self.record_places(number, &response);
                self.client_hears(number, &response);
            }
            None if is_spare => {
                process.driver.spare_lost(now);
                self.client_spare_lost(number);
            }
            None => {
                process.driver.disconnected(now, "the connection broke".to_owned());
                self.client_lost(number);
            }
            Some(other) => unreachable!("clients are not sent {other:?}"),
        }
    }

    /// As the client's link does: the next endpoint, after a pause that doubles.
    fn client_lost(&mut self, number: usize) {
        let client = &mut self.clients[number - 1];
        let Some(process) = &mut client.process else { return };
        let pause = process.rotation.lost().as_nanos() as u64;
        process.link = Link::Dialling;
        self.plan_client_dial(number, pause);
    }

    fn plan_client_dial(&mut self, number: usize, pause_ns: u64) {
        let took = 2 * self.stream_delay_ns();
        let client = &mut self.clients[number - 1];
        let life = client.life;
        let Some(process) = &mut client.process else { return };
        process.dials_count += 1;
        process.dial = process.dials_count;
        let dial = process.dial;
        let at = self.now + pause_ns + took;
        self.queue.plan(at, Event::ClientDials { client: number, life, dial, since: self.now });
    }

    pub(crate) fn client_dials(&mut self, number: usize, life: u32, dial: u64, since: u64) {
        let here = Node::Client(number);
        let client = &mut self.clients[number - 1];
        if client.life != life {
            return;
        }
        let Some(process) = &mut client.process else { return };
        let is_spare = process.spare_dial == dial && process.spare == Link::Dialling;
        if !is_spare && (process.dial != dial || process.link != Link::Dialling) {
            return;
        }
        if client.paused_until > self.now {
            return client.dials_due.push((life, dial, since));
        }
        let at = if is_spare { process.spare_at } else { process.rotation.current() };
        let number_of_gateway = 1 + at;
        let there = Node::Gateway(number_of_gateway);
        if self.links.is_blocked(here, there) || self.links.is_blocked(there, here) {
            // Nobody answers: the dial is given up after its time.
            let within =
                if self.gateways.len() > 1 { DIAL_TIMEOUT_OF_MANY_NS } else { DIAL_TIMEOUT_NS };
            if self.now >= since + within {
                self.client_dial_failed(number, is_spare);
            } else {
                let at = since + within;
                self.queue.plan(at, Event::ClientDials { client: number, life, dial, since });
            }
            return;
        }
        if !self.client_meets(number, at) {
            return self.client_dial_failed(number, is_spare);
        }
        let conn = self.streams.open(here, there);
        if !self.gateway_accepts(number_of_gateway, conn, here) {
            self.streams.close(conn, End::Dialler);
            self.streams.close(conn, End::Listener);
            return self.client_dial_failed(number, is_spare);
        }
        note!(self, "c{number} reaches g{number_of_gateway} over {conn}");
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let process = client.process.as_mut().expect("it has just been looked at");
        if is_spare {
            process.spare = Link::Up(conn);
            process.rotation.spare_connected();
            process.driver.spare_connected(now);
        } else {
            process.link = Link::Up(conn);
            process.driver.connected(now);
        }
        self.client_turn(number);
    }

    fn client_dial_failed(&mut self, number: usize, is_spare: bool) {
        if is_spare {
            return self.client_spare_lost(number);
        }
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return };
        process.driver.disconnected(now, "no connection".to_owned());
        self.client_lost(number);
        self.client_turn(number);
    }

    pub(crate) fn client_wakes(&mut self, number: usize, life: u32, wake: u64) {
        let client = &mut self.clients[number - 1];
        if client.life != life {
            return;
        }
        let Some(process) = &mut client.process else { return };
        if process.wake != wake {
            return;
        }
        process.wake_at = None;
        if client.paused_until <= self.now {
            self.client_turn(number);
        }
    }

    /// What the session's task does whenever something has happened: its users act, the driver
    /// takes its turn, what it tells is passed on, what it sends is sent.
    pub(crate) fn client_turn(&mut self, number: usize) {
        self.hear_of_losses(number);
        self.users_stop(number);
        self.tasks_act(number);
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        let Some(process) = &mut client.process else { return };
        let mut output = std::mem::take(&mut process.output);
        process.driver.turn(now, &mut output);
        for told in output.told.drain(..) {
            self.told(number, told);
        }
        self.client_minds_spare(number, &mut output);
        if std::mem::take(&mut output.reconnect) {
            self.client_leaves(number);
        }
        self.client_sends(number, Half::Urgent, &mut output.urgent);
        self.client_sends(number, Half::Acquires, &mut output.acquires);
        self.client_wants_link(number);
        let checks = std::mem::take(&mut output.check);
        if let Some(process) = &mut self.clients[number - 1].process {
            process.output = output;
        }
        if checks && self.client_checks(number) {
            // What follows from the loss is done before anything else happens.
            return self.client_turn(number);
        }
        self.compare_beliefs(number);
        if self.clients[number - 1].process.as_ref().is_some_and(|process| process.has_closed) {
            return self.has_closed(number);
        }
        self.arm_client(number);
    }

    /// The connection answers nothing: the driver wants another.
    fn client_leaves(&mut self, number: usize) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let before = std::mem::replace(&mut process.link, Link::Dialling);
        process.rotation.leave();
        if let Link::Up(conn) = before {
            self.hang_up(conn, End::Dialler, false);
        }
        note!(self, "c{number} leaves its gateway");
        self.counters.count("clients leave a silent gateway");
        self.plan_client_dial(number, 0);
    }

    /// The gateway has said nothing for a while: it is left if it does not answer at all, which is
    /// told.
    fn client_checks(&mut self, number: usize) -> bool {
        let here = Node::Client(number);
        let Some(process) = &self.clients[number - 1].process else { return false };
        let Link::Up(conn) = process.link else { return false };
        let Some(there) = self.streams.get_mut(conn).map(|it| it.node(End::Listener)) else {
            return false;
        };
        let Node::Gateway(gateway) = there else { return false };
        let is_frozen = self.gateways[gateway - 1].paused_until > self.now;
        if !is_frozen && !self.links.is_blocked(here, there) && !self.links.is_blocked(there, here)
        {
            return false;
        }
        self.hang_up(conn, End::Dialler, false);
        note!(self, "c{number} finds that g{gateway} does not answer");
        self.counters.count("clients leave a gateway that fails a check");
        let now = self.clients[number - 1].now(self.now);
        let Some(process) = &mut self.clients[number - 1].process else { return false };
        process.driver.disconnected(now, "it does not answer".to_owned());
        self.client_lost(number);
        true
    }

    fn client_wants_link(&mut self, number: usize) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let wanted = process.driver.acquisitions_count() > 0;
        match (process.link, wanted) {
            (Link::Idle, true) => {
                process.link = Link::Dialling;
                self.plan_client_dial(number, 0);
            }
            (Link::Dialling, false) => process.link = Link::Idle,
            (Link::Idle | Link::Up(_), false) | (Link::Dialling | Link::Up(_), true) => {}
        }
    }

    fn client_sends(&mut self, number: usize, half: Half, calls: &mut Vec<v1::SessionCall>) {
        let Some(process) = &self.clients[number - 1].process else { return };
        self.client_sends_over(number, process.link, half, calls);
    }

    pub(crate) fn client_sends_over(
        &mut self,
        number: usize,
        link: Link,
        half: Half,
        calls: &mut Vec<v1::SessionCall>,
    ) {
        let client = &mut self.clients[number - 1];
        let secret = client.secret.clone();
        let Some(process) = &mut client.process else { return };
        let Link::Up(conn) = link else {
            assert!(calls.is_empty(), "calls without a connection");
            return;
        };
        let instance = process.instance;
        let gateway = match self.streams.get_mut(conn).map(|conn| conn.node(End::Listener)) {
            Some(Node::Gateway(gateway)) => gateway,
            _ => 0,
        };
        while let Some(request) = take_message(calls, &secret, instance) {
            for call in &request.calls {
                self.client_says(number, gateway, call);
            }
            let process = self.clients[number - 1].process.as_mut().expect("it takes its turn");
            for call in &request.calls {
                let acquisition = match &call.body {
                    Some(session_call::Body::Acquire(it)) => it.acquisition_id,
                    Some(session_call::Body::Reclaim(it)) => it.acquisition_id,
                    _ => continue,
                };
                process.sent.insert(call.call_id, (acquisition, self.now));
            }
            if process.sent.len() > 1_000 {
                process.sent.pop_first();
            }
            if self.options.replay_mean_ms > 0 {
                self.replays.capture(self.now, instance, half, &request);
            }
            self.trace_request(number, &request);
            self.send(conn, End::Listener, Payload::Request(half, Box::new(request)));
        }
    }

    fn trace_request(&mut self, number: usize, request: &v1::SessionRequest) {
        use session_call::Body;
        for call in &request.calls {
            let id = call.call_id;
            match &call.body {
                Some(Body::Acquire(it)) => {
                    note!(self, "c{number} asks for {} as {} ({id})", it.name, it.acquisition_id);
                }
                Some(Body::Reclaim(it)) => {
                    let (name, acquisition, token) = (&it.name, it.acquisition_id, it.token);
                    note!(self, "c{number} reclaims {name} {token} as {acquisition} ({id})");
                }
                Some(Body::Release(it)) => {
                    let (name, acquisition, token) = (&it.name, it.acquisition_id, it.token);
                    note!(self, "c{number} releases {name} {acquisition} token {token} ({id})");
                }
                Some(Body::Cancel(it)) => {
                    note!(self, "c{number} cancels {} {} ({id})", it.name, it.acquisition_id);
                }
                Some(Body::KeepAlive(it)) => {
                    for item in &it.items {
                        let name = &item.name;
                        note!(self, "c{number} keeps {name} {} ({id})", item.acquisition_id);
                    }
                }
                Some(other) => note!(self, "c{number} says ({id}): {other:?}"),
                None => {}
            }
        }
    }

    fn trace_response(&mut self, number: usize, response: &SessionResponse) {
        use session_answer::Body;
        for answer in &response.answers {
            let id = answer.call_id;
            let at = |position: &Option<v1::Position>| position.map_or(0, |it| it.applied_index);
            match &answer.body {
                Some(Body::Acquire(it)) => {
                    let (what, at) = (it.outcome().as_str_name(), at(&it.position));
                    let (token, acquisition) = (it.token, it.acquisition_id);
                    note!(self, "c{number} hears ({id}) {acquisition}: {what} {token} at {at}");
                }
                Some(Body::Release(it)) => {
                    let (what, at) = (it.outcome().as_str_name(), at(&it.position));
                    note!(self, "c{number} hears ({id}): {what} at {at}");
                }
                Some(Body::Cancel(it)) => {
                    let (what, at) = (it.outcome().as_str_name(), at(&it.position));
                    note!(self, "c{number} hears ({id}): {what} at {at}");
                }
                Some(Body::KeepAlive(it)) => {
                    for item in &it.answers {
                        let (what, at) = (item.state().as_str_name(), at(&item.position));
                        let (name, acquisition) = (&item.name, item.acquisition_id);
                        let (seq, token) = (item.seq, item.token);
                        note!(
                            self,
                            "c{number} hears ({id}/{seq}) {name} {acquisition}: {what} {token} at {at}"
                        );
                    }
                }
                Some(Body::Event(it)) => {
                    let (what, at) = (it.kind().as_str_name(), at(&it.position));
                    let (name, acquisition, token) = (&it.name, it.acquisition_id, it.token);
                    note!(self, "c{number} is pushed {name} {acquisition}: {what} {token} at {at}");
                }
                Some(Body::Failure(it)) => note!(self, "c{number} hears ({id}): {}", it.reason),
                Some(other) => note!(self, "c{number} hears ({id}): {other:?}"),
                None => {}
            }
        }
    }

    /// A place in the queue that an answer tells: the session core keeps it to itself.
    fn record_places(&mut self, number: usize, response: &SessionResponse) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let session = process.instance as u32;
        for answer in &response.answers {
            let Some(session_answer::Body::Acquire(acquire)) = &answer.body else { continue };
            if acquire.outcome() != v1::AcquireOutcome::Queued {
                continue;
            }
            let Some((id, asked)) = process.sent.get(&answer.call_id).copied() else { continue };
            let Some(taken) = process.taken.get(&id).filter(|taken| !taken.passes_queue) else {
                continue;
            };
            if self.names.is_broken(&taken.request.name) {
                continue;
            }
            let position = acquire.position.unwrap_or_default();
            let record = Record {
                lock: self.recorder.lock(&taken.request.name),
                session,
                acquisition: taken.recorded_as(id),
                invoked: asked,
                returned: self.now,
                position: Position {
                    range: position.range_id as u32,
                    version: position.version as u32,
                    applied_index: position.applied_index,
                },
                what: What::Queued { place: acquire.place },
            };
            self.recorder.push(record);
        }
    }

    pub(crate) fn arm_client(&mut self, number: usize) {
        let client = &mut self.clients[number - 1];
        let Some(at) = client.wakes_at() else { return };
        let life = client.life;
        let at = at.max(self.now + 1_000).max(client.paused_until);
        let Some(process) = &mut client.process else { return };
        if process.wake_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.wake += 1;
        process.wake_at = Some(at);
        let wake = process.wake;
        self.queue.plan(at, Event::ClientWakes { client: number, life, wake });
    }

    /// S1, and S5 before anybody comes to harm: beliefs change when a guard is handed out or
    /// renewed, which happens in a turn.
    fn compare_beliefs(&mut self, number: usize) {
        let (now, clients) = (self.now, &self.clients);
        let read = |client: usize| clients[client - 1].now(now);
        let Checks { tiling, replicas, beliefs, .. } = &mut self.checks;
        let (stores, tiling) = (&self.stores, &*tiling);
        let covers = |name: &str, belief: &Belief| {
            let Some(range) = tiling.of(name) else { return Ok(()) };
            let term = replicas.answered_term(range);
            let leads = |store: &&StoreNode| {
                store.answers(range) && store.status(range).is_some_and(|it| it.term == term)
            };
            let Some(leader) = stores.iter().find(leads) else { return Ok(()) };
            let believed = clients[belief.client - 1].clock.when(belief.cell.valid_until());
            let counted = leader.lease_ends(now, range, Token(belief.token));
            match (believed, counted) {
                (Some(believed), Some(counted)) if believed > counted + ROUNDING_NS => {
                    let (words, number) = (belief.words(), leader.number);
                    Err(format!(
                        "{words} believes until {believed}, and s{number} counts to {counted}"
                    ))
                }
                _ => Ok(()),
            }
        };
        if let Err((rule, name, what)) = beliefs.compare(number, &read, &covers) {
            self.violated(rule, &[name], format_args!("{what}"));
        }
    }
}
