//! The state files of clients' machines, and what lives of clients take back by them: as
//! `client/src/reclaim.rs` and `recording.rs` do. A file outlives its process, unless it is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sharklock_client::session::LeaseCell;
use sharklock_client::{Condition, FencingToken, LockMode, LostReason, Request, Wait};
use sharklock_gateway::validate;
use sharklock_proto::v1::{self, GetLockRequest, LockInfo};

use crate::client::{ClientNode, Taken};
use crate::gateway::Look;
use crate::note;
use crate::revoking::handle_of;
use crate::world::{Event, MS, S, World};

/// A look whose answer has not come for so long is repeated.
const LOOK_NS: u64 = 3 * S;

/// Names an entry: the instance and the acquisition that it is of.
pub type Key = (u64, u64);

/// The file.
#[derive(Clone, Debug, Default)]
pub struct StateFile {
    holds: BTreeMap<Key, Recorded>,
}

/// A hold, or the wish for one.
#[derive(Clone, Debug)]
struct Recorded {
    name: Arc<str>,
    token: Option<u64>,
    mode: LockMode,
    ttl: Duration,
    /// The disk has it before anybody counts on it; other entries come there some time.
    is_durable: bool,
    /// This life has asked for it back.
    is_asked: bool,
}

/// What an acquisition takes back.
#[derive(Clone, Debug)]
pub struct TakesBack {
    /// The entry of the file that is over then, if there is one.
    entry: Option<Key>,
    /// The guard of this life that was lost, and is let go when it is decided.
    lost: Option<Arc<LeaseCell<()>>>,
}

impl Recorded {
    /// Another guard of the same hold.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.token.is_some() && self.token == other.token
    }
}

impl StateFile {
    /// A process has ended: what was not on the disk is gone, or there by chance.
    pub fn survives(&mut self, mut is_there: impl FnMut() -> bool) {
        self.holds.retain(|_, hold| hold.is_durable || is_there());
        self.holds.values_mut().for_each(|hold| hold.is_asked = false);
    }
}

impl ClientNode {
    /// A hold is about to be asked for.
    pub(crate) fn file_intends(&mut self, key: Key, request: &Request) {
        let Some(file) = &mut self.file else { return };
        let joined = |it: &Recorded| {
            it.name == request.name && it.token == request.reenter.map(|token| token.as_u64())
        };
        let joins_what_stays =
            request.reenter.is_some() && file.holds.values().any(|it| joined(it) && it.is_durable);
        let hold = Recorded {
            name: Arc::clone(&request.name),
            token: None,
            mode: request.mode,
            ttl: request.ttl,
            is_durable: request.condition.holds() || request.reclaim.is_some() || joins_what_stays,
            is_asked: false,
        };
        file.holds.insert(key, hold);
    }

    /// It is granted, with this token; that it stays is on the disk before its guard is handed out.
    pub(crate) fn file_granted(&mut self, key: Key, token: u64, stays: Option<bool>) {
        if let Some(hold) = self.file.as_mut().and_then(|file| file.holds.get_mut(&key)) {
            hold.token = Some(token);
            match stays {
                Some(stays) => hold.is_durable = stays,
                None => hold.mode = LockMode::Shared,
            }
        }
    }

    /// Its condition is about to be another.
    pub(crate) fn file_agrees(&mut self, key: Key, stays: bool) {
        let Some(file) = self.file.as_mut().filter(|_| stays) else { return };
        let Some(first) = file.holds.get(&key).cloned() else { return };
        let same = |it: &&mut Recorded| it.is_same(&first);
        file.holds.values_mut().filter(same).for_each(|it| it.is_durable = true);
        file.holds.entry(key).or_insert(first).is_durable = true;
    }

    /// It is over.
    pub(crate) fn file_forgets(&mut self, key: Key) {
        if let Some(file) = &mut self.file {
            file.holds.remove(&key);
        }
    }

