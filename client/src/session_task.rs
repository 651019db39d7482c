//! The task that owns a session: it feeds the driver with wishes, messages and time, and carries out
//! what it wants. It decides nothing.

use std::{pin::Pin, sync::Arc, time::Duration};

use sharklock_proto::v1;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, Sleep},
};

use crate::{
    client::Inner,
    clock::Clock,
    cluster::Membership,
    error::{AcquireError, ChangeError, ReleaseError},
    events::Closed,
    grant::Grant,
    guard_events::Events,
    handle::{
        AcquireCommand, COMMANDS_MAX, ChangeCommand, Command, Returned, Returns, SessionHandle,
    },
    link::{Link, LinkEvent},
    session::{Changed, Driver, Output, SessionConfig, Told},
    shared::Block,
    state_file::StateFile,
};

/// Starts the session of a client on the current tokio runtime.
pub(crate) fn start(client: &Inner) -> Arc<SessionHandle> {
    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let returns = Arc::new(Returns::default());
    let clock = Arc::new(Clock::start());
    let block = client.group.block();
    let config = SessionConfig {
        call_timeout: client.call_timeout,
        gateways_count: client.group.endpoints.len(),
        jitter_seed: rand::random(),
        numbers_after: block.as_ref().map_or(0, Block::used),
    };
    let task = SessionTask {
        driver: Driver::new(config),
        link: Link::new(
            Arc::clone(&client.group),
            Arc::clone(&client.id),
            block.as_ref().map(Block::number),
        ),
        known: client.group.clusters.watch(),
        clock: Arc::clone(&clock),
        commands: commands_in,
        commands_open: true,
        returns: Arc::clone(&returns),
        timer: Timer { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), armed: None },
        output: Output::default(),
        lists: Lists::default(),
        state: client.state.clone(),
        events: Arc::clone(&client.events),
        close_replies: Vec::new(),
        block,
        _alive: Arc::clone(&client.alive),
    };
    // The task ends by itself with its last handle; the runtime ends it otherwise, and the
    // driver's end tells the guards.
    tokio::spawn(task.run());
    let state = client.state.clone();
    Arc::new(SessionHandle { commands, returns, clock, state })
}

type AcquireReply = oneshot::Sender<Result<Grant, AcquireError>>;
type ReleaseReply = oneshot::Sender<Result<(), ReleaseError>>;
type ChangeReply = oneshot::Sender<Result<Changed, ChangeError>>;

struct SessionTask {
    driver: Driver<Notify, AcquireReply, ReleaseReply, ChangeReply>,
    link: Link,
    /// The words of the endpoints about their clusters.
    known: watch::Receiver<Membership>,
    clock: Arc<Clock>,
    commands: mpsc::Receiver<Command>,
    /// Some handle is left.
    commands_open: bool,
    returns: Arc<Returns>,
    timer: Timer,
    output: Output<AcquireReply, ReleaseReply, ChangeReply>,
    lists: Lists,
    state: Option<Arc<StateFile>>,
    /// The news of all guards.
    events: Arc<Events>,
    /// Who waits for the end of everything.
    close_replies: Vec<oneshot::Sender<Closed>>,
    /// The numbers of its calls and acquisitions, if it shares connections. Behind the link: it is
    /// nobody else's before the places are.
    block: Option<Block>,
    /// Its end tells that of the session.
    _alive: Arc<watch::Sender<()>>,
}

/// Lists that keep their memory from turn to turn; all are empty between turns.
#[derive(Default)]
struct Lists {
    commands: Vec<Command>,
    returned: Vec<Returned>,
    messages: Vec<v1::SessionResponse>,
}

/// One timer for the whole session; the core keeps the many.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it fires, on the client's clock.
    armed: Option<Duration>,
}

