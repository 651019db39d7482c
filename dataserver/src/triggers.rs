//! Ranges that are split without anybody's asking: what a range has too much of, and where a split
//! would share that out (D12). Pure; `worker/triggers.rs` carries it out.
//!
//! A split has no way back, so each must be worth it: it is made only where either half gets a fifth of
//! what is too much. Where one lock has most of it nothing is done, however long it lasts.

use std::fmt;

use sharklock_locktable::{LockTable, Name, Weight};

use crate::{
    load_sample::{LoadCut, LoadSample, is_shared},
    splitting::{Cut, Why},
};

/// A range is split when it has more than one of these; `None`: never for that. Each server has its
/// own, and only a range's leader looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitLimits {
    /// Locks with a holder, a waiter or a lock-delay.
    pub locks: Option<u64>,
    /// Bytes of memory that its locks take, as the table counts them.
    pub bytes: Option<u64>,
    /// Waiting acquisitions.
    pub waiters: Option<u64>,
    /// Commands in a second, in each of ten seconds in a row.
    pub commands_per_second: Option<u64>,
}

/// A thing of which a range can have too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// See [`SplitLimits::locks`].
    Locks,
    /// See [`SplitLimits::bytes`].
    Bytes,
    /// See [`SplitLimits::waiters`].
    Waiters,
    /// See [`SplitLimits::commands_per_second`].
    Commands,
}

/// Something that a range has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// What.
    pub of: Measure,
    /// So much.
    pub has: u64,
    /// The most that it may have.
    pub limit: u64,
}

/// One lock has so much of it that no split would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneName {
    /// What there is too much of.
    pub excess: Excess,
    /// The lock.
    pub name: Name,
}

impl SplitLimits {
    /// What the range has too much of, if it is anything.
    pub fn excesses(&self, table: &LockTable, sample: &LoadSample) -> impl Iterator<Item = Excess> {
        let counts = table.counts();
        let measured = [
            (Measure::Locks, counts.locks as u64, self.locks),
            (Measure::Bytes, table.bytes(), self.bytes),
            (Measure::Waiters, counts.waiters as u64, self.waiters),
            (Measure::Commands, sample.too_many().unwrap_or(0), self.commands_per_second),
        ];
        measured.into_iter().filter_map(|(of, has, limit)| {
            let limit = limit.filter(|limit| has > *limit)?;
            Some(Excess { of, has, limit })
        })
    }
}

impl Excess {
    /// Where a split would share it out. `Ok(None)`: too little is known of it yet. Takes time in
    /// proportion to the names.
    ///
    /// # Errors
    /// One lock has most of it.
    pub fn cut(self, table: &LockTable, sample: &LoadSample) -> Result<Option<Cut>, OneName> {
        let at = match self.of {
            Measure::Locks => table.middle().cloned(),
            Measure::Bytes => self.balanced(table, Weight::Bytes)?,
            Measure::Waiters => self.balanced(table, Weight::Waiters)?,
            Measure::Commands => match sample.cut() {
                Some(LoadCut::OneName(name)) => return Err(OneName { excess: self, name }),
                Some(LoadCut::At(name)) => Some(name),
                None => None,
            },
        };
        Ok(at.map(|at| {
            let below = table.names_before(at.as_str());
            let above = table.counts().locks - below;
            Cut { at: at.as_str().to_owned(), why: Why::TooMuch(self), below, above }
        }))
    }

    fn balanced(self, table: &LockTable, weight: Weight) -> Result<Option<Name>, OneName> {
        let one = |name| Err(OneName { excess: self, name });
        match table.balance(weight) {
            Some(it) if is_shared(it.below, it.above) => Ok(Some(it.at)),
            Some(it) => one(it.heaviest),
            None => table.first().map_or(Ok(None), |name| one(name.clone())),
        }
    }
}

