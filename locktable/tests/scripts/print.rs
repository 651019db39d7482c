//! Outcomes and views as lines of text. Replies stand bare, changes behind a plus.

use std::fmt::Write;

use sharklock_locktable::{
    Acquisition, Change, Counts, Grant, Header, HoldView, Lease, LockView, Mode, Outcome, Reply,
    Row, RowKey, Status, Wait, WaiterView,
};

use crate::machine::spell;

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
        Reply::Done => line!(output, "done"),
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
        Change::Granted { acquisition, name, grant, from_queue } => {
            let (who, from) =
                (spell(*acquisition), if *from_queue { ", from the queue" } else { "" });
            line!(output, "+ {name}: {who} holds {}{from}", spell_grant(grant));
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
        Change::HoldEnded { token, name, acquisitions, how } => {
            line!(output, "+ {name}: {token} ended, {how:?}, with {}", spell_all(acquisitions));
        }
        Change::EndingBegan { token, name, ttl_ms, acquisitions, reason } => {
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
        Status::Held { grant, ending } => {
            let ending = ending.as_ref().map(|reason| format!(", ending: {reason:?}"));
            line!(output, "held {}{}", spell_grant(grant), ending.unwrap_or_default());
        }
        Status::Waiting { place } => line!(output, "waiting place={place}"),
        Status::Finished(how) => line!(output, "finished {how:?}"),
    }
}

pub fn lock(output: &mut String, view: &LockView) {
    view.holds.iter().for_each(|view| hold(output, view));
    for WaiterView { acquisition, mode, ttl_ms, wait, owner, queued_unix_ms } in &view.waiters {
        let (who, mode, wait) = (spell(*acquisition), spell_mode(*mode), spell_wait(*wait));
        let owner = &owner.id;
        line!(
            output,
            "waiter {who} {mode} ttl={ttl_ms} {wait} owner={owner:?} at={queued_unix_ms}"
        );
    }
}

pub fn hold(output: &mut String, view: &HoldView) {
    let HoldView { acquisition, newest, open, grant, mode, owner, granted_unix_ms, ending } = view;
    let (who, grant, mode) = (spell(*acquisition), spell_grant(grant), spell_mode(*mode));
    let (newest, owner) = (newest.0, &owner.id);
    let ending = ending.as_ref().map(|reason| format!(" ending: {reason:?}")).unwrap_or_default();
    line!(
        output,
        "hold {grant} {mode} {who}..{newest} open={open} owner={owner:?} at={granted_unix_ms}{ending}"
    );
}

pub fn lease(output: &mut String, lease: &Lease) {
    match lease {
        Lease::Hold { name, token, ttl_ms, newest, acquisitions, ending } => {
            let (who, newest) = (spell_all(acquisitions), newest.0);
            let ending = if *ending { " ending" } else { "" };
            line!(output, "{name}: hold {token} of {who}, newest {newest}, ttl={ttl_ms}{ending}");
        }
        Lease::Waiter { name, acquisition, ttl_ms, wait } => {
            let (who, wait) = (spell(*acquisition), spell_wait(*wait));
            line!(output, "{name}: waiter {who}, ttl={ttl_ms} {wait}");
        }
    }
}

pub fn counts(output: &mut String, counts: Counts, header: Header) {
    let Counts { locks, holds, waiters, finished } = counts;
    line!(output, "{locks} locks, {holds} holds, {waiters} waiters, {finished} finished");
    let Header { token_counter, ticket_counter, ring_first, ring_next, .. } = header;
    line!(
        output,
        "last token {token_counter}, last ticket {ticket_counter}, ring {ring_first}..{ring_next}"
    );
}

pub fn dirty(output: &mut String, rows: &[(RowKey, Option<Row>)]) {
    for (key, row) in rows {
        let key = match key {
            RowKey::Lock(name) => format!("lock {name}"),
            RowKey::Waiter(name, ticket) => format!("waiter {name} {ticket}"),
            RowKey::Ring(number) => format!("ring {number}"),
        };
        match row {
            None => line!(output, "delete {key}"),
            Some(Row::Lock(row)) => line!(output, "write {key}: {} holds", row.holds.len()),
            Some(Row::Waiter(row)) => line!(output, "write {key}: {}", spell(row.acquisition)),
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

fn spell_grant(grant: &Grant) -> String {
    format!("token={} floor={} ttl={}", grant.token, grant.fence_floor, grant.ttl_ms)
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
