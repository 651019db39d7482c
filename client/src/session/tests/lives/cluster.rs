//! A cluster as its clients are promised it: one table, no log, no leaders. It is written from the
//! pages for users and from `lock.proto`, and shares no code with the product's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use sharklock_proto::v1::{self, session_answer::Body as Answer, session_call::Body as Call};

/// A session's life: the session, and the instance.
pub type LifeId = (usize, u64);
/// An acquisition.
pub type Who = (LifeId, u64);

/// Where a client hears: its life and the number of its connection.
pub type Line = (LifeId, u64);

#[derive(Default)]
pub struct Cluster {
    pub locks: BTreeMap<String, Lock>,
    /// Everything that has ended, for ever.
    pub ended: BTreeMap<Who, v1::GoneReason>,
    /// Why each was said to be ending, orphaned or gone, in order.
    pub said: BTreeMap<Who, Vec<v1::GoneReason>>,
    /// By which line each acquisition was named last.
    named_on: BTreeMap<Who, Line>,
    token: u64,
    pub news: Vec<(Line, v1::AcquisitionEvent)>,
    pub counts: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub struct Lock {
    pub holds: Vec<Hold>,
    pub waiters: VecDeque<Waiter>,
}

pub struct Hold {
    pub life: LifeId,
    pub open: BTreeSet<u64>,
    pub token: u64,
    /// Its token before it was downgraded or taken back.
    pub before: Option<u64>,
    pub shared: bool,
    /// The end of its lease; without meaning for an orphan.
    pub until: Duration,
    pub agreement: v1::Agreement,
    /// When it has been held for long enough.
    too_long_at: Option<Duration>,
    asked: Option<(v1::AskMark, Duration)>,
    pub ending: Option<Ending>,
    pub orphan: bool,
    attributes: (u64, BTreeMap<String, String>),
}

pub struct Ending {
    pub how: v1::GoneReason,
    /// Who gets it, and until when it is heard of.
    reclaimer: Option<(Who, Duration)>,
}

pub struct Waiter {
    pub who: Who,
    shared: bool,
    until: Duration,
    gives_up: Option<Duration>,
    ttl: Duration,
    condition: Option<v1::Condition>,
}

/// The full length and its share for drift, from now on: late is always safe.
fn lease(now: Duration, ttl: Duration) -> Duration {
    now + ttl * 101 / 100
}

impl Hold {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.agreement.ttl_ms)
    }

    fn condition(&self) -> v1::Condition {
        self.agreement.condition.unwrap_or_default()
    }

    fn has(&self, who: Who) -> bool {
        self.life == who.0 && self.open.contains(&who.1)
    }

    /// It is what its client may use, as far as the cluster knows.
    pub fn is_live(&self) -> bool {
        !self.orphan && self.ending.is_none()
    }

    fn renew(&mut self, now: Duration) {
        if self.is_live() {
            self.until = self.until.max(lease(now, self.ttl()));
        }
    }

    fn agree(&mut self, now: Duration) {
        let condition = self.condition();
        self.too_long_at = condition.max_hold_ms.map(|ms| now + Duration::from_millis(ms));
        self.asked.take_if(|_| condition.ask_grace_ms.is_none());
    }
}

impl Lock {
    fn fits(&self, shared: bool) -> bool {
        self.holds.is_empty() || shared && self.holds.iter().all(|hold| hold.shared)
    }

    fn place(&self, who: Who) -> Option<u32> {
        let at = self.waiters.iter().position(|waiter| waiter.who == who)?;
        Some(at as u32 + 1)
    }
}

impl Cluster {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn lock(&mut self, name: &str) -> &mut Lock {
        self.locks.entry(name.to_owned()).or_default()
    }

    fn tell(&mut self, who: Who, name: &str, event: v1::AcquisitionEvent) {
        if event.gone_reason != 0 {
            self.said.entry(who).or_default().push(event.gone_reason());
        }
        let Some(line) = self.named_on.get(&who) else { return };
        let (name, (instance, acquisition_id)) = (name.to_owned(), (who.0.1, who.1));
        let event = v1::AcquisitionEvent { name, instance, acquisition_id, ..event };
        self.news.push((*line, event));
    }

