//! Drives a `Worker`: waits for mail, runs turns, hands batches to the disk and replies to links.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use sharklock_multiraft::{Batch, Disk, HandOver, NextStep};
use sharklock_proto::{internal::v1::StoreReply, trace::Spans, v1};
use sharklock_transport::{PeerLinks, wall_unix_ms, wall_unix_ns};
use tokio::task::yield_now;

use crate::{
    edge::{
        board::Board,
        chores::Ordered,
        clock::ServerClock,
        disk_thread::{Handed, SyncTimes, Writer},
        heartbeat::{Bulletin, Measures, Words},
        links::{Links, Sent},
        mailbox::Mailbox,
        metrics::{Metrics, Shown},
        own_runtime::OwnRuntime,
        porter::Porter,
        split_ids::IdsDesk,
    },
    front::LinkId,
    gathering::GATHERING_LINK,
    ports::{Input, Outputs},
    worker::Worker,
};

/// How often metrics and the store's status follow the worker.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// Operations of a batch that the worker may write itself: one entry and its hard state.
const INLINE_OPS_MAX: usize = 2;

/// How long a stopping store waits for its disk.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);

/// A worker's thread, and everything that it works with.
pub struct WorkerThread<D> {
    /// Which of the store's workers this is, from 0.
    pub number: usize,
    /// The core.
    pub worker: Worker,
    /// Its clock.
    pub clock: ServerClock,
    /// The mail that comes in.
    pub mailbox: Arc<Mailbox>,
    /// The parts that the store's workers share.
    pub shared: Shared<D>,
    /// True while each range here knew a leader.
    pub was_ready: bool,
    /// The replicas that did not follow their ranges, each with why.
    pub ailing: Vec<String>,
}

/// The parts that the workers of a store share. Clones are of the same.
pub struct Shared<D> {
    /// The porter, which routes by where ranges are.
    pub porter: Arc<Porter>,
    /// The links that carry replies.
    pub links: Arc<Links>,
    /// The streams that carry messages to other stores.
    pub peers: Arc<PeerLinks>,
    /// The board from which heartbeats to the masters read.
    pub bulletin: Arc<Bulletin>,
    /// The board of everything else that they show.
    pub board: Arc<Board>,
    /// The channel to the disk thread. It has room for one batch of each: a core hands out one at a
    /// time.
    pub batches: mpsc::SyncSender<Handed>,
    /// The channel to the chores' thread. The cores bound how many there are.
    pub chores: mpsc::Sender<Ordered>,
    /// The desk at which splits wait for ids.
    pub ids: IdsDesk,
    /// Writes a batch here and now.
    pub writer: Arc<Writer<D>>,
    /// Shown in the status.
    pub sync_times: Arc<SyncTimes>,
    /// Shown to Prometheus.
    pub metrics: Metrics,
    /// Where spans go.
    pub spans: Spans,
    /// How long a stopping store waits until others lead: the longest election time-out.
    pub hand_over_within: Duration,
    /// Shown in the status.
    pub address: String,
    /// What people call the process; shown in the status.
    pub node: String,
    /// Where the process serves metrics and health; shown in the status.
    pub admin_address: String,
}

impl<D> Clone for Shared<D> {
    fn clone(&self) -> Self {
        Self {
            porter: Arc::clone(&self.porter),
            links: Arc::clone(&self.links),
            peers: Arc::clone(&self.peers),
            bulletin: Arc::clone(&self.bulletin),
            board: Arc::clone(&self.board),
            batches: self.batches.clone(),
            chores: self.chores.clone(),
            ids: self.ids.clone(),
            writer: Arc::clone(&self.writer),
            sync_times: Arc::clone(&self.sync_times),
            metrics: self.metrics.clone(),
            spans: self.spans.clone(),
            hand_over_within: self.hand_over_within,
            node: self.node.clone(),
            admin_address: self.admin_address.clone(),
            address: self.address.clone(),
        }
    }
}

impl<D: Disk> WorkerThread<D> {
    /// Runs until the mailbox is closed, then flushes once and ends. What the runtime of its thread
    /// has besides is polled between two turns, and before this thread writes.
    pub fn run(self, runtime: &OwnRuntime) {
        runtime.block_on(async {
            Box::pin(self.work()).await;
            // What the last turn said to other stores still leaves.
            yield_now().await;
        });
    }

