//! Lists over all ranges: page by page, each at any gateway, while ranges split between pages and
//! during one. S13: whoever holds a lock from the beginning of a list to its end is in it, once, in
//! order.

use std::collections::BTreeSet;

use sharklock_gateway::listing::Listing;
use sharklock_gateway::outbox::Answer;
use sharklock_gateway::validate::{self, Checked};
use sharklock_gateway::{Origin, failure::Failure};
use sharklock_proto::internal::v1::store_reply::Body;
use sharklock_proto::internal::v1::{ListRange, RangeLocks};
use sharklock_proto::v1::ListLocksRequest;

use crate::check::Guard;
use crate::note;
use crate::world::{Event, MS, S, World};

/// How long a page is waited for, and filled up.
const PAGE_NS: u64 = 3 * S;

/// What happens next with a list.
#[derive(Clone, Copy, Debug)]
pub enum ListStep {
    /// Somebody wants one.
    Begins,
    /// The next page of this list is asked for.
    Page(u64),
    /// This attempt at a page has had its time.
    Ends(u64),
}

/// One list at a time.
#[derive(Debug, Default)]
pub struct Lists {
    count: u64,
    attempts: u64,
    open: Option<List>,
}

#[derive(Debug)]
struct List {
    number: u64,
    prefix: String,
    page_size: u32,
    token: String,
    listed: Vec<String>,
    /// What was out when it began.
    held: BTreeSet<Guard>,
    ranges: usize,
    page: Option<Page>,
}

/// A page on its way.
#[derive(Debug)]
struct Page {
    attempt: u64,
    gateway: usize,
    life: u32,
    listing: Listing,
    round: Vec<ListRange>,
    calls: Vec<u64>,
    parts: Vec<Option<Result<RangeLocks, Failure>>>,
    /// So many parts of the round are in the page.
    taken: usize,
    has_begun: bool,
}

/// What a page does next.
enum Next {
    Waits,
    /// It asks more ranges.
    Asks,
    /// It is as good as it gets.
    Ends,
    /// Its first range did not answer: it is asked for again.
    Fails,
}

impl Page {
    /// Puts what has come into the page, in order.
    fn follow(&mut self) -> Result<Next, Failure> {
        while let Some(part) = self.parts.get_mut(self.taken).and_then(Option::take) {
            let Ok(part) = part else {
                return Ok(if self.has_begun { Next::Ends } else { Next::Fails });
            };
            if !self.listing.take(&self.round[self.taken], part)? {
                return Ok(Next::Asks);
            }
            self.has_begun = true;
            self.taken += 1;
        }
        Ok(if self.taken == self.round.len() { Next::Asks } else { Next::Waits })
    }
}

impl World {
    pub(crate) fn plan_list(&mut self) {
        let mean = self.options.list_mean_ms;
        if mean > 0 && !self.is_winding_down {
            let at = self.now + self.dice.lists.around(mean * MS) + MS;
            self.queue.plan(at, Event::List(ListStep::Begins));
        }
    }

    pub(crate) fn list_step(&mut self, step: ListStep) {
        let list = self.lists.open.as_ref();
        match step {
            ListStep::Begins => {
                self.plan_list();
                if self.lists.open.is_none() {
                    self.list_begins();
                }
            }
            ListStep::Page(number) => {
                if list.is_some_and(|list| list.number == number) {
                    self.ask_page();
                }
            }
            ListStep::Ends(attempt) => {
                let page = list.and_then(|list| list.page.as_ref());
                if let Some(page) = page.filter(|page| page.attempt == attempt) {
                    let next = if page.has_begun { Next::Ends } else { Next::Fails };
                    self.page_goes_on(next);
                }
            }
        }
    }

    fn list_begins(&mut self) {
        let dice = &mut self.dice.lists;
        let name = self.names.draw(dice);
        let prefix = match dice.below(4) {
            0 => name[..dice.below(1 + name.len() as u64) as usize].to_owned(),
            _ => String::new(),
        };
        let page_size = *dice.pick(&[1, 2, 5, 1_000]);
        self.lists.count += 1;
        let number = self.lists.count;
        let (held, ranges) = (self.guards_out(), self.checks.tiling.ids().len());
        note!(self, "list {number} of {prefix:?} begins, {page_size} per page");
        let (token, listed) = (String::new(), Vec::new());
        let list = List { number, prefix, page_size, token, listed, held, ranges, page: None };
        self.lists.open = Some(list);
        self.ask_page();
    }

    /// What clients believe to hold, but for locks of which operators break the promise.
    fn guards_out(&self) -> BTreeSet<Guard> {
        let (now, clients) = (self.now, &self.clients);
        let out = self.checks.beliefs.guards(&|client| clients[client - 1].now(now));
        out.into_iter().filter(|guard| !self.names.is_broken(&guard.name)).collect()
    }

