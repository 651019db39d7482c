use sharklock_locktable::{Agreement, Condition, Finished, Instance, Lease, SessionHandle};

use super::*;

const ELECTION_MAX: Duration = Duration::from_secs(2);
const TTL_MS: u64 = 10_000;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn acquisition(id: u64) -> Acquisition {
    Acquisition { session: SessionHandle([1; 16]), instance: Instance(1), id: AcquisitionId(id) }
}

fn clock() -> LeaseClock {
    LeaseClock::inheriting(at(0), 7, ELECTION_MAX, Vec::new())
}

fn granted(id: u64, token: u64, from_queue: bool) -> Change {
    Change::Granted {
        acquisition: acquisition(id),
        name: "a".into(),
        grant: Grant { token: Token(token), fence_floor: Token(token), ttl_ms: TTL_MS },
        from_queue,
        condition: None,
    }
}

fn queued(id: u64, wait: Wait) -> Change {
    Change::Queued { acquisition: acquisition(id), name: "a".into(), ttl_ms: TTL_MS, wait }
}

fn expire_hold(token: u64, newest: u64) -> Command {
    let newest = AcquisitionId(newest);
    let (name, token) = ("a".into(), Token(token));
    let items = vec![ExpireItem::Hold { name, token, newest, told: true }];
    Command::Expire(Expire { items, proposer_term: 7 })
}

#[test]
fn a_hold_expires_after_its_ttl_with_drift_and_not_before() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    assert_eq!(clock.next_alarm(), Some(at(10_100)));
    assert_eq!(clock.due(at(10_099)), vec![]);
    assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
    assert_eq!(clock.due(at(99_999)), vec![], "it is proposed once");
}

#[test]
fn renewal_moves_the_deadline_from_receipt_and_never_back() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let key = LeaseKey::Hold(Token(5));
    assert_eq!(clock.renew(at(3_000), key), Renewal::Renewed);
    assert_eq!(clock.next_alarm(), Some(at(13_100)));
    assert_eq!(clock.renew(at(2_000), key), Renewal::Renewed);
    assert_eq!(clock.next_alarm(), Some(at(13_100)));
    assert_eq!(clock.renew(at(0), LeaseKey::Hold(Token(6))), Renewal::Unknown);
}

#[test]
fn while_its_end_is_pending_a_hold_is_not_renewed() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    clock.due(at(10_100));
    assert_eq!(clock.renew(at(10_101), LeaseKey::Hold(Token(5))), Renewal::Pending);
    assert!(clock.is_pending(LeaseKey::Hold(Token(5))));
}

/// Hole 6: another acquisition joined before the Expire was applied.
#[test]
fn an_expire_that_missed_starts_the_lease_anew() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    clock.due(at(10_100));
    let (token, name) = (Token(5), Name::from("a"));
    let joined = Change::Joined { acquisition: acquisition(2), name: name.clone(), token };
    clock.observe(at(10_150), &joined);
    clock.observe(at(10_200), &Change::ExpireMissed { token, name, newest: AcquisitionId(2) });
    assert_eq!(clock.next_alarm(), Some(at(20_300)));
    assert_eq!(clock.due(at(20_300)), vec![expire_hold(5, 2)]);
}

#[test]
fn a_granted_waiter_keeps_its_deadline() {
    let mut clock = clock();
    clock.observe(at(0), &queued(1, Wait::Unbounded));
    clock.renew(at(4_000), LeaseKey::Waiter(acquisition(1)));
    clock.observe(at(9_000), &granted(1, 5, true));
    assert_eq!(clock.next_alarm(), Some(at(14_100)));
    assert_eq!(clock.len(), 1);
}

#[test]
fn a_waiter_granted_while_its_expiry_was_pending_is_due_as_a_hold() {
    let mut clock = clock();
    clock.observe(at(0), &queued(1, Wait::Unbounded));
    assert_eq!(clock.due(at(10_100)).len(), 1);
    clock.observe(at(10_200), &granted(1, 5, true));
    clock.tell(Token(5));
    assert_eq!(clock.due(at(10_200)), vec![expire_hold(5, 1)]);
}

