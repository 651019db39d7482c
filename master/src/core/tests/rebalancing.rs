//! Somebody orders stores to be balanced now.

use sharklock_proto::{
    internal::v1::range_step,
    v1::{
        self, OperatorState, PauseScheduleRequest, RebalanceRequest, RebalanceResponse,
        range_goal::Goal as Wire,
    },
};

use super::{
    operations::{made, with_range},
    *,
};
use crate::refusal::Reason;

/// Six ranges on stores 1 to 3, all led by store 1; store 4 is empty.
struct Six {
    world: World,
    ranges: Vec<(RangeDescriptor, u64, u64)>,
}

impl Six {
    fn new() -> Self {
        let (world, first) = with_range();
        let bound = |at: u64| if at == 0 || at == 6 { Vec::new() } else { vec![b'a' + at as u8] };
        let range = |at: u64| {
            let mut range = RangeDescriptor {
                range_id: 1 + 10 * at,
                start: bound(at).into(),
                end: bound(at + 1).into(),
                version: first.version + 1,
                ..first.clone()
            };
            for replica in &mut range.replicas {
                replica.peer_id += 100 * at;
            }
            (range, 1, 6)
        };
        let mut six = Self { world, ranges: (0..6).map(range).collect() };
        six.live(3);
        six
    }

    /// So many seconds, in which leaders do what they are told.
    fn live(&mut self, seconds: u64) {
        let end = self.world.now + Duration::from_secs(seconds);
        while self.world.now < end {
            self.world.now += Duration::from_millis(400);
            (0..2).for_each(|_| self.world.tick());
            for store in 1..=4 {
                let led = self.ranges.iter().filter(|(_, leader, _)| *leader == store);
                let reports = led.map(|(range, _, term)| report(range, *term)).collect();
                for step in self.world.beat(store, 1, reports).steps {
                    let mut ranges = self.ranges.iter_mut();
                    let of = |it: &&mut (RangeDescriptor, u64, u64)| it.0.range_id == step.range_id;
                    let (range, leader, term) = ranges.find(of).expect("one of the six");
                    if (step.conf_ver, step.version) != (range.conf_ver, range.version) {
                        continue;
                    }
                    match step.step.expect("it is set") {
                        range_step::Step::HandOverTo(to) => (*leader, *term) = (to, *term + 1),
                        step => made(range, step),
                    }
                }
            }
        }
    }

    fn order(&mut self, dry_run: bool) -> RebalanceResponse {
        match self.world.ask(rebalance(dry_run)) {
            Reply::Rebalancing(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn led(&self) -> [usize; 4] {
        [1, 2, 3, 4].map(|store| self.ranges.iter().filter(|it| it.1 == store).count())
    }

    fn operators(&mut self) -> Vec<v1::Operator> {
        let list = Request::ListOperators(v1::ListOperatorsRequest::default());
        match self.world.ask(list) {
            Reply::Operators(list) => list.operators,
            other => panic!("{other:?}"),
        }
    }
}

fn rebalance(dry_run: bool) -> Request {
    Request::Rebalance(RebalanceRequest { dry_run, operator: "ops@host".to_owned() })
}

#[test]
fn an_order_to_balance_is_carried_out_at_once_and_ends() {
    let mut six = Six::new();
    let would = six.order(true);
    assert!(would.plans_count >= 4 && would.plans_count == would.plans.len() as u64, "{would:?}");
    let most = would.spreads.iter().find(|it| it.what == "leaders").map(|it| it.most);
    assert_eq!(most, Some(6), "{would:?}");
    six.live(5);
    assert_eq!((six.led(), six.operators()), ([6, 0, 0, 0], vec![]), "a dry run does nothing");
    let ordered = six.order(false);
    assert_eq!(ordered.plans, would.plans);
    let left = |it: &RebalanceResponse| it.plans_count + it.under_way_count;
    for _ in 0..60 {
        if left(&six.order(false)) == 0 {
            break;
        }
        six.live(1);
    }
    assert_eq!(left(&six.order(false)), 0);
    let led = six.led();
    assert!(led[..3].iter().all(|it| (1..=3).contains(it)), "{led:?}");
    let replicas = |store| {
        let on = |range: &RangeDescriptor| range.replicas.iter().any(|it| it.store_id == store);
        six.ranges.iter().filter(|it| on(&it.0)).count()
    };
    assert!(replicas(4) >= 3, "of 18 replicas, the new store has {}", replicas(4));
    let operators = six.operators();
    assert!(operators.len() >= 6, "{operators:?}");
    let mut led = BTreeSet::new();
    for it in operators {
        assert_eq!((it.state(), it.by.as_str()), (OperatorState::Done, "ops@host"), "{it:?}");
        assert!(it.reason.contains("the mean is"), "{it:?}");
        if let Some(Wire::LeadStoreId(_)) = it.goal.and_then(|goal| goal.goal) {
            assert!(led.insert(it.range_id), "an order moves each leader once");
        }
    }
}

#[test]
fn without_an_order_leaders_cool_down() {
    let mut six = Six::new();
    six.live(200);
    assert_eq!(six.led(), [6, 0, 0, 0]);
    let by = six.operators();
    assert!(!by.is_empty() && by.iter().all(|it| it.by.is_empty()), "replicas move: {by:?}");
    six.live(500);
    assert!(six.led()[0] < 6, "10 minutes have passed");
}

#[test]
fn an_order_is_refused_while_the_schedule_is_paused_and_a_pause_ends_it() {
    let mut six = Six::new();
    let pause = |is_paused| {
        let operator = "ops@host".to_owned();
        Request::PauseSchedule(PauseScheduleRequest { is_paused, operator })
    };
    six.world.ask(pause(true));
    for dry_run in [true, false] {
        let refusal = refused(&mut six.world, rebalance(dry_run));
        assert_eq!(refusal.reason, Reason::SchedulePaused);
        assert!(refusal.message.contains("`sharklock schedule resume`"), "{}", refusal.message);
    }
    six.world.ask(pause(false));
    six.order(false);
    six.world.ask(pause(true));
    six.live(3);
    six.world.ask(pause(false));
    let led = six.led();
    six.live(60);
    assert_eq!(six.led(), led, "nobody wants it any more");
    let long = RebalanceRequest { dry_run: false, operator: "x".repeat(257) };
    let refusal = refused(&mut six.world, Request::Rebalance(long));
    assert_eq!(refusal.reason, Reason::Invalid);
}

#[test]
fn an_order_waits_for_enough_stores_and_ends_with_its_master() {
    let mut six = Six::new();
    six.order(false);
    let old = six.world.until_led();
    six.world.crash(old);
    let led = six.led();
    six.live(60);
    assert_eq!(six.led(), led, "the next master has not heard of it");
    for _ in 0..30 {
        six.world.now += Duration::from_millis(400);
        (0..2).for_each(|_| six.world.tick());
        for store in 1..=2 {
            six.world.beat(store, 1, Vec::new());
        }
    }
    let refusal = refused(&mut six.world, rebalance(false));
    assert_eq!(refusal.reason, Reason::ScheduleWaits);
    assert!(refusal.message.contains("2 of 4 stores are not heard of"), "{}", refusal.message);
}
