//! Alarms: things by key, of which each may ring once, at a time of its own. The one mechanism behind
//! all that the clocks of a range count.

use std::{num::NonZeroU64, time::Duration};

use sharklock_locktable::Ascending;

/// A time in half of the bytes of a [`Duration`], or of an `Option` of one: there may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    /// The same to the nanosecond. What is five centuries away stays so, which is late enough.
    pub fn at(time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    pub fn time(self) -> Duration {
        Duration::from_nanos(self.0.get() - 1)
    }
}

/// Things by key, each with its alarm. One whose alarm has rung stays, silent, until it is set again
/// or removed.
///
/// Invariants:
/// - `times` holds `(at, key)` exactly for the things in `set` whose alarm stands at `at`.
#[derive(Debug)]
pub(crate) struct Alarms<K, V> {
    // Keys are tokens as a rule, which ascend, and a lease that begins or is renewed ends last.
    set: Ascending<K, Entry<V>>,
    times: Ascending<(Moment, K), ()>,
}

#[derive(Debug)]
struct Entry<V> {
    /// None: it has rung.
    at: Option<Moment>,
    value: V,
}

impl<K, V> Default for Alarms<K, V> {
    fn default() -> Self {
        Self { set: Ascending::default(), times: Ascending::default() }
    }
}

impl<K: Copy + Ord, V> Alarms<K, V> {
    /// Puts a thing here that rings at `at`, in place of the one of its key.
    pub fn set(&mut self, key: K, at: Duration, value: V) {
        let at = Moment::at(at);
        self.remove(key);
        self.times.insert((at, key), ());
        self.set.insert(key, Entry { at: Some(at), value });
    }

    /// An alarm that is here rings at `at`, and not when it would have. Otherwise nothing happens.
    pub fn move_to(&mut self, key: K, at: Duration) {
        let Some(entry) = self.set.get_mut(&key) else { return };
        let at = Moment::at(at);
        if let Some(before) = entry.at.replace(at) {
            self.times.remove(&(before, key));
        }
        self.times.insert((at, key), ());
    }

