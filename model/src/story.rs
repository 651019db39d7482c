//! A path of the model as people read it.

use std::fmt::Write;

use stateright::Path;

use crate::{
    bounds::{Bounds, Wish},
    leader::Leased,
    message::{Command, Message, Said, Terms},
    model::{Action, REVOKED},
    state::{ClientIndex, Condition, Id, NameIndex, Phase, RangeId, Seq, State},
    table::ids,
};

/// Tells a path, one step per line, with the time since its beginning and what is believed after
/// each step that changes it.
pub fn tell(bounds: &Bounds, path: Path<State, Action>) -> String {
    let mut told = String::new();
    let (mut now, mut believed) = (0, String::new());
    for (state, action) in path.into_vec() {
        let beliefs = beliefs(bounds, &state);
        if beliefs != believed {
            let _ = writeln!(told, "          {beliefs}");
            believed = beliefs;
        }
        match action {
            Some(Action::Tick) => now += 1,
            Some(action) => {
                let _ = writeln!(told, "  t={now:<3} {}", step(bounds, &state, action));
            }
            None => {
                let _ = writeln!(told, "  t={now:<3} in the log: {}", held(bounds, &state));
            }
        }
    }
    told
}

/// One step.
fn step(bounds: &Bounds, before: &State, action: Action) -> String {
    let who = |client| bounds.label(client);
    let which = |client, id| acquisition(bounds, client, id);
    match action {
        Action::Tick => "time passes".to_owned(),
        Action::Ask(client, id) => format!("{} asks for {}", who(client), which(client, id)),
        Action::KeepAlive(client, items) => {
            format!("{} keeps alive {}", who(client), list(bounds, client, items))
        }
        Action::Close(client, id) => format!("{} gives {} back", who(client), which(client, id)),
        Action::Crash(client) => format!("{} crashes", who(client)),
        Action::Wish(client, id, Wish::Claim) => {
            format!("{} claims {}", who(client), which(client, id))
        }
        Action::Wish(client, id, Wish::Agree(wanted)) => {
            format!("{} wants {} for {}", who(client), terms(wanted), which(client, id))
        }
        Action::AskHolder(client, id) => {
            format!("{} asks the holder for {}", who(client), which(client, id))
        }
        Action::Deliver { message, to, again } => {
            let copy = if again { ", and a copy is still on its way" } else { "" };
            format!("{}{copy}", delivered(bounds, message, Some(to)))
        }
        Action::Arrive(message) => {
            format!("{} lies in the mailbox", named(bounds, message))
        }
        Action::Receive(message) => delivered(bounds, message, Some(RangeId::Parent)),
        Action::Confirm(range, read) => {
            let items = list(bounds, read.client, read.items);
            format!("{} has proof that it leads, and answers for {items}", leader(range))
        }
        Action::Scan(range, name, leased) => {
            format!(
                "{} finds the lease of {} at its end",
                leader(range),
                lease(bounds, name, leased)
            )
        }
        Action::Propose(range) => format!("{} proposes what it has decided", leader(range)),
        Action::TimeOut(client, id) => format!("the wait of {} times out", which(client, id)),
        Action::Forget => "the range forgets what has ended".to_owned(),
        Action::ForceRelease(name) => format!("an operator takes `{}` away", letter(name)),
        Action::Revoke(range) => {
            format!("an operator revokes session {REVOKED} in {}", of_range(range))
        }
        Action::TimeUp { name, asked } => {
            format!("a leader's clock finds that {} of `{}` is over", time(asked), letter(name))
        }
        Action::ProposeSplit => "a split is proposed: `z` moves to the child".to_owned(),
        Action::Commit(range) => {
            let command = before.ranges[range as usize].log.first();
            let command = command.map_or(String::new(), |command| committed(bounds, *command));
            format!("committed in {}: {command}", of_range(range))
        }
        Action::ApplySplit => "the parent's leader applies the split".to_owned(),
        Action::FailOver(range, inherited) => {
            format!("{} gets a new leader, which inherits {inherited} entries", of_range(range))
        }
        Action::StaleScan(name, leased) => {
            let what = lease(bounds, name, leased);
            format!("the superseded leader finds the lease of {what} at its end, and proposes that")
        }
        Action::StaleAnswer(message) => {
            format!("the superseded leader answers {}", named(bounds, message))
        }
    }
}

fn delivered(bounds: &Bounds, message: Message, to: Option<RangeId>) -> String {
    let to = to.map_or("a leader", leader);
    match message {
        Message::Answer { client, .. }
        | Message::SessionAlive { client, .. }
        | Message::Agreement { client, .. } => {
            format!("{} hears {}", bounds.label(client), named(bounds, message))
        }
        _ => format!("{to} receives {}", named(bounds, message)),
    }
}