    async fn work(mut self) {
        let mut last_shown = None;
        let mut told = 0;
        loop {
            let now = self.clock.now();
            let patience = self.worker.next_wakeup().saturating_sub(now);
            let mail = self.mailbox.take(patience).await;
            let now = self.clock.now();
            self.turn(now, mail.inputs).await;
            if mail.closed {
                return self.finish().await;
            }
            // A store that began to lead, or whose range has changed, has news for the masters, and they
            // have routes for the gateways.
            let stats = self.worker.stats();
            let news = stats.promotions + stats.changes;
            let is_due = last_shown.is_none_or(|shown| now - shown >= SHOW_INTERVAL);
            // It looks at all ranges, so it comes no sooner for news: a split is some.
            if is_due {
                last_shown = Some(now);
                self.show(now);
            }
            if is_due || news != told {
                self.report(news != told);
                told = news;
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "an edge: it measures turns")]
    async fn turn(&mut self, now: Duration, inputs: Vec<Input>) {
        let begin = Instant::now();
        let board = &self.shared.board;
        self.worker.set_used_elsewhere(board.used_elsewhere(self.number));
        self.worker.set_ranges_elsewhere(board.ranges_elsewhere(self.number));
        self.worker.set_disk_free(board.disk_free());
        self.shared.metrics.locks_observed.found(calls_count(&inputs));
        for input in inputs {
            self.worker.handle(now, input);
        }
        // take() empties the mailbox, so whatever had arrived before this turn has been handled; but a
        // closed one has refused keepalives, and nobody may be taken for dead who could not be heard.
        let drained = !self.mailbox.is_closed();
        let mut outputs = self.worker.end_turn(now, wall_unix_ms(), drained);
        while let Some(batch) = self.dispatch(outputs) {
            // The followers' copies of it leave now, so that all disks write at the same time.
            yield_now().await;
            if !self.mailbox.is_empty() || !self.shared.writer.try_write(&batch.ops) {
                // Mail has come, or another worker's batch is being written: this one goes with
                // those that wait.
                self.hand_over_batch(batch);
                break;
            }
            let now = self.clock.now();
            self.worker.handle(now, Input::Persisted(batch.seq));
            // Mail may have come meanwhile, so nothing is due before it has been handled.
            outputs = self.worker.end_turn(now, wall_unix_ms(), false);
        }
        self.shared.metrics.turned(begin.elapsed());
        self.show_at_once();
    }

    /// Shows at once all that must not wait for the next [`show`](Self::show).
    fn show_at_once(&mut self) {
        let board = &self.shared.board;
        board.set_used(self.number, self.worker.memory().used());
        board.set_ranges(self.number, self.worker.ranges_count());
        // Mostly nothing ails, and then this costs nothing.
        let ailing = self.worker.ailing_replicas();
        if ailing != self.ailing {
            board.set_ailing(self.number, ailing.clone());
            self.ailing = ailing;
        }
        let ready = self.worker.knows_leaders();
        if std::mem::replace(&mut self.was_ready, ready) != ready {
            board.set_ready(self.number, ready);
        }
    }

    /// Sends replies, and gives the batch to the disk thread, or back if it is to be written here:
    /// a small one that nobody waits behind, on a quick disk. To hand it over costs two wake-ups, which is more than
    /// what one lonely client's commit costs beside the disk (D5 has the disk thread write all).
    fn dispatch(&mut self, outputs: Outputs) -> Option<Batch> {
        // Before anything that leads others to route by it.
        if !outputs.whereabouts.is_empty() {
            self.shared.porter.follow(self.number, outputs.whereabouts);
        }
        // Before the disk: a leader's followers write at the same time as it does.
        self.shared.metrics.sending(&outputs.messages, &outputs.heartbeats, &outputs.snapshots);
        self.shared.peers.send(outputs.messages, outputs.heartbeats, outputs.snapshots);
        for wanted in outputs.ids_wanted {
            if let Err(wanted) = self.shared.ids.ask(wanted) {
                let why = "too many splits wait for the masters".to_owned();
                self.mailbox.tell(Input::NoIds { wanted, why });
            }
        }
        for chore in outputs.chores {
            let ordered = (self.number, chore);
            self.shared.chores.send(ordered).expect("the chores' thread ends after this one");
        }
        self.shared.metrics.locks_observed.observe(&outputs.observed);
        let mut here = None;
        if let Some(batch) = outputs.batch {
            let is_small = batch.ops.len() <= INLINE_OPS_MAX;
            if is_small && self.mailbox.is_empty() && self.shared.writer.is_quick() {
                here = Some(batch);
            } else {
                self.hand_over_batch(batch);
            }
        }
        // Before the replies: a store's span ends no later than that of the gateway which waits for it.
        let clock = &mut self.clock;
        self.shared.spans.hand_on(outputs.observed.spans, || clock.now(), wall_unix_ns);
        for (link, replies) in outputs.replies {
            match link {
                GATHERING_LINK => {
                    for (link, whole) in self.shared.porter.gathered(self.number, replies) {
                        self.reply(link, vec![whole]);
                    }
                }
                link => self.reply(link, replies),
            }
        }
        here
    }

    fn hand_over_batch(&mut self, batch: Batch) {
        let handed = Handed { worker: self.number, batch };
        self.shared.batches.send(handed).expect("the disk thread ends after this one");
    }

    fn reply(&mut self, link: LinkId, replies: Vec<StoreReply>) {
        let count = replies.len();
        match self.shared.links.send(link, replies) {
            Sent::Ok => {}
            Sent::Full => self.shared.metrics.lost(count),
            Sent::Gone => self.lost(link, count),
        }
    }

    fn lost(&mut self, link: LinkId, count: usize) {
        self.shared.metrics.lost(count);
        self.mailbox.link_closed(link);
    }

    fn show(&mut self, now: Duration) {
        let mailbox_refusals = self.mailbox.refused();
        let shown = Shown { mailbox_refusals, ..Shown::of(&self.worker, now) };
        self.shared.board.show(self.number, shown);
        let (syncs, sync_p50_us, sync_p99_us) = self.shared.sync_times.summary();
        let uptime_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let memory = self.worker.memory();
        let status = v1::StoreStatus {
            address: self.shared.address.clone(),
            node: self.shared.node.clone(),
            admin_address: self.shared.admin_address.clone(),
            uptime_ms,
            syncs,
            sync_p50_us,
            sync_p99_us,
            state_bytes: memory.used_in_all(),
            state_bytes_max: memory.bounds().store.unwrap_or(0),
            state_alarm: memory.alarm(),
            ..v1::StoreStatus::default()
        };
        self.worker.set_store_status(status);
    }

    /// Puts on the masters' bulletin what has changed.
    fn report(&mut self, at_once: bool) {
        let (_, sync_p50_us, sync_p99_us) = self.shared.sync_times.summary();
        let measures = Measures {
            replicas_count: u32::try_from(self.worker.ranges_count()).unwrap_or(u32::MAX),
            sync_us: (sync_p50_us, sync_p99_us),
        };
        let reports = self.worker.take_reports();
        let (waits, orphans) = (self.worker.waiting_steps(), self.worker.orphans());
        let words = Words { waits, orphans, absent: self.worker.absent() };
        self.shared.bulletin.publish(self.number, reports, (measures, words), at_once);
    }

    /// Finishes what is on its way, then writes the image once more, so that a restart has little
    /// to replay. A disk that does not answer for so long is left to the next start.
    async fn finish(mut self) {
        self.hand_over().await;
        let deadline = self.clock.now() + FINISH_PATIENCE;
        let mut flushed = false;
        while self.clock.now() < deadline {
            if self.worker.store().batch_in_flight() {
                let mail = self.mailbox.take_after_close(FINISH_PATIENCE).await;
                let now = self.clock.now();
                self.turn(now, mail.inputs).await;
            } else if flushed {
                return;
            } else {
                flushed = true;
                self.worker.flush();
                let now = self.clock.now();
                self.turn(now, Vec::new()).await;
            }
        }
    }
}

impl<D: Disk> WorkerThread<D> {
    /// Lets others lead what they can, so that their clients need not wait for an election. Calls
    /// are refused meanwhile, Raft goes on.
    async fn hand_over(&mut self) {
        let mut hand_over = HandOver::begin(self.clock.now(), self.shared.hand_over_within);
        loop {
            let now = self.clock.now();
            match hand_over.next(now, self.worker.store()) {
                NextStep::IsOver => return,
                NextStep::GiveUp => {
                    tracing::info!("no other store has taken over; they elect without being asked");
                    return;
                }
                NextStep::Ask => self.turn(now, vec![Input::HandOver]).await,
                NextStep::Wait { until } => {
                    let patience = self.worker.next_wakeup().min(until).saturating_sub(now);
                    let mail = self.mailbox.take_after_close(patience).await;
                    let now = self.clock.now();
                    self.turn(now, mail.inputs).await;
                }
            }
        }
    }
}

fn calls_count(inputs: &[Input]) -> usize {
    let count = |input: &Input| match input {
        Input::Calls { calls, .. } => calls.len(),
        _ => 0,
    };
    inputs.iter().map(count).sum()
}
