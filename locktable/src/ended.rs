//! Which acquisitions have ended (D8), long after the ring has lost how. A duplicate that comes late
//! must never have a second effect, and a request lives up to 30 s on its way: at 25,000 in a second
//! the ring forgets after two or three.
//!
//! Ids grow within a life of a client, so those that ended lie close together: they are kept as bits,
//! 32 ids to a block. They are forgotten by age, a generation of them at a time. The age is no clock:
//! it is the sum of what the leaders' clocks have counted, and comes with the log's entries. It never
//! grows faster than true time (a leader that stalls counts less, none at all counts nothing), so
//! nothing is forgotten early.
//!
//! A client that sends ids without order, or a new life for each, makes the bits many. The oldest
//! generations then leave before their time, and from then on whatever was asked at that age or
//! before is in doubt: it may have ended, and may not be done.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use crate::{
    Acquisition, AcquisitionId, Instance, RowKey, SessionHandle,
    hash::{Digest, StateHash},
    ring::Ring,
    sessions,
};

/// Age of a table in which nothing has ever happened. Above the age of every request, so that the
/// age at which one was asked is a number, too.
pub(crate) const AGE_START_MS: u64 = 60_000;

/// For how long after its last copy the end of an acquisition is remembered: the 30 s that a request
/// lives, a tenth more for the clocks that count it on its way, which may be slewed, and
/// [`UNHEARD_MS`] twice over. So nothing is ever in doubt only because time has passed.
pub(crate) const KEPT_MS: u64 = 35_000;

/// A generation is closed after so long: what is kept too long by it is bounded.
const SPAN_MS: u64 = 5_000;

/// A client that has not heard of an end yet may ask again for so long after it, and hear of it then:
/// what was asked so much later than what is forgotten is in doubt, too.
pub(crate) const UNHEARD_MS: u64 = 1_000;

/// Generations that fit at least: a generation is closed when it has this part of all bytes.
const GENERATIONS_MIN: usize = 8;

/// Upper bounds of what a life in a generation, and each of its blocks, takes of memory. Counted
/// instead of measured, since replicas must cut at the same entry.
const LIFE_BYTES: usize = 120;
const BLOCK_BYTES: usize = 16;

/// Ends between two flushes of a generation up to which only those are written, not all of it.
const UNFLUSHED_MAX: usize = 8_192;

/// Blocks in one row of the image: some 30 KiB at most.
const ROW_BLOCKS: usize = 1_024;

const BLOCK_BITS: u32 = 5;

/// One life of a session and a page of its ids: with 32 bits for a block, a page has 2^37 ids, which
/// is all that a client that counts from 1 ever uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LifeKey {
    // As a number of the same order: comparisons then stay inline.
    session: u128,
    instance: Instance,
    page: u32,
}

/// The place of an id: the page, the block in it, the bit in that.
fn place(acquisition: Acquisition) -> (LifeKey, u32, u32) {
    let Acquisition { session, instance, id: AcquisitionId(id) } = acquisition;
    let block = id >> BLOCK_BITS;
    let page = (block >> u32::BITS) as u32;
    let key = LifeKey { session: sessions::number(session), instance, page };
    (key, block as u32, 1 << (id & ((1 << BLOCK_BITS) - 1)))
}

/// Ids of one life that ended in one generation: blocks in order, none without a bit.
#[derive(Clone, Debug)]
enum Ids {
    /// Most lives do little in a few seconds.
    One(u32, u32),
    Many(Vec<(u32, u32)>),
}

impl Ids {
    fn blocks(&self) -> impl ExactSizeIterator<Item = (u32, u32)> {
        let (one, many) = match self {
            Self::One(block, bits) => (Some((*block, *bits)), &[][..]),
            Self::Many(many) => (None, many.as_slice()),
        };
        Blocks { one, many }
    }

    fn has(&self, block: u32, bit: u32) -> bool {
        match self {
            Self::One(only, bits) => *only == block && bits & bit != 0,
            Self::Many(many) => many
                .binary_search_by_key(&block, |it| it.0)
                .is_ok_and(|index| many[index].1 & bit != 0),
        }
    }

    /// Adds a bit: whether it is new, and whether its block is.
    fn add(&mut self, block: u32, bit: u32) -> (bool, bool) {
        let many = match self {
            Self::One(only, bits) if *only == block => return (set(bits, bit), false),
            Self::One(only, bits) => {
                *self = Self::Many(vec![(*only, *bits)]);
                return self.add(block, bit);
            }
            Self::Many(many) => many,
        };
        // Nearly always the last, or behind it.
        let index = match many.last() {
            Some(&(last, _)) if last < block => many.len(),
            Some(&(last, _)) if last == block => many.len() - 1,
            _ => many.partition_point(|it| it.0 < block),
        };
        match many.get_mut(index) {
            Some((here, bits)) if *here == block => (set(bits, bit), false),
            _ => {
                many.insert(index, (block, bit));
                (true, true)
            }
        }
    }
}

