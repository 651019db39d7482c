//! A session as its handles and servers see it, message by message.

use std::time::Duration;

use sharklock_proto::v1::{session_answer, session_call};

use super::*;
use crate::{
    condition::Condition,
    request::{LockMode, Wait},
    session::GuardState,
};

const TTL: Duration = Duration::from_secs(9);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(100 + seconds)
}

struct Session {
    driver: Driver<(), &'static str, &'static str, &'static str>,
    output: Output<&'static str, &'static str, &'static str>,
    news: Vec<Told<&'static str, &'static str, &'static str>>,
}

impl Session {
    fn connected() -> Self {
        let config = SessionConfig {
            call_timeout: TTL,
            gateways_count: 1,
            jitter_seed: 7,
            numbers_after: 0,
        };
        let (driver, output) = (Driver::new(config), Output::default());
        let mut session = Self { driver, output, news: Vec::new() };
        session.driver.connected(at(0));
        session
    }

    fn acquire(&mut self, now: Duration, ticket: &'static str) -> Arc<LeaseCell<()>> {
        let request = Request {
            name: Arc::from("a"),
            mode: LockMode::Exclusive,
            ttl: TTL,
            wait: Wait::Unbounded,
            reenter: None,
            reclaim: None,
            condition: Condition::default(),
            ask: false,
            owner: Arc::from(""),
            attributes: BTreeMap::new(),
            traceparent: String::new(),
        };
        let cell = Arc::new(LeaseCell::default());
        self.driver.acquire(now, Arc::new(request), Arc::clone(&cell), ticket);
        cell
    }

    /// Ends the turn and takes the calls to be sent, acquires first.
    fn turn(&mut self, now: Duration) -> Vec<v1::SessionCall> {
        self.driver.turn(now, &mut self.output);
        let mut calls = std::mem::take(&mut self.output.acquires);
        calls.append(&mut self.output.urgent);
        calls
    }

    /// As `turn`, where exactly one call is sent.
    #[track_caller]
    fn sends(&mut self, now: Duration) -> v1::SessionCall {
        let mut calls = self.turn(now);
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.pop().expect("there is one")
    }

    /// Lets time pass until the one next call is sent. Timers may fire earlier than that.
    #[track_caller]
    fn waits_and_sends(&mut self) -> (Duration, v1::SessionCall) {
        loop {
            let due = self.driver.next_due().expect("something is to be sent");
            assert!(due < at(9), "nothing is sent while the lease runs");
            if let Some(call) = self.turn(due).pop() {
                return (due, call);
            }
        }
    }

    /// The news for handles, in short.
    fn told(&mut self) -> Vec<String> {
        let (news, told): (Vec<_>, Vec<_>) =
            self.output.told.drain(..).partition(|told| matches!(told, Told::Event(_)));
        self.news.extend(news);
        let told = told.into_iter().map(|told| match told {
            Told::Acquired { ticket, result: Ok(grant) } => format!("{ticket}: {}", grant.token),
            Told::Acquired { ticket, result: Err(error) } => format!("{ticket}: {error}"),
            Told::Released { ticket, result: Ok(()) } => format!("{ticket}: released"),
            Told::Released { ticket, result: Err(error) } => format!("{ticket}: {error}"),
            Told::Changed { ticket, result: Ok(done) } => format!("{ticket}: {done:?}"),
            Told::Changed { ticket, result: Err(error) } => format!("{ticket}: {error}"),
            Told::Closed(Closed { released, unconfirmed }) => {
                format!("closed: {} released, {} not", released.len(), unconfirmed.len())
            }
            Told::Event(event) => unreachable!("{event:?} was taken out"),
        });
        told.collect()
    }

    /// The news for those who watch all guards.
    fn news(&mut self) -> Vec<GuardEventKind> {
        let news = self.news.drain(..).map(|told| match told {
            Told::Event(event) => {
                let GuardName { name, token, acquisition } = &event.hold;
                assert_eq!((&**name, token.as_u64(), acquisition.0), ("a", 5, 1));
                event.kind
            }
            other => unreachable!("{other:?} is no event"),
        });
        news.collect()
    }

    fn hears(&mut self, now: Duration, to: &v1::SessionCall, body: session_answer::Body) {
        let answer = v1::SessionAnswer { call_id: to.call_id, body: Some(body) };
        self.driver.take_in(now, v1::SessionResponse { answers: vec![answer] });
    }