    fn tell_gone(&mut self, who: Who, name: &str, reason: v1::GoneReason) {
        let (kind, gone_reason) = (v1::AcquisitionEventKind::Gone.into(), reason.into());
        self.tell(who, name, v1::AcquisitionEvent { kind, gone_reason, ..Default::default() });
    }

    /// Ends an acquisition; the first end counts.
    fn end_of(&mut self, who: Who, reason: v1::GoneReason) {
        self.said.entry(who).or_default().push(reason);
        self.ended.entry(who).or_insert(reason);
    }

    fn grant(&mut self, now: Duration, name: &str, waiter: Waiter) {
        self.token += 1;
        let token = self.token;
        let condition = waiter.condition;
        let ttl_ms = waiter.ttl.as_millis() as u64;
        let mut hold = Hold {
            life: waiter.who.0,
            open: [waiter.who.1].into(),
            token,
            before: None,
            shared: waiter.shared,
            until: waiter.until,
            agreement: v1::Agreement { condition, revision: 0, claimed: false, ttl_ms },
            too_long_at: None,
            asked: None,
            ending: None,
            orphan: false,
            attributes: Default::default(),
        };
        hold.agree(now);
        self.lock(name).holds.push(hold);
    }

    fn settle(&mut self, now: Duration, name: &str) {
        loop {
            let lock = self.lock(name);
            let Some(first) = lock.waiters.front().filter(|first| lock.fits(first.shared)) else {
                return;
            };
            let who = first.who;
            let waiter = lock.waiters.pop_front().expect("it has just been seen");
            self.grant(now, name, waiter);
            let (token, fence_floor) = (self.token, self.token);
            let kind = v1::AcquisitionEventKind::Granted.into();
            self.tell(
                who,
                name,
                v1::AcquisitionEvent { kind, token, fence_floor, ..Default::default() },
            );
        }
    }

    /// Takes a hold out; its reclaimer gets it, if it is there for one.
    fn end_hold(&mut self, now: Duration, name: &str, token: u64, how: v1::GoneReason, told: bool) {
        let holds = &mut self.lock(name).holds;
        let Some(at) = holds.iter().position(|hold| hold.token == token) else { return };
        let hold = holds.remove(at);
        let reclaimer = hold.ending.as_ref().and_then(|ending| ending.reclaimer);
        for id in &hold.open {
            self.end_of((hold.life, *id), how);
            if told {
                self.tell_gone((hold.life, *id), name, how);
            }
        }
        match reclaimer {
            Some((who, _)) => {
                let token = self.hand_over(now, name, hold, who);
                let kind = v1::AcquisitionEventKind::Granted.into();
                let event =
                    v1::AcquisitionEvent { kind, token, fence_floor: token, ..Default::default() };
                self.tell(who, name, event);
            }
            None => self.settle(now, name),
        }
    }

    fn hand_over(&mut self, now: Duration, name: &str, old: Hold, who: Who) -> u64 {
        self.token += 1;
        let token = self.token;
        self.count("taken back");
        let v1::Agreement { condition, claimed, ttl_ms, .. } = old.agreement;
        let mut hold = Hold {
            life: who.0,
            open: [who.1].into(),
            token,
            before: Some(old.token),
            until: lease(now, old.ttl()),
            agreement: v1::Agreement { condition, revision: 0, claimed, ttl_ms },
            ending: None,
            orphan: false,
            asked: None,
            attributes: Default::default(),
            ..old
        };
        hold.agree(now);
        self.lock(name).holds.push(hold);
        token
    }

    fn begin_ending(&mut self, now: Duration, name: &str, token: u64, how: v1::GoneReason) {
        let hold = self.lock(name).holds.iter_mut().find(|hold| hold.token == token);
        let Some(hold) = hold.filter(|hold| hold.ending.is_none()) else { return };
        hold.ending = Some(Ending { how, reclaimer: None });
        hold.until = lease(now, hold.ttl());
        let whose: Vec<Who> = hold.open.iter().map(|id| (hold.life, *id)).collect();
        let kind = v1::AcquisitionEventKind::Ending.into();
        self.count(how.as_str_name());
        for who in whose {
            let (gone_reason, ending_reason) = (how.into(), "words".to_owned());
            let event = v1::AcquisitionEvent {
                kind,
                token,
                gone_reason,
                ending_reason,
                ..Default::default()
            };
            self.tell(who, name, event);
        }
    }

