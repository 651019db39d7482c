//! Which store a call for a name goes to, as far as stores have said.
//!
//! It feeds descriptors into the routing cache of `sharklock-rangemap`, whose rules decide which of
//! two contradicting ones is right, and it owns which stores can be reached: routes lead around those
//! that cannot. Wrong routes are safe: a store checks every call's range
//! and version, and whether it leads.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use sharklock_proto::internal::v1::{
    EpochNotMatch, NotLeader, RangeDescriptor, Route, StoreDescription,
};
use sharklock_rangemap::{Descriptor, RangeId, RouteCache, StoreId, TilingError, check_tiling};

use crate::describing::Said;

/// The store to which a call goes, with its range and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The store.
    pub store: StoreId,
    /// The range to put into the call; 0, which leaves it to the store, while none is known.
    pub range_id: u64,
    /// The descriptor version to put into the call.
    pub version: u64,
    /// Somebody has said that the store leads the range.
    pub is_leader: bool,
    /// There are others to try when it turns out that it does not.
    pub has_others: bool,
}

impl Target {
    /// A store that is asked for itself.
    pub fn of_store(store: StoreId) -> Self {
        Self { store, range_id: 0, version: 0, is_leader: false, has_others: false }
    }
}

/// How a store can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// It answers.
    Up,
    /// It is linked, and says nothing: it is tried only where nobody else is left.
    Silent,
    /// Its link is lost.
    Down,
}

/// A store that has been linked.
#[derive(Debug)]
struct Linked {
    reach: Reach,
    /// When it was first sent something after which nothing has come from it; 0: it owes nothing.
    /// Atomic, since every batch that goes down or comes up moves it.
    owes_since_us: AtomicU64,
}

/// The routes of this gateway: its knowledge of ranges and stores.
///
/// Invariants:
/// - no range is aimed at a store that cannot be reached while another of its voters can;
/// - `gap` is what the ranges of `cache` lack.
#[derive(Debug)]
pub struct Routing {
    cache: RouteCache,
    stores: BTreeMap<StoreId, Linked>,
    /// Some: of these names no range is known.
    gap: Option<TilingError>,
    /// The range of every name has been known. What is not known since is found with the next call
    /// that needs it.
    was_whole: bool,
}

impl Default for Routing {
    fn default() -> Self {
        let (cache, stores) = (RouteCache::default(), BTreeMap::new());
        Self { cache, stores, gap: Some(TilingError::Empty), was_whole: false }
    }
}

impl Routing {
    /// The target of a call for `name`. It is `None` while no store that may have it can be
    /// reached.
    pub fn route(&self, name: &[u8]) -> Option<Target> {
        let Some(route) = self.cache.route(name) else { return self.anywhere() };
        let store = route.to.store();
        if self.reach(store) == Reach::Down {
            return None;
        }
        let voters = self.cache.descriptor(route.range).map_or(0, |known| known.voters().count());
        Some(Target {
            store,
            range_id: route.range.0,
            version: route.epoch.version,
            is_leader: !route.to.is_guess(),
            has_others: voters > 1,
        })
    }

    /// The first names of the ranges that follow the one of `name`, as far as they are known, at most
    /// so many.
    pub fn starts_behind(&self, name: &str, max: usize) -> Vec<String> {
        let starts = self.cache.starts_behind(name.as_bytes(), max).into_iter();
        starts.map_while(|start| String::from_utf8(start.to_vec()).ok()).collect()
    }

    /// Any store, to be asked without a range: it knows the name, or whom to ask.
    pub fn anywhere(&self) -> Option<Target> {
        let reachable = |reach| move |linked: &(&StoreId, &Linked)| linked.1.reach == reach;
        let up = self.stores.iter().find(reachable(Reach::Up));
        let (&store, _) = up.or_else(|| self.stores.iter().find(reachable(Reach::Silent)))?;
        Some(Target { has_others: self.stores.len() > 1, ..Target::of_store(store) })
    }

    /// The stores that are linked, in order.
    pub fn linked(&self) -> Vec<StoreId> {
        let linked = self.stores.iter().filter(|(_, linked)| linked.reach != Reach::Down);
        linked.map(|(store, _)| *store).collect()
    }

