//! Outcomes and views as lines of text. Replies stand bare, changes behind a plus.

use std::fmt::Write;

use sharklock_locktable::{
    Acquisition, AcquisitionId, Agreement, AskView, AskedBy, Change, Condition, Counts, DelayView,
    EndedLife, EndedRow, Grant, Header, HoldView, Lease, LeaseRule, LockTable, LockView, Mode,
    Outcome, Owner, Reply, Row, RowKey, Status, Wait, WaiterView,
};

use crate::machine::{spell, spell_session};

macro_rules! line {
    ($output:expr, $($format:tt)*) => {
        writeln!($output, $($format)*).expect("a string takes all")
    };
}

pub fn outcome(outcome: &Outcome) -> String {
    let mut output = String::new();
    match &outcome.reply {
        Reply::Granted(grant) => line!(output, "granted {}", spell_grant(grant)),
        Reply::Queued { place, ttl_ms } => line!(output, "queued place={place} ttl={ttl_ms}"),
        Reply::Finished(how) => line!(output, "finished {how:?}"),
        Reply::Refused(why) => line!(output, "refused {why:?}"),
        Reply::StillHeld { open } => line!(output, "still held, {open} open"),
        Reply::Released => line!(output, "released"),
        Reply::Cancelled => line!(output, "cancelled"),
        Reply::Holds(views) if views.is_empty() => line!(output, "no holds"),
        Reply::Holds(views) => views.iter().for_each(|view| hold(&mut output, view)),
        Reply::Revoked { holds, waiters } => {
            line!(output, "revoked, {waiters} have waited");
            for (name, view) in holds {
                write!(output, "{name}: ").expect("a string takes all");
                hold(&mut output, view);
            }
        }
        Reply::Agreed(agreed) => line!(output, "agreed{}", spell_agreement(agreed)),
        Reply::AttributesSet { is_newest: true } => line!(output, "attributes set"),
        Reply::AttributesSet { is_newest: false } => line!(output, "attributes are older"),
        Reply::Done => line!(output, "done"),
        Reply::Indeterminate => line!(output, "indeterminate"),
    }
    outcome.changes.iter().for_each(|change| self::change(&mut output, change));
    output
}

fn change(output: &mut String, change: &Change) {
    match change {
        Change::Queued { acquisition, name, ttl_ms, wait } => {
            let (who, wait) = (spell(*acquisition), spell_wait(*wait));
            line!(output, "+ {name}: {who} waits, ttl={ttl_ms} {wait}");
        }
        Change::Granted { acquisition, name, grant, from_queue, condition } => {
            let (who, from) =
                (spell(*acquisition), if *from_queue { ", from the queue" } else { "" });
            let condition = condition.as_deref().map(spell_condition).unwrap_or_default();
            line!(output, "+ {name}: {who} holds {}{from}{condition}", spell_grant(grant));
        }
        Change::Orphaned { token, name, acquisitions } => {
            line!(output, "+ {name}: {token} is an orphan, with {}", spell_all(acquisitions));
        }
        Change::Downgraded { before, name, grant, acquisitions } => {
            let (grant, who) = (spell_grant(grant), spell_all(acquisitions));
            line!(output, "+ {name}: {before} of {who} is shared now, {grant}");
        }
        Change::ConditionSet { token, name, agreement, asked } => {
            let asked = if *asked { " asked" } else { "" };
            line!(output, "+ {name}: {token} agreed{}{asked}", spell_agreement(agreement));
        }
        Change::Claimed { token, name } => line!(output, "+ {name}: {token} is claimed"),
        Change::AttributesSet { token, name } => {
            line!(output, "+ {name}: the attributes of {token} are others");
        }
        Change::Asked { token, name, acquisitions, by, since_unix_ms: _, grace_ms, revision } => {
            let (who, by) = (spell_all(acquisitions), spell_asker(by.as_ref()));
            line!(
                output,
                "+ {name}: {token} of {who} is asked for{by}, grace={grace_ms} revision={revision}"
            );
        }
        Change::AskDropped { token, name } => {
            line!(output, "+ {name}: {token} is asked for no more");
        }
        Change::DelayBegan { token, name, delay_ms } => {
            line!(output, "+ {name}: the place of {token} stays taken for {delay_ms}");
        }
        Change::QuarantineEnds { is_over } => line!(output, "+ quarantine ends, over: {is_over}"),
        Change::DelayEnded { token, name } => {
            line!(output, "+ {name}: the place of {token} is free");
        }
        Change::Joined { acquisition, name, token } => {
            line!(output, "+ {name}: {} joins {token}", spell(*acquisition));
        }
        Change::Closed { acquisition, name, token } => {
            line!(output, "+ {name}: {} closed on {token}", spell(*acquisition));
        }
        Change::WaiterLeft { acquisition, name, how } => {
            line!(output, "+ {name}: {} left the queue, {how:?}", spell(*acquisition));
        }
        Change::HoldEnded { token, name, acquisitions, how, reason } => {
            let who = spell_all(acquisitions);
            let words = if reason.is_empty() { String::new() } else { format!(", {reason:?}") };
            line!(output, "+ {name}: {token} ended, {how:?}, with {who}{words}");
        }
        Change::EndingBegan { token, name, ttl_ms, acquisitions, reason, how: _ } => {
            let who = spell_all(acquisitions);
            line!(output, "+ {name}: {token} of {who} is ending, ttl={ttl_ms}, {reason:?}");
        }
        Change::ExpireMissed { token, name, newest } => {
            line!(output, "+ {name}: expiry missed {token}, newest is {}", newest.0);
        }
    }
}

