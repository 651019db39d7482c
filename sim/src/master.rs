//! A master as shipped: its formation with the others, then its core over its store, driven as the
//! edge's thread drives it: post is taken whole, a turn ends, and the thread writes its batch itself.

use std::collections::BTreeMap;
use std::time::Duration;

use sharklock_master::{
    ClusterState, Formation, Formed, GROUP, Input, MasterCore, Member, Outputs, Request, Settings,
};
use sharklock_multiraft::{
    Batch, Disk, ReplicaStatus, SimDisk, Store, StoreIdent, bootstrap, read_ident,
};
use sharklock_proto::{
    Identity,
    internal::v1::{Route, RoutesUpdate},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role, StoreId};

use crate::asking::Asker;
use crate::clock::DriftingClock;
use crate::dice::Dice;
use crate::options::Options;
use crate::ranges::REPLICAS;
use crate::store::{end_disk, engine_config};

/// More replicas than there are stores: the masters make no range, because all were made by hand.
const NO_FIRST_RANGE: u32 = 9;

/// A master's machine.
pub struct MasterNode {
    /// Counted from 1; its member id as well.
    pub number: usize,
    /// Its clock.
    pub clock: DriftingClock,
    /// Its disk.
    pub disk: SimDisk,
    /// The cluster that its directory belongs to, once it does: a file beside the store.
    pub formed: Option<Formed>,
    /// Which life of its process this is.
    pub life: u32,
    /// The process, while it lives.
    pub process: Option<MasterProcess>,
    /// Until when the process stands still.
    pub paused_until: u64,
    /// Whether it was last seen to lead.
    pub led: bool,
}

/// A life of a master.
pub struct MasterProcess {
    /// What it knows of the others.
    pub formation: Formation,
    /// The core, once the cluster is formed.
    pub core: Option<MasterCore>,
    /// The clock's reading at the start.
    born: Duration,
    /// What has come.
    pub post: Vec<Post>,
    /// On its way to the disk: the thread waits for it.
    pub in_flight: Option<Batch>,
    /// Who waits for which answer.
    pub questions: BTreeMap<u64, Asker>,
    /// The number of the last question.
    pub asked: u64,
    /// Who hears of changes of routes.
    pub watchers: Vec<Watcher>,
    /// The next turn: only the event with this number counts.
    pub turn: u64,
    /// When it is planned.
    pub turn_at: Option<u64>,
}

/// A gateway that watches routes.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// Who.
    pub asker: Asker,
    /// When what was sent to it last arrives.
    pub last_ns: u64,
    /// What it was told of each range.
    pub told: BTreeMap<u64, Route>,
}

impl Watcher {
    /// Whether this watch was asked for by the same node after that one.
    pub fn is_later_than(&self, asker: Asker) -> bool {
        self.asker.node == asker.node && self.asker.number > asker.number
    }

    /// Takes note of what leaves for it.
    pub fn is_told(&mut self, update: &RoutesUpdate) {
        for route in &update.routes {
            let range = route.descriptor.as_ref().map_or(0, |descriptor| descriptor.range_id);
            self.told.insert(range, route.clone());
        }
    }
}

/// Something for a master's thread.
#[derive(Debug)]
pub enum Post {
    /// For the core.
    Input(Input),
    /// A question.
    Question(Asker, Box<Request>),
    /// Somebody who wants all routes and every change.
    Watch(Asker),
}

/// The address by which all name a master.
pub fn address(number: usize) -> String {
    format!("m{number}")
}

impl MasterNode {
    /// A machine without a process.
    pub fn new(number: usize, clock: DriftingClock) -> Self {
        Self {
            number,
            clock,
            disk: SimDisk::default(),
            formed: None,
            life: 0,
            process: None,
            paused_until: 0,
            led: false,
        }
    }

    /// Begins a life: it comes back to its cluster, or looks for the others.
    pub fn start(&mut self, now_ns: u64, masters: usize) {
        let (me, ident) = (address(self.number), ident(self.number));
        let all: Vec<String> = (1..=masters).map(address).collect();
        let formation = match &self.formed {
            Some(formed) => Formation::again(&me, ident, formed.clone()),
            None => Formation::new(&me, ident, &all),
        };
        self.life += 1;
        self.led = false;
        self.process = Some(MasterProcess {
            formation: formation.expect("all masters name the same"),
            core: None,
            born: self.clock.read(now_ns),
            post: Vec::new(),
            in_flight: None,
            questions: BTreeMap::new(),
            asked: 0,
            watchers: Vec::new(),
            turn: 0,
            turn_at: None,
        });
    }

