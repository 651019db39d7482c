//! What happens to gateways: connections, calls, ticks, an operator's wishes, starts and ends.

use sharklock_gateway::outbox::Answer;
use sharklock_gateway::validate;
use sharklock_history::{LockId, Position, Record, What};
use sharklock_proto::internal::v1::store_reply::Body;
use sharklock_proto::v1::{self, CheckTokenRequest, ForceReleaseRequest, GetLockRequest};
use sharklock_rangemap::RangeId;

use crate::gateway::{GatewayProcess, Look};
use crate::node::Node;
use crate::note;
use crate::streams::{ConnId, End, Half, Payload};
use crate::world::{Event, MS, World};

impl World {
    pub(crate) fn gateway_starts(&mut self, number: usize) {
        let (now, masters) = (self.now, self.masters.len());
        let gateway = &mut self.gateways[number - 1];
        if gateway.process.is_some() {
            return;
        }
        gateway.paused_until = 0;
        gateway.backlog.clear();
        gateway.late.clear();
        gateway.unheard.clear();
        gateway.start(now, masters);
        let life = gateway.life;
        note!(self, "g{number} starts, life {life}");
        if self.masters.is_empty() {
            let process = self.gateways[number - 1].process.as_mut().expect("it has begun");
            process.known = (1..=self.stores.len()).collect();
            for store in 1..=self.stores.len() {
                self.plan_dial(number, life, store, MS);
            }
        } else {
            self.gateway_watches(number, life);
        }
        self.plan_operator(number, life);
        self.after_gateway(number);
    }

    pub(crate) fn gateway_ends(&mut self, number: usize, back_ns: u64) {
        let gateway = &mut self.gateways[number - 1];
        if gateway.process.take().is_none() {
            return;
        }
        gateway.backlog.clear();
        gateway.late.clear();
        gateway.unheard.clear();
        note!(self, "g{number} ends");
        let silently = self.dice.faults.one_in(3);
        for (conn, end) in self.streams.of(Node::Gateway(number)) {
            self.hang_up(conn, end, silently);
        }
        self.queue.plan(self.now + back_ns, Event::GatewayStarts(number));
    }

    /// The gateways that answer now, by their numbers.
    pub(crate) fn gateways_up(&self) -> Vec<usize> {
        let numbered = (1..).zip(&self.gateways);
        let up = numbered.filter(|(_, it)| it.process.is_some() && it.paused_until <= self.now);
        up.map(|(number, _)| number).collect()
    }

    pub(crate) fn gateway_pauses(&mut self, number: usize, until: u64) {
        let gateway = &mut self.gateways[number - 1];
        gateway.paused_until = gateway.paused_until.max(until);
    }

    pub(crate) fn gateway_resumes(&mut self, number: usize) {
        let now = self.now;
        let gateway = &mut self.gateways[number - 1];
        if gateway.paused_until > now || gateway.process.is_none() {
            return;
        }
        for (conn, payload) in std::mem::take(&mut gateway.backlog) {
            self.gateway_receives(number, conn, payload);
        }
        self.late_ghosts_speak(number);
        self.hear_masters(number);
        self.after_gateway(number);
    }

    pub(crate) fn heal_gateways(&mut self) {
        self.impostors_go();
        for number in 1..=self.gateways.len() {
            self.gateways[number - 1].paused_until = self.now;
            if self.gateways[number - 1].process.is_none() {
                self.queue.plan(self.now, Event::GatewayStarts(number));
            } else {
                self.gateway_resumes(number);
            }
        }
    }

    fn plan_dial(&mut self, gateway: usize, life: u32, store: usize, pause_ns: u64) {
        let at = self.now + pause_ns + 2 * self.stream_delay_ns();
        self.queue.plan(at, Event::GatewayDials { gateway, life, store });
    }

    /// A gateway tries to reach a store, again and again.
    pub(crate) fn gateway_dials(&mut self, number: usize, life: u32, store: usize) {
        let (now, here, there) = (self.now, Node::Gateway(number), Node::Store(store));
        let gateway = &self.gateways[number - 1];
        let is_known = |process: &GatewayProcess| process.known.contains(&store);
        if gateway.life != life || !gateway.process.as_ref().is_some_and(is_known) {
            return;
        }
        let reachable = self.stores[store - 1].process.is_some()
            && gateway.paused_until <= now
            && !self.links.is_blocked(here, there)
            && !self.links.is_blocked(there, here);
        if !reachable {
            let pause = self.dice.streams.between(50, 1_000) * MS;
            return self.plan_dial(number, life, store, pause);
        }
        let conn = self.streams.open(here, there);
        note!(self, "g{number} reaches s{store} over {conn}");
        self.store_accepts(store, conn);
        let id = self.stores[store - 1].id.expect("its process lives");
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(now);
        let process = gateway.process.as_mut().expect("it lives");
        process.stores.insert(id, conn);
        process.to_stores.set_connected(id, true);
        process.hub.link_up(now_us, id);
        self.after_gateway(number);
    }