pub fn status(output: &mut String, status: &Status) {
    match status {
        Status::Held { grant, ending, asked } => {
            let ending = ending.as_ref().map(|it| format!(", ending: {:?}", it.reason));
            let asked = asked.as_ref().map(|it| format!(",{}", spell_ask(it))).unwrap_or_default();
            line!(output, "held {}{asked}{}", spell_grant(grant), ending.unwrap_or_default());
        }
        Status::Waiting { place } => line!(output, "waiting place={place}"),
        Status::Finished(how) => line!(output, "finished {how:?}"),
    }
}

pub fn lock(output: &mut String, view: &LockView) {
    view.holds.iter().for_each(|view| hold(output, view));
    for DelayView { token, mode, delay_ms, since_unix_ms } in &view.delays {
        let mode = spell_mode(*mode);
        line!(output, "delay {token} {mode} for {delay_ms} since {since_unix_ms}");
    }
    for waiter in &view.waiters {
        let WaiterView { acquisition, mode, ttl_ms, wait, owner, .. } = waiter;
        let WaiterView { queued_unix_ms, arrival, condition, .. } = waiter;
        let came = spell_arrival(*arrival, 0);
        let condition = spell_condition(condition);
        let (who, mode, wait) = (spell(*acquisition), spell_mode(*mode), spell_wait(*wait));
        let owner = &owner.id;
        line!(
            output,
            "waiter {who} {mode} ttl={ttl_ms} {wait} owner={owner:?} at={queued_unix_ms}{came}{condition}"
        );
    }
}

pub fn hold(output: &mut String, view: &HoldView) {
    let HoldView { acquisition, newest, open, grant, mode, owner, granted_unix_ms, .. } = view;
    let HoldView { ending, agreement, orphaned, asked, reclaimer, arrival, .. } = view;
    let (who, spelled, mode) = (spell(*acquisition), spell_grant(grant), spell_mode(*mode));
    let (newest, owner_id) = (newest.0, &owner.id);
    let ending = ending.as_ref().map(|reason| format!(" ending: {reason:?}")).unwrap_or_default();
    let agreement = Agreement { ttl_ms: 0, ..*agreement };
    let agreed =
        if agreement == Agreement::default() { String::new() } else { spell_agreement(&agreement) };
    let agreed = agreed.replace(" ttl=0", "");
    let orphaned = if *orphaned { " orphaned" } else { "" };
    let asked = asked.as_ref().map(spell_ask).unwrap_or_default();
    let (came, told) = (spell_arrival(*arrival, grant.token.0), spell_attributes(owner));
    let reclaimer = reclaimer.map(|it| format!(" for {}", spell(it))).unwrap_or_default();
    line!(
        output,
        "hold {spelled} {mode} {who}..{newest} open={open} owner={owner_id:?}{told} at={granted_unix_ms}{came}{agreed}{orphaned}{asked}{ending}{reclaimer}"
    );
}

