use super::*;
use crate::{
    Acquire, Acquisition, AcquisitionId, At, Command, Instance, Mode, Reply, Revoke, Wait,
};

const AT: At = At { index: 1, term: 1, stamped_unix_ms: 1 };

fn handle(first: u8) -> SessionHandle {
    let mut handle = [0xab; 16];
    handle[0] = first;
    SessionHandle(handle)
}

fn acquire(table: &mut LockTable, session: u8, id: u64, name: &str) {
    let acquisition =
        Acquisition { session: handle(session), instance: Instance(1), id: AcquisitionId(id) };
    let acquire = Acquire {
        acquisition,
        name: name.into(),
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner { id: format!("job {session}"), ..Owner::default() },
        condition: None,
        asked_ms: u64::MAX,
    };
    table.apply(AT, Command::Acquire(Box::new(acquire)));
}

fn asked(after: Option<u8>, prefix: &str, owner: &str, sessions_max: usize) -> SessionsAsked {
    let (prefix, owner) = (prefix.to_owned(), owner.to_owned());
    SessionsAsked { after: after.map(handle), prefix, owner, sessions_max }
}

fn found(table: &LockTable, asked: &SessionsAsked) -> (Vec<u8>, Option<u8>) {
    let (views, next) = table.sessions(asked);
    let firsts = views.iter().map(|view| view.session.0[0]).collect();
    (firsts, next.map(|next| next.0[0]))
}

#[test]
fn sessions_are_found_by_the_digits_with_which_they_begin_and_by_their_owner() {
    let mut table = LockTable::new();
    for (id, session) in (1..).zip([0x10, 0x1f, 0x20, 0xff]) {
        acquire(&mut table, session, id, &format!("name {id}"));
    }
    let all = vec![0x10, 0x1f, 0x20, 0xff];
    assert_eq!(found(&table, &asked(None, "", "", 9)), (all, None));
    assert_eq!(found(&table, &asked(None, "1", "", 9)), (vec![0x10, 0x1f], None));
    assert_eq!(found(&table, &asked(None, "1fab", "", 9)), (vec![0x1f], None));
    assert_eq!(found(&table, &asked(None, "ffac", "", 9)), (vec![], None));
    assert_eq!(found(&table, &asked(Some(0x10), "1", "", 9)), (vec![0x1f], None));
    assert_eq!(found(&table, &asked(Some(0x20), "1", "", 9)), (vec![], None));
    assert_eq!(found(&table, &asked(Some(0x01), "f", "", 9)), (vec![0xff], None));
    assert_eq!(found(&table, &asked(Some(0xff), "f", "", 9)), (vec![], None));
    assert_eq!(found(&table, &asked(None, "x", "", 9)), (vec![], None));
    assert_eq!(found(&table, &asked(None, &"0".repeat(40), "", 9)), (vec![], None));
    assert_eq!(found(&table, &asked(None, "", "b 31", 9)), (vec![0x1f], None));
    let whole = handle(0x20).to_string();
    assert_eq!(found(&table, &asked(None, &whole, "", 9)), (vec![0x20], None));
}

#[test]
fn a_list_goes_on_behind_the_last_session_that_was_looked_at() {
    let mut table = LockTable::new();
    for (id, session) in (1..).zip([0x10, 0x1f, 0x20, 0xff]) {
        acquire(&mut table, session, id, &format!("name {id}"));
    }
    assert_eq!(found(&table, &asked(None, "", "", 2)), (vec![0x10, 0x1f], Some(0x1f)));
    assert_eq!(found(&table, &asked(Some(0x1f), "", "", 2)), (vec![0x20, 0xff], None));
    // Whoever is not in the list was looked at too.
    assert_eq!(found(&table, &asked(None, "", "job 16", 1)), (vec![0x10], Some(0x10)));
    assert_eq!(found(&table, &asked(Some(0x10), "", "job 16", 1)), (vec![], None));
}

#[test]
fn a_list_ends_before_it_has_counted_too_much() {
    let mut table = LockTable::new();
    for id in 1..=COUNTED_MAX as u64 {
        acquire(&mut table, 1, id, &format!("name {id}"));
    }
    acquire(&mut table, 2, 1, "other");
    assert_eq!(found(&table, &asked(None, "", "", 9)), (vec![1], Some(1)));
    assert_eq!(found(&table, &asked(Some(1), "", "", 9)), (vec![2], None));
}

#[test]
fn what_is_revoked_ends_and_what_waited_has_left() {
    let mut table = LockTable::new();
    acquire(&mut table, 1, 1, "a");
    acquire(&mut table, 2, 1, "b");
    acquire(&mut table, 1, 2, "b");
    let revoke = |session| {
        let (reason, operator) = ("why".to_owned(), "op".to_owned());
        Command::Revoke(Revoke { session: handle(session), reason, operator })
    };
    let reply = table.apply(AT, revoke(1)).reply;
    let Reply::Revoked { holds, waiters: 1 } = reply else { panic!("{reply:?}") };
    assert_eq!(holds.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
    let locks = table.session_locks(handle(1), "", 9, 9);
    assert_eq!(locks.len(), 1, "{locks:?}");
    assert_eq!(locks[0].holds[0].ending.as_deref(), Some("why"));
    assert_eq!(table.sessions(&asked(None, "01", "", 9)).0[0].ending, 1);
    assert!(!table.has_session(handle(3)));
    let reply = table.apply(AT, revoke(3)).reply;
    assert_eq!(reply, Reply::Revoked { holds: vec![], waiters: 0 });
}
