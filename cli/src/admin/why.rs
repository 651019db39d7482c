//! `sharklock locks why`: who has a lock, what that one waits for itself, and so on over all ranges,
//! until somebody waits for nothing, or a circle closes.
//!
//! A session is what waits. If its client does several things at a time, one of them may hold while
//! another waits: then the chain says what may be, and the owner's program knows.

use std::{collections::BTreeSet, fmt::Write as _, pin::Pin};

use serde::Serialize;
use sharklock_client::Client;

use super::{
    convert, show,
    view::{Party, WallTime},
};
use crate::{
    args::OutputArgs,
    exit::{CIRCLE, Failure, NOTHING, OK},
    render::{printable, shell_word},
};

/// Locks that are looked at.
const LOCKS_MAX: usize = 64;
/// Locks in one chain.
const DEPTH_MAX: usize = 16;
/// Holders of one lock that are followed.
const HOLDERS_MAX: usize = 8;
/// Locks for which one session waits that are followed.
const WAITS_MAX: usize = 8;

/// `locks why`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.LockWhy")]
pub struct Why {
    /// Nobody holds it.
    pub free: bool,
    /// The locks of a circle, the first of them again at the end; empty if none was met.
    pub circle: Vec<String>,
    /// There may be more than is shown.
    pub is_cut: bool,
    /// The lock that was asked for.
    pub lock: Link,
}

/// A lock of a chain.
#[derive(Debug, Serialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// `held`; `free`, by now; `delayed`: a lock-delay keeps it taken; `circle`: the chain has come back
    /// to it; `seen`: it is shown elsewhere; `not_followed`: a bound was reached.
    pub state: &'static str,
    /// Its holders, at most 8.
    pub holders: Vec<Holder>,
    /// How many they are.
    pub holders_count: u32,
}

/// One who holds it.
#[derive(Debug, Serialize)]
pub struct Holder {
    /// The hold.
    pub holder: Party,
    /// The locks for which its session waits.
    pub waits_for: Vec<Link>,
}

/// Follows chains, depth first.
struct Follower<'a> {
    client: &'a Client,
    /// From the lock that was asked for to the one that is looked at.
    path: Vec<String>,
    seen: BTreeSet<String>,
    circle: Vec<String>,
    is_cut: bool,
}

/// `sharklock locks why NAME`.
pub async fn why(client: &Client, name: &str, output: OutputArgs) -> Result<u8, Failure> {
    let mut follower = Follower {
        client,
        path: Vec::new(),
        seen: BTreeSet::new(),
        circle: Vec::new(),
        is_cut: false,
    };
    let lock = follower.follow(name.to_owned()).await?;
    let Follower { circle, is_cut, .. } = follower;
    let why = Why { free: lock.state == "free", circle, is_cut, lock };
    show(output, &why, |why| why.text(WallTime::now()))?;
    Ok(match (why.free, why.circle.is_empty()) {
        (true, _) => NOTHING,
        (false, true) => OK,
        (false, false) => CIRCLE,
    })
}

impl Follower<'_> {
    fn follow<'f>(
        &'f mut self,
        name: String,
    ) -> Pin<Box<dyn Future<Output = Result<Link, Failure>> + 'f>> {
        Box::pin(async move {
            if let Some(state) = self.known(&name) {
                return Ok(Link { name, state, holders: Vec::new(), holders_count: 0 });
            }
            self.seen.insert(name.clone());
            self.path.push(name.clone());
            let seen = self.client.get_lock(&name).await.map_err(convert::failure)?;
            let lock = seen.lock.map(convert::lock).unwrap_or_default();
            let state = match (lock.holders_count, lock.retry_after_ms.0) {
                (0, 0) => "free",
                (0, _) => "delayed",
                _ => "held",
            };
            self.is_cut |= lock.holders_count as usize > HOLDERS_MAX;
            let mut holders = Vec::new();
            for holder in lock.holders.into_iter().take(HOLDERS_MAX) {
                let waits_for = self.waits_of(&holder).await?;
                holders.push(Holder { holder, waits_for });
            }
            self.path.pop();
            Ok(Link { name, state, holders, holders_count: lock.holders_count })
        })
    }

    /// Why a lock is not looked at.
    fn known(&mut self, name: &String) -> Option<&'static str> {
        if let Some(at) = self.path.iter().position(|it| it == name) {
            if self.circle.is_empty() {
                self.circle = self.path[at..].iter().chain([name]).cloned().collect();
            }
            return Some("circle");
        }
        if self.seen.contains(name) {
            return Some("seen");
        }
        let is_bound = self.seen.len() >= LOCKS_MAX || self.path.len() >= DEPTH_MAX;
        self.is_cut |= is_bound;
        is_bound.then_some("not_followed")
    }

    async fn waits_of(&mut self, holder: &Party) -> Result<Vec<Link>, Failure> {
        let has = self.client.get_session(&holder.session).await.map_err(convert::failure)?;
        // A newer instance waits for the end of its own older hold, which its lease brings.
        let waits = has.into_iter().filter(|lock| lock.waits.iter().any(|wait| !wait.reclaims));
        let names: Vec<_> = waits.map(|lock| lock.name).collect();
        self.is_cut |= names.len() > WAITS_MAX;
        let mut links = Vec::new();
        for name in names.into_iter().take(WAITS_MAX) {
            links.push(self.follow(name).await?);
        }
        Ok(links)
    }
}

