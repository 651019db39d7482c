//! The task that owns a session: it feeds the core with wishes, answers and time, and carries out
//! what the core wants. It decides nothing about locks.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use sharklock_proto::v1;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep},
};

use crate::{
    client::Inner,
    clock::Clock,
    error::{AcquireError, LockLost, LostReason, ReleaseError},
    grant::Grant,
    handle::{AcquireCommand, COMMANDS_MAX, Returned, Returns, SessionHandle},
    ids::{AcquisitionId, FencingToken},
    lease_cell::LeaseCell,
    link::{Link, LinkEvent},
    request::Request,
    session::{CloseEnd, Effects, Event, Notice, SessionConfig, SessionCore},
    wire,
};

/// Acquisitions of one session at a time, waiting ones included. The cluster's own limit is 10,000
/// per range; this one bounds the client's memory.
const ACQUISITIONS_MAX: usize = 65_536;

/// Starts the session of a client on the current tokio runtime.
pub(crate) fn start(client: &Inner) -> Arc<SessionHandle> {
    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let returns = Arc::new(Returns::default());
    let clock = Arc::new(Clock::start());
    let config = SessionConfig { call_timeout: client.call_timeout, jitter_seed: rand::random() };
    let task = SessionTask {
        core: SessionCore::new(config),
        link: Link::new(client.endpoints.clone(), Arc::clone(&client.id)),
        clock: Arc::clone(&clock),
        commands: commands_in,
        commands_open: true,
        returns: Arc::clone(&returns),
        entries: BTreeMap::new(),
        newest: AcquisitionId(0),
        timer: Timer { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), armed: None },
        effects: Effects::default(),
        lists: Lists::default(),
    };
    // The task ends by itself with its last handle; the runtime ends it otherwise, and `Drop`
    // tells the guards.
    tokio::spawn(task.run());
    Arc::new(SessionHandle { commands, returns, clock })
}

struct SessionTask {
    core: SessionCore,
    link: Link,
    clock: Arc<Clock>,
    commands: mpsc::Receiver<AcquireCommand>,
    /// Some handle is left.
    commands_open: bool,
    returns: Arc<Returns>,
    /// The handles' side of every acquisition that has one, or whose close is waited for.
    entries: BTreeMap<AcquisitionId, Entry>,
    newest: AcquisitionId,
    timer: Timer,
    effects: Effects,
    lists: Lists,
}

/// Lists that keep their memory from turn to turn; all are empty between turns.
#[derive(Default)]
struct Lists {
    commands: Vec<AcquireCommand>,
    returned: Vec<Returned>,
    messages: Vec<v1::SessionResponse>,
    acquires: Vec<v1::SessionCall>,
    urgent: Vec<v1::SessionCall>,
}

/// One timer for the whole session; the core keeps the many.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it fires, on the client's clock.
    armed: Option<Duration>,
}

/// What the handles of one acquisition wait for.
struct Entry {
    cell: Arc<LeaseCell>,
    request: Arc<Request>,
    stage: Stage,
}

enum Stage {
    /// The acquire future waits.
    Acquiring(oneshot::Sender<Result<Grant, AcquireError>>),
    /// The guard is out.
    Held(FencingToken),
    /// It was given back, and somebody may wait for the confirmation.
    Closing(Option<FencingToken>, Option<oneshot::Sender<Result<(), ReleaseError>>>),
}

impl SessionTask {
    async fn run(mut self) {
        loop {
            let commands_open = self.commands_open;
            let Self { link, commands, returns, timer, lists, .. } = &mut self;
            // The order does not matter: each turn takes whatever is there.
            tokio::select! {
                () = returns.wake.notified() => {}
                count = commands.recv_many(&mut lists.commands, COMMANDS_MAX),
                    if commands_open => self.commands_open = count > 0,
                event = link.next(&mut lists.messages) => self.link_event(event),
                () = &mut timer.sleep, if timer.armed.is_some() => timer.armed = None,
            }
            self.turn();
            if !self.commands_open && self.core.acquisitions_count() == 0 {
                return;
            }
        }
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        self.take_returned(now);
        self.take_commands(now);
        self.take_messages(now);
        if self.core.next_due().is_some_and(|due| due <= now) {
            self.core.handle(now, Event::Tick, &mut self.effects);
        }
        self.carry_out(now);
        self.link.want(self.core.acquisitions_count() > 0);
        self.timer.arm(now, self.core.next_due());
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        match event {
            LinkEvent::Messages => {}
            LinkEvent::Connected => self.core.handle(now, Event::Connected, &mut self.effects),
            // A failed dial changes nothing but the reason that people are told.
            LinkEvent::Lost { why } => {
                self.core.handle(now, Event::Disconnected { why }, &mut self.effects);
            }
        }
    }

    /// Notes for acquisitions that are still in the channel carry no id: their commands are found
    /// abandoned when they are taken out.
    fn take_returned(&mut self, now: Duration) {
        let mut returned = std::mem::take(&mut self.lists.returned);
        self.returns.take(&mut returned);
        for Returned { cell, reply } in returned.drain(..) {
            let id = AcquisitionId(cell.id());
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let token = match &entry.stage {
                Stage::Held(token) => Some(*token),
                Stage::Acquiring(_) | Stage::Closing(..) => None,
            };
            entry.stage = Stage::Closing(token, reply);
            self.core.handle(now, Event::Close { id }, &mut self.effects);
        }
        self.lists.returned = returned;
    }