/// Sets a bit; whether it was not set.
fn set(bits: &mut u32, bit: u32) -> bool {
    let was = *bits;
    *bits |= bit;
    was != *bits
}

/// See [`Ids::blocks`].
struct Blocks<'a> {
    one: Option<(u32, u32)>,
    many: &'a [(u32, u32)],
}

impl Iterator for Blocks<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        if let Some(one) = self.one.take() {
            return Some(one);
        }
        let (&first, rest) = self.many.split_first()?;
        self.many = rest;
        Some(first)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::from(self.one.is_some()) + self.many.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for Blocks<'_> {}

#[derive(Clone, Debug)]
struct Life {
    /// No id of this life and page above it is in this generation or an older one. Only a hint, for
    /// whoever asks with a new id: not part of the image or the hash.
    highest: u64,
    ids: Ids,
}

/// The part of a generation that the image lacks.
#[derive(Clone, Debug)]
enum Unflushed {
    These(Vec<Acquisition>),
    All,
}

/// Acquisitions that ended within a span of the age.
///
/// Invariants:
/// - `first_ms <= last_ms`, neither is beyond the table's age, and there is at least one id;
/// - `bytes` and `sum` are those of exactly the ids that are here;
/// - the image has the rows with numbers below `rows`, and with `unflushed` they are all of it.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    number: u64,
    first_ms: u64,
    last_ms: u64,
    /// Outcomes of its acquisitions have numbers below it in the ring; those of later ones do not.
    ring_next: u64,
    /// Shared with the tables that were split off, until one of them changes it: only the newest
    /// generation ever does.
    lives: Arc<BTreeMap<LifeKey, Life>>,
    bytes: usize,
    sum: Digest,
    rows: u64,
    unflushed: Unflushed,
}

/// A row of the image: some of the ids of one generation. Rows of one generation are joined, in
/// whatever order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRow {
    /// Age of the range at which the first of them ended.
    pub first_ms: u64,
    /// Age of the range at which the last one ended that was known when this was written.
    pub last_ms: u64,
    /// See [`crate::Header::ring_next`], as it was then.
    pub ring_next: u64,
    /// In order, with at least one block each.
    pub lives: Vec<EndedLife>,
}

/// See [`EndedRow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLife {
    /// The session.
    pub session: SessionHandle,
    /// The life of the client under it.
    pub instance: Instance,
    /// The upper 27 bits of the ids.
    pub page: u32,
    /// In order: the next 32 bits of ids, and a bit for each value of the last 5. Never no bit.
    pub blocks: Vec<(u32, u32)>,
}

impl EndedRow {
    pub(crate) fn acquisitions(&self) -> impl Iterator<Item = Acquisition> {
        self.lives.iter().flat_map(|life| {
            let EndedLife { session, instance, page, ref blocks } = *life;
            let key = LifeKey { session: sessions::number(session), instance, page };
            blocks.iter().flat_map(move |&(block, bits)| ids_of(key, block, bits))
        })
    }
}

/// Invariants:
/// - generations are in order of their numbers, which are below `next_number`, and their spans do
///   not overlap but in one age;
/// - `bytes` is the sum of theirs, and at most `bytes_max` or that of one generation;
/// - whatever ended after `lost_ms` is here.
#[derive(Debug)]
pub(crate) struct Ended {
    bytes_max: usize,
    age_ms: u64,
    /// 0: nothing is forgotten.
    lost_ms: u64,
    next_number: u64,
    generations: VecDeque<Generation>,
    bytes: usize,
    /// Rows of the image whose generations are gone.
    stale: Vec<(u64, Range<u64>)>,
}

impl Ended {
    /// With nothing in it.
    pub(crate) fn under(bytes_max: usize, age_ms: u64, lost_ms: u64, next_number: u64) -> Self {
        let (generations, stale) = (VecDeque::new(), vec![]);
        Self { bytes_max, age_ms, lost_ms, next_number, generations, bytes: 0, stale }
    }

    pub(crate) fn age_ms(&self) -> u64 {
        self.age_ms
    }

