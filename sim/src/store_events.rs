//! What happens to stores: turns, writes, letters, starts and ends.

use sharklock_dataserver::{Input, LinkId, LockRange, Outputs};
use sharklock_multiraft::{Chore, count_start};
use sharklock_proto::internal::v1::StoreReply;
use sharklock_rangemap::{RangeId, StoreId};

use crate::heart::Heart;
use crate::links::Letter;
use crate::node::Node;
use crate::note;
use crate::process::{Begun, Process};
use crate::streams::{ConnId, End, Payload};
use crate::world::{Event, MS, World};

/// What the servers' wall clocks show at the beginning, milliseconds since 1970.
const WALL_BEGINS_MS: u64 = 1_760_000_000_000;

impl World {
    pub(crate) fn store_starts(&mut self, number: usize) {
        let masters = self.masters.len();
        let store = self.store(number);
        if store.process.is_some() || store.heart.is_some() {
            return;
        }
        if !self.losses.may_start(number) {
            return;
        }
        let store = self.store(number);
        store.begin();
        if masters == 0 {
            return self.store_serves(number);
        }
        let start = count_start(&mut store.disk).expect("no fault is planned for a start");
        store.heart = Some(Heart::new(number, store.life, start, masters));
        self.store_registers(number);
    }

    /// A store that may serve does.
    pub(crate) fn store_serves(&mut self, number: usize) {
        let (now, options) = (self.now, self.options.clone());
        let workers = self.draw_workers();
        let store = self.store(number);
        if let Err(error) = store.start(now, workers, &options) {
            return self.violated("S9", &[], format_args!("{error}"));
        }
        let life = store.life;
        note!(self, "s{number} starts, life {life}");
        self.counters.count("store starts");
        let store = &self.stores[number - 1];
        let busy = store.process.iter().flat_map(Process::cores).filter(|it| it.ranges_count() > 0);
        if busy.count() > 1 {
            self.counters.count("store starts with ranges on several workers");
        }
        self.observe_store(number);
        self.arm_store(number);
    }

    /// Ends a store's process, with or without its machine's power.
    pub(crate) fn store_ends(&mut self, number: usize, power_lost: bool, back_ns: u64) {
        let at = number - 1;
        let was_registering = self.stores[at].heart.is_some();
        let Some(process) = self.stores[at].end(power_lost, &mut self.dice.disks) else {
            if was_registering {
                note!(self, "s{number} ends before it serves");
                self.queue.plan(self.now + back_ns, Event::StoreStarts(number));
            }
            return;
        };
        note!(self, "s{number} ends, power lost: {power_lost}");
        for conn in process.links.into_values() {
            self.hang_up(conn, End::Listener, power_lost);
        }
        self.queue.plan(self.now + back_ns, Event::StoreStarts(number));
    }

    pub(crate) fn store_written(&mut self, number: usize, life: u32) {
        let now = self.now;
        let store = self.store(number);
        if store.life != life {
            return;
        }
        let paused = store.paused_until > now;
        let Some(process) = &mut store.process else { return };
        let inline = process.writing.as_ref().is_some_and(|writing| writing.inline);
        if inline && paused {
            process.written_in_pause = true;
            return;
        }
        let may_fail = self.options.may_fail(Node::Store(number));
        if may_fail && self.dice.disks.ppm(self.options.disk_fail_ppm) {
            self.store(number).disk.fail_nth(1);
        }
        let wall_ms = self.wall_ms(number);
        match self.store(number).written(now, wall_ms) {
            Err(error) => {
                note!(self, "s{number} disk: {error}");
                self.counters.count("fault: failed write");
                let back = self.dice.faults.between(100, 5_000) * MS;
                self.store_ends(number, false, back);
            }
            Ok(outputs) => {
                self.disk_goes_on(number);
                match outputs {
                    Some((worker, outputs)) => self.turn_taken(number, worker, outputs),
                    None => self.arm_store(number),
                }
            }
        }
    }

    /// The disk writes what waits for it, if it is free and something does.
    fn disk_goes_on(&mut self, number: usize) {
        let store = self.store(number);
        let life = store.life;
        let Some(process) = &mut store.process else { return };
        let Some(Begun { batches, ops, inline }) = process.begin_writing() else { return };
        let took = self.draw_write_ns(Node::Store(number));
        note!(self, "s{number} writes {ops} here={inline} for {took}");
        if batches > 1 {
            self.counters.count("batches of several workers written as one");
        }
        self.queue.plan(self.now + took, Event::Written { store: number, life });
    }

    /// The process may go on.
    pub(crate) fn store_resumes(&mut self, number: usize) {
        let now = self.now;
        let store = self.store(number);
        if store.paused_until > now {
            return;
        }
        let life = store.life;
        let Some(process) = &mut store.process else { return };
        if std::mem::take(&mut process.written_in_pause) {
            self.queue.plan(now, Event::Written { store: number, life });
        }
        self.arm_store(number);
    }

