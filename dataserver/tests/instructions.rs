//! How many instructions a cycle of acquire and release takes in three data servers: what decides how
//! many of them a processor can serve. Valgrind counts, so that the machine and what else it does
//! matter little, and a change that costs more than the bound is seen at once.
//!
//! Counted are the calls as they come from a gateway, Raft and the lock tables of three workers, the
//! frames between them, and the replies, all of it encoded and decoded as on the wire. Disks, sockets
//! and threads are not: a workload with these is counted anew each time, and differently.

use std::{env, fs, process::Command, time::Duration};

use prost::Message as _;
use sharklock_dataserver::{Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::{Config, Disk as _, SimDisk, Store, StoreIdent, init_store};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{RaftFrame, StoreCall, StoreCalls, StoreReplies, store_call, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

/// Instructions of one cycle. Whoever makes it cheaper writes the new figure down, and so does, with the
/// reason in the commit, whoever has to make it dearer.
const PER_CYCLE: u64 = 137_400;
/// A change may cost so much without a word: percent.
const BOUND: u64 = 5;

/// Sessions whose calls come together, as from 64 busy clients.
const SESSIONS: u64 = 64;
/// Names of each session.
const NAMES: u64 = 16;
/// Rounds of one cycle of each session: the difference between the two runs is what is counted, so that
/// the start is not.
const ROUNDS: [u64; 2] = [40, 140];
const ROUNDS_VARIABLE: &str = "SHARKLOCK_COUNTED_ROUNDS";
const TICK: Duration = Duration::from_millis(100);

#[test]
fn a_cycle_takes_no_more_instructions_than_are_written_down() {
    if let Ok(rounds) = env::var(ROUNDS_VARIABLE) {
        return run(rounds.parse().expect("a number of rounds"));
    }
    if cfg!(not(all(target_arch = "x86_64", debug_assertions))) {
        println!("left out: the figure is one of x86-64 and of the profile of tests");
        return;
    }
    let [Some(few), Some(many)] = ROUNDS.map(count) else {
        println!("left out: there is no valgrind");
        return;
    };
    let per_cycle = (many - few) / ((ROUNDS[1] - ROUNDS[0]) * SESSIONS);
    println!("a cycle takes {per_cycle} instructions, and {PER_CYCLE} are written down");
    assert!(
        per_cycle.abs_diff(PER_CYCLE) <= PER_CYCLE * BOUND / 100,
        "a cycle takes {per_cycle} instructions, not {PER_CYCLE}, and the difference is more than \
         {BOUND} %: if it takes more, see why (`callgrind_annotate`) and mend it; then write the \
         new figure into PER_CYCLE"
    );
}

/// The instructions of a process of this program that runs so many rounds; `None` without valgrind.
fn count(rounds: u64) -> Option<u64> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("counts");
    let program = env::current_exe().expect("this program is a file");
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(program).env(ROUNDS_VARIABLE, rounds.to_string());
    valgrind.args(["--exact", "a_cycle_takes_no_more_instructions_than_are_written_down"]);
    let output = match valgrind.output() {
        Ok(output) => output,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return None,
        Err(why) => panic!("valgrind does not run: {why}"),
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
    let counts = fs::read_to_string(&out).expect("valgrind has written its counts");
    let sum = counts.lines().find_map(|line| line.strip_prefix("summary: "));
    Some(sum.expect("there is a sum").trim().parse().expect("it is a number"))
}

/// The workload that is counted.
fn run(rounds: u64) {
    let mut trio = Trio::new();
    let leader = trio.elect();
    for round in 0..rounds {
        let acquires = (0..SESSIONS).map(|session| acquire(session, round));
        let tokens = trio.ask(leader, acquires.collect());
        let releases =
            (0..SESSIONS).zip(tokens).map(|(session, token)| release(session, round, token));
        trio.ask(leader, releases.collect());
        trio.now += Duration::from_millis(5);
    }
}

/// Three workers, between which everything is carried encoded. Whatever they write is durable at once.
struct Trio {
    workers: Vec<Worker>,
    now: Duration,
    replies: Vec<store_reply::Body>,
}

impl Trio {
    fn new() -> Self {
        let workers = (1..=3).map(worker).collect();
        let mut trio = Self { workers, now: Duration::ZERO, replies: Vec::new() };
        for store in 0..3 {
            let create = Input::Create { descriptor: descriptor(), level: FEATURE_LEVEL };
            trio.workers[store].handle(Duration::ZERO, create);
        }
        trio
    }

    /// The place of the worker that leads.
    fn elect(&mut self) -> usize {
        for _ in 0..100 {
            self.now += TICK;
            self.settle();
            let leads = |worker: &Worker| !worker.reports().is_empty();
            if let Some(leader) = self.workers.iter().position(leads) {
                return leader;
            }
        }
        panic!("nobody leads after {:?}", self.now);
    }

    /// Hands a message of calls to a worker; the tokens of the answers, in order of the calls.
    fn ask(&mut self, worker: usize, calls: Vec<StoreCall>) -> Vec<u64> {
        let count = calls.len();
        let bytes = StoreCalls { calls }.encode_to_vec();
        let StoreCalls { calls } = StoreCalls::decode(&bytes[..]).expect("it was encoded so");
        let input = Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls };
        self.workers[worker].handle(self.now, input);
        self.settle();
        let replies = std::mem::take(&mut self.replies).into_iter();
        let tokens: Vec<u64> = replies.map(token).collect();
        assert_eq!(tokens.len(), count, "each call is answered once");
        tokens
    }

    fn settle(&mut self) {
        let mut moves = true;
        while moves {
            moves = false;
            for from in 0..3 {
                let outputs = self.workers[from].end_turn(self.now, 1_700_000_000_000, true);
                moves |= self.carry(from, outputs);
                moves |= self.workers[from].next_wakeup() <= self.now;
            }
        }
    }

    fn carry(&mut self, from: usize, outputs: Outputs) -> bool {
        let mut moves = false;
        let mut frames = [(); 3].map(|()| RaftFrame::default());
        for message in outputs.messages {
            frames[message.to_store as usize - 1].messages.push(message);
        }
        for beats in outputs.heartbeats {
            frames[beats.to_store as usize - 1].heartbeats.push(beats);
        }
        for (to, frame) in frames.into_iter().enumerate() {
            let bytes = frame.encode_to_vec();
            let frame = RaftFrame::decode(&bytes[..]).expect("it was encoded so");
            moves |= !bytes.is_empty();
            let worker = &mut self.workers[to];
            for message in frame.messages {
                worker.handle(self.now, Input::Message(Box::new(message)));
            }
            for beats in frame.heartbeats {
                worker.handle(self.now, Input::Heartbeats(Box::new(beats)));
            }
        }
        if let Some(batch) = outputs.batch {
            self.workers[from].handle(self.now, Input::Persisted(batch.seq));
            moves = true;
        }
        for (_link, replies) in outputs.replies {
            let bytes = StoreReplies { replies }.encode_to_vec();
            let decoded = StoreReplies::decode(&bytes[..]).expect("it was encoded so");
            self.replies.extend(decoded.replies.into_iter().filter_map(|reply| reply.body));
        }
        moves
    }
}

fn token(reply: store_reply::Body) -> u64 {
    match reply {
        store_reply::Body::Acquire(it) => {
            assert_eq!(it.outcome(), v1::AcquireOutcome::Granted, "{it:?}");
            it.token
        }
        store_reply::Body::Release(it) => {
            assert_eq!(it.outcome(), v1::ReleaseOutcome::Released, "{it:?}");
            0
        }
        other => panic!("{other:?}"),
    }
}

fn worker(store: u64) -> Worker {
    let mut disk = SimDisk::default();
    let ident = StoreIdent {
        cluster_id: ClusterId::from_bytes([1; 16]),
        store: StoreId(store),
        ident: Identity::from_bytes([store as u8; 16]),
    };
    disk.write(&init_store(&ident), true).expect("a fresh disk");
    let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
    // No image is written: that is a chore for a disk.
    let pace = Pace { flush: Duration::from_secs(600), ..Pace::default() };
    Worker::new(Duration::ZERO, store, pace)
}

fn descriptor() -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RangeId(1),
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=3).map(replica).collect(),
    }
}

