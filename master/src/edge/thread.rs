//! Drives a [`MasterCore`]: waits for post, runs turns, writes batches, answers.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use sharklock_multiraft::{Batch, Disk, DiskView, HandOver, NextStep};
use sharklock_proto::internal::v1::RoutesUpdate;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    desk::{Post, Watch},
    member::Others,
    metrics::Metrics,
};
use crate::{
    core::{Input, MasterCore, Outputs},
    request::{Ask, Reply},
};

/// Changes that may wait for one watcher. One that is slower is sent away, and begins anew with all
/// routes.
const CHANGES_MAX: usize = 256;
/// Watchers: every gateway has one.
const WATCHERS_MAX: usize = 4_096;

/// See the module.
pub struct Thread<D> {
    /// The core.
    pub core: MasterCore,
    /// The disk. Masters write seldom, so their thread writes itself.
    pub disk: D,
    /// False breaks durability; see `MasterConfig::sync_writes`.
    pub sync_writes: bool,
    /// The post that comes in.
    pub post: Receiver<Post>,
    /// The way to the other masters.
    pub others: Others,
    /// Shown to Prometheus.
    pub metrics: Metrics,
    /// True while some master leads, as far as this one knows.
    pub ready: watch::Sender<bool>,
    /// Why this master does not follow the others, if it does not.
    pub ailing: watch::Sender<Option<String>>,
    /// True once this master was removed from its cluster: it has ended then.
    pub removed: watch::Sender<bool>,
    /// When the core's clock began.
    pub started: Instant,
    /// How long a stopping leader waits until another leads.
    pub hand_over_within: Duration,
}

/// Those who wait for answers.
#[derive(Default)]
struct Waiting {
    asked: u64,
    questions: BTreeMap<u64, oneshot::Sender<Reply>>,
    watchers: Vec<mpsc::Sender<RoutesUpdate>>,
}

impl<D: Disk + DiskView> Thread<D> {
    /// Runs until it is asked to stop, or everybody is gone who could ask.
    pub fn run(mut self) {
        let mut waiting = Waiting::default();
        loop {
            let patience = self.core.next_wakeup().saturating_sub(self.now());
            let first = match self.post.recv_timeout(patience) {
                Ok(post) => Some(post),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut is_over = false;
            let mut post = first;
            while let Some(next) = post {
                is_over |= self.take(next, &mut waiting);
                post = self.post.try_recv().ok();
            }
            self.turns(&mut waiting);
            if self.core.is_removed() {
                return self.end_removed();
            }
            if is_over {
                break;
            }
        }
        self.finish(&mut waiting);
    }

    /// The masters go on without this one: it says nothing to them any more.
    fn end_removed(self) {
        tracing::error!(
            "this master was removed from its cluster, and ends. To make it a master again, start it \
             with an empty directory and --join, and add it"
        );
        self.ready.send_replace(false);
        self.removed.send_replace(true);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// True: it is asked to stop.
    fn take(&mut self, post: Post, waiting: &mut Waiting) -> bool {
        let now = self.now();
        match post {
            Post::Input(input) => self.core.handle(now, input),
            Post::Question(request, answer) => {
                self.metrics.asked();
                waiting.asked += 1;
                waiting.questions.insert(waiting.asked, answer);
                let ask = Ask { number: waiting.asked, request: *request };
                self.core.handle(now, Input::Ask(Box::new(ask)));
            }
            Post::Watch(answer) => {
                let watch = self.core.watch().map(|whole| {
                    let (sender, changes) = mpsc::channel(CHANGES_MAX);
                    waiting.watchers.retain(|watcher| !watcher.is_closed());
                    waiting.watchers.truncate(WATCHERS_MAX - 1);
                    waiting.watchers.push(sender);
                    Watch { whole, changes }
                });
                // An asker that has gone meanwhile needs no answer.
                drop(answer.send(watch));
            }
            Post::Stop => return true,
            Post::Members(members) => self.core.handle(now, Input::Members(members)),
            Post::Removed => self.core.handle(now, Input::Removed),
        }
        false
    }

    /// One turn, and those that its own writes lead to.
    fn turns(&mut self, waiting: &mut Waiting) {
        loop {
            let mut outputs = self.core.end_turn(self.now());
            let chores = std::mem::take(&mut outputs.chores);
            let batch = self.dispatch(outputs, waiting);
            if batch.is_none() && chores.is_empty() {
                break;
            }
            // The masters' state is small, so their thread does its chores itself.
            for chore in chores {
                if let Some(done) = chore.run(&self.disk) {
                    self.core.handle(self.now(), Input::ChoreDone(Box::new(done)));
                }
            }
            if let Some(batch) = batch {
                self.write(&batch);
                self.core.handle(self.now(), Input::Persisted(batch.seq));
            }
        }
        self.metrics.show(&self.core);
        let ailing = self.core.ailing();
        self.ailing.send_if_modified(|before| {
            let is_news = *before != ailing;
            *before = ailing;
            is_news
        });
        let ready = self.core.knows_leader();
        self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
    }

    fn dispatch(&self, outputs: Outputs, waiting: &mut Waiting) -> Option<Batch> {
        if let Some(members) = &outputs.members {
            self.others.are(members);
        }
        self.others.peers.send(outputs.messages, outputs.heartbeats, outputs.snapshots);
        for (number, reply) in outputs.replies {
            let answer = waiting.questions.remove(&number).expect("every question waits");
            // A watcher that has gone meanwhile asks again.
            drop(answer.send(reply));
        }
        if outputs.is_deposed {
            waiting.watchers.clear();
        }
        if let Some(update) = outputs.routes {
            waiting.watchers.retain(|watcher| watcher.try_send(update.clone()).is_ok());
        }
        outputs.batch
    }

    /// A failed write ends the process: after it nobody knows what is on the disk (D3).
    #[expect(clippy::disallowed_methods, reason = "an edge: it measures the disk")]
    fn write(&mut self, batch: &Batch) {
        let begin = Instant::now();
        if let Err(error) = self.disk.write(&batch.ops, self.sync_writes) {
            tracing::error!(why = %error, "the disk failed; this process ends");
            std::process::abort();
        }
        self.metrics.synced(begin.elapsed());
    }

    /// Lets another master lead, writes the image once more, and ends.
    fn finish(mut self, waiting: &mut Waiting) {
        let mut hand_over = HandOver::begin(self.now(), self.hand_over_within);
        loop {
            let until = match hand_over.next(self.now(), self.core.store()) {
                NextStep::IsOver | NextStep::GiveUp => break,
                NextStep::Ask => {
                    self.core.handle(self.now(), Input::HandOver);
                    self.turns(waiting);
                    continue;
                }
                NextStep::Wait { until } => until,
            };
            let patience = self.core.next_wakeup().min(until).saturating_sub(self.now());
            match self.post.recv_timeout(patience) {
                Ok(Post::Input(input)) => {
                    let now = self.now();
                    self.core.handle(now, input);
                }
                // Questions are for the next leader.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.turns(waiting);
        }
        self.core.flush();
        self.turns(waiting);
    }
}