impl Why {
    fn text(&self, now: WallTime) -> String {
        let mut text = String::new();
        self.lock.write(&mut text, 0, now);
        if let [first, ..] = self.circle.as_slice() {
            let names: Vec<_> =
                self.circle.iter().map(|name| shell_word(&printable(name))).collect();
            let _ = writeln!(text, "\na circle: {}", names.join(" -> "));
            if let Some(holder) = self.lock.holder_of(first) {
                let _ = writeln!(
                    text,
                    "to end it, revoke one of its sessions: sharklock sessions revoke {} --reason WHY",
                    holder.session
                );
            }
        }
        if self.is_cut {
            text.push_str("\nthere may be more: not all holders and locks were followed\n");
        }
        text
    }
}

impl Link {
    fn write(&self, text: &mut String, depth: usize, now: WallTime) {
        let name = printable(&self.name);
        let indent = "  ".repeat(2 * depth);
        let told = match self.state {
            "held" => format!("{name} is held by {}", self.holders_count),
            "delayed" => format!("{name} is kept taken by a lock-delay"),
            "circle" => format!("{name}, as above: a circle"),
            "seen" => format!("{name}, as above"),
            "not_followed" => format!("{name}, which was not followed"),
            _ => format!("{name} is free"),
        };
        let _ = writeln!(text, "{indent}{told}");
        for Holder { holder, waits_for } in &self.holders {
            let (who, lease) = (printable(&holder.name()), printable(&holder.lease()));
            let (since, session) = (holder.since.ago(now), &holder.session);
            let _ =
                writeln!(text, "{indent}  {who}, session {session}, for {since}, lease: {lease}");
            match waits_for.as_slice() {
                [] => _ = writeln!(text, "{indent}    waits for nothing"),
                links => {
                    let _ = writeln!(text, "{indent}    waits for:");
                    links.iter().for_each(|link| link.write(text, depth + 2, now));
                }
            }
        }
    }

    /// The first holder of the lock with this name.
    fn holder_of(&self, name: &str) -> Option<&Party> {
        if self.name == name
            && let Some(first) = self.holders.first()
        {
            return Some(&first.holder);
        }
        self.holders
            .iter()
            .flat_map(|holder| &holder.waits_for)
            .find_map(|link| link.holder_of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::view::Wide, render::json};

    const NOW: WallTime = WallTime { unix_ms: 1_012_500 };

    fn link(name: &str, state: &'static str, holders: Vec<Holder>) -> Link {
        Link { name: name.to_owned(), state, holders_count: holders.len() as u32, holders }
    }

    fn holder(session: &str, waits_for: Vec<Link>) -> Holder {
        let holder = Party {
            session: session.to_owned(),
            owner_id: format!("job-{session}"),
            since: WallTime { unix_ms: 1_000_000 },
            remaining_ms: Wide(7_400),
            ..Party::default()
        };
        Holder { holder, waits_for }
    }

    #[test]
    fn a_circle_is_named_with_a_way_to_end_it() {
        let again = link("a", "circle", vec![]);
        let b = link("b", "held", vec![holder("22", vec![again])]);
        let lock = link("a", "held", vec![holder("11", vec![b])]);
        let circle = ["a", "b", "a"].map(str::to_owned).into();
        let why = Why { free: false, circle, is_cut: false, lock };
        assert_eq!(
            why.text(NOW),
            "a is held by 1\n  \
               job-11, session 11, for 12s, lease: 7.4s\n    \
                 waits for:\n        \
                   b is held by 1\n          \
                     job-22, session 22, for 12s, lease: 7.4s\n            \
                       waits for:\n                \
                         a, as above: a circle\n\
             \n\
             a circle: a -> b -> a\n\
             to end it, revoke one of its sessions: sharklock sessions revoke 11 --reason WHY\n"
        );
        let value: serde_json::Value = serde_json::from_str(&json(&why)).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.LockWhy");
        assert_eq!(value["circle"], serde_json::json!(["a", "b", "a"]));
        assert_eq!(value["lock"]["holders"][0]["waits_for"][0]["name"], "b");
    }

    #[test]
    fn a_chain_ends_with_somebody_who_waits_for_nothing() {
        let lock = link("a", "held", vec![holder("11", vec![])]);
        let why = Why { free: false, circle: vec![], is_cut: true, lock };
        assert_eq!(
            why.text(NOW),
            "a is held by 1\n  job-11, session 11, for 12s, lease: 7.4s\n    waits for nothing\n\
             \nthere may be more: not all holders and locks were followed\n"
        );
        let free = Why { is_cut: false, free: true, lock: link("a", "free", vec![]), ..why };
        assert_eq!(free.text(NOW), "a is free\n");
    }
}
