//! An operator of the masters: replicas and leaderships move, stores drain, the schedule is set and
//! paused. Each order is one question that is asked until a leading master has answered it.

use sharklock_master::{Reply, Request};
use sharklock_proto::v1::{
    CancelOperatorRequest, ChangeRangeRequest, PauseScheduleRequest, RangeGoal, RebalanceRequest,
    ScheduleSetting, SetScheduleRequest, SetStoreDutyRequest, StoreDuty,
    range_goal::{Goal, Move},
};
use sharklock_rangemap::{Descriptor, StoreId};

use crate::asking::{Asker, Heard, Question, Seeker};
use crate::node::Node;
use crate::note;
use crate::ranges::REPLICAS;
use crate::world::{Event, MS, World};

/// Orders that wait for an answer: somebody at a terminal has patience for few.
const OPEN_MAX: usize = 4;

/// The orders that were not answered.
#[derive(Debug, Default)]
pub struct Orders {
    open: Vec<Order>,
    /// The masters plan nothing by themselves: it is calm, and everything is to come to rest.
    are_paused: bool,
}

#[derive(Debug)]
struct Order {
    /// The number of the question that is open is that of the order; 0: it waits for its next try.
    seeker: Seeker,
    number: u64,
    request: Request,
}

impl World {
    pub(crate) fn plan_order(&mut self) {
        let mean = self.options.orders_mean_ms;
        if mean > 0 && !self.masters.is_empty() && !self.is_calm {
            let at = self.now + self.dice.orders.around(mean * MS) + MS;
            self.queue.plan(at, Event::Order);
        }
    }

    /// In some runs the masters are quicker than as shipped, so that a short run sees much of them.
    pub(crate) fn begin_orders(&mut self) {
        if self.masters.is_empty() {
            return;
        }
        // Masters that meet ranges that were made by hand are told to make none themselves. In one order:
        // settings are checked together, and what masters begin with is none that they would take.
        let mut settings = vec![("replicas", REPLICAS as u64)];
        if self.options.orders_mean_ms > 0 {
            let cool_down = self.options.cool_down_ms;
            settings.extend([("patience", 3_000), ("cool-down", cool_down), ("load-floor", 1)]);
        }
        self.order(set(&settings));
        self.plan_order();
    }

    /// Somebody wants something of the masters.
    pub(crate) fn order_something(&mut self) {
        self.plan_order();
        if self.orders.open.len() >= OPEN_MAX || self.is_calm {
            return;
        }
        if let Some(request) = self.draw_order() {
            self.order(request);
        }
    }

    fn draw_order(&mut self) -> Option<Request> {
        let stores: Vec<StoreId> = self.stores.iter().filter_map(|store| store.id).collect();
        let ranges: Vec<Descriptor> = self.checks.tiling.all().cloned().collect();
        let dice = &mut self.dice.orders;
        if ranges.is_empty() || stores.is_empty() {
            return None;
        }
        let range = dice.pick(&ranges);
        let (to, from) = (dice.pick(&stores).0, dice.pick(&range.replicas).store.0);
        let goal = match dice.below(12) {
            0..=3 => Goal::Move(Move { from_store_id: from, to_store_id: to }),
            4..=6 => Goal::LeadStoreId(from),
            7 => Goal::AddStoreId(to),
            // Whoever misses a machine does not take away what is left.
            8 if self.losses.one_is_missing() => return None,
            8 => Goal::RemoveStoreId(from),
            9 => return Some(duty(to, StoreDuty::Draining)),
            10 => return Some(duty(to, StoreDuty::Unspecified)),
            _ => return self.draw_change_of_plans(),
        };
        let (range_id, goal) = (range.range.0, Some(RangeGoal { goal: Some(goal) }));
        let operator = "operator".to_owned();
        Some(Request::ChangeRange(ChangeRangeRequest { range_id, goal, dry_run: false, operator }))
    }

    fn draw_change_of_plans(&mut self) -> Option<Request> {
        let leading = self.masters.iter().find(|master| master.leads()).and_then(|it| it.core());
        let running = leading.into_iter().flat_map(|core| core.state().operators().running());
        let running: Vec<u64> = running.map(|operator| operator.id).collect();
        let dice = &mut self.dice.orders;
        Some(match dice.below(5) {
            0 => pause(true),
            1 => pause(false),
            3 => rebalance(),
            2 if self.losses.one_is_missing() => return None,
            2 => set(&[("replicas", *dice.pick(&[1, 3, 3, 5]))]),
            _ if running.is_empty() => return None,
            _ => Request::CancelOperator(CancelOperatorRequest {
                operator_id: *dice.pick(&running),
                operator: "operator".to_owned(),
            }),
        })
    }

    /// It is calm, and nobody orders anything any more: for a while the masters go on by themselves.
    pub(crate) fn balance_on(&mut self) {
        if !self.masters.is_empty() {
            self.orders.open.clear();
            self.order(pause(false));
        }
    }

    /// It is calm: nobody orders anything any more. Where machines were lost the masters repair until
    /// the clients go, else nothing new begins.
    pub(crate) fn cease_orders(&mut self) {
        if !self.masters.is_empty() {
            self.orders.open.clear();
            self.order(pause(self.options.lose_store_mean_ms == 0));
            self.say_what_is_missing();
        }
    }

