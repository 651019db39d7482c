//! The stage of scripts: stores, their disks and links, moved by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sharklock_multiraft::{
    ChangePeers, Config, LogLimits, PeerChange, PeerProgress, RaftRole, ReplicaStatus, RoleNow,
};
use sharklock_proto::internal::v1::snapshot_message::Body;
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::forge;
use super::line::Line;
use crate::cluster::{Cluster, Packet};
use crate::node::{Layout, Life, Node, RANGE, small_snapshots, split_of};
use crate::tally::{Tally, put, remove};
use crate::wording;

/// Rounds after which messages that keep each other going are a bug.
const ROUNDS_MAX: usize = 1_000;

pub struct Stage {
    cluster: Cluster,
    layout: Layout,
    /// Stores whose disk takes nothing for now.
    held: BTreeSet<u64>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(u64, u64)>,
    /// Stores whose heartbeats arrive late.
    slow: BTreeSet<u64>,
    /// Stores that are down, with what their disks have.
    down: BTreeMap<u64, Node>,
    /// Packets put aside.
    shelf: BTreeMap<String, Vec<Packet>>,
    standing: BTreeMap<(u64, RangeId), (RaftRole, u64)>,
    /// How many role changes of a store are told.
    roles_told: BTreeMap<u64, usize>,
    told: String,
    quiet: bool,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(Layout::of_voters(3))
    }

    fn with(layout: Layout) -> Self {
        let mut stage = Self {
            cluster: Cluster::fresh_in(&layout),
            layout,
            held: BTreeSet::new(),
            cuts: BTreeSet::new(),
            slow: BTreeSet::new(),
            down: BTreeMap::new(),
            shelf: BTreeMap::new(),
            standing: BTreeMap::new(),
            roles_told: BTreeMap::new(),
            told: String::new(),
            quiet: false,
        };
        for store in layout.stores() {
            for range in stage.cluster.nodes[&store].store.ranges() {
                let status = stage.cluster.nodes[&store].status_of(range);
                stage.standing.insert((store, range), (status.role, status.term));
            }
        }
        stage
    }

    /// Plays one line; returns what it led to.
    pub fn play(&mut self, line: &str) -> String {
        let line = Line::parse(line);
        match line.verb {
            "cluster" => self.cluster(&line),
            "tick" => self.tick(&line),
            "elect" => self.elect(),
            "run" => self.run(line.nth(0).expect("how many ticks?")),
            "deliver" => self.deliver(&line),
            "lose" => _ = self.take(&line),
            "outrun" => self.outrun(&line),
            "damage" => self.damage(&line),
            "unreachable" => {
                let other = StoreId(line.nth(1).expect("which other?"));
                self.cluster.node(line.store()).store.unreachable(other);
                self.turn(line.store());
            }
            "put-aside" => {
                let packets = self.take(&line);
                self.shelf.insert(line.option("as").expect("as="), packets);
            }
            "copy" => {
                let packets = self.matching(&line);
                let packets = packets.into_iter().map(|at| self.cluster.in_transit[at].clone());
                let packets = packets.collect();
                self.shelf.insert(line.option("as").expect("as="), packets);
            }
            "late" => {
                for packet in self.shelf[line.words[0]].clone() {
                    self.arrive(packet);
                }
            }
            "settle" => self.settle(),
            "cut" => self.cut(&line),
            "slow" => _ = self.slow.insert(line.store()),
            "mend" => {
                self.cuts.clear();
                self.slow.clear();
            }
            "hold" => _ = self.held.insert(line.store()),
            "write" => self.write(&line),
            "propose" => self.propose(&line),
            "read" => self.read(&line),
            "flush" => {
                self.cluster.node(line.store()).store.flush();
                self.turn(line.store());
            }
            "crash" => self.crash(&line),
            "start" => self.start(line.store()),
            "hand-over" => {
                self.cluster.node(line.store()).store.hand_over();
                self.turn(line.store());
            }
            "create" => self.create(&line),
            "peers" => self.peers(&line),
            "forge" => self.forge(&line),
            "split" => self.split(&line),
            "members" => self.members(&line),
            "ranges" => self.ranges(&line),
            "status" => self.status(&line),
            verb => panic!("{verb}: no such command"),
        }
        std::mem::take(&mut self.told)
    }

    fn tell(&mut self, what: &str) {
        // With one range its id says nothing.
        let what = match self.layout.ranges {
            1 => what.replace(&format!("r{RANGE} "), ""),
            _ => what.to_owned(),
        };
        writeln!(self.told, "{what}").expect("memory");
    }

    fn cluster(&mut self, line: &Line<'_>) {
        let max = line.option("log_max").unwrap_or(1_000);
        let log = LogLimits { entries_floor: 4, entries_max: max, bytes_max: 1 << 20 };
        *self = Self::with(Layout {
            voters: line.option("voters").unwrap_or(3),
            learners: line.option("learners").unwrap_or(0),
            spare: line.option("spare").unwrap_or(0),
            ranges: line.option("ranges").unwrap_or(1),
            empty: line.flag("empty"),
            config: Config { log, snapshots: small_snapshots(), ..Config::default() },
        });
        for store in self.layout.stores() {
            self.turn(store);
        }
    }

    /// `tick STORE|all [TIMES]`: time passes, and nothing arrives.
    fn tick(&mut self, line: &Line<'_>) {
        let stores: Vec<u64> = match line.words[0] {
            "all" => self.cluster.nodes.keys().copied().collect(),
            _ => vec![line.store()],
        };
        let times = line.nth(1).unwrap_or(1);
        for time in 1..=times {
            let before = self.told.len();
            for store in &stores {
                self.cluster.node(*store).store.tick();
                self.turn(*store);
            }
            self.mark_time(before, time, times);
        }
    }

    /// Ticks for all, and everything arrives at once.
    fn run(&mut self, times: u64) {
        self.quiet = true;
        for time in 1..=times {
            let before = self.told.len();
            for store in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                self.cluster.node(store).store.tick();
                self.turn(store);
            }
            self.settle();
            self.quiet = true;
            self.mark_time(before, time, times);
        }
        self.quiet = false;
    }

    /// Runs until every range has a leader that all know, and tells no more than that.
    fn elect(&mut self) {
        let ranges: Vec<_> =
            (0..self.layout.ranges).map(|place| RangeId(RANGE.0 + place)).collect();
        let leader = |stage: &Self, range| {
            let mut nodes = stage.cluster.nodes.iter();
            nodes.find(|(_, node)| node.leads_range(range)).map(|(store, _)| *store)
        };
        self.run(1);
        for _ in 0..200 {
            if ranges.iter().all(|range| leader(self, *range).is_some()) {
                break;
            }
            self.run(1);
        }
        self.run(4);
        self.told.clear();
        for range in ranges {
            let store = leader(self, range).expect("a leader within 200 ticks");
            let term = self.cluster.nodes[&store].status_of(range).term;
            self.tell(&format!("{store}: r{range} leads, t{term}"));
        }
    }

    fn mark_time(&mut self, from: usize, time: u64, times: u64) {
        if times > 1 {
            let lines = self.told.split_off(from);
            for line in lines.lines() {
                writeln!(self.told, "{time}| {line}").expect("memory");
            }
        }
    }

    /// Everything that moves comes to rest; messages are not told.
    fn settle(&mut self) {
        self.quiet = true;
        for _ in 0..ROUNDS_MAX {
            if self.cluster.in_transit.is_empty() {
                self.quiet = false;
                return;
            }
            for packet in std::mem::take(&mut self.cluster.in_transit) {
                self.arrive(packet);
            }
        }
        panic!("messages without end");
    }

    /// Places of what is in transit: `[FROM>TO] [KIND]`.
    fn matching(&self, line: &Line<'_>) -> Vec<usize> {
        let direction = line.direction();
        let kind = line.words.iter().find(|word| !word.contains('>'));
        let fits = |packet: &Packet| {
            let words = wording::packet(packet);
            direction.is_none_or(|ends| ends == packet.ends())
                && kind.is_none_or(|kind| words.split(' ').nth(1) == Some(*kind))
        };
        let packets = self.cluster.in_transit.iter().enumerate();
        packets.filter(|(_, packet)| fits(packet)).map(|(place, _)| place).collect()
    }

    fn take(&mut self, line: &Line<'_>) -> Vec<Packet> {
        let places = self.matching(line);
        if places.is_empty() {
            self.tell("nothing like that is on its way");
        }
        let mut taken: Vec<_> =
            places.into_iter().rev().map(|at| self.cluster.in_transit.remove(at)).collect();
        taken.reverse();
        taken
    }

    /// `outrun LEADER FOLLOWER`: nothing passes between the follower and anybody until its leader's
    /// log begins behind it; then all talk until the leader offers it a snapshot.
    fn outrun(&mut self, line: &Line<'_>) {
        let (leader, range) = (line.store(), line.range());
        let follower = line.nth(1).expect("which follower?");
        self.quiet = true;
        let cuts = self.cuts.clone();
        for other in self.layout.stores().filter(|it| *it != follower) {
            self.cuts.extend([(follower, other), (other, follower)]);
        }
        let behind = self.cluster.nodes[&follower].status_of(range).log_last;
        for round in 1..20 {
            if self.cluster.nodes[&leader].status_of(range).log_first > behind + 1 {
                break;
            }
            for word in ["a", "b", "c"] {
                self.propose_word(leader, range, &format!("{word}{round}"));
            }
            self.run(1);
            for store in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                self.cluster.node(store).store.flush();
                self.turn(store);
            }
            self.quiet = true;
        }
        self.cuts = cuts;
        let is_offer = |packet: &Packet| wording::packet(packet).contains(" snapshot t");
        for _ in 0..40 {
            if self.cluster.in_transit.iter().any(is_offer) {
                break;
            }
            if self.cluster.in_transit.is_empty() {
                self.cluster.node(leader).store.tick();
                self.turn(leader);
            }
            for packet in std::mem::take(&mut self.cluster.in_transit) {
                self.arrive(packet);
            }
        }
        self.quiet = false;
        self.told.clear();
        for packet in self.cluster.in_transit.clone() {
            let (from, to) = packet.ends();
            self.tell(&format!("{from}>{to} {}", wording::packet(&packet)));
        }
    }

    /// Chunks of snapshots that wait get another first byte.
    fn damage(&mut self, line: &Line<'_>) {
        for at in self.matching(line) {
            let Packet::Snapshot(piece) = &mut self.cluster.in_transit[at] else { continue };
            let Some(Body::Chunk(chunk)) = &mut piece.body else { continue };
            let mut data = chunk.data.to_vec();
            data[0] ^= 1;
            chunk.data = data.into();
        }
    }

    /// Messages that are in transit now arrive, but not what they lead to.
    fn deliver(&mut self, line: &Line<'_>) {
        for packet in self.take(line) {
            self.arrive(packet);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        let (from, to) = packet.ends();
        let Some(node) = self.cluster.nodes.get_mut(&to) else { return };
        let dropped = match packet {
            Packet::Message(message) => node.store.step(*message).err(),
            Packet::Heartbeats(mut beats) => {
                beats.is_late = self.slow.contains(&from);
                node.store.step_heartbeats(beats).pop().map(|(_, dropped)| dropped)
            }
            Packet::Snapshot(piece) => node.store.step_snapshot(*piece).err(),
        };
        if let Some(dropped) = dropped {
            self.tell(&format!("{to}: drops it: {dropped}"));
        }
        self.turn(to);
    }

    fn cut(&mut self, line: &Line<'_>) {
        if let Some(direction) = line.direction() {
            self.cuts.insert(direction);
            return;
        }
        for other in self.layout.stores().filter(|it| *it != line.store()) {
            self.cuts.extend([(line.store(), other), (other, line.store())]);
        }
    }

    /// `write STORE`: its disk takes the batch that waits, and from now on every one.
    /// `write STORE batch`: this one only.
    fn write(&mut self, line: &Line<'_>) {
        if !line.flag("batch") {
            self.held.remove(&line.store());
        }
        assert!(self.cluster.write(line.store()).expect("no fault is planned"), "no batch");
        self.turn(line.store());
    }

    /// `propose STORE WORD...`, or `-WORD` to remove it.
    fn propose(&mut self, line: &Line<'_>) {
        for word in &line.words[1..] {
            self.propose_word(line.store(), line.range(), word);
        }
    }

    fn propose_word(&mut self, store: u64, range: RangeId, word: &str) {
        let data = word.strip_prefix('-').map_or_else(|| put(word), remove);
        match self.cluster.try_propose(store, range, data.clone()) {
            Some(at) => self.tell(&format!("{store}: r{range} takes {}@{}", at.index, at.term)),
            None => {
                let refused = self.cluster.node(store).store.propose(range, data);
                self.tell(&format!("{store}: {}", refused.expect_err("it was refused")));
            }
        }
        self.turn(store);
    }

    /// `split STORE KEY child=8 [range=7] [version=1]`: the child's peer on store n is `100 · k + n`,
    /// where k is its number, from 1 for the first range.
    fn split(&mut self, line: &Line<'_>) {
        let (store, range) = (line.store(), line.range());
        let child: u64 = line.option("child").expect("child=");
        let key = line.words[1].to_owned();
        let node = self.cluster.node(store);
        let descriptor = node.store.descriptor(range).expect("the range is there");
        let mut split = split_of(descriptor, &key, RangeId(child));
        split.epoch.version = line.option("version").unwrap_or(split.epoch.version);
        match node.store.split(range, &split) {
            Ok(at) => self.tell(&format!("{store}: r{range} takes {}@{}", at.index, at.term)),
            Err(refused) => self.tell(&format!("{store}: {refused}")),
        }
        self.turn(store);
    }

    /// `members STORE [add:PEER@STORE] [remove:PEER] [promote:PEER] [demote:PEER] [range=7]`; without a
    /// change: a joint configuration is left.
    fn members(&mut self, line: &Line<'_>) {
        let (store, range) = (line.store(), line.range());
        let changes = line.words[1..].iter().map(|word| peer_change(word)).collect();
        let node = self.cluster.node(store);
        let epoch = node.store.descriptor(range).expect("the range is there").epoch;
        match node.store.change_peers(range, &ChangePeers { epoch, changes }) {
            Ok(at) => self.tell(&format!("{store}: r{range} takes {}@{}", at.index, at.term)),
            Err(refused) => self.tell(&format!("{store}: {refused}")),
        }
        self.turn(store);
    }

    /// `ranges [STORE]`: what stores have, and of what they have tombstones.
    fn ranges(&mut self, line: &Line<'_>) {
        for store in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            if line.nth(0).is_none_or(|only| only == store) {
                for range in self.cluster.nodes[&store].store.ranges() {
                    self.tell_range(store, range);
                }
                for range in (RANGE.0..RANGE.0 + 10).map(RangeId) {
                    if let Some(peer) = self.cluster.nodes[&store].store.tombstone(range) {
                        self.tell(&format!("{store}: tombstone of {peer} of range {range}"));
                    }
                }
            }
        }
    }

    fn tell_range(&mut self, store: u64, range: RangeId) {
        let descriptor = self.cluster.nodes[&store].store.descriptor(range);
        let what = wording::descriptor(descriptor.expect("the range is there"));
        self.tell(&format!("{store}: range {range} is {what}"));
    }

    fn read(&mut self, line: &Line<'_>) {
        let (store, range) = (line.store(), line.range());
        match self.cluster.node(store).store.read_index(range) {
            Ok(read) => {
                self.cluster.checks.read_begun(store, range, read);
                self.tell(&format!("{store}: r{range} begins read {}", read.0));
            }
            Err(refused) => self.tell(&format!("{store}: {refused}")),
        }
        self.turn(store);
    }

    /// `crash STORE [keep=N]`: its disk keeps the first N of the writes that were not synced, the
    /// batch that waits for a held disk among them.
    fn crash(&mut self, line: &Line<'_>) {
        let store = line.store();
        let mut node = self.cluster.nodes.remove(&store).expect("it is up");
        let kept = line.number("keep") as usize;
        if let Some(batch) = node.batch.take().filter(|_| kept > 0) {
            use sharklock_multiraft::Disk as _;
            node.disk.write(&batch.ops, false).expect("no fault is planned");
            self.cluster.checks.written(&node.disk, &batch.ops);
        }
        self.held.remove(&store);
        self.roles_told.remove(&store);
        self.down.insert(store, node.crash_keeping(kept));
    }

    fn start(&mut self, store: u64) {
        let node = self.down.remove(&store).expect("it is down");
        self.cluster.start(store, node);
        for range in self.cluster.nodes[&store].store.ranges() {
            self.tell_status(store, range);
            let status = self.cluster.nodes[&store].status_of(range);
            self.standing.insert((store, range), (status.role, status.term));
        }
        self.turn(store);
    }

    fn forge(&mut self, line: &Line<'_>) {
        let message = forge::message(line);
        let to = line.number("to");
        let node = self.cluster.nodes.get_mut(&to).expect("it is up");
        let dropped = match line.flag("bundle") {
            true => node.store.step_heartbeats(forge::bundled(message)).pop().map(|it| it.1),
            false => node.store.step(message).err(),
        };
        match dropped {
            Some(dropped) => self.tell(&format!("{to}: drops it: {dropped}")),
            None => self.tell(&format!("{to}: takes it")),
        }
        self.turn(to);
    }

    /// `create STORE [voters=N]`: a replica of the first range, as its descriptor says.
    fn create(&mut self, line: &Line<'_>) {
        let store = line.store();
        let voters = line.option("voters").unwrap_or(self.layout.voters);
        let wanted = Layout { voters, ..self.layout };
        for mut descriptor in wanted.descriptors() {
            descriptor.range = RangeId(line.option("range").unwrap_or(descriptor.range.0));
            match self.cluster.node(store).store.create(descriptor, Tally::default()) {
                Ok(()) => self.tell(&format!("{store}: made")),
                Err(refused) => self.tell(&format!("{store}: not made: {refused}")),
            }
        }
        self.turn(store);
    }

    /// `peers STORE`: what a leader knows of the others.
    fn peers(&mut self, line: &Line<'_>) {
        let store = line.store();
        for it in self.cluster.node(store).store.peers(line.range()) {
            let role = if it.is_voter { "voter" } else { "learner" };
            let leads = if it.is_leader { ", leads" } else { "" };
            let active = match (it.is_active, it.is_new) {
                (true, _) => "",
                (false, true) => ", new",
                (false, false) => ", silent",
            };
            let snapshot = if it.in_snapshot { ", in snapshot" } else { "" };
            let PeerProgress { peer, store: there, matched, .. } = it;
            self.tell(&format!(
                "{store}: {peer} on {there}, {role}, has {matched}{leads}{active}{snapshot}"
            ));
        }
    }

    fn status(&mut self, line: &Line<'_>) {
        for store in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            if line.nth(0).is_none_or(|only| only == store) {
                for range in self.cluster.nodes[&store].store.ranges() {
                    self.tell_status(store, range);
                }
            }
        }
    }

    fn tell_status(&mut self, store: u64, range: RangeId) {
        let node = &self.cluster.nodes[&store];
        let status = node.status_of(range);
        let ReplicaStatus { term, commit, applied, flushed, log_first, log_last, .. } = status;
        let tokens = &node.store.machine(range).expect("the range is there").tokens;
        let words: Vec<_> = tokens.iter().map(|(word, token)| format!("{word}={token}")).collect();
        let role = role_word(status.role);
        self.tell(&format!(
            "{store}: r{range} {role} t{term}, log {log_first}..{log_last}, committed {commit}, \
             applied {applied}, image {flushed}, {{{}}}",
            words.join(" ")
        ));
    }

    /// Turns of a store until its disk has nothing more to do, if it is not held.
    fn turn(&mut self, store: u64) {
        loop {
            let before = self.cluster.in_transit.len();
            self.cluster.turn(store);
            let sent = self.cluster.in_transit.split_off(before);
            for packet in sent {
                let (from, to) = packet.ends();
                let lost = self.cuts.contains(&(from, to));
                if !self.quiet {
                    let words = wording::packet(&packet);
                    let end = if lost { " (lost)" } else { "" };
                    self.tell(&format!("{from}>{to} {words}{end}"));
                }
                if !lost {
                    self.cluster.in_transit.push(packet);
                }
            }
            self.tell_shown(store);
            let held = self.held.contains(&store);
            if held || !self.cluster.write(store).expect("no fault is planned") {
                return;
            }
        }
    }

    fn tell_shown(&mut self, store: u64) {
        let node = self.cluster.node(store);
        let applied = std::mem::take(&mut node.applied);
        let reads = std::mem::take(&mut node.reads);
        let lives = std::mem::take(&mut node.lives);
        let roles = node.roles.clone();
        let ranges = node.store.ranges();
        for range in ranges {
            let status = self.cluster.nodes[&store].status_of(range);
            let now = (status.role, status.term);
            if self.standing.insert((store, range), now) != Some(now) {
                self.tell(&format!("{store}: r{range} {} t{}", role_word(now.0), now.1));
            }
        }
        for (range, life) in &lives {
            match life {
                Life::Born => self.tell(&format!("{store}: range {range} is born")),
                Life::Gone => self.tell(&format!("{store}: range {range} is gone")),
                Life::Changed => {}
            }
        }
        for it in applied {
            let kind = self.cluster.nodes[&store].kind_of(it.range, it.at.index);
            let what = it.output.map_or(kind.to_owned(), |token| token.to_string());
            self.tell(&format!(
                "{store}: r{} applies {}@{}: {what}",
                it.range, it.at.index, it.at.term
            ));
        }
        for it in reads {
            self.tell(&format!("{store}: r{} read {} stands at {}", it.range, it.read.0, it.index));
        }
        for (range, _) in lives.iter().filter(|(_, life)| *life == Life::Changed) {
            if self.cluster.nodes[&store].store.descriptor(*range).is_some() {
                self.tell_range(store, *range);
            }
        }
        let told = self.roles_told.insert(store, roles.len()).unwrap_or(0);
        for (place, change) in roles.iter().enumerate().skip(told) {
            let mut before = roles[..place].iter().rev().filter(|it| it.range == change.range);
            let led = matches!(before.next().map(|it| it.role), Some(RoleNow::Leader { .. }));
            let what = match change.role {
                RoleNow::Leader { term } => format!("serves, t{term}"),
                RoleNow::Follower { term, .. } if led => format!("serves no more, t{term}"),
                RoleNow::Follower { term, leader: Some(leader) } => {
                    format!("follows {leader}, t{term}")
                }
                RoleNow::Follower { leader: None, .. } => continue,
            };
            self.tell(&format!("{store}: r{} {what}", change.range));
        }
    }
}

fn peer_change(word: &str) -> PeerChange {
    let (verb, peer) = word.split_once(':').expect("VERB:PEER");
    let (peer, store) = peer.split_once('@').unwrap_or((peer, "0"));
    let number = |text: &str| text.parse().expect("a number");
    let (peer, store) = (PeerId(number(peer)), StoreId(number(store)));
    match verb {
        "add" => PeerChange::AddLearner { peer, store },
        "remove" => PeerChange::RemoveLearner(peer),
        "promote" => PeerChange::Promote(peer),
        "demote" => PeerChange::Demote(peer),
        _ => panic!("{verb}: no such change"),
    }
}

fn role_word(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Leader => "leader",
        RaftRole::Candidate => "candidate",
        RaftRole::Follower => "follower",
        RaftRole::Stopped => "stopped",
    }
}
