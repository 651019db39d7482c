//! What is worth saying of something that cannot be reached: that it has begun, and that it lasts. Tries
//! follow each other within a second, and a line for each would hide everything else.

use std::time::Duration;

use tokio::time::Instant;

/// An outage that lasts for so long is worth a warning. A process that restarts in order is back
/// sooner.
const LASTS_AFTER: Duration = Duration::from_secs(10);

/// The time from a failure to the next success, without end if there is none.
#[derive(Debug, Default)]
pub struct Outage {
    began: Option<Instant>,
    /// It has been told that it lasts.
    is_told: bool,
}

/// What is new about an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageNews {
    /// It has just begun.
    Begins,
    /// It has lasted for 10 s.
    Lasts,
}

impl Outage {
    /// A try has failed, or what stood has broken. Each of its news is given back once.
    pub fn failed(&mut self, now: Instant) -> Option<OutageNews> {
        let Some(began) = self.began else {
            self.began = Some(now);
            return Some(OutageNews::Begins);
        };
        if self.is_told || now - began < LASTS_AFTER {
            return None;
        }
        self.is_told = true;
        Some(OutageNews::Lasts)
    }

    /// A try has worked.
    pub fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_news_when_it_begins_and_once_it_has_lasted() {
        let (begin, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.failed(begin), Some(OutageNews::Begins));
        assert_eq!(outage.failed(begin + LASTS_AFTER / 2), None);
        assert_eq!(outage.failed(begin + LASTS_AFTER), Some(OutageNews::Lasts));
        assert_eq!(outage.failed(begin + 2 * LASTS_AFTER), None);
        outage.over();
        let again = begin + 3 * LASTS_AFTER;
        assert_eq!(outage.failed(again), Some(OutageNews::Begins));
        assert_eq!(outage.failed(again + LASTS_AFTER / 2), None, "it is counted anew");
    }
}
