//! Which range a name belongs to, as far as stores have said.
//!
//! It owns the translation of wire descriptors into the routing cache of `sharklock-rangemap`, whose
//! rules decide which of two contradicting descriptors is right. Wrong routes are safe: a store
//! checks every call's range and version.

use sharklock_proto::internal::v1::{
    EpochNotMatch, RangeDescriptor, ReplicaRole, StoreDescription,
};
use sharklock_rangemap::{
    Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, RouteCache, StoreId,
};

/// What this gateway knows of the ranges.
#[derive(Debug, Default)]
pub struct Routing {
    cache: RouteCache,
    /// Whether some store has described itself.
    described: bool,
    /// Whether, when it did, every range had a leader.
    led: bool,
}

impl Routing {
    /// Range and descriptor version to put into a call for `name`; (0, 0), which leaves it to the
    /// store, while no range is known for it.
    pub fn route(&self, name: &[u8]) -> (u64, u64) {
        self.cache.route(name).map_or((0, 0), |route| (route.range.0, route.epoch.version))
    }

    /// Whether calls have a chance: a store answers, and says that its ranges have leaders.
    pub fn is_ready(&self) -> bool {
        self.described && self.led
    }

    /// Takes in what a store says of itself.
    pub fn learn(&mut self, description: &StoreDescription) {
        for descriptor in &description.descriptors {
            self.install(descriptor);
        }
        self.described = !description.descriptors.is_empty();
        self.led = description.ranges.iter().all(|range| range.leader_store_id != 0);
    }

    /// Stores have stopped to answer.
    pub fn lost(&mut self) {
        self.led = false;
    }

    /// Takes in what a store says after a call with a wrong range or version.
    pub fn moved(&mut self, known: &EpochNotMatch) {
        let known = known.descriptors.iter().filter_map(descriptor);
        for refused in self.cache.on_epoch_not_match(known.collect()) {
            tracing::debug!(error = %refused, "a descriptor was not taken");
        }
    }

    fn install(&mut self, wire: &RangeDescriptor) {
        let Some(descriptor) = descriptor(wire) else {
            tracing::warn!(range = wire.range_id, "a descriptor has a replica of unknown role");
            return;
        };
        // A cached equal or newer one is the normal case.
        if let Err(refused) = self.cache.install(descriptor) {
            tracing::debug!(error = %refused, "a descriptor was not taken");
        }
    }
}

/// None when it says something that this version does not know.
fn descriptor(wire: &RangeDescriptor) -> Option<Descriptor> {
    let replica = |replica: &sharklock_proto::internal::v1::Replica| {
        let role = match replica.role() {
            ReplicaRole::Voter => Role::Voter,
            ReplicaRole::Learner => Role::Learner,
            ReplicaRole::Unspecified => return None,
        };
        Some(Replica { peer: PeerId(replica.peer_id), store: StoreId(replica.store_id), role })
    };
    Some(Descriptor {
        range: RangeId(wire.range_id),
        bounds: Bounds { start: wire.start.to_vec(), end: wire.end.to_vec() },
        epoch: Epoch { version: wire.version, conf_ver: wire.conf_ver },
        replicas: wire.replicas.iter().map(replica).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_unknown_name_is_left_to_the_store_and_a_known_one_is_routed() {
        let mut routing = Routing::default();
        assert_eq!(routing.route(b"a"), (0, 0));
        routing.learn(&description(vec![half(1, "", "", 4)]));
        assert_eq!(routing.route(b"a"), (1, 4));
    }

    #[test]
    fn a_store_that_refuses_a_route_teaches_the_new_one() {
        let mut routing = Routing::default();
        routing.learn(&description(vec![half(1, "", "", 4)]));
        let descriptors = vec![half(1, "", "m", 5), half(2, "m", "", 5)];
        routing.moved(&EpochNotMatch { descriptors });
        assert_eq!(routing.route(b"a"), (1, 5));
        assert_eq!(routing.route(b"m"), (2, 5));
    }

    #[test]
    fn a_replica_of_an_unknown_role_makes_a_descriptor_useless() {
        let mut routing = Routing::default();
        let mut unknown = half(1, "", "", 4);
        unknown.replicas[0].role = 9;
        routing.learn(&description(vec![unknown]));
        assert_eq!(routing.route(b"a"), (0, 0));
    }

    #[test]
    fn a_gateway_is_ready_while_stores_answer_and_every_range_has_a_leader() {
        let mut routing = Routing::default();
        assert!(!routing.is_ready());
        let mut known = description(vec![half(1, "", "", 4)]);
        known.ranges.push(sharklock_proto::v1::RangeStatus::default());
        routing.learn(&known);
        assert!(!routing.is_ready(), "a range without a leader");
        known.ranges[0].leader_store_id = 1;
        routing.learn(&known);
        assert!(routing.is_ready());
        routing.lost();
        assert!(!routing.is_ready());
    }
}
