//! Ids for the splits that workers want, as the edge's clerk gets them (`split_ids.rs` there): one
//! request to the leading master for what a turn wants, for so long and no longer. Where a run has no
//! masters the world gives them, or nobody does.

use sharklock_dataserver::{IdsWanted, Input};
use sharklock_master::{Reply, Request};
use sharklock_multiraft::Split;
use sharklock_proto::internal::v1::AllocateIdsRequest;
use sharklock_rangemap::{Epoch, PeerId, RangeId};

use crate::asking::{Asker, Heard, Question, Seeker};
use crate::node::Node;
use crate::note;
use crate::poll::leader_of;
use crate::splits::Asked;
use crate::world::{Event, MS, S, World};

/// The masters are asked for so long.
const ASK_FOR_NS: u64 = 2_500 * MS;
/// How late the clerk may tell a worker what it has heard.
const LATE_MAX_NS: u64 = 3 * S;

/// A request for ids that is not answered.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Its number.
    number: u64,
    wanted: Vec<IdsWanted>,
    seeker: Seeker,
    /// So late the worker hears of the answer.
    late: u64,
    until_ns: u64,
}

/// What may happen next with a request for ids.
#[derive(Debug)]
pub enum IdsStep {
    /// The pause before another try of this errand is over.
    Asks(u64),
    /// The time of this errand is over.
    Ends(u64),
    /// A worker hears what came of it.
    Told(Box<Input>),
}

impl World {
    /// A worker wants splits to be made.
    pub(crate) fn ids_wanted(&mut self, number: usize, wanted: Vec<IdsWanted>) {
        if wanted.is_empty() {
            return;
        }
        for IdsWanted { range, epoch, key, replicas, .. } in &wanted {
            note!(self, "s{number} wants {} ids to split {range} ({epoch}) at {key}", replicas + 1);
            self.counters.count("splits that want ids");
        }
        self.ids_were_wanted(&wanted);
        let late = self.draw_lateness(&wanted);
        let seeker = self.stores[number - 1].heart.as_ref().map(|heart| heart.seeker);
        let Some(mut seeker) = seeker else { return self.world_gives_ids(number, wanted, late) };
        seeker.answered();
        let until_ns = self.now + ASK_FOR_NS;
        let errand = Errand { number: self.next_question(), wanted, seeker, late, until_ns };
        self.plan_ids(number, until_ns, IdsStep::Ends(errand.number));
        self.ask_for_ids(number, errand);
    }

    /// Ids are there within milliseconds, mostly. Sometimes so much later that the range may be another
    /// by then, or be led elsewhere: what it takes for that is helped along.
    fn draw_lateness(&mut self, wanted: &[IdsWanted]) -> u64 {
        let dice = &mut self.dice.asked_splits;
        if self.is_calm || !dice.one_in(4) {
            return 0;
        }
        let late = dice.below(LATE_MAX_NS);
        for IdsWanted { range, epoch, key, replicas, .. } in wanted {
            let at = self.now + self.dice.asked_splits.below(late);
            match self.dice.asked_splits.below(3) {
                0 => _ = self.plan_split_fault(*range, at),
                1 => self.plan_rival(*range, *epoch, key, *replicas, at),
                _ => {}
            }
        }
        late
    }

    /// Another split of the range comes first, perhaps at the same place.
    fn plan_rival(&mut self, range: RangeId, epoch: Epoch, key: &str, replicas: usize, at: u64) {
        let Some(leader) = leader_of(&self.stores, range) else { return };
        let store = leader.number;
        if !self.splits.have_ids(1 + replicas as u64) {
            return;
        }
        let child = RangeId(self.splits.next_ids(1));
        let first = self.splits.next_ids(replicas as u64);
        let child_peers = (first..).take(replicas).map(PeerId).collect();
        let is_same = self.dice.asked_splits.one_in(2);
        let key = if is_same { key.to_owned() } else { format!("{key}!") };
        let split = Split { epoch, key, child, child_peers };
        let asked = Asked { store, range, split, is_spoilt: false };
        self.queue.plan(at, Event::SplitAsked(Box::new(asked)));
    }

    /// Nobody asks masters where there are none.
    fn world_gives_ids(&mut self, number: usize, wanted: Vec<IdsWanted>, late: u64) {
        let is_refused = self.dice.asked_splits.one_in(8);
        if is_refused {
            return self.no_ids(number, wanted, self.now + ASK_FOR_NS);
        }
        let count = wanted.iter().map(|wanted| 1 + wanted.replicas as u64).sum();
        let first = self.splits.next_ids(count);
        let at = self.now + 2 * self.draw_ids_ns() + self.commit_ns() + late;
        self.hand_out(number, first, wanted, at);
    }

    fn draw_ids_ns(&mut self) -> u64 {
        self.dice.asked_splits.around(self.options.stream_delay_us * 1_000)
    }

    fn ask_for_ids(&mut self, number: usize, mut errand: Errand) {
        let question = self.next_question();
        let store = &mut self.stores[number - 1];
        let (Some(heart), Some(known)) = (&mut store.heart, store.known) else { return };
        let needs: usize = errand.wanted.iter().map(|wanted| 1 + wanted.replicas).sum();
        let count = u32::try_from(needs).expect("a range has few replicas");
        let request = AllocateIdsRequest { cluster_id: known.cluster_id.to_wire(), count };
        errand.seeker.number = question;
        let (seeker, life) = (errand.seeker, store.life);
        heart.errands.push(errand);
        let asker = Asker { node: Node::Store(number), life, number: question };
        let question = Question::Request(Box::new(Request::AllocateIds(request)));
        self.ask_masters(asker, &seeker, question);
    }