    fn ask_page(&mut self) {
        if self.is_winding_down {
            self.lists.open = None;
            return;
        }
        let up = self.gateways_up();
        let Some(list) = &mut self.lists.open else { return };
        if up.is_empty() {
            return self.queue.plan(self.now + S, Event::List(ListStep::Page(list.number)));
        }
        let gateway = *self.dice.lists.pick(&up);
        let (prefix, page_token) = (list.prefix.clone(), list.token.clone());
        let request = ListLocksRequest { prefix, page_size: list.page_size, page_token };
        let listing = match validate::list_locks(request) {
            Ok(listing) => listing,
            Err(why) => return self.violated("S13", &[], format_args!("a token: {why:?}")),
        };
        self.lists.attempts += 1;
        let attempt = self.lists.attempts;
        list.page = Some(Page {
            attempt,
            gateway,
            life: self.gateways[gateway - 1].life,
            listing,
            round: Vec::new(),
            calls: Vec::new(),
            parts: Vec::new(),
            taken: 0,
            has_begun: false,
        });
        self.queue.plan(self.now + PAGE_NS, Event::List(ListStep::Ends(attempt)));
        self.page_goes_on(Next::Asks);
    }

    fn page_goes_on(&mut self, next: Next) {
        let Some(list) = &mut self.lists.open else { return };
        match next {
            Next::Waits => {}
            Next::Asks => self.ask_round(),
            Next::Ends => self.page_ends(),
            Next::Fails => {
                list.page = None;
                let at = self.now + self.dice.lists.between(50, 500) * MS;
                self.queue.plan(at, Event::List(ListStep::Page(list.number)));
                self.counters.count("pages that have to be asked for again");
            }
        }
    }

    fn ask_round(&mut self) {
        let Some(page) = self.lists.open.as_mut().and_then(|list| list.page.as_mut()) else {
            return;
        };
        let number = page.gateway;
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(self.now);
        let process = gateway.process.as_mut().filter(|_| gateway.life == page.life);
        // One that is gone is noticed when the page has had its time.
        let Some(process) = process else { return };
        let round = page.listing.round(|from, max| process.hub.starts_behind(from, max));
        if round.is_empty() {
            return self.page_ends();
        }
        let first = process.last_call + 1;
        process.last_call += round.len() as u64;
        page.calls = (first..=process.last_call).collect();
        (page.parts, page.taken) = (vec![None; round.len()], 0);
        let questions = round.iter().cloned().map(|it| Ok(Checked::list_range(it)));
        let calls: Vec<_> = page.calls.iter().copied().zip(questions).collect();
        page.round = round;
        let stream = process.operator.number();
        let origin = Origin { events_to: stream, is_unary: false, address: "operator" };
        process.operator.submit(now_us, calls.into_iter(), origin);
        self.after_gateway(number);
    }

    /// A gateway answers its operator, perhaps about a list.
    pub(crate) fn list_answered(&mut self, number: usize, answer: Answer) {
        let life = self.gateways[number - 1].life;
        let Some(page) = self.lists.open.as_mut().and_then(|list| list.page.as_mut()) else {
            return;
        };
        let at = page.calls.iter().position(|call| *call == answer.call_id);
        let Some(at) = at.filter(|_| (page.gateway, page.life) == (number, life)) else { return };
        page.parts[at] = match answer.reply {
            Ok(Body::ListRange(part)) => Some(Ok(part)),
            Ok(_) => None,
            Err(failure) => Some(Err(failure)),
        };
        match page.follow() {
            Ok(next) => self.page_goes_on(next),
            Err(why) => self.violated("S13", &[], format_args!("a part of a list: {why:?}")),
        }
    }

    fn page_ends(&mut self) {
        let Some(list) = &mut self.lists.open else { return };
        let Some(page) = list.page.take() else { return };
        let page = page.listing.into_page();
        let (locks, ranges) = (page.locks.len(), page.positions.len());
        note!(self, "g: list {}: {locks} locks of {ranges} ranges", list.number);
        self.counters.count("pages of lists");
        if ranges > 1 {
            self.counters.count("pages over several ranges");
        }
        list.listed.extend(page.locks.into_iter().map(|lock| lock.name));
        list.token = page.next_page_token;
        if list.token.is_empty() {
            return self.list_ends();
        }
        let pause_ms = if self.dice.lists.one_in(4) { 3_000 } else { 50 };
        let at = self.now + self.dice.lists.below(pause_ms * MS);
        self.queue.plan(at, Event::List(ListStep::Page(list.number)));
    }

    fn list_ends(&mut self) {
        let Some(list) = self.lists.open.take() else { return };
        let List { number, prefix, listed, held, ranges, .. } = list;
        self.counters.count("lists");
        if self.checks.tiling.ids().len() > ranges {
            self.counters.count("lists during which ranges split");
        }
        if !listed.is_sorted_by(|a, b| a < b) {
            let what = format_args!("list {number} of {prefix:?} is out of order: {listed:?}");
            return self.violated("S13", &[], what);
        }
        let throughout: Vec<_> = held
            .intersection(&self.guards_out())
            .filter(|guard| guard.name.starts_with(&prefix))
            .map(|guard| guard.name.clone())
            .collect();
        self.counters.add("names that lists must have", throughout.len() as u64);
        if let Some(name) = throughout.into_iter().find(|name| !listed.contains(name)) {
            let what = format_args!("list {number} of {prefix:?} lacks {name}, which is held");
            self.violated("S13", std::slice::from_ref(&name), what);
        }
    }
}
