//! Rows that are not the image of a table: each broken rule is named, and nothing panics.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Ask, AskMark, AskedBy, At, Cancel, Command, Condition,
    DelayRow, End, EndCause, EndedLife, EndedRow, EndingCause, EndingMark, Extras, FEATURE_LEVEL,
    Finished, FinishedRow, Header, HoldRow, Instance, LeaseRule, LockRow, LockTable, Mode, Name,
    OpenIds, Owner, RING_ROW_LEN, Reclaimer, Release, RestoreError, Row, RowKey, SessionHandle,
    SetAttributes, Token, Wait, WaiterRow,
};

const AT: At = At { index: 1, term: 1, stamped_unix_ms: 1 };

fn acquisition(session: u8, id: u64) -> Acquisition {
    Acquisition {
        session: SessionHandle([session; 16]),
        instance: Instance(1),
        id: AcquisitionId(id),
    }
}

fn acquire(table: &mut LockTable, session: u8, id: u64, name: &str, mode: Mode) {
    acquire_under(table, session, id, name, mode, None);
}

fn acquire_under(
    table: &mut LockTable,
    session: u8,
    id: u64,
    name: &str,
    mode: Mode,
    condition: Option<Box<Condition>>,
) {
    let acquire = Acquire {
        acquisition: acquisition(session, id),
        name: name.into(),
        mode,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner::default(),
        condition,
        asked_ms: u64::MAX,
    };
    table.apply(AT, Command::Acquire(Box::new(acquire)));
}

/// A sharer that an operator ends; its place stays taken.
fn end_with_a_delay(table: &mut LockTable, session: u8, id: u64, name: &str) {
    let condition = Condition { lock_delay_ms: Some(500), ..Condition::default() };
    acquire_under(table, session, id, name, Mode::Shared, Some(Box::new(condition)));
    let token = table.hold_of(name, acquisition(session, id));
    let cause = EndCause::Operator { reason: String::new(), operator: String::new() };
    table.apply(AT, Command::End(End { name: name.into(), token, cause }));
    assert_eq!(table.counts().delays, 1);
}

/// An exclusive lock with two waiters, a shared one, one with a sharer and a delay, permits with a
/// waiter, a ring of three rows, and two generations of what has ended.
fn table() -> LockTable {
    let mut table = table_of_level_1();
    acquire(&mut table, 1, 4, "dusk", Mode::Shared);
    end_with_a_delay(&mut table, 2, 4, "dusk");
    table.check_invariants();
    table
}

/// The same without what level 1 did not know.
fn table_of_level_1() -> LockTable {
    let mut table = LockTable::at_level(3).expect("this program knows it");
    for id in 1..=2 * RING_ROW_LEN + 5 {
        let cancel = Cancel { acquisition: acquisition(9, id), name: "gone".into() };
        table.apply(AT, Command::Cancel(cancel));
    }
    table.pass(6_000);
    for session in 1..=3 {
        acquire(&mut table, session, 1, "door", Mode::Exclusive);
        acquire(&mut table, session, 2, "page", Mode::Shared);
    }
    acquire(&mut table, 1, 3, "pool", Mode::Permits { n: 2, of: 3 });
    acquire(&mut table, 2, 3, "pool", Mode::Permits { n: 2, of: 3 });
    let (acquisition, token) = (acquisition(3, 2), Token(4));
    let release = Release { acquisition, name: "page".into(), token, all: false };
    table.apply(AT, Command::Release(release));
    table.check_invariants();
    table
}

struct Image {
    header: Header,
    rows: Vec<(RowKey, Row)>,
}

impl Image {
    fn row(&mut self, wanted: &RowKey) -> &mut Row {
        let found = self.rows.iter_mut().find(|(key, _)| key == wanted);
        &mut found.unwrap_or_else(|| panic!("no {wanted:?}")).1
    }

    fn lock(&mut self, name: &str) -> &mut LockRow {
        match self.row(&RowKey::Lock(name.into())) {
            Row::Lock(row) => row,
            row => panic!("{row:?}"),
        }
    }

    fn hold(&mut self, name: &str, token: u64) -> &mut HoldRow {
        match self.row(&RowKey::Hold(name.into(), Token(token))) {
            Row::Hold(row) => row,
            row => panic!("{row:?}"),
        }
    }

    fn opened(&mut self, name: &str, token: u64, change: impl FnOnce(&mut Vec<AcquisitionId>)) {
        self.hold(name, token).open_ids.change(change);
    }

