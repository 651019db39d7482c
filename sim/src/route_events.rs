//! Routes on their way from the leading master to gateways, in the order of their stream; and what goes
//! wrong with them: some are lost, come late, or again long after they were true.

use std::collections::VecDeque;

use sharklock_master::Reply;
use sharklock_proto::internal::v1::RoutesUpdate;
use sharklock_rangemap::StoreId;

use crate::asking::{Asker, Heard, Question};
use crate::node::Node;
use crate::note;
use crate::ranges;
use crate::streams::End;
use crate::world::{Event, MS, S, World};

/// Updates that may come again.
const REMEMBERED_MAX: usize = 128;
/// How late an update may be that others overtake.
const LATE_MAX_NS: u64 = 5 * S;

/// Something from a master that lies in a gateway's socket.
#[derive(Debug)]
pub enum Unheard {
    /// An answer, from whom, to this question.
    Answer(Option<Node>, Asker, Heard),
    /// What a watch brings.
    Routes(Asker, Box<RoutesUpdate>),
}

/// Updates that masters have sent.
pub type OldRoutes = VecDeque<RoutesUpdate>;

impl World {
    /// A leading master tells its watchers what has changed.
    pub(crate) fn master_tells_routes(&mut self, number: usize, update: RoutesUpdate) {
        self.remember_routes(&update);
        let Some(process) = &mut self.masters[number - 1].process else { return };
        let watchers = std::mem::take(&mut process.watchers);
        let mut left = Vec::with_capacity(watchers.len());
        for mut watcher in watchers {
            if self.links.is_blocked(Node::Master(number), watcher.asker.node) {
                // Pings find out.
                let at = self.now + self.dice.streams.below(4 * S);
                self.queue.plan(at, Event::WatchEnds(watcher.asker));
                continue;
            }
            watcher.last_ns = (self.now + self.stream_delay_ns()).max(watcher.last_ns + 1);
            watcher.is_told(&update);
            self.send_routes(watcher.asker, watcher.last_ns, update.clone());
            left.push(watcher);
        }
        let process = self.masters[number - 1].process.as_mut().expect("it tells");
        process.watchers = left;
    }

    fn remember_routes(&mut self, update: &RoutesUpdate) {
        if self.old_routes.len() >= REMEMBERED_MAX {
            self.old_routes.pop_front();
        }
        self.old_routes.push_back(update.clone());
    }

    fn send_routes(&mut self, watcher: Asker, at: u64, mut update: RoutesUpdate) {
        let dice = &mut self.dice.faults;
        if dice.ppm(self.options.routes_lost_ppm) {
            // Where the stores are is not lost: a stream loses nothing while it stands.
            update.routes.clear();
            self.counters.count("fault: lost routes");
        } else if dice.ppm(self.options.routes_late_ppm) {
            let late = at + dice.below(LATE_MAX_NS);
            let routes = std::mem::take(&mut update.routes);
            let only_routes = RoutesUpdate { routes, ..RoutesUpdate::default() };
            self.counters.count("fault: late routes");
            let update = Box::new(only_routes);
            self.queue.plan(late, Event::Routes { watcher, update });
        }
        let update = Box::new(update);
        self.queue.plan(at, Event::Routes { watcher, update });
    }

    /// A gateway learns routes that were true once.
    pub(crate) fn stale_routes(&mut self) {
        if self.old_routes.is_empty() {
            return;
        }
        let old: Vec<_> = self.old_routes.iter().cloned().collect();
        let mut update = self.dice.faults.pick(&old).clone();
        update.stores.clear();
        update.gone_store_ids.clear();
        let number = 1 + self.dice.faults.below(self.options.gateways) as usize;
        note!(self, "g{number} is told old routes");
        if self.gateways[number - 1].process.is_some() {
            self.gateway_learns(number, update);
        }
    }

    /// A gateway looks for a master that tells it routes.
    pub(crate) fn gateway_watches(&mut self, number: usize, life: u32) {
        let gateway = &self.gateways[number - 1];
        if gateway.process.is_none() || gateway.life != life {
            return;
        }
        let question = self.next_question();
        let process = self.gateways[number - 1].process.as_mut().expect("it has just been there");
        process.seeker.number = question;
        let asker = Asker { node: Node::Gateway(number), life, number: question };
        let seeker = process.seeker;
        self.ask_masters(asker, &seeker, Question::Watch);
    }

    /// What came of a gateway's question for routes.
    pub(crate) fn gateway_hears(&mut self, number: usize, asker: Asker, heard: Heard) {
        let gateway = &mut self.gateways[number - 1];
        let life = gateway.life;
        let Some(process) = gateway.process.as_mut().filter(|_| asker.life == life) else { return };
        if process.seeker.number != asker.number || process.watches == Some(asker.number) {
            return;
        }
        match heard {
            Heard::Routes(whole) => {
                process.seeker.answered();
                process.watches = Some(asker.number);
                note!(self, "g{number} watches routes");
                self.counters.count("watches of routes");
                return self.gateway_learns(number, *whole);
            }
            Heard::Reply(reply) => match *reply {
                Reply::Refused(refusal) => process.seeker.led_away(refusal.leader.as_deref()),
                other => unreachable!("a watch is not answered with {other:?}"),
            },
            Heard::Nothing => process.seeker.led_away(None),
        }
        self.gateway_watches_later(number);
    }