    /// A store is linked.
    pub fn link_up(&mut self, store: StoreId) {
        let linked = Linked { reach: Reach::Up, owes_since_us: AtomicU64::new(0) };
        self.stores.insert(store, linked);
        self.lead_around_unreachable();
    }

    /// A store's link is lost.
    pub fn link_lost(&mut self, store: StoreId) {
        self.set_reach(store, Reach::Down);
    }

    /// A store's link stands, but nothing comes.
    pub fn silent(&mut self, store: StoreId) {
        if self.reach(store) == Reach::Up {
            self.set_reach(store, Reach::Silent);
        }
    }

    /// Whether a store that sends something had been given up.
    pub fn is_silent(&self, store: StoreId) -> bool {
        self.reach(store) == Reach::Silent
    }

    /// A silent store has said something.
    pub fn speaks(&mut self, store: StoreId) {
        if self.is_silent(store) {
            self.set_reach(store, Reach::Up);
        }
    }

    /// Something was sent to a store.
    pub fn sent(&self, now_us: u64, store: StoreId) {
        let Some(linked) = self.stores.get(&store) else { return };
        let owes = &linked.owes_since_us;
        // 0 says that nothing is owed; a call of the first microsecond is as good as one of the next.
        let _ = owes.compare_exchange(0, now_us.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Something came from a store.
    pub fn heard(&self, store: StoreId) {
        if let Some(linked) = self.stores.get(&store) {
            linked.owes_since_us.store(0, Ordering::Relaxed);
        }
    }

    /// The linked stores that have said nothing since they were sent something before `before_us`.
    pub fn owing(&self, before_us: u64) -> Vec<StoreId> {
        let owes = |linked: &Linked| {
            let since_us = linked.owes_since_us.load(Ordering::Relaxed);
            linked.reach != Reach::Down && since_us != 0 && since_us < before_us
        };
        self.stores.iter().filter(|(_, linked)| owes(linked)).map(|(store, _)| *store).collect()
    }

    /// Takes in what a store says of itself and of its ranges' leaders.
    pub fn learn(&mut self, description: &StoreDescription) {
        self.install(description.descriptors.iter());
        for range in &description.ranges {
            let leader = StoreId(range.leader_store_id);
            if self.reach(leader) == Reach::Up {
                self.cache.on_described(RangeId(range.range_id), leader, range.term);
            }
        }
    }

    /// Takes in what a store has said before of ranges' leaders, and stands by.
    pub fn recall(&mut self, said: &[(RangeId, Said)]) {
        for (range, Said { leader, term }) in said {
            if self.reach(*leader) == Reach::Up {
                self.cache.on_described(*range, *leader, *term);
            }
        }
    }

    /// The ranges of which nobody has said who leads them.
    pub fn guesses(&self) -> Vec<RangeId> {
        self.cache.guesses().collect()
    }

    /// Whether a split has made the range, and nobody has answered as its leader since.
    pub fn awaits_leader(&self, range: RangeId) -> bool {
        self.cache.is_unserved_heir(range)
    }

    /// Nobody serves the range, for longer than that takes after a split.
    pub fn await_no_longer(&mut self, range: RangeId) {
        self.cache.is_no_heir(range);
    }

    /// Takes in what the masters say: a cache of what leaders have reported, by the same rules as a
    /// store's description.
    pub fn learn_routes(&mut self, routes: &[Route]) {
        self.install(routes.iter().filter_map(|route| route.descriptor.as_ref()));
        for Route { descriptor, leader_store_id, term } in routes {
            let Some(descriptor) = descriptor else { continue };
            let leader = StoreId(*leader_store_id);
            if self.reach(leader) == Reach::Up {
                self.cache.on_described(RangeId(descriptor.range_id), leader, *term);
            }
        }
    }

    /// A store answered for a range, which only its leader does.
    pub fn answered(&mut self, range_id: u64, from: StoreId) {
        if self.reach(from) != Reach::Down {
            self.cache.on_answered(RangeId(range_id), from);
        }
    }

    /// Whether [`answered`](Self::answered) can teach anything.
    pub fn learns_from_answers(&self) -> bool {
        self.cache.learns_from_answers()
    }

    /// A store said that it does not lead. A hint at a store that cannot be reached is passed over:
    /// whoever hints has not noticed yet that it is gone.
    pub fn not_leader(&mut self, from: StoreId, said: &NotLeader) {
        let range = RangeId(said.range_id);
        let hint = StoreId(said.leader_store_id);
        let hint = (self.reach(hint) == Reach::Up).then_some(hint);
        self.cache.on_not_leader(range, from, hint);
        self.lead_around(range);
    }

    /// Takes in what a store says after a call with a wrong range or version.
    pub fn moved(&mut self, known: &EpochNotMatch) {
        let known: Vec<_> = known.descriptors.iter().filter_map(read).collect();
        let is_known = |it: &Descriptor| self.cache.descriptor(it.range) == Some(it);
        // Whatever was on its way when a range was split is told the same.
        if known.iter().all(is_known) {
            return;
        }
        let ranges: Vec<_> = known.iter().map(|known| known.range).collect();
        for refused in self.cache.on_epoch_not_match(known) {
            tracing::debug!(why = %refused, "a descriptor was not taken");
        }
        self.look_for_gaps();
        ranges.into_iter().for_each(|range| self.lead_around(range));
    }

    /// The names of which no range is known, in words; None: every name has its route.
    pub fn gap(&self) -> Option<String> {
        self.gap.map(|gap| format!("as far as this gateway knows, {gap}"))
    }

    /// Whether the range of every name is known, or has been.
    pub fn was_whole(&self) -> bool {
        self.was_whole
    }

    fn install<'d>(&mut self, descriptors: impl Iterator<Item = &'d RangeDescriptor>) {
        let mut is_news = false;
        for descriptor in descriptors.filter_map(read) {
            let range = descriptor.range;
            is_news |= self.cache.descriptor(range) != Some(&descriptor);
            // A cached newer one is a normal case.
            if let Err(refused) = self.cache.install(descriptor) {
                tracing::debug!(why = %refused, "a descriptor was not taken");
            }
            self.lead_around(range);
        }
        if is_news {
            self.look_for_gaps();
        }
    }

    fn look_for_gaps(&mut self) {
        self.gap = check_tiling(self.cache.descriptors()).err();
        self.was_whole |= self.gap.is_none();
    }

    fn reach(&self, store: StoreId) -> Reach {
        self.stores.get(&store).map_or(Reach::Down, |linked| linked.reach)
    }

    fn set_reach(&mut self, store: StoreId, reach: Reach) {
        if let Some(linked) = self.stores.get_mut(&store) {
            linked.reach = reach;
        }
        self.lead_around_unreachable();
    }

    fn lead_around_unreachable(&mut self) {
        let ranges: Vec<_> = self.cache.descriptors().map(|known| known.range).collect();
        ranges.into_iter().for_each(|range| self.lead_around(range));
    }

    /// Aims a range that is aimed at an unreachable store at the next voter that answers, or else
    /// at the next that is linked at all.
    fn lead_around(&mut self, range: RangeId) {
        let Some(aimed) = self.cache.destination(range).map(|to| self.reach(to.store())) else {
            return;
        };
        let voters = self.cache.descriptor(range).into_iter().flat_map(Descriptor::voters);
        let best = voters.map(|voter| self.reach(voter.store)).min().unwrap_or(Reach::Down);
        if aimed <= best {
            return;
        }
        // In the descriptor's order, as after a refusal: it ends, since a voter of that reach exists.
        while let Some(to) = self.cache.destination(range).map(|to| to.store())
            && self.reach(to) > best
        {
            self.cache.on_not_leader(range, to, None);
        }
    }
}

/// None when it describes no range, or says something that this version does not know.
fn read(wire: &RangeDescriptor) -> Option<Descriptor> {
    let read = Descriptor::try_from(wire);
    read.inspect_err(|why| tracing::warn!(%why, "a descriptor of a range is not usable")).ok()
}

#[cfg(test)]
mod tests {
    use sharklock_proto::internal::v1::ReplicaRole;

