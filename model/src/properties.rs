//! The properties that must always hold, and the states that must be reachable for a scenario to
//! mean anything.

use stateright::Property;

use crate::{
    bounds::Bounds,
    client::token_of,
    model::{REVOKED, SharkLock},
    state::{ClientIndex, EndingCause, Fault, Hold, Id, NameIndex, Phase, Range, State, Token},
    table::ids,
};

/// Two clients believe to hold one name.
pub const ONE_BELIEVER: &str = "one believer per name";
/// A belief without a hold behind it.
pub const BELIEVED_IS_HELD: &str = "no hold ends before the time its client was told";
/// See [`Fault::Reopened`].
pub const FINISHED_STAYS: &str = "a finished acquisition never holds again";
/// See [`Fault::FreshReentry`].
pub const REENTRY_JOINS: &str = "a re-entry joins the hold that it names or none";
/// See [`Fault::TokenNotNew`].
pub const TOKENS_GROW: &str = "tokens grow";
/// See [`Fault::FalseGone`].
pub const GONE_IS_GONE: &str = "what a client takes for gone is gone";
/// See [`Fault::UnheardRenewal`].
pub const RENEWALS_HEARD: &str = "a renewal that has arrived counts";
/// See [`Fault::EndingEvaded`].
pub const ENDING_ENDS: &str = "what an operator takes away is free";
/// See [`Fault::ClaimedFreed`].
pub const CLAIMED_STAYS: &str = "what is claimed is freed by its session or an operator only";
/// See [`Fault::UnseenStays`].
pub const SEEN_STAYS: &str = "only what its client has seen stays";
/// See [`Fault::OlderLifeTook`].
pub const OLDER_LIFE_OUT: &str = "an older instance takes nothing from a newer one";
/// See [`Fault::RevocationEvaded`].
pub const REVOKED_LEAVES: &str = "behind a revocation a session has nothing that is not ending";
/// See [`Fault::EndedUnagreed`].
pub const ENDED_AS_AGREED: &str = "a time ends only what is still agreed to end by it";
/// See [`Fault::EndedForNobody`].
pub const ASKED_BY_SOMEBODY: &str = "a grace ends a hold for somebody who waits";
/// Nobody names a hold, and still it lives.
pub const UNNAMED_ENDS: &str = "what nobody names ends in time";
/// Something is open that nobody has, and nothing is under way to end it.
pub const QUIET_IS_CLEAN: &str = "when all is quiet nothing is open that nobody has";
/// The condition is not the one that its client knows.
pub const CONDITION_KNOWN: &str = "a condition set back stays set back";

/// The properties that must always hold.
pub const ALWAYS: [&str; 17] = [
    ONE_BELIEVER,
    BELIEVED_IS_HELD,
    FINISHED_STAYS,
    REENTRY_JOINS,
    TOKENS_GROW,
    GONE_IS_GONE,
    RENEWALS_HEARD,
    ENDING_ENDS,
    CLAIMED_STAYS,
    SEEN_STAYS,
    OLDER_LIFE_OUT,
    REVOKED_LEAVES,
    ENDED_AS_AGREED,
    ASKED_BY_SOMEBODY,
    UNNAMED_ENDS,
    QUIET_IS_CLEAN,
    CONDITION_KNOWN,
];

/// Somebody who did not hold when the story began believes to hold.
pub const NEW_HOLDER: &str = "a new holder";
/// A lease has run out and its hold has ended in the log.
pub const HOLD_ENDED: &str = "a hold has ended";
/// A leader was superseded.
pub const FAILED_OVER: &str = "a leader was superseded";
/// A split was applied by all.
pub const SPLIT_APPLIED: &str = "a split was applied";
/// A belief that is as old as can be: one tick is left of it.
pub const LAST_TICK: &str = "a belief in its last tick";
/// A hold has two ids.
pub const JOINED: &str = "two ids on one hold";
/// Something was forgotten, and a client that asked again has what it wants.
pub const SERVED_ANEW: &str = "a new holder after something was forgotten";
/// An operator's wish is being waited out.
pub const ENDING: &str = "a hold is ending";
/// Of a session that was revoked somebody holds again: it is no ban.
pub const BACK_AFTER_REVOCATION: &str = "a new holder of a session after its revocation";
/// A hold is ending for what its condition says.
pub const ENDING_BY_CLAUSE: &str = "a hold is ending by its condition";
/// Somebody counts on a lease that is longer than it was at first.
pub const LONGER: &str = "a longer lease is counted on";
/// A hold is orphaned.
pub const ORPHANED: &str = "a hold is orphaned";

