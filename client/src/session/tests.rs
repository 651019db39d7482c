//! Golden scripts of the session core, in virtual time: `testscripts/*.txt`, named by behaviour.
//!
//! A line at the margin is a command; the indented lines after it are what the core wanted done,
//! with the time at which it did. `SHARKLOCK_BLESS=1 cargo test` writes what is, for review.
//!
//! - `at 2s`: time passes; ticks come when they are due.
//! - `gateways N`: so many to choose from, instead of one
//! - `connect`, `disconnect WHY`, and the same of the spare connection: `spare up`, `spare lost`
//! - `acquire ID NAME [ttl=10s] [wait=5s|try|unbounded] [reenter=TOKEN] [reclaim=TOKEN]
//!   [condition=...] [ask=yes]`, `close ID`, `lapsed ID`
//! - `change ID NUMBER condition|downgrade|attributes [condition=...] [ttl=10s]`
//! - conditions: `plain`, `hold`, `missed:3:2s`, `max_hold:60s`, `ask_grace:5s`, joined by `+`; those
//!   of answers with `[revision=N] [claimed=yes] [ttl=10s]`
//! - `two clusters keeping|losing guards`, `nowhere`: what the endpoints say of their clusters
//! - answers name the call by its number and echo it unless `echo=N` is given:
//!   `granted CALL ID TOKEN [ttl=]`, `queued CALL ID PLACE [holder=]`, `held CALL ID [holder=]`,
//!   `timed_out CALL ID`, `hold_lost CALL ID`, `gone CALL ID REASON`, `released CALL [gone=REASON]`,
//!   `cancelled CALL`, `asked CALL`, `agreed|moved CALL condition=...`, `downgraded CALL TOKEN`,
//!   `set CALL`, `overtaken CALL`, `gone_to_change CALL REASON`, `fail CALL CODE [REASON] [retry_after=]`, and
//!   `alive CALL ID:held:TOKEN[:ASKED_BY] ID:waiting:PLACE ID:gone:REASON ID:ending:TOKEN:WORDS ...`
//! - `push granted|gone|ending|asked ID NAME TOKEN|REASON|OWNER [WORDS]`

mod lives;
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
    AcquireAnswer, AcquireOutcome, Answer, Attempt, Call, Change, ChangeAnswer, ChangeCall,
    Changed, CloseEnd, Effects, Event, GoneReason, KeepAliveAnswer, KeepAliveState, Notice, Pushed,
    PushedKind, SessionConfig, SessionCore, Via,
};
use crate::{
    cluster::{Because, ClusterId, ClusterMismatch},
    condition::{Agreement, Condition, LeaseRule},
    failure::Failure,
    ids::{AcquisitionId, FencingToken, Position, Seq},
    request::{AskMark, HeldMode, Holder, LockMode, Request, Wait},
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

    /// `condition=hold`, `missed:3:2s`, `max_hold:60s`, `ask_grace:5s`, joined by `+`.
    fn condition(&self) -> Condition {
        let mut condition = Condition::default();
        for clause in self.named.get("condition").iter().flat_map(|it| it.split('+')) {
            let parts: Vec<&str> = clause.split(':').collect();
            match parts[0] {
                "plain" => {}
                "hold" => condition.lease = LeaseRule::Hold,
                "missed" => {
                    let missed = parts[1].parse().expect("a number");
                    let interval = duration(parts[2]);
                    condition.lease = LeaseRule::AfterMissed { missed, interval };
                }
                "max_hold" => condition.max_hold = Some(duration(parts[1])),
                "ask_grace" => condition.ask_grace = Some(duration(parts[1])),
                other => panic!("unknown clause {other}"),
            }
        }
        condition
    }

    /// `condition=... [revision=N] [claimed=yes]` of an answer, with its ttl.
    fn agreement(&self) -> Option<Agreement> {
        self.named.get("condition")?;
        let revision = self.named.get("revision").map(|it| it.parse().expect("a number"));
        Some(Agreement {
            condition: self.condition(),
            revision: revision.unwrap_or(0),
            claimed: self.named.contains_key("claimed"),
            ttl: self.named_duration("ttl").unwrap_or(Duration::from_secs(10)),
        })
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
            numbers_after: 0,
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
                Event::Disconnected { why: words.plain[1..].join(" ").into() }
            }
            "acquire" => self.acquire(words),
            "change" => change(words),
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
        let reclaim = words.named.get("reclaim").map(|token| token.parse().expect("a token"));
        let request = Request {
            name: Arc::from(name),
            mode: LockMode::Exclusive,
            ttl: words.named_duration("ttl").unwrap_or(Duration::from_secs(10)),
            wait,
            reenter: reenter.map(FencingToken::from_u64),
            reclaim: reclaim.map(FencingToken::from_u64),
            condition: words.condition(),
            ask: words.named.contains_key("ask"),
            owner: Arc::from(""),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
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
            "asked" => return Answer::Asked { asked_count: 1 },
            "agreed" => {
                let agreement = words.agreement().expect("condition=");
                return Answer::Changed(ChangeAnswer::Agreed(agreement));
            }
            "moved" => {
                let agreement = words.agreement().expect("condition=");
                return Answer::Changed(ChangeAnswer::RevisionMoved(agreement));
            }
            "downgraded" => {
                let token = FencingToken::from_u64(words.number(2));
                let position = Position::default();
                let answer = ChangeAnswer::Downgraded { token, fence_floor: token, position };
                return Answer::Changed(answer);
            }
            "set" => return Answer::Changed(ChangeAnswer::AttributesSet),
            "overtaken" => return Answer::Changed(ChangeAnswer::Overtaken),
            "gone_to_change" => {
                return Answer::Changed(ChangeAnswer::Gone(gone_reason(words.text(2))));
            }
            "fail" => return Answer::Failed(failure(words)),
            "alive" => return Answer::KeepAlive(self.items(words)),
            other => panic!("unknown command {other}"),
        };
        Answer::Acquire(AcquireAnswer {
            id: AcquisitionId(words.number(2)),
            echoed: echoed(words),
            outcome,
            ttl: words.named_duration("ttl"),
            agreement: words.agreement(),
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
                "held" => KeepAliveState::Held {
                    token: token(),
                    fence_floor: token(),
                    asked: parts.get(3).map(|owner| ask_mark(owner)),
                },
                "waiting" => {
                    KeepAliveState::Waiting { place: u32::try_from(number()).expect("a place") }
                }
                "gone" => KeepAliveState::Gone(gone_reason(parts[2])),
                "ending" => {
                    KeepAliveState::Ending { token: token(), why: by_operator(parts[3].to_owned()) }
                }
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
        Notice::Agreed { id, agreement } => format!("{id}: agreed {}", shown(agreement)),
        Notice::Asked { id, mark: None } => format!("{id}: nobody asks"),
        Notice::Asked { id, mark: Some((mark, until)) } => {
            format!("{id}: asked by {}, may go on until {}", mark.owner, seconds(*until))
        }
        Notice::Changed { id, number, result: Ok(done) } => {
            let done = match done {
                Changed::Agreed(agreement) => shown(agreement),
                Changed::Downgraded { token, .. } => format!("shared, token {token}"),
                Changed::AttributesSet => "attributes set".to_owned(),
            };
            format!("{id}: change {number} done: {done}")
        }
        Notice::Changed { id, number, result: Err(error) } => {
            format!("{id}: change {number}: error: {error}")
        }
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
            let reenter = reenter.unwrap_or_default();
            match request.reclaim {
                Some(token) => format!("#{} Reclaim {id} {} token {token}", seq.0, request.name),
                None => format!("#{} Acquire {id} {} {wait}{reenter}", seq.0, request.name),
            }
        }
        Call::Release { seq, id, name, token } => {
            format!("#{} Release {id} {name} token {token}", seq.0)
        }
        Call::Change { seq, id, name, token, what } => {
            let what = match what {
                ChangeCall::Claim { revision } => format!("Claim revision {revision}"),
                ChangeCall::SetCondition { revision, ttl, .. } => {
                    format!("SetCondition revision {revision} ttl {}", seconds(*ttl))
                }
                ChangeCall::Downgrade => "Downgrade".to_owned(),
                ChangeCall::SetAttributes { order, .. } => {
                    format!("SetAttributes order {}", order.0)
                }
            };
            format!("#{} {what} {id} {name} token {token}", seq.0)
        }
        Call::Ask { seq, id, name } => format!("#{} Ask {id} {name}", seq.0),
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
        "gone" => {
            let how = gone_reason(words.text(4));
            let why = match how {
                GoneReason::ForceReleased => by_operator(words.plain[5..].join(" ")),
                how => super::acquiring::lost_reason(how),
            };
            PushedKind::Gone { how, why }
        }
        "asked" => PushedKind::Asked(ask_mark(words.text(4))),
        "ending" => {
            PushedKind::Ending { token: token(), why: by_operator(words.plain[5..].join(" ")) }
        }
        other => panic!("unknown event {other}"),
    };
    let (id, name) = (AcquisitionId(words.number(2)), words.text(3).to_owned());
    Event::Pushed(Pushed { name, id, what, position: Position::default() })
}

