//! Stores and the masters: a store registers before it serves, then says what it is and leads, as the
//! data server's heart does, and follows what it is told.

use std::collections::BTreeSet;

use bytes::Bytes;
use sharklock_dataserver::{Input, Reports, Worker, removed_by_masters};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_master::{Reason, Reply, Request};
use sharklock_multiraft::StoreIdent;
use sharklock_proto::{
    ClusterId, Life, Start,
    internal::v1::{
        RaiseLevel, RegisterStoreRequest, RegisterStoreResponse, StoreAddress,
        StoreHeartbeatRequest, StoreHeartbeatResponse,
    },
};
use sharklock_rangemap::{RangeId, StoreId};

use crate::asking::{Asker, Heard, Question, Seeker};
use crate::node::Node;
use crate::note;
use crate::ranges::descriptor;
use crate::split_ids::Errand;
use crate::world::{Event, S, World};

/// How long one heartbeat looks for the leading master before the next takes its place.
const ASK_FOR_NS: u64 = 3 * S;
/// Between two heartbeats; the first of a life come sooner.
const BEAT_EVERY_NS: u64 = S;
/// The first pause is this part of the usual one, and then it doubles.
const FIRST_PAUSES: u64 = 16;
/// With steps to do the pause is this part of the usual one.
const STEPS_PAUSE: u64 = 8;
/// Ranges in one heartbeat: few, so that what a store has to say takes several.
const RANGES_PER_BEAT: usize = 5;

/// What the leading master knows from this life of a store.
#[derive(Debug)]
pub struct Heart {
    /// Whom to ask.
    pub seeker: Seeker,
    /// Which start of its machine this life is, and its name.
    start: Start,
    seq: u64,
    reports: Reports,
    stores_hash: u64,
    /// When the heartbeat on its way was begun; None: none is.
    since_ns: Option<u64>,
    pause_ns: u64,
    /// The last answer had steps to do.
    has_steps: bool,
    /// How often this store had begun to lead when it last beat.
    promotions: u64,
    /// The next beat: only the event with this number counts.
    beat: u64,
    /// The stores that it takes letters from.
    pub peers: BTreeSet<StoreId>,
    /// The requests for ids that are not answered.
    pub errands: Vec<Errand>,
}

impl Heart {
    /// Of a life that begins; its registration is the first thing that it asks.
    pub fn new(number: usize, life: u32, start: u64, masters: usize) -> Self {
        let mut name = [0; 16];
        name[0] = number as u8;
        name[8..12].copy_from_slice(&life.to_le_bytes());
        Self {
            seeker: Seeker::new(masters),
            start: Start { number: start, life: Life::from_bytes(name) },
            seq: 0,
            reports: Reports::in_pages_of(RANGES_PER_BEAT),
            stores_hash: 0,
            since_ns: None,
            pause_ns: BEAT_EVERY_NS / FIRST_PAUSES,
            has_steps: false,
            promotions: 0,
            beat: 0,
            peers: BTreeSet::new(),
            errands: Vec::new(),
        }
    }

    fn follow(&mut self, stores: &[StoreAddress]) {
        self.peers = stores.iter().map(|store| StoreId(store.store_id)).collect();
    }
}

impl World {
    /// A process that has opened its disk asks to be taken in.
    pub(crate) fn store_registers(&mut self, number: usize) {
        let question = self.next_question();
        let store = &mut self.stores[number - 1];
        let Some(heart) = store.heart.as_mut().filter(|_| store.process.is_none()) else { return };
        let known = store.known;
        let request = RegisterStoreRequest {
            ident: store.ident.to_wire(),
            cluster_id: known.map_or(Bytes::new(), |it| it.cluster_id.to_wire()),
            store_id: known.map_or(0, |it| it.store.0),
            address: format!("s{number}"),
            start: heart.start.number,
            life: heart.start.life.to_wire(),
            version: "simulated".to_owned(),
            feature_level: FEATURE_LEVEL,
            labels: Vec::new(),
            node: String::new(),
        };
        heart.seeker.number = question;
        let (seeker, life) = (heart.seeker, store.life);
        let asker = Asker { node: Node::Store(number), life, number: question };
        let question = Question::Request(Box::new(Request::RegisterStore(request)));
        self.ask_masters(asker, &seeker, question);
    }

