//! The listeners to acquisitions whose names have left a range that was led here. The range that has
//! the names now is mostly led by the same store soon, and tells them what happens: otherwise whoever
//! waits would hear of its grant only with its next renewal.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::{Acquisition, LockTable};

use crate::front::{LinkId, Subscriber};

/// Whoever still listens has renewed by then, wherever the names are led.
const KEPT: Duration = Duration::from_secs(10);

/// See the module. Soft, as all that listens: an event that gets lost is told by keepalives.
#[derive(Debug, Default)]
pub struct Heirs(BTreeMap<Acquisition, Waiting>);

#[derive(Debug)]
struct Waiting {
    subscriber: Subscriber,
    until: Duration,
}

impl Heirs {
    /// A range has lost names, and these listened to acquisitions under them.
    pub fn keep(&mut self, now: Duration, left: BTreeMap<Acquisition, Subscriber>) {
        let until = now + KEPT;
        let left = left.into_iter();
        self.0.extend(left.map(|(it, subscriber)| (it, Waiting { subscriber, until })));
    }

    /// Those that listen to what is open in the table of a range that begins to be led here.
    pub fn take(&mut self, table: &LockTable) -> Vec<(Acquisition, Subscriber)> {
        let is_here = |acquisition: &Acquisition, _: &mut Waiting| table.is_open(*acquisition);
        self.0.extract_if(.., is_here).map(|(it, waiting)| (it, waiting.subscriber)).collect()
    }

    /// A gateway's link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.0.retain(|_, waiting| waiting.subscriber.link != link);
    }

    /// Nobody here has come to lead their names in time.
    pub fn forget_old(&mut self, now: Duration) {
        self.0.retain(|_, waiting| waiting.until > now);
    }
}