    fn delay(&mut self, name: &str, token: u64) -> &mut DelayRow {
        match self.row(&RowKey::Delay(name.into(), Token(token))) {
            Row::Delay(row) => row,
            row => panic!("{row:?}"),
        }
    }

    /// The row of a hold or a delay, with this token instead, as it would be stored.
    fn renamed(&mut self, name: &str, token: u64, other: u64) {
        let of = |key: &RowKey| {
            matches!(key, RowKey::Hold(it, at) | RowKey::Delay(it, at)
            if it.as_str() == name && *at == Token(token))
        };
        let (key, row) = self.rows.iter_mut().find(|(key, _)| of(key)).expect("a hold or a delay");
        match (key, row) {
            (RowKey::Hold(_, at), Row::Hold(HoldRow { token, .. }))
            | (RowKey::Delay(_, at), Row::Delay(DelayRow { token, .. })) => {
                (*at, *token) = (Token(other), Token(other));
            }
            (key, row) => panic!("{key:?} {row:?}"),
        }
    }

    fn waiter(&mut self, name: &str, ticket: u64) -> &mut WaiterRow {
        match self.row(&RowKey::Waiter(name.into(), ticket)) {
            Row::Waiter(row) => row,
            row => panic!("{row:?}"),
        }
    }

    fn ring(&mut self, number: u64) -> &mut Vec<FinishedRow> {
        match self.row(&RowKey::Ring(number)) {
            Row::Ring(row) => row,
            row => panic!("{row:?}"),
        }
    }

    fn ended(&mut self, number: u64) -> &mut EndedRow {
        match self.row(&RowKey::Ended(number, 0)) {
            Row::Ended(row) => row,
            row => panic!("{row:?}"),
        }
    }

    fn remove(&mut self, wanted: &RowKey) {
        self.rows.retain(|(key, _)| key != wanted);
    }
}

/// Restores the table of [`table`] after `spoil` has had its way with the image.
fn restore_spoilt(spoil: impl FnOnce(&mut Image)) -> Result<LockTable, RestoreError> {
    let table = table();
    let mut image = Image { header: table.header(), rows: table.rows() };
    spoil(&mut image);
    LockTable::restore(image.header, image.rows)
}

fn check(spoil: impl FnOnce(&mut Image), expected: &str) {
    match restore_spoilt(spoil) {
        Ok(_) => panic!("restored, though: {expected}"),
        Err(error) => assert!(error.to_string().contains(expected), "{error}, not: {expected}"),
    }
}

#[test]
fn an_untouched_image_is_the_table_in_whatever_order() {
    let restored = restore_spoilt(|image| image.rows.reverse()).expect("the rows of a table");
    restored.check_invariants();
    assert_eq!(restored.rows(), table().rows());
    assert_eq!(restored.state_hash(), table().state_hash());
}

/// Hashes are stored with images and compared between versions: if this fails, the encoding in
/// `hash.rs` has changed, and that needs a new feature level.
#[test]
fn the_encoding_of_the_hash_is_fixed() {
    // As version 4 stores it.
    assert_eq!(table_of_level_4().state_hash(), 2_181_116_919_012_080_561);
    // As version 1 stored it, before there were conditions.
    let table = table_of_level_1();
    let header = Header { feature_level: 1, ..table.header() };
    let mut rows = table.rows();
    rows.retain(|(key, _)| !matches!(key, RowKey::Ended(..)));
    let level_1 = LockTable::restore(header, rows).expect("a table of then");
    assert_eq!(level_1.state_hash(), 0x3242_fe39_074d_84cb);
}

#[test]
fn a_run_of_the_ring_may_begin_with_what_the_ring_has_dropped() {
    let restored =
        restore_spoilt(|image| image.header.ring_first = 10).expect("stale at its front");
    restored.check_invariants();
    assert_eq!(restored.counts().finished, table().counts().finished - 10);
}

#[test]
fn a_header_that_breaks_a_rule_is_refused() {
    check(|image| image.header.feature_level = FEATURE_LEVEL + 1, "feature level");
    check(|image| image.header.token_counter = 1 << 48, "more than 48 bits");
    check(|image| image.header.ring_first = image.header.ring_next + 1, "ends before it begins");
    check(|image| image.header.ring_next = 1 << 40, "the ring is too long");
    check(|image| image.header.token_counter -= 1, "beyond the header's");
    check(|image| image.header.ticket_counter -= 1, "beyond the header's");
}

