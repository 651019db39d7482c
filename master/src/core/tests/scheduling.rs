//! The masters act by themselves: as the schedule says, and as people have set it.

use sharklock_proto::{
    internal::v1::{OrphanReplica, range_step},
    v1::{
        self, OperatorState, PauseScheduleRequest, ScheduleSetting, SetScheduleRequest,
        SetStoreDutyRequest, StoreDuty, StoreLabel,
    },
};

use super::{
    operations::{made, moves, wanted, with_range},
    *,
};
use crate::refusal::Reason;

/// Range 1 as its replicas have it, and the stores that are alive.
struct Cluster {
    world: World,
    range: RangeDescriptor,
    leader: u64,
    term: u64,
    alive: Vec<u64>,
}

impl Cluster {
    fn of_four() -> Self {
        let (world, range) = with_range();
        Self { world, range, leader: 1, term: 6, alive: vec![1, 2, 3, 4] }
    }

    /// So many seconds, in which the leader of the range does what it is told.
    fn live(&mut self, seconds: u64) {
        let end = self.world.now + Duration::from_secs(seconds);
        while self.world.now < end {
            // Questions take a while, too.
            self.world.now += Duration::from_millis(400);
            (0..2).for_each(|_| self.world.tick());
            for store in self.alive.clone() {
                let leads = store == self.leader;
                let reports = leads.then(|| report(&self.range, self.term));
                let answer = self.world.beat(store, 1, reports.into_iter().collect());
                assert!(leads || answer.steps.is_empty(), "only a leader is told");
                let at = (self.range.conf_ver, self.range.version);
                // What was decided by an older epoch is not done.
                let due = answer.steps.into_iter().filter(|it| (it.conf_ver, it.version) == at);
                for step in due.collect::<Vec<_>>() {
                    self.does(step.step.expect("it is set"));
                }
            }
        }
    }

    fn does(&mut self, step: range_step::Step) {
        match step {
            range_step::Step::HandOverTo(to) => {
                let others = self.range.replicas.iter().map(|it| it.store_id);
                self.leader = match to {
                    0 => others.filter(|it| *it != self.leader).min().expect("there is one"),
                    store => store,
                };
                self.term += 1;
            }
            step => made(&mut self.range, step),
        }
    }

    fn stores(&self) -> Vec<u64> {
        self.range.replicas.iter().map(|it| it.store_id).collect()
    }

