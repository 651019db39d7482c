//! Where everything arrives that is for a store's workers: it goes to the mailbox of the worker whose
//! range it is for, by the table of ranges. With one worker there is nothing to look up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sharklock_proto::{
    Lane,
    internal::v1::{StoreCall, StoreReply},
};

use crate::{
    assignment::Assignment,
    edge::mailbox::Mailbox,
    front::LinkId,
    gathering::{GATHERING_LINK, Gathering, is_for_all},
    ports::{Input, Whereabouts},
};

/// See the module. Its locks are held for a few look-ups; whoever takes both takes that of the table
/// first, and no mailbox is touched meanwhile.
#[derive(Debug)]
pub struct Porter {
    mailboxes: Vec<Arc<Mailbox>>,
    table: Mutex<Assignment>,
    gathering: Mutex<Gathering>,
}

impl Porter {
    /// For the workers of a table, with what they have from the start on.
    pub fn new(table: Assignment) -> Self {
        let workers = table.workers();
        let mailboxes = (0..workers).map(|_| Arc::default()).collect();
        let gathering = Mutex::new(Gathering::new(workers));
        Self { mailboxes, table: Mutex::new(table), gathering }
    }

    /// The mailboxes, by the numbers of their workers.
    pub fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }

    /// Posts calls of a gateway, or gives those back for which there is no room.
    pub fn post(
        &self,
        lane: Lane,
        link: LinkId,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        if let [only] = self.mailboxes.as_slice() {
            return only.post(lane, link, calls);
        }
        let (for_all, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_for_all);
        let mut back: Vec<_> =
            for_all.into_iter().filter(|call| !self.ask_all(lane, link, call)).collect();
        let sorted = self.table().sort_calls(calls);
        for (worker, calls) in sorted {
            if let Err(calls) = self.mailboxes[worker].post(lane, link, calls) {
                back.extend(calls);
            }
        }
        if back.is_empty() { Ok(()) } else { Err(back) }
    }

    /// A question to the whole store. False: not all workers have room for it.
    fn ask_all(&self, lane: Lane, link: LinkId, call: &StoreCall) -> bool {
        let calls = self.gathering().ask(link, call);
        let is_posted = |(mailbox, call): (&Arc<Mailbox>, &StoreCall)| {
            mailbox.post(lane, GATHERING_LINK, vec![call.clone()]).is_ok()
        };
        let is_asked = self.mailboxes.iter().zip(&calls).all(is_posted);
        if !is_asked {
            self.gathering().not_asked(&calls);
        }
        is_asked
    }

    /// Takes what a worker has said on [`GATHERING_LINK`]; gives what is whole by that.
    pub fn gathered(&self, worker: usize, replies: Vec<StoreReply>) -> Vec<(LinkId, StoreReply)> {
        let table = self.table();
        let is_elsewhere = |range, worker| table.is_elsewhere(range, worker);
        let mut gathering = self.gathering();
        let whole = |reply| gathering.answered(worker, reply, is_elsewhere);
        replies.into_iter().filter_map(whole).collect()
    }

    /// A gateway is gone.
    pub fn link_closed(&self, link: LinkId) {
        self.gathering().link_closed(link);
        self.mailboxes.iter().for_each(|mailbox| mailbox.link_closed(link));
    }

    /// Tells the workers what comes seldom.
    pub fn tell(&self, input: Input) {
        if let [only] = self.mailboxes.as_slice() {
            return only.tell(input);
        }
        let about = Assignment::is_about_life(&input);
        let routed = self.table().route(input);
        if let Some(range) = about.filter(|_| routed.is_empty()) {
            tracing::error!(%range, "it is not made: several workers have its names");
        }
        routed.into_iter().for_each(|(worker, input)| self.mailboxes[worker].tell(input));
    }

    /// What other stores say, in the order of their stream. What does not fit is lost, as on a bad link.
    pub fn raft(&self, inputs: Vec<Input>) {
        if let [only] = self.mailboxes.as_slice() {
            drop(only.raft(inputs));
            return;
        }
        let mut sorted: Vec<_> = self.mailboxes.iter().map(|_| Vec::new()).collect();
        let mut table = self.table();
        for (worker, input) in inputs.into_iter().flat_map(|input| table.route(input)) {
            sorted[worker].push(input);
        }
        drop(table);
        for (mailbox, inputs) in self.mailboxes.iter().zip(sorted) {
            if !inputs.is_empty()
                && let Err(lost) = mailbox.raft(inputs)
            {
                let ranges = lost.iter().filter_map(Assignment::is_about_life);
                ranges.for_each(|range| self.table().not_sent(range));
            }
        }
    }

    /// Follows what a worker tells of its ranges, before anything else of its turn is done.
    pub fn follow(&self, worker: usize, told: Vec<Whereabouts>) {
        if self.mailboxes.len() == 1 {
            return;
        }
        for told in told {
            // The others hear of a tombstone before the table can give them its range or its names.
            let for_others = self.table().follow(worker, told);
            let others = self.mailboxes.iter().enumerate().filter(|(it, _)| *it != worker);
            if let Some(Input::Buried { range, peer }) = for_others {
                others.for_each(|(_, mailbox)| mailbox.tell(Input::Buried { range, peer }));
            }
        }
    }

    /// Whether the workers finish: calls are refused.
    pub fn is_closed(&self) -> bool {
        self.mailboxes.iter().any(|mailbox| mailbox.is_closed())
    }

    /// Asks the workers to finish.
    pub fn close(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.close());
    }

    // A panic aborts the process; should a test catch one, what is behind these locks is whole all the
    // same.

    fn table(&self) -> MutexGuard<'_, Assignment> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gathering(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
