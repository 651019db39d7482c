use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

/// The number of a command is its asker's, too.
type Numbers = Proposals<u32, u32>;

fn at(index: u64, term: u64) -> EntryAt {
    EntryAt { index, term }
}

fn asked(numbers: impl IntoIterator<Item = u32>) -> Numbers {
    let mut proposals = Numbers::default();
    numbers.into_iter().for_each(|number| proposals.ask(number, number));
    proposals
}

fn matched(askers: &[u32], overtaken: &[u32]) -> Matched<u32> {
    Matched { askers: askers.to_vec(), overtaken: overtaken.to_vec() }
}

#[test]
fn an_entry_matches_its_own_askers_in_order() {
    let mut proposals = asked(0..5);
    proposals.proposed(3, Proposed { index: 7, term: 2 });
    proposals.proposed(2, Proposed { index: 9, term: 2 });
    assert_eq!(proposals.applied(at(7, 2)), matched(&[0, 1, 2], &[]));
    // Somebody else's, in between: a change of bounds or members.
    assert_eq!(proposals.applied(at(8, 2)), matched(&[], &[]));
    assert_eq!(proposals.applied(at(9, 2)), matched(&[3, 4], &[]));
    assert!(!proposals.is_in_log());
}

#[test]
fn another_terms_entry_at_the_place_is_somebody_elses() {
    let mut proposals = asked([1, 2]);
    proposals.proposed(1, Proposed { index: 7, term: 2 });
    proposals.proposed(1, Proposed { index: 8, term: 2 });
    assert_eq!(proposals.applied(at(7, 3)), matched(&[], &[1]));
    assert_eq!(proposals.applied(at(8, 3)), matched(&[], &[2]));
}

/// A follower that was away learns of many entries in one turn, or of a snapshot.
#[test]
fn an_entry_behind_the_place_overtakes_as_well() {
    let mut proposals = asked([1, 2]);
    proposals.proposed(2, Proposed { index: 7, term: 2 });
    assert_eq!(proposals.applied(at(9, 3)), matched(&[], &[1, 2]));
}

#[test]
fn an_entry_of_no_command_has_a_place_of_its_own() {
    let mut proposals = asked([1]);
    proposals.proposed(0, Proposed { index: 7, term: 2 });
    proposals.proposed(1, Proposed { index: 8, term: 2 });
    assert_eq!(proposals.applied(at(7, 2)), matched(&[], &[]));
    assert_eq!(proposals.applied(at(8, 2)), matched(&[1], &[]));
}

#[test]
fn a_step_down_tells_apart_what_is_in_the_log() {
    let mut proposals = asked(0..4);
    proposals.proposed(2, Proposed { index: 7, term: 2 });
    let left = proposals.step_down();
    assert_eq!(left, LeftBehind { not_proposed: vec![2, 3], in_log: vec![0, 1] });
    assert_eq!(proposals.applied(at(7, 2)), matched(&[], &[]));
    assert_eq!(proposals.askers().count(), 0);
}

#[test]
#[should_panic(expected = "no step-down has ended")]
fn nothing_is_proposed_in_front_of_what_is_in_the_log() {
    let mut proposals = asked([1, 2]);
    proposals.proposed(1, Proposed { index: 8, term: 2 });
    proposals.proposed(1, Proposed { index: 7, term: 3 });
}

/// What an asker hears in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Its command was taken out or not proposed: it is not done.
    NotDone,
    /// The output of the entry at that place.
    Output { index: u64, term: u64 },
    /// Nobody knows.
    Open,
}

#[derive(Clone, Debug)]
enum Event {
    Ask,
    /// So many of those that wait, at most.
    Propose(usize),
    /// Whatever is divisible by that.
    TakeOut(u32),
    /// The next entry of the log as it was proposed.
    Apply,
    /// Another leader cuts so many entries off the log that are not applied, and puts others there
    /// instead, which are applied. The step-down comes behind them in the same turn.
    Overtake {
        cut: usize,
        others: usize,
    },
    StepDown,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Ask),
        3 => (0..4_usize).prop_map(Event::Propose),
        1 => (2..5_u32).prop_map(Event::TakeOut),
        3 => Just(Event::Apply),
        1 => (0..4_usize, 1..4_usize).prop_map(|(cut, others)| Event::Overtake { cut, others }),
        1 => Just(Event::StepDown),
    ]
}