    /// What came of a store's question.
    pub(crate) fn store_hears(&mut self, number: usize, asker: Asker, heard: Heard) {
        if self.ids_heard(number, asker, &heard) {
            return;
        }
        let store = &mut self.stores[number - 1];
        let life = store.life;
        let Some(heart) = store.heart.as_mut().filter(|_| asker.life == life) else { return };
        if heart.seeker.number != asker.number {
            return;
        }
        heart.seeker.number = 0;
        let reply = match heard {
            Heard::Reply(reply) => *reply,
            Heard::Routes(_) => unreachable!("stores do not watch"),
            Heard::Nothing => {
                heart.seeker.led_away(None);
                return self.store_asks_again(number);
            }
        };
        match reply {
            Reply::Registered(answer) => {
                heart.seeker.answered();
                self.store_is_taken_in(number, answer);
            }
            Reply::Heard(answer) => {
                heart.seeker.answered();
                self.store_is_heard(number, answer);
            }
            Reply::Refused(refusal) if refusal.reason.is_retryable() => {
                heart.seeker.led_away(refusal.leader.as_deref());
                self.store_asks_again(number);
            }
            Reply::Refused(refusal)
                if refusal.reason == Reason::StoreGone && self.losses.is_known(number) =>
            {
                self.store_is_refused(number);
            }
            // A machine has one process at a time, and none has a copy of its disk.
            Reply::Refused(refusal) => {
                let what = format!("s{number}, which is no copy, is refused: {}", refusal.message);
                self.violated("registration", &[format!("s{number}")], format_args!("{what}"));
            }
            other => unreachable!("a store is not answered {other:?}"),
        }
    }

    fn store_asks_again(&mut self, number: usize) {
        let store = &mut self.stores[number - 1];
        let (life, registers) = (store.life, store.process.is_none());
        let Some(heart) = &mut store.heart else { return };
        let pause = heart.seeker.pause_ns(&mut self.dice.streams);
        let too_late = heart.since_ns.is_some_and(|since| since + ASK_FOR_NS < self.now + pause);
        if !registers && too_late {
            heart.since_ns = None;
            return self.plan_beat(number);
        }
        let at = self.now + pause;
        self.queue.plan(at, Event::StoreAsks { store: number, life });
    }

    /// The pause before another try is over.
    pub(crate) fn store_asks(&mut self, number: usize, life: u32) {
        let store = &self.stores[number - 1];
        if store.life != life {
            return;
        }
        if store.paused_until > self.now {
            let until = store.paused_until;
            return self.plan_after_pause(until, Event::StoreAsks { store: number, life });
        }
        if store.process.is_none() {
            self.store_registers(number);
        } else {
            self.beat_out(number);
        }
    }

    /// The masters have taken it in: it serves.
    fn store_is_taken_in(&mut self, number: usize, answer: RegisterStoreResponse) {
        let cluster_id = ClusterId::from_wire(&answer.cluster_id);
        let cluster_id = cluster_id.expect("masters say which cluster they are");
        let id = StoreId(answer.store_id);
        let store = &mut self.stores[number - 1];
        if store.process.is_some() {
            return;
        }
        let ident = StoreIdent { cluster_id, store: id, ident: store.ident };
        if store.known.is_some_and(|known| known != ident) {
            let what = format!("s{number} was {:?}, and is now {ident:?}", store.known);
            return self.violated("registration", &[format!("s{number}")], format_args!("{what}"));
        }
        if let Some(other) = self.stores.iter().find(|it| it.id == Some(id) && it.number != number)
        {
            let what = format!("s{number} and s{} both are store {id}", other.number);
            return self.violated("registration", &[format!("s{number}")], format_args!("{what}"));
        }
        if self.losses.is_known(number) {
            let what = format!("s{number} is gone for good, and taken in again as store {id}");
            return self.violated("registration", &[format!("s{number}")], format_args!("{what}"));
        }
        note!(self, "s{number} is taken in as store {id}");
        let made = if self.ranges.are_made_by_hand() { self.ranges.all() } else { &[] };
        let store = &mut self.stores[number - 1];
        store.is_founded(ident, made);
        let heart = store.heart.as_mut().expect("it has asked");
        heart.follow(&answer.stores);
        self.store_serves(number);
        self.plan_beat(number);
    }

    fn plan_beat(&mut self, number: usize) {
        let store = &mut self.stores[number - 1];
        let life = store.life;
        let Some(heart) = &mut store.heart else { return };
        heart.beat += 1;
        let beat = heart.beat;
        let pause = match heart.has_steps {
            true => BEAT_EVERY_NS / STEPS_PAUSE,
            false => heart.pause_ns,
        };
        let at = self.now + pause;
        heart.pause_ns = (heart.pause_ns * 2).min(BEAT_EVERY_NS);
        self.queue.plan(at, Event::Beat { store: number, life, beat });
    }