    /// An operator ends a hold, whatever it is just then.
    fn take_away(&mut self, now: Duration, name: &str, token: u64) {
        let hold = self.lock(name).holds.iter_mut().find(|hold| hold.token == token);
        let Some(hold) = hold else { return };
        let forced = v1::GoneReason::ForceReleased;
        if hold.orphan {
            self.count("orphan ended");
            return self.end_hold(now, name, token, forced, true);
        }
        if let Some(ending) = hold.ending.as_mut()
            && ending.how == v1::GoneReason::Reclaimed
        {
            ending.how = forced;
            let whose: Vec<Who> = hold.open.iter().map(|id| (hold.life, *id)).collect();
            let reclaimer = ending.reclaimer.take();
            whose.into_iter().for_each(|who| self.said.entry(who).or_default().push(forced));
            if let Some((who, _)) = reclaimer {
                self.end_of(who, forced);
                self.tell_gone(who, name, forced);
            }
            return;
        }
        self.begin_ending(now, name, token, forced);
    }

    pub fn force_release(&mut self, now: Duration, name: &str) {
        let tokens: Vec<_> = self.lock(name).holds.iter().map(|hold| hold.token).collect();
        for token in tokens {
            self.take_away(now, name, token);
        }
    }

    pub fn revoke(&mut self, now: Duration, session: usize) {
        let names: Vec<_> = self.locks.keys().cloned().collect();
        for name in names {
            let lock = self.lock(&name);
            let of_session = |life: LifeId| life.0 == session;
            let (leaving, stay) =
                std::mem::take(&mut lock.waiters).into_iter().partition(|it| of_session(it.who.0));
            lock.waiters = stay;
            let holds = lock.holds.iter().filter(|hold| of_session(hold.life));
            let tokens: Vec<_> = holds.map(|hold| hold.token).collect();
            let leaving: VecDeque<Waiter> = leaving;
            for Waiter { who, .. } in leaving {
                self.end_of(who, v1::GoneReason::ForceReleased);
                self.tell_gone(who, &name, v1::GoneReason::ForceReleased);
            }
            for token in tokens {
                self.count("revoked");
                self.take_away(now, &name, token);
            }
            self.settle(now, &name);
        }
    }

    /// Does what is due.
    pub fn pass(&mut self, now: Duration) {
        let names: Vec<_> = self.locks.keys().cloned().collect();
        for name in names {
            self.end_waits(now, &name);
            let tokens: Vec<_> = self.lock(&name).holds.iter().map(|hold| hold.token).collect();
            for token in tokens {
                self.pass_hold(now, &name, token);
            }
            self.settle(now, &name);
        }
    }

    fn end_waits(&mut self, now: Duration, name: &str) {
        let waiters = std::mem::take(&mut self.lock(name).waiters);
        for waiter in waiters {
            let reason = if waiter.until <= now {
                v1::GoneReason::Expired
            } else if waiter.gives_up.is_some_and(|at| at <= now) {
                v1::GoneReason::WaitTimedOut
            } else {
                self.lock(name).waiters.push_back(waiter);
                continue;
            };
            self.end_of(waiter.who, reason);
            self.tell_gone(waiter.who, name, reason);
        }
    }

    fn pass_hold(&mut self, now: Duration, name: &str, token: u64) {
        let lock = self.lock(name);
        let waited_for = !lock.waiters.is_empty();
        let Some(hold) = lock.holds.iter_mut().find(|hold| hold.token == token) else { return };
        if hold.orphan {
            return;
        }
        if let Some(ending) = &mut hold.ending
            && let Some((who, _)) = ending.reclaimer.take_if(|(_, until)| *until <= now)
        {
            self.end_of(who, v1::GoneReason::Expired);
            return self.tell_gone(who, name, v1::GoneReason::Expired);
        }
        if hold.is_live() && hold.too_long_at.is_some_and(|at| at <= now) {
            return self.begin_ending(now, name, token, v1::GoneReason::HeldTooLong);
        }
        if hold.is_live() && hold.asked.take_if(|(_, until)| *until <= now).is_some() {
            if waited_for {
                return self.begin_ending(now, name, token, v1::GoneReason::AskedFor);
            }
            return self.count("nobody waits");
        }
        if hold.until > now {
            return;
        }
        let (how, reclaimed) = match &hold.ending {
            Some(ending) => (ending.how, ending.reclaimer.is_some()),
            None => (v1::GoneReason::Expired, false),
        };
        let left = how == v1::GoneReason::Reclaimed && !reclaimed;
        if hold.agreement.claimed && (hold.ending.is_none() || left) {
            (hold.orphan, hold.ending) = (true, None);
            let whose: Vec<Who> = hold.open.iter().map(|id| (hold.life, *id)).collect();
            self.count("orphaned");
            whose.into_iter().for_each(|who| self.tell_gone(who, name, v1::GoneReason::Orphaned));
        } else {
            self.count("expired");
            self.end_hold(now, name, token, how, true);
        }
    }

