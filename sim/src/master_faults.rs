//! What goes wrong with masters. Nothing of it is on the way of a lock: clients must not feel it.

use crate::dice::Dice;
use crate::faults::both;
use crate::node::Node;
use crate::note;
use crate::world::{S, World};

impl World {
    /// A master: the leading one in half of the cases.
    pub(crate) fn some_master(&mut self) -> usize {
        let leads = self.masters.iter().find(|master| master.leads());
        match leads.map(|master| master.number) {
            Some(leading) if self.dice.faults.one_in(2) => leading,
            _ => 1 + self.dice.faults.below(self.masters.len() as u64) as usize,
        }
    }

    pub(crate) fn masters_lose_power(&mut self, length: u64) {
        if self.options.faulty_stores > 0 {
            return;
        }
        for master in 1..=self.masters.len() {
            let back = self.dice.faults.below(2 * S) + length / 8;
            self.master_ends(master, true, back);
        }
    }

    /// A master is cut off from the other masters, from stores and gateways, or from some of all.
    pub(crate) fn isolate_master(&mut self, length: u64) {
        let number = self.some_master();
        let masters = (1..=self.masters.len()).filter(|it| *it != number).map(Node::Master);
        let stores = (1..=self.stores.len()).map(Node::Store);
        let others = stores.chain((1..=self.gateways.len()).map(Node::Gateway));
        let kind = self.dice.faults.below(4);
        let dice: &mut Dice = &mut self.dice.faults;
        let cut: Vec<Node> = match kind {
            0 => masters.collect(),
            1 => others.collect(),
            2 => masters.chain(others).collect(),
            _ => masters.chain(others).filter(|_| dice.one_in(2)).collect(),
        };
        let master = Node::Master(number);
        let ways = match self.dice.faults.below(4) {
            0 => cut.iter().map(|it| (master, *it)).collect(),
            1 => cut.iter().map(|it| (*it, master)).collect(),
            _ => cut.iter().flat_map(|it| both(master, *it)).collect(),
        };
        self.block(ways, length);
    }

    pub(crate) fn heal_masters(&mut self) {
        for number in 1..=self.masters.len() {
            self.masters[number - 1].paused_until = self.now;
            if self.masters[number - 1].process.is_none() {
                self.master_starts(number);
            } else {
                note!(self, "m{number} is healed");
                self.master_resumes(number);
            }
        }
    }
}
