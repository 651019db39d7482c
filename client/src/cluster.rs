//! Which cluster a client belongs to, as its endpoints say. Locks and tokens of two clusters have
//! nothing to do with each other, so two clients that speak to different ones both hold "the" lock: a
//! client begins with one, and takes nothing from another. Pure.

use std::{collections::BTreeMap, sync::Arc};

pub use sharklock_proto::{ClusterId, NotHex as BadClusterId};

/// An endpoint belongs to another cluster than the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint} belongs to {}, and {}", shown(.cluster, .cluster_name), self.reference())]
pub struct ClusterMismatch {
    /// The endpoint.
    pub endpoint: String,
    /// The cluster that it says it belongs to.
    pub cluster: ClusterId,
    /// What people call that one; empty: nothing.
    pub cluster_name: Arc<str>,
    /// The client's.
    pub ours: ClusterId,
    /// What people call the client's; empty: nothing, or nobody of it has answered.
    pub our_name: Arc<str>,
    /// How the client came to it.
    pub because: Because,
}

/// How a client came to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It was told which.
    Told,
    /// It began with it; whoever said so then says something else now, or nothing.
    Begun,
    /// This endpoint says so.
    Said(String),
}

impl ClusterMismatch {
    fn reference(&self) -> String {
        let ours = shown(&self.ours, &self.our_name);
        match &self.because {
            Because::Told => format!("this client is to use {ours}"),
            Because::Begun => format!("this client began with {ours}"),
            Because::Said(endpoint) => format!("{endpoint} to {ours}"),
        }
    }
}

fn shown(cluster: &ClusterId, name: &str) -> String {
    match name {
        "" => format!("cluster {cluster}"),
        name => format!("cluster {cluster} ({name})"),
    }
}

/// The last word of one endpoint, as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It has not been heard yet.
    Awaited,
    /// It has had its time, or cannot be reached.
    Silent,
    /// It belongs to this cluster.
    Named(ClusterId),
}

/// The client's relation to its endpoints' clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Too little is known to begin: others may name another cluster.
    Open,
    /// It belongs to this cluster.
    Belongs(ClusterId),
    /// Its endpoints belong to several clusters, and nobody has told it which is meant. For good.
    Refused(ClusterMismatch),
}

/// The words of all endpoints of a client. A client that was told its cluster leaves the endpoints
/// of others aside. One that was not told asks them all, and begins with what they agree about:
/// when more than half of the list, or all that are heard in time, name one cluster. As soon as two
/// are named it goes no further.
///
/// Invariants:
/// - `begun` is set once, and is `told` where there is one;
/// - nothing is asked of a cluster under any other [`Standing`] than that it belongs to it.
#[derive(Clone, Debug)]
pub struct Membership {
    told: Option<ClusterId>,
    begun: Option<ClusterId>,
    /// The endpoints as people know them, and the last word of each.
    endpoints: Vec<(String, Word)>,
    refused: Option<ClusterMismatch>,
    /// What people call clusters, for messages only.
    names: BTreeMap<ClusterId, Arc<str>>,
}

impl Membership {
    /// A client of these endpoints, which may have been told its cluster.
    pub fn new(endpoints: Vec<String>, told: Option<ClusterId>) -> Self {
        let endpoints = endpoints.into_iter().map(|endpoint| (endpoint, Word::Awaited)).collect();
        Self { told, begun: told, endpoints, refused: None, names: BTreeMap::new() }
    }

    /// People call a cluster so. It is no news: nothing follows from it.
    pub fn called(&mut self, cluster: ClusterId, name: &str) {
        if self.names.get(&cluster).is_none_or(|known| **known != *name) {
            self.names.insert(cluster, name.into());
        }
    }

    /// An endpoint says that it belongs to this cluster.
    pub fn said(&mut self, at: usize, cluster: ClusterId) {
        self.endpoints[at].1 = Word::Named(cluster);
        if self.told.is_none() && self.refused.is_none() {
            self.refused = self.mismatch(at);
        }
        self.begin();
    }

    /// An endpoint cannot be reached. Its earlier word still stands. True: that is news.
    pub fn silent(&mut self, at: usize) -> bool {
        let word = &mut self.endpoints[at].1;
        let is_news = *word == Word::Awaited;
        if is_news {
            *word = Word::Silent;
            self.begin();
        }
        is_news
    }

    /// Those that have not been heard yet have had their time. True: there are any.
    pub fn time_is_up(&mut self) -> bool {
        (0..self.endpoints.len()).fold(false, |is_news, at| self.silent(at) | is_news)
    }