    pub(crate) fn lost_ms(&self) -> u64 {
        self.lost_ms
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Upper bound of the memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The age at which something is forgotten.
    pub(crate) fn forgets_at_ms(&self) -> Option<u64> {
        Some(self.generations.front()?.last_ms + KEPT_MS)
    }

    /// Whether an acquisition that is not known may have ended all the same, if it was asked for at
    /// this age of the range at the earliest.
    pub(crate) fn is_doubtful(&self, asked_ms: u64) -> bool {
        self.lost_ms != 0 && asked_ms < self.lost_ms + UNHEARD_MS
    }

    /// Whether the acquisition has ended and is not forgotten.
    pub(crate) fn has(&self, acquisition: Acquisition) -> bool {
        let (key, block, bit) = place(acquisition);
        for generation in self.generations.iter().rev() {
            let Some(life) = generation.lives.get(&key) else { continue };
            if acquisition.id.0 > life.highest {
                return false;
            }
            if life.ids.has(block, bit) {
                return true;
            }
        }
        false
    }

    /// Remembers that the acquisition has ended, from now on; if that makes it too much, the oldest
    /// are forgotten. Outcomes with numbers below the returned one must leave the ring then.
    pub(crate) fn insert(
        &mut self,
        hash: &mut StateHash,
        acquisition: Acquisition,
        ring_next: u64,
    ) -> Option<u64> {
        let (age_ms, bytes_closed) = (self.age_ms, self.bytes_max / GENERATIONS_MIN);
        let is_open = |generation: &Generation| {
            age_ms - generation.first_ms < SPAN_MS && generation.bytes < bytes_closed
        };
        if !self.generations.back().is_some_and(is_open) {
            self.generations.push_back(Generation::new(self.next_number, age_ms, ring_next));
            self.next_number += 1;
        }
        let newest = self.generations.len() - 1;
        let generation = &mut self.generations[newest];
        generation.last_ms = age_ms;
        generation.ring_next = ring_next;
        generation.note_unflushed(acquisition);
        self.add(hash, newest, acquisition);
        let mut forgotten = None;
        while self.bytes > self.bytes_max && self.generations.len() > 1 {
            forgotten = self.forget_oldest(hash).or(forgotten);
        }
        forgotten
    }

    /// Time has passed. Outcomes with numbers below the returned one must leave the ring.
    pub(crate) fn pass(&mut self, hash: &mut StateHash, passed_ms: u64) -> Option<u64> {
        self.age_ms += passed_ms;
        let mut forgotten = None;
        while self.forgets_at_ms().is_some_and(|at| at <= self.age_ms) {
            forgotten = self.forget_oldest(hash).or(forgotten);
        }
        forgotten
    }

    /// From here on everything is remembered; what was asked before is in doubt.
    pub(crate) fn begin(&mut self) {
        self.lost_ms = self.age_ms - UNHEARD_MS;
    }

    /// Adds an id to a generation that is the newest.
    fn add(&mut self, hash: &mut StateHash, newest: usize, acquisition: Acquisition) {
        let (key, block, bit) = place(acquisition);
        let generation = &mut self.generations[newest];
        let (is_new, grown) = match Arc::make_mut(&mut generation.lives).get_mut(&key) {
            Some(life) => {
                life.highest = life.highest.max(acquisition.id.0);
                let (is_new, is_new_block) = life.ids.add(block, bit);
                (is_new, if is_new_block { BLOCK_BYTES } else { 0 })
            }
            None => {
                let mut newest_first = self.generations.iter().rev();
                let life = newest_first.find_map(|it| it.lives.get(&key));
                let highest = life.map_or(0, |life| life.highest).max(acquisition.id.0);
                let life = Life { highest, ids: Ids::One(block, bit) };
                Arc::make_mut(&mut self.generations[newest].lives).insert(key, life);
                (true, LIFE_BYTES + BLOCK_BYTES)
            }
        };
        let generation = &mut self.generations[newest];
        if is_new {
            generation.sum = generation.sum.and(hash.add_ended(generation.number, acquisition));
        }
        generation.bytes += grown;
        self.bytes += grown;
    }

    fn forget_oldest(&mut self, hash: &mut StateHash) -> Option<u64> {
        let oldest = self.generations.pop_front()?;
        hash.remove(oldest.sum);
        self.bytes -= oldest.bytes;
        self.lost_ms = self.lost_ms.max(oldest.last_ms);
        if oldest.rows > 0 {
            self.stale.push((oldest.number, 0..oldest.rows));
        }
        Some(oldest.ring_next)
    }

    /// The part of the state that is in no id, for the hash.
    pub(crate) fn spans(&self) -> impl Iterator<Item = [u64; 4]> {
        self.generations.iter().map(|it| [it.number, it.first_ms, it.last_ms, it.ring_next])
    }

    /// The numbers in the ring at which the generations end, to be changed where the ring has others.
    /// No image has anything of it.
    pub(crate) fn ring_ends(&mut self) -> impl Iterator<Item = &mut u64> {
        self.generations.iter_mut().map(|generation| &mut generation.ring_next)
    }

    /// The same for a table that is split off: an id that ended here must not act there. Nothing of
    /// it is in an image yet.
    pub(crate) fn copy(&self, hash: &mut StateHash) -> Self {
        let mut generations = self.generations.clone();
        for generation in &mut generations {
            hash.put(generation.sum);
            (generation.rows, generation.unflushed) = (0, Unflushed::All);
        }
        Self { generations, stale: vec![], ..*self }
    }

    /// Since the last call: the rows that are gone, and the rows that are new, each once.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, u64, Option<EndedRow>)> {
        let stale = std::mem::take(&mut self.stale).into_iter();
        let stale = stale.flat_map(|(number, rows)| rows.map(move |row| (number, row, None)));
        let mut dirty: Vec<_> = stale.collect();
        for generation in &mut self.generations {
            let number = generation.number;
            let (from, rows) = generation.take_rows();
            let next = from + rows.len() as u64;
            dirty.extend((next..generation.rows).map(|row| (number, row, None)));
            generation.rows = next;
            dirty.extend((from..).zip(rows).map(|(row, content)| (number, row, Some(content))));
        }
        dirty
    }

