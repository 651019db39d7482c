//! Places for Session streams. Each address has a share, and when places run out a newcomer takes
//! that of a stream which holds nothing: who comes to renew or release finds a place, however many
//! streams stand idle.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use super::{metrics::Metrics, quota::Full};

/// The standing of a stream that may have to go, in the order in which streams go; of equals the
/// oldest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has not said anything.
    Silent,
    /// It has spoken, and holds nothing as far as is known.
    Idle,
}

/// All places of a gateway, and who has them.
pub(super) struct Seats {
    max: usize,
    per_address_max: usize,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    taken: usize,
    /// Orders streams by age.
    last: u64,
    by_address: BTreeMap<IpAddr, Address>,
}

/// The streams of one address; none without any.
#[derive(Default)]
struct Address {
    /// Streams that hold something or wait for it: nobody takes their places.
    holding: usize,
    others: BTreeMap<(Standing, u64), Arc<Notice>>,
}

impl Address {
    fn count(&self) -> usize {
        self.holding + self.others.len()
    }
}

/// Tells a stream that it has lost its place.
#[derive(Default)]
struct Notice {
    is_given: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Notice {
    fn give(&self) {
        self.is_given.store(true, Ordering::Release);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Seats {
    pub(super) fn new(max: usize, per_address_max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { max, per_address_max, table: Mutex::default(), metrics })
    }

    /// A place for a stream from `ip`; refused when all that could give way hold something.
    pub(super) fn take(self: &Arc<Self>, ip: IpAddr) -> Result<Seat, Full> {
        let mut table = self.table();
        let of_ip = table.by_address.get(&ip).map_or(0, Address::count);
        let (from, full) = if of_ip >= self.per_address_max {
            (Some(ip), Some(Full { of: "address", max: self.per_address_max }))
        } else if table.taken >= self.max {
            (table.most_idle(), Some(Full { of: "gateway", max: self.max }))
        } else {
            (None, None)
        };
        if let Some(full) = full {
            let Some(notice) = from.and_then(|ip| table.displace(ip)) else {
                self.metrics.stream_refused(full.of);
                return Err(full);
            };
            self.metrics.stream_ended("displaced");
            notice.give();
        }
        let notice = Arc::<Notice>::default();
        table.last += 1;
        table.taken += 1;
        let key = (Standing::Silent, table.last);
        table.by_address.entry(ip).or_default().others.insert(key, notice.clone());
        drop(table);
        Ok(Seat { seats: self.clone(), ip, key: Some(key), notice })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic cannot leave the table half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The address with the most streams that may have to go.
    fn most_idle(&self) -> Option<IpAddr> {
        let most = self.by_address.iter().max_by_key(|(_, address)| address.others.len());
        most.map(|(ip, _)| *ip)
    }

    fn displace(&mut self, ip: IpAddr) -> Option<Arc<Notice>> {
        let (_, notice) = self.by_address.get_mut(&ip)?.others.pop_first()?;
        self.left(ip);
        Some(notice)
    }

    /// One stream of `ip` has been taken out.
    fn left(&mut self, ip: IpAddr) {
        self.taken -= 1;
        if self.by_address.get(&ip).is_some_and(|address| address.count() == 0) {
            self.by_address.remove(&ip);
        }
    }
}

/// A stream's place; given back when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    ip: IpAddr,
    /// Its place among those that may have to go; None while it holds something.
    key: Option<(Standing, u64)>,
    notice: Arc<Notice>,
}

impl Seat {
    /// Whether a newcomer has taken the place. If not, `cx` is woken when one does.
    pub(super) fn is_lost(&self, cx: &Context<'_>) -> bool {
        if self.notice.is_given.load(Ordering::Acquire) {
            return true;
        }
        let mut reader = self.notice.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        drop(reader);
        // It may have been given before it could wake this reader.
        self.notice.is_given.load(Ordering::Acquire)
    }

    /// The stream has said something.
    pub(super) fn spoke(&mut self) {
        if let Some((Standing::Silent, _)) = self.key {
            self.stand(Some(Standing::Idle));
        }
    }

    /// Whether the stream's session holds something, or waits for it.
    pub(super) fn holds(&mut self, holds: bool) {
        if holds == self.key.is_some() {
            self.stand(if holds { None } else { Some(Standing::Idle) });
        }
    }

    fn stand(&mut self, standing: Option<Standing>) {
        let seats = self.seats.clone();
        let mut table = seats.table();
        table.last += 1;
        let key = standing.map(|standing| (standing, table.last));
        let Some(address) = table.by_address.get_mut(&self.ip) else { return };
        match self.key {
            // Its place was taken meanwhile.
            Some(known) if address.others.remove(&known).is_none() => return,
            Some(_) => {}
            None => address.holding -= 1,
        }
        match key {
            Some(key) => drop(address.others.insert(key, self.notice.clone())),
            None => address.holding += 1,
        }
        self.key = key;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.table();
        let Some(address) = table.by_address.get_mut(&self.ip) else { return };
        match self.key {
            Some(known) if address.others.remove(&known).is_none() => return,
            Some(_) => {}
            None => address.holding -= 1,
        }
        table.left(self.ip);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn seats(max: usize, per_address_max: usize) -> Arc<Seats> {
        let metrics = Metrics::new(&Registry::new()).expect("the names are distinct");
        Seats::new(max, per_address_max, Arc::new(metrics))
    }

    fn is_lost(seat: &Seat) -> bool {
        seat.is_lost(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_silent_stream_of_its_address() {
        let seats = seats(10, 3);
        let mut spoke = seats.take(HERE).expect("a place");
        spoke.spoke();
        let (old, young) = (seats.take(HERE).expect("a place"), seats.take(HERE).expect("a place"));
        let foreign = seats.take(THERE).expect("a place");
        let newcomer = seats.take(HERE).expect("a place is made");
        assert!(is_lost(&old));
        assert!([&spoke, &young, &foreign, &newcomer].iter().all(|seat| !is_lost(seat)));
        drop(old);
        assert_eq!(seats.table().taken, 4);
    }

    #[test]
    fn who_holds_something_keeps_its_place_and_then_nobody_comes_in() {
        let seats = seats(10, 2);
        let mut holders: Vec<_> = (0..2).map(|_| seats.take(HERE).expect("a place")).collect();
        holders.iter_mut().for_each(|seat| seat.holds(true));
        let full = seats.take(HERE).err().expect("all hold something");
        assert_eq!(full, Full { of: "address", max: 2 });
        holders[1].holds(false);
        let newcomer = seats.take(HERE).expect("one holds nothing any more");
        assert!(is_lost(&holders[1]) && !is_lost(&holders[0]) && !is_lost(&newcomer));
        // One that has lost its place cannot take it back.
        holders[1].holds(true);
        assert_eq!(seats.table().taken, 2);
        drop((holders, newcomer));
        let table = seats.table();
        assert_eq!((table.taken, table.by_address.len()), (0, 0));
    }

    #[test]
    fn when_all_places_are_taken_the_address_with_the_most_idle_streams_gives_one() {
        let seats = seats(4, 3);
        let many: Vec<_> = (0..3).map(|_| seats.take(HERE).expect("a place")).collect();
        let mut single = seats.take(THERE).expect("a place");
        single.holds(true);
        let newcomer = seats.take(THERE).expect("a place is made");
        assert!(is_lost(&many[0]));
        assert!(!is_lost(&single) && !is_lost(&newcomer));
    }

    #[test]
    fn a_stream_that_waits_is_woken_when_it_loses_its_place() {
        let (seats, woken) = (seats(1, 1), Arc::new(Woken::default()));
        let seat = seats.take(HERE).expect("a place");
        let waker = Waker::from(woken.clone());
        assert!(!seat.is_lost(&Context::from_waker(&waker)));
        let _newcomer = seats.take(HERE).expect("a place is made");
        assert!(woken.0.load(Ordering::Acquire));
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
}