#[test]
fn rows_that_are_missing_or_come_twice_are_refused() {
    check(|image| image.rows.push(image.rows[0].clone()), "comes twice");
    check(|image| image.remove(&RowKey::Hold("door".into(), Token(1))), "a waiter without a lock");
    check(|image| image.remove(&RowKey::Ring(0)), "does not follow");
    check(|image| image.remove(&RowKey::Ring(2)), "missing");
    check(|image| image.header.ring_next += 1, "the run is too short");
    check(|image| image.rows.push((RowKey::Ring(7), Row::Ring(vec![]))), "outside of the ring");
    check(|image| image.rows.push((RowKey::Ring(u64::MAX), Row::Ring(vec![]))), "too large");
    let misfiled = |image: &mut Image| {
        let waiter = image.waiter("door", 1).clone();
        image.rows.push((RowKey::Waiter("door".into(), 9), Row::Waiter(waiter)));
    };
    check(misfiled, "not of the kind, token or ticket");
    check(|image| *image.row(&RowKey::Lock("page".into())) = Row::Ring(vec![]), "not of the kind");
}

#[test]
fn locks_that_break_a_rule_are_refused() {
    check(|image| image.remove(&RowKey::Lock("page".into())), "without a fence floor");
    let floor = |name: &str, token, image: &mut Image| {
        let row = Row::Lock(LockRow { fence_floor: Token(token) });
        image.rows.push((RowKey::Lock(name.into()), row));
    };
    check(|image| floor("door", 1, image), "a fence floor without a hold of sharers");
    check(|image| floor("roof", 1, image), "a fence floor without a hold of sharers");
    check(
        |image| image.remove(&RowKey::Hold("dusk".into(), Token(6))),
        "without a hold of sharers",
    );
    check(|image| image.lock("page").fence_floor = Token(9), "above a hold's");
    check(|image| image.lock("page").fence_floor = Token(0), "is no token");
    let open_twice = |image: &mut Image| {
        let hold = image.hold("door", 1).clone();
        image.hold("page", 2).open_ids = hold.open_ids;
    };
    check(open_twice, "open twice");
}

#[test]
fn holds_that_break_a_rule_are_refused() {
    check(|image| image.hold("page", 3).token = Token(2), "not of the kind, token or ticket");
    check(|image| image.renamed("page", 3, 2), "comes twice");
    check(|image| image.renamed("page", 3, 1), "above a hold's");
    check(|image| image.renamed("door", 1, 0), "the token is 0");
    check(|image| image.renamed("door", 1, 1 << 48), "beyond the header's");
    check(|image| image.hold("page", 3).mode = Mode::Exclusive, "do not fit together");
    check(|image| image.hold("page", 2).mode = Mode::Exclusive, "do not fit together");
    check(|image| image.hold("pool", 5).mode = Mode::Permits { n: 4, of: 3 }, "do not fit");
    check(|image| image.hold("pool", 5).mode = Mode::Permits { n: 0, of: 3 }, "do not fit");
    check(|image| image.hold("door", 1).open_ids.change(Vec::clear), "nothing open");
    check(|image| image.opened("door", 1, |ids| ids.push(AcquisitionId(1))), "do not ascend");
    check(|image| image.opened("door", 1, |ids| ids.push(AcquisitionId(9))), "above the newest");
    check(|image| image.opened("door", 1, |ids| ids[0] = AcquisitionId(9)), "above the newest");
}

#[test]
fn delays_that_break_a_rule_are_refused() {
    check(|image| image.renamed("dusk", 7, 0), "the token is 0");
    check(|image| image.renamed("dusk", 7, 1 << 48), "beyond the header's");
    check(|image| image.renamed("dusk", 7, 6), "of a live hold");
    check(|image| image.delay("dusk", 7).mode = Mode::Exclusive, "a delay that does not fit");
    check(|image| image.delay("dusk", 7).token = Token(6), "not of the kind, token or ticket");
}

#[test]
fn waiters_that_break_a_rule_are_refused() {
    check(|image| image.waiter("door", 1).wait = Wait::Try, "could not have queued");
    let too_many = Mode::Permits { n: 4, of: 3 };
    check(|image| image.waiter("pool", 3).mode = too_many, "could not have queued");
    check(|image| image.waiter("pool", 3).mode = Mode::Shared, "different kinds");
    let fits = Mode::Permits { n: 1, of: 3 };
    check(|image| image.waiter("pool", 3).mode = fits, "the head of the queue fits");
    check(|image| image.waiter("door", 1).acquisition = acquisition(1, 1), "open twice");
    let waiter = |ticket, image: &mut Image| {
        let row = Row::Waiter(WaiterRow { ticket, ..image.waiter("door", 1).clone() });
        image.rows.push((RowKey::Waiter("door".into(), ticket), row));
    };
    check(|image| waiter(0, image), "the ticket is 0");
    check(|image| waiter(99, image), "beyond the header's");
}

