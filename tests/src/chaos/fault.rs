//! What can be done to a cluster of containers.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

/// A container, by the name of its service in the Compose file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service(pub String);

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The containers of a cluster, and those of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Masters.
    pub masters: Vec<Service>,
    /// Data servers.
    pub data: Vec<Service>,
    /// Gateways.
    pub gateways: Vec<Service>,
    /// Clients whose holders are slow, and may be paused past their leases.
    pub slow_clients: Vec<Service>,
}

impl Topology {
    /// That of `deploy/compose.yaml`.
    pub fn of_compose() -> Self {
        let named = |role: &str, count: usize| -> Vec<Service> {
            (1..=count).map(|at| Service(format!("{role}-{at}"))).collect()
        };
        Self {
            masters: named("master", 3),
            data: named("data", 5),
            gateways: named("gateway", 2),
            slow_clients: named("slow", 2),
        }
    }

    /// Those whose wall clock may jump: one of each role, since the library that does it is in the way of
    /// every look at a clock.
    pub fn clocks(&self) -> Vec<Service> {
        let roles = [&self.masters, &self.data, &self.gateways];
        roles.into_iter().filter_map(|of_role| of_role.get(1).cloned()).collect()
    }

    /// All of the cluster's own.
    pub fn servers(&self) -> Vec<Service> {
        [&self.masters[..], &self.data, &self.gateways].concat()
    }
}

/// The direction of a cut, as the one that is cut off sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It neither hears nor is heard.
    Both,
    /// It hears, and is not heard.
    Sends,
    /// It is heard, and does not hear.
    Hears,
}

/// How much of a cluster a fault takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Nothing that serves locks: clients, and what operators do.
    None,
    /// One process: every range keeps its majority, and is silent for an election at most.
    One,
    /// Several: ranges may have no majority until it is mended.
    Many,
}

/// A kind of fault, without its victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL.
    Kill,
    /// The freezer.
    Pause,
    /// SIGTERM, and a new start.
    Stop,
    /// SIGKILL of all at once.
    KillAll,
    /// SIGKILL of two masters, or of all.
    MastersDown,
    /// One container is cut off.
    CutOff,
    /// Masters and data servers in two halves.
    Halves,
    /// Masters and data servers in a ring: each hears its two neighbours.
    Ring,
    /// Masters and data servers in two halves, of which one server hears both.
    Bridge,
    /// All of a role hear no master, and the masters do not hear them.
    MastersApart,
    /// A client stands still for longer than its lease.
    PauseClient,
    /// Packets are lost.
    Lossy,
    /// Packets drip.
    Slow,
    /// Syncs take their time.
    SlowDisk,
    /// A sync fails, and the process ends.
    SyncError,
    /// A disk has no space left.
    FullDisk,
    /// A wall clock jumps.
    Clock,
    /// Too little memory: the kernel ends the process.
    Memory,
    /// Too few descriptors.
    Descriptors,
    /// All restart, one after the other.
    RollingRestart,
    /// All restart with another build, and later with the first again.
    RollingChange,
    /// A data server loses its disk, and comes back as a new store.
    EmptiedVolume,
    /// A data server starts on an older copy of its disk, and is refused.
    OldVolume,
    /// An operator splits a range.
    Split,
    /// An operator moves a replica.
    Move,
    /// An operator lets another store lead a range.
    Transfer,
    /// An operator empties a store and takes it back.
    Drain,
    /// A data server more, and less again.
    AddStore,
    /// A master loses its disk, and another takes its place.
    ReplaceMaster,
}

impl Kind {
    /// All, with how often each stands in a bag from which a plan is drawn.
    pub const BAG: [(Self, usize); 29] = [
        (Self::Kill, 4),
        (Self::Pause, 3),
        (Self::Stop, 2),
        (Self::KillAll, 1),
        (Self::MastersDown, 1),
        (Self::CutOff, 4),
        (Self::Halves, 1),
        (Self::Ring, 1),
        (Self::Bridge, 1),
        (Self::MastersApart, 2),
        (Self::PauseClient, 2),
        (Self::Lossy, 2),
        (Self::Slow, 2),
        (Self::SlowDisk, 2),
        (Self::SyncError, 1),
        (Self::FullDisk, 1),
        (Self::Clock, 2),
        (Self::Memory, 1),
        (Self::Descriptors, 1),
        (Self::RollingRestart, 1),
        (Self::RollingChange, 1),
        (Self::EmptiedVolume, 1),
        (Self::OldVolume, 1),
        (Self::Split, 1),
        (Self::Move, 2),
        (Self::Transfer, 1),
        (Self::Drain, 1),
        (Self::AddStore, 1),
        (Self::ReplaceMaster, 1),
    ];

    /// Its name in plans and on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }

    /// How much it takes at once.
    pub fn breadth(self) -> Breadth {
        match self {
            Self::PauseClient
            | Self::Split
            | Self::Move
            | Self::Transfer
            | Self::Drain
            | Self::AddStore => Breadth::None,
            Self::KillAll
            | Self::MastersDown
            | Self::MastersApart
            | Self::Halves
            | Self::Ring
            | Self::Bridge => Breadth::Many,
            _ => Breadth::One,
        }
    }

    /// Seconds that it lasts, from and to.
    fn lasts(self) -> (f64, f64) {
        match self {
            Self::Kill | Self::Stop | Self::KillAll | Self::MastersDown => (0.2, 5.0),
            Self::PauseClient => (4.0, 7.0),
            Self::Slow | Self::Lossy | Self::SlowDisk => (3.0, 7.0),
            _ => (2.0, 6.0),
        }
    }