    /// Takes a thing away with its alarm.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let Entry { at, value } = self.set.remove(&key)?;
        if let Some(at) = at {
            self.times.remove(&(at, key));
        }
        Some(value)
    }

    /// Takes away, with their alarms, those that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let Self { set, times } = self;
        set.retain(|key, entry| {
            let is_kept = keep(key, &entry.value);
            if let Some(at) = entry.at.filter(|_| !is_kept) {
                times.remove(&(at, *key));
            }
            is_kept
        });
    }

    /// A thing goes on under another key, and rings when it would have. Nothing where there is none.
    pub fn rename(&mut self, before: K, after: K) {
        let at = self.set.get(&before).and_then(|entry| entry.at);
        let Some(value) = self.remove(before) else { return };
        self.remove(after);
        self.times.extend(at.map(|at| ((at, after), ())));
        self.set.insert(after, Entry { at, value });
    }

    /// The thing whose alarm rings next, if that is by `now`. It is silent from here on.
    pub fn ring(&mut self, now: Duration) -> Option<(K, &mut V)> {
        let key = self.times.first().filter(|((at, _), ())| at.time() <= now)?.0.1;
        self.times.pop_first();
        let entry = self.set.get_mut(&key).expect("an alarm has its thing");
        entry.at = None;
        Some((key, &mut entry.value))
    }

    /// As [`ring`](Self::ring), and takes the thing away.
    pub fn pop(&mut self, now: Duration) -> Option<(K, V)> {
        let (key, _) = self.ring(now)?;
        let value = self.remove(key).expect("it has just rung");
        Some((key, value))
    }

    /// When the next alarm rings.
    pub fn next(&self) -> Option<Duration> {
        self.times.first().map(|((at, _), ())| at.time())
    }

    /// When this one rings; none once it has, or where there is no such thing.
    pub fn at(&self, key: K) -> Option<Duration> {
        self.set.get(&key)?.at.map(Moment::time)
    }

    pub fn get(&self, key: K) -> Option<&V> {
        Some(&self.set.get(&key)?.value)
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        Some(&mut self.set.get_mut(&key)?.value)
    }

    pub fn contains(&self, key: K) -> bool {
        self.set.contains_key(&key)
    }

    pub fn len(&self) -> usize {
        self.set.len()
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Drops at most so many things, and says how many: to drop millions at once takes long.
    pub fn shed(&mut self, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some((key, entry)) = self.set.pop_first()
        {
            if let Some(at) = entry.at {
                self.times.remove(&(at, key));
            }
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set(u8, u64),
        MoveTo(u8, u64),
        Remove(u8),
        Rename(u8, u8),
        Ring(u64),
        Shed(usize),
        Retain(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (key, time) = (0..4_u8, 0..8_u64);
        prop_oneof![
            4 => (key.clone(), time.clone()).prop_map(|(key, at)| Step::Set(key, at)),
            4 => (key.clone(), time.clone()).prop_map(|(key, at)| Step::MoveTo(key, at)),
            2 => key.clone().prop_map(Step::Remove),
            2 => (key.clone(), key).prop_map(|(before, after)| Step::Rename(before, after)),
            4 => time.prop_map(Step::Ring),
            1 => (0..2_usize).prop_map(Step::Shed),
            1 => (0..4_u8).prop_map(Step::Retain),
        ]
    }

    /// The meaning of [`Alarms`]: a list, searched from one end to the other.
    fn naive(things: &mut BTreeMap<u8, Option<Duration>>, step: Step) -> Option<u8> {
        match step {
            Step::Set(key, ms) => _ = things.insert(key, Some(at(ms))),
            Step::MoveTo(key, ms) => {
                if let Some(alarm) = things.get_mut(&key) {
                    *alarm = Some(at(ms));
                }
            }
            Step::Remove(key) => _ = things.remove(&key),
            Step::Rename(before, after) => {
                if let Some(alarm) = things.remove(&before) {
                    things.insert(after, alarm);
                }
            }
            Step::Ring(now) => {
                let due = things.iter().filter_map(|(key, alarm)| Some(((*alarm)?, *key)));
                let (_, key) = due.filter(|(alarm, _)| *alarm <= at(now)).min()?;
                things.insert(key, None);
                return Some(key);
            }
            Step::Retain(but) => things.retain(|key, _| *key != but),
            Step::Shed(count) => (0..count).for_each(|_| _ = things.pop_first()),
        }
        None
    }

    proptest! {
        #[test]
        fn each_thing_rings_once_at_its_time(steps in proptest::collection::vec(step(), 1..60)) {
            let mut alarms: Alarms<u8, u8> = Alarms::default();
            let mut things = BTreeMap::new();
            for step in steps {
                let rung = match step {
                    Step::Set(key, ms) => { alarms.set(key, at(ms), key); None }
                    Step::MoveTo(key, ms) => { alarms.move_to(key, at(ms)); None }
                    Step::Remove(key) => { alarms.remove(key); None }
                    Step::Rename(before, after) => { alarms.rename(before, after); None }
                    Step::Ring(now) => alarms.ring(at(now)).map(|(key, _)| key),
                    Step::Shed(count) => { alarms.shed(count); None }
                    Step::Retain(but) => { alarms.retain(|key, _| *key != but); None }
                };
                prop_assert_eq!(rung, naive(&mut things, step), "{:?}", step);
                let next = things.values().flatten().min().copied();
                prop_assert_eq!(alarms.next(), next, "{:?}", step);
                prop_assert_eq!(alarms.len(), things.len());
                for key in 0..4 {
                    prop_assert_eq!(alarms.contains(key), things.contains_key(&key));
                    prop_assert_eq!(alarms.at(key), things.get(&key).copied().flatten());
                }
            }
        }
    }
}