pub fn lease(output: &mut String, lease: &Lease) {
    match lease {
        Lease::Hold { name, token, ttl_ms, newest, acquisitions, ending, agreement, asked } => {
            let revision = agreement.revision;
            let terms = if agreement.condition.is_default() && revision == 0 {
                String::new()
            } else {
                format!(", revision={revision}{}", spell_condition(&agreement.condition))
            };
            let asked = if *asked { " asked for" } else { "" };
            let (who, newest) = (spell_all(acquisitions), newest.0);
            let ending = if *ending { " ending" } else { "" };
            line!(
                output,
                "{name}: hold {token} of {who}, newest {newest}, ttl={ttl_ms}{ending}{asked}{terms}"
            );
        }
        Lease::Waiter { name, acquisition, ttl_ms, wait } => {
            let (who, wait) = (spell(*acquisition), spell_wait(*wait));
            line!(output, "{name}: waiter {who}, ttl={ttl_ms} {wait}");
        }
        Lease::Delay { name, token, delay_ms } => {
            line!(output, "{name}: delay of {token}, {delay_ms}");
        }
    }
}

pub fn counts(output: &mut String, counts: Counts, header: Header) {
    let Counts { locks, holds, waiters, delays, finished } = counts;
    let delays = if delays == 0 { String::new() } else { format!("{delays} delays, ") };
    line!(output, "{locks} locks, {holds} holds, {waiters} waiters, {delays}{finished} finished");
    let Header { token_counter, ticket_counter, ring_first, ring_next, .. } = header;
    line!(
        output,
        "last token {token_counter}, last ticket {ticket_counter}, ring {ring_first}..{ring_next}"
    );
}

/// The ids that have ended, and since when that is whole.
pub fn ended(output: &mut String, table: &LockTable) {
    for (key, row) in table.rows() {
        let (RowKey::Ended(number, _), Row::Ended(row)) = (key, row) else { continue };
        line!(output, "{number}: {}", spell_ended(&row));
    }
    let Header { age_ms, lost_ms, .. } = table.header();
    line!(output, "age {age_ms}, lost {lost_ms}, {} bytes", table.ended_bytes());
}

/// Ids by lives, and when they ended.
fn spell_ended(row: &EndedRow) -> String {
    let EndedRow { first_ms, last_ms, lives, .. } = row;
    let mut spelled = format!("{first_ms}..{last_ms}");
    for EndedLife { session, instance, page, blocks } in lives {
        let base = u64::from(*page) << 37;
        let ids = blocks.iter().flat_map(|&(block, bits)| {
            let set = (0..32).filter(move |bit| bits & (1 << bit) != 0);
            set.map(move |bit: u64| base + u64::from(block) * 32 + bit)
        });
        for id in ids {
            let (session, instance, id) = (*session, *instance, AcquisitionId(id));
            spelled += &format!(" {}", spell(Acquisition { session, instance, id }));
        }
    }
    spelled
}

