//! The masters, as they have themselves in their log: who belongs to the cluster, by which address and
//! which data directory, and who is to go. Who of them votes says the group's descriptor: it follows
//! this list, step by step.

use std::collections::BTreeMap;

use sharklock_proto::{
    Identity,
    internal::v1::{
        AdmitMasterCommand, DismissMasterCommand, ForgetMasterCommand, FoundMastersCommand,
        MasterRow,
    },
};
use sharklock_rangemap::StoreId;

/// Where a master is, and which directory is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Random identity of its data directory.
    pub ident: Identity,
    /// The address by which everybody names it.
    pub address: String,
}

/// A master that belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Where, and which directory.
    pub member: Member,
    /// It is to go.
    pub leaving: Option<Leaving>,
}

/// When a master that is to go does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// At once.
    Now,
    /// In the same change by which this one gets its vote.
    For(StoreId),
}

/// All masters.
///
/// Invariants:
/// - ids are below `next_id`, which only grows: what was given once is never given again;
/// - no two have one ident;
/// - nobody is known exactly while `next_id` is 0, as before the founders are in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    all: BTreeMap<StoreId, MemberRecord>,
    next_id: u64,
}

/// Members as they were before a change, which is nothing for those that have come.
pub(crate) type Before = Vec<(StoreId, Option<MemberRecord>)>;

impl Members {
    /// All, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (StoreId, &MemberRecord)> {
        self.all.iter().map(|(id, member)| (*id, member))
    }

    /// By its id.
    pub fn get(&self, id: StoreId) -> Option<&MemberRecord> {
        self.all.get(&id)
    }

    /// The member with this directory.
    pub fn of(&self, ident: Identity) -> Option<(StoreId, &MemberRecord)> {
        self.iter().find(|(_, record)| record.member.ident == ident)
    }

    /// Whether the founders are in the log.
    pub fn are_known(&self) -> bool {
        self.next_id > 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Out of an image.
    pub(crate) fn restore(next_id: u64) -> Self {
        Self { all: BTreeMap::new(), next_id }
    }

    /// A row of an image.
    pub(crate) fn insert_row(&mut self, row: MasterRow) -> Result<(), String> {
        let id = StoreId(row.member_id);
        let record = record(row)?;
        if id.0 == 0 || id.0 >= self.next_id {
            return Err(format!("master {id} cannot stand here"));
        }
        if let Some((other, _)) = self.of(record.member.ident) {
            return Err(format!("masters {other} and {id} have one identity"));
        }
        self.all.insert(id, record);
        Ok(())
    }

    /// Those that formed the cluster. Later ones change nothing.
    pub(crate) fn found(&mut self, command: FoundMastersCommand) -> Before {
        if self.are_known() {
            return Vec::new();
        }
        let founder = |row: MasterRow| {
            let id = StoreId(row.member_id);
            let record = record(row);
            (id, record.unwrap_or_else(|why| panic!("the log of the masters: {why}")))
        };
        self.all = command.masters.into_iter().map(founder).collect();
        self.next_id = 1 + self.all.keys().map(|id| id.0).max().unwrap_or(0);
        self.all.keys().map(|id| (*id, None)).collect()
    }

    /// A directory becomes a member, or is one.
    pub(crate) fn admit(&mut self, command: AdmitMasterCommand) -> (StoreId, Before) {
        let AdmitMasterCommand { ident, address, instead_of_member_id } = command;
        let ident = Identity::from_wire(&ident).expect("a leading master checks it");
        if let Some((id, _)) = self.of(ident) {
            return (id, Vec::new());
        }
        let id = StoreId(self.next_id);
        self.next_id += 1;
        // Before it is there: it goes for nobody but a member that was there before.
        let old = self.set_leaving(StoreId(instead_of_member_id), Some(Leaving::For(id)));
        self.all.insert(id, MemberRecord { member: Member { ident, address }, leaving: None });
        (id, old.into_iter().chain([(id, None)]).collect())
    }

    /// A member is to go, or stays after all. Whoever was to go for one that goes itself stays.
    pub(crate) fn dismiss(&mut self, command: DismissMasterCommand) -> Before {
        let id = StoreId(command.member_id);
        if command.stays {
            return self.set_leaving(id, None).into_iter().collect();
        }
        let was_for = |(of, record): (&StoreId, &MemberRecord)| {
            (record.leaving == Some(Leaving::For(id))).then_some(*of)
        };
        let stays: Vec<_> = self.all.iter().filter_map(was_for).collect();
        let mut before: Before = self.set_leaving(id, Some(Leaving::Now)).into_iter().collect();
        before.extend(stays.into_iter().filter_map(|of| self.set_leaving(of, None)));
        before
    }

    /// A member that was to go is gone.
    pub(crate) fn forget(&mut self, command: &ForgetMasterCommand) -> Before {
        let id = StoreId(command.member_id);
        if self.all.get(&id).is_none_or(|record| record.leaving.is_none()) {
            return Vec::new();
        }
        self.all.remove(&id).map(|record| (id, Some(record))).into_iter().collect()
    }

    fn set_leaving(
        &mut self,
        id: StoreId,
        leaving: Option<Leaving>,
    ) -> Option<(StoreId, Option<MemberRecord>)> {
        let record = self.all.get_mut(&id).filter(|record| record.leaving != leaving)?;
        let before = record.clone();
        record.leaving = leaving;
        Some((id, Some(before)))
    }
}

