//! The way of an acquire by hop, from the spans that the servers keep of some acquires.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Medians in microseconds: where the time of an acquire goes until a store has answered that it is granted, or
/// queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Acquires that were followed through all servers.
    pub acquires: usize,
    /// In the gateway and behind it: from the call's arrival there to its answer.
    pub gateway: f64,
    /// Of that, outside of the store: in the gateway itself and on the way to the store and back.
    pub to_store: f64,
    /// From the receipt in the store to the proposal of its entry.
    pub queue: f64,
    /// From the proposal to the apply: the leader's sync, the way to a follower and back, its sync.
    pub commit: f64,
    /// From the apply to the answer.
    pub apply: f64,
}

/// A line of `/debug/traces`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Span {
    span: String,
    parent: Option<String>,
    name: String,
    lasted_us: f64,
}

impl Budget {
    /// Follows what can be followed through the spans of all servers, one a line.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a String>) -> anyhow::Result<Self> {
        let mut spans = Vec::new();
        for line in lines {
            let span: Span = serde_json::from_str(line).with_context(|| format!("span {line}"))?;
            spans.push(span);
        }
        let below = |span: &Span| Some((span.parent.clone()?, span.name.clone()));
        let below: BTreeMap<_, _> =
            spans.iter().filter_map(|span| Some((below(span)?, span))).collect();
        let child = |of: &Span, name: &str| below.get(&(of.span.clone(), name.to_owned())).copied();
        let hops =
            spans.iter().filter(|span| span.name == "gateway.acquire").filter_map(|gateway| {
                let store = child(gateway, "store.acquire")?;
                let part = |name| child(store, name).map(|span| span.lasted_us);
                let (queue, commit) = (part("store.queue")?, part("store.commit")?);
                let apply = store.lasted_us - queue - commit;
                Some([gateway.lasted_us, gateway.lasted_us - store.lasted_us, queue, commit, apply])
            });
        let hops: Vec<[f64; 5]> = hops.collect();
        let [gateway, to_store, queue, commit, apply] =
            [0, 1, 2, 3, 4].map(|hop| median(hops.iter().map(|hops| hops[hop])));
        Ok(Self { acquires: hops.len(), gateway, to_store, queue, commit, apply })
    }
}

/// 0 of nothing.
fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(span: &str, parent: &str, name: &str, lasted_us: u64) -> String {
        format!(
            "{{\"trace\":\"1\",\"span\":\"{span}\",\"parent\":\"{parent}\",\"name\":\"{name}\",\
             \"lasted_us\":{lasted_us},\"notes\":{{}}}}"
        )
    }

    #[test]
    fn an_acquire_is_followed_through_gateway_and_store() {
        let gateway =
            [line("g1", "", "gateway.acquire", 900), line("g2", "", "gateway.acquire", 1)];
        let store = [
            line("s1", "g1", "store.acquire", 700),
            line("q1", "s1", "store.queue", 100),
            line("c1", "s1", "store.commit", 550),
            line("a1", "s1", "store.apply", 50),
        ];
        let budget = Budget::of(gateway.iter().chain(&store)).expect("they are spans");
        let expected = Budget {
            acquires: 1,
            gateway: 900.0,
            to_store: 200.0,
            queue: 100.0,
            commit: 550.0,
            apply: 50.0,
        };
        assert_eq!(budget, expected, "the other one was not followed into a store");
        assert_eq!(Budget::of(&[]).expect("nothing"), Budget::default());
        Budget::of(&["no span".to_owned()]).expect_err("it is none");
    }
}
