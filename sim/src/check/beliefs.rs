//! S1 and S5 where they matter: in the beliefs of clients. A client believes that it holds a lock
//! from the moment at which its guard was handed out until it gives the guard back, hears of its
//! loss, or its own clock passes the end of the lease. At no moment of true time may two beliefs
//! contradict each other, and no replica may have ended what somebody still believes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sharklock_client::session::LeaseCell;
use sharklock_client::{LockMode, LostReason};
use sharklock_locktable::{HoldView, LockTable, Token};
use sharklock_rangemap::{Bounds, RangeId};

use crate::check::Tiling;
use crate::dice::Dice;

/// Tokens remembered per name for operators to ask about.
const TOKENS_KEPT: usize = 8;

/// One guard that is out.
#[derive(Clone, Debug)]
pub struct Belief {
    /// Which client.
    pub client: usize,
    /// Which life of it.
    pub instance: u64,
    /// Which acquisition.
    pub id: u64,
    /// Its token.
    pub token: u64,
    /// How it holds.
    pub mode: LockMode,
    /// The guard's own knowledge.
    pub cell: Arc<LeaseCell<()>>,
    /// In which range's log the grant was seen, and where.
    pub seen_at: (RangeId, u64),
    /// The end of the lease when it was last compared.
    pub compared: std::time::Duration,
    /// A downgrade is asked for: the hold may have another token than this by now.
    pub is_downgrading: bool,
    /// What is agreed may be another than the guard knows: a change is asked for, or another guard of
    /// the hold may ask for one.
    pub may_have_changed: bool,
}

/// All guards that are out, and the tokens that were.
#[derive(Debug, Default)]
pub struct Beliefs {
    by_name: BTreeMap<String, Vec<Belief>>,
    tokens: BTreeMap<String, VecDeque<u64>>,
    /// The largest token that anybody was given, and the acquisition that it was given for.
    largest: BTreeMap<String, (u64, u64)>,
}

/// What is out, by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    /// The lock.
    pub name: String,
    /// Which life of a client.
    pub instance: u64,
    /// Which acquisition.
    pub id: u64,
}

/// Reads the clock of a client.
pub type ReadClock<'a> = &'a dyn Fn(usize) -> std::time::Duration;

/// Says why what a client believes of a lock is not covered by the leader's own count.
pub type Covers<'a> = &'a dyn Fn(&str, &Belief) -> Result<(), String>;

impl Beliefs {
    /// A guard is handed out.
    pub fn begin(&mut self, name: &str, belief: Belief) {
        self.by_name.entry(name.to_owned()).or_default().push(belief);
    }

    /// A guard is given back, or its loss was heard of.
    pub fn end(&mut self, name: &str, instance: u64, id: u64) {
        if let Some(beliefs) = self.by_name.get_mut(name) {
            beliefs.retain(|belief| (belief.instance, belief.id) != (instance, id));
        }
    }

    /// What is agreed about a guard may be another from here on, or is what the guard knows.
    pub fn may_change(&mut self, name: &str, key: (u64, u64), may: bool) {
        self.of(name, key).for_each(|belief| belief.may_have_changed = may);
    }

    /// The user of an exclusive guard is content to share from here on.
    pub fn shares(&mut self, name: &str, instance: u64, id: u64) {
        for belief in self.of(name, (instance, id)) {
            (belief.mode, belief.is_downgrading) = (LockMode::Shared, true);
        }
    }

    /// Its hold is shared, under this token.
    pub fn has_downgraded(
        &mut self,
        name: &str,
        key: (u64, u64),
        token: u64,
        seen_at: (RangeId, u64),
    ) {
        for belief in self.of(name, key) {
            (belief.token, belief.seen_at, belief.is_downgrading) = (token, seen_at, false);
        }
    }

    fn of(&mut self, name: &str, key: (u64, u64)) -> impl Iterator<Item = &mut Belief> {
        let beliefs = self.by_name.get_mut(name).into_iter().flatten();
        beliefs.filter(move |belief| (belief.instance, belief.id) == key)
    }