    fn take_commands(&mut self, now: Duration) {
        let mut commands = std::mem::take(&mut self.lists.commands);
        for AcquireCommand { request, cell, reply } in commands.drain(..) {
            if cell.is_abandoned() {
                continue;
            }
            if self.core.acquisitions_count() >= ACQUISITIONS_MAX {
                let message = format!("this client has {ACQUISITIONS_MAX} acquisitions");
                let reason = "TOO_MANY_ACQUISITIONS".to_owned();
                let error = AcquireError::LimitReached { reason, message, retry_after: None };
                // Nobody is left to hear it when the future was dropped meanwhile.
                let _ = reply.send(Err(error));
                continue;
            }
            let id = AcquisitionId(self.newest.0 + 1);
            self.newest = id;
            cell.set_id(id.0);
            let stage = Stage::Acquiring(reply);
            self.entries.insert(id, Entry { cell, request: Arc::clone(&request), stage });
            self.core.handle(now, Event::Acquire { id, request }, &mut self.effects);
        }
        self.lists.commands = commands;
    }

    fn take_messages(&mut self, now: Duration) {
        let mut messages = std::mem::take(&mut self.lists.messages);
        for answer in messages.drain(..).flat_map(|message| message.answers) {
            match wire::event(answer) {
                Some(event) => self.core.handle(now, event, &mut self.effects),
                // A newer server's word; what it means for leases, silence means too.
                None => tracing::warn!("the server sent an answer that this client cannot read"),
            }
        }
        self.lists.messages = messages;
    }

    fn carry_out(&mut self, now: Duration) {
        let mut notices = std::mem::take(&mut self.effects.notices);
        for notice in notices.drain(..) {
            self.notice(now, notice);
        }
        assert!(self.effects.notices.is_empty(), "a notice causes no other");
        self.effects.notices = notices;
        if std::mem::take(&mut self.effects.reconnect) {
            // What was to be sent is on nobody's books any more: the core names it all again.
            self.effects.acquires.clear();
            self.effects.urgent.clear();
            self.link.leave();
        }
        self.lists.acquires.extend(self.effects.acquires.drain(..).map(wire::session_call));
        self.lists.urgent.extend(self.effects.urgent.drain(..).map(wire::session_call));
        self.link.send(&mut self.lists.acquires, &mut self.lists.urgent);
    }

    fn notice(&mut self, now: Duration, notice: Notice) {
        match notice {
            Notice::Decided { id, result } => self.decided(id, result),
            Notice::Renewed { id, valid_until, in_jeopardy } => {
                let Some(entry) = self.entries.get(&id) else { return };
                if entry.cell.lost().is_some() {
                    // Its user has seen the lease lapse before this answer came.
                    self.core.handle(now, Event::LapsedAtUse { id }, &mut self.effects);
                } else {
                    entry.cell.renew(valid_until);
                    entry.cell.set_jeopardy(in_jeopardy);
                }
            }
            Notice::Jeopardy { id } => {
                if let Some(entry) = self.entries.get(&id) {
                    entry.cell.set_jeopardy(true);
                }
            }
            Notice::Lost { id, reason } => {
                if let Some(entry) = self.entries.get(&id) {
                    tracing::warn!(lock = &*entry.request.name, %reason, "lock lost");
                    entry.cell.lose(reason);
                }
            }
            Notice::Closed { id, end } => self.closed(id, end),
        }
    }

    fn decided(&mut self, id: AcquisitionId, result: Result<Grant, AcquireError>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match result {
            Ok(grant) => {
                entry.cell.renew(grant.valid_until);
                let stage = std::mem::replace(&mut entry.stage, Stage::Held(grant.token));
                match stage {
                    // If the future was dropped meanwhile its note is on the list of returns.
                    Stage::Acquiring(reply) => drop(reply.send(Ok(grant))),
                    Stage::Held(_) | Stage::Closing(..) => {
                        unreachable!("only what is open is decided, and once")
                    }
                }
            }
            Err(error) => {
                if let Some(Entry { stage: Stage::Acquiring(reply), .. }) = self.entries.remove(&id)
                {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }

    fn closed(&mut self, id: AcquisitionId, end: CloseEnd) {
        let Some(entry) = self.entries.remove(&id) else { return };
        let Stage::Closing(Some(token), Some(reply)) = entry.stage else { return };
        let name = Arc::clone(&entry.request.name);
        let result = match end {
            CloseEnd::Confirmed => Ok(()),
            CloseEnd::Lost(reason) => Err(LockLost { name, token, reason }.into()),
            CloseEnd::Unconfirmed => Err(ReleaseError::Unconfirmed { name }),
        };
        // Nobody is left to hear it when the future was dropped; the release stands.
        let _ = reply.send(result);
    }
}

impl Drop for SessionTask {
    fn drop(&mut self) {
        for entry in self.entries.values() {
            entry.cell.lose(LostReason::SessionEnded);
        }
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
