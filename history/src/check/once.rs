//! S8: one acquisition has one effect.

use crate::check::{Kind, Report};
use crate::record::{Record, What};

/// The records that name an acquisition, by acquisition and then by their answers' times.
pub(super) fn by_acquisition<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    let mut keyed: Vec<(u32, u64, u64, usize)> = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        if record.acquisition != 0 && !matches!(record.what, What::Looked { .. }) {
            keyed.push((record.session, record.acquisition, record.returned, at));
        }
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., at)| records[at]).collect()
}

/// The records of one acquisition at a time.
pub(super) fn each<'a, 'b>(
    by_acquisition: &'b [&'a Record],
) -> impl Iterator<Item = &'b [&'a Record]> {
    by_acquisition.chunk_by(|a, b| (a.session, a.acquisition) == (b.session, b.acquisition))
}

pub(super) fn check(by_acquisition: &[&Record], report: &mut Report) {
    for group in each(by_acquisition) {
        let mut effects = group.iter().filter(|record| is_effect(record));
        let Some(first) = effects.next() else { continue };
        for record in effects {
            report.violation(Kind::DoubleEffect, record.lock, || {
                format!(
                    "acquisition {} of session {} had two effects: {:?} at {} on lock #{}, then \
                     {:?} at {}",
                    record.acquisition,
                    record.session,
                    first.what,
                    first.returned,
                    first.lock.0,
                    record.what,
                    record.returned
                )
            });
        }
    }
}

/// A final answer: an acquisition has at most one.
fn is_effect(record: &Record) -> bool {
    matches!(record.what, What::Granted(_) | What::Refused { .. } | What::TimedOut { .. })
}