    /// The rows of the generation at this place, of which no image has anything; none behind the last.
    pub(crate) fn take_dirty_of(
        &mut self,
        place: usize,
    ) -> Option<impl Iterator<Item = (RowKey, EndedRow)> + use<>> {
        let generation = self.generations.get_mut(place)?;
        let number = generation.number;
        let (from, rows) = generation.take_rows();
        generation.rows = from + rows.len() as u64;
        Some((from..).zip(rows).map(move |(row, content)| (RowKey::Ended(number, row), content)))
    }

    /// Every row that an image of it could have, as few as can be.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (u64, u64, EndedRow)> {
        self.generations.iter().flat_map(|generation| {
            let rows = generation.rows_of(generation.blocks());
            (0..).zip(rows).map(|(row, content)| (generation.number, row, content))
        })
    }

    /// Every acquisition that is here; some twice.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Acquisition> {
        let blocks = self.generations.iter().flat_map(Generation::blocks);
        blocks.flat_map(|(key, block, bits)| ids_of(key, block, bits))
    }

    /// Whether everything in the ring is here, and leaves the ring before it leaves this.
    pub(crate) fn covers(&self, ring: &Ring) -> bool {
        ring.iter().all(|(number, entry)| {
            let (key, block, bit) = place(entry.row.acquisition);
            let mut long_enough = self.generations.iter().filter(|it| it.ring_next > number);
            long_enough.any(|it| it.lives.get(&key).is_some_and(|life| life.ids.has(block, bit)))
        })
    }

    /// Puts a row of the image back. Rows come in order of their generations.
    pub(crate) fn restore_row(
        &mut self,
        hash: &mut StateHash,
        number: u64,
        row: u64,
        content: EndedRow,
    ) -> Result<(), &'static str> {
        let EndedRow { first_ms, last_ms, ring_next, lives } = content;
        let last = self.generations.back();
        let is_first = last.is_none_or(|last| last.number != number);
        if number >= self.next_number || row >= u64::from(u32::MAX) {
            return Err("the generation is beyond the header's");
        }
        if first_ms > last_ms || last_ms > self.age_ms || first_ms < self.lost_ms {
            return Err("the span of the generation is not within the table's age");
        }
        let overlap = last.filter(|_| is_first);
        if overlap.is_some_and(|it| it.last_ms > first_ms || it.ring_next > ring_next) {
            return Err("generations overlap");
        }
        if is_first {
            self.generations.push_back(Generation::new(number, first_ms, ring_next));
        }
        let newest = self.generations.len() - 1;
        let generation = &mut self.generations[newest];
        if generation.first_ms != first_ms {
            return Err("rows of one generation disagree");
        }
        generation.last_ms = generation.last_ms.max(last_ms);
        generation.ring_next = generation.ring_next.max(ring_next);
        generation.rows = row + 1;
        if lives.is_empty() || lives.iter().any(|life| life.blocks.is_empty()) {
            return Err("a row or a life in it without an id");
        }
        for life in lives {
            let EndedLife { session, instance, page, blocks } = life;
            let key = LifeKey { session: sessions::number(session), instance, page };
            if page >> (u64::BITS - u32::BITS - BLOCK_BITS) != 0 {
                return Err("a page beyond the last");
            }
            for (block, bits) in blocks {
                if bits == 0 {
                    return Err("a block without an id");
                }
                for acquisition in ids_of(key, block, bits) {
                    self.add(hash, newest, acquisition);
                }
            }
        }
        Ok(())
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        let mut numbers = self.generations.iter().map(|generation| generation.number);
        assert!(numbers.clone().is_sorted_by(|a, b| a < b));
        assert!(numbers.next_back() < Some(self.next_number));
        assert_eq!(self.bytes, self.generations.iter().map(|it| it.bytes).sum::<usize>());
        assert!(self.lost_ms <= self.age_ms);
        let mut before = (self.lost_ms, 0);
        for generation in &self.generations {
            let Generation { first_ms, last_ms, ring_next, .. } = *generation;
            assert!(before.0 <= first_ms && first_ms <= last_ms && last_ms <= self.age_ms);
            assert!(before.1 <= ring_next, "{before:?} {ring_next}");
            before = (last_ms, ring_next);
            let mut hash = StateHash::new();
            let mut bytes = 0;
            for (key, block, bits) in generation.blocks() {
                assert_ne!(bits, 0);
                for acquisition in ids_of(key, block, bits) {
                    hash.add_ended(generation.number, acquisition);
                    assert!(self.has(acquisition), "{acquisition:?} is hidden by a hint");
                }
                bytes += BLOCK_BYTES;
            }
            assert_ne!(bytes, 0, "a generation without an id");
            assert_eq!(bytes + generation.lives.len() * LIFE_BYTES, generation.bytes);
            assert_eq!(hash.sum(), generation.sum.0);
        }
    }
}

