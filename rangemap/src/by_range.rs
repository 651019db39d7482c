//! Values by range.

use std::ops::Index;

use crate::RangeId;

/// One value for each of some ranges, in the order of their ids. To look one up costs about the same
/// however many there are, since a turn of a worker does so some thirty times: mostly for the range
/// that was changed last, otherwise by a binary search over ids that lie side by side. In exchange,
/// to put one in or take one out moves all behind it.
///
/// Invariants: `ids` ascend; `values` has the value of each at the same place; `latest` is a place of
/// which nothing is promised.
#[derive(Clone, Debug)]
pub struct ByRange<T> {
    ids: Vec<RangeId>,
    /// In boxes, so that few bytes move.
    values: Vec<Box<T>>,
    /// Where the value is that was looked up last to be changed.
    latest: usize,
}

impl<T> Default for ByRange<T> {
    fn default() -> Self {
        Self { ids: Vec::new(), values: Vec::new(), latest: 0 }
    }
}

impl<T> ByRange<T> {
    fn place(&self, range: &RangeId) -> Result<usize, usize> {
        if self.ids.get(self.latest) == Some(range) {
            return Ok(self.latest);
        }
        self.ids.binary_search(range)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the range has a value.
    pub fn contains_key(&self, range: &RangeId) -> bool {
        self.place(range).is_ok()
    }

    /// The value of a range.
    pub fn get(&self, range: &RangeId) -> Option<&T> {
        Some(&self.values[self.place(range).ok()?])
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, range: &RangeId) -> Option<&mut T> {
        self.latest = self.place(range).ok()?;
        Some(&mut self.values[self.latest])
    }

    /// The value of a range, made where there is none.
    pub fn get_or_insert_with(&mut self, range: RangeId, make: impl FnOnce() -> T) -> &mut T {
        let at = match self.place(&range) {
            Ok(at) => at,
            Err(at) => {
                self.ids.insert(at, range);
                self.values.insert(at, Box::new(make()));
                at
            }
        };
        &mut self.values[at]
    }

    /// Sets the value of a range, and returns the one that it had.
    pub fn insert(&mut self, range: RangeId, value: T) -> Option<T> {
        match self.place(&range) {
            Ok(at) => Some(std::mem::replace(&mut *self.values[at], value)),
            Err(at) => {
                self.ids.insert(at, range);
                self.values.insert(at, Box::new(value));
                None
            }
        }
    }

    /// Takes the value of a range out.
    pub fn remove(&mut self, range: &RangeId) -> Option<T> {
        let at = self.place(range).ok()?;
        self.ids.remove(at);
        Some(*self.values.remove(at))
    }

    /// The ranges, ascending.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &RangeId> {
        self.ids.iter()
    }

    /// The values, in the order of their ranges.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &T> {
        self.values.iter().map(|value| &**value)
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl ExactSizeIterator<Item = &mut T> {
        self.values.iter_mut().map(|value| &mut **value)
    }

    /// Ranges with their values, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&RangeId, &T)> {
        self.ids.iter().zip(self.values())
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&RangeId, &mut T)> {
        self.ids.iter().zip(self.values.iter_mut().map(|value| &mut **value))
    }
}

impl<T> Index<&RangeId> for ByRange<T> {
    type Output = T;

    /// # Panics
    /// The range has no value.
    fn index(&self, range: &RangeId) -> &T {
        self.get(range).unwrap_or_else(|| panic!("{range:?} is not here, only {:?}", self.ids))
    }
}

impl<T> FromIterator<(RangeId, T)> for ByRange<T> {
    fn from_iter<I: IntoIterator<Item = (RangeId, T)>>(values: I) -> Self {
        let mut made = Self::default();
        for (range, value) in values {
            made.insert(range, value);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u32),
        OrInsert(u64, u32),
        Remove(u64),
        Raise(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 1..20_u64;
        prop_oneof![
            (id.clone(), any::<u32>()).prop_map(|(id, value)| Step::Insert(id, value)),
            (id.clone(), any::<u32>()).prop_map(|(id, value)| Step::OrInsert(id, value)),
            id.clone().prop_map(Step::Remove),
            id.prop_map(Step::Raise),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_order_of_ranges(steps in prop::collection::vec(step(), 0..80)) {
            let (mut map, mut naive) = (ByRange::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(id, value) => {
                        let id = RangeId(id);
                        prop_assert_eq!(map.insert(id, value), naive.insert(id, value));
                    }
                    Step::OrInsert(id, value) => {
                        let id = RangeId(id);
                        let made = *map.get_or_insert_with(id, || value);
                        prop_assert_eq!(made, *naive.entry(id).or_insert(value));
                    }
                    Step::Remove(id) => {
                        prop_assert_eq!(map.remove(&RangeId(id)), naive.remove(&RangeId(id)));
                    }
                    Step::Raise(id) => {
                        let (one, other) = (map.get_mut(&RangeId(id)), naive.get_mut(&RangeId(id)));
                        prop_assert_eq!(&one, &other);
                        if let (Some(one), Some(other)) = (one, other) {
                            *one = one.wrapping_add(1);
                            *other = other.wrapping_add(1);
                        }
                    }
                }
                prop_assert!(map.iter().eq(naive.iter()));
                prop_assert!(map.keys().eq(naive.keys()) && map.values().eq(naive.values()));
                prop_assert_eq!(map.len(), naive.len());
                for id in 0..21 {
                    prop_assert_eq!(map.get(&RangeId(id)), naive.get(&RangeId(id)));
                    prop_assert_eq!(
                        map.contains_key(&RangeId(id)),
                        naive.contains_key(&RangeId(id))
                    );
                }
            }
        }
    }
}
