//! A replica here goes on alone (`crate::alone`): it ends under its id and is born under another, in one
//! batch. Until the disk has that nothing of either is stepped or sent, and a crash leaves the first.

use sharklock_rangemap::RangeId;

use super::Store;
use super::lives::Unborn;
use crate::alone::{self, Alone, Heir, NotAlone};
use crate::effects::Effects;
use crate::state_machine::StateMachine;

impl<M: StateMachine> Store<M> {
    /// Lets a replica go on alone, with its next turn. The owner repeats it until the replica here has
    /// the new id ([`NotAlone::OtherPeer`]): a crash, or a leader that is heard of after all, may come
    /// between.
    ///
    /// Whoever asks vouches that the lost replicas never vote again.
    pub fn go_on_alone(&mut self, range: RangeId, alone: Alone) -> Result<(), NotAlone> {
        let replica = self.replicas.get_mut(&range).ok_or(NotAlone::UnknownRange)?;
        replica.may_go_on_alone(self.ticks, &alone)?;
        replica.set_alone(alone);
        self.work.insert(range);
        Ok(())
    }

    /// False: something has come in between since it was asked for.
    pub(super) fn goes_on_alone(
        &mut self,
        range: RangeId,
        alone: &Alone,
        effects: &mut Effects<M::Output>,
    ) -> bool {
        let Some(replica) = self.replicas.get(&range) else { return false };
        if replica.may_go_on_alone(self.ticks, alone).is_err() || replica.is_removed() {
            return false;
        }
        let replica = self.take_out(range).expect("it was there a line above");
        let heir = alone::inherit(replica.into_remains(), alone, self.ident.store);
        let Heir { loaded, records, halves, discarded } = heir;
        self.discarded.extend(discarded);
        for half in halves {
            self.bear_half(range, half);
        }
        self.divide_at_once(range);
        self.staging.put_all(records);
        self.staging.bear(range);
        self.await_birth(Unborn { loaded, parent: None });
        self.tombstones.insert(range, alone.peer);
        self.buried.push((range, alone.peer));
        effects.gone.push(range);
        true
    }
}