#[test]
fn finished_acquisitions_that_break_a_rule_are_refused() {
    check(|image| image.ring(0)[0].how = Finished::Unknown, "never recorded");
    check(|image| image.ring(1)[0].acquisition = acquisition(9, 1), "finished twice");
    check(|image| image.ring(1)[0].acquisition = acquisition(1, 1), "finished and open");
    check(|image| image.ring(2).clear(), "too short");
    check(|image| drop(image.ring(0).pop()), "too short");
    let longer = |image: &mut Image| {
        let row = image.ring(2)[0].clone();
        image.ring(1).push(row);
    };
    check(longer, "too long");
}

#[test]
fn what_has_ended_and_breaks_a_rule_is_refused() {
    check(|image| image.header.feature_level = 2, "does not remember");
    check(|image| image.header.lost_ms = image.header.age_ms + 1, "more is forgotten");
    check(|image| image.header.lost_ms = image.header.age_ms, "not within the table's age");
    check(|image| image.header.age_ms -= 1, "not within the table's age");
    check(|image| image.header.ended_next -= 1, "beyond the header's");
    check(|image| image.remove(&RowKey::Ended(0, 0)), "what has not ended");
    check(|image| image.ended(0).ring_next -= 1, "what has not ended");
    check(|image| image.ended(0).last_ms += 6_001, "not within the table's age");
    check(|image| image.ended(0).last_ms = image.ended(0).first_ms - 1, "not within");
    check(|image| image.ended(1).first_ms = image.ended(0).first_ms - 1, "overlap");
    check(|image| image.ended(1).ring_next = 1, "overlap");
    check(|image| image.ended(0).lives.clear(), "without an id");
    check(|image| image.ended(0).lives[0].blocks.clear(), "without an id");
    check(|image| image.ended(0).lives[0].blocks[0].1 = 0, "a block without an id");
    check(|image| image.ended(0).lives[0].page = 1 << 27, "beyond the last");
    let second = |image: &mut Image| {
        let row = EndedRow { first_ms: 1 << 20, ..image.ended(0).clone() };
        image.header.age_ms = 1 << 21;
        image.rows.push((RowKey::Ended(0, 1), Row::Ended(EndedRow { last_ms: 1 << 21, ..row })));
    };
    check(second, "disagree");
    let open = |image: &mut Image| {
        let life = EndedLife { session: SessionHandle([1; 16]), ..image.ended(1).lives[0].clone() };
        image.ended(1).lives.insert(0, EndedLife { blocks: vec![(0, 1 << 1)], ..life });
    };
    check(open, "has ended and is open");
}

/// Two holders, two waiters and a mark, as level 4 writes them.
fn table_of_level_4() -> LockTable {
    let mut table = LockTable::new();
    let condition = Condition { ask_grace_ms: Some(500), ..Condition::default() };
    let pair = Mode::Permits { n: 1, of: 2 };
    for session in 1..=4 {
        acquire_under(&mut table, session, 1, "pool", pair, Some(Box::new(condition)));
    }
    let ask = Ask { acquisition: acquisition(4, 1), name: "pool".into() };
    table.apply(AT, Command::Ask(ask));
    let set = SetAttributes {
        acquisition: acquisition(1, 1),
        name: "pool".into(),
        token: Token(1),
        seq: 7,
        attributes: vec![("job".into(), "42".into())],
    };
    table.apply(AT, Command::SetAttributes(set));
    table.check_invariants();
    table
}

fn restore_level_4(spoil: impl FnOnce(&mut Image)) -> Result<LockTable, RestoreError> {
    let table = table_of_level_4();
    let mut image = Image { header: table.header(), rows: table.rows() };
    spoil(&mut image);
    LockTable::restore(image.header, image.rows)
}