    /// Does a call that came over a line, and answers.
    pub fn call(&mut self, now: Duration, line: Line, call: v1::SessionCall) -> v1::SessionAnswer {
        let life = line.0;
        let mut name = |id| {
            self.named_on.insert((life, id), line);
        };
        let body = call.body.expect("no call without a body");
        match &body {
            Call::Acquire(call) => name(call.acquisition_id),
            Call::Reclaim(call) => name(call.acquisition_id),
            Call::KeepAlive(call) => {
                call.items.iter().for_each(|item| name(item.acquisition_id));
            }
            _ => {}
        }
        let answer = match body {
            Call::Acquire(call) => Answer::Acquire(self.acquire(now, life, call)),
            Call::Reclaim(call) => match self.reclaim(now, life, call) {
                Some(answer) => Answer::Acquire(answer),
                None => refused("NOT_RECLAIMABLE"),
            },
            Call::Release(call) => Answer::Release(self.release(now, life, &call)),
            Call::Cancel(call) => Answer::Cancel(self.cancel(now, life, &call)),
            Call::KeepAlive(call) => {
                let seq = call.seq;
                let items = call.items.into_iter();
                let answers = items.map(|item| self.keep_alive(now, life, seq, item)).collect();
                Answer::KeepAlive(v1::KeepAliveResponse { answers })
            }
            Call::Claim(call) => self.claim(life, &call),
            Call::SetCondition(call) => self.set_condition(now, life, &call),
            Call::Ask(call) => self.ask(now, life, &call),
            Call::Downgrade(call) => self.downgrade(now, life, &call),
            Call::SetAttributes(call) => self.set_attributes(life, call),
            Call::CheckToken(_) | Call::GetLock(_) | Call::WatchLock(_) => {
                unreachable!("sessions do not look")
            }
        };
        v1::SessionAnswer { call_id: call.call_id, body: Some(answer) }
    }

    /// The hold on which an acquisition is open.
    fn hold_of(&mut self, name: &str, who: Who) -> Option<&mut Hold> {
        self.lock(name).holds.iter_mut().find(|hold| hold.has(who))
    }

    fn gone(&self, who: Who) -> v1::GoneReason {
        self.ended.get(&who).copied().unwrap_or(v1::GoneReason::Unknown)
    }

    /// The answer to an attempt of an acquisition that is known.
    fn known(&mut self, now: Duration, name: &str, who: Who) -> Option<v1::AcquireResponse> {
        if let Some(reason) = self.ended.get(&who) {
            return Some(acquire_gone(*reason));
        }
        if let Some(hold) = self.hold_of(name, who) {
            if hold.orphan {
                return Some(acquire_gone(v1::GoneReason::Orphaned));
            }
            if hold.ending.is_some() {
                return Some(acquire_gone(v1::GoneReason::ForceReleased));
            }
            hold.renew(now);
            return Some(granted(hold));
        }
        let lock = self.lock(name);
        if let Some(place) = lock.place(who) {
            let waiter = &mut lock.waiters[place as usize - 1];
            waiter.until = waiter.until.max(lease(now, waiter.ttl));
            let (ttl, condition) = (waiter.ttl, waiter.condition);
            return Some(queued(place, ttl, condition));
        }
        for hold in &mut lock.holds {
            let (ttl, agreement) = (hold.ttl(), hold.agreement);
            if let Some(Ending { reclaimer: Some((waits, until)), .. }) = &mut hold.ending
                && *waits == who
            {
                *until = lease(now, ttl);
                return Some(queued(1, ttl, agreement.condition));
            }
        }
        None
    }