    /// A client's process ends, and its beliefs with it.
    pub fn end_all(&mut self, instance: u64) {
        for beliefs in self.by_name.values_mut() {
            beliefs.retain(|belief| belief.instance != instance);
        }
    }

    /// Compares the beliefs of a client whose leases have become longer with all others, and with
    /// what the leader counts. What two believe changes only when a guard is handed out or renewed,
    /// so this misses nothing.
    ///
    /// # Errors
    ///
    /// The broken rule, the lock and what contradicts.
    pub fn compare(
        &mut self,
        client: usize,
        read: ReadClock<'_>,
        covers: Covers<'_>,
    ) -> Result<(), (&'static str, String, String)> {
        for (name, beliefs) in &mut self.by_name {
            let mut changed = false;
            for belief in beliefs.iter_mut().filter(|belief| belief.client == client) {
                let until = belief.cell.valid_until();
                if until > belief.compared {
                    changed = true;
                    if belief.lives(read) {
                        covers(name, belief).map_err(|what| ("S5", name.clone(), what))?;
                    }
                }
                belief.compared = until;
            }
            if changed && let Err(what) = contradiction(beliefs, read) {
                return Err(("S1", name.clone(), what));
            }
        }
        Ok(())
    }

    /// Whether a replica of a range, which has these names and has applied so much, has everything that
    /// is believed and that it can know of (S5, S6). A range that was split off another begins with
    /// all that it had.
    ///
    /// # Errors
    ///
    /// The lock and what the replica lacks.
    pub fn held_by(
        &self,
        store: usize,
        (range, bounds, applied): (RangeId, &Bounds, u64),
        (table, tiling): (&LockTable, &Tiling),
        read: ReadClock<'_>,
    ) -> Result<(), (String, String)> {
        let held = self.by_name.iter().filter(|(_, beliefs)| !beliefs.is_empty());
        let here = held.filter(|(name, _)| bounds.contains(name.as_bytes()));
        for (name, beliefs) in here {
            let knows = |belief: &&Belief| match belief.seen_at {
                (of, index) if of == range => index <= applied,
                // A replica that waits for its first snapshot has nothing.
                (of, _) => applied > 0 && tiling.descends(range, of),
            };
            for belief in beliefs.iter().filter(knows) {
                if belief.lives(read) && !belief.is_held_in(name, table) {
                    let Belief { client, id, token, .. } = belief;
                    let what = format!(
                        "c{client} believes in token {token} of {name} (acquisition {id}), and \
                         s{store} has ended it by index {applied}"
                    );
                    return Err((name.clone(), what));
                }
            }
        }
        Ok(())
    }

    /// S14: what is agreed about the holds of a replica is nothing that their clients have not wished
    /// for.
    ///
    /// # Errors
    ///
    /// The lock, and what is agreed.
    pub fn agreed_by(
        &self,
        store: usize,
        bounds: &Bounds,
        table: &LockTable,
    ) -> Result<(), (String, String)> {
        let here = self.by_name.iter().filter(|(name, _)| bounds.contains(name.as_bytes()));
        for (name, belief) in here.flat_map(|(name, all)| all.iter().map(move |it| (name, it))) {
            let known = belief.cell.agreement().filter(|_| !belief.may_have_changed);
            let hold = table.hold(name, Token(belief.token));
            let (Some(known), Some(hold)) = (known, hold) else { continue };
            let revision = hold.agreement.revision;
            if revision > known.revision {
                let Belief { client, id, .. } = belief;
                let what = format!(
                    "c{client} has agreed on {known:?} for {name} (acquisition {id}), and s{store} \
                     is at revision {revision}"
                );
                return Err((name.clone(), what));
            }
        }
        Ok(())
    }