    fn ask_duty(&mut self, store: u64, duty: StoreDuty, dry_run: bool) -> v1::SetStoreDutyResponse {
        match self.world.ask(self::duty(store, duty, dry_run)) {
            Reply::Duty(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn set_duty(&mut self, store: u64, duty: StoreDuty) -> v1::SetStoreDutyResponse {
        self.ask_duty(store, duty, false)
    }

    fn pause(&mut self, is_paused: bool) {
        let operator = "ops@host".to_owned();
        let pause = Request::PauseSchedule(PauseScheduleRequest { is_paused, operator });
        assert!(matches!(self.world.ask(pause), Reply::Paused(_)));
    }

    fn schedule(&mut self) -> v1::GetScheduleResponse {
        match self.world.ask(Request::Schedule) {
            Reply::Schedule(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn value(&mut self, key: &str) -> (u64, bool) {
        let settings = self.schedule().settings;
        let setting = settings.iter().find(|it| it.key == key).expect("it is a setting");
        (setting.value, setting.is_default)
    }
}

fn duty(store_id: u64, duty: StoreDuty, dry_run: bool) -> Request {
    let (duty, operator) = (duty.into(), "ops@host".to_owned());
    Request::SetStoreDuty(SetStoreDutyRequest { store_id, duty, dry_run, operator })
}

fn set(changes: &[(&str, u64)], reset: &[&str], dry_run: bool) -> Request {
    let setting = |(key, value): &(&str, u64)| {
        let key = (*key).to_owned();
        ScheduleSetting { key, value: *value, ..ScheduleSetting::default() }
    };
    Request::SetSchedule(SetScheduleRequest {
        settings: changes.iter().map(setting).collect(),
        reset: reset.iter().map(|key| (*key).to_owned()).collect(),
        dry_run,
        operator: "ops@host".to_owned(),
    })
}

#[test]
fn a_store_that_drains_becomes_empty_and_gets_nothing_until_it_serves_again() {
    let mut cluster = Cluster::of_four();
    let seen = cluster.ask_duty(1, StoreDuty::Draining, true);
    assert_eq!((seen.replicas, seen.leaders), (1, 1), "{seen:?}");
    cluster.live(60);
    assert_eq!(cluster.stores(), [1, 2, 3], "a dry run does nothing");
    assert_eq!(cluster.set_duty(1, StoreDuty::Draining).duty(), StoreDuty::Draining);
    cluster.live(2);
    assert_eq!(cluster.world.state().operators().running().count(), 1, "it moves the replica");
    let refusal = refused(&mut cluster.world, wanted(1, moves(2, 1), false));
    assert_eq!(refusal.reason, Reason::StoreUnfit, "to wait for the operator would not help");
    cluster.live(20);
    assert_ne!(cluster.leader, 1);
    assert_eq!(cluster.stores(), [2, 3, 4]);
    let refusal = refused(&mut cluster.world, wanted(1, moves(2, 1), false));
    assert_eq!(refusal.reason, Reason::StoreUnfit);
    assert!(refusal.message.contains("stores undrain 1"), "{}", refusal.message);
    cluster.set_duty(1, StoreDuty::Unspecified);
    let begun = cluster.world.ask(wanted(1, moves(2, 1), false));
    assert!(matches!(begun, Reply::Changing(_)), "it serves again");
}

#[test]
fn a_store_that_is_silent_for_long_is_replaced_and_may_come_back_empty() {
    let mut cluster = Cluster::of_four();
    cluster.live(40);
    cluster.alive.retain(|store| *store != 3);
    cluster.live(280);
    assert_eq!(cluster.stores(), [1, 2, 3], "it may still come back");
    cluster.live(40);
    assert_eq!(cluster.stores(), [1, 2, 4]);
    cluster.alive.push(3);
    cluster.live(60);
    assert_eq!(cluster.stores(), [1, 2, 4], "whoever comes back is no reason to move anything");
}

#[test]
fn a_store_that_is_gone_is_replaced_at_once_and_refused_for_ever() {
    let mut cluster = Cluster::of_four();
    cluster.live(40);
    let alive = duty(3, StoreDuty::Gone, false);
    let refusal = refused(&mut cluster.world, alive);
    assert_eq!(refusal.reason, Reason::StoreUnfit);
    assert!(refusal.message.contains("sharklock stores drain 3"), "{}", refusal.message);
    cluster.alive.retain(|store| *store != 3);
    cluster.live(15);
    cluster.set_duty(3, StoreDuty::Gone);
    cluster.live(20);
    assert_eq!(cluster.stores(), [1, 2, 4]);
    let beat = Request::StoreHeartbeat(cluster.world.heartbeat(3, 1, Vec::new()));
    assert_eq!(refused(&mut cluster.world, beat).reason, Reason::StoreGone);
    let again = cluster.world.register(registration(3, 2, "s3:7710")).expect_err("for ever");
    assert_eq!(again.reason, Reason::StoreGone);
    let undo = duty(3, StoreDuty::Unspecified, false);
    assert_eq!(refused(&mut cluster.world, undo).reason, Reason::StoreUnfit);
    let hash = cluster.world.heartbeat(1, 1, Vec::new());
    let Reply::Heard(answer) = cluster.world.ask(Request::StoreHeartbeat(hash)) else {
        panic!("it is heard")
    };
    let peers: Vec<u64> = answer.stores.iter().map(|store| store.store_id).collect();
    assert_eq!(peers, [1, 2, 4], "no other store speaks with it");
    let unknown = duty(9, StoreDuty::Draining, false);
    assert_eq!(refused(&mut cluster.world, unknown).reason, Reason::StoreUnknown);
}

#[test]
fn nothing_begins_while_it_is_paused_under_whatever_master() {
    let mut cluster = Cluster::of_four();
    cluster.pause(true);
    cluster.set_duty(1, StoreDuty::Draining);
    cluster.live(60);
    assert_eq!(cluster.stores(), [1, 2, 3]);
    let old = cluster.world.until_led();
    cluster.world.crash(old);
    cluster.live(60);
    let seen = cluster.schedule();
    assert!(seen.is_paused && seen.plans.is_empty(), "{seen:?}");
    assert_eq!(seen.paused_by, "ops@host");
    assert_eq!(cluster.stores(), [1, 2, 3]);
    cluster.pause(false);
    cluster.live(30);
    assert_eq!(cluster.stores(), [2, 3, 4]);
}

#[test]
fn what_people_have_set_outlives_the_master_and_can_be_taken_back() {
    let mut cluster = Cluster::of_four();
    assert_eq!(cluster.value("replicas"), (3, true));
    let Reply::Settings(dry) = cluster.world.ask(set(&[("replicas", 1)], &[], true)) else {
        panic!("it is allowed")
    };
    assert!(dry.settings.iter().any(|it| it.key == "replicas" && it.value == 1));
    assert_eq!(cluster.value("replicas"), (3, true), "a dry run changes nothing");
    let both = [("replicas", 1), ("patience", 5_000)];
    assert!(matches!(cluster.world.ask(set(&both, &[], false)), Reply::Settings(_)));
    let old = cluster.world.until_led();
    cluster.world.crash(old);
    cluster.live(20);
    assert_eq!(cluster.value("replicas"), (1, false));
    assert_eq!(cluster.stores().len(), 1, "{:?}", cluster.range);
    cluster.world.ask(set(&[("coming", 4)], &["replicas"], false));
    cluster.live(30);
    assert_eq!(cluster.value("replicas"), (3, true));
    assert_eq!(cluster.stores().len(), 3, "{:?}", cluster.range);
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_and_nothing_of_it_is_done() {
    let mut cluster = Cluster::of_four();
    for (changes, reset, says) in [
        (&[("replicas", 2)][..], &[][..], "replicas is 2: it must be 1, 3, 5 or 7"),
        (&[("coming", 4), ("tolerance", 1_000)], &[], "tolerance is 1000 thousandths"),
        (&[("urgent.coming", 0)], &[], "urgent.coming is 0: to stop the schedule, pause it"),
        (&[("leaders", 65)], &[], "leaders is 65: a store has slots for 64 at most"),
        (&[("patience", 0)], &[], "patience is 0ns: it must be from 1 s to 3600 s"),
        (&[("speed", 9)], &[], "there is no setting \"speed\": choose from replicas"),
        (&[], &["speed"], "there is no setting \"speed\""),
        (&[("replicas", 3), ("replicas", 5)], &[], "replicas is named twice"),
        (&[("replicas", 3)], &["replicas"], "replicas is named twice"),
        (&[], &[], "nothing is named"),
    ] {
        for dry_run in [true, false] {
            let refusal = refused(&mut cluster.world, set(changes, reset, dry_run));
            assert_eq!(refusal.reason, Reason::Invalid);
            assert!(refusal.message.contains(says), "{}", refusal.message);
        }
    }
    assert_eq!(cluster.value("coming"), (2, true));
}

#[test]
fn a_store_is_known_by_its_labels_and_replicas_come_apart_by_them() {
    let mut cluster = Cluster::of_four();
    let label = |zone: &str| StoreLabel { key: "zone".to_owned(), value: zone.to_owned() };
    for (dir, zone) in [(1, "a"), (2, "b"), (3, "b"), (4, "c")] {
        let address = format!("s{dir}:7710");
        let labelled =
            RegisterStoreRequest { labels: vec![label(zone)], ..registration(dir, 1, &address) };
        assert_eq!(cluster.world.register(labelled), Ok(dir.into()));
    }
    cluster.live(200);
    let stores = cluster.stores();
    assert!(stores.contains(&1) && stores.contains(&4) && stores.len() == 3, "{stores:?}");
    let long = RegisterStoreRequest {
        labels: vec![label(&"z".repeat(65))],
        ..registration(5, 1, "s5:7710")
    };
    let refusal = cluster.world.register(long).expect_err("it is too long");
    assert!(refusal.message.contains("labels: at most 8"), "{}", refusal.message);
}

#[test]
fn an_operator_of_the_schedule_says_what_it_is_for() {
    let mut cluster = Cluster::of_four();
    cluster.set_duty(1, StoreDuty::Draining);
    cluster.live(60);
    let list = Request::ListOperators(v1::ListOperatorsRequest::default());
    let Reply::Operators(list) = cluster.world.ask(list) else { panic!("a list") };
    assert!(!list.operators.is_empty());
    for operator in list.operators {
        assert_eq!(operator.state(), OperatorState::Done, "{operator:?}");
        assert!(operator.by.is_empty(), "{operator:?}");
        assert!(operator.reason.contains("store 1"), "{operator:?}");
    }
}

#[test]
fn a_replica_that_was_replaced_while_it_was_away_hears_it_from_the_masters() {
    let (mut world, range) = with_range();
    let before = range.conf_ver;
    let peer = |range: &RangeDescriptor, store: u64| {
        let mut replicas = range.replicas.iter();
        replicas.find(|it| it.store_id == store).expect("a member").peer_id
    };
    let old = peer(&range, 3);
    let mut now = range;
    made(&mut now, range_step::Step::Demote(old));
    made(&mut now, range_step::Step::Remove(old));
    world.beat(1, 1, vec![report(&now, 6)]);
    (0..3).for_each(|_| world.tick());
    let orphan =
        |peer_id, conf_ver| OrphanReplica { range_id: 1, peer_id, conf_ver, ..Default::default() };
    let mut asks = |orphan: OrphanReplica| {
        let beat = world.heartbeat(3, 1, Vec::new());
        let beat = StoreHeartbeatRequest { orphans: vec![orphan], ..beat };
        match world.ask(Request::StoreHeartbeat(beat)) {
            Reply::Heard(answer) => answer.removed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asks(orphan(old, before)), [orphan(old, before + 2)]);
    assert_eq!(asks(orphan(peer(&now, 2), before)), [], "a member, who has not heard of late");
    assert_eq!(asks(orphan(77, before + 2)), [], "it knows as much as the masters");
    assert_eq!(asks(OrphanReplica { range_id: 9, ..orphan(old, before) }), [], "no such range");
}

/// Also where it leads: a leadership finds another place, and the replica would stay for ever.
#[test]
fn draining_below_the_wanted_replicas_says_what_it_would_wait_for() {
    let mut cluster = Cluster::of_four();
    cluster.set_duty(4, StoreDuty::Draining);
    cluster.live(1);
    for store in [1, 2] {
        let seen = cluster.ask_duty(store, StoreDuty::Draining, true);
        assert_eq!(seen.leaders, u64::from(store == cluster.leader));
        assert!(seen.warnings.iter().any(|it| it.contains("add a store")), "{seen:?}");
    }
}

/// Whoever waits for a store to become empty must not be told so by a master that has heard no store yet.
#[test]
fn a_master_that_has_just_begun_to_lead_knows_what_a_store_has() {
    let mut cluster = Cluster::of_four();
    cluster.live(5);
    let old = cluster.world.until_led();
    cluster.world.crash(old);
    assert_eq!(cluster.ask_duty(1, StoreDuty::Draining, true).replicas, 1);
}

/// What was made again elsewhere is not counted where it was: an operator would wait for it for ever.
#[test]
fn a_store_that_is_silent_has_what_the_masters_know() {
    let mut cluster = Cluster::of_four();
    cluster.live(5);
    let counts = |cluster: &mut Cluster, store: u64| {
        let Reply::Cluster(seen) = cluster.world.ask(Request::Cluster) else { panic!("a cluster") };
        let mut stores = seen.stores.into_iter();
        let seen = stores.find(|it| it.store_id == store).expect("it is known");
        (seen.replicas_count, seen.leaders_count)
    };
    assert_eq!(counts(&mut cluster, 3).0, 1);
    cluster.alive.retain(|store| *store != 3);
    cluster.live(15);
    cluster.set_duty(3, StoreDuty::Gone);
    cluster.live(40);
    assert_eq!(cluster.stores(), [1, 2, 4]);
    assert_eq!(counts(&mut cluster, 3), (0, 0), "its replica was replaced");
    let old = cluster.world.until_led();
    cluster.world.crash(old);
    cluster.world.until_led();
    assert_eq!(counts(&mut cluster, 1).0, 1, "the next master counts before anybody beats");
}