    fn acquire(
        &mut self,
        now: Duration,
        life: LifeId,
        call: v1::AcquireRequest,
    ) -> v1::AcquireResponse {
        let who = (life, call.acquisition_id);
        let seq = call.seq;
        let named = |answer: v1::AcquireResponse| v1::AcquireResponse {
            seq,
            acquisition_id: who.1,
            ..answer
        };
        if let Some(answer) = self.known(now, &call.name, who) {
            return named(answer);
        }
        let shared = call.mode == i32::from(v1::LockMode::Shared);
        if let Some(token) = call.reenter_token {
            let is_it = |hold: &&mut Hold| {
                hold.life == life && hold.token == token && hold.is_live() && hold.shared == shared
            };
            if let Some(hold) = self.lock(&call.name).holds.iter_mut().find(is_it) {
                hold.open.insert(who.1);
                hold.renew(now);
                let answer = granted(hold);
                self.count("joined");
                return named(answer);
            }
            self.end_of(who, v1::GoneReason::HoldLost);
            let outcome = v1::AcquireOutcome::HoldLost.into();
            return named(v1::AcquireResponse { outcome, ..Default::default() });
        }
        let ttl = Duration::from_millis(call.ttl_ms.expect("clients say how long"));
        let gives_up = call.wait_ms.map(|ms| now + Duration::from_millis(ms));
        let condition = call.condition;
        let waiter = Waiter { who, shared, until: lease(now, ttl), gives_up, ttl, condition };
        let lock = self.lock(&call.name);
        if lock.waiters.is_empty() && lock.fits(shared) {
            self.grant(now, &call.name, waiter);
        } else if call.wait_ms == Some(0) {
            self.end_of(who, v1::GoneReason::Refused);
            let outcome = v1::AcquireOutcome::HeldByOther.into();
            return named(v1::AcquireResponse { outcome, ..Default::default() });
        } else {
            lock.waiters.push_back(waiter);
        }
        named(self.known(now, &call.name, who).expect("it is there now"))
    }

    /// `None`: refused.
    fn reclaim(
        &mut self,
        now: Duration,
        life: LifeId,
        call: v1::ReclaimRequest,
    ) -> Option<v1::AcquireResponse> {
        let (who, seq, token) = ((life, call.acquisition_id), call.seq, call.token);
        let named = |answer: v1::AcquireResponse| v1::AcquireResponse {
            seq,
            acquisition_id: who.1,
            ..answer
        };
        if let Some(answer) = self.known(now, &call.name, who) {
            return Some(named(answer));
        }
        let Some(hold) = self.lock(&call.name).holds.iter_mut().find(|it| it.token == token) else {
            self.end_of(who, v1::GoneReason::HoldLost);
            let outcome = v1::AcquireOutcome::HoldLost.into();
            return Some(named(v1::AcquireResponse { outcome, ..Default::default() }));
        };
        let newer = hold.life.0 == life.0 && hold.life.1 < life.1;
        let own_orphan = hold.life == life && hold.orphan;
        let ending_lets = hold.ending.as_ref().is_none_or(|ending| {
            let first = ending.reclaimer.is_none_or(|(other, _)| other < who);
            ending.how == v1::GoneReason::Reclaimed && first
        });
        if !(newer || own_orphan) || !ending_lets {
            return None;
        }
        if hold.orphan {
            let (life, open) = (hold.life, hold.open.clone());
            let at = self.lock(&call.name).holds.iter().position(|it| it.token == token);
            let hold = self.lock(&call.name).holds.remove(at.expect("it has just been seen"));
            open.into_iter().for_each(|id| self.end_of((life, id), v1::GoneReason::Reclaimed));
            self.hand_over(now, &call.name, hold, who);
            self.count("orphan taken back");
        } else {
            self.begin_ending(now, &call.name, token, v1::GoneReason::Reclaimed);
            let hold = self.lock(&call.name).holds.iter_mut().find(|it| it.token == token)?;
            let until = lease(now, hold.ttl());
            let ending = hold.ending.as_mut()?;
            if let Some((other, _)) = ending.reclaimer.replace((who, until)) {
                self.end_of(other, v1::GoneReason::Reclaimed);
            }
        }
        Some(named(self.known(now, &call.name, who).expect("it is there now")))
    }