pub fn dirty(output: &mut String, rows: &[(RowKey, Option<Row>)]) {
    for (key, row) in rows {
        let key = match key {
            RowKey::Lock(name) => format!("lock {name}"),
            RowKey::Hold(name, token) => format!("hold {name} {token}"),
            RowKey::Delay(name, token) => format!("delay {name} {token}"),
            RowKey::Waiter(name, ticket) => format!("waiter {name} {ticket}"),
            RowKey::Ended(number, row) => format!("ended {number} {row}"),
            RowKey::Ring(number) => format!("ring {number}"),
        };
        match row {
            None => line!(output, "delete {key}"),
            Some(Row::Lock(row)) => line!(output, "write {key}: floor={}", row.fence_floor),
            Some(Row::Hold(row)) => {
                let open = row.open_ids.iter().map(|&id| {
                    let (session, instance) = (row.session, row.instance);
                    spell(Acquisition { session, instance, id })
                });
                line!(output, "write {key}: {}", open.collect::<Vec<_>>().join(" "));
            }
            Some(Row::Delay(row)) => line!(output, "write {key}: {}", row.delay_ms),
            Some(Row::Waiter(row)) => line!(output, "write {key}: {}", spell(row.acquisition)),
            Some(Row::Ended(row)) => {
                line!(output, "write {key}: {}", spell_ended(row));
            }
            Some(Row::Ring(rows)) => {
                let finished = rows.iter().map(|row| spell(row.acquisition));
                line!(output, "write {key}: {}", finished.collect::<Vec<_>>().join(" "));
            }
        }
    }
    if rows.is_empty() {
        line!(output, "nothing");
    }
}

/// Nothing where it is that of the grant itself.
fn spell_arrival(arrival: u64, token: u64) -> String {
    if arrival == token { String::new() } else { format!(" came={arrival}") }
}

fn spell_attributes(owner: &Owner) -> String {
    let told = owner.attributes.iter().map(|(key, value)| format!(" {key}:{value}"));
    told.collect()
}

fn spell_ask(ask: &AskView) -> String {
    let AskView { by, since_unix_ms, grace_ms } = ask;
    let by = spell_asker(by.as_ref());
    format!(" asked for{by} since {since_unix_ms}, grace={grace_ms}")
}

/// Nothing where it is not known.
fn spell_asker(by: Option<&AskedBy>) -> String {
    let Some(AskedBy { session, owner_id }) = by else { return String::new() };
    format!(" by {} {owner_id:?}", spell_session(*session))
}

fn spell_grant(grant: &Grant) -> String {
    format!("token={} floor={} ttl={}", grant.token, grant.fence_floor, grant.ttl_ms)
}

fn spell_agreement(agreement: &Agreement) -> String {
    let Agreement { condition, revision, claimed, ttl_ms } = agreement;
    let claimed = if *claimed { " claimed" } else { "" };
    format!(" revision={revision} ttl={ttl_ms}{}{claimed}", spell_condition(condition))
}

/// Nothing for the default.
fn spell_condition(condition: &Condition) -> String {
    let lease = match condition.lease {
        LeaseRule::OnExpiry => String::new(),
        LeaseRule::AfterMissed { missed, interval_ms } => format!(" missed={missed}*{interval_ms}"),
        LeaseRule::Hold => " hold".into(),
    };
    let clause = |word, ms: Option<u64>| ms.map(|ms| format!(" {word}={ms}")).unwrap_or_default();
    let delay = clause("delay", condition.lock_delay_ms);
    let max_hold = clause("max_hold", condition.max_hold_ms);
    let ask = clause("ask", condition.ask_grace_ms);
    format!("{lease}{delay}{max_hold}{ask}")
}

fn spell_mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => "exclusive".into(),
        Mode::Shared => "shared".into(),
        Mode::Permits { n, of } => format!("permits={n}/{of}"),
    }
}

fn spell_wait(wait: Wait) -> String {
    match wait {
        Wait::Try => "try".into(),
        Wait::AtMost(ms) => format!("wait={ms}"),
        Wait::Unbounded => "unbounded".into(),
    }
}

fn spell_all(acquisitions: &[Acquisition]) -> String {
    let spelled: Vec<_> = acquisitions.iter().map(|&acquisition| spell(acquisition)).collect();
    spelled.join(" ")
}
