//! S11: what its client was told to be over is over for ever, on every replica that has applied as
//! much as the one that said so, and in every range that was split off since.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_locktable::{Acquisition, Lease, LockTable};
use sharklock_rangemap::RangeId;

use crate::check::Tiling;

/// Acquisitions that are over, by (instance, id), with an index by which that stood in the log of
/// their range.
#[derive(Debug, Default)]
pub struct Finished {
    over: BTreeMap<(u64, u64), (RangeId, u64)>,
    /// Those of which a range has said that they wait or hold.
    open: BTreeMap<(u64, u64), Open>,
    /// Those of which nothing is said any more, by the same names.
    anew: BTreeSet<(u64, u64)>,
}

/// An acquisition of which a range has said that it waits or holds.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Which range first said so, and by which index.
    at: (RangeId, u64),
    /// When the last attempt was made that was answered so.
    renewed_ns: u64,
}

impl Finished {
    /// A client was told that an acquisition is over, which stands in the log of its range at this
    /// index at the latest.
    pub fn told(
        &mut self,
        (instance, id): (u64, u64),
        (range, index): (RangeId, u64),
        tiling: &Tiling,
    ) {
        if self.anew.contains(&(instance, id)) {
            return;
        }
        let (of, known) = self.over.entry((instance, id)).or_insert((range, index));
        if *of == range {
            *known = index.min(*known);
        } else if tiling.descends(*of, range) {
            // It was over before that range was split off.
            (*of, *known) = (range, index);
        }
    }

    /// A client was told that an acquisition waits or holds, as of this index of this range's log, in
    /// answer to an attempt of then.
    pub fn told_open(&mut self, (instance, id): (u64, u64), at: (RangeId, u64), renewed_ns: u64) {
        let open = self.open.entry((instance, id)).or_insert(Open { at, renewed_ns });
        open.renewed_ns = open.renewed_ns.max(renewed_ns);
    }

    /// A client was told, as of this index of this range's log, that nothing is known of an
    /// acquisition. What was asked for before `known_ns` may be forgotten.
    ///
    /// # Errors
    ///
    /// It was there before, so it is open, or how it ended is known.
    pub fn called_unknown(
        &self,
        (instance, id): (u64, u64),
        (range, index): (RangeId, u64),
        known_ns: u64,
        tiling: &Tiling,
    ) -> Result<(), String> {
        let Some(Open { at: (of, since), renewed_ns }) = self.open.get(&(instance, id)) else {
            return Ok(());
        };
        let is_behind = if *of == range { *since <= index } else { tiling.descends(range, *of) };
        if !is_behind || *renewed_ns < known_ns || self.anew.contains(&(instance, id)) {
            return Ok(());
        }
        Err(format!(
            "range {range} knows nothing of acquisition {id} of instance {instance} at {index}, \
             which was open at {since} of range {of}"
        ))
    }

    /// A client asks again so long after the last answer that its end may be forgotten by now: it
    /// is a new wish then (SEMANTICS.md), which may be granted behind the end that is still told.
    pub fn wished_anew(&mut self, instance: u64, id: u64) {
        self.over.remove(&(instance, id));
        self.anew.insert((instance, id));
    }

    /// Looks for such acquisitions among those that are open on a replica.
    ///
    /// # Errors
    ///
    /// The lock and what has come back.
    pub fn compare(
        &self,
        store: usize,
        (range, applied): (RangeId, u64),
        table: &LockTable,
        tiling: &Tiling,
    ) -> Result<(), (String, String)> {
        // A range speaks of what it has. So what was split off it later has begun with the end.
        let knows = |of: RangeId, index: u64| match of == range {
            true => index <= applied,
            false => tiling.descends(range, of),
        };
        for lease in table.leases() {
            let (name, open) = open(&lease);
            for acquisition in open {
                let key = (acquisition.instance.0, acquisition.id.0);
                if self.over.get(&key).is_some_and(|(of, index)| knows(*of, *index)) {
                    let (instance, id) = key;
                    let what = format!(
                        "acquisition {id} of instance {instance} on {name} was said to be over, \
                         and is open on s{store} at {applied} of range {range}"
                    );
                    return Err((name, what));
                }
            }
        }
        Ok(())
    }
}

/// The lock of a lease, and the acquisitions that it keeps open.
pub fn open(lease: &Lease) -> (String, Vec<Acquisition>) {
    match lease {
        Lease::Hold { name, acquisitions, .. } => (name.as_str().to_owned(), acquisitions.clone()),
        // A seat that stays taken for a while after an end: nobody has it.
        Lease::Delay { name, .. } => (name.as_str().to_owned(), Vec::new()),
        Lease::Waiter { name, acquisition, .. } => (name.as_str().to_owned(), vec![*acquisition]),
    }
}
