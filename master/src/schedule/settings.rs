//! What operators may turn, and what it is unless they do.

use std::time::Duration;

use super::{Class, DiskLimits};

/// Most of anything that may be under way at one store.
const AT_A_TIME_MAX: u32 = 64;

/// The scheduler's settings. The defaults, with their reasons, are in [`Settings::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Voters that each range is to have: an odd number.
    pub replicas: usize,
    /// Nothing is planned.
    pub is_paused: bool,
    /// Nothing is planned for so long after another master has begun to lead.
    pub patience: Duration,
    /// A replica that its leader does not hear of is replaced after so long, though its store is up.
    pub unheard: Duration,
    /// Balancing leaves a range's leader where it is for so long after any change of it.
    pub cool_down: Duration,
    /// Stores are balanced while they differ from the mean by no more than so many thousandths of it.
    pub tolerance: u32,
    /// Differences of load below so many commands per second are not worth a change of leaders.
    pub load_floor: u64,
    /// Of repair and drain.
    pub urgent: Limits,
    /// Of everything else.
    pub leisurely: Limits,
    /// When a disk counts as slow.
    pub disks: DiskLimits,
}

/// How much is under way at one store at a time. They hold apart for what is urgent and what is
/// not, so neither waits for the other; and since they are each store's own, a cluster of any size
/// moves as fast as its stores can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Replicas that come to it.
    pub coming: u32,
    /// Replicas that are filled by it, as the leader of their ranges.
    pub sending: u32,
    /// Leaderships that come to it; as many may leave it.
    pub leaders: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Survives the loss of one store.
            replicas: 3,
            is_paused: false,
            // Several heartbeats: by then all leaders have said what they lead, and what the last
            // master had asked for has been done or has failed.
            patience: Duration::from_secs(30),
            // Twice as long as a silent store: its store is heard, so the network may be to blame.
            unheard: Duration::from_secs(600),
            // Each change starts all leases of the range anew (SEMANTICS.md, "late by at most"). It is
            // longer than the longest lease, so each can end in between.
            cool_down: Duration::from_secs(660),
            // With what is on its way all stores come to lie within 5 %.
            tolerance: 30,
            // 1 % of what one range takes before it is split.
            load_floor: 100,
            // As many as a store has slots for snapshots; leaders move without any data.
            urgent: Limits { coming: 3, sending: 3, leaders: 8 },
            // A new store fills in minutes, and those that serve keep most of their slots.
            leisurely: Limits { coming: 2, sending: 2, leaders: 1 },
            disks: DiskLimits::default(),
        }
    }
}

impl Settings {
    /// # Errors
    /// Which setting is out of its bounds, and what they are.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=7).contains(&self.replicas) || self.replicas.is_multiple_of(2) {
            return Err(format!(
                "replicas is {}: it must be 1, 3, 5 or 7. An even number survives no more losses than \
                 the odd one below it",
                self.replicas
            ));
        }
        if !(10..=500).contains(&self.tolerance) {
            return Err(format!(
                "tolerance is {} thousandths: it must be from 10 to 500",
                self.tolerance
            ));
        }
        for (name, least, most, value) in [
            ("cool-down", 0, 86_400, self.cool_down),
            ("patience", 1, 3_600, self.patience),
            ("unheard", 10, 86_400, self.unheard),
        ] {
            if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
                return Err(format!("{name} is {value:?}: it must be from {least} s to {most} s"));
            }
        }
        for (prefix, limits) in [("urgent.", self.urgent), ("", self.leisurely)] {
            let Limits { coming, sending, leaders } = limits;
            for (field, limit) in [("coming", coming), ("sending", sending), ("leaders", leaders)] {
                if limit == 0 {
                    return Err(format!("{prefix}{field} is 0: to stop the schedule, pause it"));
                }
                if limit > AT_A_TIME_MAX {
                    return Err(format!(
                        "{prefix}{field} is {limit}: a store has slots for {AT_A_TIME_MAX} at most"
                    ));
                }
            }
        }
        self.disks.check()
    }

    /// The limits of a class.
    pub(super) fn limits(&self, class: Class) -> Limits {
        if class.is_urgent() { self.urgent } else { self.leisurely }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let zero = Limits { sending: 0, ..Settings::default().urgent };
        let disks = DiskLimits { factor: 1, ..DiskLimits::default() };
        for (settings, named) in [
            (Settings { replicas: 2, ..Settings::default() }, "replicas is 2"),
            (Settings { replicas: 9, ..Settings::default() }, "replicas is 9"),
            (Settings { tolerance: 0, ..Settings::default() }, "tolerance is 0"),
            (Settings { urgent: zero, ..Settings::default() }, "urgent.sending is 0"),
            (Settings { disks, ..Settings::default() }, "disks.factor is 1"),
        ] {
            let why = settings.check().expect_err(named);
            assert!(why.contains(named), "{why}");
        }
    }
}