    /// Does what a turn wants, in the order in which the edge does it.
    pub(crate) fn store_outputs(&mut self, number: usize, worker: usize, mut outputs: Outputs) {
        let process = self.store(number).process.as_mut().expect("it has taken a turn");
        process.follow(worker, &mut outputs);
        let told_others = process.workers() > 1;
        let Outputs { batch, replies, messages, heartbeats, snapshots, chores, .. } = outputs;
        self.ids_wanted(number, outputs.ids_wanted);
        for chore in chores {
            let took = self.draw_write_ns(Node::Store(number));
            let life = self.store(number).life;
            let chore = Box::new(chore);
            self.queue.plan(self.now + took, Event::Chore { store: number, life, worker, chore });
        }
        if let Some(batch) = batch {
            let process = self.store(number).process.as_mut().expect("as above");
            if process.hand_over(worker, batch) {
                self.disk_goes_on(number);
            }
        }
        let process = self.store(number).process.as_mut().expect("as above");
        for (link, replies) in process.gather(worker, replies) {
            self.store_replies(number, link, replies);
        }
        let messages = messages.into_iter().map(|message| Letter::Message(Box::new(message)));
        let beats = heartbeats.into_iter().map(|beats| Letter::Heartbeats(Box::new(beats)));
        let pieces = snapshots.into_iter().map(|piece| Letter::Snapshot(Box::new(piece)));
        for letter in messages.chain(beats).chain(pieces) {
            let knows = |heart: &Heart| heart.peers.contains(&letter.to());
            // A link leads to each store that the masters have named.
            if self.stores[number - 1].heart.as_ref().is_none_or(knows)
                && let Some(to) = self.number_of(letter.to())
            {
                self.send_letter((Node::Store(number), Node::Store(to)), letter);
            }
        }
        // Others may have got mail by what the table was told.
        if told_others {
            self.arm_store(number);
        }
    }

    /// Which store has this id.
    pub(crate) fn number_of(&self, store: StoreId) -> Option<usize> {
        self.stores.iter().find(|it| it.id == Some(store)).map(|it| it.number)
    }

    /// Another thread of the process has done a chore. It reads what the disk holds in between two
    /// writes.
    pub(crate) fn store_chore(
        &mut self,
        number: usize,
        life: u32,
        worker: usize,
        chore: Box<Chore<LockRange>>,
    ) {
        let now = self.now;
        let store = self.store(number);
        if store.life != life {
            return;
        }
        if store.paused_until > now {
            let until = store.paused_until;
            return self.queue.plan(until, Event::Chore { store: number, life, worker, chore });
        }
        let Some(process) = &mut store.process else { return };
        if let Some(done) = chore.run(&store.disk) {
            process.chore_done(worker, done);
            self.counters.count("chores of snapshots");
            self.arm_store(number);
        }
    }

    fn store_replies(&mut self, number: usize, link: LinkId, replies: Vec<StoreReply>) {
        let process = self.store(number).process.as_ref();
        let conn = process.and_then(|process| process.links.get(&link).copied());
        if let Some(conn) = conn {
            self.send(conn, End::Dialler, Payload::Replies(replies));
        }
    }

    pub(crate) fn send_letter(&mut self, way: (Node, Node), letter: Letter) {
        let dice = &mut self.dice.letters;
        let arrivals = self.links.send(self.now, way, letter, &self.options, dice);
        for (at, letter) in arrivals {
            self.queue.plan(at, Event::Letter { way, letter });
        }
    }

    pub(crate) fn letter_arrived(&mut self, (from, to): (Node, Node), letter: Letter) {
        let what = letter.describe();
        let (to, from) = match (to, from) {
            (Node::Store(to), Node::Store(from)) => (to, from),
            (Node::Master(to), from) => {
                note!(self, "{from}>m{to} {what}");
                return self.master_receives(to, letter);
            }
            _ => unreachable!("{to} is not sent letters by {from}"),
        };
        let up = self.store(to).process.is_some();
        note!(self, "s{from}>s{to} {what}{}", if up { "" } else { " (down)" });
        let from = self.stores[from - 1].id.expect("it has sent");
        if self.store(to).heart.as_ref().is_some_and(|heart| !heart.peers.contains(&from)) {
            self.counters.count("letters of stores that are not known yet");
            return;
        }
        let is_lost = self.has_no_room(to);
        let Some(process) = &mut self.store(to).process else { return };
        let input = match letter {
            Letter::Message(message) => Input::Message(message),
            Letter::Heartbeats(beats) => Input::Heartbeats(beats),
            Letter::Snapshot(piece) => Input::Snapshots(vec![*piece]),
        };
        process.raft(input, is_lost);
        self.arm_store(to);
    }

    /// Something for a store, if it is up.
    pub(crate) fn store_told(&mut self, number: usize, input: Input) {
        if let Some(process) = &mut self.store(number).process {
            process.tell(input);
            self.arm_store(number);
        }
    }

