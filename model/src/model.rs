//! The model that stateright explores: the steps that are possible next, and their results.

use stateright::{Model, Property};

use crate::{
    bounds::{Ask, Bounds, Wish},
    client::token_of,
    leader::{Leased, due_in},
    message::{Command, Message, Read},
    properties,
    rules::{Rule, Rules},
    state::{ClientIndex, Condition, Id, NameIndex, Phase, RangeId, State},
    table::ids,
    world::{World, key},
};

/// The session that an operator may revoke.
pub const REVOKED: char = 'S';

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A tick of true time passes.
    Tick,
    /// A client sends an attempt to acquire, reenter or reclaim.
    Ask(ClientIndex, Id),
    /// A client names acquisitions, as bits.
    KeepAlive(ClientIndex, u8),
    /// A client gives an acquisition back.
    Close(ClientIndex, Id),
    /// A client stops for ever.
    Crash(ClientIndex),
    /// A client wants something agreed.
    Wish(ClientIndex, Id, Wish),
    /// A waiter asks the holder.
    AskHolder(ClientIndex, Id),
    /// A message reaches its client, or the leader of a range. `again`: a copy of it stays behind.
    Deliver {
        /// The message.
        message: Message,
        /// Which range's leader, if it is for one.
        to: RangeId,
        /// Duplicated.
        again: bool,
    },
    /// A message reaches the mailbox of the parent's leader.
    Arrive(Message),
    /// The parent's leader takes a message out of its mailbox.
    Receive(Message),
    /// A leader proves that it leads after a receipt, and answers.
    Confirm(RangeId, Read),
    /// A leader's scan finds a lease at its end.
    Scan(RangeId, NameIndex, Leased),
    /// The decided commands are proposed.
    Propose(RangeId),
    /// A leader's clock finds the end of a wait.
    TimeOut(ClientIndex, Id),
    /// The range forgets what has ended, for there is too much of it.
    Forget,
    /// An operator takes a hold away.
    ForceRelease(NameIndex),
    /// An operator ends all that session `S` has in a range.
    Revoke(RangeId),
    /// A leader's clock finds a time over that the condition of a hold sets: its grace, or the longest
    /// that it may last.
    TimeUp {
        /// The lock.
        name: NameIndex,
        /// The grace.
        asked: bool,
    },
    /// A split of the parent is proposed.
    ProposeSplit,
    /// The oldest proposal of a range commits and its leader applies it.
    Commit(RangeId),
    /// The parent's leader applies a split that others have applied before.
    ApplySplit,
    /// A new leader of a range, whose log has so many entries that its predecessor proposed.
    FailOver(RangeId, u8),
    /// A command that a superseded leader finds due enters the log of its successor.
    StaleScan(NameIndex, Leased),
    /// A superseded leader answers a keepalive.
    StaleAnswer(Message),
}

/// The design, or what is left of it without some rules, within bounds.
#[derive(Clone, Debug)]
pub struct SharkLock {
    /// The rules that hold.
    pub rules: Rules,
    /// The bounds of the world.
    pub bounds: Bounds,
}

impl SharkLock {
    /// How long no one may have named a hold that is still there, given the leader changes, splits
    /// and endings so far: each starts a lease anew, and a waiter's may have been one before.
    pub fn unnamed_max(&self, state: &State) -> u8 {
        let restarts = state.failovers + state.splits + state.endings;
        self.bounds.ttl * (1 + restarts)
    }

    fn unnamed_counted(&self) -> u8 {
        let Bounds { ttl, failovers, splits, force_releases, .. } = self.bounds;
        let restarts_max = failovers + splits + force_releases + 1;
        if self.bounds.prompt { ttl * (1 + restarts_max) + 1 } else { 0 }
    }

    /// See [`World::key`].
    pub fn key(&self, client: ClientIndex) -> ClientIndex {
        key(self.rules, &self.bounds, client)
    }