    fn close(&mut self, now: Duration, name: &str, who: Who, token: u64) {
        let Some(hold) = self.hold_of(name, who) else { return };
        if hold.open.len() == 1 {
            return self.end_hold(now, name, token, v1::GoneReason::Released, false);
        }
        hold.open.remove(&who.1);
        self.end_of(who, v1::GoneReason::Released);
    }

    fn release(
        &mut self,
        now: Duration,
        life: LifeId,
        call: &v1::ReleaseRequest,
    ) -> v1::ReleaseResponse {
        let who = (life, call.acquisition_id);
        let holds = self.hold_of(&call.name, who).is_some_and(|hold| hold.token == call.token);
        if holds {
            self.close(now, &call.name, who, call.token);
            let outcome = v1::ReleaseOutcome::Released.into();
            return v1::ReleaseResponse { outcome, ..Default::default() };
        }
        let (outcome, gone_reason) = (v1::ReleaseOutcome::Gone.into(), self.gone(who).into());
        v1::ReleaseResponse { outcome, gone_reason, ..Default::default() }
    }

    fn cancel(
        &mut self,
        now: Duration,
        life: LifeId,
        call: &v1::CancelRequest,
    ) -> v1::CancelResponse {
        let who = (life, call.acquisition_id);
        let token = self.hold_of(&call.name, who).map(|hold| hold.token);
        if let Some(token) = token {
            self.close(now, &call.name, who, token);
        }
        let lock = self.lock(&call.name);
        lock.waiters.retain(|waiter| waiter.who != who);
        for ending in lock.holds.iter_mut().filter_map(|hold| hold.ending.as_mut()) {
            ending.reclaimer.take_if(|(waits, _)| *waits == who);
        }
        self.end_of(who, v1::GoneReason::Cancelled);
        self.settle(now, &call.name);
        let outcome = v1::CancelOutcome::Cancelled.into();
        v1::CancelResponse { outcome, ..Default::default() }
    }

    fn keep_alive(
        &mut self,
        now: Duration,
        life: LifeId,
        seq: u64,
        item: v1::KeepAliveItem,
    ) -> v1::KeepAliveAnswer {
        use v1::KeepAliveState as State;
        let v1::KeepAliveItem { name, acquisition_id } = item;
        let who = (life, acquisition_id);
        let gone = self.gone(who);
        let known = self.known(now, &name, who);
        let mut answer = v1::KeepAliveAnswer { acquisition_id, seq, ..Default::default() };
        let state = match self.hold_of(&name, who) {
            Some(hold) if hold.orphan => {
                answer.gone_reason = v1::GoneReason::Orphaned.into();
                State::Gone
            }
            Some(hold) => {
                (answer.token, answer.fence_floor) = (hold.token, hold.token);
                answer.asked = hold.asked.clone().map(|(mark, until)| remaining(mark, until, now));
                match &hold.ending {
                    Some(ending) => {
                        answer.gone_reason = ending.how.into();
                        answer.ending_reason = "words".to_owned();
                        answer.asked = None;
                        State::Ending
                    }
                    None => State::Held,
                }
            }
            None => match known.filter(|it| it.outcome == v1::AcquireOutcome::Queued as i32) {
                Some(waits) => {
                    answer.place = waits.place;
                    State::Waiting
                }
                None => {
                    answer.gone_reason = gone.into();
                    State::Gone
                }
            },
        };
        v1::KeepAliveAnswer { name, state: state.into(), ..answer }
    }

    /// The hold that its client wants changed; else the answer.
    fn changing(
        &mut self,
        name: &str,
        who: Who,
        token: u64,
    ) -> Result<&mut Hold, Option<v1::GoneReason>> {
        let gone = self.gone(who);
        let hold = self.lock(name).holds.iter_mut().find(|it| it.token == token && it.has(who));
        match hold {
            None => Err(Some(gone)),
            Some(hold) if hold.orphan => Err(Some(v1::GoneReason::Orphaned)),
            Some(hold) if hold.ending.is_some() => Err(None),
            Some(hold) => Ok(hold),
        }
    }

