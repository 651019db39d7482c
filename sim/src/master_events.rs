//! What happens to masters: they meet, take turns, write, are asked, start and end.

use std::collections::BTreeMap;

use sharklock_master::{Ask, Input, Outputs};
use sharklock_proto::internal::v1::MasterView;

use crate::asking::{Asker, Heard};
use crate::links::Letter;
use crate::master::{Post, Watcher};
use crate::node::Node;
use crate::note;
use crate::world::{Event, MS, S, World};

/// How often a master asks the others for their views until the cluster is formed.
const MEET_EVERY_NS: u64 = 100 * MS;
/// After so long pings have ended a watch over which nothing comes.
const WATCH_SILENCE_NS: u64 = 4 * S;

impl World {
    pub(crate) fn master_starts(&mut self, number: usize) {
        let (now, masters) = (self.now, self.masters.len());
        let master = &mut self.masters[number - 1];
        if master.process.is_some() {
            return;
        }
        master.paused_until = 0;
        master.start(now, masters);
        let life = master.life;
        note!(self, "m{number} starts, life {life}");
        self.counters.count("master starts");
        self.master_takes_part(number);
        self.queue.plan(now + MS, Event::MasterMeets { master: number, life });
    }

    pub(crate) fn master_ends(&mut self, number: usize, power_lost: bool, back_ns: u64) {
        let ended = self.masters[number - 1].end(power_lost, &mut self.dice.disks);
        let Some(process) = ended else { return };
        note!(self, "m{number} ends, power lost: {power_lost}");
        for Watcher { asker, .. } in process.watchers {
            // A machine that is gone says nothing: pings tell.
            let silence = if power_lost { WATCH_SILENCE_NS } else { 10 * MS };
            self.end_watch(asker, silence);
        }
        if !power_lost {
            for asker in process.questions.into_values() {
                self.answer_asker(number, asker, Heard::Nothing);
            }
        }
        self.queue.plan(self.now + back_ns, Event::MasterStarts(number));
    }

    pub(crate) fn master_resumes(&mut self, number: usize) {
        if self.masters[number - 1].paused_until <= self.now {
            self.arm_master(number);
        }
    }

    /// Until the cluster is formed: what this one knows goes to the others.
    pub(crate) fn master_meets(&mut self, number: usize, life: u32) {
        let now = self.now;
        let master = &self.masters[number - 1];
        let Some(process) = master.process.as_ref().filter(|_| master.life == life) else { return };
        if process.core.is_some() {
            return;
        }
        if master.paused_until <= now {
            let view = process.formation.view();
            for to in (1..=self.masters.len()).filter(|to| *to != number) {
                self.show_view((number, to), view.clone(), true);
            }
        }
        self.queue.plan(now + MEET_EVERY_NS, Event::MasterMeets { master: number, life });
    }

    fn show_view(&mut self, (from, to): (usize, usize), view: MasterView, asks: bool) {
        let at = self.now + self.stream_delay_ns();
        let view = Box::new(view);
        self.queue.plan(at, Event::MasterMet { from, to, view, asks });
    }

    /// A master hears what another knows, and answers with what it knows itself.
    pub(crate) fn master_met(
        &mut self,
        (from, to): (usize, usize),
        view: Box<MasterView>,
        asks: bool,
    ) {
        let now = self.now;
        let blocked = self.links.is_blocked(Node::Master(from), Node::Master(to));
        let master = &mut self.masters[to - 1];
        let Some(process) = master.process.as_mut() else { return };
        if blocked || master.paused_until > now {
            return;
        }
        let heard = process.formation.hear(&view);
        let view = process.formation.view();
        if let Err(why) = heard {
            return self.violated(
                "formation",
                &[],
                format_args!("m{to} does not form with m{from}: {why}"),
            );
        }
        if asks {
            self.show_view((to, from), view, false);
        }
        self.master_takes_part(to);
    }