    /// All are asked again: those that were silent may be back, and have their time anew. True: that
    /// is news.
    pub fn ask_anew(&mut self) -> bool {
        let mut is_news = false;
        for (_, word) in self.endpoints.iter_mut().filter(|(_, word)| *word == Word::Silent) {
            (*word, is_news) = (Word::Awaited, true);
        }
        is_news
    }

    /// The client's relation to its endpoints' clusters.
    pub fn standing(&self) -> Standing {
        match (&self.refused, self.begun) {
            (Some(mismatch), _) => Standing::Refused(mismatch.clone()),
            (None, Some(cluster)) => Standing::Belongs(cluster),
            (None, None) => Standing::Open,
        }
    }

    /// Whether this endpoint has said that it belongs to the client's cluster.
    pub fn is_ours(&self, at: usize) -> bool {
        self.begun.is_some_and(|ours| self.endpoints[at].1 == Word::Named(ours))
    }

    /// Why an endpoint is of no use to this client; None: it is, or may be.
    pub fn mismatch(&self, at: usize) -> Option<ClusterMismatch> {
        let (endpoint, Word::Named(cluster)) = &self.endpoints[at] else { return None };
        let others = |ours: ClusterId| {
            let mut said = self.endpoints.iter().filter(|(_, word)| *word == Word::Named(ours));
            said.next().map_or(Because::Begun, |(other, _)| Because::Said(other.clone()))
        };
        let (ours, because) = match (self.told, self.begun) {
            (Some(told), _) => (told, Because::Told),
            (None, Some(begun)) => (begun, others(begun)),
            (None, None) => {
                let named = self.endpoints.iter().find_map(|(other, word)| match word {
                    Word::Named(named) if named != cluster => Some((*named, other.clone())),
                    _ => None,
                });
                let (named, other) = named?;
                (named, Because::Said(other))
            }
        };
        if *cluster == ours {
            return None;
        }
        let name = |cluster| self.names.get(cluster).cloned().unwrap_or_default();
        Some(ClusterMismatch {
            endpoint: endpoint.clone(),
            cluster: *cluster,
            cluster_name: name(cluster),
            ours,
            our_name: name(&ours),
            because,
        })
    }

    /// Why no endpoint is of any use, if all say that they belong to other clusters.
    pub fn nowhere(&self) -> Option<ClusterMismatch> {
        let all: Option<Vec<_>> = (0..self.endpoints.len()).map(|at| self.mismatch(at)).collect();
        all?.into_iter().next()
    }

    /// Whether what is held may be used on although the client is refused: others with the same list,
    /// too, take the cluster for theirs that more than half of it names.
    pub fn keeps_guards(&self) -> bool {
        self.begun.is_some_and(|ours| self.told.is_some() || self.is_named_by_most(ours))
    }

    fn is_named_by_most(&self, cluster: ClusterId) -> bool {
        let is_named = |(_, word): &&(String, Word)| *word == Word::Named(cluster);
        self.endpoints.iter().filter(is_named).count() * 2 > self.endpoints.len()
    }

