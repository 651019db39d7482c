//! The events that will happen, in order of true time; at one moment in the order in which they
//! were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The queue of all events of a world.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Planned<E>>,
    planned_count: u64,
}

#[derive(Debug)]
struct Planned<E> {
    at_ns: u64,
    number: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), planned_count: 0 }
    }
}

impl<E> Queue<E> {
    /// Plans an event.
    pub fn plan(&mut self, at_ns: u64, event: E) {
        self.planned_count += 1;
        self.heap.push(Planned { at_ns, number: self.planned_count, event });
    }

    /// When the next event happens.
    pub fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|planned| planned.at_ns)
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|planned| (planned.at_ns, planned.event))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    /// The heap gives the largest first, so the earliest is the largest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_planned() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.plan(at, event);
        }
        let mut order = Vec::new();
        while let Some((_, event)) = queue.pop() {
            order.push(event);
        }
        assert_eq!(order, ['a', 'b', 'c', 'd']);
    }
}
