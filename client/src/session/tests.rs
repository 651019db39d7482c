//! Golden scripts of the session core, in virtual time: `testscripts/*.txt`, named by behaviour.
//!
//! A line at the margin is a command; the indented lines after it are what the core wanted done,
//! with the time at which it did. `SHARKLOCK_BLESS=1 cargo test` writes what is, for review.
//!
//! - `at 2s`: time passes; ticks come when they are due.
//! - `gateways N`: so many to choose from, instead of one
//! - `connect`, `disconnect WHY`, and the same of the spare connection: `spare up`, `spare lost`
//! - `acquire ID NAME [ttl=10s] [wait=5s|try|unbounded] [reenter=TOKEN]`, `close ID`, `lapsed ID`
//! - `two clusters keeping|losing guards`, `nowhere`: what the endpoints say of their clusters
//! - answers name the call by its number and echo it unless `echo=N` is given:
//!   `granted CALL ID TOKEN [ttl=]`, `queued CALL ID PLACE [holder=]`, `held CALL ID [holder=]`,
//!   `timed_out CALL ID`, `hold_lost CALL ID`, `gone CALL ID REASON`, `released CALL [gone=REASON]`,
//!   `cancelled CALL`, `fail CALL CODE [REASON] [retry_after=]`, and
//!   `alive CALL ID:held:TOKEN ID:waiting:PLACE ID:gone:REASON ID:ending:TOKEN:WORDS ...`
//! - `push granted|gone|ending ID NAME TOKEN|REASON [WORDS]`

mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    AcquireAnswer, AcquireOutcome, Answer, Attempt, Call, CloseEnd, Effects, Event, GoneReason,
    KeepAliveAnswer, KeepAliveState, Notice, Pushed, PushedKind, SessionConfig, SessionCore, Via,
};
use crate::{
    cluster::{Because, ClusterId, ClusterMismatch},
    failure::Failure,
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::{HeldMode, Holder, LockMode, Request, Wait},
};

#[test]
fn scripts_tell_what_they_say() {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .expect("the scripts are in the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    assert!(paths.len() > 15, "only {} scripts found", paths.len());
    let bless = env::var_os("SHARKLOCK_BLESS").is_some();
    let mut wrong = String::new();
    for path in paths {
        let script = fs::read_to_string(&path).expect("a readable script");
        assert!(script.starts_with("# "), "{} does not say what it is about", path.display());
        let played = Player::new().play(&script);
        if played == script {
            continue;
        }
        if bless {
            fs::write(&path, played).expect("a writable script");
        } else {
            writeln!(wrong, "{}:\n{}", path.display(), difference(&script, &played))
                .expect("memory");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/session/testscripts")
}

fn difference(script: &str, played: &str) -> String {
    let at = script.lines().zip(played.lines()).take_while(|(one, other)| one == other).count();
    let lines = |text: &str| text.lines().skip(at).take(6).collect::<Vec<_>>().join("\n");
    format!("line {}: expected\n{}\nbut played\n{}\n", at + 1, lines(script), lines(played))
}

struct Player {
    core: SessionCore,
    now: Duration,
    names: BTreeMap<u64, String>,
    effects: Effects,
    played: String,
    down: bool,
    spare_wanted: bool,
}

/// A command's words: those in order, and those with a name.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let (named, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        let named = named.into_iter().filter_map(|word| word.split_once('=')).collect();
        Self { plain, named }
    }

    fn text(&self, at: usize) -> &'a str {
        self.plain.get(at).unwrap_or_else(|| panic!("word {at} is missing: {:?}", self.plain))
    }

    fn number(&self, at: usize) -> u64 {
        self.text(at).parse().unwrap_or_else(|_| panic!("not a number: {:?}", self.plain))
    }

    fn named_duration(&self, name: &str) -> Option<Duration> {
        self.named.get(name).map(|text| duration(text))
    }

    fn holders(&self) -> Vec<Holder> {
        self.named.get("holder").map(|owner| holder(owner)).into_iter().collect()
    }
}

impl Player {
    fn new() -> Self {
        let config = SessionConfig {
            call_timeout: Duration::from_secs(10),
            gateways_count: 1,
            jitter_seed: 1,
        };
        Self {
            core: SessionCore::new(config),
            now: Duration::ZERO,
            names: BTreeMap::new(),
            effects: Effects::default(),
            played: String::new(),
            down: true,
            spare_wanted: false,
        }
    }