    /// A token of this name that somebody has or had.
    pub fn some_token(&self, name: &str, dice: &mut Dice) -> Option<u64> {
        let tokens = self.tokens.get(name)?;
        tokens.get(dice.below(tokens.len() as u64) as usize).copied()
    }

    /// S3 where it is plain: who asked after another had been given a token gets a larger one.
    ///
    /// # Errors
    ///
    /// What went backwards.
    pub fn token_given(
        &mut self,
        name: &str,
        token: u64,
        asked_ns: u64,
        now: u64,
        joins: bool,
    ) -> Result<(), String> {
        let (largest, given_ns) = *self.largest.entry(name.to_owned()).or_insert((token, now));
        if !joins && token <= largest && asked_ns > given_ns {
            return Err(format!(
                "{name}: token {token} was asked for at {asked_ns}, and {largest} given at \
                 {given_ns}"
            ));
        }
        let tokens = self.tokens.entry(name.to_owned()).or_default();
        if !tokens.contains(&token) {
            tokens.push_back(token);
            if tokens.len() > TOKENS_KEPT {
                tokens.pop_front();
            }
        }
        if token > largest {
            self.largest.insert(name.to_owned(), (token, now));
        }
        Ok(())
    }

    /// The guards that are out and believed in.
    pub fn guards(&self, read: ReadClock<'_>) -> Vec<Guard> {
        let of = |(name, beliefs): (&String, &Vec<Belief>)| -> Vec<Guard> {
            let out = beliefs.iter().filter(|belief| belief.lives(read));
            let guard =
                |it: &Belief| Guard { name: name.clone(), instance: it.instance, id: it.id };
            out.map(guard).collect()
        };
        self.by_name.iter().flat_map(of).collect()
    }

    /// How many guards are out.
    pub fn count(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }
}

impl Belief {
    /// Who closes its client has lost its guards, and may use them until it has given them back.
    fn lives(&self, read: ReadClock<'_>) -> bool {
        let is_out = matches!(self.cell.lost(), None | Some(LostReason::Closed));
        is_out && read(self.client) < self.cell.valid_until()
    }

    fn is_held_in(&self, name: &str, table: &LockTable) -> bool {
        if table.hold(name, Token(self.token)).is_some() {
            return true;
        }
        let holds = || table.lock(name, usize::MAX, 0).map_or_else(Vec::new, |lock| lock.holds);
        let is_it = |hold: &HoldView| {
            hold.acquisition.instance.0 == self.instance && hold.acquisition.id.0 == self.id
        };
        self.is_downgrading && holds().iter().any(is_it)
    }
}

/// S1 at this moment.
fn contradiction(beliefs: &[Belief], read: ReadClock<'_>) -> Result<(), String> {
    let mut holds: BTreeMap<u64, &Belief> = BTreeMap::new();
    for belief in beliefs.iter().filter(|belief| belief.lives(read)) {
        let other = holds.entry(belief.token).or_insert(belief);
        if other.instance != belief.instance {
            return Err(format!("{} and {} have one token", other.words(), belief.words()));
        }
    }
    let mut permits = 0;
    for (at, belief) in holds.values().enumerate() {
        let mut others = holds.values().take(at);
        let against = match belief.mode {
            LockMode::Exclusive => others.next(),
            LockMode::Shared => others.find(|other| other.mode != LockMode::Shared),
            LockMode::Permits { n, of } => {
                permits += n;
                if permits > of {
                    return Err(format!("{permits} of {of} permits are held: {}", belief.words()));
                }
                others.find(|other| !matches!(other.mode, LockMode::Permits { .. }))
            }
        };
        if let Some(other) = against {
            return Err(format!("{} and {} both believe", other.words(), belief.words()));
        }
    }
    Ok(())
}

impl Belief {
    /// For reports.
    pub fn words(&self) -> String {
        let Self { client, id, token, mode, .. } = self;
        format!("c{client} (acquisition {id}, token {token}, {mode:?})")
    }
}