/// Its duplicate acquire came while the expiry was pending, and will be answered behind it.
#[test]
fn a_waiter_heard_of_while_its_expiry_was_pending_holds_for_a_full_lease() {
    let mut clock = clock();
    clock.observe(at(0), &queued(1, Wait::Unbounded));
    assert_eq!(clock.due(at(10_100)).len(), 1);
    assert_eq!(clock.renew(at(10_150), LeaseKey::Waiter(acquisition(1))), Renewal::Pending);
    clock.observe(at(10_200), &granted(1, 5, true));
    assert_eq!(clock.next_alarm(), Some(at(20_250)));
}

#[test]
fn stalls_in_a_row_cannot_put_expiry_off_for_ever() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let mut now = 20_000;
    while clock.due(at(now)).is_empty() {
        assert!(now < 40_000, "expiry never came");
        now += 700;
        clock.credit_stall(at(now), at(600));
    }
}

#[test]
fn a_wait_ends_by_its_own_alarm_and_the_lease_goes_on() {
    let mut clock = clock();
    clock.observe(at(0), &queued(1, Wait::AtMost(3_000)));
    let timeout = Command::WaitTimeout(WaitTimeout {
        acquisition: acquisition(1),
        name: "a".into(),
        proposer_term: 7,
    });
    assert_eq!(clock.due(at(3_000)), vec![timeout]);
    // Hole 18: it was granted before the time-out was applied; nothing is left behind.
    clock.observe(at(3_001), &granted(1, 5, true));
    assert_eq!(clock.next_alarm(), Some(at(10_100)));
    let ended = Change::HoldEnded {
        token: Token(5),
        name: "a".into(),
        acquisitions: vec![acquisition(1)],
        how: Finished::Released,
        reason: String::new(),
    };
    clock.observe(at(3_002), &ended);
    assert!(clock.is_empty());
    assert_eq!(clock.next_alarm(), None);
}

#[test]
fn an_ending_hold_is_waited_out_in_full_and_not_renewed() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let ending = Change::EndingBegan {
        token: Token(5),
        name: "a".into(),
        ttl_ms: TTL_MS,
        acquisitions: vec![acquisition(1)],
        reason: "stuck".into(),
        how: sharklock_locktable::Finished::ForceReleased,
    };
    clock.observe(at(4_000), &ending);
    assert_eq!(clock.renew(at(5_000), LeaseKey::Hold(Token(5))), Renewal::Ending);
    let cause = EndCause::WaitedOut { proposer_term: 7, told: true };
    let end = Command::End(End { name: "a".into(), token: Some(Token(5)), cause });
    assert_eq!(clock.due(at(14_099)), vec![]);
    assert_eq!(clock.due(at(14_100)), vec![end]);
}

#[test]
fn a_new_leader_gives_every_lease_in_full_plus_an_election() {
    let hold = Lease::Hold {
        name: "a".into(),
        token: Token(5),
        ttl_ms: TTL_MS,
        newest: AcquisitionId(1),
        acquisitions: vec![acquisition(1)],
        ending: false,
        agreement: Agreement { ttl_ms: TTL_MS, ..Agreement::default() },
        asked: false,
    };
    let clock = LeaseClock::inheriting(at(1_000), 8, ELECTION_MAX, vec![hold]);
    assert_eq!(clock.next_alarm(), Some(at(13_100)));
}

