//! A bound on something that many use, within the bound of those whose part they are: a connection
//! within its address, an address within the whole gateway.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One bound and what is used of it; taking from it takes from the bounds around it, too.
#[derive(Debug)]
pub(super) struct Quota {
    used: AtomicUsize,
    max: usize,
    /// The owner of the bound, for people and metrics.
    of: &'static str,
    within: Option<Arc<Quota>>,
}

/// A bound that was met: nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// The owner of the bound.
    pub(super) of: &'static str,
    /// The bound.
    pub(super) max: usize,
}

impl Quota {
    pub(super) fn whole(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, of: "gateway", within: None })
    }

    /// A part's own bound.
    pub(super) fn part(self: &Arc<Self>, of: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, of, within: Some(self.clone()) })
    }

    /// Takes so much if it fits here and in everything that this is a part of.
    pub(super) fn take(self: &Arc<Self>, amount: usize) -> Result<Taken, Full> {
        let mut taken = Taken::nothing(self);
        taken.grow(amount);
        // The drop gives back what was taken too much. Two that race may both be refused, and
        // neither waits for the other.
        match self.chain().find(|quota| quota.used() > quota.max) {
            Some(quota) => Err(Full { of: quota.of, max: quota.max }),
            None => Ok(taken),
        }
    }

    /// Whether nothing more fits.
    pub(super) fn check(&self) -> Result<(), Full> {
        match self.chain().find(|quota| quota.used() >= quota.max) {
            Some(quota) => Err(Full { of: quota.of, max: quota.max }),
            None => Ok(()),
        }
    }

    /// Whether nothing more fits here, whatever this is a part of.
    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |quota| quota.within.as_deref())
    }
}

/// The amount that was taken. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    quota: Arc<Quota>,
    amount: usize,
}

impl Taken {
    pub(super) fn nothing(quota: &Arc<Quota>) -> Self {
        Self { quota: quota.clone(), amount: 0 }
    }

    pub(super) fn amount(&self) -> usize {
        self.amount
    }

    /// Takes more, beyond the bound if need be: it is there already.
    pub(super) fn grow(&mut self, more: usize) {
        self.amount += more;
        for quota in self.quota.chain() {
            quota.used.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Gives back all but so much.
    pub(super) fn shrink_to(&mut self, amount: usize) {
        let less = self.amount.saturating_sub(amount);
        self.amount -= less;
        if less > 0 {
            for quota in self.quota.chain() {
                quota.used.fetch_sub(less, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_counts_in_all_and_comes_back() {
        let whole = Quota::whole(10);
        let (one, other) = (whole.part("address", 6), whole.part("address", 6));
        let first = one.take(6).expect("it fits");
        assert_eq!(one.take(1).expect_err("its own bound"), Full { of: "address", max: 6 });
        assert_eq!(other.take(5).expect_err("the whole's"), Full { of: "gateway", max: 10 });
        assert_eq!((one.used(), other.used(), whole.used()), (6, 0, 6));
        let second = other.take(4).expect("it fits");
        assert!(other.check().is_err() && !other.is_full());
        drop((first, second));
        assert_eq!((one.used(), other.used(), whole.used()), (0, 0, 0));
    }

    #[test]
    fn what_is_there_already_is_counted_beyond_the_bound() {
        let whole = Quota::whole(10);
        let mut taken = Taken::nothing(&whole.part("connection", 5));
        taken.grow(12);
        assert!(whole.check().is_err());
        taken.shrink_to(3);
        assert_eq!((taken.amount(), whole.used()), (3, 3));
    }
}
