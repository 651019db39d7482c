//! Telling the masters, once in a while and at every change of leadership, what this store is and
//! what has changed of what it leads; and hearing what they want. Locks go on without it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sharklock_multiraft::StoreIdent;
use sharklock_proto::{
    Start,
    internal::v1::{
        OrphanReplica, RaiseLevel, RangeDescriptor, RangeReport, StepWaits, StoreHeartbeatRequest,
        StoreHeartbeatResponse,
    },
};
use sharklock_rangemap::{Descriptor, RangeId};
use sharklock_transport::{Masters, MastersError, Outage, OutageNews, PeerAcceptor, PeerLinks};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    edge::{known_masters::KnownMasters, porter::Porter, registration},
    orphans::removed_by_masters,
    ports::Input,
    reports::Reports,
};

/// How long one heartbeat looks for the leading master before the next takes its place.
const ASK_FOR: Duration = Duration::from_secs(3);

/// How long a process that ends waits for a master to hear of it.
const GOOD_BYE_WITHIN: Duration = Duration::from_millis(500);
/// The reason with which a master refuses the heartbeat of a process in whose place another one
/// has registered.
const SUPERSEDED: &str = "STORE_SUPERSEDED";
/// The reason with which a master refuses a store that was declared gone.
const GONE: &str = "STORE_GONE";
/// The exit code of servers for their configuration or data directory (D18).
const EX_CONFIG: i32 = 78;

/// The first pause between two heartbeats is this part of the usual one, and then it doubles.
const FIRST_PAUSES: u32 = 16;

/// The word of the workers' threads about the store.
#[derive(Debug)]
pub struct Bulletin {
    board: Mutex<Board>,
    news: Notify,
}

#[derive(Debug)]
struct Board {
    reports: Reports,
    /// Of each worker.
    measures: Vec<Measures>,
    /// Of each worker.
    words: Vec<Words>,
}

/// What a worker says of itself anew each time.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// The steps that wait.
    pub waits: Vec<StepWaits>,
    /// The replicas that hear of no leader.
    pub orphans: Vec<OrphanReplica>,
    /// Of the ranges that the masters ask about those that are not here.
    pub absent: Vec<u64>,
}

impl Board {
    fn words(&self) -> Words {
        let all = self.words.iter().cloned();
        all.fold(Words::default(), |mut all, one| {
            all.waits.extend(one.waits);
            all.orphans.extend(one.orphans);
            all.absent.extend(one.absent);
            all
        })
    }

    /// Of the whole store. All workers see the one disk: any of the latest figures is as good.
    fn measures(&self) -> Measures {
        let add = |all: Measures, one: &Measures| Measures {
            replicas_count: all.replicas_count + one.replicas_count,
            sync_us: all.sync_us.max(one.sync_us),
        };
        self.measures.iter().fold(Measures::default(), add)
    }
}

/// The figures that every heartbeat carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measures {
    /// Replicas here.
    pub replicas_count: u32,
    /// Median and 99th percentile of a durable write, microseconds.
    pub sync_us: (u64, u64),
}

impl Bulletin {
    /// For so many workers, who have said nothing yet.
    pub fn new(workers: usize) -> Self {
        let measures = vec![Measures::default(); workers];
        let words = vec![Words::default(); workers];
        let board = Board { reports: Reports::default(), measures, words };
        Self { board: Mutex::new(board), news: Notify::default() }
    }

