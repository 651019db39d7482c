//! A scenario: bounds, what must be reachable within them, and what goes wrong without a rule.

use crate::{bounds::Bounds, rules::Rule, scenarios};

/// Rules that are switched off together, and the property that then falls.
#[derive(Clone, Debug)]
pub struct Break {
    /// The rules that are switched off.
    pub off: Vec<Rule>,
    /// The property that no longer holds.
    pub violates: &'static str,
}

/// A world small enough to be explored whole.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// The hole (`holes.md`) that it tells; 0 for none.
    pub hole: u8,
    /// In a sentence.
    pub story: &'static str,
    /// The actors and the steps that are possible.
    pub bounds: Bounds,
    /// Rules that are off from the start, since the design must be right without them here.
    pub without: Vec<Rule>,
    /// Rules of which each alone may be off.
    pub spare: Vec<Rule>,
    /// The stories that come true without some rules.
    pub breaks: Vec<Break>,
    /// The states that must be reachable, else the scenario says nothing.
    pub reaches: Vec<&'static str>,
    /// It must have at least so many states.
    pub states_min: usize,
}

impl Scenario {
    /// A scenario without breaks.
    pub fn new(name: &'static str, hole: u8, story: &'static str, bounds: Bounds) -> Self {
        Self {
            name,
            hole,
            story,
            bounds,
            without: Vec::new(),
            spare: Vec::new(),
            breaks: Vec::new(),
            reaches: Vec::new(),
            states_min: 0,
        }
    }

    /// The states that must be reachable.
    pub fn reaching(mut self, reaches: &[&'static str]) -> Self {
        self.reaches.extend(reaches);
        self
    }

    /// It must have at least so many states.
    pub fn of_states(mut self, states_min: usize) -> Self {
        self.states_min = states_min;
        self
    }

    /// Without these rules together a property falls.
    pub fn breaking(mut self, off: &[Rule], violates: &'static str) -> Self {
        self.breaks.push(Break { off: off.to_vec(), violates });
        self
    }

    /// Without these rules from the start.
    pub fn lacking(mut self, off: &[Rule]) -> Self {
        self.without.extend(off);
        self
    }

    /// Of these rules each alone may be off.
    pub fn sparing(mut self, off: &[Rule]) -> Self {
        self.spare.extend(off);
        self
    }
}

/// Every scenario, the small ones first.
pub fn all() -> Vec<Scenario> {
    let mut all = scenarios::leases::all();
    all.extend(scenarios::acquisitions::all());
    all.extend(scenarios::conditions::all());
    all.extend(scenarios::agreements::all());
    all.extend(scenarios::lives::all());
    all.extend(scenarios::combined::all());
    all
}

/// Scenarios that take too long for every test.
pub fn large() -> Vec<Scenario> {
    scenarios::combined::large()
}
