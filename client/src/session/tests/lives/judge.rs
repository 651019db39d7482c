//! What must hold of sessions, whatever happens to them.

use std::{collections::BTreeMap, time::Duration};

use sharklock_proto::v1::{self, session_call::Body as Call};

use super::{
    Guard, Life,
    cluster::{Cluster, Hold, LifeId},
};
use crate::{
    error::{ChangeError, LostReason},
    events::{GuardEvent, GuardEventKind},
    grant::Grant,
    ids::AcquisitionId,
    request::LockMode,
    session::{Change, Changed},
};

/// The news of one guard so far.
#[derive(Default)]
pub struct Seen {
    is_safe: bool,
    is_lost: bool,
    is_over: bool,
}

pub struct Judge {
    seed: u64,
}

impl Judge {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A guard that is out, and is believed: its client's clock says that its lease runs.
    fn believed(now: Duration, life: &Life) -> impl Iterator<Item = (AcquisitionId, &Guard)> {
        life.guards.values().filter_map(move |guard| {
            let is_believed = guard.cell.lost().is_none() && guard.cell.valid_until() > now;
            is_believed.then_some((guard.grant.as_ref()?.id, guard))
        })
    }

    /// Nobody believes beside somebody who believes to be alone, and no belief is without a hold, or
    /// longer than the hold surely lasts.
    pub fn believers(&self, now: Duration, lives: &[Life], cluster: &Cluster) {
        let seed = self.seed;
        let mut believers: BTreeMap<&str, Vec<(LifeId, u64, bool)>> = BTreeMap::new();
        for life in lives {
            for (id, guard) in Self::believed(now, life) {
                let (name, token) = (&guard.name, guard.token);
                believers.entry(name).or_default().push((life.id, token, guard.alone));
                let hold = hold_of(cluster, life.id, id, guard);
                let hold = hold.unwrap_or_else(|| {
                    panic!("seed {seed}, {now:?}: {:?} believes in {name}, token {token}", life.id)
                });
                let until = guard.cell.valid_until();
                assert!(
                    !hold.orphan && until <= hold.until,
                    "seed {seed}, {now:?}: {:?} believes in {name} until {until:?}, not {:?}",
                    life.id,
                    hold.until
                );
            }
        }
        for (name, believers) in believers {
            let is_alone = believers.iter().any(|(.., alone)| *alone);
            let of_one =
                believers.iter().all(|it| (it.0, it.1) == (believers[0].0, believers[0].1));
            assert!(!is_alone || of_one, "seed {seed}, {now:?}: {name} is held by {believers:?}");
        }
    }

    /// Nothing is let go while its guard is believed.
    pub fn calls(&self, now: Duration, life: &Life, calls: &[v1::SessionCall]) {
        let seed = self.seed;
        for call in calls {
            let (id, name) = match &call.body {
                Some(Call::Release(release)) => (release.acquisition_id, &release.name),
                Some(Call::Cancel(cancel)) => (cancel.acquisition_id, &cancel.name),
                _ => continue,
            };
            let believed = Self::believed(now, life).any(|(guard, _)| guard.0 == id);
            assert!(!believed, "seed {seed}, {now:?}: {:?} lets {name}:{id} go: {call:?}", life.id);
        }
    }

    /// A guard is handed out: for a hold that is what was asked for.
    pub fn granted(
        &self,
        now: Duration,
        life: LifeId,
        guard: &Guard,
        grant: &Grant,
        cluster: &Cluster,
    ) {
        let at = format!("seed {}, {now:?}, {life:?}, {}", self.seed, guard.name);
        assert!(grant.valid_until > now, "{at}: handed out when its lease was over");
        let old = guard.request.reclaim.map_or(0, |token| token.as_u64());
        assert!(grant.token.as_u64() > old, "{at}: no new token for {old}");
        if let Some(outer) = guard.request.reenter {
            assert_eq!(grant.token, outer, "{at}: a re-entry has another token");
        }
        let condition = guard.request.condition;
        let agreed = grant.agreement;
        if guard.request.reenter.is_none() && guard.request.reclaim.is_none() {
            assert_eq!(agreed.condition, condition, "{at}: another condition than asked for");
        }
        assert!(!agreed.condition.holds() || agreed.claimed, "{at}: not claimed: {agreed:?}");
        let hold = cluster.locks[&guard.name].holds.iter().find(|hold| {
            hold.token == grant.token.as_u64() || hold.before == Some(grant.token.as_u64())
        });
        // The news may be old; what it says of a hold that is as it was then is true.
        if let Some(hold) = hold.filter(|hold| hold.agreement.revision == agreed.revision) {
            assert!(!agreed.claimed || hold.agreement.claimed, "{at}: it does not stay");
            let shared = guard.request.mode == LockMode::Shared;
            assert!(hold.shared || !shared, "{at}: held alone, and shared by its guard");
        }
    }