    use super::*;

    fn half(range_id: u64, start: &str, end: &str, version: u64) -> RangeDescriptor {
        let replica = sharklock_proto::internal::v1::Replica {
            peer_id: range_id * 10,
            store_id: 1,
            role: ReplicaRole::Voter as i32,
        };
        RangeDescriptor {
            range_id,
            start: start.to_owned().into(),
            end: end.to_owned().into(),
            conf_ver: 1,
            version,
            replicas: vec![replica],
        }
    }

    fn description(descriptors: Vec<RangeDescriptor>) -> StoreDescription {
        StoreDescription { descriptors, ..StoreDescription::default() }
    }

    const A: StoreId = StoreId(1);
    const B: StoreId = StoreId(2);
    const C: StoreId = StoreId(3);

    fn routing(stores: &[StoreId]) -> Routing {
        let mut routing = Routing::default();
        stores.iter().for_each(|store| routing.link_up(*store));
        routing
    }

    /// One range of all names on stores 1 to 3.
    fn whole() -> StoreDescription {
        let mut whole = half(1, "", "", 4);
        whole.replicas = (1..=3)
            .map(|store_id| sharklock_proto::internal::v1::Replica {
                peer_id: 10 + store_id,
                store_id,
                role: ReplicaRole::Voter as i32,
            })
            .collect();
        description(vec![whole])
    }

