//! A client's process as shipped: the session's driver with its guards' cells, a connection to one
//! gateway after the other, a spare one beside it, and the tasks that use its locks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sharklock_client::session::{Driver, LeaseCell, Output, Rotation, SessionConfig};
use sharklock_client::{Grant, LostReason, Membership, Request};
use sharklock_history::Versioned;

use crate::check::CLOCKS;
use crate::client_hears::Talk;
use crate::clock::DriftingClock;
use crate::impostor;
use crate::state_file::{StateFile, TakesBack};
use crate::streams::{ConnId, Payload};

/// A client's machine.
pub struct ClientNode {
    /// Its clock.
    pub clock: DriftingClock,
    /// Which life of its process this is.
    pub life: u32,
    /// The process, while it lives.
    pub process: Option<ClientProcess>,
    /// Until when the process stands still.
    pub paused_until: u64,
    /// Dials that were due while it stood still, with their lives and when they began.
    pub dials_due: Vec<(u32, u64, u64)>,
    /// The messages that have arrived meanwhile. `None`: the connection is gone.
    pub backlog: Vec<(ConnId, Option<Payload>)>,
    /// The session's id. A new life may go on under the old one, as another instance.
    pub secret: Bytes,
    /// What it keeps over the ends of its processes, if anything.
    pub file: Option<StateFile>,
}

/// A life of a client.
pub struct ClientProcess {
    /// The core.
    pub driver: Driver<(), u64, u64, u64>,
    /// The output of the driver; empty between turns.
    pub output: Output<u64, u64, u64>,
    /// Names this life: the instance of the session, and the label in the history.
    pub instance: u64,
    /// The connection.
    pub link: Link,
    /// The connection to another gateway, while the session wants one.
    pub spare: Link,
    /// Which gateway that is, from 0.
    pub spare_at: usize,
    /// Which gateway is dialled, and when.
    pub rotation: Rotation,
    /// To which cluster the gateways belong, as they say.
    pub known: Membership,
    /// The last dial or pause: only the event with this number counts.
    pub dial: u64,
    /// The same for the spare connection.
    pub spare_dial: u64,
    /// Dials and pauses of both.
    pub dials_count: u64,
    /// The wishes of tasks that are not finished, by ticket.
    pub taken: BTreeMap<u64, Taken>,
    /// The last ticket, which is also the last acquisition's id.
    pub last_ticket: u64,
    /// Tasks: what each is at, and when it goes on where it is at nothing.
    pub tasks: Vec<Task>,
    /// Calls for one acquisition that were sent: which, and when.
    pub sent: BTreeMap<u64, (u64, u64)>,
    /// Questions and answers, word by word.
    pub talk: Talk,
    /// The next turn: only the event with this number counts.
    pub wake: u64,
    /// When it is planned.
    pub wake_at: Option<u64>,
    /// It closes itself: nothing new is asked for.
    pub is_closing: bool,
    /// Until when users have time to stop then, on its clock.
    pub closes_at: Option<Duration>,
    /// It has closed itself, and ends behind this turn.
    pub has_closed: bool,
    /// The next life comes so long after that.
    pub back_ns: u64,
}

/// A connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nobody needs one.
    Idle,
    /// A dial or a pause before it.
    Dialling,
    /// There is one.
    Up(ConnId),
}

/// One task: takes a lock, uses it, gives it back, thinks, and so on.
#[derive(Clone, Debug)]
pub struct Task {
    /// The ticket of the wish that it is at.
    pub ticket: Option<u64>,
    /// When it takes the next lock.
    pub next_ns: u64,
}

/// One acquisition from its wish to its end.
pub struct Taken {
    /// The task. `None`: a re-entry, which belongs to the task's hold.
    pub task: Option<usize>,
    /// The wish.
    pub request: Arc<Request>,
    /// The cell that the guard would look at.
    pub cell: Arc<LeaseCell<()>>,
    /// When it was asked, true time.
    pub asked_ns: u64,
    /// Its state.
    pub stage: Stage,
    /// How often it became a new wish: its client asked again so long after the last answer that
    /// the cluster may have ended and forgotten it, and with it its place in the queue.
    pub wishes: u64,
    /// What it takes back.
    pub takes_back: Option<TakesBack>,
    /// It has its place without queueing: by a reclaim or a downgrade.
    pub passes_queue: bool,
    /// The history has a hold of it that ended by a downgrade; this is what came behind.
    pub is_second_part: bool,
}