#[test]
fn what_level_4_has_added_is_restored_or_refused() {
    let restored = restore_level_4(|_| ()).expect("the rows of a table");
    restored.check_invariants();
    assert_eq!(restored.rows(), table_of_level_4().rows());
    assert_eq!(restored.state_hash(), table_of_level_4().state_hash());

    let check = |spoil: &dyn Fn(&mut Image), expected: &str| match restore_level_4(spoil) {
        Ok(_) => panic!("restored, though: {expected}"),
        Err(error) => assert!(error.to_string().contains(expected), "{error}, not: {expected}"),
    };
    check(&|image| image.hold("pool", 2).arrival = 3, "beyond the token");
    check(&|image| image.hold("pool", 2).arrival = 1, "came at once");
    check(&|image| image.waiter("pool", 2).arrival = 3, "came at once");
    check(&|image| image.waiter("pool", 1).arrival = 1, "came before a holder");
    check(&|image| image.waiter("pool", 1).arrival = 0, "came before a holder");
    check(&|image| image.waiter("pool", 2).arrival = 5, "beyond the header's last token");
    let level_3 = |image: &mut Image| image.header.feature_level = 3;
    check(&level_3, "does not know arrivals");
    let without_arrivals = |image: &mut Image| {
        level_3(image);
        (1..=2).for_each(|token| image.hold("pool", token).arrival = 0);
        (1..=2).for_each(|ticket| image.waiter("pool", ticket).arrival = 0);
    };
    check(&without_arrivals, "does not know who asks, or changes");
    let nor_marks = |image: &mut Image| {
        without_arrivals(image);
        let extras = |image: &mut Image, token| Extras::clone(image.hold("pool", token).extras());
        for token in 1..=2 {
            let mark = Some(Box::new(AskMark { since_unix_ms: 1, by: None }));
            let extras = Extras { asked: mark, ..extras(image, token) };
            image.hold("pool", token).extras = Some(Box::new(extras));
        }
    };
    check(&nor_marks, "does not know who asks, or changes");
    let nor_changes = |image: &mut Image| {
        nor_marks(image);
        let extras = Extras { attributes_seq: 0, ..image.hold("pool", 1).extras().clone() };
        image.hold("pool", 1).extras = Some(Box::new(extras));
    };
    restore_level_4(nor_changes).expect("level 3 could have written it").check_invariants();
}

/// Thousands of images with a few numbers changed somewhere: an error or a sound table, no panic.
#[test]
fn no_image_makes_it_panic() {
    let tables = [table(), table_of_level_4()];
    let mut state = 0x5ea1_u64;
    let mut roll = |sides: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let (mut refused, mut restored) = (0, 0);
    for number in 0..4_000 {
        let table = &tables[number % 2];
        let mut image = Image { header: table.header(), rows: table.rows() };
        for _ in 0..=roll(3) {
            spoil(&mut image, &mut roll);
        }
        match LockTable::restore(image.header, image.rows) {
            Err(_) => refused += 1,
            Ok(table) => {
                table.check_invariants();
                restored += 1;
            }
        }
    }
    assert!(refused > 500 && restored > 100, "{refused} refused, {restored} restored");
}

fn spoil(image: &mut Image, roll: &mut impl FnMut(u64) -> u64) {
    let header = &mut image.header;
    match roll(12) {
        0 => header.token_counter = roll(10),
        1 => header.ticket_counter = roll(6),
        2 => header.ring_first = roll(600),
        3 => header.ring_next = roll(600),
        4 => header.generation = roll(3) as u16,
        _ => {}
    }
    let index = roll(image.rows.len() as u64) as usize;
    let names: [Name; 4] = ["door", "page", "pool", "gone"].map(Name::from);
    let (key, row) = &mut image.rows[index];
    match roll(20) {
        0 => match roll(3) {
            0 => *key = RowKey::Lock(names[roll(4) as usize].clone()),
            1 => *key = RowKey::Hold(names[roll(4) as usize].clone(), Token(roll(9))),
            _ => *key = RowKey::Delay(names[roll(4) as usize].clone(), Token(roll(9))),
        },
        1 => *key = RowKey::Waiter(names[roll(4) as usize].clone(), roll(6)),
        2 => *key = RowKey::Ring(roll(4)),
        4 => *key = RowKey::Ended(roll(3), roll(3)),
        3 => drop(image.rows.remove(index)),
        _ => match row {
            Row::Lock(row) => row.fence_floor = Token(roll(9)),
            Row::Hold(row) => spoil_hold(key, row, roll),
            Row::Delay(row) => match roll(3) {
                0 => row.mode = mode(roll),
                1 => row.delay_ms = roll(1_000),
                _ => {
                    row.token = Token(roll(9));
                    *key = RowKey::Delay(names[roll(4) as usize].clone(), row.token);
                }
            },
            Row::Waiter(row) => match roll(5) {
                4 => row.arrival = roll(6),
                0 => row.mode = mode(roll),
                1 => row.ticket = roll(6),
                2 => row.acquisition = acquisition(1 + roll(3) as u8, roll(5)),
                _ => row.ttl_ms = roll(1_000),
            },
            Row::Ended(row) if row.lives.is_empty() => row.first_ms += 1,
            Row::Ended(row) => match roll(8) {
                0 => row.first_ms = 60_000 + roll(7_000),
                1 => row.last_ms = 60_000 + roll(7_000),
                2 => row.ring_next = roll(600),
                3 => drop(row.lives.pop()),
                4 => row.lives[0].session = SessionHandle([1 + roll(3) as u8; 16]),
                5 => row.lives[0].blocks[0] = (roll(3) as u32, roll(1 << 32) as u32),
                6 => row.lives[0].page = roll(1 << 28) as u32,
                _ => row.lives[0].blocks.reverse(),
            },
            Row::Ring(row) => match roll(4) {
                0 => row.truncate(roll(256) as usize),
                1 => row.extend_from_within(..),
                2 => row.iter_mut().take(1).for_each(|row| row.acquisition.id.0 = roll(600)),
                _ => row.iter_mut().for_each(|row| row.token = Some(Token(roll(9)))),
            },
        },
    }
}

