//! What stands beside the cycles: locks that are held, waiters whose turn does not come, and sessions
//! with a lock each. It is built up before the run, and given back after it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sharklock_client::{Client, ClientBuilder, Connections, Guard, ReleaseError};
use tokio::{
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    load::LoadError,
    measure,
    report::{Errors, KeepAlives, Stood},
    sessions::Sessions,
    worker::{error_kind, now},
};

/// Half of what a session may have open in one range.
const PER_SESSION: u32 = 5_000;
/// Calls that are under way at the same time.
const CALLS: u32 = 256;
/// Waiters that queue at the same time: nothing says when one of them has its place, but their number.
const WAITERS_AT_ONCE: u32 = 1_000;
/// How often the queues are looked at while waiters come.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// When no other waiter has come for so long, none is waited for any more.
const WAITERS_STALL: Duration = Duration::from_secs(30);
/// How often somebody is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long the sessions may take to give back what is left when all is over.
const END_MAX: Duration = Duration::from_secs(30);

/// What is to stand beside the cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Locks that are held, each under a name of its own.
    pub locks: u32,
    /// Waiters in queues of locks that are held all the time.
    pub waiters: u32,
    /// These queues; at least 1.
    pub queues: u32,
    /// Sessions, each with a lock of its own.
    pub sessions: u32,
    /// The lease of these locks; None: the client's own.
    pub ttl: Option<Duration>,
}

/// How it is told how far the building is.
pub type Told = fn(&str);

/// All that stands.
///
/// Invariant: no guard is dropped and no waiter withdrawn before the run is over.
#[derive(Debug)]
pub struct Standing {
    beside: Beside,
    /// The clients of the locks; like those of the waiters they take no part in the cycles.
    lockers: Vec<Client>,
    locks: Vec<Guard>,
    waiters: Vec<Client>,
    /// The holders of the names that are waited for.
    queues: Vec<Guard>,
    /// Each ends with why it waits no more, unless it has got the lock.
    waiting: JoinSet<Option<&'static str>>,
    sessions: Option<Sessions>,
    stood: AllStood,
    told: Told,
}

/// The figures of all that stands.
#[derive(Clone, Debug, Default)]
pub struct AllStood {
    /// Of locks that are held.
    pub locks: Option<Stood>,
    /// Of waiters.
    pub waiters: Option<Stood>,
    /// Of sessions.
    pub sessions: Option<Stood>,
    /// Of these sessions.
    pub keepalives: Option<KeepAlives>,
    /// Calls that failed.
    pub errors: Errors,
}

impl Standing {
    /// Builds it up. `client` configures the clients that have it, `look` is asked how many wait.
    pub async fn build(
        beside: Beside,
        prefix: &str,
        client: impl Fn() -> ClientBuilder,
        look: &Client,
        told: Told,
    ) -> Result<Self, LoadError> {
        let sessions = |count: u32| (0..count.div_ceil(PER_SESSION)).map(|_| client().build());
        let lockers = sessions(beside.locks).collect::<Result<Vec<_>, _>>()?;
        let waiters = sessions(beside.waiters).collect::<Result<Vec<_>, _>>()?;
        let mut standing = Self {
            beside,
            lockers,
            locks: Vec::new(),
            waiters,
            queues: Vec::new(),
            waiting: JoinSet::new(),
            sessions: None,
            stood: AllStood::default(),
            told,
        };
        if beside.locks > 0 {
            standing.take_locks(prefix).await;
        }
        if beside.waiters > 0 {
            standing.queue(prefix, look).await?;
        }
        if beside.sessions > 0 {
            let client = |connections: &Connections| {
                let client = client().share(connections);
                Ok(beside.ttl.into_iter().fold(client, ClientBuilder::ttl).build()?)
            };
            let stood = &mut standing.stood;
            let sessions = Sessions::build(beside.sessions, prefix, client, told, stood).await?;
            standing.sessions = Some(sessions);
        }
        Ok(standing)
    }