    /// Changes are what was wanted.
    pub fn changed(
        &self,
        now: Duration,
        life: LifeId,
        guard: &Guard,
        wanted: &Change,
        result: &Result<Changed, ChangeError>,
        cluster: &Cluster,
    ) {
        let at = format!("seed {}, {now:?}, {life:?}, {}", self.seed, guard.name);
        let id = guard.grant.as_ref().expect("it is out").id;
        let hold = hold_of(cluster, life, id, guard);
        match (wanted, result) {
            (Change::SetCondition { condition, ttl }, Ok(Changed::Agreed(agreed))) => {
                assert_eq!((&agreed.condition, &agreed.ttl), (condition, ttl), "{at}");
                assert!(!condition.holds() || agreed.claimed, "{at}: it does not stay");
                if let Some(hold) = hold.filter(|it| it.agreement.revision == agreed.revision) {
                    assert_eq!(hold.agreement.claimed, agreed.claimed, "{at}");
                    assert_eq!(hold.agreement.ttl_ms, ttl.as_millis() as u64, "{at}");
                }
            }
            (Change::Downgrade, Ok(Changed::Downgraded { token, .. })) => {
                assert!(token.as_u64() > guard.token, "{at}: no new token");
                assert!(hold.is_none_or(|hold| hold.shared), "{at}: not shared");
            }
            (Change::SetAttributes { .. }, Ok(Changed::AttributesSet)) => {}
            (_, Ok(other)) => panic!("{at}: {wanted:?} is answered by {other:?}"),
            (_, Err(ChangeError::Lost(_))) => {
                assert!(guard.cell.lost().is_some(), "{at}: lost for its change, and not for it");
            }
            (_, Err(_)) => {}
        }
    }

    /// News come in order: safe first; lost once, for the right reason; nothing behind the end.
    pub fn event(
        &self,
        now: Duration,
        life: LifeId,
        guard: &mut Guard,
        event: &GuardEvent,
        is_closing: bool,
        cluster: &Cluster,
    ) {
        let at = format!("seed {}, {now:?}, {life:?}, {}: {:?}", self.seed, guard.name, event.kind);
        let seen = &mut guard.seen;
        assert!(!seen.is_over, "{at} behind the end");
        assert!(seen.is_safe || event.kind == GuardEventKind::Safe, "{at} before the guard");
        match &event.kind {
            GuardEventKind::Safe => seen.is_safe = true,
            GuardEventKind::Jeopardy | GuardEventKind::Asked(_) => {}
            GuardEventKind::Released | GuardEventKind::ReleaseUnconfirmed => seen.is_over = true,
            GuardEventKind::Lost(_) => {}
        }
        let lives_on = matches!(
            event.kind,
            GuardEventKind::Safe | GuardEventKind::Jeopardy | GuardEventKind::Asked(_)
        );
        assert!(!(lives_on && seen.is_lost), "{at} behind the loss");
        let GuardEventKind::Lost(reason) = &event.kind else { return };
        assert!(!seen.is_lost, "{at}: lost twice");
        seen.is_lost = true;
        let who = (life, event.hold.acquisition.0);
        let said = cluster.said.get(&who).map(Vec::as_slice).unwrap_or_default();
        let is_right = match reason {
            LostReason::Unrenewed => guard.cell.valid_until() <= now,
            LostReason::Closed => is_closing,
            // So a late copy of an acquire is answered, whatever ends the hold (`conditions.md`).
            LostReason::ForceReleased { reason } if reason.is_empty() => !said.is_empty(),
            // A change by the token from before a downgrade whose answer was lost, and which is refused
            // now since the hold is ending.
            LostReason::Unknown => !said.is_empty(),
            reason => said.contains(&reason_of(reason)),
        };
        assert!(is_right, "{at}, but {said:?}");
    }

    /// At the end of a life that has been let finish: every wish was answered.
    pub fn left(&self, life: &Life) {
        let at = format!("seed {}, {:?}", self.seed, life.id);
        let names = |guards: &BTreeMap<u64, Guard>| -> Vec<String> {
            guards.values().map(|guard| guard.name.clone()).collect()
        };
        assert_eq!(life.driver.acquisitions_count(), 0, "{at}: {:?}", life.driver.core);
        assert!(life.asking.is_empty(), "{at}: never decided: {:?}", names(&life.asking));
        assert!(life.guards.is_empty(), "{at}: never given back: {:?}", names(&life.guards));
        assert!(life.releases.is_empty(), "{at}: never released: {:?}", life.releases);
        assert!(life.changes.is_empty(), "{at}: never changed: {:?}", life.changes);
    }

    /// At the end of everything.
    pub fn nothing_is_left(&self, cluster: &Cluster) {
        let seed = self.seed;
        for (name, lock) in &cluster.locks {
            let left = lock.holds.first().map(|hold| (hold.life, &hold.open, hold.orphan));
            assert_eq!(left, None, "seed {seed}: {name} is held: life, acquisitions, orphan");
            assert!(lock.waiters.is_empty(), "seed {seed}: {name} is waited for");
        }
    }
}

/// The hold of a guard, also where its client has not heard of a downgrade.
fn hold_of<'a>(
    cluster: &'a Cluster,
    life: LifeId,
    id: AcquisitionId,
    guard: &Guard,
) -> Option<&'a Hold> {
    let holds = &cluster.locks.get(&guard.name)?.holds;
    holds.iter().find(|hold| {
        let is_its = hold.token == guard.token || hold.before == Some(guard.token);
        is_its && hold.life == life && hold.open.contains(&id.0)
    })
}

fn reason_of(reason: &LostReason) -> v1::GoneReason {
    match reason {
        LostReason::Expired => v1::GoneReason::Expired,
        LostReason::ForceReleased { .. } => v1::GoneReason::ForceReleased,
        LostReason::Orphaned => v1::GoneReason::Orphaned,
        LostReason::Reclaimed => v1::GoneReason::Reclaimed,
        LostReason::HeldTooLong => v1::GoneReason::HeldTooLong,
        LostReason::AskedFor => v1::GoneReason::AskedFor,
        LostReason::Released => v1::GoneReason::Released,
        LostReason::Cancelled => v1::GoneReason::Cancelled,
        _ => v1::GoneReason::Unknown,
    }
}