    fn world(&self, state: &State) -> World<'_> {
        World { rules: self.rules, bounds: &self.bounds, state: state.clone() }
    }

    fn client_actions(&self, state: &State, client: ClientIndex, actions: &mut Vec<Action>) {
        let plan = &self.bounds.clients[usize::from(client)];
        let now = &state.clients[usize::from(client)];
        if now.crashed {
            return;
        }
        let may_attempt = now.sent < plan.attempts;
        for id in 0..plan.plans.len() as Id {
            let phase = now.acquisitions[usize::from(id)].phase;
            if may_attempt && self.may_ask(state, client, id) {
                actions.push(Action::Ask(client, id));
            }
            if plan.closes & (1 << id) != 0 && !matches!(phase, Phase::Idle | Phase::Closed) {
                actions.push(Action::Close(client, id));
            }
            if let (Phase::Held(_), Some(&wish)) = (phase, plan.wishes.get(usize::from(now.wishes)))
                && (may_attempt || wish != Wish::Claim)
            {
                actions.push(Action::Wish(client, id, wish));
            }
            if plan.asks && phase == Phase::Waiting && now.wishes == 0 {
                actions.push(Action::AskHolder(client, id));
            }
        }
        let kept = now.kept_alive();
        if may_attempt && kept != 0 {
            actions.push(Action::KeepAlive(client, kept));
            let parts = ids(kept).map(|id| 1 << id).filter(|part| *part != kept);
            if plan.splits_keepalives {
                actions.extend(parts.map(|part| Action::KeepAlive(client, part)));
            }
        }
        if plan.crashes {
            actions.push(Action::Crash(client));
        }
    }

    /// Whether an attempt for an acquisition makes sense: the first in the order of ids, later ones
    /// while its outcome is not known.
    fn may_ask(&self, state: &State, client: ClientIndex, id: Id) -> bool {
        let now = &state.clients[usize::from(client)];
        let plan = self.bounds.plan(client, id);
        let needs = match plan.ask {
            Ask::Wait | Ask::Try => true,
            Ask::Reenter(outer) => {
                matches!(now.acquisitions[usize::from(outer)].phase, Phase::Held(_))
            }
            Ask::Reclaim(older, of) => {
                let older = &state.clients[usize::from(older)];
                token_of(older.acquisitions[usize::from(of)].phase).is_some()
            }
        };
        let in_order =
            (0..id).all(|before| now.acquisitions[usize::from(before)].phase != Phase::Idle);
        let phase = now.acquisitions[usize::from(id)].phase;
        needs && in_order && matches!(phase, Phase::Idle | Phase::Asking | Phase::Waiting)
    }

    fn network_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut before = None;
        for &message in
            state.net.iter().filter(|message| before.replace(**message) != Some(**message))
        {
            if !is_for_server(&message) {
                actions.push(Action::Deliver { message, to: RangeId::Parent, again: false });
                continue;
            }
            if self.bounds.mailbox {
                actions.push(Action::Arrive(message));
                continue;
            }
            for range in ranges(state).filter(|range| self.takes(state, *range, &message)) {
                actions.push(Action::Deliver { message, to: range, again: false });
                if state.duplicates > 0 {
                    actions.push(Action::Deliver { message, to: range, again: true });
                }
            }
            if state.stale.is_some()
                && !self.rules.has(Rule::ProofOfLeadership)
                && matches!(message, Message::KeepAlive { .. })
            {
                actions.push(Action::StaleAnswer(message));
            }
        }
        actions.extend(state.mailbox.iter().map(|message| Action::Receive(*message)));
    }

    /// Whether a gateway may send a message to the leader of a range: one of its names is there,
    /// or the range answers for every name.
    fn takes(&self, state: &State, range: RangeId, message: &Message) -> bool {
        let named = |client, id| state.view(range, self.bounds.name(client, id)).is_some();
        match *message {
            Message::KeepAlive { client, items, .. } => {
                let any = ids(items).any(|id| named(client, id));
                any || !self.rules.has(Rule::GoneWithinBounds)
            }
            Message::Acquire { client, id, .. }
            | Message::Release { client, id, .. }
            | Message::Cancel { client, id }
            | Message::Claim { client, id, .. }
            | Message::SetCondition { client, id, .. }
            | Message::Ask { client, id }
            | Message::Reclaim { client, id, .. } => named(client, id),
            _ => false,
        }
    }

    fn leader_actions(&self, world: &World<'_>, range: RangeId, actions: &mut Vec<Action>) {
        let state = &world.state;
        let now = &state.ranges[range as usize];
        let gated = state.is_splitting(range) && self.rules.has(Rule::SilentWhileSplitting);
        if !gated {
            actions.extend(now.reads.iter().map(|read| Action::Confirm(range, *read)));
        }
        let due = world.due(range).into_iter();
        actions.extend(due.map(|(name, leased)| Action::Scan(range, name, leased)));
        if !now.decided.is_empty() {
            actions.push(Action::Propose(range));
        }
        let lags = range == RangeId::Parent && state.lagging.is_some();
        if lags {
            actions.push(Action::ApplySplit);
        } else if !now.log.is_empty() {
            actions.push(Action::Commit(range));
        }
        if state.failovers < self.bounds.failovers {
            let inherits = 0..=now.log.len() as u8;
            actions.extend(inherits.map(|inherited| Action::FailOver(range, inherited)));
        }
    }

    fn fault_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_something = state.ring.iter().any(|ended| *ended != 0);
        if state.forgettings < self.bounds.forgettings && is_something {
            actions.push(Action::Forget);
        }
        if state.splits < self.bounds.splits {
            actions.push(Action::ProposeSplit);
        }
        if state.revocations < self.bounds.revocations {
            actions.extend(ranges(state).map(Action::Revoke));
        }
        for (name, lock) in state.locks.iter().enumerate() {
            let name = name as NameIndex;
            if let (true, Some(hold)) =
                (state.force_releases < self.bounds.force_releases, &lock.hold)
                && !hold.is_taken_away()
            {
                actions.push(Action::ForceRelease(name));
            }
            if let (true, Some(hold)) = (state.time_ups < self.bounds.time_ups, &lock.hold)
                && hold.condition == Condition::Bounded
                && !hold.is_ending()
            {
                actions.push(Action::TimeUp { name, asked: false });
                if hold.asked {
                    actions.push(Action::TimeUp { name, asked: true });
                }
            }
            if state.wait_timeouts < self.bounds.wait_timeouts {
                let waiters = lock.queue.iter().map(|waiter| (waiter.client, waiter.id));
                actions.extend(waiters.map(|(client, id)| Action::TimeOut(client, id)));
            }
        }
        if let Some(stale) = &state.stale {
            for (name, lock) in stale.locks.iter().enumerate() {
                let due = lock.iter().flat_map(due_in);
                actions.extend(due.map(|due| Action::StaleScan(name as NameIndex, due)));
            }
        }
    }

    /// If leaders are prompt, time stands still while they have something to do.
    fn may_tick(&self, world: &World<'_>) -> bool {
        let state = &world.state;
        let busy = ranges(state).any(|range| {
            let now = &state.ranges[range as usize];
            !world.due(range).is_empty() || !now.log.is_empty() || !now.decided.is_empty()
        });
        !self.bounds.prompt || !(busy || state.lagging.is_some())
    }
}