    fn master_takes_part(&mut self, number: usize) {
        let (now, options) = (self.now, self.options.clone());
        match self.masters[number - 1].take_part(now, &options) {
            Ok(false) => {}
            Ok(true) => {
                note!(self, "m{number} takes part");
                let cluster = self.masters[number - 1].formed.as_ref().map(|it| it.cluster_id());
                let first = *self.cluster.get_or_insert(cluster.expect("it takes part"));
                if Some(first) != cluster {
                    self.violated(
                        "formation",
                        &[],
                        format_args!("m{number} has formed another cluster"),
                    );
                }
                self.arm_master(number);
            }
            Err(error) => self.violated("S9", &[], format_args!("{error}")),
        }
    }

    /// Plans the thread's next turn.
    pub(crate) fn arm_master(&mut self, number: usize) {
        let (now, turn_ns) = (self.now, self.options.turn_us * 1_000);
        let master = &mut self.masters[number - 1];
        let Some(at) = master.wakes_at(now, turn_ns) else { return };
        let life = master.life;
        let Some(process) = &mut master.process else { return };
        if process.turn_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.turn += 1;
        process.turn_at = Some(at);
        let turn = process.turn;
        self.queue.plan(at, Event::MasterTurn { master: number, life, turn });
    }

    pub(crate) fn master_turn(&mut self, number: usize, life: u32, turn: u64) {
        let now = self.now;
        let master = &mut self.masters[number - 1];
        let paused_until = master.paused_until;
        let of_life = master.process.as_mut().filter(|_| master.life == life);
        let Some(process) = of_life.filter(|process| process.turn == turn) else { return };
        if paused_until > now {
            process.turn_at = Some(paused_until);
            let event = Event::MasterTurn { master: number, life, turn };
            return self.queue.plan(paused_until, event);
        }
        process.turn_at = None;
        for post in std::mem::take(&mut process.post) {
            self.master_takes(number, post);
        }
        self.master_goes_on(number);
    }

    fn master_takes(&mut self, number: usize, post: Post) {
        let now = self.masters[number - 1].now(self.now);
        let Some(process) = &mut self.masters[number - 1].process else { return };
        let core = process.core.as_mut().expect("only who takes part has post");
        match post {
            Post::Input(input) => core.handle(now, input),
            Post::Question(asker, request) => {
                process.asked += 1;
                process.questions.insert(process.asked, asker);
                let number = process.asked;
                core.handle(now, Input::Ask(Box::new(Ask { number, request: *request })));
            }
            Post::Watch(asker) => match core.watch() {
                // The gateway has given this question up, and has asked again since.
                Ok(_) if process.watchers.iter().any(|it| it.is_later_than(asker)) => {}
                Ok(whole) => {
                    process.watchers.retain(|it| it.asker.node != asker.node);
                    // What changes comes behind what is.
                    let at = self.now + self.stream_delay_ns();
                    let process = self.masters[number - 1].process.as_mut().expect("as above");
                    let mut watcher = Watcher { asker, last_ns: at, told: BTreeMap::new() };
                    watcher.is_told(&whole);
                    process.watchers.push(watcher);
                    let (from, whole) = (Some(Node::Master(number)), Box::new(whole));
                    let heard = Heard::Routes(whole);
                    self.queue.plan(at, Event::Answered { from, asker, heard });
                }
                Err(refusal) => {
                    let refused = Box::new(sharklock_master::Reply::Refused(refusal));
                    self.answer_asker(number, asker, Heard::Reply(refused));
                }
            },
        }
    }

    /// Turns, until one has something to write, or nothing more is to be done.
    fn master_goes_on(&mut self, number: usize) {
        loop {
            let mut outputs = self.masters[number - 1].end_turn(self.now);
            let chores = std::mem::take(&mut outputs.chores);
            let writes = self.master_outputs(number, outputs);
            let is_idle = chores.is_empty();
            let now = self.masters[number - 1].now(self.now);
            let master = &mut self.masters[number - 1];
            let Some(core) = master.process.as_mut().and_then(|it| it.core.as_mut()) else {
                return;
            };
            for chore in chores {
                if let Some(done) = chore.run(&master.disk) {
                    core.handle(now, Input::ChoreDone(Box::new(done)));
                }
            }
            if writes || is_idle {
                break;
            }
        }
        self.observe_master(number);
        self.arm_master(number);
    }

