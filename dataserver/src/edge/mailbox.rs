//! The queue in front of a worker: bounded, with a lane for what must not wait behind acquires
//! (D16).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sharklock_multiraft::BatchSeq;
use sharklock_proto::{Lane, internal::v1::StoreCall};
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{self, timeout_at},
};

use crate::{front::LinkId, ports::Input};

/// Calls that may stand in the mailbox. Ordinary calls may use half of it, so that keepalives,
/// releases and cancels always find room (D16).
pub const CALLS_MAX: usize = 65_536;

/// Messages of other stores that may stand in the mailbox. A worker that is so far behind has been
/// given up by its peers; what is dropped here Raft sends again.
const RAFT_MAX: usize = 65_536;

/// A mutex with two short critical sections, push and take-all, hidden behind these methods; the
/// worker's thread sleeps until it is notified, or has other tasks to do.
#[derive(Debug, Default)]
pub struct Mailbox {
    state: Mutex<State>,
    arrived: Notify,
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

impl Mail {
    /// Everything that stands there.
    fn of(mut state: MutexGuard<'_, State>) -> Self {
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
    /// the close. Other tasks of the thread have their turn in any case.
    pub async fn take(&self, patience: Duration) -> Mail {
        self.take_once(patience, |state| state.has_mail() || state.closed).await
    }

    /// As `take`, for a caller that knows of the close: what the disk says still comes.
    pub async fn take_after_close(&self, patience: Duration) -> Mail {
        self.take_once(patience, State::has_mail).await
    }

    async fn take_once(&self, patience: Duration, enough: impl Fn(&State) -> bool) -> Mail {
        if patience.is_zero() || enough(&self.state()) {
            // There may be work without an end, and connections on this thread must not starve.
            yield_now().await;
        }
        let deadline = time::Instant::now() + patience;
        loop {
            let is_over = time::Instant::now() >= deadline;
            if let Some(mail) = self.take_now(|state| is_over || enough(state)) {
                return mail;
            }
            // Whether something has come or not is looked at above.
            let _ = timeout_at(deadline, self.arrived.notified()).await;
        }
    }

    /// None: it is not enough, and the worker falls asleep.
    fn take_now(&self, enough: impl Fn(&State) -> bool) -> Option<Mail> {
        let mut state = self.state();
        state.worker_sleeps = !enough(&state);
        (!state.worker_sleeps).then(|| Mail::of(state))
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

    #[tokio::test]
    async fn acquires_stop_at_half_and_leave_room_for_keepalives() {
        let mailbox = Mailbox::default();
        let link = LinkId(1);
        assert!(mailbox.post(Lane::Ordinary, link, calls(CALLS_MAX / 2)).is_ok());
        let refused = mailbox.post(Lane::Ordinary, link, calls(1)).expect_err("half is full");
        assert_eq!(refused.len(), 1, "they come back to be answered");
        assert!(mailbox.post(Lane::Urgent, link, calls(CALLS_MAX / 2)).is_ok());
        assert!(mailbox.post(Lane::Urgent, link, calls(1)).is_err());
        assert_eq!(mailbox.take(Duration::ZERO).await.inputs.len(), 2);
        assert!(mailbox.post(Lane::Ordinary, link, calls(1)).is_ok());
    }

    #[tokio::test]
    async fn what_the_disk_says_comes_first_and_acquires_last() {
        let mailbox = Mailbox::default();
        mailbox.post(Lane::Ordinary, LinkId(1), calls(1)).expect("empty");
        mailbox.post(Lane::Urgent, LinkId(2), calls(1)).expect("empty");
        mailbox.persisted(BatchSeq(9));
        let inputs = mailbox.take(Duration::ZERO).await.inputs;
        assert!(matches!(inputs[0], Input::Persisted(BatchSeq(9))));
        assert!(matches!(inputs[1], Input::Calls { link: LinkId(2), .. }));
        assert!(matches!(inputs[2], Input::Calls { link: LinkId(1), .. }));
    }

    #[tokio::test]
    async fn a_closed_mailbox_refuses_and_says_so() {
        let mailbox = Mailbox::default();
        mailbox.close();
        assert!(mailbox.post(Lane::Urgent, LinkId(1), calls(1)).is_err());
        assert!(mailbox.take(Duration::from_secs(60)).await.closed);
    }

    #[tokio::test]
    async fn whoever_is_polled_beside_the_worker_has_his_turn_however_busy_it_is() {
        let (busy, hurried) = (Mailbox::default(), Mailbox::default());
        busy.persisted(BatchSeq(1));
        for (mailbox, patience) in [(busy, Duration::from_secs(60)), (hurried, Duration::ZERO)] {
            let beside = tokio::spawn(async {});
            mailbox.take(patience).await;
            assert!(beside.is_finished());
        }
    }

    /// A letter that came while the worker fell asleep would be found with the next one only.
    #[test]
    fn no_letter_is_overlooked_by_a_worker_that_falls_asleep() {
        const POSTED: u64 = 20_000;
        let mailbox = Mailbox::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let (taken, wanted) = std::sync::mpsc::channel();
        let posting = &mailbox;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for seq in 0..POSTED {
                    posting.persisted(BatchSeq(seq));
                    // The next comes only after this one was taken.
                    let got = wanted.recv_timeout(Duration::from_secs(30));
                    assert_eq!(got, Ok(seq));
                }
            });
            runtime.block_on(async {
                for seq in 0..POSTED {
                    let inputs = mailbox.take(Duration::from_secs(60)).await.inputs;
                    assert!(matches!(inputs[..], [Input::Persisted(BatchSeq(of))] if of == seq));
                    taken.send(seq).expect("it waits for it");
                }
            });
        });
    }
}