    /// A gateway's connection reaches the store.
    pub(crate) fn store_accepts(&mut self, number: usize, conn: ConnId) {
        if let Some(process) = &mut self.store(number).process {
            process.connect(conn);
        }
    }

    /// Calls of a gateway, or the end of its connection.
    pub(crate) fn store_receives(&mut self, number: usize, conn: ConnId, payload: Option<Payload>) {
        let now = self.now;
        let store = &mut self.stores[number - 1];
        let arrived = store.now(now);
        let Some(process) = &mut store.process else { return };
        match payload {
            Some(Payload::Calls(lane, calls)) => process.post(arrived, conn, lane, calls),
            Some(Payload::Bye) | None => process.disconnect(conn),
            Some(other) => unreachable!("stores are not sent {other:?}"),
        }
        self.arm_store(number);
    }

    pub(crate) fn draw_write_ns(&mut self, node: Node) -> u64 {
        let slow = match node {
            Node::Store(number) => self.stores[number - 1].slow_until > self.now,
            _ => false,
        };
        let (dice, options) = (&mut self.dice.disks, &self.options);
        let mean = options.disk_mean_us * 1_000;
        let mut took = mean / 2 + dice.around(mean / 2);
        let stall_ppm = if options.may_fail(node) { options.disk_stall_ppm } else { 0 };
        if slow || dice.ppm(stall_ppm) {
            took += dice.between(options.disk_stall_max_ms / 4, options.disk_stall_max_ms) * MS;
        }
        took.max(1_000)
    }

    /// The wall clock: it jumps at will, and must not matter.
    pub(crate) fn wall_ms(&mut self, number: usize) -> u64 {
        if self.dice.turns.one_in(500) {
            self.stores[number - 1].wall_error_ms = self.dice.turns.scale(1, 400_000_000_000);
            self.counters.count("fault: wall clock jump");
        }
        WALL_BEGINS_MS + self.now / MS + self.stores[number - 1].wall_error_ms
    }

    /// A leader is about to take what stands in its mailbox.
    pub(crate) fn note_overtaking(&mut self, number: usize, worker: usize) {
        let store = &self.stores[number - 1];
        for call in store.process.iter().flat_map(|process| process.calls(worker)) {
            if store.answers(RangeId(call.range_id))
                && let Some(what) = self.overtaking.taken(call)
            {
                self.counters.count(what);
            }
        }
    }

    /// What a store has at its start.
    fn observe_store(&mut self, number: usize) {
        let process = self.stores[number - 1].process.as_ref();
        for worker in 0..process.map_or(0, Process::workers) {
            self.observe_worker(number, worker);
        }
    }

    /// What every turn must leave behind: S9, S10, S12; S5, S6 and S11 on each replica that has
    /// applied more.
    pub(crate) fn observe_worker(&mut self, number: usize, worker: usize) {
        for _ in 0..self.stores[number - 1].take_installed() {
            note!(self, "s{number} has installed a snapshot");
            self.counters.count("snapshots installed");
            let store = &self.stores[number - 1];
            let tables = store.ranges().into_iter().filter_map(|range| store.table(range));
            if tables.map(|table| table.counts().holds).sum::<usize>() > 0 && !self.is_calm {
                self.counters.count("snapshots installed under load");
            }
        }
        let Some(process) = &self.stores[number - 1].process else { return };
        for range in process.core(worker).store().ranges() {
            self.observe_replica(number, range);
        }
        self.store_has_news(number);
        if let Err(what) = self.checks.tiling.check() {
            self.violated("S10", &[], format_args!("{what}"));
        }
    }

    fn observe_replica(&mut self, number: usize, range: RangeId) {
        let store = &mut self.stores[number - 1];
        let Some(status) = store.status(range) else { return };
        let answers = store.answers(range);
        let before = store.seen.insert(range, (status, answers));
        if before == Some((status, answers)) {
            return;
        }
        note!(
            self,
            "s{number} r{range} {:?} t{} c{} a{} f{} l{} {:08x}{}",
            status.role,
            status.term,
            status.commit,
            status.applied,
            status.flushed,
            status.log_last,
            status.state_hash >> 32,
            if answers { " answers" } else { "" }
        );
        if let Err((rule, what)) = self.checks.replicas.observe((range, number), &status) {
            self.violated(rule, &[], format_args!("{what}"));
        }
        if before.is_none_or(|(before, _)| before.applied != status.applied) {
            // First, since what it has is compared with what it descends from.
            let skipped = before.is_some_and(|(before, _)| status.log_first > before.applied + 1);
            self.observe_descriptor(number, range, skipped);
            self.compare_replica(number, range);
        }
        if answers && self.checks.replicas.leads(range, status.term) {
            self.counters.count("leader changes");
            let table = self.stores[number - 1].table(range);
            if table.is_some_and(|table| table.counts().waiters > 0) {
                self.counters.count("leader changes with waiters");
            }
            note!(self, "s{number} leads {range} in term {}", status.term);
            self.child_is_led(number, range);
        }
    }
}
