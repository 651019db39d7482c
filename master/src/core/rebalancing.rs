//! Somebody orders stores to be balanced now. The schedule carries it out (`scheduling.rs`) as far as
//! stores have room, second by second, until nothing of it is left.

use std::time::Duration;

use sharklock_proto::v1::{RebalanceRequest, RebalanceResponse, Spread};

use super::{MasterCore, operations::check_by, scheduling::shown};
use crate::{
    refusal::{Reason, Refusal},
    request::Reply,
    schedule::{self, Class, Hindrance, Plan},
};

/// An order ends after so long whatever is left, so that no load that swings keeps leaders moving.
const LASTS: Duration = Duration::from_secs(600);

/// Somebody wants stores to be balanced. Soft: it ends with the leadership of its master.
#[derive(Debug)]
pub(super) struct Order {
    by: String,
    pub(super) at: Duration,
}

impl MasterCore {
    /// Somebody wants stores to be balanced, or asks how far that is.
    pub(super) fn rebalance(
        &mut self,
        now: Duration,
        request: RebalanceRequest,
    ) -> Result<Reply, Refusal> {
        let RebalanceRequest { dry_run, operator: by } = request;
        check_by(&by)?;
        let done = schedule::rebalance(self.view(now)).map_err(|why| {
            let reason = match why {
                Hindrance::Paused => Reason::SchedulePaused,
                _ => Reason::ScheduleWaits,
            };
            Refusal::new(reason, format!("nothing is balanced: {why}"))
        })?;
        let schedule::Rebalance { plans, spreads } = done;
        let spread = |it: schedule::Spread| {
            let schedule::Spread { what, least, mean, most } = it;
            Spread { what: what.to_owned(), least, mean, most }
        };
        let answer = RebalanceResponse {
            plans: shown(&plans),
            plans_count: plans.len() as u64,
            under_way_count: self.balancing(now) as u64,
            spreads: spreads.into_iter().map(spread).collect(),
            tolerance_per_mille: self.schedule_settings().tolerance,
        };
        let order = &mut self.leading.as_mut().expect("only a leader is asked").scheduling.order;
        if !dry_run && !plans.is_empty() && order.is_none() {
            tracing::info!(operator = by, plans = plans.len(), "stores are balanced by order");
            *order = Some(Order { by, at: now });
        }
        Ok(Reply::Rebalancing(answer))
    }

    /// Operators that balance and have not ended.
    fn balancing(&self, now: Duration) -> usize {
        self.in_flight(now).values().filter(|it| it.class == Some(Class::Balance)).count()
    }

    /// With each pass of the schedule: an order ends when nothing of it is left.
    pub(super) fn follow_order(&mut self, now: Duration, plans: &[Plan]) {
        let leading = self.leading.as_ref().expect("only a leader plans");
        let Some(order) = &leading.scheduling.order else { return };
        let is_late = now.saturating_sub(order.at) >= LASTS;
        let is_left = plans.iter().any(|plan| plan.class == Class::Balance);
        if is_late || !(is_left || self.balancing(now) > 0) {
            tracing::info!(operator = order.by, is_late, "the order to balance stores has ended");
            self.leading.as_mut().expect("as before").scheduling.order = None;
        }
    }

    /// Whoever has ordered what the schedule begins; empty: nobody.
    pub(super) fn ordered_by(&self, plan: &Plan) -> String {
        let leading = self.leading.as_ref().expect("only a leader plans");
        let order = leading.scheduling.order.as_ref();
        let order = order.filter(|_| plan.class == Class::Balance);
        order.map(|order| order.by.clone()).unwrap_or_default()
    }
}