impl SessionTask {
    async fn run(mut self) {
        loop {
            let commands_open = self.commands_open;
            let Self { link, known, commands, returns, timer, lists, .. } = &mut self;
            // The order does not matter: each turn takes whatever is there.
            tokio::select! {
                () = returns.wake.notified() => {}
                count = commands.recv_many(&mut lists.commands, COMMANDS_MAX),
                    if commands_open => self.commands_open = count > 0,
                event = link.next(&mut lists.messages) => self.link_event(event),
                // The client's endpoints live longer than its session.
                Ok(()) = known.changed() => self.heed(),
                () = &mut timer.sleep, if timer.armed.is_some() => timer.armed = None,
            }
            self.turn();
            if !self.commands_open && self.driver.acquisitions_count() == 0 {
                return;
            }
        }
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        self.returns.take(&mut self.lists.returned);
        for Returned { cell, reply } in self.lists.returned.drain(..) {
            // One that is still in the channel is found abandoned when it is taken out.
            self.driver.give_back(now, &cell, reply);
        }
        for command in self.lists.commands.drain(..) {
            match command {
                Command::Acquire(AcquireCommand { request, cell, reply }) => {
                    self.driver.acquire(now, request, cell, reply);
                }
                Command::Change(ChangeCommand { cell, change, reply }) => {
                    self.driver.change(now, &cell, change, reply);
                }
                Command::Close { grace, reply } => {
                    self.close_replies.push(reply);
                    self.driver.close(now, grace);
                }
            }
        }
        for message in self.lists.messages.drain(..) {
            self.driver.take_in(now, message);
        }
        self.driver.turn(now, &mut self.output);
        if let Some(block) = &mut self.block {
            block.note_used(self.driver.numbers_used());
        }
        self.carry_out();
        if !self.link.is_up() {
            self.link.set_patience(self.driver.patience());
        }
        self.link.want(self.driver.acquisitions_count() > 0);
        self.timer.arm(now, self.driver.next_due());
    }

    /// Heeds news about clusters before anything that has come meanwhile.
    fn heed(&mut self) {
        let known = self.known.borrow_and_update();
        self.link.heed(&known);
        self.driver.clusters(self.clock.now(), &known);
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        if self.known.has_changed().unwrap_or(false) {
            self.heed();
        }
        match event {
            LinkEvent::Messages => {}
            LinkEvent::Connected => self.driver.connected(now),
            // A failed dial changes nothing but the reason that people are told.
            LinkEvent::Lost { why } => {
                self.driver.disconnected(now, why);
                // Perhaps since all that answered are of other clusters, again.
                self.driver.clusters(now, &self.known.borrow());
            }
            LinkEvent::SpareConnected => self.driver.spare_connected(now),
            LinkEvent::SpareLost => self.driver.spare_lost(now),
        }
    }

    fn carry_out(&mut self) {
        let Output { spare, told, .. } = &mut self.output;
        // Nobody is left to hear a result when the future was dropped; a guard that was dropped with
        // it is on the list of returns, and a release stands.
        for told in told.drain(..) {
            match told {
                Told::Acquired { ticket, result } => drop(ticket.send(result)),
                Told::Released { ticket, result } => drop(ticket.send(result)),
                Told::Changed { ticket, result } => drop(ticket.send(result)),
                Told::Event(event) => {
                    if let Some(file) = self.state.as_ref().filter(|file| file.heard(&event)) {
                        file.write_soon();
                    }
                    self.events.tell(event);
                }
                Told::Closed(closed) => {
                    for reply in self.close_replies.drain(..) {
                        let _unheard = reply.send(closed.clone());
                    }
                }
            }
        }
        self.link.send_spare(spare);
        if std::mem::take(&mut self.output.move_to_spare) {
            self.link.move_to_spare();
        }
        if std::mem::take(&mut self.output.leave_spare) {
            self.link.leave_spare();
        }
        self.link.want_spare(self.output.spare_wanted);
        if std::mem::take(&mut self.output.reconnect) {
            self.link.leave();
        }
        if std::mem::take(&mut self.output.check) {
            self.link.check(self.driver.patience());
        }
        self.link.send(&mut self.output.acquires, &mut self.output.urgent);
    }
}

impl Timer {
    /// Firing too early is harmless and cheaper than moving it at every call.
    fn arm(&mut self, now: Duration, due: Option<Duration>) {
        let Some(due) = due else { return };
        if self.armed.is_none_or(|armed| due < armed) {
            self.sleep.as_mut().reset(Instant::now() + due.saturating_sub(now));
            self.armed = Some(due);
        }
    }
}
