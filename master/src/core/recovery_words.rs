//! Recoveries in words, for people.

use std::fmt::Write as _;

use sharklock_rangemap::StoreId;

use crate::state::RecoveryRecord;

pub(super) fn steps(record: &RecoveryRecord) -> Vec<String> {
    let RecoveryRecord { range, lost, store, last: (_, index), generation, now, .. } = record;
    let granted = match now {
        true => "it grants locks as soon as it leads".to_owned(),
        false => {
            "it grants nothing for about 10 minutes from when it leads, until every lease is over \
                  that the lost entries may have given; holders go on, and who may wait queues"
                .to_owned()
        }
    };
    let gone = format!(
        "{} gone, with all that they have, and refused for ever",
        stores_are(lost.iter().copied())
    );
    let gone = (!lost.is_empty()).then_some(gone);
    let rest = [
        format!("store {store} goes on alone with range {range}, with its log up to entry {index}"),
        format!("its tokens are of generation {generation}, above all that were given"),
        granted,
        "the schedule makes its other replicas anew".to_owned(),
    ];
    gone.into_iter().chain(rest).collect()
}

pub(super) fn comma(stores: &[StoreId]) -> String {
    let stores: Vec<_> = stores.iter().map(ToString::to_string).collect();
    stores.join(",")
}

pub(super) fn stores_in_words(stores: impl Iterator<Item = StoreId>) -> String {
    let stores: Vec<_> = stores.collect();
    let mut text = if stores.len() == 1 { "store".to_owned() } else { "stores".to_owned() };
    for (at, store) in stores.iter().enumerate() {
        let before = match at {
            0 => " ",
            at if at + 1 == stores.len() => " and ",
            _ => ", ",
        };
        let _ = write!(text, "{before}{store}");
    }
    text
}

pub(super) fn stores_are(stores: impl Iterator<Item = StoreId>) -> String {
    let stores: Vec<_> = stores.collect();
    let verb = if stores.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", stores_in_words(stores.into_iter()))
}
