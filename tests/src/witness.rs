//! Clients that write down everything they do and see, for `history` to judge.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sharklock_client::{
    AcquireError, CallError, Client, Guard, Holder, LockBuilder, LostReason, Position as Seen,
    ReleaseError,
};
use sharklock_history::{
    End, FencingOracle, History, Hold, LockId, Mode, Position, Record, Recorder, Report, What,
    check, write,
};

use crate::wait::{nanos, now};

/// A client and its notes.
#[derive(Debug)]
pub struct Witness {
    client: Client,
    recorder: Recorder,
    session: u32,
}

/// The wish, in words that both the client and the history understand.
#[derive(Clone, Debug)]
pub struct Want {
    /// The lock.
    pub name: String,
    /// Exclusive, shared or permits.
    pub mode: Mode,
    /// How long to queue; `None`: for ever.
    pub wait: Option<Duration>,
    /// The lease.
    pub ttl: Duration,
}

impl Want {
    /// The lock for oneself, however long it takes.
    pub fn exclusive(name: &str) -> Self {
        let (mode, ttl) = (Mode::Exclusive, Duration::from_secs(10));
        Self { name: name.to_owned(), mode, wait: None, ttl }
    }

    /// With other sharers.
    pub fn shared(name: &str) -> Self {
        Self { mode: Mode::Shared, ..Self::exclusive(name) }
    }

    /// Some of its units.
    pub fn permits(name: &str, units: u16, units_max: u16) -> Self {
        Self { mode: Mode::Permits { units, units_max }, ..Self::exclusive(name) }
    }

    /// Queue no longer than this; zero only tries.
    pub fn within(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }

    /// With another lease.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    fn builder(&self, client: &Client) -> LockBuilder {
        let builder = client.lock(&self.name).ttl(self.ttl);
        let builder = match self.mode {
            Mode::Exclusive => builder,
            Mode::Shared => builder.shared(),
            Mode::Permits { units, units_max } => {
                builder.permits(u32::from(units), u32::from(units_max))
            }
        };
        match self.wait {
            Some(wait) => builder.wait(wait),
            None => builder,
        }
    }
}

/// A guard, and the beginning of its record.
#[derive(Debug)]
pub struct Held {
    /// The client's guard.
    pub guard: Guard,
    record: Record,
    hold: Hold,
}

impl Held {
    /// The fencing token.
    pub fn token(&self) -> u64 {
        self.hold.token
    }

    /// A number that tells this acquisition from all others, for a resource that fences.
    pub fn owner(&self) -> u64 {
        self.record.acquisition ^ (u64::from(self.record.session) << 32)
    }

    /// Notes how long the hold is promised by now: a lost guard has forgotten it.
    pub fn note_promise(&mut self) {
        if self.guard.is_valid() {
            self.hold.valid_until = self.hold.valid_until.max(nanos(self.guard.valid_until()));
        }
    }
}

impl Witness {
    /// A client of its own session.
    pub fn new(client: Client) -> Self {
        static SESSIONS: AtomicU32 = AtomicU32::new(1);
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self::labelled(client, session)
    }

    /// The same with a label that no other witness has, where several processes write one history.
    pub fn labelled(client: Client, session: u32) -> Self {
        Self { client, recorder: Recorder::default(), session }
    }

    /// The client, for calls that are not written down.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Acquires, and notes what came of it.
    ///
    /// # Errors
    /// The client's.
    pub async fn acquire(&mut self, want: &Want) -> Result<Held, AcquireError> {
        let builder = want.builder(&self.client);
        self.acquire_by(builder, want, 0).await
    }

    /// The same with what `agree` adds to the wish.
    ///
    /// # Errors
    /// The client's.
    pub async fn acquire_with(
        &mut self,
        want: &Want,
        agree: impl FnOnce(LockBuilder) -> LockBuilder,
    ) -> Result<Held, AcquireError> {
        let builder = agree(want.builder(&self.client));
        self.acquire_by(builder, want, 0).await
    }

    /// Joins a hold, and notes it.
    ///
    /// # Errors
    /// The client's.
    pub async fn reenter(&mut self, want: &Want, held: &Held) -> Result<Held, AcquireError> {
        let builder = want.builder(&self.client).reenter(&held.guard);
        self.acquire_by(builder, want, held.token()).await
    }