/// See [`Taken`].
pub enum Stage {
    /// The future waits, and is dropped at this time, if at all.
    Acquiring {
        /// When it is dropped.
        give_up_ns: Option<u64>,
    },
    /// The guard is out.
    Held(Held),
    /// The release waits for its confirmation.
    Releasing {
        /// The guard.
        held: Held,
        /// Since when.
        since_ns: u64,
    },
}

/// A guard in the hands of a task.
#[derive(Clone, Debug)]
pub struct Held {
    /// The grant.
    pub grant: Grant,
    /// When the guard was handed out, true time.
    pub since_ns: u64,
    /// When it is given back.
    pub until_ns: u64,
    /// When the task uses it next; `None`: an answer of the resource is waited for.
    pub use_ns: Option<u64>,
    /// The resource's answer to the last read, until it is written.
    pub read: Option<Versioned>,
    /// When it is re-entered.
    pub reenter_ns: Option<u64>,
    /// It was.
    pub was_reentered: bool,
    /// When it is changed next.
    pub change_ns: Option<u64>,
    /// A change is on its way.
    pub is_changing: bool,
    /// Since when its user is content to share it.
    pub downgrade_ns: Option<u64>,
    /// It must not end as held for too long before.
    pub bounded_ns: Option<u64>,
    /// Its user has heard that its client closes.
    pub is_stopping: bool,
}

impl ClientNode {
    /// A machine without a process.
    pub fn new(clock: DriftingClock, secret: Bytes) -> Self {
        let backlog = Vec::new();
        Self {
            clock,
            life: 0,
            process: None,
            paused_until: 0,
            dials_due: Vec::new(),
            backlog,
            secret,
            file: None,
        }
    }

    /// Begins a life.
    pub fn start(&mut self, instance: u64, jitter_seed: u64, gateways: usize, tasks: Vec<Task>) {
        let config = SessionConfig {
            call_timeout: Duration::from_secs(10),
            gateways_count: gateways,
            jitter_seed,
            numbers_after: 0,
        };
        self.life += 1;
        self.process = Some(ClientProcess {
            driver: Driver::new(config),
            output: Output::default(),
            instance,
            link: Link::Idle,
            spare: Link::Idle,
            spare_at: 0,
            rotation: Rotation::new(gateways, jitter_seed),
            known: impostor::told(gateways),
            dial: 0,
            spare_dial: 0,
            dials_count: 0,
            taken: BTreeMap::new(),
            last_ticket: 0,
            tasks,
            sent: BTreeMap::new(),
            talk: Talk::default(),
            wake: 0,
            wake_at: None,
            is_closing: false,
            closes_at: None,
            has_closed: false,
            back_ns: 0,
        });
    }

    /// The reading of its clock.
    pub fn now(&self, now_ns: u64) -> Duration {
        self.clock.read(now_ns)
    }

    /// When the process wants its next turn, true time.
    pub fn wakes_at(&self) -> Option<u64> {
        let process = self.process.as_ref()?;
        let driver = process.driver.next_due().and_then(|due| self.clock.when(due));
        let tasks = process.tasks.iter().filter(|task| task.ticket.is_none());
        let tasks = tasks.map(|task| task.next_ns);
        let taken = process.taken.values().filter_map(Taken::next_ns);
        tasks.chain(taken).chain(driver).min()
    }
}

impl Taken {
    /// When the task does something about it.
    fn next_ns(&self) -> Option<u64> {
        match &self.stage {
            Stage::Acquiring { give_up_ns } => *give_up_ns,
            // A task that hears of a loss acts at once.
            Stage::Held(held) if self.cell.lost() == Some(&LostReason::Closed) => {
                Some(held.until_ns)
            }
            Stage::Held(_) if self.cell.lost().is_some() => Some(0),
            Stage::Held(held) => {
                let others = [held.use_ns, held.reenter_ns, held.change_ns].into_iter().flatten();
                others.chain([held.until_ns]).min()
            }
            Stage::Releasing { .. } => None,
        }
    }

    /// Names it in the history, where a new wish is another acquisition.
    pub fn recorded_as(&self, id: u64) -> u64 {
        id | self.wishes << 32 | u64::from(self.is_second_part) << 63
    }

    /// The guard, given back or not.
    pub fn held(&self) -> Option<&Held> {
        match &self.stage {
            Stage::Acquiring { .. } => None,
            Stage::Held(held) | Stage::Releasing { held, .. } => Some(held),
        }
    }
}

impl Held {
    /// From now on it may be held for so long, at most.
    pub fn bounded_from(&mut self, now: u64, max_hold: Option<Duration>) {
        let bound = max_hold.map(|most| now + most.as_nanos() as u64 * CLOCKS / 100);
        self.bounded_ns = self.bounded_ns.into_iter().chain(bound).min();
    }
}
