//! The clients of a run, in containers beside the cluster: each process does one kind of work with many
//! clients, and writes its history while it works.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;
use sharklock_client::{AcquireError, Client};
use sharklock_history::{End, Journal, Recorder, What};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::keep::{Life, one_life, state_file};
use super::lapses;
use super::names::inside;
use super::resource::Resource;
use crate::witness::{Held, Want, Witness};

/// After an error: a cluster that is out of reach is not asked without end.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// From the word to end until all clients have, whatever they wait for.
const END_MAX: Duration = Duration::from_secs(40);
/// The longest that anybody waits for a lock.
const PATIENCE: Duration = Duration::from_secs(20);
/// The lease of all others: it outlives a change of the leader.
pub const LEASE: Duration = Duration::from_secs(8);
/// A hold with `max_hold` ends long before: new leaders begin its second anew, and a client that hears of none
/// loses it with its lease.
const BOUNDED_ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Session labels of a process.
pub const SESSIONS_EACH: u32 = 1_000;
/// Between two looks at the ranges, and how long one may take.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A wait ends within so much of its time (docs/SEMANTICS.md), and a machine with twenty busy processes may
/// take so long to notice.
const WAIT_ENDS_WITHIN: Duration = Duration::from_millis(100);
const BUSY_MACHINE: Duration = Duration::from_millis(500);
/// Of so many cycles with a hot lock, one looks at its token.
const LOOK_EVERY_CYCLES: u32 = 8;
/// Between two looks of a waiter at its place in the queue.
const PLACE_EVERY: Duration = Duration::from_millis(10);
/// Lives are labelled from here on, so many for each client.
const LIVES_SESSIONS: u32 = 100_000_000;
const LIVES_EACH: u32 = 10_000;
/// Permits of a semaphore.
const PERMITS: u16 = 4;

/// What the clients of a process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Names of their own, in each range that there is: every range has work at any time.
    Own,
    /// One name of each group that all want.
    Hot,
    /// A queue whose waiters give up, or withdraw.
    Queue,
    /// Sharers and writers; permits.
    Shared,
    /// Holds that end by what was agreed: after a while, or because somebody asks.
    Conditions,
    /// Holds that last, and a resource that checks tokens.
    Slow,
    /// Holds that outlive the process of their client, and are taken back by its next life.
    Reclaim,
}

/// A process of clients.
#[derive(Clone, Debug)]
pub struct Load {
    /// What they do.
    pub work: Work,
    /// How many.
    pub clients: u32,
    /// Groups of names, `g0/` and so on: each begins as a range of its own.
    pub groups: u32,
    /// The name of the process, and of its history.
    pub label: String,
    /// The label of the first client's session in the history; the others follow.
    pub first_session: u32,
    /// Between two cycles of one client.
    pub pause: Duration,
    /// Where the history goes.
    pub out: PathBuf,
}

struct Worker {
    load: Arc<Load>,
    number: u32,
    witness: Witness,
    /// Where its history goes after each cycle.
    notes: UnboundedSender<Recorder>,
    /// Where each range begins.
    starts: watch::Receiver<Vec<String>>,
    resource: Option<Resource>,
    surprises: Surprises,
}

/// Errors that no fault explains, and how often.
type Surprises = BTreeMap<String, u64>;

/// The file of a process's surprises, which it leaves when it ends in order.
pub fn surprises_file(out: &Path, label: &str) -> PathBuf {
    out.join(format!("{label}.surprises.json"))
}

/// The file of a process's history.
pub fn history_file(out: &Path, label: &str) -> PathBuf {
    out.join(format!("{label}.jsonl"))
}

