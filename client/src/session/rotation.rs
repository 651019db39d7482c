//! Which gateway a session dials next, and after what pause. It dials nothing.

use std::time::Duration;

use super::pace::Jitter;

/// How long a gateway may say nothing before another is tried beside it: a frozen one takes
/// connections, too, and there are no other means to tell it from a slow one.
const PATIENCE: Duration = Duration::from_millis(250);
/// Less than a round trip would try others for nothing.
const PATIENCE_MIN: Duration = Duration::from_millis(10);

/// See [`PATIENCE`]; less where the caller's time-out is short.
pub fn patience(timeout: Option<Duration>) -> Duration {
    let quarter = timeout.map_or(PATIENCE, |timeout| timeout / 4);
    quarter.clamp(PATIENCE_MIN, PATIENCE)
}

/// Gateways in turn.
#[derive(Debug)]
pub struct Rotation {
    gateways_count: usize,
    /// Counts on, modulo their number.
    current: usize,
    /// Gateways of other clusters. Never all: then nobody knows better than to ask them again.
    barred: Vec<bool>,
    /// Connections lost, or not made, since a gateway last answered.
    failures_count: u32,
    /// How far after the current one the spare is: 1 to their number less 1.
    spare_step: usize,
    /// Spare connections lost, or not made, since one was made.
    spare_failures_count: u32,
    jitter: Jitter,
}

impl Rotation {
    /// Of so many gateways, at least one. Many clients with one list spread over it by their seeds.
    ///
    /// # Panics
    /// When there is no gateway.
    pub fn new(gateways_count: usize, seed: u64) -> Self {
        assert!(gateways_count > 0, "a session without gateways has nobody to ask");
        let mut jitter = Jitter::new(seed);
        let first = jitter.draw() % gateways_count as u64;
        Self {
            gateways_count,
            current: first as usize,
            barred: vec![false; gateways_count],
            failures_count: 0,
            spare_step: 1,
            spare_failures_count: 0,
            jitter,
        }
    }

    /// The gateway that is used or dialled now, from 0.
    pub fn current(&self) -> usize {
        self.current % self.gateways_count
    }

    /// Those for which this is true belong to other clusters, and are dialled only where none of the
    /// others answers.
    pub fn bar(&mut self, is_foreign: impl Fn(usize) -> bool) {
        self.barred = (0..self.gateways_count).map(is_foreign).collect();
        if self.barred.iter().all(|barred| *barred) {
            self.barred.fill(false);
        }
        self.pass_barred();
    }

    fn pass_barred(&mut self) {
        while self.barred[self.current()] {
            self.current = self.current.wrapping_add(1);
        }
    }

    /// A message has come. Not merely the connection: a gateway that takes connections and ends them
    /// at once is no better than one that takes none.
    pub fn answered(&mut self) {
        self.failures_count = 0;
    }

    /// Whether nothing has come since the last connection was lost or could not be made.
    pub fn is_failing(&self) -> bool {
        self.failures_count > 0
    }

    /// The connection was lost, or could not be made: the next gateway is dialled after this pause.
    pub fn lost(&mut self) -> Duration {
        self.leave();
        self.failures_count = self.failures_count.saturating_add(1);
        self.jitter.pause(self.failures_count)
    }

    /// The session leaves a connection that answers nothing: the next gateway is dialled at once.
    pub fn leave(&mut self) {
        self.current = self.current.wrapping_add(1);
        self.pass_barred();
    }

    /// The gateway to dial beside those that were tried and say nothing, or instead of them; None: all
    /// were tried. Those of other clusters come last: they may be ours again.
    pub fn challenger(&self, tried: &[usize]) -> Option<usize> {
        let barred = (0..self.gateways_count).filter(|gateway| self.barred[*gateway]);
        self.in_turn(0).chain(barred).find(|gateway| !tried.contains(gateway))
    }

    /// Those of this cluster, beginning so many places after the current one.
    fn in_turn(&self, first: usize) -> impl Iterator<Item = usize> {
        let all = first..first + self.gateways_count;
        all.map(|step| (self.current() + step) % self.gateways_count)
            .filter(|gateway| !self.barred[*gateway])
    }

    /// Of those that were dialled this one has answered first.
    pub fn dialled(&mut self, gateway: usize) {
        self.current = gateway;
    }

    /// The gateway for a connection beside the main one; None: there is no other.
    pub fn spare(&self) -> Option<usize> {
        self.in_turn(self.spare_step).find(|gateway| *gateway != self.current())
    }

    /// The spare connection is made.
    pub fn spare_connected(&mut self) {
        self.spare_failures_count = 0;
    }

    /// The session leaves a spare connection that answers nothing: the next other gateway is dialled
    /// at once.
    pub fn leave_spare(&mut self) {
        let others_count = self.gateways_count.saturating_sub(1).max(1);
        self.spare_step = self.spare_step % others_count + 1;
    }