    /// Acquires at 0 and is granted token 5.
    fn holding() -> (Self, Arc<LeaseCell<()>>) {
        let mut session = Self::connected();
        let cell = session.acquire(at(0), "mine");
        let call = session.sends(at(0));
        session.hears(at(0), &call, granted(&call, 5));
        assert_eq!(session.turn(at(0)), []);
        assert_eq!(session.told(), ["mine: 5"]);
        (session, cell)
    }
}

fn granted(call: &v1::SessionCall, token: u64) -> session_answer::Body {
    let Some(session_call::Body::Acquire(request)) = &call.body else { panic!("{call:?}") };
    session_answer::Body::Acquire(v1::AcquireResponse {
        seq: request.seq,
        acquisition_id: request.acquisition_id,
        outcome: v1::AcquireOutcome::Granted.into(),
        token,
        fence_floor: token,
        ttl_ms: 9_000,
        ..v1::AcquireResponse::default()
    })
}

fn kept(call: &v1::SessionCall, token: u64) -> session_answer::Body {
    let Some(session_call::Body::KeepAlive(request)) = &call.body else { panic!("{call:?}") };
    let answer = |item: &v1::KeepAliveItem| v1::KeepAliveAnswer {
        name: item.name.clone(),
        acquisition_id: item.acquisition_id,
        seq: request.seq,
        state: v1::KeepAliveState::Held.into(),
        token,
        fence_floor: token,
        ..v1::KeepAliveAnswer::default()
    };
    let answers = request.items.iter().map(answer).collect();
    session_answer::Body::KeepAlive(v1::KeepAliveResponse { answers })
}

fn released() -> session_answer::Body {
    session_answer::Body::Release(v1::ReleaseResponse {
        outcome: v1::ReleaseOutcome::Released.into(),
        ..v1::ReleaseResponse::default()
    })
}

#[test]
fn a_guard_is_renewed_from_the_sending_and_given_back_with_a_confirmation() {
    let (mut session, cell) = Session::holding();
    assert_eq!(cell.state(at(0)), GuardState::Safe);
    let before = cell.valid_until();
    let (due, call) = session.waits_and_sends();
    assert_eq!(due, at(0) + TTL / 3);
    session.hears(due + Duration::from_secs(1), &call, kept(&call, 5));
    session.turn(due + Duration::from_secs(1));
    assert_eq!(cell.valid_until() - before, due - at(0), "not from the answer");
    assert_eq!(cell.give_back(at(5)), Ok(()));
    session.driver.give_back(at(5), &cell, Some("bye"));
    let call = session.sends(at(5));
    assert!(matches!(&call.body, Some(session_call::Body::Release(release)) if release.token == 5));
    session.hears(at(5), &call, released());
    session.turn(at(5));
    assert_eq!(session.told(), ["bye: released"]);
    assert_eq!(session.driver.acquisitions_count(), 0);
}

#[test]
fn a_lapse_found_at_use_before_the_renewal_arrives_stays_a_loss() {
    let (mut session, cell) = Session::holding();
    let (due, call) = session.waits_and_sends();
    // The user's thread sees the time before the session's does.
    assert_eq!(cell.check(at(20)), Err(LostReason::Unrenewed));
    session.hears(due, &call, kept(&call, 5));
    session.turn(due);
    assert_eq!(cell.state(due), GuardState::Lost);
    assert!(session.turn(at(6)).is_empty(), "nobody renews what is lost");
    assert!(cell.give_back(at(6)).is_err());
    session.driver.give_back(at(6), &cell, Some("bye"));
    let call = session.sends(at(6));
    assert!(matches!(&call.body, Some(session_call::Body::Release(_))), "the cluster holds it yet");
}

#[test]
fn an_acquire_that_is_dropped_before_it_is_taken_in_is_never_sent() {
    let mut session = Session::connected();
    let cell = Arc::new(LeaseCell::default());
    cell.abandon();
    // Its note comes first, and finds nothing.
    session.driver.give_back(at(0), &cell, None);
    let request = Arc::clone(&Session::holding().0.driver.entries[&AcquisitionId(1)].request);
    session.driver.acquire(at(0), request, cell, "mine");
    assert_eq!(session.turn(at(0)), []);
    assert_eq!(session.driver.acquisitions_count(), 0);
}

