//! Many Raft groups on one store: a sans-IO core around raft-rs, and thin drivers beside it.
//!
//! The core is [`Store`]. It owns the replicas of a store and does nothing by itself: the owner
//! calls it and does what the [`Effects`] of each turn say. Nothing in it reads a clock, draws a
//! random number or touches a disk, so a simulator runs the same code as a server.
//!
//! One turn of an owner:
//! 1. [`Store::persisted`] if the disk finished a batch, [`Store::tick`] every 100 ms (a [`Pacer`]
//!    says when), [`Store::step`] for each message that arrived, [`Store::step_heartbeats`] for each
//!    bundle of heartbeats and [`Store::step_snapshot`] for each piece of a snapshot,
//!    [`Store::propose`] once per range with everything that its clients ask for ([`Proposals`]
//!    keeps what waits and who asked), [`Store::read_index`] for answers that need no entry;
//! 2. [`Store::turn`];
//! 3. write the batch, send the messages, answer clients from what was applied and read, then
//!    take note of changed roles;
//! 4. run what [`Store::take_chores`] gives, in a thread of its own perhaps, and give what comes of
//!    it to [`Store::chore_done`].
//!
//! What it guarantees: an entry is reported as applied only when it is committed and durable
//! here; a vote or an acknowledgement leaves only when it is durable; after any crash the image
//! is not ahead of the log (S12). What it leaves to its owner: time, threads, links, who answers
//! whom, and aborting the process when the disk fails.
//!
//! Ranges come and go: [`Store::split`] makes two of one, [`Store::change_peers`] moves its replicas,
//! [`Effects::born`] and [`Effects::gone`] say which are here.
//!
//! A store with several raft workers has several [`Store`]s on one disk, which share its replicas
//! out ([`Store::recover_shares`]). Their owner writes the batches of all, several of them as one
//! perhaps, and creates each range in the share whose names it could meet.

mod alone;
mod birth;
mod burial;
mod catching_up;
mod chore;
mod create;
#[cfg(feature = "edge")]
pub mod data_dir;
mod disk;
mod effects;
mod election;
mod entry;
mod guard;
mod hand_over;
mod heartbeats;
mod ident;
mod keys;
mod log;
mod membership;
mod mirror;
mod pacer;
mod proposals;
mod range_state;
mod records;
mod recover;
mod replica;
#[cfg(feature = "edge")]
mod rocks_disk;
#[cfg(feature = "edge")]
mod rocks_log;
mod share;
mod sim_disk;
mod snapshot;
mod split;
mod staging;
mod starts;
mod state_machine;
mod store;

pub use alone::{Alone, NotAlone, Orphan};
pub use catching_up::CatchingUp;
pub use chore::{Chore, ChoreDone, ReadImage, Restore};
pub use create::CreateError;
pub use disk::{Batch, BatchSeq, Disk, DiskError, DiskView, Family, Pair, Walk, WriteOp};
pub use effects::{
    Applied, ApplyMeter, Behind, Effects, LostLog, NotProposed, Proposed, RaftRole, ReadId,
    ReadReady, ReplicaStatus, RoleChange, RoleNow,
};
pub use election::election_max;
pub use guard::Dropped;
pub use hand_over::{HandOver, NextStep};
pub use ident::{StoreIdent, bootstrap, init_store, read_ident};
pub use log::LogLimits;
pub use membership::{ChangePeers, PeerChange};
pub use pacer::Pacer;
pub use proposals::{LeftBehind, Matched, Proposals};
pub use recover::RecoverError;
pub use replica::PeerProgress;
#[cfg(feature = "edge")]
pub use rocks_disk::{OpenError, RocksDisk, RocksReader, RocksView};
pub use sim_disk::SimDisk;
pub use snapshot::{EndCounts, SnapshotLimits, SnapshotStats, WhyEnded};
pub use split::{NotChanged, Split};
pub use starts::{count_start, give_back_start};
pub use state_machine::{BadImage, DirtyRow, EntryAt, StateMachine};
pub use store::{AwaitedChild, Config, Store, asks_for_a_vote};