impl MemberRecord {
    pub(crate) fn to_row(&self, id: StoreId) -> MasterRow {
        MasterRow {
            member_id: id.0,
            ident: self.member.ident.to_wire(),
            address: self.member.address.clone(),
            is_leaving: self.leaving.is_some(),
            successor_id: match self.leaving {
                Some(Leaving::For(successor)) => successor.0,
                Some(Leaving::Now) | None => 0,
            },
        }
    }
}

fn record(row: MasterRow) -> Result<MemberRecord, String> {
    let MasterRow { member_id: _, ident, address, is_leaving, successor_id } = row;
    let ident = Identity::from_wire(&ident).map_err(|why| format!("ident: {why}"))?;
    let leaving = match (is_leaving, successor_id) {
        (false, 0) => None,
        (true, 0) => Some(Leaving::Now),
        (true, successor) => Some(Leaving::For(StoreId(successor))),
        (false, successor) => return Err(format!("it stays, and goes for master {successor}")),
    };
    Ok(MemberRecord { member: Member { ident, address }, leaving })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ident(of: u8) -> Identity {
        Identity::from_bytes([of; 16])
    }

    fn founded(count: u8) -> Members {
        let row = |of: u8| MasterRow {
            member_id: of.into(),
            ident: ident(of).to_wire(),
            address: format!("m{of}:7720"),
            ..MasterRow::default()
        };
        let mut members = Members::default();
        let masters: Vec<_> = (1..=count).map(row).collect();
        assert_eq!(members.found(FoundMastersCommand { masters }).len(), count.into());
        members
    }

    fn admit(members: &mut Members, of: u8, instead_of: u64) -> u64 {
        let (ident, address) = (ident(of).to_wire(), format!("m{of}:7720"));
        let command = AdmitMasterCommand { ident, address, instead_of_member_id: instead_of };
        members.admit(command).0.0
    }

    fn leaving(members: &Members) -> Vec<(u64, Leaving)> {
        let leaving = members.iter().filter_map(|(id, record)| Some((id.0, record.leaving?)));
        leaving.collect()
    }

    #[test]
    fn ids_are_given_once_and_a_directory_is_one_member() {
        let mut members = founded(3);
        assert!(members.found(FoundMastersCommand::default()).is_empty(), "they are known");
        assert_eq!(admit(&mut members, 4, 0), 4);
        assert_eq!(admit(&mut members, 4, 0), 4, "the answer was lost");
        members.dismiss(DismissMasterCommand { member_id: 4, stays: false });
        assert_eq!(members.forget(&ForgetMasterCommand { member_id: 4 }).len(), 1);
        assert_eq!(members.forget(&ForgetMasterCommand { member_id: 4 }).len(), 0);
        assert_eq!(admit(&mut members, 4, 0), 5, "it was forgotten: it is a new one");
    }

    #[test]
    fn who_goes_for_one_that_goes_itself_stays() {
        let mut members = founded(3);
        assert_eq!(admit(&mut members, 4, 2), 4);
        assert_eq!(leaving(&members), [(2, Leaving::For(StoreId(4)))]);
        members.dismiss(DismissMasterCommand { member_id: 4, stays: false });
        assert_eq!(leaving(&members), [(4, Leaving::Now)]);
        members.dismiss(DismissMasterCommand { member_id: 4, stays: true });
        assert_eq!(leaving(&members), []);
    }

    #[test]
    fn a_member_that_stays_is_not_forgotten_by_a_late_command() {
        let mut members = founded(3);
        members.forget(&ForgetMasterCommand { member_id: 2 });
        assert_eq!(members.count(), 3);
    }

    #[test]
    fn rows_come_back_as_they_were_and_what_cannot_be_is_refused() {
        let mut members = founded(3);
        admit(&mut members, 4, 2);
        members.dismiss(DismissMasterCommand { member_id: 1, stays: false });
        let mut again = Members::restore(members.next_id());
        for (id, record) in members.iter() {
            again.insert_row(record.to_row(id)).expect("it was written so");
        }
        assert_eq!(again, members);
        let row = members.get(StoreId(3)).expect("it is there").to_row(StoreId(3));
        let bad = [
            MasterRow { member_id: 9, ..row.clone() },
            MasterRow { member_id: 0, ..row.clone() },
            MasterRow { successor_id: 4, ..row.clone() },
            MasterRow { ident: vec![1; 3].into(), ..row },
        ];
        for row in bad {
            let mut members = Members::restore(6);
            members.insert_row(row.clone()).expect_err(&format!("{row:?}"));
        }
    }
}