    fn claim(&mut self, life: LifeId, call: &v1::ClaimRequest) -> Answer {
        let hold = match self.changing(&call.name, (life, call.acquisition_id), call.token) {
            Ok(hold) => hold,
            Err(gone) => return agreement_gone(gone),
        };
        if hold.agreement.revision != call.revision {
            return agreed(v1::AgreementOutcome::RevisionMoved, hold);
        }
        if hold.condition().lease != i32::from(v1::LeaseRule::Hold) {
            return refused("BAD_CONDITION");
        }
        hold.agreement.claimed = true;
        let answer = agreed(v1::AgreementOutcome::Agreed, hold);
        self.count("claimed");
        answer
    }

    fn set_condition(
        &mut self,
        now: Duration,
        life: LifeId,
        call: &v1::SetConditionRequest,
    ) -> Answer {
        let hold = match self.changing(&call.name, (life, call.acquisition_id), call.token) {
            Ok(hold) => hold,
            Err(gone) => return agreement_gone(gone),
        };
        let wanted = call.condition.unwrap_or_default();
        if hold.agreement.revision != call.revision {
            // What it is by an earlier attempt is what is wanted.
            let is_wanted = hold.agreement.revision == call.revision + 1
                && hold.condition() == wanted
                && hold.agreement.ttl_ms == call.ttl_ms;
            return match is_wanted {
                true => agreed(v1::AgreementOutcome::Agreed, hold),
                false => agreed(v1::AgreementOutcome::RevisionMoved, hold),
            };
        }
        if call.ttl_ms < hold.agreement.ttl_ms {
            return refused("LEASE_SHORTENED");
        }
        hold.agreement.condition = call.condition;
        hold.agreement.ttl_ms = call.ttl_ms;
        hold.agreement.revision += 1;
        hold.agreement.claimed &= wanted.lease == i32::from(v1::LeaseRule::Hold);
        hold.agree(now);
        let answer = agreed(v1::AgreementOutcome::Agreed, hold);
        self.count("agreed anew");
        answer
    }

    fn ask(&mut self, now: Duration, life: LifeId, call: &v1::AskRequest) -> Answer {
        let who = (life, call.acquisition_id);
        let lock = self.lock(&call.name);
        if lock.place(who).is_none() {
            return refused("NOT_WAITING");
        }
        let mut told = Vec::new();
        for hold in lock.holds.iter_mut().filter(|hold| hold.is_live() && hold.asked.is_none()) {
            let Some(grace_ms) = hold.condition().ask_grace_ms else { continue };
            let mark = v1::AskMark {
                session: format!("{}", life.0),
                owner_id: String::new(),
                since_unix_ms: now.as_millis() as u64,
                grace_ms,
                remaining_ms: grace_ms,
            };
            hold.asked = Some((mark.clone(), now + Duration::from_millis(grace_ms)));
            told.extend(hold.open.iter().map(|id| ((hold.life, *id), mark.clone())));
        }
        for (who, mark) in told {
            self.count("asked");
            let (kind, asked) = (v1::AcquisitionEventKind::Asked.into(), Some(mark));
            self.tell(who, &call.name, v1::AcquisitionEvent { kind, asked, ..Default::default() });
        }
        Answer::Ask(v1::AskResponse { asked_count: 1, ..Default::default() })
    }

    fn downgrade(&mut self, now: Duration, life: LifeId, call: &v1::DowngradeRequest) -> Answer {
        let who = (life, call.acquisition_id);
        let gone = self.gone(who);
        let next = self.token + 1;
        let down = |outcome: v1::DowngradeOutcome, token, gone: v1::GoneReason| {
            let (outcome, gone_reason) = (outcome.into(), gone.into());
            let fence_floor = token;
            Answer::Downgrade(v1::DowngradeResponse {
                outcome,
                token,
                fence_floor,
                gone_reason,
                ..Default::default()
            })
        };
        let down_gone = |gone| down(v1::DowngradeOutcome::Gone, 0, gone);
        let Some(hold) = self.hold_of(&call.name, who) else { return down_gone(gone) };
        let is_duplicate = hold.shared && hold.before == Some(call.token);
        if hold.orphan {
            return down_gone(v1::GoneReason::Orphaned);
        } else if hold.token != call.token && !is_duplicate {
            return down_gone(gone);
        } else if is_duplicate {
            let token = hold.token;
            return down(v1::DowngradeOutcome::Downgraded, token, v1::GoneReason::Unspecified);
        } else if hold.ending.is_some() {
            return refused("HOLD_ENDING");
        } else if hold.shared {
            return refused("MODE_MISMATCH");
        }
        (hold.before, hold.token, hold.shared) = (Some(hold.token), next, true);
        hold.renew(now);
        self.token = next;
        self.count("downgraded");
        self.settle(now, &call.name);
        down(v1::DowngradeOutcome::Downgraded, next, v1::GoneReason::Unspecified)
    }

