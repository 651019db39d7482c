//! The acquisitions that are open on one hold. Nearly always it is the one by which the hold began,
//! and then it costs no more than its number.

use std::ops::Deref;

use crate::AcquisitionId;

/// The ids of the acquisitions that are open on a hold, oldest first, and the newest that ever was: what
/// an Expire must know of (hole 6).
///
/// Invariants:
/// - `several` is `None` exactly if the newest id is open, and no other: equal ones are equal in
///   memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIds {
    newest: AcquisitionId,
    // A boxed slice would be as large as all of it.
    #[expect(clippy::box_collection, reason = "few holds have it, and all pay for the pointer")]
    several: Option<Box<Vec<AcquisitionId>>>,
}

impl OpenIds {
    /// These, as an image has them: whether they may be so is the table's to judge.
    pub fn new(open: Vec<AcquisitionId>, newest: AcquisitionId) -> Self {
        let several = (open != [newest]).then(|| Box::new(open));
        Self { newest, several }
    }

    /// That of a hold that begins.
    pub(crate) fn one(id: AcquisitionId) -> Self {
        Self { newest: id, several: None }
    }

    /// The highest id that ever joined.
    pub fn newest(&self) -> AcquisitionId {
        self.newest
    }

    /// Another one is open, which was not.
    pub(crate) fn join(&mut self, id: AcquisitionId) {
        let newest = self.newest.max(id);
        let mut open = self.to_vec();
        open.insert(open.partition_point(|&open| open < id), id);
        *self = Self::new(open, newest);
    }

    /// Changes which are open. The newest stays: it is what has been, and not what is.
    pub fn change(&mut self, change: impl FnOnce(&mut Vec<AcquisitionId>)) {
        let mut open = self.to_vec();
        change(&mut open);
        *self = Self::new(open, self.newest);
    }
}

impl Deref for OpenIds {
    type Target = [AcquisitionId];

    fn deref(&self) -> &[AcquisitionId] {
        match &self.several {
            None => std::slice::from_ref(&self.newest),
            Some(several) => several,
        }
    }
}