    /// The spare connection was lost, or could not be made: the next other gateway is dialled after
    /// this pause.
    pub fn spare_lost(&mut self) -> Duration {
        self.leave_spare();
        self.spare_failures_count = self.spare_failures_count.saturating_add(1);
        self.jitter.pause(self.spare_failures_count)
    }

    /// The connection to this gateway, which was the spare one, is the main one now.
    pub fn move_to(&mut self, gateway: usize) {
        self.current = gateway;
        (self.failures_count, self.spare_step, self.spare_failures_count) = (0, 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spare_is_another_gateway_and_takes_the_main_ones_place() {
        let mut rotation = Rotation::new(3, 7);
        let main = rotation.current();
        let others = [(main + 1) % 3, (main + 2) % 3];
        assert_eq!(rotation.spare(), Some(others[0]));
        rotation.leave_spare();
        assert_eq!(rotation.spare(), Some(others[1]));
        assert!(rotation.spare_lost() <= Duration::from_millis(50));
        assert_eq!(rotation.spare(), Some(others[0]), "never the main one");
        assert!(rotation.spare_lost() >= Duration::from_millis(50), "they grow");
        assert_eq!(rotation.current(), main, "the main one stays where it is");
        rotation.move_to(others[1]);
        assert_eq!((rotation.current(), rotation.spare()), (others[1], Some(main)));
        assert_eq!(Rotation::new(1, 7).spare(), None);
        let mut two = Rotation::new(2, 7);
        two.leave_spare();
        assert_ne!(two.spare(), Some(two.current()));
    }

    #[test]
    fn gateways_are_taken_in_turn_from_one_that_differs_between_clients() {
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|seed| Rotation::new(3, seed).current()).collect();
        assert_eq!(firsts.len(), 3);
        let mut rotation = Rotation::new(3, 7);
        let first = rotation.current();
        rotation.lost();
        assert_eq!(rotation.current(), (first + 1) % 3);
        rotation.leave();
        assert_eq!(rotation.current(), (first + 2) % 3);
        rotation.lost();
        assert_eq!(rotation.current(), first);
    }

    #[test]
    fn gateways_of_other_clusters_are_passed_over_while_there_are_others() {
        let mut rotation = Rotation::new(3, 7);
        let first = rotation.current();
        let (second, third) = ((first + 1) % 3, (first + 2) % 3);
        rotation.bar(|gateway| gateway == first);
        assert_eq!((rotation.current(), rotation.spare()), (second, Some(third)));
        rotation.leave();
        assert_eq!((rotation.current(), rotation.spare()), (third, Some(second)));
        rotation.leave();
        assert_eq!(rotation.current(), second, "not the first");
        assert_eq!(rotation.challenger(&[second]), Some(third));
        assert_eq!(rotation.challenger(&[second, third]), Some(first), "at last");
        assert_eq!(rotation.challenger(&[0, 1, 2]), None);
        rotation.bar(|gateway| gateway != third);
        assert_eq!((rotation.current(), rotation.spare()), (third, None));
        rotation.bar(|_| true);
        assert_eq!(rotation.challenger(&[third]), Some(first), "nobody is left out");
    }

    #[test]
    fn others_are_dialled_beside_the_first_in_turn_and_once() {
        let mut rotation = Rotation::new(3, 7);
        let first = rotation.current();
        assert_eq!(rotation.challenger(&[first]), Some((first + 1) % 3));
        assert_eq!(rotation.challenger(&[first, (first + 1) % 3]), Some((first + 2) % 3));
        assert_eq!(rotation.challenger(&[0, 1, 2]), None);
        rotation.dialled((first + 2) % 3);
        assert_eq!(rotation.current(), (first + 2) % 3);
        assert_eq!(Rotation::new(1, 7).challenger(&[0]), None);
    }

    #[test]
    fn a_short_time_out_leaves_time_for_others() {
        let ms = Duration::from_millis;
        for (timeout, expected) in
            [(None, 250), (Some(60_000), 250), (Some(1_000), 250), (Some(400), 100), (Some(8), 10)]
        {
            assert_eq!(patience(timeout.map(ms)), ms(expected), "{timeout:?}");
        }
    }

    #[test]
    fn pauses_grow_until_a_gateway_answers() {
        let mut rotation = Rotation::new(1, 7);
        assert!(!rotation.is_failing());
        let first = rotation.lost();
        assert!(first <= Duration::from_millis(50), "{first:?}");
        let last = (0..10).map(|_| rotation.lost()).last().expect("ten");
        assert!(last >= Duration::from_millis(500), "{last:?}");
        assert!(rotation.is_failing());
        rotation.answered();
        assert!(rotation.lost() <= Duration::from_millis(50));
    }
}