    fn led(leader_store_id: u64, term: u64) -> StoreDescription {
        let status = sharklock_proto::v1::RangeStatus {
            range_id: 1,
            leader_store_id,
            term,
            ..Default::default()
        };
        StoreDescription { ranges: vec![status], ..StoreDescription::default() }
    }

    fn not_leader(leader_store_id: u64) -> NotLeader {
        NotLeader { range_id: 1, leader_store_id }
    }

    /// (store, whether it is known to lead)
    fn aim(routing: &Routing) -> Option<(StoreId, bool)> {
        routing.route(b"a").map(|target| (target.store, target.is_leader))
    }

    fn range_of(routing: &Routing, name: &str) -> Option<(u64, u64)> {
        routing.route(name.as_bytes()).map(|target| (target.range_id, target.version))
    }

    #[test]
    fn an_unknown_name_is_left_to_a_store_and_a_known_one_is_routed() {
        let mut routing = Routing::default();
        assert_eq!(range_of(&routing, "a"), None, "no store is linked");
        routing.link_up(A);
        assert_eq!(range_of(&routing, "a"), Some((0, 0)));
        routing.learn(&description(vec![half(1, "", "", 4)]));
        assert_eq!(range_of(&routing, "a"), Some((1, 4)));
        assert!(!routing.route(b"a").expect("it is linked").has_others, "one voter");
    }

    #[test]
    fn a_store_that_refuses_a_route_teaches_the_new_one() {
        let mut routing = routing(&[A]);
        routing.learn(&description(vec![half(1, "", "", 4)]));
        let descriptors = vec![half(1, "", "m", 5), half(2, "m", "", 5)];
        routing.moved(&EpochNotMatch { descriptors });
        assert_eq!(range_of(&routing, "a"), Some((1, 5)));
        assert_eq!(range_of(&routing, "m"), Some((2, 5)));
    }

    #[test]
    fn names_of_which_no_range_is_known_are_a_gap() {
        let mut routing = routing(&[A]);
        assert!(routing.gap().expect("it knows nothing").contains("there is no range"));
        routing.learn(&description(vec![half(2, "m", "", 5)]));
        assert!(routing.gap().expect("up to m").contains("right before range 2"));
        routing
            .learn_routes(&[Route { descriptor: Some(half(1, "", "m", 5)), ..Route::default() }]);
        assert_eq!(routing.gap(), None);
        // One half of a newer split.
        routing.moved(&EpochNotMatch { descriptors: vec![half(2, "m", "t", 6)] });
        assert!(routing.gap().expect("from t on").contains("after range 2"));
        routing.moved(&EpochNotMatch { descriptors: vec![half(3, "t", "", 6)] });
        assert_eq!(routing.gap(), None);
    }