    fn play(mut self, script: &str) -> String {
        for line in script.lines() {
            if line.starts_with("    ") {
                continue;
            }
            self.played.push_str(line);
            self.played.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                self.command(&Words::new(line));
            }
        }
        self.played
    }

    fn command(&mut self, words: &Words<'_>) {
        let event = match words.text(0) {
            "at" => return self.pass_until(duration(words.text(1))),
            "gateways" => {
                self.core.config.gateways_count = words.number(1) as usize;
                return;
            }
            "two" => {
                Event::Refused { mismatch: mismatch(), keeps_guards: words.text(2) == "keeping" }
            }
            "nowhere" => Event::Nowhere { mismatch: mismatch() },
            "spare" if words.text(1) == "up" => Event::SpareConnected,
            "spare" => Event::SpareLost,
            "connect" => {
                self.down = false;
                Event::Connected
            }
            "disconnect" => {
                self.down = true;
                Event::Disconnected { why: words.plain[1..].join(" ") }
            }
            "acquire" => self.acquire(words),
            "close" => Event::Close { id: AcquisitionId(words.number(1)) },
            "lapsed" => Event::LapsedAtUse { id: AcquisitionId(words.number(1)) },
            "push" => pushed(words),
            _ => Event::Answered { seq: Seq(words.number(1)), answer: self.answer(words) },
        };
        self.handle(event);
    }

    fn acquire(&mut self, words: &Words<'_>) -> Event {
        let (id, name) = (words.number(1), words.text(2));
        self.names.insert(id, name.to_owned());
        let wait = match words.named.get("wait").copied() {
            None | Some("unbounded") => Wait::Unbounded,
            Some("try") => Wait::Try,
            Some(wait) => Wait::AtMost(duration(wait)),
        };
        let reenter = words.named.get("reenter").map(|token| token.parse().expect("a token"));
        let request = Request {
            name: Arc::from(name),
            mode: LockMode::Exclusive,
            ttl: words.named_duration("ttl").unwrap_or(Duration::from_secs(10)),
            wait,
            reenter: reenter.map(FencingToken::from_u64),
            owner: Arc::from(""),
            attributes: BTreeMap::new(),
        };
        Event::Acquire { id: AcquisitionId(id), request: Arc::new(request) }
    }

    fn answer(&self, words: &Words<'_>) -> Answer {
        let outcome = match words.text(0) {
            "granted" => AcquireOutcome::Granted {
                token: FencingToken::from_u64(words.number(3)),
                fence_floor: FencingToken::from_u64(words.number(3)),
            },
            "queued" => AcquireOutcome::Queued {
                place: u32::try_from(words.number(3)).expect("a place"),
                holders: words.holders(),
            },
            "held" => AcquireOutcome::HeldByOther { holders: words.holders(), waiters: 0 },
            "timed_out" => AcquireOutcome::WaitTimedOut { holders: words.holders() },
            "hold_lost" => AcquireOutcome::HoldLost,
            "gone" => AcquireOutcome::Gone(gone_reason(words.text(3))),
            "released" => {
                let gone = words.named.get("gone").map(|reason| gone_reason(reason));
                return Answer::Released { gone };
            }
            "cancelled" => return Answer::Cancelled,
            "fail" => return Answer::Failed(failure(words)),
            "alive" => return Answer::KeepAlive(self.items(words)),
            other => panic!("unknown command {other}"),
        };
        Answer::Acquire(AcquireAnswer {
            id: AcquisitionId(words.number(2)),
            echoed: echoed(words),
            outcome,
            ttl: words.named_duration("ttl"),
            position: Position::default(),
        })
    }

    fn items(&self, words: &Words<'_>) -> Vec<KeepAliveAnswer> {
        let item = |word: &&str| {
            let parts: Vec<&str> = word.split(':').collect();
            let id = parts[0].parse().expect("an id");
            let number = || parts[2].parse().expect("a number");
            let token = || FencingToken::from_u64(number());
            let state = match parts[1] {
                "held" => KeepAliveState::Held { token: token(), fence_floor: token() },
                "waiting" => {
                    KeepAliveState::Waiting { place: u32::try_from(number()).expect("a place") }
                }
                "gone" => KeepAliveState::Gone(gone_reason(parts[2])),
                "ending" => KeepAliveState::Ending { token: token(), reason: parts[3].to_owned() },
                other => panic!("unknown state {other}"),
            };
            KeepAliveAnswer {
                name: self.names[&id].clone(),
                id: AcquisitionId(id),
                echoed: echoed(words),
                state,
                position: Position::default(),
            }
        };
        words.plain[2..].iter().map(item).collect()
    }

    fn pass_until(&mut self, until: Duration) {
        while let Some(due) = self.core.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.handle(Event::Tick);
            let next = self.core.next_due();
            assert!(next.is_none_or(|next| next > self.now), "a tick did not do what was due");
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event) {
        self.core.handle(self.now, event, &mut self.effects);
        check(&self.core);
        let at = seconds(self.now);
        let effects = std::mem::take(&mut self.effects);
        let Effects { acquires, urgent, spare, notices, check, .. } = effects;
        self.down &= !effects.move_to_spare;
        assert!(!self.down || acquires.is_empty() && urgent.is_empty(), "calls without connection");
        let mut tell = |what: String| {
            writeln!(self.played, "    {at} {what}").expect("memory");
        };
        notices.iter().for_each(|notice| tell(told(notice)));
        spare.iter().for_each(|call| tell(format!("by spare {}", called(call))));
        if effects.move_to_spare {
            tell("move to spare".to_owned());
        }
        acquires.iter().chain(&urgent).for_each(|call| tell(called(call)));
        if check {
            tell("check the gateway".to_owned());
        }
        if effects.leave_spare {
            tell("leave spare".to_owned());
        }
        if effects.reconnect {
            self.down = true;
            tell("reconnect".to_owned());
        }
        let spare_wanted = self.core.is_spare_wanted();
        if std::mem::replace(&mut self.spare_wanted, spare_wanted) != spare_wanted {
            tell(if spare_wanted { "spare wanted" } else { "spare not wanted" }.to_owned());
        }
    }
}