fn spoil_hold(key: &mut RowKey, hold: &mut HoldRow, roll: &mut impl FnMut(u64) -> u64) {
    match roll(9) {
        8 => hold.arrival = roll(4),
        0 => {
            hold.token = Token(roll(9));
            if let RowKey::Hold(_, token) = key {
                *token = hold.token;
            }
        }
        1 => hold.open_ids.change(|ids| ids.push(AcquisitionId(roll(9)))),
        2 => hold.open_ids.change(Vec::clear),
        3 => hold.open_ids = OpenIds::new(hold.open_ids.to_vec(), AcquisitionId(roll(9))),
        4 => hold.mode = mode(roll),
        5 => hold.session = SessionHandle([1 + roll(3) as u8; 16]),
        6 => hold.extras = Some(Box::new(extras(roll))),
        _ => hold.ttl_ms = 10 * roll(1_000),
    }
}

fn asked_by(session: u64) -> AskedBy {
    AskedBy { session: SessionHandle([session as u8; 16]), owner_id: "o".into() }
}

fn extras(roll: &mut impl FnMut(u64) -> u64) -> Extras {
    let ms = |roll: &mut dyn FnMut(u64) -> u64| (roll(3) == 0).then(|| roll(3));
    let lease = match roll(4) {
        0 => LeaseRule::OnExpiry,
        1 => LeaseRule::AfterMissed { missed: 2 + roll(2) as u32, interval_ms: roll(3) },
        _ => LeaseRule::Hold,
    };
    let condition =
        Condition { lease, lock_delay_ms: ms(roll), max_hold_ms: ms(roll), ask_grace_ms: ms(roll) };
    let reclaimer = |roll: &mut dyn FnMut(u64) -> u64| Reclaimer {
        acquisition: Acquisition {
            session: SessionHandle([1 + roll(3) as u8; 16]),
            instance: Instance(1 + roll(2)),
            id: AcquisitionId(roll(9)),
        },
        owner: Owner::default().into(),
    };
    let ending = (roll(2) == 0).then(|| EndingMark {
        cause: if roll(2) == 0 { EndingCause::Operator } else { EndingCause::Reclaim },
        reason: "spoilt".into(),
        reclaimer: (roll(2) == 0).then(|| reclaimer(roll)),
    });
    Extras {
        condition,
        revision: roll(3),
        claimed: roll(2) == 0,
        orphaned: roll(3) == 0,
        highest_closed_id: (roll(3) == 0).then(|| AcquisitionId(roll(9))),
        token_before: (roll(3) == 0).then(|| Token(roll(9))),
        asked: (roll(3) == 0).then(|| {
            let by = (roll(2) == 0).then(|| asked_by(roll(3)));
            Box::new(AskMark { since_unix_ms: 1, by })
        }),
        attributes_seq: roll(6).saturating_sub(4),
        ending,
    }
}

fn mode(roll: &mut impl FnMut(u64) -> u64) -> Mode {
    match roll(4) {
        0 => Mode::Exclusive,
        1 => Mode::Shared,
        2 => Mode::Permits { n: u32::MAX, of: u32::MAX },
        _ => Mode::Permits { n: roll(5) as u32, of: 3 },
    }
}
