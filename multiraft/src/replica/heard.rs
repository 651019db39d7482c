//! When each member was heard last.

use sharklock_rangemap::PeerId;

/// The store's tick at which each member last wrote to a replica. It is asked at every tick and
/// beat, and members are few: so they lie side by side, and the last one is at hand.
///
/// Invariants:
/// - each peer has one place at most;
/// - `last` is the latest of all, 0 if there is none.
#[derive(Debug, Default)]
pub(super) struct Heard {
    last: u64,
    of: Vec<(PeerId, u64)>,
}

impl Heard {
    /// The peer has written; `ticks` never fall.
    pub(super) fn note(&mut self, peer: PeerId, ticks: u64) {
        self.last = ticks;
        match self.of.iter_mut().find(|(it, _)| *it == peer) {
            Some((_, at)) => *at = ticks,
            None => self.of.push((peer, ticks)),
        }
    }

    /// When anybody wrote last; 0: nobody has.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// When this one did.
    pub(super) fn of(&self, peer: PeerId) -> Option<u64> {
        self.of.iter().find(|(it, _)| *it == peer).map(|(_, at)| *at)
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, is_member: impl Fn(PeerId) -> bool) {
        self.of.retain(|(peer, _)| is_member(*peer));
        self.last = self.of.iter().map(|(_, at)| *at).max().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_member_any_more_was_never_heard() {
        let mut heard = Heard::default();
        assert_eq!((heard.last(), heard.of(PeerId(1))), (0, None));
        heard.note(PeerId(1), 5);
        heard.note(PeerId(2), 7);
        heard.note(PeerId(1), 6);
        heard.note(PeerId(3), 9);
        assert_eq!((heard.last(), heard.of(PeerId(1)), heard.of(PeerId(2))), (9, Some(6), Some(7)));
        heard.retain(|peer| peer != PeerId(3));
        assert_eq!((heard.last(), heard.of(PeerId(3))), (7, None));
        heard.retain(|_| false);
        assert_eq!(heard.last(), 0);
    }
}