/// The invariants of [`SessionCore`] that can be seen from its state.
pub(super) fn check(core: &SessionCore) {
    let mut timed = BTreeSet::new();
    for (due, id) in &core.timers {
        assert!(timed.insert(*id), "{id} has two timers");
        let armed = core
            .open
            .get(id)
            .map(|open| open.armed)
            .or_else(|| core.closing.get(id).map(|closing| closing.armed));
        assert_eq!(armed, Some(Some(*due)), "the timer of {id} is on nobody's books");
    }
    for (id, open) in &core.open {
        assert!(!core.closing.contains_key(id), "{id} is open and closing");
        let due = open.due(core.connected);
        let late = due.is_some_and(|due| open.armed.is_none_or(|armed| armed > due));
        assert!(!late, "{id} is due at {due:?} and looked at only at {:?}", open.armed);
    }
    for (id, closing) in &core.closing {
        let due = closing.due(core.connected);
        assert!(closing.armed.is_some_and(|armed| armed <= due), "{id} may close too late");
    }
    let by_spare = |attempt: &Attempt| attempt.via == Via::Spare;
    assert!(core.spare_is_up() || !core.attempts.values().any(by_spare), "by a lost spare");
    assert!(core.attempts.keys().all(|seq| *seq < core.next_seq), "a number not yet taken");
}

fn told(notice: &Notice) -> String {
    match notice {
        Notice::Decided { id, result: Ok(grant) } => {
            format!("{id}: guard, token {}, until {}", grant.token, seconds(grant.valid_until))
        }
        Notice::Decided { id, result: Err(error) } => format!("{id}: error: {error}"),
        Notice::Renewed { id, valid_until, in_jeopardy } => {
            let standing = if *in_jeopardy { "in jeopardy" } else { "safe" };
            format!("{id}: {standing} until {}", seconds(*valid_until))
        }
        Notice::Jeopardy { id } => format!("{id}: in jeopardy"),
        Notice::Lost { id, reason } => format!("{id}: lost: {reason}"),
        Notice::Closed { id, end: CloseEnd::Confirmed } => format!("{id}: closed"),
        Notice::Closed { id, end: CloseEnd::Lost(reason) } => {
            format!("{id}: closed, lost: {reason}")
        }
        Notice::Closed { id, end: CloseEnd::Unconfirmed } => format!("{id}: closed, unconfirmed"),
    }
}