/// Hole 7: after a stall, renewals that waited behind it are heard first.
#[test]
fn a_stall_is_credited_once_per_ttl_and_pauses_expiry() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let key = LeaseKey::Hold(Token(5));
    clock.credit_stall(at(9_000), at(8_000));
    assert_eq!(clock.remaining(at(9_000), key, TTL_MS), Some(at(9_100)));
    assert_eq!(clock.due(at(11_000)), vec![], "its alarm stands where it did, and it goes on");
    assert_eq!(clock.next_alarm(), Some(at(18_100)));
    clock.credit_stall(at(18_000), at(8_000));
    assert_eq!(
        clock.remaining(at(18_000), key, TTL_MS),
        Some(at(2_100)),
        "only 2 s of credit were left"
    );
    clock.credit_stall(at(22_000), at(600));
    assert_eq!(clock.due(at(22_100)), vec![], "paused for an election time-out");
    assert_eq!(clock.due(at(24_000)), vec![expire_hold(5, 1)]);
}

#[test]
fn a_renewal_has_its_whole_credit_before_it_again() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let key = LeaseKey::Hold(Token(5));
    clock.credit_stall(at(9_000), at(9_000));
    assert_eq!(clock.renew(at(9_000), key), Renewal::Renewed);
    assert_eq!(
        clock.remaining(at(9_000), key, TTL_MS),
        Some(at(10_100)),
        "19.1 s are the later end"
    );
    clock.credit_stall(at(30_000), at(60_000));
    assert_eq!(clock.remaining(at(19_100), key, TTL_MS), Some(at(10_000)), "one ttl, and no more");
}

/// A wait that has an end is not a lease: nobody can prolong it by a word that a stall held up.
#[test]
fn a_stall_is_not_credited_to_the_end_of_a_wait() {
    let mut clock = clock();
    clock.observe(at(0), &queued(1, Wait::AtMost(5_000)));
    clock.credit_stall(at(1_000), at(1_000));
    assert_eq!(clock.next_alarm(), Some(at(5_000)));
}

/// A credit that looked at each lease took more than 500 ms from 2 million leases on, which was the
/// next stall, and so on for ever.
#[test]
fn a_credit_looks_at_no_lease_and_a_turn_at_a_bounded_number() {
    const LEASES: u64 = 3 * ALARMS_PER_TURN_MAX as u64;
    let mut clock = clock();
    for token in 1..=LEASES {
        clock.observe(at(0), &granted(token, token, false));
    }
    for stall in 1..=5 {
        clock.credit_stall(at(stall * 700), at(600));
    }
    assert_eq!(clock.alarms_seen(), 0);
    let (mut now, mut turns) = (at(10_100), 0);
    while clock.next_alarm().is_some_and(|at| at <= now) {
        assert_eq!(clock.due(now), vec![], "3 s were credited to all");
        turns += 1;
        assert!(clock.alarms_seen() <= turns * ALARMS_PER_TURN_MAX as u64);
    }
    assert_eq!(turns, 3);
    now += at(3_000);
    assert_eq!(clock.next_alarm(), Some(now));
    assert_eq!(clock.due(now).len(), 1, "one command ends a thousand");
}

/// The Expire that is proposed for the hold, as far as it says who was told.
fn told_at_expiry(clock: &mut LeaseClock) -> bool {
    let commands = clock.due(at(1_000_000));
    match &commands[..] {
        [Command::Expire(Expire { items, .. })] => match items[..] {
            [ExpireItem::Hold { told, .. }] => told,
            _ => panic!("{items:?}"),
        },
        _ => panic!("{commands:?}"),
    }
}

#[test]
fn a_client_was_told_of_a_grant_by_an_answer_or_a_push() {
    let mut answered = clock();
    answered.observe(at(0), &granted(1, 5, false));
    assert!(told_at_expiry(&mut answered));
    let from_queue = || {
        let mut clock = clock();
        clock.observe(at(0), &queued(1, Wait::Unbounded));
        clock.observe(at(1), &granted(1, 5, true));
        clock
    };
    assert!(!told_at_expiry(&mut from_queue()), "nobody listened, nobody asked");
    let mut pushed = from_queue();
    pushed.tell(Token(5));
    assert!(told_at_expiry(&mut pushed));
    let mut renewed = from_queue();
    renewed.renew(at(2), LeaseKey::Hold(Token(5)));
    assert!(told_at_expiry(&mut renewed));
}