    async fn acquire_by(
        &mut self,
        builder: LockBuilder,
        want: &Want,
        reenter: u64,
    ) -> Result<Held, AcquireError> {
        let lock = self.recorder.lock(&want.name);
        let (session, invoked) = (self.session, now());
        let mut waiting =
            Waiting { recorder: &mut self.recorder, lock, session, invoked, reenter, ended: false };
        let result = builder.acquire().await;
        waiting.ended = true;
        drop(waiting);
        let returned = now();
        let record = |acquisition, position, what| Record {
            lock,
            session,
            acquisition,
            invoked,
            returned,
            position,
            what,
        };
        match result {
            Ok(guard) => Ok(self.held(guard, want, invoked, reenter != 0)),
            Err(error) => {
                let what = match &error {
                    AcquireError::Held { holders, .. } => What::Refused { holder: first(holders) },
                    // The holder that was last heard of may have been long ago.
                    AcquireError::WaitTimedOut { .. } => What::TimedOut { holder: 0 },
                    _ => What::Unknown { reenter },
                };
                self.recorder.push(record(0, Position::UNKNOWN, what));
                Err(error)
            }
        }
    }

    /// Counts a guard as granted by a call made at `invoked` and answered now: a hold that was taken back.
    pub fn adopt(&mut self, guard: Guard, want: &Want, invoked: u64) -> Held {
        self.held(guard, want, invoked, false)
    }

    fn held(&mut self, guard: Guard, want: &Want, invoked: u64, reentered: bool) -> Held {
        let hold = Hold {
            token: guard.token().as_u64(),
            fence_floor: guard.fence_floor().as_u64(),
            valid_until: nanos(guard.valid_until()),
            end_invoked: 0,
            end_returned: 0,
            mode: want.mode,
            reentered,
            end: End::Open,
        };
        let (lock, session) = (self.recorder.lock(&want.name), self.session);
        let (acquisition, returned) = (guard.acquisition().0, now());
        let (position, what) = (position(guard.position()), What::Granted(hold));
        let record = Record { lock, session, acquisition, invoked, returned, position, what };
        Held { guard, record, hold }
    }

    /// Acquires, asks every `every` for the place in the queue meanwhile, and notes all that it was told of
    /// it once the lock is granted.
    ///
    /// # Errors
    /// The client's.
    pub async fn acquire_and_look(
        &mut self,
        want: &Want,
        every: Duration,
    ) -> Result<Held, AcquireError> {
        let (client, mut told) = (self.client.clone(), Vec::new());
        let result = {
            let looking = async {
                loop {
                    tokio::time::sleep(every).await;
                    told.extend(place_in_queue(&client, &want.name).await);
                }
            };
            tokio::select! {
                result = self.acquire(want) => result,
                () = looking => unreachable!("it looks for ever"),
            }
        };
        if let Ok(held) = &result {
            for (acquisition, (invoked, returned), position, place) in told {
                if acquisition == held.record.acquisition {
                    let what = What::Queued { place };
                    let record = Record { invoked, returned, position, what, ..held.record };
                    self.recorder.push(record);
                }
            }
        }
        result
    }

    /// Releases, and notes what came of it.
    ///
    /// # Errors
    /// The client's.
    pub async fn release(&mut self, mut held: Held) -> Result<(), ReleaseError> {
        held.note_promise();
        held.hold.end_invoked = now();
        let result = held.guard.release().await;
        held.hold.end_returned = now();
        held.hold.end = match &result {
            Ok(()) => End::Released,
            Err(ReleaseError::Lost(lost)) => end_of(&lost.reason),
            Err(_) => End::ReleaseUnknown,
        };
        self.push(held.record, held.hold);
        result
    }

    /// Waits until the hold is lost, and notes why. The guard is dropped, which tells the cluster.
    pub async fn lose(&mut self, mut held: Held) -> LostReason {
        held.note_promise();
        let reason = held.guard.lost().await;
        held.hold.end_invoked = now();
        held.hold.end_returned = held.hold.end_invoked;
        held.hold.end = end_of(&reason);
        self.push(held.record, held.hold);
        reason
    }

    /// Drops the guard, which releases without waiting for the answer.
    pub fn let_go(&mut self, mut held: Held) {
        held.note_promise();
        held.hold.end_invoked = now();
        held.hold.end = End::ReleaseUnknown;
        drop(held.guard);
        self.push(held.record, held.hold);
    }

    /// Notes that the client vanished while it held: nobody released, and nothing is known of the
    /// end.
    pub fn abandon(&mut self, held: Held) {
        self.push(held.record, held.hold);
        // Dropping the guard would be a release.
        std::mem::forget(held.guard);
    }

    /// Notes that an operator ended the hold without waiting for its holder.
    pub fn revoke(&mut self, mut held: Held) {
        (held.hold.end, held.hold.end_invoked) = (End::Revoked, now());
        held.hold.end_returned = held.hold.end_invoked;
        self.push(held.record, held.hold);
        drop(held.guard);
    }

