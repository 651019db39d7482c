//! Finding the leading master, and asking it: by the rules of `transport::Masters`. One asks whom seems
//! to lead; where that one does not, or does not answer, another is asked; after each round one waits.

use sharklock_master::{MasterCore, Reply, Request};
use sharklock_proto::internal::v1::RoutesUpdate;

use crate::dice::Dice;
use crate::master::{Post, address};
use crate::node::Node;
use crate::note;
use crate::route_events::Unheard;
use crate::world::{Event, MS, S, World};

/// How long one master may take to answer before another is asked.
const ANSWER_WITHIN_NS: u64 = 2 * S;

/// Who asks, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who.
    pub node: Node,
    /// In which of its lives.
    pub life: u32,
    /// Which question of all.
    pub number: u64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// One question.
    Request(Box<Request>),
    /// All routes, then every change.
    Watch,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The answer.
    Reply(Box<Reply>),
    /// The first routes of a watch.
    Routes(Box<RoutesUpdate>),
    /// No answer, for now.
    Nothing,
}

/// Whom a node asks next.
#[derive(Clone, Copy, Debug)]
pub struct Seeker {
    /// The master, counted from 1.
    next: usize,
    masters: usize,
    /// Since the last answer.
    tries: u32,
    /// The question that is open.
    pub number: u64,
}

impl Seeker {
    /// Of a process that begins.
    pub fn new(masters: usize) -> Self {
        Self { next: 1, masters, tries: 0, number: 0 }
    }

    /// Somebody has answered.
    pub fn answered(&mut self) {
        self.tries = 0;
    }

    /// The next question goes elsewhere: to the leader that was named, or to the next in order.
    pub fn led_away(&mut self, leader: Option<&str>) {
        let named = (1..=self.masters).find(|number| Some(address(*number).as_str()) == leader);
        self.next = match named {
            Some(leader) if leader != self.next => leader,
            _ => self.next % self.masters + 1,
        };
    }

    /// How long to wait before the next question: after each round longer, up to a second.
    pub fn pause_ns(&mut self, dice: &mut Dice) -> u64 {
        self.tries += 1;
        let rounds = self.tries / self.masters as u32;
        if !self.tries.is_multiple_of(self.masters as u32) {
            return 0;
        }
        let longest = ((25 * MS) << rounds.min(10)).min(S);
        dice.between(longest / 2, longest)
    }
}

impl World {
    /// Asks the master that seems to lead. What comes of it is told to the node, once.
    pub(crate) fn ask_masters(&mut self, asker: Asker, next: &Seeker, question: Question) {
        let master = next.next;
        let at = self.now + self.stream_delay_ns();
        self.ask_twice(asker, &question);
        self.queue.plan(at, Event::Asked { master, asker, question });
        let ends = self.now + ANSWER_WITHIN_NS;
        self.queue.plan(ends, Event::Answered { from: None, asker, heard: Heard::Nothing });
    }

    /// A copy of a store's question may lie around, until the process that asked has long ended.
    fn ask_twice(&mut self, asker: Asker, question: &Question) {
        let may = matches!(asker.node, Node::Store(_)) && self.options.asked_twice_ppm > 0;
        if !may || !self.dice.streams.ppm(self.options.asked_twice_ppm) {
            return;
        }
        let master = 1 + self.dice.streams.below(self.masters.len() as u64) as usize;
        let late = self.dice.streams.below(self.options.asked_late_max_ms * MS);
        let at = self.now + late + self.stream_delay_ns();
        self.queue.plan(at, Event::Asked { master, asker, question: question.clone() });
    }

    /// Whether a later life of the store has registered since.
    fn is_of_an_ended_life(&self, asker: Asker) -> bool {
        let Node::Store(number) = asker.node else { return false };
        let store = &self.stores[number - 1];
        store.life > asker.life && store.process.is_some()
    }

    /// A number for a question.
    pub(crate) fn next_question(&mut self) -> u64 {
        self.questions_count += 1;
        self.questions_count
    }

    /// A question arrives at a master.
    pub(crate) fn asked(&mut self, master: usize, asker: Asker, question: Question) {
        let (now, there) = (self.now, Node::Master(master));
        if self.links.is_blocked(asker.node, there) {
            return;
        }
        let node = &mut self.masters[master - 1];
        if node.paused_until > now {
            // It lies in a socket; who comes first there is nobody's promise.
            let until = node.paused_until + self.dice.streams.below(2 * MS);
            return self.plan_after_pause(until, Event::Asked { master, asker, question });
        }
        let Some(process) = node.process.as_mut().filter(|process| process.core.is_some()) else {
            // Nobody listens, or there is no cluster yet: that is known at once.
            return self.answer_asker(master, asker, Heard::Nothing);
        };
        if process.core.as_ref().is_some_and(MasterCore::leads) && self.is_of_an_ended_life(asker) {
            let what = match &question {
                Question::Request(request) if matches!(**request, Request::RegisterStore(_)) => {
                    "registrations of ended lives that masters met"
                }
                _ => "heartbeats of ended lives that masters met",
            };
            self.counters.count(what);
        }
        let Some(process) = self.masters[master - 1].process.as_mut() else { return };
        process.post.push(match question {
            Question::Request(request) => Post::Question(asker, request),
            Question::Watch => Post::Watch(asker),
        });
        self.arm_master(master);
    }

    /// A master's answer leaves.
    pub(crate) fn answer_asker(&mut self, master: usize, asker: Asker, heard: Heard) {
        let at = self.now + self.stream_delay_ns();
        let from = Some(Node::Master(master));
        self.queue.plan(at, Event::Answered { from, asker, heard });
    }

    /// An answer arrives, or the time for it is over.
    pub(crate) fn answered(&mut self, from: Option<Node>, asker: Asker, heard: Heard) {
        if from.is_some_and(|from| self.links.is_blocked(from, asker.node)) {
            return;
        }
        let paused_until = match asker.node {
            Node::Store(number) => self.stores[number - 1].paused_until,
            Node::Gateway(number) => {
                let gateway = &mut self.gateways[number - 1];
                if gateway.paused_until > self.now {
                    return gateway.unheard.push(Unheard::Answer(from, asker, heard));
                }
                0
            }
            Node::Operator => 0,
            Node::Client(_) | Node::Master(_) => unreachable!("{} asks no master", asker.node),
        };
        if paused_until > self.now {
            return self.plan_after_pause(paused_until, Event::Answered { from, asker, heard });
        }
        if let Heard::Reply(reply) = &heard
            && let Reply::Refused(refusal) = reply.as_ref()
        {
            note!(self, "{} is refused: {}", asker.node, refusal.reason.as_str());
        }
        match asker.node {
            Node::Store(number) => self.store_hears(number, asker, heard),
            Node::Gateway(number) => self.gateway_hears(number, asker, heard),
            Node::Operator => self.operator_hears(asker, heard),
            Node::Client(_) | Node::Master(_) => {}
        }
    }
}