    /// A hold of an older life is over, whichever of its guards are in the file.
    fn file_forgets_older(&mut self, key: Key) {
        let Some(file) = &mut self.file else { return };
        let Some(gone) = file.holds.remove(&key) else { return };
        file.holds.retain(|(instance, _), it| *instance != key.0 || !it.is_same(&gone));
    }
}

impl World {
    /// A life begins with what the file of its machine says. In one of four the machine is another,
    /// and so is the session.
    pub(crate) fn opens_file(&mut self, number: usize, instance: u64) -> bool {
        let is_lost = self.dice.agreements.one_in(4);
        let client = &mut self.clients[number - 1];
        let Some(file) = &mut client.file else { return false };
        if file.holds.is_empty() {
            return false;
        }
        if is_lost {
            self.counters.count("state files lost");
            *file = StateFile::default();
            client.secret = instance.to_le_bytes().repeat(2).into();
            return true;
        }
        let life = client.life + 1;
        let holds: Vec<Key> = file.holds.keys().copied().collect();
        note!(self, "c{number} reads of {} holds in its file", holds.len());
        for entry in holds {
            let at = self.now + self.dice.agreements.below(500 * MS);
            self.queue.plan(at, Event::TakeBack { client: number, life, entry });
        }
        true
    }

    /// A client looks at the lock of a hold of an older life, to take it back.
    pub(crate) fn take_back(&mut self, number: usize, life: u32, entry: Key) {
        let now = self.now;
        let client = &self.clients[number - 1];
        if client.life != life || client.process.is_none() || self.is_winding_down {
            return;
        }
        let hold = client.file.as_ref().and_then(|file| file.holds.get(&entry));
        let Some(hold) = hold.filter(|hold| !hold.is_asked) else { return };
        let name = hold.name.to_string();
        self.queue.plan(now + LOOK_NS, Event::TakeBack { client: number, life, entry });
        let up = self.gateways_up();
        if client.paused_until > now || up.is_empty() {
            return;
        }
        let at = *self.dice.agreements.pick(&up);
        let gateway = &mut self.gateways[at - 1];
        let now_us = gateway.now_us(now);
        let process = gateway.process.as_mut().expect("it is up");
        let request = GetLockRequest { name: name.clone(), waiters_max: 1 };
        let call = process.asks(now_us, "client", validate::get_lock(request));
        let look = Look { asked_ns: now, name, token: None, by: Some((number, life, entry)) };
        process.asked.insert(call, look);
        self.after_gateway(at);
    }

    /// It has looked.
    pub(crate) fn has_looked(
        &mut self,
        (number, life, entry): (usize, u32, Key),
        lock: Option<&LockInfo>,
    ) {
        let client = &mut self.clients[number - 1];
        if client.life != life || client.process.is_none() || self.is_winding_down {
            return;
        }
        let handle = handle_of(&client.secret);
        // A hold with several guards is taken back once.
        let of_file = |file: &StateFile| {
            let hold = file.holds.get(&entry)?;
            Some(file.holds.values().any(|it| it.is_asked && it.is_same(hold)))
        };
        if client.file.as_ref().and_then(of_file) == Some(true) {
            return;
        }
        let instance = client.process.as_ref().map_or(0, |process| process.instance);
        let Some(file) = &mut client.file else { return };
        let Some(hold) = file.holds.get(&entry).filter(|hold| !hold.is_asked).cloned() else {
            return;
        };
        let named: BTreeSet<u64> = file
            .holds
            .values()
            .filter(|other| other.name == hold.name)
            .filter_map(|other| other.token)
            .collect();
        let holders = lock.map_or(&[][..], |lock| &lock.holders);
        let is_ours = |it: &&v1::Holder| it.session == handle && it.instance < instance;
        let ours: Vec<&v1::Holder> = holders.iter().filter(is_ours).collect();
        let known = ours.iter().find(|it| hold.token == Some(it.token));
        let found = known.or_else(|| ours.iter().find(|it| !named.contains(&it.token)));
        let Some(token) = found.map(|it| it.token).or(hold.token) else {
            file.holds.remove(&entry);
            return self.counters.count("wishes of older lives that came to nothing");
        };
        let mode = found.map_or(hold.mode, |it| mode_of(it, lock));
        let ttl = found.map_or(hold.ttl, |it| Duration::from_millis(it.ttl_ms));
        // No other entry of the file is to find the same.
        let hold_in_file = file.holds.get_mut(&entry).expect("as above");
        (hold_in_file.is_asked, hold_in_file.token) = (true, Some(token));
        self.counters.count("reclaims asked");
        let takes_back = TakesBack { entry: Some(entry), lost: None };
        self.reclaim(number, (hold.name, token), (mode, ttl), takes_back);
    }

