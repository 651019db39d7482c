//! What a change of a range's bounds means for what its leader has on the way (D12): whatever names
//! something that has left the range is done elsewhere, and its gateway is told where.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_locktable::{Acquisition, Command, LockTable, Name};
use sharklock_multiraft::Store;
use sharklock_proto::internal::v1::{self as internal, store_error::Kind};
use sharklock_rangemap::{Bounds, Descriptor, RangeId};

use crate::{
    front::{Asker, Front, ReplyTo, Subscriber},
    machine::LockRange,
};

/// Not done, since the range that was `asked` has not the bounds that its gateway believes in, or not
/// these names. Says what bounds it has, and which ranges have the names, so far as they are here or
/// about to be, and nothing of others: a store may have thousands.
pub fn epoch_not_match<'n>(
    store: &Store<LockRange>,
    asked: Option<RangeId>,
    names: impl IntoIterator<Item = &'n str>,
) -> Kind {
    let mut known: Vec<&Descriptor> = Vec::new();
    known.extend(asked.and_then(|range| store.descriptor(range)));
    for name in names {
        if !known.iter().any(|it| it.bounds.contains(name.as_bytes())) {
            known.extend(store.descriptor_at(name.as_bytes()));
        }
    }
    let descriptors = known.into_iter().map(internal::RangeDescriptor::from).collect();
    Kind::EpochNotMatch(internal::EpochNotMatch { descriptors })
}

/// A range has lost this with its names.
pub struct Left {
    /// Whom to tell that the name of a call has moved.
    pub calls: Vec<(ReplyTo, Name)>,
    /// The listeners to acquisitions under these names.
    pub listeners: BTreeMap<Acquisition, Subscriber>,
}

/// Whether a command is about a name outside the bounds.
fn is_outside(bounds: &Bounds, command: &Command) -> bool {
    command.names().any(|name| !bounds.contains(name.as_str().as_bytes()))
}

/// # Panics
/// If a command names something outside the range: its entry would decide about a lock that another
/// range has.
pub fn assert_inside(descriptor: &Descriptor, commands: &[Command]) {
    let Descriptor { range, bounds, epoch, .. } = descriptor;
    if let Some(command) = commands.iter().find(|command| is_outside(bounds, command)) {
        panic!("range {range} ({epoch}) has only {bounds:?}, and is to propose {command:?}");
    }
}

impl Front {
    /// Follows the bounds of the range, if they have changed: clock and queue keep what is inside.
    /// Gives back what is outside. `table` has lost the names.
    ///
    /// Questions stay: what is read for them is compared with the bounds of that moment.
    pub fn follow_bounds(&mut self, descriptor: &Descriptor, table: &LockTable) -> Left {
        let Descriptor { bounds, epoch, .. } = descriptor;
        let Some(leading) = self.leading.as_mut().filter(|it| it.version != epoch.version) else {
            return Left { calls: Vec::new(), listeners: BTreeMap::new() };
        };
        leading.version = epoch.version;
        leading.clock.shrink_to(bounds);
        // Some of these waits go on in another range, which tells nothing of their beginning.
        self.traced.clear();
        for command in self.proposals.waiting_mut() {
            if let Command::Expire(expire) = command {
                expire.items.retain(|item| bounds.contains(item.name().as_str().as_bytes()));
            }
        }
        let is_void = |command: &Command| match command {
            Command::Expire(expire) => expire.items.is_empty(),
            command => is_outside(bounds, command),
        };
        let gone = self.take_out(|command, _| is_void(command));
        let listeners = self.forget_moved(table);
        let calls = gone.iter().filter_map(|(command, asker)| {
            Some((asker.reply_to()?, command.names().next()?.clone()))
        });
        let watching = self.watches.take_outside(bounds).into_iter().map(|(name, to)| (to, name));
        Left { calls: calls.chain(watching).collect(), listeners }
    }

    /// A command of an entry that came too late to be applied: see
    /// [`LockRangeOutput::Moved`](crate::LockRangeOutput::Moved).
    ///
    /// What a clock asked for it asks again. A withdrawal is not repeated: an acquire that came
    /// after it would then stand before it in the log and be answered, and what it got be cancelled
    /// all the same. The lease ends it.
    pub fn not_applied(
        &mut self,
        now: Duration,
        command: &Command,
        asker: &Asker,
        bounds: &Bounds,
    ) {
        match (asker, &mut self.leading) {
            (Asker::Clock, Some(leading)) => leading.clock.not_applied(now, command, bounds),
            _ => self.not_done(asker),
        }
    }

    /// Forgets who listens to acquisitions that are neither open here nor asked for, and gives them
    /// back.
    fn forget_moved(&mut self, table: &LockTable) -> BTreeMap<Acquisition, Subscriber> {
        let mut moved = BTreeMap::new();
        let asked = self.proposals.askers().filter_map(|asker| match asker {
            Asker::Acquire { acquisition, .. } => Some(*acquisition),
            _ => None,
        });
        let asked: BTreeSet<Acquisition> = asked.collect();
        self.attempts.keep_open(|acquisition| table.is_open(acquisition));
        self.subscribers.retain(|acquisition, subscriber| {
            let stays = asked.contains(acquisition) || table.is_open(*acquisition);
            if !stays {
                moved.insert(*acquisition, *subscriber);
            }
            stays
        });
        moved
    }
}