impl Generation {
    fn new(number: u64, first_ms: u64, ring_next: u64) -> Self {
        Self {
            number,
            first_ms,
            last_ms: first_ms,
            ring_next,
            lives: Arc::default(),
            bytes: 0,
            sum: Digest::ZERO,
            rows: 0,
            unflushed: Unflushed::These(vec![]),
        }
    }

    fn note_unflushed(&mut self, acquisition: Acquisition) {
        match &mut self.unflushed {
            Unflushed::These(these) if these.len() < UNFLUSHED_MAX => these.push(acquisition),
            unflushed => *unflushed = Unflushed::All,
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (LifeKey, u32, u32)> {
        let lives = self.lives.iter();
        lives
            .flat_map(|(&key, life)| life.ids.blocks().map(move |(block, bits)| (key, block, bits)))
    }

    /// The rows that the image lacks, and the number of the first.
    fn take_rows(&mut self) -> (u64, Vec<EndedRow>) {
        match std::mem::replace(&mut self.unflushed, Unflushed::These(vec![])) {
            Unflushed::All => (0, self.rows_of(self.blocks())),
            Unflushed::These(these) => {
                let mut blocks = BTreeMap::<_, u32>::new();
                for (key, block, bit) in these.into_iter().map(place) {
                    *blocks.entry((key, block)).or_default() |= bit;
                }
                let blocks = blocks.into_iter().map(|((key, block), bits)| (key, block, bits));
                (self.rows, self.rows_of(blocks))
            }
        }
    }

    fn rows_of(&self, blocks: impl Iterator<Item = (LifeKey, u32, u32)>) -> Vec<EndedRow> {
        let Self { first_ms, last_ms, ring_next, .. } = *self;
        let mut rows: Vec<EndedRow> = vec![];
        let mut left = 0;
        let mut last = None;
        for (key, block, bits) in blocks {
            if left == 0 {
                rows.push(EndedRow { first_ms, last_ms, ring_next, lives: vec![] });
                (left, last) = (ROW_BLOCKS, None);
            }
            let Some(row) = rows.last_mut() else { break };
            if last != Some(key) {
                let session = SessionHandle(key.session.to_be_bytes());
                let LifeKey { instance, page, .. } = key;
                row.lives.push(EndedLife { session, instance, page, blocks: vec![] });
                last = Some(key);
            }
            if let Some(life) = row.lives.last_mut() {
                life.blocks.push((block, bits));
            }
            left -= 1;
        }
        rows
    }
}

/// The acquisitions of a block.
fn ids_of(key: LifeKey, block: u32, bits: u32) -> impl Iterator<Item = Acquisition> {
    let LifeKey { session, instance, page } = key;
    let base = (u64::from(page) << u32::BITS | u64::from(block)) << BLOCK_BITS;
    (0..u32::BITS).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| Acquisition {
        session: SessionHandle(session.to_be_bytes()),
        instance,
        id: AcquisitionId(base + u64::from(bit)),
    })
}