    /// A client's connection reaches the gateway. False: it does not take it.
    pub(crate) fn gateway_accepts(&mut self, number: usize, conn: ConnId, client: Node) -> bool {
        if self.impostor_accepts(number, conn) {
            return true;
        }
        let process = self.gateways[number - 1].process.as_mut();
        process.is_some_and(|process| process.accept(conn, &client.to_string()))
    }

    /// Something arrives; `None`: the connection is gone.
    pub(crate) fn gateway_receives(
        &mut self,
        number: usize,
        conn: ConnId,
        payload: Option<Payload>,
    ) {
        let now = self.now;
        let Some(payload) = self.impostor_receives(conn, payload) else { return };
        let gateway = &mut self.gateways[number - 1];
        if gateway.process.is_none() {
            return;
        }
        if gateway.paused_until > now {
            return gateway.backlog.push((conn, payload));
        }
        let now_us = gateway.now_us(now);
        let life = gateway.life;
        let process = gateway.process.as_mut().expect("it lives");
        let mut lost = None;
        match payload {
            Some(Payload::Replies(replies)) => {
                if let Some(store) = process.store_at(conn) {
                    process.hub.dispatch(now_us, store, replies);
                }
            }
            Some(Payload::Request(half, request)) => {
                let Some(port) = process.port(conn, half) else { return };
                if port.take_in(now_us, *request).is_err() {
                    process.clients.remove(&conn);
                    self.hang_up(conn, End::Listener, false);
                }
            }
            None => {
                if let Some(store) = process.store_at(conn) {
                    process.stores.remove(&store);
                    process.links_lost += 1;
                    process.to_stores.set_connected(store, false);
                    process.hub.link_lost(now_us, store);
                    lost = Some(store);
                } else {
                    process.clients.remove(&conn);
                }
            }
            Some(other) => unreachable!("gateways are not sent {other:?}"),
        }
        if let Some(store) = lost {
            let pause = self.dice.streams.between(20, 500) * MS;
            let store = self.number_of(store).expect("it was reached");
            self.plan_dial(number, life, store, pause);
        }
        self.after_gateway(number);
    }

    pub(crate) fn gateway_ticks(&mut self, number: usize, life: u32, tick: u64) {
        let now = self.now;
        let gateway = &mut self.gateways[number - 1];
        if gateway.life != life {
            return;
        }
        let now_us = gateway.now_us(now);
        let paused = gateway.paused_until > now;
        let Some(process) = gateway.process.as_mut().filter(|process| process.tick == tick) else {
            return;
        };
        process.tick_at = None;
        if paused {
            return;
        }
        process.hub.tick(now_us);
        process.ghosts.retain(|(until, _)| *until > now);
        for ghost in process.unary.extract_if(.., |ghost| ghost.until_ns <= now) {
            ghost.withdraw(!self.dice.faults.one_in(4));
            self.counters.add("unary acquires withdrawn", 1);
        }
        self.after_gateway(number);
    }

    /// After every call of the hub: what it has for stores and clients goes out, and it is asked
    /// when it wants to be called again.
    pub(crate) fn after_gateway(&mut self, number: usize) {
        let Some(process) = &mut self.gateways[number - 1].process else { return };
        let mut sends = Vec::new();
        for (store, lane, calls) in process.to_stores.take() {
            if let Some(conn) = process.stores.get(&store) {
                sends.push((*conn, End::Listener, Payload::Calls(lane, calls)));
            }
        }
        let mut ended = Vec::new();
        for (conn, ports) in &mut process.clients {
            let halves = [(Half::Urgent, &mut ports.urgent), (Half::Acquires, &mut ports.acquires)];
            for (half, port) in halves {
                loop {
                    match port.take_out() {
                        Ok(Some(response)) => {
                            let payload = Payload::Response(half, Box::new(response));
                            sends.push((*conn, End::Dialler, payload));
                        }
                        Ok(None) => break,
                        Err(_) => {
                            ended.push(*conn);
                            break;
                        }
                    }
                }
            }
        }
        for (_, ghost) in &mut process.ghosts {
            while let Ok(Some(_)) = ghost.take_out() {}
        }
        let mut answers = Vec::new();
        while let Ok(Some(more)) = process.operator.take() {
            answers.extend(more);
        }
        for conn in &ended {
            process.clients.remove(conn);
        }
        for (conn, to, payload) in sends {
            self.send(conn, to, payload);
        }
        for conn in ended {
            self.hang_up(conn, End::Listener, false);
        }
        for answer in answers {
            self.operator_answered(number, answer);
        }
        self.arm_gateway(number);
    }

    fn arm_gateway(&mut self, number: usize) {
        let now = self.now;
        let gateway = &mut self.gateways[number - 1];
        let (life, at) = (gateway.life, gateway.tick_at(now));
        let (Some(process), Some(at)) = (&mut gateway.process, at) else { return };
        if process.tick_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.tick += 1;
        process.tick_at = Some(at);
        let tick = process.tick;
        self.queue.plan(at, Event::GatewayTicks { gateway: number, life, tick });
    }

