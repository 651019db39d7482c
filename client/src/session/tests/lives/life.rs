//! One life of a session: its driver, its users with their guards, and what its state file would hold.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Counts, LifeId, NAMES, TTL,
    cluster::Cluster,
    judge::{Judge, Seen},
    name,
};
use crate::{
    condition::{Condition, LeaseRule},
    error::{AcquireError, LostReason},
    events::GuardEventKind,
    grant::Grant,
    ids::FencingToken,
    request::{LockMode, Request, Wait},
    session::{Change, Changed, Driver, LeaseCell, Output, SessionConfig, Told},
};

/// What a state file would hold.
#[derive(Default)]
pub struct Notes {
    /// Of the youngest life.
    pub instance: u64,
    pub holds: BTreeMap<u64, Noted>,
    newest: u64,
}

/// A hold, or the wish for one.
pub struct Noted {
    pub name: String,
    pub instance: u64,
    /// Token and acquisition, once it is granted.
    pub grant: Option<(u64, u64)>,
    stays: bool,
}

/// A guard, or the wish for one.
pub struct Guard {
    pub name: String,
    pub cell: Arc<LeaseCell<()>>,
    pub request: Arc<Request>,
    /// Its entry in the notes; a re-entry has none.
    note: Option<u64>,
    pub grant: Option<Grant>,
    pub token: u64,
    /// It is alone, as far as its user knows: until a downgrade is wanted.
    pub alone: bool,
    given_back_at: Duration,
    pub seen: Seen,
    /// The change that is waited for.
    changing: Option<(u64, Change)>,
}

type Ticket = u64;

pub struct Life {
    pub id: LifeId,
    pub driver: Driver<(), Ticket, Ticket, Ticket>,
    pub output: Output<Ticket, Ticket, Ticket>,
    pub began: Duration,
    /// The connection that is up, or the time of the next try.
    pub connection: Result<u64, Duration>,
    pub spare: Option<Result<u64, Duration>>,
    pub connections_count: u64,
    pub silent_until: Duration,
    pub frozen_until: Duration,
    pub acts_at: Duration,
    /// It has a successor, and goes on until then.
    pub ends_at: Option<Duration>,
    pub is_closing: bool,
    pub is_over: bool,
    newest: Ticket,
    /// Wishes without an answer.
    pub asking: BTreeMap<Ticket, Guard>,
    pub guards: BTreeMap<Ticket, Guard>,
    /// Guards that were given back, and the wish to hear of that.
    pub returned: BTreeMap<Ticket, Guard>,
    pub releases: BTreeMap<Ticket, String>,
    pub changes: BTreeMap<Ticket, Ticket>,
    /// What is being taken back, by its wish: the entry in the notes.
    pub takes_back: BTreeMap<Ticket, u64>,
}

impl Life {
    pub fn new(id: LifeId, config: SessionConfig, now: Duration) -> Self {
        Self {
            id,
            driver: Driver::new(config),
            output: Output::default(),
            began: now,
            connection: Err(now),
            spare: None,
            connections_count: 0,
            silent_until: Duration::ZERO,
            frozen_until: Duration::ZERO,
            acts_at: now,
            ends_at: None,
            is_closing: false,
            is_over: false,
            newest: 0,
            asking: BTreeMap::new(),
            guards: BTreeMap::new(),
            returned: BTreeMap::new(),
            releases: BTreeMap::new(),
            changes: BTreeMap::new(),
            takes_back: BTreeMap::new(),
        }
    }

    pub fn hears(&self, connection: u64) -> bool {
        self.connection == Ok(connection) || self.spare == Some(Ok(connection))
    }

    fn ticket(&mut self) -> Ticket {
        self.newest += 1;
        self.newest
    }

    fn acquire(&mut self, now: Duration, request: Request, notes: &mut Notes) -> Ticket {
        let name = request.name.to_string();
        // In the file before it is asked for.
        let note = request.reenter.is_none().then(|| {
            notes.newest += 1;
            let stays = request.condition.holds() || request.reclaim.is_some();
            let (name, instance, grant) = (name.clone(), self.id.1, None);
            notes.holds.insert(notes.newest, Noted { name, instance, grant, stays });
            notes.newest
        });
        let (request, cell) = (Arc::new(request), Arc::new(LeaseCell::default()));
        let ticket = self.ticket();
        let guard = Guard {
            name,
            cell: Arc::clone(&cell),
            request: Arc::clone(&request),
            note,
            grant: None,
            token: 0,
            alone: false,
            given_back_at: now,
            seen: Seen::default(),
            changing: None,
        };
        self.asking.insert(ticket, guard);
        self.driver.acquire(now, request, cell, ticket);
        ticket
    }