    /// What came of a store's question, if it was one for ids. False: it was another.
    pub(crate) fn ids_heard(&mut self, number: usize, asker: Asker, heard: &Heard) -> bool {
        let store = &mut self.stores[number - 1];
        let Some(heart) = store.heart.as_mut().filter(|_| asker.life == store.life) else {
            return false;
        };
        let is_it = |errand: &Errand| errand.seeker.number == asker.number;
        let Some(at) = heart.errands.iter().position(is_it) else { return false };
        let mut errand = heart.errands.remove(at);
        match heard {
            Heard::Reply(reply) => match reply.as_ref() {
                Reply::Allocated(given) => self.ids_are_given(number, errand, given.first),
                Reply::Refused(refusal) if refusal.reason.is_retryable() => {
                    errand.seeker.led_away(refusal.leader.as_deref());
                    self.ask_for_ids_again(number, errand);
                }
                other => unreachable!("who asks for ids is not answered {other:?}"),
            },
            Heard::Nothing => {
                errand.seeker.led_away(None);
                self.ask_for_ids_again(number, errand);
            }
            Heard::Routes(_) => unreachable!("stores do not watch"),
        }
        true
    }

    fn ask_for_ids_again(&mut self, number: usize, mut errand: Errand) {
        let pause = errand.seeker.pause_ns(&mut self.dice.asked_splits);
        errand.seeker.number = 0;
        let step = IdsStep::Asks(errand.number);
        let heart = self.stores[number - 1].heart.as_mut();
        heart.expect("its process has just heard").errands.push(errand);
        self.plan_ids(number, self.now + pause, step);
    }

    fn ids_are_given(&mut self, number: usize, errand: Errand, first: u64) {
        self.counters.count("ids of masters for splits");
        self.hand_out(number, first, errand.wanted, self.now + errand.late);
    }

    /// As the clerk does it.
    fn hand_out(&mut self, number: usize, first: u64, wanted: Vec<IdsWanted>, at: u64) {
        let mut ids = first..;
        for IdsWanted { range, epoch, key, replicas, term } in wanted {
            let count = 1 + replicas as u64;
            let given: Vec<u64> = ids.by_ref().take(count as usize).collect();
            let [child, peers @ ..] = given.as_slice() else { unreachable!("a split wants ids") };
            if let Some(twice) = self.splits.given_twice(&given) {
                let what = format_args!("s{number} is given {twice}, which was given before");
                return self.violated("ids", &[], what);
            }
            let child_peers = peers.iter().copied().map(PeerId).collect();
            let split = Split { epoch, key, child: RangeId(*child), child_peers };
            self.ids_were_given(range, &split);
            let told = Box::new(Input::Split { range, term: Some(term), split });
            self.plan_ids(number, at, IdsStep::Told(told));
        }
    }

    fn no_ids(&mut self, number: usize, wanted: Vec<IdsWanted>, at: u64) {
        for wanted in wanted {
            let told = Input::NoIds { wanted, why: "simulated".to_owned() };
            self.plan_ids(number, at, IdsStep::Told(Box::new(told)));
        }
    }

    fn plan_ids(&mut self, number: usize, at: u64, step: IdsStep) {
        let life = self.stores[number - 1].life;
        self.queue.plan(at, Event::Ids { store: number, life, step });
    }

    /// Something happens with a request for ids.
    pub(crate) fn ids_step(&mut self, number: usize, life: u32, step: IdsStep) {
        let store = &mut self.stores[number - 1];
        if store.life != life || store.process.is_none() {
            return;
        }
        if store.paused_until > self.now {
            let until = store.paused_until;
            return self.plan_after_pause(until, Event::Ids { store: number, life, step });
        }
        let errands = store.heart.as_mut().map(|heart| &mut heart.errands);
        let take = |number: u64, is_waiting: bool| {
            let is_it = |it: &Errand| it.number == number && (!is_waiting || it.seeker.number == 0);
            let errands = errands?;
            let at = errands.iter().position(is_it)?;
            Some(errands.remove(at))
        };
        match step {
            IdsStep::Asks(errand) => {
                let Some(errand) = take(errand, true) else { return };
                // Otherwise its end is as near.
                if self.now < errand.until_ns {
                    self.ask_for_ids(number, errand);
                } else {
                    self.no_ids(number, errand.wanted, self.now);
                }
            }
            IdsStep::Ends(errand) => {
                let Some(errand) = take(errand, false) else { return };
                self.no_ids(number, errand.wanted, self.now);
            }
            IdsStep::Told(input) => self.ids_told(number, *input),
        }
    }

    fn ids_told(&mut self, number: usize, input: Input) {
        let store = &self.stores[number - 1];
        match &input {
            Input::Split { range, split, .. } => {
                let epoch = store.descriptor(*range).map(|it| it.epoch);
                self.counters.count(match () {
                    () if !store.answers(*range) => "ids that come when leadership has moved on",
                    () if epoch != Some(split.epoch) => "ids that come when the epoch is over",
                    () => "ids that come in time",
                });
                note!(self, "s{number} gets ids to split {range} into {}", split.child);
            }
            Input::NoIds { wanted, .. } => {
                self.counters.count("splits that get no ids");
                note!(self, "s{number} gets no ids to split {}", wanted.range);
            }
            other => unreachable!("a clerk says no {other:?}"),
        }
        self.store_told(number, input);
    }
}
