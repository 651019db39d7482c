//! Below a feature level a table is what the programs of the level before made of the same log, to the
//! last bit of its hash: replicas of both stand side by side until the level rises.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Ask, At, Cancel, Change, Claim, Command, Condition,
    Downgrade, Ending, Expire, ExpireItem, Instance, LeaseRule, LockTable, Mode, Name, Owner,
    Reclaim, Release, SessionHandle, Token, Wait,
};

const TERM: u64 = 3;

/// The same numbers for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn command(dice: &mut Dice, number: u64, table: &LockTable) -> Command {
    let tokens = table.header().token_counter;
    let acquisition = Acquisition {
        session: SessionHandle([1 + dice.roll(3) as u8; 16]),
        instance: Instance(1 + dice.roll(2)),
        id: AcquisitionId(number - dice.roll(number.min(20))),
    };
    let name: Name = ["a", "a/b", "b"][dice.roll(3) as usize].into();
    let first = table.lock(name.as_str(), 1, 1);
    let token = Token((tokens + 1).saturating_sub(dice.roll(6)));
    let owner = Owner { id: format!("owner {}", dice.roll(2)), ..Owner::default() };
    let held = first.as_ref().and_then(|lock| lock.holds.first());
    let held = held.map(|hold| (hold.acquisition, hold.grant.token));
    match dice.roll(16) {
        0..7 => {
            let ask_grace_ms = Some(300);
            let condition = match dice.roll(4) {
                0 | 2 => Some(Condition { ask_grace_ms, ..Condition::default() }),
                1 => Some(Condition { lease: LeaseRule::Hold, ..Condition::default() }),
                _ => None,
            };
            Command::Acquire(Box::new(Acquire {
                acquisition,
                name,
                mode: if dice.roll(2) == 0 { Mode::Shared } else { Mode::Exclusive },
                ttl_ms: 1_000,
                wait: if dice.roll(5) == 0 { Wait::Try } else { Wait::Unbounded },
                reenter: None,
                owner,
                condition: condition.map(Box::new),
                asked_ms: u64::MAX,
            }))
        }
        7..9 => {
            let all = dice.roll(3) == 0;
            let (acquisition, token) = held.unwrap_or((acquisition, token));
            Command::Release(Release { acquisition, name, token, all })
        }
        9 => Command::Cancel(Cancel { acquisition, name }),
        10 => {
            let newest = AcquisitionId(number);
            let items = vec![ExpireItem::Hold { name, token, newest, told: true }];
            Command::Expire(Expire { items, proposer_term: TERM })
        }
        11 => Command::Claim(Claim { acquisition, name, token, revision: 0 }),
        12 => {
            let asked_ms = u64::MAX;
            Command::Reclaim(Box::new(Reclaim { acquisition, name, token, owner, asked_ms }))
        }
        13 => {
            let waiter = first.as_ref().and_then(|lock| lock.waiters.first());
            let acquisition = waiter.map_or(acquisition, |waiter| waiter.acquisition);
            Command::Ask(Ask { acquisition, name })
        }
        14 => {
            let (acquisition, token) = held.unwrap_or((acquisition, token));
            Command::Downgrade(Downgrade { acquisition, name, token })
        }
        _ => {
            let (reason, operator) = ("r".into(), "op".into());
            Command::Ending(Ending { name, token: Some(token), reason, operator })
        }
    }
}

/// What 20,000 commands make of the hash, step by step.
fn history(level: u64) -> u64 {
    let mut table = LockTable::at_level(level).expect("this program knows it");
    let (mut dice, mut history) = (Dice(0x5ea1), 0_u64);
    let (mut queued, mut asked, mut downgraded) = (0, 0, 0);
    for number in 1..=20_000 {
        let at = At { index: number, term: TERM, stamped_unix_ms: 1_000 + number };
        let command = command(&mut dice, number, &table);
        for change in table.apply(at, command).changes {
            match change {
                Change::Queued { .. } => queued += 1,
                Change::Asked { .. } => asked += 1,
                Change::Downgraded { .. } => downgraded += 1,
                _ => {}
            }
        }
        if number % 5 == 0 {
            table.pass(100);
        }
        history = history.rotate_left(7) ^ table.state_hash();
    }
    table.check_invariants();
    assert!(queued > 500, "only {queued} waited");
    assert!(level == 1 || (asked > 20 && downgraded > 20), "{asked} asks, {downgraded} downgrades");
    history
}

/// The numbers are those of the last program that knew no higher level than 3.
#[test]
fn lower_levels_are_what_they_were() {
    assert_eq!(
        [1, 2, 3].map(history),
        [7_383_474_611_426_132_605, 642_938_130_524_985_149, 1_714_228_948_629_965_360],
    );
}