    /// The master of a watch has gone, or does not lead any more.
    pub(crate) fn watch_ends(&mut self, watcher: Asker) {
        let Node::Gateway(number) = watcher.node else { unreachable!("only gateways watch") };
        let gateway = &mut self.gateways[number - 1];
        let life = gateway.life;
        let Some(process) = gateway.process.as_mut().filter(|_| watcher.life == life) else {
            return;
        };
        if process.seeker.number == watcher.number {
            process.watches = None;
            self.gateway_watches_later(number);
        }
    }

    fn gateway_watches_later(&mut self, number: usize) {
        let gateway = &mut self.gateways[number - 1];
        let life = gateway.life;
        let Some(process) = &mut gateway.process else { return };
        // Whatever still comes of the last question is not waited for.
        process.seeker.number = 0;
        let pause = process.seeker.pause_ns(&mut self.dice.streams).max(10 * MS);
        self.queue.plan(self.now + pause, Event::GatewayWatches { gateway: number, life });
    }

    /// Routes arrive over a watch.
    pub(crate) fn routes_arrive(&mut self, watcher: Asker, update: Box<RoutesUpdate>) {
        let Node::Gateway(number) = watcher.node else { unreachable!("only gateways watch") };
        let gateway = &mut self.gateways[number - 1];
        if gateway.life != watcher.life || gateway.process.is_none() {
            return;
        }
        if gateway.paused_until > self.now {
            return gateway.unheard.push(Unheard::Routes(watcher, update));
        }
        self.gateway_learns(number, *update);
    }

    /// What masters said while a gateway stood still is heard.
    pub(crate) fn hear_masters(&mut self, number: usize) {
        for unheard in std::mem::take(&mut self.gateways[number - 1].unheard) {
            match unheard {
                Unheard::Answer(from, asker, heard) => self.answered(from, asker, heard),
                Unheard::Routes(watcher, update) => self.routes_arrive(watcher, update),
            }
        }
    }

    /// As the gateway's keeper of stores: routes go to the hub, and stores that are named are dialled.
    fn gateway_learns(&mut self, number: usize, update: RoutesUpdate) {
        self.check_routes(&update);
        let named: Vec<usize> = update.stores.iter().map(|it| store_at(&it.address)).collect();
        let gone = update.gone_store_ids.iter().filter_map(|id| self.number_of(StoreId(*id)));
        let gone: Vec<usize> = gone.collect();
        note!(self, "g{number} learns: stores {named:?} gone {gone:?} whole {}", update.is_whole);
        let gateway = &mut self.gateways[number - 1];
        let life = gateway.life;
        let Some(process) = &mut gateway.process else { return };
        process.hub.learn_routes(&update);
        self.counters.count("routes learnt");
        let is_whole = update.is_whole;
        let left = process
            .known
            .extract_if(.., |known| gone.contains(known) || (is_whole && !named.contains(known)));
        let left: Vec<usize> = left.collect();
        left.into_iter().for_each(|store| self.gateway_drops(number, store));
        for store in named {
            let process = self.gateways[number - 1].process.as_mut().expect("as above");
            if process.known.insert(store) {
                self.queue
                    .plan(self.now + MS, Event::GatewayDials { gateway: number, life, store });
            }
        }
        self.after_gateway(number);
    }

    /// The masters do not name a store any more.
    fn gateway_drops(&mut self, number: usize, store: usize) {
        self.counters.count("stores that gateways were told to be gone");
        let gateway = &mut self.gateways[number - 1];
        let now_us = gateway.now_us(self.now);
        let Some(process) = &mut gateway.process else { return };
        let Some(id) = self.stores[store - 1].id else { return };
        let Some(conn) = process.stores.remove(&id) else { return };
        process.links_lost += 1;
        process.to_stores.set_connected(id, false);
        process.hub.link_lost(now_us, id);
        self.hang_up(conn, End::Dialler, false);
    }

    /// S10: what masters say of a range some replica has applied.
    fn check_routes(&mut self, update: &RoutesUpdate) {
        for route in &update.routes {
            let Some(descriptor) = &route.descriptor else { continue };
            let descriptor = ranges::descriptor(descriptor);
            // It has made the first range, and may be the first to know.
            let is_made_by_it = descriptor.epoch.version == 1 && !self.ranges.are_made_by_hand();
            let said = match is_made_by_it {
                true => self.checks.tiling.applied(&descriptor, 0).map(drop),
                false => self.checks.tiling.said("a master", &descriptor),
            };
            if let Err(what) = said {
                return self.violated("S10", &[], format_args!("{what}"));
            }
        }
    }
}

/// The store that has this address.
pub fn store_at(address: &str) -> usize {
    let number = address.strip_prefix('s').and_then(|number| number.parse().ok());
    number.expect("stores register under their own addresses")
}