    fn plan_operator(&mut self, gateway: usize, life: u32) {
        for (mean, force) in
            [(self.options.look_mean_ms, false), (self.options.force_mean_ms, true)]
        {
            if mean > 0 && !self.is_winding_down {
                let at = self.now + self.dice.operators.around(mean * MS) + MS;
                self.queue.plan(at, Event::Operator { gateway, life, force });
            }
        }
    }

    /// An operator looks at a lock or a token, or wants a hold to end.
    pub(crate) fn operator(&mut self, number: usize, life: u32, force: bool) {
        let gateway = &self.gateways[number - 1];
        if gateway.life != life || gateway.process.is_none() || self.is_winding_down {
            return;
        }
        let mean = if force { self.options.force_mean_ms } else { self.options.look_mean_ms };
        let at = self.now + self.dice.operators.around(mean * MS) + MS;
        self.queue.plan(at, Event::Operator { gateway: number, life, force });
        if gateway.paused_until > self.now {
            return;
        }
        let name = self.names.draw(&mut self.dice.operators).to_owned();
        let token = self.checks.beliefs.some_token(&name, &mut self.dice.operators);
        let now_only = self.names.is_broken(&name) && self.dice.operators.one_in(2);
        let checked = if force {
            self.counters.count("force-releases");
            note!(self, "g{number}: the operator ends {name}, at once: {now_only}");
            self.checks.agreed.freed(self.now, &name);
            validate::force_release(ForceReleaseRequest {
                name: name.clone(),
                token: token.filter(|_| self.dice.operators.one_in(2)),
                reason: "simulated".to_owned(),
                now: now_only,
                operator: format!("g{number}"),
            })
        } else if let Some(token) = token.filter(|_| self.dice.operators.one_in(2)) {
            validate::check_token(CheckTokenRequest { name: name.clone(), token })
        } else {
            validate::get_lock(GetLockRequest { name: name.clone(), waiters_max: 10 })
        };
        let is_check = !force && token.is_some();
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(self.now);
        let process = gateway.process.as_mut().expect("it lives");
        let call = process.asks(now_us, "operator", checked);
        let look = Look { asked_ns: self.now, name, token: token.filter(|_| is_check), by: None };
        process.asked.insert(call, look);
        self.after_gateway(number);
    }

    fn operator_answered(&mut self, number: usize, answer: Answer) {
        let Some(process) = &mut self.gateways[number - 1].process else { return };
        if let Some(call) = process.split_calls.remove(&answer.call_id) {
            return self.split_call_answered(number, call, answer);
        }
        if let Some(watcher) = process.watched.remove(&answer.call_id) {
            return self.watch_answered(number, watcher, answer);
        }
        let Some(look) = process.asked.remove(&answer.call_id) else {
            if !self.revocation_answered(number, &answer) {
                self.list_answered(number, answer);
            }
            return;
        };
        let Look { asked_ns, name, token, by } = look;
        match answer.reply {
            Ok(Body::CheckToken(response)) => {
                self.counters.count("looks");
                self.looked_at(&name, response.position);
                let Some(token) = token else { return };
                let live = response.live;
                self.record_look(asked_ns, &name, response.position, token, live);
            }
            Ok(Body::GetLock(response)) => {
                self.counters.count("looks");
                self.looked_at(&name, response.position);
                if let Some(by) = by {
                    self.has_looked(by, response.lock.as_ref());
                }
                for holder in response.lock.into_iter().flat_map(|lock| lock.holders) {
                    self.record_look(asked_ns, &name, response.position, holder.token, true);
                }
            }
            Ok(Body::ForceRelease(response)) => {
                note!(self, "g{number}: {name} ended: {}", response.ended);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Whoever says how a lock stands has its name where it says so.
    pub(crate) fn looked_at(&mut self, name: &str, position: Option<v1::Position>) {
        let Some(position) = position else { return };
        let at = (RangeId(position.range_id), position.version, position.applied_index);
        if let Err(what) = self.checks.tiling.spoke(at, name) {
            self.violated("S10", &[name.to_owned()], format_args!("of how it stands, {what}"));
        }
    }

    fn record_look(
        &mut self,
        asked_ns: u64,
        name: &str,
        position: Option<v1::Position>,
        token: u64,
        live: bool,
    ) {
        // Only a promise that an operator may not break can be judged by looks.
        if self.names.is_broken(name) {
            return;
        }
        let position = position.map_or(Position::UNKNOWN, |position| Position {
            range: position.range_id as u32,
            version: position.version as u32,
            applied_index: position.applied_index,
        });
        let what = What::Looked { token, live };
        let lock: LockId = self.recorder.lock(name);
        let (session, acquisition, returned) = (0, 0, self.now);
        let record =
            Record { lock, session, acquisition, invoked: asked_ns, returned, position, what };
        self.recorder.push(record);
    }
}