fn named(bounds: &Bounds, message: Message) -> String {
    let which = |client, id| acquisition(bounds, client, id);
    match message {
        Message::Acquire { client, id, seq, reenter: 0 } => {
            format!("Acquire {} {}", which(client, id), attempt(seq))
        }
        Message::Acquire { client, id, seq, reenter } => {
            format!("Acquire {} into token {reenter} {}", which(client, id), attempt(seq))
        }
        Message::KeepAlive { client, seq, items } => {
            format!("KeepAlive of {} {}", list(bounds, client, items), attempt(seq))
        }
        Message::Release { client, id, token, all: false } => {
            format!("Release {} of token {token}", which(client, id))
        }
        Message::Release { token, all: true, .. } => format!("Release of all of token {token}"),
        Message::Cancel { client, id } => format!("Cancel {}", which(client, id)),
        Message::Claim { client, id, revision, .. } => {
            format!("Claim {} at revision {revision}", which(client, id))
        }
        Message::SetCondition { client, id, revision, terms: wanted, .. } => {
            let (which, wanted) = (which(client, id), terms(wanted));
            format!("SetCondition of {which} at revision {revision}: {wanted}")
        }
        Message::Ask { client, id } => format!("Ask for {}", which(client, id)),
        Message::Reclaim { client, id, token, seq } => {
            format!("Reclaim of token {token} as {} {}", which(client, id), attempt(seq))
        }
        Message::Answer { client, id, seq, said } => {
            let which = which(client, id);
            let said = match said {
                Said::Held(token) => format!("{which} is held under token {token}"),
                Said::Waiting => format!("{which} waits"),
                Said::Gone => format!("{which} is gone"),
                Said::Ending(token) => format!("{which} is ending (token {token})"),
            };
            if seq == 0 { format!("a push: {said}") } else { format!("{said} {}", attempt(seq)) }
        }
        Message::SessionAlive { seq, .. } => format!("the session is alive {}", attempt(seq)),
        Message::Agreement { client, id, revision, terms: agreed } => {
            let (which, agreed) = (which(client, id), terms(agreed));
            format!("agreed for {which} is {agreed}, revision {revision}")
        }
    }
}

fn committed(bounds: &Bounds, command: Command) -> String {
    match command {
        Command::Asked(message) => named(bounds, message),
        Command::Expire { name, token, newest, term, .. } => {
            let name = letter(name);
            format!("Expire of `{name}`, token {token}, newest id {newest}, decided in term {term}")
        }
        Command::ExpireWaiter { client, id, term } => {
            format!(
                "Expire of the waiter {}, decided in term {term}",
                acquisition(bounds, client, id)
            )
        }
        Command::WaitTimeout { client, id, .. } => {
            format!("WaitTimeout of {}", acquisition(bounds, client, id))
        }
        Command::Ending { name, token } => format!("Ending of `{}`, token {token}", letter(name)),
        Command::End { name, token, term } => {
            format!("End of `{}`, token {token}, decided in term {term}", letter(name))
        }
        Command::Revoke { session } => format!("Revoke of session {session}"),
        Command::TimeUp { name, token, revision, asked, term } => {
            let (name, time) = (letter(name), time(asked));
            format!("{time} of `{name}`, token {token}, revision {revision}, is over (term {term})")
        }
        Command::Split => "Split, applied by a follower that leads the child now".to_owned(),
    }
}

/// The beliefs of clients, at which the oracle looks.
fn beliefs(bounds: &Bounds, state: &State) -> String {
    let mut believed = Vec::new();
    for (client, plan) in bounds.clients.iter().enumerate() {
        for (id, acquisition) in
            state.clients[client].acquisitions[..plan.plans.len()].iter().enumerate()
        {
            if let Phase::Held(token) = acquisition.phase {
                let which = self::acquisition(bounds, client as ClientIndex, id as Id);
                let left = acquisition.left;
                believed.push(format!("{which} (token {token}, {left} left)"));
            }
        }
    }
    if believed.is_empty() {
        return "nobody believes to hold".to_owned();
    }
    format!("believed: {}", believed.join(", "))
}

fn held(bounds: &Bounds, state: &State) -> String {
    let locks = state.locks.iter().enumerate().filter_map(|(name, lock)| {
        let hold = lock.hold.as_ref()?;
        let open: Vec<_> = ids(hold.open).map(|id| acquisition(bounds, hold.owner, id)).collect();
        let name = letter(name as NameIndex);
        Some(format!("`{name}` is held by {} under token {}", open.join(" and "), hold.token))
    });
    let locks: Vec<_> = locks.collect();
    if locks.is_empty() { "nothing is held".to_owned() } else { locks.join("; ") }
}

fn lease(bounds: &Bounds, name: NameIndex, leased: Leased) -> String {
    match leased {
        Leased::Hold { .. } => format!("the hold of `{}`", letter(name)),
        Leased::Waiter(client, id) => format!("the waiter {}", acquisition(bounds, client, id)),
    }
}

fn acquisition(bounds: &Bounds, client: ClientIndex, id: Id) -> String {
    format!("{}:{}{}", bounds.label(client), letter(bounds.name(client, id)), id + 1)
}

fn list(bounds: &Bounds, client: ClientIndex, items: u8) -> String {
    let items: Vec<_> = ids(items).map(|id| acquisition(bounds, client, id)).collect();
    items.join(" and ")
}

/// Attempts go through the two gateways in turn: no order is kept between them.
fn attempt(seq: Seq) -> String {
    format!("(attempt {seq}, gateway {})", 2 - seq % 2)
}

fn terms(terms: Terms) -> String {
    let condition = match terms.condition {
        Condition::OnExpiry => "the default condition",
        Condition::Hold => "condition hold",
        Condition::Bounded => "max_hold and ask_holder",
    };
    let lease = if terms.longer { " and a longer lease" } else { "" };
    format!("{condition}{lease}")
}

fn time(asked: bool) -> &'static str {
    if asked { "the grace" } else { "the longest time" }
}

fn letter(name: NameIndex) -> char {
    if name == 0 { 'a' } else { 'z' }
}

fn leader(range: RangeId) -> &'static str {
    match range {
        RangeId::Parent => "the parent's leader",
        RangeId::Child => "the child's leader",
    }
}

fn of_range(range: RangeId) -> &'static str {
    match range {
        RangeId::Parent => "the parent",
        RangeId::Child => "the child",
    }
}