fn change(words: &Words<'_>) -> Event {
    let (id, number) = (AcquisitionId(words.number(1)), words.number(2));
    let change = match words.text(3) {
        "condition" => Change::SetCondition {
            condition: words.condition(),
            ttl: words.named_duration("ttl").unwrap_or(Duration::from_secs(10)),
        },
        "downgrade" => Change::Downgrade,
        "attributes" => Change::SetAttributes { attributes: BTreeMap::new() },
        other => panic!("unknown change {other}"),
    };
    Event::Change { id, number, change }
}

fn shown(agreement: &Agreement) -> String {
    let Agreement { condition, revision, claimed, ttl } = agreement;
    let clause = |name: &str, clause: Option<Duration>| {
        clause.map_or(String::new(), |of| format!(" {name} {}", seconds(of)))
    };
    format!(
        "{:?}{}{} revision {revision}{} ttl {}",
        condition.lease,
        clause("max_hold", condition.max_hold),
        clause("ask_grace", condition.ask_grace),
        if *claimed { " claimed" } else { "" },
        seconds(*ttl)
    )
}

/// Who asks, and has 5 s of 6 s left to wait.
fn ask_mark(owner: &str) -> AskMark {
    AskMark {
        session: "4567".into(),
        owner: owner.into(),
        since: SystemTime::UNIX_EPOCH,
        grace: Duration::from_secs(6),
        remaining: Duration::from_secs(5),
    }
}

fn mismatch() -> ClusterMismatch {
    ClusterMismatch {
        endpoint: "g2".to_owned(),
        cluster: ClusterId::from_bytes([0xbb; 16]),
        cluster_name: Arc::default(),
        ours: ClusterId::from_bytes([0xaa; 16]),
        our_name: Arc::default(),
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
        "orphaned" => GoneReason::Orphaned,
        "reclaimed" => GoneReason::Reclaimed,
        "held_too_long" => GoneReason::HeldTooLong,
        "asked_for" => GoneReason::AskedFor,
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
        agreement: Agreement::plain(Duration::from_secs(10)),
        orphaned: false,
        asked: None,
        arrival: 1,
        instance: 1,
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

fn by_operator(reason: String) -> crate::error::LostReason {
    crate::error::LostReason::ForceReleased { reason }
}
