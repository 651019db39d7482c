//! Work on the whole state of a range, which grows with it and so has no place in a turn: a store
//! with a million locks would hear nobody for a second. The store hands it out as a value, its owner
//! runs it wherever nobody waits for it, and gives back what came of it.
//!
//! A chore reads the disk, and not the state in memory: the image there is complete at every
//! moment (a flush is one batch), and whoever reads it stops nobody.

use bytes::{BufMut, Bytes};
use sharklock_proto::internal::v1::{ContainedSplit, FlushHeader, RangeDescriptor, SnapshotHeader};
use sharklock_rangemap::{PeerId, RangeId};

use crate::disk::{DiskView, Family, WriteOp};
use crate::effects::Behind;
use crate::keys::{self, Key};
use crate::range_state::RangeState;
use crate::records;
use crate::replica::Arrived;
use crate::snapshot::{Announced, Ends, image};
use crate::state_machine::{BadImage, EntryAt, StateMachine};

/// One piece of work for a thread that has time.
#[derive(Debug)]
pub enum Chore<M> {
    /// Read the image of a range, for a replica that needs a snapshot.
    Read(ReadImage),
    /// Make a state of the snapshot that has arrived.
    Restore(Box<Restore>),
    /// Let go of a state that another has taken the place of.
    Discard(M),
}

/// The result of a chore.
#[derive(Debug)]
pub struct ChoreDone<M>(pub(crate) Done<M>);

#[derive(Debug)]
pub(crate) enum Done<M> {
    /// None: the disk cannot be read.
    Read(ReadImage, Option<StoredImage>),
    Restored {
        ends: Ends,
        transfer: u64,
        arrived: Result<Box<Arrived<M>>, NotRestored>,
    },
}

/// Why a snapshot that has come whole is no state here.
#[derive(Debug)]
pub(crate) enum NotRestored {
    /// It is not the state that was announced.
    Damaged,
    /// It is, as far as its sums say, and this program cannot read it.
    Beyond(Behind),
}

/// An image that is to be read, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadImage {
    pub(crate) range: RangeId,
    pub(crate) peer: PeerId,
    /// Names the wish: the same replica may have wanted one before.
    pub(crate) number: u64,
}

/// The image of a range as a disk had it at one moment.
#[derive(Debug)]
pub(crate) struct StoredImage {
    pub at: EntryAt,
    /// The range as it was there. It may have changed since.
    pub descriptor: Option<RangeDescriptor>,
    pub splits: Vec<ContainedSplit>,
    pub state_hash: u64,
    /// As `snapshot::image` encodes it.
    pub data: Bytes,
    pub crc32c: u32,
}

/// A snapshot that is here whole.
#[derive(Debug)]
pub struct Restore {
    pub(crate) ends: Ends,
    pub(crate) transfer: u64,
    pub(crate) header: SnapshotHeader,
    pub(crate) announced: Announced,
    /// In order.
    pub(crate) chunks: Vec<Bytes>,
}

impl<M: StateMachine> Chore<M> {
    /// Does it. `disk` shows what it holds now or a little later, but nothing half done. What comes
    /// of it, if anything, goes to [`crate::Store::chore_done`], in whatever order chores end.
    pub fn run(self, disk: &impl DiskView) -> Option<ChoreDone<M>> {
        match self {
            Self::Read(wish) => {
                let range = wish.range;
                let image = read(disk, range).inspect_err(|why| {
                    tracing::error!(%range, why, "the image cannot be read for a snapshot");
                });
                Some(ChoreDone(Done::Read(wish, image.ok())))
            }
            Self::Restore(restore) => {
                let (ends, transfer) = (restore.ends, restore.transfer);
                let arrived = restore.run().map(Box::new);
                Some(ChoreDone(Done::Restored { ends, transfer, arrived }))
            }
            Self::Discard(state) => {
                drop(state);
                None
            }
        }
    }
}

impl<M: StateMachine> ChoreDone<M> {
    /// The state in it, if nobody wants it any more.
    pub(crate) fn into_machine(self) -> Option<M> {
        match self.0 {
            Done::Restored { arrived, .. } => arrived.ok().map(|it| it.state.into_machine()),
            Done::Read(..) => None,
        }
    }
}

impl<M> ChoreDone<M> {
    /// The range that it is about.
    pub(crate) fn range(&self) -> RangeId {
        match &self.0 {
            Done::Read(wish, _) => wish.range,
            Done::Restored { ends, .. } => ends.range,
        }
    }
}

fn read(disk: &impl DiskView, range: RangeId) -> Result<StoredImage, String> {
    let key = Key::Header(range).encode();
    let header = disk.read(Family::Meta, &key).map_err(|error| error.to_string())?;
    let header = header.ok_or("it has no header")?;
    let header: FlushHeader = records::open(&key, header).map_err(|error| error.to_string())?;
    let machine = header.machine.ok_or("nothing was ever flushed")?;
    let mut data = Vec::new();
    image::put(&mut data, &machine);
    let mut flaw = None;
    let (start, end) = keys::rows_span(range);
    let mut see = |key: &[u8], value: &[u8]| match records::row_in(key, value) {
        Ok(row) => {
            image::put(&mut data, keys::row_key(key));
            image::put(&mut data, row);
        }
        Err(error) => flaw = Some(format!("row {key:02x?}: {error}")),
    };
    disk.visit(Family::State, &start, &end, &mut see).map_err(|error| error.to_string())?;
    if let Some(flaw) = flaw {
        return Err(flaw);
    }
    let at = EntryAt { index: header.applied_index, term: header.applied_term };
    let crc32c = crc32c::crc32c(&data);
    Ok(StoredImage {
        at,
        descriptor: header.descriptor,
        splits: header.splits,
        state_hash: header.state_hash,
        data: data.into(),
        crc32c,
    })
}

impl Restore {
    /// The state, with the changes that put it on a disk in the place of another.
    fn run<M: StateMachine>(self) -> Result<Arrived<M>, NotRestored> {
        let Self { ends, header, announced, chunks, .. } = self;
        let range = ends.range;
        let mut data = Vec::with_capacity(chunks.iter().map(Bytes::len).sum());
        chunks.into_iter().for_each(|chunk| data.put(chunk));
        let Some(image) = image::decode(&data) else {
            tracing::error!(%range, "a snapshot does not decode");
            return Err(NotRestored::Damaged);
        };
        drop(data);
        let mut ops = Vec::with_capacity(2 + image.rows.len());
        let (start, end) = keys::rows_span(range);
        ops.push(WriteOp::DeleteRange(Family::State, start, end));
        let (start, end) = keys::log_span(range, 0, u64::MAX);
        ops.push(WriteOp::DeleteRange(Family::Raft, start, end));
        let rows = image.rows.iter();
        ops.extend(rows.map(|(row, value)| records::put_row(Key::Row(range, row), value)));
        let Announced { at, descriptor, splits } = announced;
        let machine = M::restore(&image.header, image.rows).map_err(|bad| {
            // Its sums fit, so it is what its sender has: that is newer at any rate.
            let (BadImage::Newer(why) | BadImage::Corrupt(why)) = bad;
            NotRestored::Beyond(Behind { index: at.index, term: at.term, why })
        })?;
        let (found, expected) = (machine.state_hash(), header.state_hash);
        if found != expected {
            tracing::error!(%range, found, expected, "a snapshot has another hash than announced");
            return Err(NotRestored::Damaged);
        }
        let state = RangeState::new(descriptor, machine, at, splits);
        Ok(Arrived { state, term: header.term, from: ends.other_peer, ops })
    }
}