#[test]
fn an_acquire_that_is_dropped_while_its_grant_is_on_the_way_gives_the_grant_back() {
    let mut session = Session::connected();
    let cell = session.acquire(at(0), "mine");
    let call = session.sends(at(0));
    session.hears(at(0), &call, granted(&call, 5));
    cell.abandon();
    session.driver.give_back(at(0), &cell, None);
    // The grant was heard first, in the same turn.
    let call = session.sends(at(0));
    assert!(matches!(&call.body, Some(session_call::Body::Release(release)) if release.token == 5));
    session.hears(at(0), &call, released());
    session.turn(at(0));
    assert_eq!(session.driver.acquisitions_count(), 0);
}

#[test]
fn who_gives_up_with_a_ticket_hears_that_the_withdrawal_was_confirmed() {
    let mut session = Session::connected();
    let cell = session.acquire(at(0), "mine");
    session.sends(at(0));
    cell.abandon();
    session.driver.give_back(at(1), &cell, Some("never mind"));
    let call = session.sends(at(1));
    assert!(matches!(&call.body, Some(session_call::Body::Cancel(_))), "{call:?}");
    assert_eq!(session.told(), [""; 0], "nobody has confirmed it yet");
    session.hears(at(1), &call, session_answer::Body::Cancel(v1::CancelResponse::default()));
    session.turn(at(1));
    assert_eq!(session.told(), ["never mind: released"]);
}

#[test]
fn what_was_to_be_sent_on_a_connection_that_is_left_is_not_sent_on_the_next() {
    let (mut session, _cell) = Session::holding();
    let mut now = at(0);
    while !session.output.reconnect {
        now = session.driver.next_due().expect("it wants an answer");
        assert!(now < at(9), "the connection is never left");
        let calls = session.turn(now);
        assert!(!session.output.reconnect || calls.is_empty(), "{calls:?}");
    }
    assert_eq!(session.turn(now), [], "there is no connection");
    session.driver.connected(now);
    let call = session.sends(now);
    assert!(matches!(&call.body, Some(session_call::Body::KeepAlive(_))), "{call:?}");
}

#[test]
fn a_session_whose_gateway_is_lost_goes_on_over_its_spare_connection() {
    let (mut session, cell) = Session::holding();
    session.driver.core.config.gateways_count = 2;
    let mut now = at(0);
    while !session.output.spare_wanted {
        now = session.driver.next_due().expect("it wants an answer");
        assert!(now < at(9), "no other gateway is ever asked");
        session.turn(now);
    }
    session.driver.spare_connected(now);
    while session.output.spare.is_empty() {
        now = session.driver.next_due().expect("it wants an answer");
        assert_eq!(session.turn(now), [], "the second repetition goes by the other gateway");
    }
    let by_spare = session.output.spare.pop().expect("it is not empty");
    session.driver.disconnected(now, "broken".to_owned());
    let again = session.sends(now);
    assert!(session.output.move_to_spare && !session.output.reconnect);
    assert!(matches!(&again.body, Some(session_call::Body::KeepAlive(_))), "{again:?}");
    // A question from before the move is answered after it.
    let before = cell.valid_until();
    session.hears(now, &by_spare, kept(&by_spare, 5));
    session.turn(now);
    assert!(cell.valid_until() > before && !session.output.move_to_spare);
}

#[test]
fn guards_hear_that_their_session_has_ended() {
    let (session, cell) = Session::holding();
    drop(session);
    assert_eq!(cell.check(at(0)), Err(LostReason::SessionEnded));
}

/// Simulator, seed 60000237: calls for a connection that had been lost meanwhile were handed out.
#[test]
fn what_was_not_sent_when_the_connection_is_lost_is_sent_over_the_next() {
    let mut session = Session::connected();
    session.acquire(at(0), "mine");
    session.driver.disconnected(at(0), "it broke".to_owned());
    assert_eq!(session.turn(at(0)), []);
    session.driver.connected(at(0));
    let call = session.sends(at(0));
    session.hears(at(0), &call, granted(&call, 5));
    session.turn(at(0));
    assert_eq!(session.told(), ["mine: 5"]);
}