    fn set_attributes(&mut self, life: LifeId, call: v1::SetAttributesRequest) -> Answer {
        use v1::SetAttributesOutcome as Outcome;
        let who = (life, call.acquisition_id);
        let (outcome, gone) = match self.changing(&call.name, who, call.token) {
            Ok(hold) if call.seq < hold.attributes.0 => (Outcome::Overtaken, None),
            Ok(hold) => {
                hold.attributes = (call.seq, call.attributes);
                (Outcome::Set, None)
            }
            Err(Some(gone)) => (Outcome::Gone, Some(gone)),
            Err(None) => return refused("HOLD_ENDING"),
        };
        if outcome == Outcome::Set {
            self.count("attributes");
        }
        let gone_reason = gone.unwrap_or(v1::GoneReason::Unspecified).into();
        Answer::SetAttributes(v1::SetAttributesResponse {
            outcome: outcome.into(),
            gone_reason,
            ..Default::default()
        })
    }
}

fn granted(hold: &Hold) -> v1::AcquireResponse {
    v1::AcquireResponse {
        outcome: v1::AcquireOutcome::Granted.into(),
        token: hold.token,
        fence_floor: hold.token,
        ttl_ms: hold.agreement.ttl_ms,
        agreement: hold.agreement.condition.map(|_| hold.agreement),
        ..Default::default()
    }
}

fn queued(place: u32, ttl: Duration, condition: Option<v1::Condition>) -> v1::AcquireResponse {
    let ttl_ms = ttl.as_millis() as u64;
    let agreed = |it| v1::Agreement { condition: Some(it), revision: 0, claimed: false, ttl_ms };
    v1::AcquireResponse {
        outcome: v1::AcquireOutcome::Queued.into(),
        place,
        ttl_ms,
        agreement: condition.map(agreed),
        ..Default::default()
    }
}

fn acquire_gone(reason: v1::GoneReason) -> v1::AcquireResponse {
    let (outcome, gone_reason) = (v1::AcquireOutcome::Gone.into(), reason.into());
    v1::AcquireResponse { outcome, gone_reason, ..Default::default() }
}

fn agreed(outcome: v1::AgreementOutcome, hold: &Hold) -> Answer {
    let (outcome, agreement) = (outcome.into(), Some(hold.agreement));
    Answer::Agreement(v1::AgreementResponse { outcome, agreement, ..Default::default() })
}

/// Of what is no more, or, without a reason, is ending.
fn agreement_gone(gone: Option<v1::GoneReason>) -> Answer {
    let Some(gone) = gone else { return refused("HOLD_ENDING") };
    let (outcome, gone_reason) = (v1::AgreementOutcome::Gone.into(), gone.into());
    Answer::Agreement(v1::AgreementResponse { outcome, gone_reason, ..Default::default() })
}

fn refused(reason: &str) -> Answer {
    const FAILED_PRECONDITION: i32 = 9;
    failed(FAILED_PRECONDITION, reason)
}

/// An error answer.
pub fn failed(code: i32, reason: &str) -> Answer {
    let (message, reason) = (reason.to_owned(), reason.to_owned());
    Answer::Failure(v1::Failure { code, reason, message, ..Default::default() })
}

fn remaining(mark: v1::AskMark, until: Duration, now: Duration) -> v1::AskMark {
    let remaining_ms = until.saturating_sub(now).as_millis() as u64;
    v1::AskMark { remaining_ms, ..mark }
}