    /// What has changed at a worker since the last time; `at_once`: the masters are to hear of it now.
    pub fn publish(
        &self,
        worker: usize,
        changed: Vec<(RangeId, Option<RangeReport>)>,
        (measures, words): (Measures, Words),
        at_once: bool,
    ) {
        let mut board = self.board();
        board.reports.note(worker, changed);
        board.measures[worker] = measures;
        board.words[worker] = words;
        drop(board);
        if at_once {
            self.news.notify_one();
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Speaks for a store, for as long as its process lives.
pub struct Heart {
    /// The store that speaks.
    pub ident: StoreIdent,
    /// Its process, as it has registered.
    pub start: Start,
    /// The masters that hear it.
    pub masters: Masters,
    /// Where it is kept who they are.
    pub known_masters: KnownMasters,
    /// The word of the workers.
    pub bulletin: Arc<Bulletin>,
    /// How often, if nothing changes.
    pub every: Duration,
    /// The way to the workers, who are told of replicas to make.
    pub porter: Arc<Porter>,
    /// The streams, which are told of the other stores.
    pub links: Arc<PeerLinks>,
    /// The streams, which are told of the other stores.
    pub acceptor: PeerAcceptor,
}

/// With steps to do, heartbeats are so much closer: an operator has about five of them.
const STEPS_PAUSE: u32 = 8;

/// What a life has said so far, and what it was answered.
#[derive(Debug, Default)]
struct Told {
    seq: u64,
    /// Of the list of stores that was taken in last.
    stores_hash: u64,
    /// The last answer had steps to do.
    has_steps: bool,
    /// The address of the master that has answered last; empty: none has since the outage began.
    answered_by: String,
    /// No leading master answers.
    outage: Outage,
}

impl Heart {
    /// Beats until `leaving`, then says good-bye, if a master hears it at once.
    pub async fn beat(self, leaving: CancellationToken) {
        let mut told = Told::default();
        // The first of a life follow each other quickly: when a cluster begins, its first range is
        // made while they come, and nobody can take a lock before the stores hear of it.
        let mut pause = self.every / FIRST_PAUSES;
        while !leaving.is_cancelled() {
            let beating = async {
                if self.beat_once(&mut told, false).await {
                    return;
                }
                // Sooner, if there is news.
                drop(timeout(pause, self.bulletin.news.notified()).await);
            };
            tokio::select! {
                () = beating => {}
                () = leaving.cancelled() => {}
            }
            pause = (pause * 2).min(self.every);
            // What comes of a step is told as it is done; the next one comes with the answer behind it.
            if told.has_steps {
                pause = self.every / STEPS_PAUSE;
            }
        }
        drop(timeout(GOOD_BYE_WITHIN, self.beat_once(&mut told, true)).await);
    }

    /// True: there is more to say.
    async fn beat_once(&self, told: &mut Told, is_leaving: bool) -> bool {
        told.seq += 1;
        let (said, measures, words) = {
            let mut board = self.bulletin.board();
            (board.reports.heartbeat(), board.measures(), board.words())
        };
        let request = StoreHeartbeatRequest {
            cluster_id: self.ident.cluster_id.to_wire(),
            store_id: self.ident.store.0,
            start: self.start.number,
            life: self.start.life.to_wire(),
            seq: told.seq,
            replicas_count: measures.replicas_count,
            sync_p50_us: measures.sync_us.0,
            sync_p99_us: measures.sync_us.1,
            is_leaving,
            waits: words.waits,
            orphans: words.orphans,
            absent: words.absent,
            stores_hash: told.stores_hash,
            ..said
        };
        match self.masters.store_heartbeat(request, ASK_FOR).await {
            Ok(answer) => {
                told.outage.over();
                let address = self.masters.asked_next();
                if told.answered_by != address {
                    tracing::info!(address, "a leading master answers");
                    told.answered_by = address;
                }
                let goes_on = self.bulletin.board().reports.answered(answer.heard);
                self.known_masters.are(&self.masters, &answer.masters).await;
                self.follow(answer, told);
                goes_on
            }
            Err(refused @ MastersError::Refused(_)) if refused.reason() == SUPERSEDED => {
                // Two processes with one store's votes would break every promise.
                tracing::error!(why = %refused, "another process has this store; this one ends");
                std::process::exit(EX_CONFIG);
            }
            Err(refused @ MastersError::Refused(_)) if refused.reason() == GONE => {
                tracing::error!(why = %refused, "this store must not serve any more");
                std::process::exit(EX_CONFIG);
            }
            Err(refused @ MastersError::Refused(_)) => {
                tracing::error!(why = %refused, "the master refuses this store's heartbeat");
                false
            }
            Err(MastersError::Unavailable(why)) => {
                told.answered_by.clear();
                match told.outage.failed(Instant::now()) {
                    Some(OutageNews::Begins) => {
                        tracing::info!(why, "no leading master answers; locks go on without one");
                    }
                    Some(OutageNews::Lasts) => {
                        tracing::warn!(
                            why,
                            "the masters stay out of reach; locks go on without one"
                        );
                    }
                    None => {}
                }
                false
            }
        }
    }

    fn follow(&self, answer: StoreHeartbeatResponse, told: &mut Told) {
        if answer.stores_hash != told.stores_hash {
            let peers = registration::peers(&answer.stores);
            self.acceptor.set_peers(&peers);
            self.links.set_peers(peers);
            told.stores_hash = answer.stores_hash;
        }
        for first in answer.bootstrap {
            self.create(&first, answer.bootstrap_level);
        }
        for RaiseLevel { range_id, conf_ver, feature_level: level } in answer.raise {
            let range = RangeId(range_id);
            self.porter.tell(Input::RaiseLevel { range, conf_ver, level });
        }
        for removed in answer.removed {
            self.porter.tell(removed_by_masters(&self.ident, removed));
        }
        told.has_steps = !answer.steps.is_empty() || !answer.alone.is_empty();
        for range in answer.asked_about {
            self.porter.tell(Input::AskedAbout(RangeId(range)));
        }
        for order in answer.alone {
            self.porter.tell(Input::GoOnAlone(Box::new(order)));
        }
        for step in answer.steps {
            self.porter.tell(Input::Step(Box::new(step)));
        }
    }

    fn create(&self, first: &RangeDescriptor, level: u64) {
        let range = RangeId(first.range_id);
        match Descriptor::try_from(first) {
            Ok(descriptor) => self.porter.tell(Input::Create { descriptor, level }),
            Err(why) => tracing::error!(%range, %why, "the master sends no descriptor of a range"),
        }
    }
}