pub(crate) fn all() -> Vec<Property<SharkLock>> {
    let mut all = always();
    all.extend(sometimes());
    all
}

fn always() -> Vec<Property<SharkLock>> {
    fn has(state: &State, fault: Fault) -> bool {
        state.faults & (1 << fault as u8) != 0
    }
    vec![
        Property::always(ONE_BELIEVER, one_believer),
        Property::always(BELIEVED_IS_HELD, believed_is_held),
        Property::always(FINISHED_STAYS, |_, state| !has(state, Fault::Reopened)),
        Property::always(REENTRY_JOINS, |_, state| !has(state, Fault::FreshReentry)),
        Property::always(TOKENS_GROW, |_, state| !has(state, Fault::TokenNotNew)),
        Property::always(GONE_IS_GONE, |model, state| {
            // A ghost is born after its client was told, rightly, that there was nothing; and who asks
            // again without having heard of an end may hear of that when it has what it asked for.
            let Bounds { ghosts, forgettings, .. } = model.bounds;
            ghosts || forgettings > 0 || !has(state, Fault::FalseGone)
        }),
        Property::always(RENEWALS_HEARD, |_, state| !has(state, Fault::UnheardRenewal)),
        Property::always(ENDING_ENDS, |_, state| !has(state, Fault::EndingEvaded)),
        Property::always(CLAIMED_STAYS, |_, state| !has(state, Fault::ClaimedFreed)),
        Property::always(SEEN_STAYS, |_, state| !has(state, Fault::UnseenStays)),
        Property::always(OLDER_LIFE_OUT, |_, state| !has(state, Fault::OlderLifeTook)),
        Property::always(REVOKED_LEAVES, |_, state| !has(state, Fault::RevocationEvaded)),
        Property::always(ENDED_AS_AGREED, |_, state| !has(state, Fault::EndedUnagreed)),
        Property::always(ASKED_BY_SOMEBODY, |_, state| !has(state, Fault::EndedForNobody)),
        Property::always(UNNAMED_ENDS, unnamed_ends),
        Property::always(QUIET_IS_CLEAN, quiet_is_clean),
        Property::always(CONDITION_KNOWN, condition_known),
    ]
}

fn sometimes() -> Vec<Property<SharkLock>> {
    vec![
        Property::sometimes(NEW_HOLDER, |model, state| {
            let asked = |client, id| !model.bounds.plan(client, id).held;
            beliefs(model, state).any(|belief| asked(belief.client, belief.id))
        }),
        Property::sometimes(SERVED_ANEW, |model, state: &State| {
            let asked = |client, id| !model.bounds.plan(client, id).held;
            let after = state.forgettings > 0;
            after && beliefs(model, state).any(|belief| asked(belief.client, belief.id))
        }),
        Property::sometimes(HOLD_ENDED, |_, state: &State| {
            state.ended.iter().any(|ended| *ended != 0)
        }),
        Property::sometimes(FAILED_OVER, |_, state: &State| state.stale.is_some()),
        Property::sometimes(SPLIT_APPLIED, |_, state: &State| {
            state.ranges.len() > 1 && state.lagging.is_none()
        }),
        Property::sometimes(LAST_TICK, |model, state| {
            beliefs(model, state).any(|belief| belief.left == 1)
        }),
        Property::sometimes(JOINED, |_, state: &State| {
            let holds = state.locks.iter().filter_map(|lock| lock.hold.as_ref());
            holds.into_iter().any(|hold| hold.open.count_ones() > 1)
        }),
        Property::sometimes(ENDING, |_, state: &State| {
            state.locks.iter().any(|lock| lock.hold.as_ref().is_some_and(Hold::is_ending))
        }),
        Property::sometimes(BACK_AFTER_REVOCATION, |model, state: &State| {
            let is_back = |belief: &Belief| {
                let plan = &model.bounds.clients[usize::from(belief.client)];
                let hold = state.locks[usize::from(belief.name)].hold.as_ref();
                plan.session == REVOKED && hold.is_some_and(|hold| !hold.is_ending())
            };
            state.revoked > 0 && beliefs(model, state).any(|belief| is_back(&belief))
        }),
        Property::sometimes(ENDING_BY_CLAUSE, |_, state: &State| {
            let holds = state.locks.iter().filter_map(|lock| lock.hold.as_ref());
            holds.into_iter().any(|hold| hold.ending == Some(EndingCause::Clause))
        }),
        Property::sometimes(LONGER, |model, state| {
            beliefs(model, state).any(|belief| belief.left > model.bounds.ttl)
        }),
        Property::sometimes(ORPHANED, |_, state: &State| {
            state.locks.iter().any(|lock| lock.hold.as_ref().is_some_and(|hold| hold.orphan))
        }),
    ]
}