fn called(call: &Call) -> String {
    match call {
        Call::Acquire { seq, id, request, wait } => {
            let wait = match wait {
                Wait::Try => "try".to_owned(),
                Wait::AtMost(wait) => format!("wait {}", seconds(*wait)),
                Wait::Unbounded => "wait".to_owned(),
            };
            let reenter = request.reenter.map(|token| format!(" reenter {token}"));
            format!(
                "#{} Acquire {id} {} {wait}{}",
                seq.0,
                request.name,
                reenter.unwrap_or_default()
            )
        }
        Call::Release { seq, id, name, token } => {
            format!("#{} Release {id} {name} token {token}", seq.0)
        }
        Call::Cancel { seq, id, name } => format!("#{} Cancel {id} {name}", seq.0),
        Call::KeepAlive { seq, items } => {
            let ids: Vec<_> = items.iter().map(|(_, id)| id.to_string()).collect();
            format!("#{} KeepAlive {}", seq.0, ids.join(" "))
        }
    }
}

fn pushed(words: &Words<'_>) -> Event {
    let token = || FencingToken::from_u64(words.number(4));
    let what = match words.text(1) {
        "granted" => PushedKind::Granted { token: token(), fence_floor: token() },
        "gone" => PushedKind::Gone(gone_reason(words.text(4))),
        "ending" => PushedKind::Ending { token: token(), reason: words.plain[5..].join(" ") },
        other => panic!("unknown event {other}"),
    };
    let (id, name) = (AcquisitionId(words.number(2)), words.text(3).to_owned());
    Event::Pushed(Pushed { name, id, what, position: Position::default() })
}

fn mismatch() -> ClusterMismatch {
    ClusterMismatch {
        endpoint: "g2".to_owned(),
        cluster: ClusterId::from_bytes([0xbb; 16]),
        ours: ClusterId::from_bytes([0xaa; 16]),
        because: Because::Said("g1".to_owned()),
    }
}

fn echoed(words: &Words<'_>) -> Seq {
    let echo = words.named.get("echo").map(|echo| echo.parse().expect("a number"));
    Seq(echo.unwrap_or_else(|| words.number(1)))
}

fn failure(words: &Words<'_>) -> Failure {
    let reason = words.plain.get(3).copied().unwrap_or_default();
    Failure {
        code: i32::try_from(words.number(2)).expect("a gRPC code"),
        reason: reason.to_owned(),
        message: format!("{} {reason}", words.text(2)),
        field: None,
        retry_after: words.named_duration("retry_after").unwrap_or_default(),
    }
}

fn gone_reason(text: &str) -> GoneReason {
    match text {
        "unknown" => GoneReason::Unknown,
        "released" => GoneReason::Released,
        "cancelled" => GoneReason::Cancelled,
        "expired" => GoneReason::Expired,
        "wait_timed_out" => GoneReason::WaitTimedOut,
        "refused" => GoneReason::Refused,
        "force_released" => GoneReason::ForceReleased,
        "hold_lost" => GoneReason::HoldLost,
        other => panic!("unknown reason {other}"),
    }
}

fn holder(owner: &str) -> Holder {
    Holder {
        session: "0123".into(),
        owner: owner.into(),
        address: String::new(),
        attributes: BTreeMap::new(),
        mode: HeldMode::Exclusive,
        token: Some(FencingToken::from_u64(5)),
        fence_floor: Some(FencingToken::from_u64(5)),
        since: SystemTime::UNIX_EPOCH,
        ttl: Duration::from_secs(10),
        remaining: Duration::from_secs(10),
        open_acquisitions: 1,
        ending_reason: None,
        acquisition: AcquisitionId(1),
    }
}

/// `1500ms` or `2s`.
fn duration(text: &str) -> Duration {
    let number = |digits: &str| digits.parse().unwrap_or_else(|_| panic!("not a time: {text}"));
    match text.strip_suffix("ms") {
        Some(digits) => Duration::from_millis(number(digits)),
        None => Duration::from_secs(number(text.trim_end_matches('s'))),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}