    pub fn reclaim(
        &mut self,
        now: Duration,
        number: u64,
        name: &str,
        token: u64,
        shared: bool,
        notes: &mut Notes,
    ) {
        let reclaim = Some(FencingToken::from_u64(token));
        let mode = if shared { LockMode::Shared } else { LockMode::Exclusive };
        let request = Request { reclaim, mode, ..request(name, Wait::Unbounded) };
        let ticket = self.acquire(now, request, notes);
        self.takes_back.insert(ticket, number);
    }

    pub fn close(&mut self, now: Duration, grace: Duration) {
        if !self.is_closing {
            self.is_closing = true;
            // Users stop within the grace, or not.
            for guard in self.guards.values_mut() {
                guard.given_back_at = now + grace * 3 / 4;
            }
        }
        self.driver.close(now, grace);
    }

    pub fn give_back_what_is_over(&mut self, now: Duration, chaos: bool, draw: u64) {
        let is_over = |guard: &Guard| guard.given_back_at <= now || !chaos && !self.is_closing;
        let over = self.guards.iter().filter(|(_, guard)| is_over(guard));
        for ticket in over.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            let guard = self.guards.remove(&ticket).expect("it has just been seen");
            let release = self.ticket();
            let _lost = guard.cell.give_back(now);
            let wants_word = draw.is_multiple_of(2);
            if wants_word {
                self.releases.insert(release, guard.name.clone());
            }
            self.driver.give_back(now, &guard.cell, wants_word.then_some(release));
            // Nobody hears of the changes of a guard that was given back.
            self.changes.retain(|_, of| *of != ticket);
            self.returned.insert(ticket, guard);
        }
        let dropped = self.asking.keys().next().copied();
        let dropped = dropped
            .filter(|it| draw.is_multiple_of(10) || !chaos && !self.takes_back.contains_key(it));
        if let Some(guard) = dropped.and_then(|ticket| {
            self.takes_back.remove(&ticket);
            self.asking.remove(&ticket)
        }) {
            guard.cell.abandon();
            self.driver.give_back(now, &guard.cell, None);
        }
    }

    /// A user wants something.
    pub fn want(&mut self, now: Duration, draws: [u64; 8], notes: &mut Notes, counts: &mut Counts) {
        let [choice, _, which, kind, how, length, times, ask] = draws;
        let guards = self.guards.len() as u64;
        let chosen = (guards > 0).then(|| which % guards.max(1));
        let chosen = chosen.and_then(|at| self.guards.keys().nth(at as usize).copied());
        match (choice, chosen) {
            (0..6, _) if self.asking.len() < 4 => {
                let wait = match how % 3 {
                    0 => Wait::Try,
                    1 => Wait::AtMost(Duration::from_millis(1 + length % 5_000)),
                    _ => Wait::Unbounded,
                };
                let mode = if kind % 4 == 0 { LockMode::Shared } else { LockMode::Exclusive };
                let (condition, ttl) = condition(kind / 4, times);
                let ask = ask % 3 == 0;
                let wish = request(&name(which % NAMES), wait);
                self.acquire(now, Request { mode, condition, ttl, ask, ..wish }, notes);
            }
            (6, Some(chosen)) => self.reenter(now, chosen, notes),
            (7..10, Some(chosen)) => self.change(now, chosen, [kind, times], notes),
            (10, Some(chosen)) => {
                let guard = &self.guards[&chosen];
                let _found = guard.cell.check(now);
                let stays = guard.cell.agreement().is_some_and(|agreed| agreed.claimed);
                let is_cut_off =
                    matches!(guard.cell.lost(), Some(LostReason::Orphaned | LostReason::Unrenewed));
                if is_cut_off && stays {
                    counts.note("own orphans");
                    let (name, token) = (guard.name.clone(), guard.token);
                    let shared = guard.request.mode == LockMode::Shared;
                    let number = guard.note.unwrap_or(0);
                    self.reclaim(now, number, &name, token, shared, notes);
                    // The lost guard is kept: its drop would free the orphan.
                    let kept = self.guards.get_mut(&chosen).expect("it has just been seen");
                    kept.given_back_at = now + Duration::from_secs(10);
                }
            }
            _ => {}
        }
    }

    /// Whether others have joined the hold of a guard, or are about to.
    fn is_joined(&self, guard: &Guard) -> bool {
        let mut others = self.guards.values().chain(self.asking.values());
        let token = Some(FencingToken::from_u64(guard.token));
        others.any(|other| other.name == guard.name && other.request.reenter == token)
    }

    /// Joins a hold that is not to stay: what the state file would say of one that is, once its first
    /// guard is given back, is another story.
    fn reenter(&mut self, now: Duration, outer: Ticket, notes: &mut Notes) {
        let guard = &self.guards[&outer];
        let agreed = guard.cell.agreement().expect("a guard that is out has one");
        if agreed.condition.holds() || guard.changing.is_some() {
            return;
        }
        let wish = Request {
            reenter: Some(FencingToken::from_u64(guard.token)),
            mode: match guard.alone {
                true => LockMode::Exclusive,
                false => LockMode::Shared,
            },
            ttl: agreed.ttl,
            ..request(&guard.name, Wait::Unbounded)
        };
        self.acquire(now, wish, notes);
    }

    fn change(&mut self, now: Duration, chosen: Ticket, draws: [u64; 2], notes: &mut Notes) {
        let number = self.ticket();
        let [kind, times] = draws;
        let is_joined = self.is_joined(&self.guards[&chosen]);
        let guard = self.guards.get_mut(&chosen).expect("the caller has chosen it");
        let wants_hold = kind % 4 < 2 && condition(kind / 4, times).0.holds();
        if guard.changing.is_some() || wants_hold && (is_joined || guard.note.is_none()) {
            return;
        }
        let change = match kind % 4 {
            0 | 1 => {
                let (condition, ttl) = condition(kind / 4, times);
                // Not shorter, but for some who try.
                let agreed = guard.cell.agreement().map_or(ttl, |agreed| agreed.ttl);
                let missed = matches!(condition.lease, LeaseRule::AfterMissed { .. });
                let ttl = if kind % 16 == 0 || missed { ttl } else { ttl.max(agreed) };
                if let Some(noted) = guard.note.and_then(|note| notes.holds.get_mut(&note)) {
                    noted.stays |= condition.holds();
                }
                Change::SetCondition { condition, ttl }
            }
            2 if guard.alone => {
                guard.alone = false;
                Change::Downgrade
            }
            _ => {
                let attributes = [("k".to_owned(), format!("{number}"))].into();
                Change::SetAttributes { attributes }
            }
        };
        guard.changing = Some((number, change.clone()));
        self.changes.insert(number, chosen);
        let cell = Arc::clone(&guard.cell);
        self.driver.change(now, &cell, change, number);
    }

    /// News for the users.
    #[expect(clippy::too_many_arguments, reason = "all that news can touch")]
    pub fn told(
        &mut self,
        now: Duration,
        draw: u64,
        told: Told<Ticket, Ticket, Ticket>,
        notes: &mut Notes,
        judge: &mut Judge,
        cluster: &Cluster,
        counts: &mut Counts,
    ) {
        match told {
            Told::Acquired { ticket, result } => {
                self.acquired(now, draw, ticket, result, notes, judge, cluster, counts);
            }
            Told::Released { ticket, result } => {
                assert!(self.releases.remove(&ticket).is_some(), "released twice");
                counts.note(if result.is_ok() { "released" } else { "released too late" });
            }
            Told::Changed { ticket, result } => {
                let of =
                    self.changes.remove(&ticket).expect("changed once, while it is waited for");
                let guard = self.guards.get_mut(&of).expect("the guard is out");
                let (_, change) = guard.changing.take().expect("it is waited for");
                judge.changed(now, self.id, guard, &change, &result, cluster);
                let noted = guard.note.and_then(|note| notes.holds.get_mut(&note));
                match result {
                    Ok(Changed::Downgraded { token, .. }) => {
                        counts.note("told of a downgrade");
                        let id = guard.grant.as_ref().expect("it is out").id;
                        guard.token = token.as_u64();
                        Arc::make_mut(&mut guard.request).mode = LockMode::Shared;
                        if let Some(noted) = noted {
                            noted.grant = Some((guard.token, id.0));
                        }
                    }
                    Ok(Changed::Agreed(agreement)) => {
                        counts.note("told of an agreement");
                        if let Some(noted) = noted {
                            noted.stays = agreement.condition.holds();
                        }
                    }
                    Ok(Changed::AttributesSet) => counts.note("told of attributes"),
                    Err(_) => {
                        counts.note("told of no change");
                        guard.alone |= matches!(change, Change::Downgrade)
                            && guard.request.mode == LockMode::Exclusive;
                    }
                }
            }
            Told::Event(event) => {
                let id = event.hold.acquisition;
                let guards = self.guards.values_mut().chain(self.returned.values_mut());
                let is_its =
                    |guard: &&mut Guard| guard.grant.as_ref().is_some_and(|it| it.id == id);
                let guard = guards.into_iter().find(is_its).expect("news are of guards");
                counts.note(kind_name(&event.kind));
                judge.event(now, self.id, guard, &event, self.is_closing, cluster);
                let outlives = match &event.kind {
                    GuardEventKind::Released => false,
                    GuardEventKind::ReleaseUnconfirmed => guard.stays(notes),
                    GuardEventKind::Lost(LostReason::Closed) => true,
                    GuardEventKind::Lost(
                        LostReason::Unrenewed
                        | LostReason::Orphaned
                        | LostReason::ForceReleased { .. }
                        | LostReason::Unknown,
                    ) => guard.stays(notes),
                    GuardEventKind::Lost(_) => false,
                    _ => true,
                };
                if let Some(note) = guard.note.filter(|_| !outlives) {
                    notes.holds.remove(&note);
                }
            }
            Told::Closed(_) => {
                assert!(self.is_closing, "nobody wanted it closed");
                self.is_over = true;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that a grant can touch")]
    fn acquired(
        &mut self,
        now: Duration,
        draw: u64,
        ticket: Ticket,
        result: Result<Grant, AcquireError>,
        notes: &mut Notes,
        judge: &mut Judge,
        cluster: &Cluster,
        counts: &mut Counts,
    ) {
        let taken_back = self.takes_back.remove(&ticket);
        let Some(mut guard) = self.asking.remove(&ticket) else {
            // It was dropped.
            return;
        };
        let grant = match result {
            Ok(grant) => grant,
            Err(error) => {
                counts.note("not acquired");
                let is_certain = !matches!(
                    error,
                    AcquireError::Indeterminate { .. }
                        | AcquireError::Lost { .. }
                        | AcquireError::Failed { .. }
                        | AcquireError::Closed
                );
                if let Some(note) = guard.note.filter(|_| is_certain) {
                    notes.holds.remove(&note);
                }
                if let (Some(number), AcquireError::HoldLost { .. }) = (taken_back, error) {
                    notes.holds.remove(&number);
                }
                return;
            }
        };
        counts.note("acquired");
        judge.granted(now, self.id, &guard, &grant, cluster);
        if let Some(old) = guard.request.reclaim {
            counts.note("reclaimed");
            let is_it = |noted: &Noted| {
                noted.name == guard.name && noted.grant.is_some_and(|it| it.0 == old.as_u64())
            };
            notes.holds.retain(|_, noted| !is_it(noted));
        }
        if let Some(number) = taken_back {
            notes.holds.remove(&number);
        }
        if let Some(note) = guard.note {
            let stays = grant.agreement.condition.holds();
            let granted = Some((grant.token.as_u64(), grant.id.0));
            let (name, instance) = (guard.name.clone(), self.id.1);
            notes.holds.insert(note, Noted { name, instance, grant: granted, stays });
        }
        guard.token = grant.token.as_u64();
        guard.alone = guard.request.mode == LockMode::Exclusive;
        guard.given_back_at = now + Duration::from_millis(draw % 9_000);
        guard.grant = Some(grant);
        self.guards.insert(ticket, guard);
    }
}

impl Guard {
    fn stays(&self, notes: &Notes) -> bool {
        self.note.and_then(|note| notes.holds.get(&note)).is_some_and(|noted| noted.stays)
    }
}

fn request(name: &str, wait: Wait) -> Request {
    Request {
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
    }
}

/// A condition with the lease that goes with it.
fn condition(kind: u64, times: u64) -> (Condition, Duration) {
    let plain = Condition::default();
    let ttl = if times.is_multiple_of(2) { TTL } else { TTL * 2 };
    let time = Some(Duration::from_millis(1 + times % 5_000));
    match kind % 8 {
        0 | 1 => (Condition { lease: LeaseRule::Hold, ..plain }, ttl),
        2 => (Condition { max_hold: time, ..plain }, ttl),
        3 | 4 => (Condition { ask_grace: time, ..plain }, ttl),
        5 => {
            let lease = LeaseRule::AfterMissed { missed: 3, interval: TTL * 2 / 3 };
            (Condition { lease, ..plain }, TTL * 2)
        }
        _ => (plain, ttl),
    }
}

fn kind_name(kind: &GuardEventKind) -> &'static str {
    match kind {
        GuardEventKind::Safe => "safe",
        GuardEventKind::Jeopardy => "in jeopardy",
        GuardEventKind::Asked(_) => "heard of an ask",
        GuardEventKind::Released => "heard of a release",
        GuardEventKind::ReleaseUnconfirmed => "heard of no release",
        GuardEventKind::Lost(reason) => match reason {
            LostReason::Unrenewed => "lost: unrenewed",
            LostReason::Expired => "lost: expired",
            LostReason::ForceReleased { .. } => "lost: force-released",
            LostReason::Orphaned => "lost: orphaned",
            LostReason::Reclaimed => "lost: reclaimed",
            LostReason::HeldTooLong => "lost: held too long",
            LostReason::AskedFor => "lost: asked for",
            LostReason::Closed => "lost: closed",
            _ => "lost: otherwise",
        },
    }
}