impl Measure {
    /// The setting that limits it.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Locks => "split.locks",
            Self::Bytes => "split.bytes",
            Self::Waiters => "split.waiters",
            Self::Commands => "split.commands_per_second",
        }
    }

    /// Whether it may be over soon, so that a split for it can wait, and must not use up the replicas
    /// that a store may have.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Waiters | Self::Commands)
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, has, limit } = self;
        let (verb, things) = match of {
            Measure::Locks => ("has", "locks"),
            Measure::Bytes => ("takes", "bytes of memory"),
            Measure::Waiters => ("has", "waiters"),
            Measure::Commands => ("gets", "commands per second"),
        };
        write!(f, "it {verb} {has} {things}, and is split beyond {limit} ({})", of.setting())
    }
}

impl fmt::Display for OneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { excess, name } = self;
        write!(f, "{excess}; most of that is for one lock, and no split helps: {:?}", name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::splitting::tests::{held, table};

    fn limits(locks: u64, bytes: u64, waiters: u64) -> SplitLimits {
        SplitLimits {
            locks: Some(locks),
            bytes: Some(bytes),
            waiters: Some(waiters),
            commands_per_second: Some(10),
        }
    }

    fn excesses(limits: SplitLimits, table: &LockTable) -> Vec<(Measure, u64)> {
        let sample = LoadSample::default();
        limits.excesses(table, &sample).map(|excess| (excess.of, excess.has)).collect()
    }

    #[test]
    fn a_range_has_too_much_only_beyond_its_limits() {
        let full = table(&["a", "b", "c"]);
        let bytes = full.bytes();
        assert_eq!(excesses(limits(3, bytes, 0), &full), []);
        let some = [(Measure::Locks, 3), (Measure::Bytes, bytes)];
        assert_eq!(excesses(limits(2, bytes - 1, 0), &full), some);
        assert_eq!(excesses(SplitLimits::default(), &full), [], "nothing is limited");
    }

    #[test]
    fn each_measure_is_cut_where_it_is_shared_out() {
        let sample = LoadSample::default();
        // Three locks; all of the waiters and most of the memory belong to the last two.
        let uneven = held(&[("a", 0), ("b", 0), ("c", 9), ("d", 9)]);
        let at = |of| {
            let excess = Excess { of, has: 2, limit: 1 };
            excess.cut(&uneven, &sample).map(|cut| cut.map(|cut| (cut.at, cut.below, cut.above)))
        };
        assert_eq!(at(Measure::Locks), Ok(Some(("c".to_owned(), 2, 2))));
        assert_eq!(at(Measure::Waiters), Ok(Some(("d".to_owned(), 3, 1))));
        assert_eq!(at(Measure::Bytes), Ok(Some(("d".to_owned(), 3, 1))));
        assert_eq!(at(Measure::Commands), Ok(None), "nothing is known yet");
    }

    #[test]
    fn what_one_lock_has_most_of_is_not_split() {
        let sample = LoadSample::default();
        for names in
            [&[("a", 0), ("hot", 20), ("z", 1)][..], &[("hot", 20)], &[("a", 0), ("hot", 20)]]
        {
            let hot = held(names);
            for of in [Measure::Waiters, Measure::Bytes] {
                let excess = Excess { of, has: 20, limit: 1 };
                let one = OneName { excess, name: "hot".into() };
                assert_eq!(excess.cut(&hot, &sample), Err(one.clone()), "{names:?}");
                assert!(one.to_string().contains("\"hot\""), "{one}");
            }
        }
    }

    #[test]
    fn load_is_cut_by_the_sample_and_hot_locks_are_named() {
        let table = table(&["a", "b"]);
        let limits = limits(9, u64::MAX, 9);
        for (names, cut) in [(&["a", "b"][..], Ok("b")), (&["b"], Err("b"))] {
            let mut sample = LoadSample::default();
            let all: Vec<Name> = names.iter().map(|name| (*name).into()).collect();
            for at in 0..2_000 {
                sample.count(Duration::from_millis(at * 6), 10, &all);
            }
            let excess = limits.excesses(&table, &sample).next().expect("it is busy");
            assert_eq!(excess.of, Measure::Commands);
            match (excess.cut(&table, &sample), cut) {
                (Ok(Some(cut)), Ok(at)) => assert_eq!(cut.at, at),
                (Err(one), Err(hot)) => assert_eq!(one.name, hot.into()),
                (other, cut) => panic!("{other:?} in place of {cut:?}"),
            }
        }
    }
}
