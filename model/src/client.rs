//! A client: what it sends, what it believes, and what an answer changes of that.

use crate::{
    bounds::{ATTEMPTS_MAX, Ask, CLIENTS_MAX, Wish},
    message::{Command, Message, Said},
    rules::Rule,
    state::{Attempt, Client, ClientIndex, Condition, Fault, Id, Phase, Seq, Ticks, Token},
    table::ids,
    world::World,
};

impl World<'_> {
    /// A new attempt is sent now: its seq.
    fn attempt(&mut self, client: ClientIndex, keepalive: bool) -> Seq {
        let left = self.bounds.ttl + self.bounds.longer;
        let client = self.state.client(client);
        let answered_before = if keepalive { client.answered } else { u8::MAX };
        let attempt = Attempt { left, longer: client.longer_known(), answered_before };
        client.attempts[usize::from(client.sent)] = attempt;
        client.sent += 1;
        client.sent
    }

    /// Sends the first attempt of an acquisition, or one more.
    pub fn ask(&mut self, client: ClientIndex, id: Id) {
        let seq = self.attempt(client, false);
        let outer_token = |world: &mut Self, client, id| {
            let phase = world.state.acquisition(client, id).phase;
            token_of(phase).expect("the plan starts it only when the other has a token")
        };
        let message = match self.bounds.plan(client, id).ask {
            Ask::Wait | Ask::Try => Message::Acquire { client, id, seq, reenter: 0 },
            Ask::Reenter(outer) => {
                let reenter = outer_token(self, client, outer);
                Message::Acquire { client, id, seq, reenter }
            }
            Ask::Reclaim(older, of) => {
                let token = outer_token(self, older, of);
                Message::Reclaim { client, id, seq, token }
            }
        };
        let acquisition = self.state.acquisition(client, id);
        if acquisition.phase == Phase::Idle {
            acquisition.phase = Phase::Asking;
        }
        self.state.send(message);
    }

    /// Sends a keepalive.
    pub fn keep_alive(&mut self, client: ClientIndex, items: u8) {
        let seq = self.attempt(client, true);
        self.state.send(Message::KeepAlive { client, seq, items });
    }

    /// Gives an acquisition back, in whatever state it is. From here on nobody believes in it.
    pub fn give_back(&mut self, client: ClientIndex, id: Id) {
        let phase = self.state.acquisition(client, id).phase;
        self.forget(client, id);
        let message = match token_of(phase) {
            Some(token) => Message::Release { client, id, token, all: false },
            None => Message::Cancel { client, id },
        };
        self.state.send(message);
    }

    /// Stops for ever.
    pub fn crash(&mut self, client: ClientIndex) {
        for id in 0..self.bounds.clients[usize::from(client)].plans.len() as Id {
            let acquisition = self.state.acquisition(client, id);
            // Its hold may be reclaimed by its token.
            acquisition.phase = match token_of(acquisition.phase) {
                Some(token) => Phase::Lost(token),
                None => Phase::Closed,
            };
            acquisition.left = 0;
        }
        let crashed = self.state.client(client);
        crashed.crashed = true;
        crashed.attempts = [Attempt::NONE; ATTEMPTS_MAX];
    }

    /// Wants something agreed about a hold: what comes next of the client's wishes.
    pub fn wish(&mut self, client: ClientIndex, id: Id, wish: Wish) {
        let acquisition = *self.state.acquisition(client, id);
        let token = token_of(acquisition.phase).expect("wishes are of holds");
        let revision = acquisition.revision;
        self.state.client(client).wishes += 1;
        match wish {
            Wish::Claim => {
                let seq = self.attempt(client, false);
                self.state.acquisition(client, id).default_known = false;
                self.state.send(Message::Claim { client, id, seq, token, revision });
            }
            Wish::Agree(terms) => {
                self.state.acquisition(client, id).default_known = false;
                self.state.send(Message::SetCondition { client, id, token, revision, terms });
            }
        }
    }

    /// Asks the holder of what it waits for.
    pub fn ask_holder(&mut self, client: ClientIndex, id: Id) {
        self.state.client(client).wishes += 1;
        self.state.send(Message::Ask { client, id });
    }

    /// A message has come to a client.
    pub fn hear(&mut self, message: Message) {
        match message {
            Message::Answer { client, id, seq, said } => {
                if !self.state.client(client).crashed {
                    self.hear_answer(client, id, seq, said);
                }
            }
            Message::SessionAlive { client, seq, items } => {
                for id in ids(items) {
                    let phase = self.state.acquisition(client, id).phase;
                    if let Phase::Held(token) = phase {
                        self.hear_answer(client, id, seq, Said::Held(token));
                    }
                }
            }
            Message::Agreement { client, id, revision, terms } => {
                let acquisition = self.state.acquisition(client, id);
                if revision > acquisition.revision {
                    acquisition.revision = revision;
                    acquisition.default_known = terms.condition == Condition::OnExpiry;
                    acquisition.longer_known = terms.longer;
                }
            }
            _ => unreachable!("not for a client: {message:?}"),
        }
    }

    fn hear_answer(&mut self, client: ClientIndex, id: Id, seq: Seq, said: Said) {
        let bit = 1 << id;
        let left = self.time_of(client, id, seq);
        let asked_later = seq == 0 || {
            let attempt = self.state.client(client).attempts[usize::from(seq) - 1];
            attempt.answered_before & bit != 0
        };
        self.state.client(client).answered |= bit;
        let phase = self.state.acquisition(client, id).phase;
        match (said, phase) {
            (Said::Held(token), Phase::Closed) => self.release_unknown(client, id, token),
            (Said::Ending(token), _) => self.acknowledge(client, id, token),
            (Said::Waiting, Phase::Asking | Phase::Waiting) => {
                let acquisition = self.state.acquisition(client, id);
                acquisition.phase = Phase::Waiting;
                acquisition.left = acquisition.left.max(left);
            }
            (Said::Held(token), Phase::Asking | Phase::Waiting) => {
                self.state.acquisition(client, id).phase = Phase::Granted(token);
                self.renewed(client, id, token, left);
            }
            (Said::Held(token), Phase::Granted(known) | Phase::Held(known)) if token == known => {
                self.renewed(client, id, token, left);
            }
            // The grant that was known has ended before its guard was out.
            (Said::Held(token), Phase::Granted(known)) if token > known => {
                self.granted_anew(client, id, known, token, left);
            }
            (Said::Held(token), Phase::Held(known) | Phase::Lost(known)) if token > known => {
                self.release_unknown(client, id, token);
            }
            (Said::Gone, Phase::Asking | Phase::Waiting | Phase::Granted(_) | Phase::Held(_))
                if asked_later || !self.has(Rule::GoneNeedsLaterKeepAlive) =>
            {
                self.believe_gone(client, id);
            }
            _ => {}
        }
    }

    /// The rest of a lease that counts from the attempt which an answer echoes.
    fn time_of(&mut self, client: ClientIndex, id: Id, seq: Seq) -> Ticks {
        let (ttl, longer) = (self.bounds.ttl, self.bounds.longer);
        let from_known = self.has(Rule::LongerLeaseFromKnown);
        let no_time = self.has(Rule::PushCarriesNoTime);
        let echoed = self.has(Rule::SeqEchoed);
        let client = self.state.client(client);
        if seq == 0 {
            return if no_time { 0 } else { ttl };
        }
        // Without an echo the latest attempt is the only one that a client can count from.
        let seq = if echoed { seq } else { client.sent };
        let attempt = client.attempts[usize::from(seq) - 1];
        let known = if from_known { attempt.longer } else { client.longer_known() };
        if known & (1 << id) != 0 { attempt.left } else { attempt.left.saturating_sub(longer) }
    }

    fn granted_anew(
        &mut self,
        client: ClientIndex,
        id: Id,
        known: Token,
        token: Token,
        left: Ticks,
    ) {
        let adopted = if self.has(Rule::NewestGrantCounts) { token } else { known };
        self.state.acquisition(client, id).phase = Phase::Granted(adopted);
        self.renewed(client, id, adopted, left);
    }

    /// A lease is a hold's: an answer for one id renews every guard of it that is out.
    fn renewed(&mut self, client: ClientIndex, id: Id, token: Token, left: Ticks) {
        let name = self.name(client, id);
        for other in 0..self.bounds.clients[usize::from(client)].plans.len() as Id {
            let of_hold = other == id || self.name(client, other) == name;
            let acquisition = self.state.acquisition(client, other);
            match acquisition.phase {
                Phase::Held(held) if of_hold && held == token => {
                    acquisition.left = acquisition.left.max(left);
                }
                Phase::Granted(granted) if other == id && granted == token => {
                    acquisition.left = acquisition.left.max(left);
                    if acquisition.left > 0 {
                        acquisition.phase = Phase::Held(token);
                    }
                }
                _ => {}
            }
        }
    }

    /// Forgets the time of attempts that nobody can answer any more, and what is on its way to
    /// clients that are no more: states that differ only there are one state.
    pub fn tidy(&mut self) {
        let clients = self.state.clients;
        let is_heard = |message: &Message| match *message {
            Message::Answer { client, .. }
            | Message::SessionAlive { client, .. }
            | Message::Agreement { client, .. } => !clients[usize::from(client)].crashed,
            _ => true,
        };
        self.state.net.retain(is_heard);
        if !self.has(Rule::SeqEchoed) {
            return;
        }
        let mut answerable = [0_u8; CLIENTS_MAX];
        let asked = |command: &Command| match *command {
            Command::Asked(message) => Some(message),
            _ => None,
        };
        let logs = self.state.ranges.iter().flat_map(|range| range.log.iter().filter_map(asked));
        let messages = self.state.net.iter().chain(&self.state.mailbox).copied().chain(logs);
        let reads = self.state.ranges.iter().flat_map(|range| &range.reads);
        let read = reads.map(|read| (read.client, read.seq));
        for (client, seq) in messages.filter_map(seq_of).chain(read).filter(|(_, seq)| *seq > 0) {
            answerable[usize::from(client)] |= 1 << (seq - 1);
        }
        for (client, answerable) in self.state.clients.iter_mut().zip(answerable) {
            for (index, attempt) in client.attempts.iter_mut().enumerate() {
                if answerable & (1 << index) == 0 {
                    *attempt = Attempt::NONE;
                }
            }
        }
    }

    /// A grant for which nobody has an open acquisition is let go.
    fn release_unknown(&mut self, client: ClientIndex, id: Id, token: Token) {
        if self.has(Rule::UnknownGrantReleased) {
            self.send_once(Message::Release { client, id, token, all: false });
        }
    }

    /// The hold will be ended: every guard of it is lost first, then its end may come at once.
    fn acknowledge(&mut self, client: ClientIndex, id: Id, token: Token) {
        let by_id = self.has(Rule::AcknowledgedById);
        let name = self.name(client, id);
        for other in 0..self.bounds.clients[usize::from(client)].plans.len() as Id {
            let phase = self.state.acquisition(client, other).phase;
            let of_hold = self.name(client, other) == name && token_of(phase) == Some(token);
            if !of_hold && other != id {
                continue;
            }
            if !matches!(phase, Phase::Idle | Phase::Closed) {
                let lost = self.state.acquisition(client, other);
                (lost.phase, lost.left) = (Phase::Lost(token), 0);
            }
            if by_id {
                self.send_once(Message::Release { client, id: other, token, all: false });
            }
        }
        if !by_id {
            self.send_once(Message::Release { client, id, token, all: true });
        }
    }

    fn send_once(&mut self, message: Message) {
        if !self.state.net.contains(&message) {
            self.state.send(message);
        }
    }

    fn believe_gone(&mut self, client: ClientIndex, id: Id) {
        let owner = self.key(client);
        let name = self.name(client, id);
        let lock = &self.state.locks[usize::from(name)];
        let held = lock.hold.as_ref().is_some_and(|hold| {
            hold.has(owner, id) && !hold.orphan && !hold.is_ending()
                || hold.reclaimer == Some((owner, id))
        });
        let waits = lock.queue.iter().any(|waiter| (waiter.client, waiter.id) == (owner, id));
        if held || waits {
            self.state.blame(Fault::FalseGone);
        }
        let acquisition = self.state.acquisition(client, id);
        if let Phase::Held(token) = acquisition.phase {
            acquisition.phase = Phase::Lost(token);
            acquisition.left = 0;
        } else {
            self.forget(client, id);
        }
    }

    fn forget(&mut self, client: ClientIndex, id: Id) {
        let acquisition = self.state.acquisition(client, id);
        acquisition.phase = Phase::Closed;
        acquisition.left = 0;
    }
}