    /// Once the cluster is formed: keeps that, and begins to take part. True: it has just begun.
    ///
    /// # Errors
    ///
    /// If the disk cannot be recovered, which no crash may cause.
    pub fn take_part(&mut self, now_ns: u64, options: &Options) -> Result<bool, String> {
        let now = self.now(now_ns);
        let Some(process) = self.process.as_mut().filter(|it| it.core.is_none()) else {
            return Ok(false);
        };
        let Some(formed) = process.formation.formed().cloned() else { return Ok(false) };
        let cluster_id = formed.cluster_id();
        let (store, ident) = (StoreId(self.number as u64), ident(self.number));
        let ident = StoreIdent { cluster_id, store, ident };
        let members = formed.members.len();
        self.formed = Some(formed);
        let failed = |error: String| format!("m{} does not recover: {error}", self.number);
        let known = read_ident(&self.disk).map_err(|error| failed(error.to_string()))?;
        if known.is_none() {
            let first = bootstrap(&ident, &group(members));
            self.disk.write(&first, true).map_err(|error| failed(error.to_string()))?;
        }
        let config = engine_config(options);
        let store = Store::<ClusterState>::recover(config, &self.disk)
            .map_err(|error| failed(error.to_string()))?;
        let replicas = if options.ranges > 1 { NO_FIRST_RANGE } else { REPLICAS as u32 };
        let settings = Settings {
            cluster_id,
            members: (1..=members).map(|it| (StoreId(it as u64), member(it))).collect(),
            replicas,
            limits: sharklock_master::SilenceLimits::default(),
            tick: Duration::from_millis(100),
            flush: Duration::from_millis(options.flush_ms),
        };
        process.core = Some(MasterCore::new(now, settings, store));
        Ok(true)
    }

    /// The process ends, as a store's does.
    pub fn end(&mut self, power_lost: bool, dice: &mut Dice) -> Option<MasterProcess> {
        let process = self.process.take()?;
        end_disk(
            &mut self.disk,
            process.in_flight.as_ref().map(|it| it.ops.as_slice()),
            power_lost,
            dice,
        );
        Some(process)
    }

    /// What the process's clock reads.
    pub fn now(&self, now_ns: u64) -> Duration {
        let born = self.process.as_ref().map_or(Duration::ZERO, |process| process.born);
        self.clock.read(now_ns) - born
    }

    /// When the thread wants its next turn.
    pub fn wakes_at(&self, now_ns: u64, turn_ns: u64) -> Option<u64> {
        let process = self.process.as_ref().filter(|process| process.in_flight.is_none())?;
        let core = process.core.as_ref()?;
        if !process.post.is_empty() {
            return Some(now_ns + turn_ns);
        }
        let due = self.clock.when(process.born + core.next_wakeup());
        due.map(|due| due.max(now_ns + turn_ns))
    }

    /// The core, once it takes part.
    pub fn core(&self) -> Option<&MasterCore> {
        self.process.as_ref()?.core.as_ref()
    }

    /// Whether it leads and answers.
    pub fn leads(&self) -> bool {
        self.core().is_some_and(MasterCore::leads)
    }

    /// How its replica of the masters' group stands.
    pub fn status(&self) -> Option<ReplicaStatus> {
        self.core()?.store().status(GROUP)
    }

    /// One turn of the core.
    pub fn end_turn(&mut self, now_ns: u64) -> Outputs {
        let now = self.now(now_ns);
        let core = self.process.as_mut().and_then(|process| process.core.as_mut());
        core.map(|core| core.end_turn(now)).unwrap_or_default()
    }
}

fn ident(number: usize) -> Identity {
    Identity::from_bytes([0x40 + number as u8; 16])
}

fn member(number: usize) -> Member {
    Member { ident: ident(number), address: address(number) }
}

/// The masters' Raft group: every member votes.
fn group(members: usize) -> Descriptor {
    let voter = |id| Replica { peer: PeerId(id), store: StoreId(id), role: Role::Voter };
    let epoch = Epoch { conf_ver: 1, version: 1 };
    Descriptor::new(GROUP, Bounds::ALL, epoch, (1..=members as u64).map(voter).collect())
}