    /// The run begins.
    pub fn begin(&mut self) {
        if let Some(sessions) = &mut self.sessions {
            sessions.begin();
        }
    }

    async fn take_locks(&mut self, prefix: &str) {
        let begun = now();
        let name = names(format!("{prefix}beside/"));
        let taken = take(&self.lockers, PER_SESSION, self.beside.locks, name, self.told).await;
        self.stood.errors.add_all(&taken.errors);
        self.stood.locks = Some(Stood {
            wanted: self.beside.locks,
            count: taken.guards.len() as u64,
            built_up_s: begun.elapsed().as_secs_f64(),
            acquire: Some(measure::latencies(taken.latencies)),
            ..Stood::default()
        });
        self.locks = taken.guards;
    }

    async fn queue(&mut self, prefix: &str, look: &Client) -> Result<(), LoadError> {
        let begun = now();
        let name = names(format!("{prefix}queue/"));
        let taken = take(&self.waiters, PER_SESSION, self.beside.queues, name, |_| {}).await;
        self.stood.errors.add_all(&taken.errors);
        self.queues = taken.guards;
        let names: Vec<String> = self.queues.iter().map(|guard| guard.name().to_owned()).collect();
        let (mut count, mut begin, mut told) = (0, 0, begun);
        // Where nothing is held nobody would wait.
        while begin < self.beside.waiters && !names.is_empty() {
            let end = self.beside.waiters.min(begin + WAITERS_AT_ONCE);
            for waiter in begin..end {
                let client = &self.waiters[(waiter / PER_SESSION) as usize];
                let lock = client.lock(&names[waiter as usize % names.len()]);
                // Whoever gets it or fails waits no more, and is counted as lost.
                self.waiting
                    .spawn(async move { lock.acquire().await.err().as_ref().map(error_kind) });
            }
            count = all_wait(look, &names, u64::from(end)).await?;
            if told.elapsed() >= TELL_EVERY {
                told = now();
                let wanted = self.beside.waiters;
                (self.told)(&format!("{count} of {wanted} waiters are in their queues"));
            }
            begin = end;
            if count < u64::from(end) {
                break;
            }
        }
        self.stood.waiters = Some(Stood {
            wanted: self.beside.waiters,
            count,
            built_up_s: begun.elapsed().as_secs_f64(),
            ..Stood::default()
        });
        Ok(())
    }

    /// Counts what does not stand any more, and gives everything back.
    pub async fn end(mut self) -> AllStood {
        if let Some(stood) = &mut self.stood.locks {
            stood.lost = self.locks.iter().filter(|guard| !guard.is_valid()).count() as u64;
        }
        if let Some(stood) = &mut self.stood.waiters {
            while let Some(ended) = self.waiting.try_join_next() {
                let kind = ended.expect("waiters do not panic, and none is aborted yet");
                kind.into_iter().for_each(|kind| self.stood.errors.add(kind, 1));
            }
            // Some may have ended before they were counted.
            stood.lost = stood.count.saturating_sub(self.waiting.len() as u64);
        }
        if let Some(sessions) = self.sessions.take() {
            sessions.end(self.told, &mut self.stood).await;
        }
        let begun = now();
        self.waiting.shutdown().await;
        give_back(self.queues, |_| {}, &mut self.stood.errors).await;
        end(self.waiters).await;
        if let Some(stood) = &mut self.stood.waiters {
            stood.given_back_s = begun.elapsed().as_secs_f64();
        }
        let begun = now();
        give_back(self.locks, self.told, &mut self.stood.errors).await;
        end(self.lockers).await;
        if let Some(stood) = &mut self.stood.locks {
            stood.given_back_s = begun.elapsed().as_secs_f64();
        }
        self.stood
    }
}

/// Waits until these clients have given back all that they had.
pub(crate) async fn end(clients: Vec<Client>) {
    let ends: Vec<_> = clients.iter().map(Client::ended).collect();
    drop(clients);
    let _slower_than_that = timeout(END_MAX, async {
        for end in ends {
            end.await;
        }
    })
    .await;
}

