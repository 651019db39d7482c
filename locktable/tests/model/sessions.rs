//! What the table says about sessions, beside what its holds and waiters are in the model.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_locktable::{HoldView, LockTable, Name, SessionHandle, SessionsAsked};

use crate::naive::Naive;

/// Holds, ending ones, orphans and waiters.
type Sums = (u32, u32, u32, u32);

fn sums(model: &Naive) -> BTreeMap<SessionHandle, Sums> {
    let mut all = BTreeMap::<_, Sums>::new();
    for hold in &model.held {
        let sums = all.entry(hold.owner_life.session).or_default();
        sums.0 += 1;
        sums.1 += u32::from(hold.notice.is_some());
        sums.2 += u32::from(hold.orphan);
        sums.3 += u32::from(hold.heir().is_some());
    }
    for waiter in &model.waiting {
        all.entry(waiter.acquisition.session).or_default().3 += 1;
    }
    all
}

/// The list of sessions, in pages of two, is that of the model; and of each all is there that it has.
pub fn check(table: &LockTable, model: &Naive) {
    let (mut seen, mut after) = (BTreeMap::new(), None);
    loop {
        let asked = SessionsAsked { after, sessions_max: 2, ..SessionsAsked::default() };
        let (views, next) = table.sessions(&asked);
        for view in views {
            let sums = (view.holds, view.ending, view.orphans, view.waiters);
            assert!(after < Some(view.session), "in order, and each once");
            assert_eq!(seen.insert(view.session, sums), None);
        }
        let Some(last) = next else { break };
        after = Some(last);
    }
    assert_eq!(seen, sums(model));
    seen.keys().for_each(|session| check_one(table, model, *session));
}

fn check_one(table: &LockTable, model: &Naive, session: SessionHandle) {
    let mut held = BTreeMap::<Name, Vec<HoldView>>::new();
    let (mut waiting, mut names) = (BTreeSet::new(), BTreeSet::new());
    for hold in model.held.iter().filter(|hold| hold.owner_life.session == session) {
        held.entry(hold.name.clone()).or_default().push(hold.view());
        waiting.extend(hold.heir().map(|heir| (hold.name.clone(), heir, true)));
        names.insert(hold.name.clone());
    }
    for waiter in model.waiting.iter().filter(|waiter| waiter.acquisition.session == session) {
        waiting.insert((waiter.name.clone(), waiter.acquisition, false));
        names.insert(waiter.name.clone());
    }
    let locks = table.session_locks(session, "", usize::MAX, usize::MAX);
    assert!(table.has_session(session));
    assert!(locks.iter().map(|lock| &lock.name).eq(names.iter()), "{locks:?}");
    for lock in &locks {
        assert_eq!(lock.holds, held.remove(&lock.name).unwrap_or_default());
        assert_eq!(lock.holds_count, lock.holds.len());
        assert_eq!(lock.waits_count, lock.waits.len());
        for wait in &lock.waits {
            let is_heir = wait.reclaims.is_some();
            assert!(
                waiting.remove(&(lock.name.clone(), wait.waiter.acquisition, is_heir)),
                "{wait:?}"
            );
        }
    }
    assert!(held.is_empty() && waiting.is_empty(), "{held:?} {waiting:?}");
    let from = locks[locks.len() - 1].name.as_str();
    assert_eq!(table.session_locks(session, from, 1, usize::MAX), locks[locks.len() - 1..]);
}