impl Load {
    /// Works until `stop`, with the history on its way to its file all the time; in the end surprises are
    /// written down.
    ///
    /// # Errors
    /// When the environment names no gateway, or nothing can be written.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let load = Arc::new(self);
        let stopped = Arc::new(AtomicBool::new(false));
        let (notes, taken) = unbounded_channel();
        let file = BufWriter::new(File::create(history_file(&load.out, &load.label))?);
        let journal = Journal::begin(file)?;
        let writing = tokio::task::spawn_blocking(move || keep(journal, taken));
        let (told, starts) = watch::channel(Vec::new());
        let looking = (load.work == Work::Own).then(|| tokio::spawn(look_for_ranges(told)));
        let mut running = JoinSet::new();
        for number in 0..load.clients {
            let identity = format!("{}-{number}", load.label);
            let client = Client::builder().endpoints_from_env()?.identity(&identity).build()?;
            let witness = Witness::labelled(client, load.first_session + number);
            let worker = Worker {
                load: Arc::clone(&load),
                number,
                witness,
                notes: notes.clone(),
                starts: starts.clone(),
                resource: None,
                surprises: Surprises::new(),
            };
            running.spawn(worker.work(Arc::clone(&stopped)));
        }
        drop(notes);
        stop.await;
        stopped.store(true, Ordering::Relaxed);
        let surprises = until_ended(running).await;
        if let Some(looking) = looking {
            looking.abort();
        }
        writing.await?.context("the history")?;
        std::fs::write(surprises_file(&load.out, &load.label), serde_json::to_string(&surprises)?)?;
        Ok(())
    }
}