    /// A session asks for a hold back.
    fn reclaim(
        &mut self,
        number: usize,
        (name, token): (Arc<str>, u64),
        (mode, ttl): (LockMode, Duration),
        takes_back: TakesBack,
    ) {
        self.checks.agreed.changes(&name, token);
        let request = Request {
            name,
            mode,
            ttl,
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: Some(FencingToken::from_u64(token)),
            condition: Condition::default(),
            ask: false,
            owner: Arc::from(format!("c{number}/back")),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        };
        self.ask_back(number, request, takes_back);
    }

    /// A guard whose hold stays is lost: in half of the cases its life takes the hold back, before it
    /// lets the guard go.
    pub(crate) fn takes_own_back(&mut self, number: usize, ticket: u64, taken: &Taken) -> bool {
        let orphaned =
            matches!(taken.cell.lost(), Some(LostReason::Unrenewed | LostReason::Orphaned));
        let agreement = taken.cell.agreement();
        let stays = agreement.is_some_and(|agreement| agreement.claimed);
        let Some(held) = taken.held().filter(|_| orphaned && stays) else { return false };
        let is_free = held.downgrade_ns.is_none() && !self.is_winding_down;
        if !is_free || taken.request.reenter.is_some() || self.dice.agreements.one_in(2) {
            return false;
        }
        let Some(process) = &self.clients[number - 1].process else { return false };
        if process.is_closing {
            return false;
        }
        let entry = Some((process.instance, ticket));
        let ttl = agreement.map_or(taken.request.ttl, |agreement| agreement.ttl);
        let (name, mode) = (Arc::clone(&taken.request.name), taken.request.mode);
        let token = held.grant.token.as_u64();
        self.counters.count("orphans asked back by their own life");
        let takes_back = TakesBack { entry, lost: Some(Arc::clone(&taken.cell)) };
        self.reclaim(number, (name, token), (mode, ttl), takes_back);
        true
    }

    /// A reclaim is decided, or given up: `is_over` where nothing is left to be taken back.
    pub(crate) fn taken_back(&mut self, number: usize, takes_back: &TakesBack, is_over: bool) {
        let client = &mut self.clients[number - 1];
        let now = client.now(self.now);
        if let Some(entry) = takes_back.entry.filter(|_| is_over) {
            client.file_forgets_older(entry);
        }
        if let (Some(cell), Some(process)) = (&takes_back.lost, &mut client.process) {
            cell.close();
            process.driver.give_back(now, cell, None);
        }
    }
}

/// How it is held, in the words of who wants it so.
fn mode_of(holder: &v1::Holder, lock: Option<&LockInfo>) -> LockMode {
    match holder.mode() {
        v1::LockMode::Shared => LockMode::Shared,
        v1::LockMode::Permits => {
            let of = lock.map_or(holder.permits, |lock| lock.permits_max);
            LockMode::Permits { n: holder.permits, of }
        }
        v1::LockMode::Exclusive | v1::LockMode::Unspecified => LockMode::Exclusive,
    }
}