#[test]
fn a_close_loses_guards_first_keeps_their_locks_and_releases_them_when_users_have_stopped() {
    let (mut session, cell) = Session::holding();
    session.driver.close(at(0), Duration::from_secs(60));
    assert_eq!(cell.check(at(0)), Err(LostReason::Closed));
    assert_eq!(session.turn(at(0)), [], "its user may still work");
    let (due, call) = session.waits_and_sends();
    assert!(matches!(&call.body, Some(session_call::Body::KeepAlive(_))), "{call:?}");
    session.hears(due, &call, kept(&call, 5));
    session.turn(due);
    let (_, call) = session.waits_and_sends();
    assert!(matches!(&call.body, Some(session_call::Body::KeepAlive(_))), "it is kept: {call:?}");
    assert_eq!(cell.give_back(at(7)), Err(LostReason::Closed));
    session.driver.give_back(at(7), &cell, Some("bye"));
    let call = session.sends(at(7));
    assert!(matches!(&call.body, Some(session_call::Body::Release(release)) if release.token == 5));
    assert_eq!(session.told(), [""; 0], "nobody has confirmed it yet");
    session.hears(at(7), &call, released());
    session.turn(at(7));
    assert_eq!(session.told(), ["bye: released", "closed: 1 released, 0 not"]);
    let (safe, lost) = (GuardEventKind::Safe, GuardEventKind::Lost(LostReason::Closed));
    assert_eq!(session.news(), [safe, lost, GuardEventKind::Released]);
    session.acquire(at(8), "late");
    assert_eq!(session.turn(at(8)), []);
    assert_eq!(session.told(), ["late: the client is closed: make another to acquire locks"]);
}

#[test]
fn a_close_releases_under_users_who_take_too_long() {
    let (mut session, cell) = Session::holding();
    session.driver.close(at(0), Duration::from_secs(1));
    assert_eq!(session.turn(at(0)), []);
    assert_eq!(session.driver.next_due(), Some(at(1)));
    let call = session.sends(at(1));
    assert!(matches!(&call.body, Some(session_call::Body::Release(release)) if release.token == 5));
    // The user comes meanwhile, and waits for the same confirmation.
    session.driver.give_back(at(1), &cell, Some("bye"));
    assert_eq!(session.turn(at(1)), [], "it is under way");
    session.hears(at(1), &call, released());
    session.turn(at(1));
    assert_eq!(session.told(), ["bye: released", "closed: 1 released, 0 not"]);
}

#[test]
fn a_close_withdraws_who_waits_and_says_what_was_not_confirmed() {
    let (mut session, cell) = Session::holding();
    session.acquire(at(0), "waiting");
    session.sends(at(0));
    session.driver.close(at(0), Duration::ZERO);
    let calls = session.turn(at(0));
    let cancels =
        |call: &&v1::SessionCall| matches!(call.body, Some(session_call::Body::Cancel(_)));
    assert_eq!((calls.len(), calls.iter().filter(cancels).count()), (2, 1), "{calls:?}");
    let told = session.told();
    assert_eq!(told, ["waiting: the client is closed: make another to acquire locks"]);
    session.driver.disconnected(at(0), "it broke".to_owned());
    while let Some(due) = session.driver.next_due() {
        session.turn(due);
    }
    assert_eq!(session.told(), ["closed: 0 released, 1 not"]);
    session.driver.give_back(at(20), &cell, Some("bye"));
    session.driver.close(at(20), Duration::ZERO);
    session.turn(at(20));
    assert_eq!(session.told(), ["closed: 0 released, 0 not"], "a second close has nothing to do");
}

#[test]
fn those_who_watch_hear_how_a_guard_fares() {
    let (mut session, cell) = Session::holding();
    let mut call = None;
    let mut now = at(0);
    while cell.state(now) != GuardState::Jeopardy {
        now = session.driver.next_due().expect("it wants an answer");
        assert!(now < at(9), "nobody is warned");
        call = session.turn(now).pop().or(call);
    }
    let call = call.expect("a keepalive was sent");
    session.hears(now, &call, kept(&call, 5));
    session.turn(now);
    let gone = v1::AcquisitionEvent {
        name: "a".to_owned(),
        acquisition_id: 1,
        kind: v1::AcquisitionEventKind::Gone.into(),
        gone_reason: v1::GoneReason::HeldTooLong.into(),
        ..v1::AcquisitionEvent::default()
    };
    let nobody = v1::SessionCall::default();
    session.hears(now, &nobody, session_answer::Body::Event(gone));
    session.turn(now);
    assert_eq!(session.told(), [""; 0]);
    let lost = GuardEventKind::Lost(LostReason::HeldTooLong);
    let (safe, jeopardy) = (GuardEventKind::Safe, GuardEventKind::Jeopardy);
    assert_eq!(session.news(), [safe.clone(), jeopardy, safe, lost]);
}