/// Tells where each range begins, in the order of their ids, and again whenever that changes.
async fn look_for_ranges(told: watch::Sender<Vec<String>>) -> Result<()> {
    let client = Client::builder().endpoints_from_env()?.identity("looks-for-ranges").build()?;
    loop {
        // Without an answer there is what there was.
        if let Ok(Ok(ranges)) = timeout(LOOK_MAX, client.list_ranges(None)).await {
            let ranges = ranges.into_iter().map(|it| (it.range_id, it.start));
            let ranges: BTreeMap<u64, String> = ranges.collect();
            let starts: Vec<String> = ranges.into_values().collect();
            told.send_if_modified(|known| {
                let is_new = *known != starts;
                *known = starts;
                is_new
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for all clients: what surprised them. Those that do not end in time are dropped.
async fn until_ended(mut running: JoinSet<Surprises>) -> Surprises {
    let deadline = Instant::now() + END_MAX;
    let mut surprises = Surprises::new();
    while let Ok(Some(ended)) = timeout_at(deadline, running.join_next()).await {
        match ended {
            Ok(seen) => {
                for (what, count) in seen {
                    *surprises.entry(what).or_insert(0) += count;
                }
            }
            Err(why) => *surprises.entry(format!("a client ended: {why}")).or_insert(0) += 1,
        }
    }
    if !running.is_empty() {
        surprises.insert("did not end in time".to_owned(), running.len() as u64);
        running.shutdown().await;
    }
    surprises
}

/// Writes what clients note, until none is left.
fn keep(
    mut journal: Journal<BufWriter<File>>,
    mut taken: UnboundedReceiver<Recorder>,
) -> std::io::Result<()> {
    while let Some(notes) = taken.blocking_recv() {
        journal.append(&notes)?;
        while let Ok(notes) = taken.try_recv() {
            journal.append(&notes)?;
        }
        journal.flush()?;
    }
    Ok(())
}

impl Worker {
    async fn work(mut self, stopped: Arc<AtomicBool>) -> Surprises {
        let mut cycle = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            let result = self.cycle(cycle).await;
            // Whoever writes it down has failed only where the process fails, too.
            let _ = self.notes.send(self.witness.take_notes());
            if let Err(error) = result {
                self.note(&error);
                sleep(PAUSE_AFTER_ERROR).await;
            }
            cycle = cycle.wrapping_add(1);
            sleep(self.load.pause).await;
        }
        self.surprises
    }

    fn note(&mut self, error: &AcquireError) {
        let is_expected =
            matches!(error, AcquireError::WaitTimedOut { .. }) || error.is_retryable();
        if !is_expected {
            self.surprised(error.to_string());
        }
    }

    fn surprised(&mut self, what: String) {
        *self.surprises.entry(what).or_insert(0) += 1;
    }

    /// The group of this cycle: a client stays with one, so that each group always has some.
    fn group(&self) -> u32 {
        self.number % self.load.groups
    }

    /// A name of its own in the range that is its turn: clients of several processes, which are labelled one
    /// after the other, share ranges out among them.
    fn own_name(&self) -> String {
        let Load { label, first_session, clients, .. } = &*self.load;
        let starts = self.starts.borrow();
        let turn = (first_session / SESSIONS_EACH * clients + self.number) as usize;
        let start = starts.get(turn % starts.len().max(1)).map_or("", String::as_str);
        inside(start, &format!("{label}-{}", self.number))
    }

    async fn cycle(&mut self, cycle: u32) -> Result<(), AcquireError> {
        let group = self.group();
        match self.load.work {
            Work::Own => {
                let name = self.own_name();
                self.hold(&Want::exclusive(&name).ttl(LEASE).within(PATIENCE)).await
            }
            Work::Hot => {
                let want = Want::exclusive(&format!("g{group}/hot"));
                let want = want.ttl(LEASE).within(PATIENCE);
                match cycle % LOOK_EVERY_CYCLES {
                    0 => self.hold_and_look(&want).await,
                    _ => self.hold(&want).await,
                }
            }
            Work::Queue => self.queue(group).await,
            Work::Shared => self.share(group, cycle).await,
            Work::Conditions => self.conditions(group, cycle).await,
            Work::Slow => self.slow(group).await,
            Work::Reclaim => self.reclaim(group, cycle).await,
        }
    }

    async fn hold(&mut self, want: &Want) -> Result<(), AcquireError> {
        let held = self.acquire(want).await?;
        // The history has what came of it.
        let _ = self.witness.release(held).await;
        Ok(())
    }

    /// Holds, and asks for the token while it is live and when it is not.
    async fn hold_and_look(&mut self, want: &Want) -> Result<(), AcquireError> {
        let held = self.acquire(want).await?;
        let token = held.token();
        let _ = self.witness.try_look(&want.name, token).await;
        let _ = self.witness.release(held).await;
        let _ = self.witness.try_look(&want.name, token).await;
        Ok(())
    }

    /// Acquires, and demands that the wait ends in time, whatever the cluster does.
    async fn acquire(&mut self, want: &Want) -> Result<Held, AcquireError> {
        let begun = Instant::now();
        let result = self.witness.acquire(want).await;
        self.demand_end(want, begun);
        result
    }

    fn demand_end(&mut self, want: &Want, begun: Instant) {
        // A try waits for nobody: it asks until it is answered, or until its call times out.
        let Some(wait) = want.wait.filter(|wait| !wait.is_zero()) else { return };
        let over = begun.elapsed().saturating_sub(wait);
        if over > WAIT_ENDS_WITHIN + BUSY_MACHINE {
            let long = wait.as_millis();
            self.surprised(format!("a wait of {long} ms for {} ended late by {over:?}", want.name));
        }
    }

    async fn queue(&mut self, group: u32) -> Result<(), AcquireError> {
        let name = format!("g{group}/queue");
        let patience = Duration::from_millis(rand::rng().random_range(1..150));
        let want = Want::exclusive(&name).ttl(LEASE);
        let way = rand::rng().random_range(0..6);
        match way {
            0 => match self.hold(&want.within(Duration::ZERO)).await {
                // A try is refused while somebody holds or waits.
                Err(AcquireError::Held { .. }) => Ok(()),
                other => other,
            },
            1 => {
                let want = want.within(PATIENCE);
                let held = self.witness.acquire_and_look(&want, PLACE_EVERY).await?;
                self.hold_a_little(held).await;
                Ok(())
            }
            2 | 3 => self.hold(&want.within(patience)).await,
            _ => {
                // Whoever drops an acquisition withdraws it, wherever it is by then.
                let want = want.within(PATIENCE);
                match timeout(patience, self.witness.acquire(&want)).await {
                    Ok(result) => {
                        self.hold_a_little(result?).await;
                        Ok(())
                    }
                    Err(_withdrawn) => Ok(()),
                }
            }
        }
    }

    async fn hold_a_little(&mut self, held: Held) {
        let long = rand::rng().random_range(0..5);
        sleep(Duration::from_millis(long)).await;
        let _ = self.witness.release(held).await;
    }

    /// One life of a client of its own name. What it kept is refused to others until its next life.
    async fn reclaim(&mut self, group: u32, cycle: u32) -> Result<(), AcquireError> {
        let Load { label, first_session, .. } = &*self.load;
        let name = format!("g{group}/kept-{label}-{}", self.number);
        let first = LIVES_SESSIONS + first_session * LIVES_EACH;
        let session = first + self.number * LIVES_EACH + cycle % LIVES_EACH;
        let life = Life { state_file: state_file(label, self.number), name, session };
        match one_life(&life).await {
            Ok(history) => {
                let is_kept = history.records.iter().any(|it| is_open(&it.what));
                self.witness.add_notes(&history);
                if is_kept {
                    self.demand_refusal(&life.name).await?;
                }
            }
            Err(why) => self.surprised(format!("a life of {}: {why:#}", life.name)),
        }
        Ok(())
    }

    /// A try for what is kept. Its lease may have ended: it stays all the same.
    async fn demand_refusal(&mut self, name: &str) -> Result<(), AcquireError> {
        let want = Want::exclusive(name).ttl(LEASE).within(Duration::ZERO);
        match self.witness.acquire(&want).await {
            Ok(held) => {
                self.surprised(format!("{name} was kept, and granted to another"));
                let _ = self.witness.release(held).await;
                Ok(())
            }
            Err(AcquireError::Held { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn share(&mut self, group: u32, cycle: u32) -> Result<(), AcquireError> {
        let (shared, permits) = (format!("g{group}/shared"), format!("g{group}/permits"));
        let want = match cycle % 4 {
            0 => Want::exclusive(&shared),
            1 | 2 => Want::shared(&shared),
            _ => Want::permits(&permits, rand::rng().random_range(1..=PERMITS), PERMITS),
        };
        let held = self.acquire(&want.ttl(LEASE).within(PATIENCE)).await?;
        let long = rand::rng().random_range(0..10);
        sleep(Duration::from_millis(long)).await;
        let _ = self.witness.release(held).await;
        Ok(())
    }

    /// One bound to a second, one that gives way when asked, one that asks.
    async fn conditions(&mut self, group: u32, cycle: u32) -> Result<(), AcquireError> {
        let name = format!("g{group}/agreed");
        let want = Want::exclusive(&name).ttl(LEASE).within(PATIENCE);
        match cycle % 3 {
            0 => {
                let max = Duration::from_millis(1_000);
                let held = self.witness.acquire_with(&want, |lock| lock.max_hold(max)).await?;
                if !self.until_lost(held, BOUNDED_ENDS_WITHIN).await {
                    let long = BOUNDED_ENDS_WITHIN;
                    self.surprised(format!(
                        "a hold of {name} that max_hold bounds to {max:?} was still there after {long:?}"
                    ));
                }
            }
            1 => {
                let grace = Duration::from_millis(300);
                let held = self.witness.acquire_with(&want, |lock| lock.ask_grace(grace)).await?;
                // Whether anybody asks is left to chance.
                let _ = self.until_lost(held, Duration::from_secs(2)).await;
            }
            _ => {
                let held = self.witness.acquire_with(&want, |lock| lock.ask()).await?;
                let _ = self.witness.release(held).await;
            }
        }
        Ok(())
    }

    /// Keeps a hold until it is lost, or so long; whether it was lost.
    async fn until_lost(&mut self, mut held: Held, long: Duration) -> bool {
        held.note_promise();
        let is_lost = timeout(long, held.guard.lost_signal().wait()).await.is_ok();
        let _ = self.witness.release(held).await;
        is_lost
    }

    /// Reads, thinks and writes as programs do that do not look at their lease: the resource decides.
    async fn slow(&mut self, group: u32) -> Result<(), AcquireError> {
        // Few clients, so they go round.
        let group = (group + rand::rng().random_range(0..self.load.groups)) % self.load.groups;
        let name = format!("g{group}/slow");
        let want = Want::exclusive(&name).ttl(lapses::LEASE).within(PATIENCE);
        let mut held = self.witness.acquire(&want).await?;
        if self.resource.is_none() {
            match Resource::connect("resource").await {
                Ok(resource) => self.resource = Some(resource),
                Err(error) => self.surprised(format!("the resource: {error:#}")),
            }
        }
        if let Some(resource) = &mut self.resource {
            let worked = work_on(resource, &name, &mut held).await;
            if let Err(error) = worked {
                self.resource = None;
                self.surprised(format!("the resource: {error:#}"));
            }
        }
        let _ = self.witness.release(held).await;
        Ok(())
    }
}

fn is_open(what: &What) -> bool {
    matches!(what, What::Granted(hold) if hold.end == End::Open)
}

async fn work_on(resource: &mut Resource, name: &str, held: &mut Held) -> Result<()> {
    let (token, owner) = (held.token(), held.owner());
    let Some(read) = resource.read(name, token, owner).await? else { return Ok(()) };
    let parts = rand::rng().random_range(1..8);
    for _ in 0..parts {
        sleep(Duration::from_millis(50)).await;
        held.note_promise();
    }
    resource.add_one(name, token, owner, read).await?;
    Ok(())
}