/// A log that knows everything, and the naive book of who is where.
#[derive(Default)]
struct World {
    proposals: Numbers,
    /// Entries of the log that are not applied: term and whose commands.
    log: VecDeque<(u64, Vec<u32>)>,
    applied: u64,
    term: u64,
    waiting: Vec<u32>,
    next: u32,
    heard: BTreeMap<u32, Heard>,
    expected: BTreeMap<u32, Heard>,
}

impl World {
    fn hear(&mut self, askers: impl IntoIterator<Item = u32>, heard: Heard) {
        for asker in askers {
            let before = self.heard.insert(asker, heard);
            assert_eq!(before, None, "{asker} has heard already, and now {heard:?}");
        }
    }

    fn expect(&mut self, askers: impl IntoIterator<Item = u32>, heard: Heard) {
        self.expected.extend(askers.into_iter().map(|asker| (asker, heard)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ask => {
                self.next += 1;
                self.proposals.ask(self.next, self.next);
                self.waiting.push(self.next);
            }
            Event::Propose(most) => {
                let count = most.min(self.waiting.len());
                assert_eq!(self.proposals.waiting(), self.waiting);
                let index = self.applied + self.log.len() as u64 + 1;
                self.proposals.proposed(count, Proposed { index, term: self.term });
                self.log.push_back((self.term, self.waiting.drain(..count).collect()));
            }
            Event::TakeOut(divisor) => {
                let goes = |number: &u32| number.is_multiple_of(divisor);
                let gone = self.proposals.take_out(|number, _| goes(number));
                self.hear(gone.into_iter().map(|(_, asker)| asker), Heard::NotDone);
                let (gone, kept) = std::mem::take(&mut self.waiting).into_iter().partition(goes);
                self.waiting = kept;
                let gone: Vec<u32> = gone;
                self.expect(gone, Heard::NotDone);
            }
            Event::Apply => {
                let Some((term, askers)) = self.log.pop_front() else { return };
                self.applied += 1;
                let index = self.applied;
                self.expect(askers, Heard::Output { index, term });
                self.apply(at(index, term));
            }
            Event::Overtake { cut, others } => {
                let kept = self.log.len().saturating_sub(cut);
                while self.log.len() > kept {
                    let (_, askers) = self.log.pop_back().expect("it is longer");
                    self.expect(askers, Heard::Open);
                }
                (0..kept).for_each(|_| self.happens(Event::Apply));
                self.term += 1;
                for _ in 0..others {
                    self.applied += 1;
                    self.apply(at(self.applied, self.term));
                }
                self.happens(Event::StepDown);
            }
            Event::StepDown => {
                let open: Vec<u32> = self.log.drain(..).flat_map(|(_, askers)| askers).collect();
                self.expect(open, Heard::Open);
                let waiting = std::mem::take(&mut self.waiting);
                self.expect(waiting, Heard::NotDone);
                let left = self.proposals.step_down();
                self.hear(left.not_proposed, Heard::NotDone);
                self.hear(left.in_log, Heard::Open);
                // It leads again, behind whatever was committed meanwhile.
                self.term += 1;
                self.applied += 1;
            }
        }
    }

    fn apply(&mut self, at: EntryAt) {
        let Matched { askers, overtaken } = self.proposals.applied(at);
        self.hear(askers, Heard::Output { index: at.index, term: at.term });
        self.hear(overtaken, Heard::Open);
    }
}

proptest! {
    #[test]
    fn everybody_hears_once_and_of_the_own_command(events in vec(event(), 1..60)) {
        let mut world = World::default();
        for event in events {
            world.happens(event);
            let waits = world.proposals.askers().count();
            prop_assert_eq!(waits + world.heard.len(), world.next as usize);
            prop_assert_eq!(world.proposals.is_in_log(), !world.log.is_empty());
        }
        world.happens(Event::StepDown);
        prop_assert_eq!(&world.heard, &world.expected);
        prop_assert_eq!(world.heard.len(), world.next as usize);
    }
}
