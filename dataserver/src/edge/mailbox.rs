//! The queue in front of a worker: bounded, with a lane for what must not wait behind acquires
//! (D16).

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sharklock_multiraft::BatchSeq;
use sharklock_proto::{Lane, internal::v1::StoreCall};

use crate::{front::LinkId, ports::Input};

/// Calls that may stand in the mailbox. Ordinary calls may use half of it, so that keepalives,
/// releases and cancels always find room (D16).
pub const CALLS_MAX: usize = 65_536;

/// Messages of other stores that may stand in the mailbox. A worker that is so far behind has been
/// given up by its peers; what is dropped here Raft sends again.
const RAFT_MAX: usize = 65_536;

/// A mutex with two short critical sections, push and take-all, hidden behind these methods; the
/// worker sleeps on the condition variable.
#[derive(Debug, Default)]
pub struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    internal: Vec<Input>,
    raft: Vec<Input>,
    urgent: Vec<Letter>,
    ordinary: Vec<Letter>,
    calls_count: usize,
    /// Calls for which there was no room.
    refused: u64,
    worker_sleeps: bool,
    closed: bool,
}

#[derive(Debug)]
struct Letter {
    link: LinkId,
    arrived: Instant,
    calls: Vec<StoreCall>,
}

/// The mail that a worker found.
#[derive(Debug, Default)]
pub struct Mail {
    /// In the order in which it is to be handled.
    pub inputs: Vec<Input>,
    /// Nothing will come any more.
    pub closed: bool,
}

impl Mailbox {
    /// Posts calls of a gateway, or gives them back when their lane is full or the worker is gone.
    #[expect(clippy::disallowed_methods, reason = "an edge: letters are stamped on arrival")]
    pub fn post(
        &self,
        lane: Lane,
        link: LinkId,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        let arrived = Instant::now();
        let mut state = self.state();
        let bound = match lane {
            Lane::Urgent => CALLS_MAX,
            Lane::Ordinary => CALLS_MAX / 2,
        };
        if state.closed || state.calls_count + calls.len() > bound {
            state.refused += if state.closed { 0 } else { calls.len() as u64 };
            return Err(calls);
        }
        state.calls_count += calls.len();
        let letter = Letter { link, arrived, calls };
        match lane {
            Lane::Urgent => state.urgent.push(letter),
            Lane::Ordinary => state.ordinary.push(letter),
        }
        self.wake(state);
        Ok(())
    }

    /// Tells the worker that the disk has a batch.
    pub fn persisted(&self, seq: BatchSeq) {
        let mut state = self.state();
        state.internal.push(Input::Persisted(seq));
        self.wake(state);
    }

    /// Tells the worker that a gateway is gone.
    pub fn link_closed(&self, link: LinkId) {
        self.tell(Input::LinkClosed(link));
    }

    /// Tells the worker what comes seldom: once per connection, or per answer of a master.
    pub fn tell(&self, input: Input) {
        let mut state = self.state();
        state.internal.push(input);
        self.wake(state);
    }

    /// Posts what other stores say, also after the close: a store that stops still hands over. What
    /// does not fit comes back, and is lost, as on a bad link.
    pub fn raft(&self, inputs: Vec<Input>) -> Result<(), Vec<Input>> {
        let mut state = self.state();
        if state.raft.len() + inputs.len() > RAFT_MAX {
            return Err(inputs);
        }
        state.raft.extend(inputs);
        self.wake(state);
        Ok(())
    }

    /// Whether the worker finishes: calls are refused.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Calls for which there was no room so far.
    pub fn refused(&self) -> u64 {
        self.state().refused
    }

    /// Whether nothing stands here.
    pub fn is_empty(&self) -> bool {
        !self.state().has_mail()
    }

    /// Asks the worker to finish.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.wake(state);
    }

    /// Takes everything that stands here, waiting at most `patience` for something to come or for
    /// the close.
    pub fn take(&self, patience: Duration) -> Mail {
        self.take_once(patience, |state| state.has_mail() || state.closed)
    }

    /// As `take`, for a caller that knows of the close: what the disk says still comes.
    pub fn take_after_close(&self, patience: Duration) -> Mail {
        self.take_once(patience, State::has_mail)
    }

    fn take_once(&self, patience: Duration, enough: impl Fn(&State) -> bool) -> Mail {
        let mut state = self.state();
        if !enough(&state) && !patience.is_zero() {
            state.worker_sleeps = true;
            let waited = self.arrived.wait_timeout_while(state, patience, |state| !enough(state));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.worker_sleeps = false;
        }
        let mut inputs = std::mem::take(&mut state.internal);
        inputs.append(&mut state.raft);
        let urgent = std::mem::take(&mut state.urgent);
        let ordinary = std::mem::take(&mut state.ordinary);
        state.calls_count = 0;
        let closed = state.closed;
        drop(state);
        inputs.extend(urgent.into_iter().chain(ordinary).map(|letter| Input::Calls {
            link: letter.link,
            queued: letter.arrived.elapsed(),
            calls: letter.calls,
        }));
        Mail { inputs, closed }
    }

    /// Wakes the worker only if it sleeps: a futex call per letter would cost more than the letter.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let sleeps = state.worker_sleeps;
        drop(state);
        if sleeps {
            self.arrived.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic aborts the process; should a test catch one, the state is whole all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_mail(&self) -> bool {
        let calls = !(self.urgent.is_empty() && self.ordinary.is_empty());
        calls || !(self.internal.is_empty() && self.raft.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(count: usize) -> Vec<StoreCall> {
        vec![StoreCall::default(); count]
    }

    #[test]
    fn acquires_stop_at_half_and_leave_room_for_keepalives() {
        let mailbox = Mailbox::default();
        let link = LinkId(1);
        assert!(mailbox.post(Lane::Ordinary, link, calls(CALLS_MAX / 2)).is_ok());
        let refused = mailbox.post(Lane::Ordinary, link, calls(1)).expect_err("half is full");
        assert_eq!(refused.len(), 1, "they come back to be answered");
        assert!(mailbox.post(Lane::Urgent, link, calls(CALLS_MAX / 2)).is_ok());
        assert!(mailbox.post(Lane::Urgent, link, calls(1)).is_err());
        assert_eq!(mailbox.take(Duration::ZERO).inputs.len(), 2);
        assert!(mailbox.post(Lane::Ordinary, link, calls(1)).is_ok());
    }

    #[test]
    fn what_the_disk_says_comes_first_and_acquires_last() {
        let mailbox = Mailbox::default();
        mailbox.post(Lane::Ordinary, LinkId(1), calls(1)).expect("empty");
        mailbox.post(Lane::Urgent, LinkId(2), calls(1)).expect("empty");
        mailbox.persisted(BatchSeq(9));
        let inputs = mailbox.take(Duration::ZERO).inputs;
        assert!(matches!(inputs[0], Input::Persisted(BatchSeq(9))));
        assert!(matches!(inputs[1], Input::Calls { link: LinkId(2), .. }));
        assert!(matches!(inputs[2], Input::Calls { link: LinkId(1), .. }));
    }

    #[test]
    fn a_closed_mailbox_refuses_and_says_so() {
        let mailbox = Mailbox::default();
        mailbox.close();
        assert!(mailbox.post(Lane::Urgent, LinkId(1), calls(1)).is_err());
        assert!(mailbox.take(Duration::from_secs(60)).closed);
    }
}