/// A client that believes to hold.
struct Belief {
    client: ClientIndex,
    id: Id,
    name: NameIndex,
    token: Token,
    left: u8,
}

/// Every belief: a guard is out, and its client's clock says that its lease runs. A moment before,
/// time has passed for all.
fn beliefs<'a>(model: &'a SharkLock, state: &'a State) -> impl Iterator<Item = Belief> + 'a {
    let clients = model.bounds.clients.iter().enumerate();
    clients.flat_map(move |(client, plan)| {
        plan.plans.iter().enumerate().filter_map(move |(id, plan)| {
            let acquisition = state.clients[client].acquisitions[id];
            let Phase::Held(token) = acquisition.phase else { return None };
            let (client, id) = (client as ClientIndex, id as Id);
            Some(Belief { client, id, name: plan.name, token, left: acquisition.left })
        })
    })
}

fn one_believer(model: &SharkLock, state: &State) -> bool {
    beliefs(model, state).all(|one| {
        beliefs(model, state).all(|other| {
            one.name != other.name || (one.client, one.token) == (other.client, other.token)
        })
    })
}

fn believed_is_held(model: &SharkLock, state: &State) -> bool {
    beliefs(model, state).all(|belief| {
        let lock = &state.locks[usize::from(belief.name)];
        lock.hold.as_ref().is_some_and(|hold| {
            let owner = model.key(belief.client);
            hold.token == belief.token && hold.has(owner, belief.id) && !hold.orphan
        })
    })
}

fn unnamed_ends(model: &SharkLock, state: &State) -> bool {
    let unnamed_max = model.unnamed_max(state);
    let holds = state.locks.iter().filter_map(|lock| lock.hold.as_ref());
    let mut leased = holds.filter(|hold| !hold.orphan);
    !model.bounds.prompt || leased.all(|hold| hold.unnamed <= unnamed_max)
}

fn quiet_is_clean(model: &SharkLock, state: &State) -> bool {
    let busy = |range: &Range| {
        !range.log.is_empty() || !range.reads.is_empty() || !range.decided.is_empty()
    };
    let is_quiet =
        state.net.is_empty() && state.mailbox.is_empty() && !state.ranges.iter().any(busy);
    if !model.bounds.lossless || !is_quiet {
        return true;
    }
    let is_had = |client: ClientIndex, id: Id| {
        let client = &state.clients[usize::from(client)];
        let phase = client.acquisitions[usize::from(id)].phase;
        client.crashed || !matches!(phase, Phase::Idle | Phase::Closed)
    };
    state.locks.iter().all(|lock| {
        let held = lock.hold.as_ref();
        held.is_none_or(|hold| ids(hold.open).all(|id| is_had(hold.owner, id)))
            && lock.queue.iter().all(|waiter| is_had(waiter.client, waiter.id))
    })
}

fn condition_known(model: &SharkLock, state: &State) -> bool {
    let clients = model.bounds.clients.iter().enumerate();
    clients.flat_map(|(client, plan)| (0..plan.plans.len()).map(move |id| (client, id))).all(
        |(client, id)| {
            let acquisition = &state.clients[client].acquisitions[id];
            let name = model.bounds.name(client as ClientIndex, id as Id);
            let hold = state.locks[usize::from(name)].hold.as_ref();
            let its_hold = hold.filter(|hold| Some(hold.token) == token_of(acquisition.phase));
            !acquisition.default_known || its_hold.is_none_or(|hold| !hold.claimed && !hold.orphan)
        },
    )
}