    /// What it takes at most as a rule, from its begin until it is mended, on a busy machine: one that
    /// begins later before the end would outlast the run.
    pub fn takes(self) -> Duration {
        Duration::from_secs(match self {
            Self::RollingChange => 150,
            Self::EmptiedVolume => 120,
            Self::RollingRestart | Self::OldVolume | Self::AddStore => 90,
            Self::ReplaceMaster => 60,
            Self::Drain | Self::Move | Self::Split | Self::Transfer => 25,
            Self::Memory | Self::SyncError => 25,
            _ => 10,
        })
    }

    /// A fault of this kind.
    pub fn draw(self, rng: &mut impl Rng, topology: &Topology) -> Fault {
        fn one(rng: &mut impl Rng, of: &[Service]) -> Service {
            of.choose(rng).expect("a cluster has servers").clone()
        }
        let servers = topology.servers();
        let data = &topology.data;
        let shuffled = |rng: &mut _, mut order: Vec<Service>| {
            order.shuffle(rng);
            order
        };
        let act = match self {
            Self::KillAll | Self::RollingRestart | Self::RollingChange => Act::All,
            Self::Halves | Self::Ring | Self::Bridge => {
                Act::Order(shuffled(rng, [&data[..], &topology.masters].concat()))
            }
            Self::MastersDown => {
                let count = rng.random_range(2..=topology.masters.len());
                Act::Several(shuffled(rng, topology.masters.clone())[..count].to_vec())
            }
            Self::MastersApart => {
                Act::Apart(if rng.random() { topology.gateways.clone() } else { data.clone() })
            }
            Self::CutOff => {
                let way =
                    *[Way::Both, Way::Both, Way::Sends, Way::Hears].choose(rng).expect("four");
                Act::Way(one(rng, &servers), way)
            }
            Self::Kill | Self::Pause | Self::Stop => {
                // Leaders of ranges are on data servers: half of the strikes are theirs.
                let among = if rng.random() { data } else { &servers };
                Act::One(one(rng, among))
            }
            Self::PauseClient => Act::One(one(rng, &topology.slow_clients)),
            Self::Lossy => Act::Much(one(rng, &servers), rng.random_range(5..30)),
            Self::Slow => Act::Much(one(rng, &servers), rng.random_range(64..512)),
            Self::SlowDisk => Act::Much(one(rng, data), rng.random_range(20..1_500)),
            Self::Clock => {
                let jumps = [-31_536_000, -3_600, -5, 5, 3_600, 31_536_000, 315_360_000];
                Act::Jump(one(rng, &topology.clocks()), *jumps.choose(rng).expect("some"))
            }
            Self::FullDisk => Act::One(data.last().expect("a cluster has stores").clone()),
            Self::ReplaceMaster => Act::One(one(rng, &topology.masters)),
            // Those disks are volumes: the small one stays where it is.
            Self::EmptiedVolume | Self::OldVolume => Act::One(one(rng, &data[..data.len() - 1])),
            Self::SyncError | Self::Memory | Self::Descriptors => Act::One(one(rng, data)),
            Self::Split | Self::Move | Self::Transfer | Self::Drain | Self::AddStore => {
                Act::Dice(rng.random_range(0..1 << 20))
            }
        };
        Fault { kind: self, act }
    }

    /// How long a fault of this kind is to last.
    pub fn draw_length(self, rng: &mut impl Rng) -> Duration {
        let (from, to) = self.lasts();
        Duration::from_millis((rng.random_range(from..to) * 1_000.0) as u64)
    }
}

/// Whom a fault strikes, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Every server.
    All,
    /// One container.
    One(Service),
    /// These at once.
    Several(Vec<Service>),
    /// These, from the masters.
    Apart(Vec<Service>),
    /// One container, in a direction.
    Way(Service, Way),
    /// One container: percent, kilobits per second, milliseconds.
    Much(Service, u64),
    /// One container's wall clock, by so many seconds.
    Jump(Service, i64),
    /// Masters and data servers in this order.
    Order(Vec<Service>),
    /// A number by which one of what there is then is chosen.
    Dice(usize),
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: Kind,
    /// The rest.
    pub act: Act,
}

impl Fault {
    /// The one container that it strikes, if it is one.
    pub fn victim(&self) -> Option<&Service> {
        match &self.act {
            Act::One(service)
            | Act::Way(service, _)
            | Act::Much(service, _)
            | Act::Jump(service, _) => Some(service),
            Act::All | Act::Several(_) | Act::Apart(_) | Act::Order(_) | Act::Dice(_) => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        match (&self.act, self.kind) {
            (Act::All, _) => write!(f, "{kind}"),
            (Act::Dice(dice), _) => write!(f, "{kind} (dice {dice})"),
            (Act::One(service), _) => write!(f, "{kind} {service}"),
            (Act::Way(service, Way::Both), _) => write!(f, "{kind} {service}"),
            (Act::Way(service, Way::Sends), _) => write!(f, "{kind} {service}: is not heard"),
            (Act::Way(service, Way::Hears), _) => write!(f, "{kind} {service}: does not hear"),
            (Act::Much(service, much), Kind::Lossy) => write!(f, "{kind} {service}: {much} %"),
            (Act::Much(service, much), Kind::Slow) => write!(f, "{kind} {service}: {much} kbit/s"),
            (Act::Much(service, much), _) => write!(f, "{kind} {service}: {much} ms"),
            (Act::Jump(service, by), _) => write!(f, "{kind} {service}: {by:+} s"),
            (Act::Order(order) | Act::Several(order) | Act::Apart(order), _) => {
                let order: Vec<_> = order.iter().map(|service| service.0.as_str()).collect();
                write!(f, "{kind} {}", order.join(" "))
            }
        }
    }
}