    /// Asks whether a token is live, and notes the answer.
    ///
    /// # Panics
    /// When the call fails.
    pub async fn look(&mut self, name: &str, token: u64) -> bool {
        self.try_look(name, token).await.expect("a look succeeds")
    }

    /// The same where the cluster may be out of reach: then there is nothing to note.
    ///
    /// # Errors
    /// The client's.
    pub async fn try_look(&mut self, name: &str, token: u64) -> Result<bool, CallError> {
        let lock = self.recorder.lock(name);
        let invoked = now();
        let fencing = sharklock_client::FencingToken::from_u64(token);
        let seen = self.client.check_token(name, fencing).await?;
        let what = What::Looked { token, live: seen.live };
        let (session, returned, position) = (self.session, now(), position(seen.position));
        let record = Record { lock, session, acquisition: 0, invoked, returned, position, what };
        self.recorder.push(record);
        Ok(seen.live)
    }

    fn push(&mut self, record: Record, hold: Hold) {
        self.recorder.push(Record { what: What::Granted(hold), ..record });
    }

    /// Adds what another process has seen.
    pub fn add_notes(&mut self, history: &History) {
        self.recorder.extend(history);
    }

    /// The notes so far, for a journal. Holds that are out are noted later.
    pub fn take_notes(&mut self) -> Recorder {
        self.recorder.take()
    }

    /// The notes, for the verdict.
    pub fn into_recorder(self) -> Recorder {
        self.recorder
    }
}

/// An acquisition without an answer. Whoever drops it withdraws it, and will not know what came of it.
struct Waiting<'a> {
    recorder: &'a mut Recorder,
    lock: LockId,
    session: u32,
    invoked: u64,
    reenter: u64,
    ended: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Self { lock, session, invoked, reenter, .. } = *self;
        let (acquisition, returned) = (0, now());
        let (position, what) = (Position::UNKNOWN, What::Unknown { reenter });
        let record = Record { lock, session, acquisition, invoked, returned, position, what };
        self.recorder.push(record);
    }
}

/// What a look at the queue shows of the client's own acquisition: its number, the times of the look, the
/// position of the answer, and the place, 1 being next.
async fn place_in_queue(client: &Client, name: &str) -> Option<(u64, (u64, u64), Position, u32)> {
    let invoked = now();
    let seen = client.get_lock(name).await.ok()?;
    let waiters = seen.lock?.waiters;
    let at = waiters.iter().position(|it| it.session == client.session_handle())?;
    let place = u32::try_from(at + 1).ok()?;
    Some((waiters[at].acquisition.0, (invoked, now()), position(seen.position), place))
}

fn end_of(reason: &LostReason) -> End {
    match reason {
        LostReason::Unrenewed | LostReason::SessionEnded => End::Lapsed,
        // It is told before the end, and the release of the guard acknowledges it.
        LostReason::ForceReleased { .. } | LostReason::HeldTooLong | LostReason::AskedFor => {
            End::Acknowledged
        }
        _ => End::ToldGone,
    }
}

fn first(holders: &[Holder]) -> u64 {
    holders.iter().find_map(|holder| holder.token).map_or(0, |token| token.as_u64())
}

fn position(seen: Seen) -> Position {
    let small = |number: u64| u32::try_from(number).expect("tests have few ranges and splits");
    Position {
        range: small(seen.range),
        version: small(seen.version),
        applied_index: seen.applied_index,
    }
}

/// Judges what the witnesses saw.
///
/// # Panics
/// When a promise is broken, with the violations and the place of the archived history.
pub fn judge(recorders: impl IntoIterator<Item = Recorder>) -> Report {
    let history = History::merge(recorders);
    let report = check(&history.records);
    if !report.is_clean() {
        let path = archive(&history);
        let names: Vec<String> = (0_u32..)
            .zip(&history.names)
            .take(20)
            .map(|(at, _)| format!("#{at} {}", history.name(LockId(at))))
            .collect();
        panic!("{report}locks: {names:?}\nhistory: {}", path.display());
    }
    report
}

fn archive(history: &History) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sharklock-history-{}.jsonl", now()));
    let mut file = std::fs::File::create(&path).expect("the temporary directory is writable");
    write(history, &mut file).expect("the history is written");
    path
}

/// Read, think, write under a hold, against a resource that fences.
///
/// # Panics
/// Never; the oracle notes faults for the end of the test.
pub async fn increment(oracle: &tokio::sync::Mutex<FencingOracle>, held: &Held) -> bool {
    let (token, owner) = (held.token(), held.owner());
    let Ok(read) = oracle.lock().await.read(token, owner) else { return false };
    // Others get their turn here: without exclusion an update would be lost now.
    tokio::task::yield_now().await;
    oracle.lock().await.write(token, owner, read, read.value + 1).is_ok()
}
