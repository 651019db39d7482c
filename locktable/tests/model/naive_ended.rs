//! The rules of D8 about acquisitions that have ended, as plainly as they can be said: lists of
//! them, by when they ended.

use std::collections::BTreeSet;

use sharklock_locktable::Acquisition;

use crate::naive::Naive;

/// The acquisitions that ended within five seconds of the range's age, or until they were an eighth
/// of what is allowed.
#[derive(Clone)]
pub struct Generation {
    pub number: u64,
    first: u64,
    last: u64,
    ids: Vec<Acquisition>,
}

impl Generation {
    /// 120 bytes for each life in it, and 16 for each group of 32 ids.
    fn bytes(&self) -> usize {
        let life = |it: &Acquisition| (it.session, it.instance, it.id.0 >> 37);
        let lives: BTreeSet<_> = self.ids.iter().map(life).collect();
        let groups: BTreeSet<_> = self.ids.iter().map(|it| (life(it), it.id.0 >> 5)).collect();
        lives.len() * 120 + groups.len() * 16
    }
}

impl Naive {
    /// Whether it has ended, as far as is remembered.
    pub fn has_ended(&self, acquisition: Acquisition) -> bool {
        if self.level < 3 {
            return self.gone.iter().any(|gone| gone.acquisition == acquisition);
        }
        self.ended.iter().any(|generation| generation.ids.contains(&acquisition))
    }

    /// Whether it may have ended and be forgotten.
    pub fn is_doubtful(&self, asked_ms: u64) -> bool {
        let is_behind = |ms: u64| ms > 0 && asked_ms < ms + 1_000;
        self.level >= 3 && (is_behind(self.lost) || is_behind(self.recovered))
    }

    /// From here on it is remembered for 35 s.
    pub fn remember(&mut self, acquisition: Acquisition) {
        let (age, bytes_max) = (self.age, self.limits.ended_bytes_max);
        let is_open = |last: &Generation| age - last.first < 5_000 && last.bytes() < bytes_max / 8;
        if !self.ended.last().is_some_and(is_open) {
            let (number, ids) = (self.generations, vec![]);
            self.ended.push(Generation { number, first: age, last: age, ids });
            self.generations += 1;
        }
        let newest = self.ended.last_mut().expect("there is one now");
        newest.ids.push(acquisition);
        newest.last = age;
        while self.ended_bytes() > bytes_max && self.ended.len() > 1 {
            self.forget_oldest();
        }
    }

    /// A copy has come of what has ended.
    pub fn again(&mut self, acquisition: Acquisition) {
        if self.level >= 3 && self.has_ended(acquisition) {
            self.remember(acquisition);
        }
    }

    pub fn pass(&mut self, ms: u64) {
        if self.level < 3 {
            return;
        }
        self.age += ms;
        while self.ended.first().is_some_and(|oldest| oldest.last + 35_000 <= self.age) {
            self.forget_oldest();
        }
    }

    pub fn raise(&mut self, level: u64) {
        if self.level < 3 && level >= 3 {
            self.level = level;
            self.lost = self.age - 1_000;
            let first = self.generations;
            self.gone.iter_mut().for_each(|gone| gone.generation = first);
            let known: Vec<_> = self.gone.iter().map(|gone| gone.acquisition).collect();
            known.into_iter().for_each(|acquisition| self.remember(acquisition));
        }
        self.level = self.level.max(level);
    }

    pub fn ended_bytes(&self) -> usize {
        self.ended.iter().map(Generation::bytes).sum()
    }

    fn forget_oldest(&mut self) {
        let oldest = self.ended.remove(0);
        self.lost = self.lost.max(oldest.last);
        while self.gone.first().is_some_and(|gone| gone.generation <= oldest.number) {
            self.lose_oldest_outcome();
        }
    }

    pub fn lose_oldest_outcome(&mut self) {
        let lost = self.gone.remove(0);
        let hold = self.held.iter_mut().find(|hold| Some(hold.token) == lost.token);
        if let Some(hold) = hold {
            hold.lost = hold.lost.max(lost.acquisition.id.0);
        }
    }
}