    #[test]
    fn a_replica_of_an_unknown_role_makes_a_descriptor_useless() {
        let mut routing = routing(&[A]);
        let mut unknown = half(1, "", "", 4);
        unknown.replicas[0].role = 9;
        routing.learn(&description(vec![unknown]));
        assert_eq!(range_of(&routing, "a"), Some((0, 0)));
    }

    #[test]
    fn descriptions_and_hints_lead_to_the_leader() {
        let mut routing = routing(&[A, B, C]);
        routing.learn(&whole());
        assert_eq!(aim(&routing), Some((A, false)));
        routing.learn(&led(2, 5));
        assert_eq!(aim(&routing), Some((B, true)));
        routing.not_leader(B, &not_leader(3));
        assert_eq!(aim(&routing), Some((C, true)));
        routing.not_leader(C, &not_leader(0));
        assert_eq!(aim(&routing), Some((A, false)), "the next voter");
        routing.answered(1, A);
        assert_eq!(aim(&routing), Some((A, true)));
    }

    #[test]
    fn the_masters_word_counts_as_a_description_of_its_term() {
        let route = |leader_store_id, term| Route {
            descriptor: whole().descriptors.first().cloned(),
            leader_store_id,
            term,
        };
        let mut routing = routing(&[A, B]);
        routing.learn_routes(&[route(2, 5)]);
        assert_eq!(aim(&routing), Some((B, true)));
        routing.learn_routes(&[route(1, 4)]);
        assert_eq!(aim(&routing), Some((B, true)), "a new master has old news");
        routing.learn_routes(&[route(3, 6)]);
        assert_eq!(aim(&routing), Some((B, true)), "nobody can reach C from here");
        routing.learn_routes(&[route(0, 0), Route { descriptor: None, ..route(1, 9) }]);
        assert_eq!(aim(&routing), Some((B, true)), "it does not know");
        routing.link_up(C);
        routing.learn_routes(&[route(3, 6)]);
        assert_eq!(aim(&routing), Some((C, true)));
    }

    #[test]
    fn a_lost_link_moves_the_route_on_and_hints_at_it_are_passed_over() {
        let mut routing = routing(&[A, B, C]);
        routing.learn(&whole());
        routing.learn(&led(2, 5));
        routing.link_lost(B);
        assert_eq!(aim(&routing), Some((C, false)));
        routing.not_leader(C, &not_leader(2));
        assert_eq!(aim(&routing), Some((A, false)), "C has not noticed that B is gone");
        routing.learn(&led(2, 6));
        assert_eq!(aim(&routing), Some((A, false)), "nor has whoever described this");
        routing.not_leader(A, &not_leader(0));
        assert_eq!(aim(&routing), Some((C, false)), "around B");
        routing.link_lost(A);
        routing.link_lost(C);
        assert_eq!(aim(&routing), None, "nobody can be reached");
        routing.link_up(B);
        assert_eq!(aim(&routing), Some((B, false)), "a store that is back is found");
    }

    #[test]
    fn a_silent_store_is_tried_only_where_nobody_else_is_left() {
        let mut routing = routing(&[A, B, C]);
        routing.learn(&whole());
        routing.learn(&led(2, 5));
        routing.silent(B);
        assert_eq!(aim(&routing), Some((C, false)));
        routing.link_lost(A);
        routing.not_leader(C, &not_leader(2));
        assert_eq!(aim(&routing), Some((C, false)), "B is silent, A is gone");
        routing.link_lost(C);
        assert_eq!(aim(&routing), Some((B, false)));
        routing.speaks(B);
        routing.link_up(C);
        assert_eq!(aim(&routing), Some((B, false)));
    }

    #[test]
    fn a_store_owes_an_answer_from_the_first_call_after_its_last_word() {
        let routing = routing(&[A, B]);
        routing.sent(100, A);
        routing.sent(500, A);
        assert_eq!(routing.owing(100), []);
        assert_eq!(routing.owing(101), [A]);
        routing.heard(A);
        assert_eq!(routing.owing(1_000), []);
        routing.sent(600, A);
        assert_eq!(routing.owing(600), []);
    }
}