/// Locks that were taken.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) guards: Vec<Guard>,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) errors: Errors,
}

pub(crate) fn names(prefix: String) -> impl Fn(u32) -> String + Clone + Send + 'static {
    move |number| format!("{prefix}{number}")
}

/// Takes so many locks: each client so many, and then the next.
pub(crate) async fn take(
    clients: &[Client],
    per_client: u32,
    count: u32,
    name: impl Fn(u32) -> String + Clone + Send + 'static,
    told: impl Fn(&str),
) -> Taken {
    let clients: Arc<[Client]> = clients.into();
    let done = Arc::new(AtomicU32::new(0));
    let mut running = JoinSet::new();
    for first in 0..CALLS.min(count) {
        let (clients, name, done) = (Arc::clone(&clients), name.clone(), Arc::clone(&done));
        running.spawn(async move {
            let mut taken = Taken::default();
            for number in (first..count).step_by(CALLS as usize) {
                let client = &clients[(number / per_client) as usize];
                let begun = now();
                match client.lock(&name(number)).acquire().await {
                    Ok(guard) => {
                        taken.latencies.push(begun.elapsed());
                        taken.guards.push(guard);
                    }
                    Err(error) => taken.errors.add(error_kind(&error), 1),
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            taken
        });
    }
    let mut all = Taken::default();
    let tell = |count_done: u32| told(&format!("{count_done} of {count} acquires are answered"));
    join(running, &done, tell, |taken: Taken| {
        all.guards.extend(taken.guards);
        all.latencies.extend(taken.latencies);
        all.errors.add_all(&taken.errors);
    })
    .await;
    all
}

/// Releases all of these.
pub(crate) async fn give_back(guards: Vec<Guard>, told: impl Fn(&str), errors: &mut Errors) {
    let count = guards.len();
    let done = Arc::new(AtomicU32::new(0));
    let mut shares: Vec<Vec<Guard>> = Vec::new();
    shares.resize_with(count.min(CALLS as usize), Vec::new);
    for (number, guard) in guards.into_iter().enumerate() {
        shares[number % CALLS as usize].push(guard);
    }
    let mut running = JoinSet::new();
    for share in shares {
        let done = Arc::clone(&done);
        running.spawn(async move {
            let mut errors = Errors::default();
            for guard in share {
                // What was lost before is counted already.
                if matches!(guard.release().await, Err(ReleaseError::Unconfirmed { .. })) {
                    errors.add("release not confirmed", 1);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            errors
        });
    }
    let tell = |count_done: u32| told(&format!("{count_done} of {count} locks are given back"));
    join(running, &done, tell, |of_share: Errors| errors.add_all(&of_share)).await;
}

/// Waits for all tasks, and tells now and then how much of their work is done.
async fn join<T: Send + 'static>(
    mut running: JoinSet<T>,
    done: &AtomicU32,
    tell: impl Fn(u32),
    mut each: impl FnMut(T),
) {
    let mut tick = interval(TELL_EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(ended) => each(ended.expect("tasks do not panic and are not aborted")),
                None => return,
            },
            _ = tick.tick() => tell(done.load(Ordering::Relaxed)),
        }
    }
}

/// Waits until so many wait in these queues, and says how many do. They are fewer if no other has come
/// for a long time.
async fn all_wait(look: &Client, names: &[String], wanted: u64) -> Result<u64, LoadError> {
    let (mut most, mut since) = (0, now());
    loop {
        let mut count = 0;
        for name in names {
            let waiters = look.get_lock(name).await?.lock.map_or(0, |lock| lock.waiters_count);
            count += u64::from(waiters);
        }
        if count > most {
            (most, since) = (count, now());
        }
        if count >= wanted || since.elapsed() > WAITERS_STALL {
            return Ok(count);
        }
        sleep(LOOK_EVERY).await;
    }
}