#[test]
fn an_orphan_has_no_lease() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
    let acquisitions = vec![acquisition(1)];
    let orphaned = Change::Orphaned { token: Token(5), name: "a".into(), acquisitions };
    clock.observe(at(10_101), &orphaned);
    assert!(clock.is_empty());
    assert_eq!(clock.next_alarm(), None);
    assert_eq!(clock.renew(at(10_102), LeaseKey::Hold(Token(5))), Renewal::Unknown);
}

/// Even if an Expire of the token before is on its way, which does nothing.
#[test]
fn a_downgraded_hold_has_a_full_lease_under_its_new_token() {
    let downgraded = Change::Downgraded {
        before: Token(5),
        name: "a".into(),
        grant: Grant { token: Token(6), fence_floor: Token(6), ttl_ms: TTL_MS },
        acquisitions: vec![acquisition(1)],
    };
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
    clock.observe(at(10_200), &downgraded);
    assert!(!clock.is_pending(LeaseKey::Hold(Token(6))));
    assert_eq!(clock.due(at(20_299)), vec![]);
    assert_eq!(clock.due(at(20_300)), vec![expire_hold(6, 1)]);
}

#[test]
fn a_longer_lease_counts_from_when_it_was_agreed() {
    let mut clock = clock();
    clock.observe(at(0), &granted(1, 5, false));
    let agreement = Agreement { ttl_ms: 2 * TTL_MS, revision: 1, ..Agreement::default() };
    let name = Name::from("a");
    let set = Change::ConditionSet { token: Token(5), name, agreement, asked: false };
    clock.observe(at(1_000), &set);
    assert_eq!(clock.next_alarm(), Some(at(21_200)));
    assert_eq!(clock.ttl(LeaseKey::Hold(Token(5))), Some(at(2 * TTL_MS)));
}

#[test]
fn the_times_of_conditions_end_with_their_hold() {
    let condition = Condition { max_hold_ms: Some(5_000), ..Condition::default() };
    let grant = Grant { token: Token(5), fence_floor: Token(5), ttl_ms: TTL_MS };
    let granted = Change::Granted {
        acquisition: acquisition(1),
        name: "a".into(),
        grant,
        from_queue: false,
        condition: Some(Box::new(condition)),
    };
    let mut clock = clock();
    clock.observe(at(0), &granted);
    assert_eq!(clock.next_alarm(), Some(at(5_050)));
    let ended = Change::HoldEnded {
        token: Token(5),
        name: "a".into(),
        acquisitions: vec![acquisition(1)],
        how: Finished::Released,
        reason: String::new(),
    };
    clock.observe(at(1), &ended);
    assert_eq!(clock.next_alarm(), None);
}

#[test]
fn it_knows_since_when_what_it_has_seen_begin() {
    let mut clock = clock();
    let (waiter, hold) = (LeaseKey::Waiter(acquisition(1)), |token| LeaseKey::Hold(Token(token)));
    clock.observe(at(1_000), &queued(1, Wait::Unbounded));
    assert_eq!(clock.since(waiter), Some(at(1_000)));
    clock.observe(at(4_000), &granted(1, 5, true));
    assert_eq!(clock.since(waiter), None, "it waits no more");
    assert_eq!(clock.since(hold(5)), Some(at(4_000)));
    clock.renew(at(6_000), hold(5));
    assert_eq!(clock.since(hold(5)), Some(at(4_000)), "a renewal is no beginning");
    let grant = Grant { token: Token(6), fence_floor: Token(6), ttl_ms: TTL_MS };
    let acquisitions = vec![acquisition(1)];
    clock.observe(
        at(7_000),
        &Change::Downgraded { before: Token(5), name: "a".into(), grant, acquisitions },
    );
    assert_eq!(clock.since(hold(6)), Some(at(4_000)), "it goes on under another token");
}