    /// Who has begun to lead has news for the masters.
    pub(crate) fn store_has_news(&mut self, number: usize) {
        let store = &mut self.stores[number - 1];
        let Some(promotions) = store.process.as_ref().map(|it| it.stats().promotions) else {
            return;
        };
        let Some(heart) = &mut store.heart else { return };
        // While one is on its way the news follow it.
        if heart.promotions == promotions || heart.since_ns.is_some() {
            return;
        }
        self.beats(number);
    }

    /// A beat is due.
    pub(crate) fn beat(&mut self, number: usize, life: u32, beat: u64) {
        let store = &self.stores[number - 1];
        let is_next = store.heart.as_ref().is_some_and(|heart| heart.beat == beat);
        if store.life != life || !is_next || store.process.is_none() {
            return;
        }
        if store.paused_until > self.now {
            let until = store.paused_until;
            return self.plan_after_pause(until, Event::Beat { store: number, life, beat });
        }
        self.beats(number);
    }

    fn beats(&mut self, number: usize) {
        let store = &mut self.stores[number - 1];
        let (Some(heart), Some(process)) = (&mut store.heart, &mut store.process) else { return };
        // A planned one is not due any more.
        heart.beat += 1;
        heart.seq += 1;
        heart.since_ns = Some(self.now);
        heart.promotions = process.stats().promotions;
        for worker in 0..process.workers() {
            heart.reports.note(worker, process.take_reports(worker));
        }
        self.beat_out(number);
    }

    fn beat_out(&mut self, number: usize) {
        let question = self.next_question();
        let store = &mut self.stores[number - 1];
        let (Some(heart), Some(process)) = (&mut store.heart, &store.process) else { return };
        let known = store.known.expect("it serves");
        let request = StoreHeartbeatRequest {
            cluster_id: known.cluster_id.to_wire(),
            store_id: known.store.0,
            start: heart.start.number,
            life: heart.start.life.to_wire(),
            seq: heart.seq,
            replicas_count: process.cores().map(|core| core.ranges_count() as u32).sum(),
            stores_hash: heart.stores_hash,
            waits: process.cores().flat_map(Worker::waiting_steps).collect(),
            orphans: process.cores().flat_map(Worker::orphans).collect(),
            absent: process.cores().flat_map(Worker::absent).collect(),
            ..heart.reports.heartbeat()
        };
        heart.seeker.number = question;
        let (seeker, life) = (heart.seeker, store.life);
        let asker = Asker { node: Node::Store(number), life, number: question };
        for waits in &request.waits {
            note!(self, "s{number} waits with operator {}: {}", waits.operator_id, waits.because);
        }
        let request = Request::StoreHeartbeat(request);
        self.ask_masters(asker, &seeker, Question::Request(Box::new(request)));
    }

    /// A master has heard a heartbeat.
    fn store_is_heard(&mut self, number: usize, answer: StoreHeartbeatResponse) {
        self.counters.count("heartbeats heard by masters");
        let store = &mut self.stores[number - 1];
        let Some(heart) = &mut store.heart else { return };
        heart.since_ns = None;
        let goes_on = heart.reports.answered(answer.heard);
        if heart.stores_hash != answer.stores_hash {
            heart.stores_hash = answer.stores_hash;
            heart.follow(&answer.stores);
        }
        let ident = store.known.expect("it serves");
        heart.has_steps = !answer.steps.is_empty();
        for range in &answer.bootstrap {
            self.counters.count("ranges that masters asked for");
            let (descriptor, level) = (descriptor(range), answer.bootstrap_level);
            self.store_told(number, Input::Create { descriptor, level });
        }
        for removed in answer.removed {
            self.counters.count("replicas that masters know to be removed");
            note!(self, "s{number} is told that {removed:?} is no member");
            self.store_told(number, removed_by_masters(&ident, removed));
        }
        for step in answer.steps {
            self.counters.count("steps that masters asked for");
            note!(self, "s{number} is told of r{}: {:?}", step.range_id, step.step);
            self.store_told(number, Input::Step(Box::new(step)));
        }
        for range in answer.asked_about {
            self.store_told(number, Input::AskedAbout(RangeId(range)));
        }
        for order in answer.alone {
            note!(self, "s{number} is told to go on alone with r{}", order.range_id);
            self.store_told(number, Input::GoOnAlone(Box::new(order)));
        }
        for RaiseLevel { range_id, conf_ver, feature_level: level } in answer.raise {
            let range = RangeId(range_id);
            self.store_told(number, Input::RaiseLevel { range, conf_ver, level });
        }
        if goes_on {
            self.counters.count("heartbeats that had more to say");
            return self.beats(number);
        }
        self.plan_beat(number);
        self.store_has_news(number);
    }
}
