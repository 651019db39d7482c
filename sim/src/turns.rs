//! When the workers of a store take their turns: the seed interleaves them, as a machine does with
//! threads.

use std::num::NonZeroUsize;

use sharklock_dataserver::Outputs;

use crate::node::Node;
use crate::process::Process;
use crate::world::{Event, MS, World};

/// Letters that find a full mailbox, where a store has several workers.
const FULL_MAILBOX_PPM: u64 = 200;

impl World {
    /// How many workers a store has in the life that begins.
    pub(crate) fn draw_workers(&mut self) -> NonZeroUsize {
        let workers = match self.options.raft_workers {
            0 => *self.dice.workers.pick(&[1, 2, 4]),
            workers => workers,
        };
        NonZeroUsize::new(workers as usize).expect("it is not 0")
    }

    /// Plans the next turns of its workers.
    pub(crate) fn arm_store(&mut self, number: usize) {
        let process = self.stores[number - 1].process.as_ref();
        for worker in 0..process.map_or(0, Process::workers) {
            self.arm_worker(number, worker);
        }
    }

    fn arm_worker(&mut self, number: usize, worker: usize) {
        let (now, turn_ns) = (self.now, self.options.turn_us * 1_000);
        let store = &mut self.stores[number - 1];
        let Some(mut at) = store.wakes_at(worker, now, turn_ns) else { return };
        let life = store.life;
        let Some(process) = &mut store.process else { return };
        // Several threads run whenever the machine lets them.
        let latest = if process.workers() > 1 { at + turn_ns } else { at };
        if process.planned(worker).is_some_and(|planned| planned <= latest) {
            return;
        }
        if at < latest {
            at = self.dice.workers.between(at, latest);
        }
        let turn = process.plan(worker, at);
        self.queue.plan(at, Event::Turn { store: number, life, worker, turn });
    }

    pub(crate) fn store_turn(&mut self, number: usize, life: u32, worker: usize, turn: u64) {
        let now = self.now;
        let store = self.store(number);
        if store.life != life {
            return;
        }
        let paused_until = store.paused_until;
        let is_next = |process: &&mut Process| process.is_planned(worker, turn);
        let Some(process) = store.process.as_mut().filter(is_next) else { return };
        if paused_until > now {
            let turn = process.plan(worker, paused_until);
            let event = Event::Turn { store: number, life, worker, turn };
            return self.queue.plan(paused_until, event);
        }
        self.note_overtaking(number, worker);
        let wall_ms = self.wall_ms(number);
        let outputs = self.store(number).take_turn(worker, now, wall_ms);
        self.turn_taken(number, worker, outputs);
    }

    /// Threads of one process take turns at the same time: others may go on between a turn and what
    /// it wants.
    pub(crate) fn turn_taken(&mut self, number: usize, worker: usize, outputs: Outputs) {
        let interrupted_ns = self.draw_interruption(number);
        let store = &mut self.stores[number - 1];
        let life = store.life;
        let process = store.process.as_mut().expect("it has just taken a turn");
        if interrupted_ns > 0 {
            process.interrupt(worker, outputs);
            self.counters.count("workers interrupted behind a turn");
            let at = self.now + interrupted_ns;
            self.queue.plan(at, Event::GoesOn { store: number, life, worker });
        } else {
            self.store_outputs(number, worker, outputs);
        }
        self.observe_worker(number, worker);
        self.arm_worker(number, worker);
    }

    pub(crate) fn store_goes_on(&mut self, number: usize, life: u32, worker: usize) {
        let store = &mut self.stores[number - 1];
        if store.life != life {
            return;
        }
        if store.paused_until > self.now {
            let until = store.paused_until;
            return self.plan_after_pause(until, Event::GoesOn { store: number, life, worker });
        }
        let Some(outputs) = store.process.as_mut().and_then(|it| it.go_on(worker)) else { return };
        self.store_outputs(number, worker, outputs);
        self.arm_worker(number, worker);
    }

    /// How long a worker's thread stands still behind a turn: mostly not at all, and often for as long
    /// as others need for one.
    fn draw_interruption(&mut self, number: usize) -> u64 {
        if self.stores[number - 1].process.as_ref().is_none_or(|it| it.workers() == 1) {
            return 0;
        }
        let may_be_long = !self.is_calm && self.options.may_fail(Node::Store(number));
        let dice = &mut self.dice.workers;
        if may_be_long && dice.one_in(1_000) {
            return dice.scale(MS, 200 * MS);
        }
        if dice.one_in(4) { dice.below(2 * self.options.turn_us * 1_000) } else { 0 }
    }

    /// Whether the mailbox of the worker for which something comes is full: nobody is that busy here,
    /// but then the table must take back what it has counted.
    pub(crate) fn has_no_room(&mut self, number: usize) -> bool {
        let is_one = self.stores[number - 1].process.as_ref().is_none_or(|it| it.workers() == 1);
        if is_one || self.is_calm || !self.options.may_fail(Node::Store(number)) {
            return false;
        }
        let is_full = self.dice.workers.ppm(FULL_MAILBOX_PPM);
        if is_full {
            self.counters.count("letters for a full mailbox");
        }
        is_full
    }
}