fn acquire(session: u64, round: u64) -> StoreCall {
    let body = v1::AcquireRequest {
        name: name(session, round),
        mode: v1::LockMode::Exclusive.into(),
        ttl_ms: Some(10_000),
        seq: 2 * round + 1,
        acquisition_id: round + 1,
        owner_id: "sharklock bench pid 4711".into(),
        ..v1::AcquireRequest::default()
    };
    call(session, 2 * round, store_call::Body::Acquire(body))
}

fn release(session: u64, round: u64, token: u64) -> StoreCall {
    let body = v1::ReleaseRequest {
        name: name(session, round),
        token,
        acquisition_id: round + 1,
        ..v1::ReleaseRequest::default()
    };
    call(session, 2 * round + 1, store_call::Body::Release(body))
}

fn call(session: u64, number: u64, body: store_call::Body) -> StoreCall {
    let mut handle = [0; 16];
    // Spread as a hash would be.
    handle[..8].copy_from_slice(&(session + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    StoreCall {
        tag: 1 + number * SESSIONS + session,
        session: handle.to_vec().into(),
        instance: 7,
        client_address: "127.0.0.1:4000".into(),
        stream: 1 + session,
        body: Some(body),
        ..StoreCall::default()
    }
}

fn name(session: u64, round: u64) -> String {
    format!("bench-4711/{session}/{}", round % NAMES)
}
