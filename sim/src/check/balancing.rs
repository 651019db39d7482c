//! L6: the schedule moves a range's leader to balance at most once per cool-down, since each change of
//! leaders starts all leases of the range anew. Watched from outside, in true time, by the operators
//! that masters know.

use std::collections::BTreeMap;
use std::time::Duration;

use sharklock_master::schedule::{Class, Settings};
use sharklock_master::{ClusterState, Goal, Operator};
use sharklock_proto::v1::OperatorState;
use sharklock_rangemap::RangeId;

use crate::world::S;

/// An operator is seen so long after it began, at most, and the clocks of masters are not quite true.
const SLACK_NS: u64 = S;
/// In hundredths.
const CLOCKS: u64 = 98;

/// See the module.
#[derive(Debug, Default)]
pub struct Balancing {
    /// The last operator that was seen.
    seen: u64,
    /// The last operator of each range that was to make another store lead: its id, and when it was
    /// seen first, which is before the leader changed.
    last: BTreeMap<RangeId, (u64, u64)>,
}

impl Balancing {
    /// Looks at the operators that have begun since. How many of them move a leader to balance, by
    /// themselves, and those that come too soon behind another that has come about.
    pub fn observe(&mut self, now: u64, state: &ClusterState) -> (u64, Vec<String>) {
        let (mut moved, mut faults) = (0, Vec::new());
        for operator in state.operators().after(self.seen) {
            self.seen = operator.id;
            if !matches!(operator.goal, Goal::Lead { .. }) {
                continue;
            }
            let last = self.last.insert(operator.range, (operator.id, now));
            if !is_balance(operator) {
                continue;
            }
            moved += 1;
            let Some((id, at)) = last else { continue };
            let is_done = |it: &Operator| it.state == OperatorState::Done;
            let cool_down = cool_down(state).as_nanos() as u64 / 100 * CLOCKS;
            if state.operators().get(id).is_some_and(is_done) && now + SLACK_NS < at + cool_down {
                faults.push(format!(
                    "operator {} moves the leader of range {} to balance, {} ms behind operator {id}",
                    operator.id,
                    operator.range,
                    (now - at) / 1_000_000
                ));
            }
        }
        (moved, faults)
    }
}

/// Of the schedule itself; whoever orders stores to be balanced does not want to wait.
fn is_balance(operator: &Operator) -> bool {
    operator.class == Some(Class::Balance) && operator.by.is_empty()
}

fn cool_down(state: &ClusterState) -> Duration {
    Settings::default().with(state.choices()).cool_down
}