impl Model for SharkLock {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial(&self.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = self.world(state);
        for client in 0..self.bounds.clients.len() as ClientIndex {
            self.client_actions(state, client, actions);
        }
        self.network_actions(state, actions);
        for range in ranges(state) {
            self.leader_actions(&world, range, actions);
        }
        self.fault_actions(state, actions);
        if self.may_tick(&world) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut world = self.world(state);
        match action {
            Action::Tick => world.state.tick(self.unnamed_counted()),
            Action::Ask(client, id) => world.ask(client, id),
            Action::KeepAlive(client, items) => world.keep_alive(client, items),
            Action::Close(client, id) => world.give_back(client, id),
            Action::Crash(client) => world.crash(client),
            Action::Wish(client, id, wish) => world.wish(client, id, wish),
            Action::AskHolder(client, id) => world.ask_holder(client, id),
            Action::Deliver { message, to, again } => {
                if again {
                    world.state.duplicates -= 1;
                } else {
                    take(&mut world.state.net, message);
                }
                if is_for_server(&message) {
                    world.receive(to, message);
                } else {
                    world.hear(message);
                }
            }
            Action::Arrive(message) => {
                take(&mut world.state.net, message);
                world.state.mailbox.push(message);
                world.state.mailbox.sort_unstable();
            }
            Action::Receive(message) => {
                take(&mut world.state.mailbox, message);
                world.receive(RangeId::Parent, message);
            }
            Action::Confirm(range, read) => world.confirm(range, read),
            Action::Scan(range, name, leased) => world.scan(range, name, leased),
            Action::Propose(range) => world.propose_decided(range),
            Action::TimeOut(client, id) => {
                world.state.wait_timeouts += 1;
                let range = world.state.range_of(self.bounds.name(client, id));
                let term = world.state.range(range).term;
                world.state.range(range).log.push(Command::WaitTimeout { client, id, term });
            }
            Action::Forget => world.forget_ended(),
            Action::ForceRelease(name) => {
                world.state.force_releases += 1;
                let token = state.locks[usize::from(name)].hold.as_ref()?.token;
                let range = world.state.range_of(name);
                world.state.range(range).log.push(Command::Ending { name, token });
            }
            Action::Revoke(range) => {
                world.state.revocations += 1;
                world.state.range(range).log.push(Command::Revoke { session: REVOKED });
            }
            Action::TimeUp { name, asked } => {
                world.state.time_ups += 1;
                let hold = state.locks[usize::from(name)].hold.as_ref()?;
                let (token, revision) = (hold.token, hold.revision);
                let range = world.state.range_of(name);
                let term = world.state.range(range).term;
                let command = Command::TimeUp { name, token, revision, asked, term };
                world.state.range(range).log.push(command);
            }
            Action::ProposeSplit => {
                world.state.splits += 1;
                world.state.range(RangeId::Parent).log.push(Command::Split);
            }
            Action::Commit(range) => world.commit(range),
            Action::ApplySplit => world.apply_split(),
            Action::FailOver(range, inherited) => world.fail_over(range, inherited),
            Action::StaleScan(name, leased) => world.stale_scan(name, leased),
            Action::StaleAnswer(message) => {
                take(&mut world.state.net, message);
                let Message::KeepAlive { client, seq, items } = message else { return None };
                world.stale_answer(Read { client, seq, items });
            }
        }
        world.tidy();
        Some(world.state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// The ranges that there are.
fn ranges(state: &State) -> impl Iterator<Item = RangeId> + use<> {
    [RangeId::Parent, RangeId::Child].into_iter().take(state.ranges.len())
}

/// Whether a message goes to a leader.
pub fn is_for_server(message: &Message) -> bool {
    !matches!(
        message,
        Message::Answer { .. } | Message::SessionAlive { .. } | Message::Agreement { .. }
    )
}

fn take(messages: &mut Vec<Message>, message: Message) {
    let at = messages.iter().position(|other| *other == message);
    messages.remove(at.expect("only what is there is taken"));
}