    /// Does what a turn wants. True: the thread writes now, and does nothing else.
    fn master_outputs(&mut self, number: usize, outputs: Outputs) -> bool {
        let messages = outputs.messages.into_iter().map(|it| Letter::Message(Box::new(it)));
        let beats = outputs.heartbeats.into_iter().map(|it| Letter::Heartbeats(Box::new(it)));
        let pieces = outputs.snapshots.into_iter().map(|it| Letter::Snapshot(Box::new(it)));
        for letter in messages.chain(beats).chain(pieces) {
            let to = Node::Master(letter.to().0 as usize);
            self.send_letter((Node::Master(number), to), letter);
        }
        for (question, reply) in outputs.replies {
            let Some(process) = &mut self.masters[number - 1].process else { return false };
            let asker = process.questions.remove(&question);
            let asker = asker.expect("every question waits, and is answered once");
            self.answer_asker(number, asker, Heard::Reply(Box::new(reply)));
        }
        if outputs.is_deposed {
            self.master_is_deposed(number);
        }
        if let Some(update) = outputs.routes {
            self.master_tells_routes(number, update);
        }
        let Some(batch) = outputs.batch else { return false };
        let took = self.draw_write_ns(Node::Master(number));
        let master = &mut self.masters[number - 1];
        let life = master.life;
        master.process.as_mut().expect("it takes its turn").in_flight = Some(batch);
        self.queue.plan(self.now + took, Event::MasterWritten { master: number, life });
        true
    }

    fn master_is_deposed(&mut self, number: usize) {
        note!(self, "m{number} leads no more");
        let Some(process) = &mut self.masters[number - 1].process else { return };
        for Watcher { asker, .. } in std::mem::take(&mut process.watchers) {
            self.end_watch(asker, MS);
        }
    }

    pub(crate) fn master_written(&mut self, number: usize, life: u32) {
        let now = self.now;
        let master = &mut self.masters[number - 1];
        if master.life != life || master.process.is_none() {
            return;
        }
        if master.paused_until > now {
            let event = Event::MasterWritten { master: number, life };
            let until = master.paused_until;
            return self.plan_after_pause(until, event);
        }
        if self.options.may_fail(Node::Master(number))
            && self.dice.disks.ppm(self.options.disk_fail_ppm)
        {
            self.masters[number - 1].disk.fail_nth(1);
        }
        let master = &mut self.masters[number - 1];
        let now = master.now(now);
        let process = master.process.as_mut().expect("as above");
        let batch = process.in_flight.take().expect("the disk writes what it was given");
        if let Err(error) = sharklock_multiraft::Disk::write(&mut master.disk, &batch.ops, true) {
            process.in_flight = Some(batch);
            note!(self, "m{number} disk: {error}");
            self.counters.count("fault: failed write of a master");
            let back = self.dice.faults.between(100, 5_000) * MS;
            return self.master_ends(number, false, back);
        }
        let core = process.core.as_mut().expect("only who takes part writes");
        core.handle(now, Input::Persisted(batch.seq));
        self.master_goes_on(number);
    }

    /// A letter from another master arrives.
    pub(crate) fn master_receives(&mut self, number: usize, letter: Letter) {
        let Some(process) = &mut self.masters[number - 1].process else { return };
        if process.core.is_none() {
            return;
        }
        process.post.push(Post::Input(match letter {
            Letter::Message(message) => Input::Message(message),
            Letter::Heartbeats(beats) => Input::Heartbeats(beats),
            Letter::Snapshot(piece) => Input::Snapshots(vec![*piece]),
        }));
        self.arm_master(number);
    }

    /// What every turn must leave behind.
    fn observe_master(&mut self, number: usize) {
        let master = &mut self.masters[number - 1];
        let leads = master.leads();
        if std::mem::replace(&mut master.led, leads) != leads {
            note!(self, "m{number} leads: {leads}");
            self.counters.add("master changes", u64::from(leads));
        }
    }

    /// The end of a watch arrives, or is noticed.
    fn end_watch(&mut self, watcher: Asker, within_ns: u64) {
        let at = self.now + self.dice.streams.below(within_ns) + self.stream_delay_ns();
        self.queue.plan(at, Event::WatchEnds(watcher));
    }
}