    /// What runs comes to its end.
    pub(crate) fn cease_repairs(&mut self) {
        if !self.masters.is_empty() && self.options.lose_store_mean_ms > 0 {
            self.order(pause(true));
        }
    }

    pub(crate) fn order(&mut self, request: Request) {
        self.counters.count("orders to masters");
        let number = self.next_question();
        let seeker = Seeker::new(self.masters.len());
        self.orders.open.push(Order { seeker, number, request });
        self.order_again(number);
    }

    /// An order is given, for the first time or again.
    pub(crate) fn order_again(&mut self, number: u64) {
        let question = self.next_question();
        let mut open = self.orders.open.iter_mut();
        let Some(order) = open.find(|order| order.number == number) else { return };
        order.seeker.number = question;
        let (seeker, request) = (order.seeker, order.request.clone());
        let asker = Asker { node: Node::Operator, life: 0, number: question };
        self.ask_masters(asker, &seeker, Question::Request(Box::new(request)));
    }

    /// What came of an order.
    pub(crate) fn operator_hears(&mut self, asker: Asker, heard: Heard) {
        let open = self.orders.open.iter().position(|it| it.seeker.number == asker.number);
        let Some(at) = open else { return };
        let order = &mut self.orders.open[at];
        order.seeker.number = 0;
        let leader = match heard {
            Heard::Nothing => None,
            Heard::Routes(_) => unreachable!("an operator does not watch"),
            Heard::Reply(reply) => match *reply {
                Reply::Refused(refusal) if refusal.reason.is_retryable() => refusal.leader,
                reply => {
                    let order = self.orders.open.swap_remove(at);
                    return self.ordered(&order.request, &reply);
                }
            },
        };
        order.seeker.led_away(leader.as_deref());
        let at = self.now + order.seeker.pause_ns(&mut self.dice.orders) + MS;
        let number = order.number;
        self.queue.plan(at, Event::OrderAgain(number));
    }

    fn ordered(&mut self, request: &Request, reply: &Reply) {
        self.counters.count(match (request, reply) {
            (_, Reply::Refused(_)) => "orders refused",
            (Request::ChangeRange(_), _) => "operators begun by order",
            _ => "orders done",
        });
        self.told_of_store(request, matches!(reply, Reply::Refused(_)));
        if let Reply::Refused(refusal) = reply {
            note!(self, "an order is refused: {}", refusal.message);
        }
        if self.is_calm && matches!(reply, Reply::Paused(_)) {
            self.orders.are_paused = is_pause(request);
        }
    }

    /// At rest the schedule is paused, and every operator has ended: none waits for what never comes.
    pub(crate) fn check_operators_at_rest(&mut self) {
        let leading = self.masters.iter().find(|master| master.leads()).and_then(|it| it.core());
        let Some(core) = leading else { return };
        let what = match core.state().operators().running().next() {
            Some(operator) => format!("at rest operator {operator:?} has not ended"),
            None if !self.orders.are_paused => "the schedule could not be paused".to_owned(),
            None => return,
        };
        self.violated("operators", &[], format_args!("{what}"));
    }

    /// Whether somebody has ordered fewer replicas, as far as any master or order knows.
    pub(crate) fn ranges_shrink(&self) -> bool {
        let few = |count: u64| count < REPLICAS as u64;
        let cores = self.masters.iter().filter_map(|master| master.core());
        let mut chosen = cores.filter_map(|core| core.state().choices().get("replicas"));
        let ordered = |order: &Order| match &order.request {
            Request::SetSchedule(set) => {
                set.settings.iter().any(|it| it.key == "replicas" && few(it.value))
            }
            Request::ChangeRange(change) => {
                let goal = change.goal.as_ref().and_then(|it| it.goal.as_ref());
                matches!(goal, Some(Goal::RemoveStoreId(_)))
            }
            _ => false,
        };
        chosen.any(|count| few(*count)) || self.orders.open.iter().any(ordered)
    }

    /// Whether the masters are about to change a range.
    pub(crate) fn is_being_changed(&self, descriptor: &Descriptor) -> bool {
        let cores = self.masters.iter().filter_map(|master| master.core());
        cores.into_iter().any(|core| core.state().operators().of(descriptor.range).is_some())
    }
}

pub(crate) fn duty(store_id: u64, duty: StoreDuty) -> Request {
    let (duty, operator) = (duty.into(), "operator".to_owned());
    Request::SetStoreDuty(SetStoreDutyRequest { store_id, duty, dry_run: false, operator })
}

fn rebalance() -> Request {
    let operator = "operator".to_owned();
    Request::Rebalance(RebalanceRequest { dry_run: false, operator })
}

fn pause(is_paused: bool) -> Request {
    let operator = "operator".to_owned();
    Request::PauseSchedule(PauseScheduleRequest { is_paused, operator })
}

fn is_pause(request: &Request) -> bool {
    matches!(request, Request::PauseSchedule(it) if it.is_paused)
}

fn set(settings: &[(&str, u64)]) -> Request {
    let setting = |(key, value): &(&str, u64)| {
        let key = (*key).to_owned();
        ScheduleSetting { key, value: *value, ..ScheduleSetting::default() }
    };
    let settings = settings.iter().map(setting).collect();
    let operator = "operator".to_owned();
    let (reset, dry_run) = (Vec::new(), false);
    Request::SetSchedule(SetScheduleRequest { settings, reset, dry_run, operator })
}