    /// Begins as soon as enough is known. Two clusters are not known here, or the client is refused.
    fn begin(&mut self) {
        if self.begun.is_some() || self.refused.is_some() {
            return;
        }
        let words = self.endpoints.iter().map(|(_, word)| *word);
        let named = words.clone().find_map(|word| match word {
            Word::Named(cluster) => Some(cluster),
            Word::Awaited | Word::Silent => None,
        });
        let Some(cluster) = named else { return };
        if self.is_named_by_most(cluster) || words.into_iter().all(|word| word != Word::Awaited) {
            self.begun = Some(cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClusterId = ClusterId::from_bytes([0xaa; 16]);
    const B: ClusterId = ClusterId::from_bytes([0xbb; 16]);

    fn of(count: usize, told: Option<ClusterId>) -> Membership {
        Membership::new((0..count).map(|at| format!("e{at}")).collect(), told)
    }

    fn refusal(membership: &Membership) -> String {
        match membership.standing() {
            Standing::Refused(mismatch) => mismatch.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_are_32_hex_digits() {
        let text = "00ff00ff00ff00ff00ff00ff00ff0a0b";
        assert_eq!(text.parse::<ClusterId>().map(|id| id.to_string()), Ok(text.to_owned()));
        assert_eq!(text.to_uppercase().parse(), text.parse::<ClusterId>());
        for bad in
            ["", "00ff", "+0ff00ff00ff00ff00ff00ff00ff0a0b", &"g".repeat(32), &"0".repeat(33)]
        {
            assert_eq!(bad.parse::<ClusterId>(), Err(BadClusterId), "{bad}");
        }
    }

    #[test]
    fn a_client_begins_when_more_than_half_of_its_list_agree() {
        let mut three = of(3, None);
        three.said(2, A);
        assert_eq!(three.standing(), Standing::Open);
        three.said(0, A);
        assert_eq!(three.standing(), Standing::Belongs(A));
        let mut one = of(1, None);
        one.said(0, A);
        assert_eq!(one.standing(), Standing::Belongs(A));
        // Two clusters may have half of the list each.
        let mut two = of(2, None);
        two.said(0, A);
        assert_eq!(two.standing(), Standing::Open);
        two.said(1, A);
        assert_eq!(two.standing(), Standing::Belongs(A));
    }

    #[test]
    fn those_that_are_silent_have_their_time_and_no_more() {
        let mut three = of(3, None);
        three.time_is_up();
        assert_eq!(three.standing(), Standing::Open, "nobody has named any");
        three.said(1, A);
        assert_eq!(three.standing(), Standing::Belongs(A));
        let mut three = of(3, None);
        three.said(1, A);
        three.silent(0);
        assert_eq!(three.standing(), Standing::Open);
        three.silent(2);
        assert_eq!(three.standing(), Standing::Belongs(A));
    }

    #[test]
    fn whoever_was_silent_before_anybody_spoke_is_asked_again() {
        let mut two = of(2, None);
        assert!(two.silent(0) && two.silent(1) && !two.silent(1));
        assert!(two.ask_anew() && !two.ask_anew());
        two.said(0, A);
        assert_eq!(two.standing(), Standing::Open, "the other may be back, too");
        assert!(two.time_is_up());
        assert_eq!(two.standing(), Standing::Belongs(A));
    }

    #[test]
    fn a_list_of_two_clusters_is_refused_for_good() {
        let mut two = of(2, None);
        two.said(0, A);
        two.said(1, B);
        let text = "e1 belongs to cluster bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, and e0 to cluster \
                    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(refusal(&two), text);
        assert!(!two.keeps_guards() && !two.is_ours(0));
        two.said(1, A);
        assert_eq!(refusal(&two), text);
    }

    #[test]
    fn clusters_are_named_as_people_call_them() {
        let mut two = of(2, None);
        two.called(A, "prod");
        two.said(0, A);
        two.called(B, "staging");
        two.said(1, B);
        let (a, b) = ("a".repeat(32), "b".repeat(32));
        let text = format!("e1 belongs to cluster {b} (staging), and e0 to cluster {a} (prod)");
        assert_eq!(refusal(&two), text);
    }

    #[test]
    fn a_second_cluster_that_shows_later_leaves_what_the_majority_holds() {
        let mut three = of(3, None);
        three.said(0, A);
        three.said(1, A);
        three.said(2, B);
        assert!(refusal(&three).starts_with("e2 belongs to cluster bb"));
        assert!(three.keeps_guards() && three.is_ours(0) && !three.is_ours(2));
        three.said(1, B);
        assert!(!three.keeps_guards());
        // The client began with the cluster of the minority.
        let mut three = of(3, None);
        three.said(0, A);
        three.time_is_up();
        assert_eq!(three.standing(), Standing::Belongs(A));
        three.said(1, B);
        assert!(!three.keeps_guards());
        assert!(refusal(&three).contains("and e0 to cluster aa"));
    }

    #[test]
    fn an_endpoint_that_is_another_clusters_now_is_not_followed() {
        let mut one = of(1, None);
        one.said(0, A);
        one.said(0, B);
        assert!(
            refusal(&one)
                .ends_with("this client began with cluster aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
        );
        assert!(!one.keeps_guards());
    }

    #[test]
    fn whoever_is_told_its_cluster_leaves_others_aside() {
        let mut two = of(2, Some(A));
        assert_eq!(two.standing(), Standing::Belongs(A));
        assert!(!two.is_ours(0), "it has to say so");
        two.said(0, B);
        two.said(1, A);
        assert_eq!(two.standing(), Standing::Belongs(A));
        assert!(two.keeps_guards() && two.is_ours(1));
        let why = two.mismatch(0).expect("it is another's").to_string();
        assert!(
            why.ends_with("this client is to use cluster aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "{why}"
        );
        assert_eq!((two.mismatch(1), two.nowhere()), (None, None));
        two.said(1, B);
        assert_eq!(two.nowhere(), two.mismatch(0));
        two.said(0, A);
        assert_eq!(two.nowhere(), None, "it is forgiven");
    }
}