/// The token that a client knows of an acquisition.
pub fn token_of(phase: Phase) -> Option<Token> {
    match phase {
        Phase::Granted(token) | Phase::Held(token) | Phase::Lost(token) => Some(token),
        Phase::Idle | Phase::Asking | Phase::Waiting | Phase::Closed => None,
    }
}

/// The attempt that a message belongs to.
fn seq_of(message: Message) -> Option<(ClientIndex, Seq)> {
    match message {
        Message::Acquire { client, seq, .. }
        | Message::KeepAlive { client, seq, .. }
        | Message::Claim { client, seq, .. }
        | Message::Reclaim { client, seq, .. }
        | Message::Answer { client, seq, .. }
        | Message::SessionAlive { client, seq, .. } => Some((client, seq)),
        Message::Release { .. }
        | Message::Cancel { .. }
        | Message::SetCondition { .. }
        | Message::Ask { .. }
        | Message::Agreement { .. } => None,
    }
}

impl Client {
    /// The acquisitions of which it knows that their lease is longer than others, as bits.
    fn longer_known(&self) -> u8 {
        let known = self.acquisitions.iter().enumerate().filter(|(_, held)| held.longer_known);
        known.fold(0, |bits, (id, _)| bits | 1 << id)
    }

    /// The acquisitions that a keepalive names, as bits: everything open of which the client wants
    /// more.
    pub fn kept_alive(&self) -> u8 {
        let is_kept = |phase: Phase| {
            matches!(phase, Phase::Asking | Phase::Waiting | Phase::Granted(_) | Phase::Held(_))
        };
        let kept = self.acquisitions.iter().enumerate().filter(|(_, held)| is_kept(held.phase));
        kept.fold(0, |bits, (id, _)| bits | 1 << id)
    }
}
