//! Random commands that make sense often enough: they aim at what the model says is there, and miss
//! on purpose now and then.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Cancel, Command, End, EndCause, Ending, Expire,
    ExpireItem, Instance, Mode, Name, Owner, Release, SessionHandle, Token, Wait, WaitTimeout,
};

use crate::naive::Naive;

pub const TERM: u64 = 5;

/// Names that are prefixes of each other, and one that is not.
pub fn names() -> Vec<Name> {
    ["a", "a/b", "b"].map(Name::from).to_vec()
}

/// One number as a series of dice, so that a test case shrinks as a list of numbers does.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        let rolled = self.0 % sides;
        self.0 /= sides;
        rolled
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { Some(&items[self.roll(items.len() as u64) as usize]) }
    }
}

/// Makes commands; remembers which ids it has used, and the commands, for duplicates.
#[derive(Default)]
pub struct Commands {
    id_last: u64,
    made: Vec<Command>,
}

impl Commands {
    /// A command of one of a hundred kinds, or a late copy of an earlier one.
    pub fn make(&mut self, kind: u64, dice: &mut Dice, model: &Naive) -> Command {
        let copies = &self.made[self.made.len().saturating_sub(60)..];
        if kind < 12
            && let Some(copy) = dice.pick(copies)
        {
            return copy.clone();
        }
        let command = self.make_new(kind, dice, model);
        self.made.push(command.clone());
        command
    }

    fn make_new(&mut self, kind: u64, dice: &mut Dice, model: &Naive) -> Command {
        match kind {
            0..45 => self.acquire(dice, model),
            45..62 => self.release(dice, model),
            62..70 => {
                let (acquisition, name) = self.open(dice, model);
                Command::Cancel(Cancel { acquisition, name })
            }
            70..80 => {
                let items = (0..=dice.roll(3)).map(|_| self.expire_item(dice, model)).collect();
                Command::Expire(Expire { items, proposer_term: term(dice) })
            }
            80..86 => {
                let (acquisition, name) = self.open(dice, model);
                Command::WaitTimeout(WaitTimeout { acquisition, name, proposer_term: term(dice) })
            }
            86..92 => {
                let (name, token) = self.hold(dice, model);
                let token = (dice.roll(3) > 0).then_some(token);
                let reason = format!("reason {}", dice.roll(3));
                Command::Ending(Ending { name, token, reason, operator: "op".into() })
            }
            _ => {
                let (name, token) = self.hold(dice, model);
                let token = (dice.roll(3) > 0).then_some(token);
                let cause = if dice.roll(3) > 0 {
                    EndCause::WaitedOut { proposer_term: term(dice) }
                } else {
                    EndCause::Operator { reason: "now".into(), operator: "op".into() }
                };
                Command::End(End { name, token, cause })
            }
        }
    }

    fn acquire(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let mut acquisition = self.acquisition(dice);
        let mut name = dice.pick(&names()).expect("there are names").clone();
        let mut owner = owner(dice.roll(2));
        let mut mode = match dice.roll(10) {
            0..4 => Mode::Exclusive,
            4..7 => Mode::Shared,
            7..9 => Mode::Permits { n: 1 + dice.roll(3) as u32, of: 3 },
            _ => Mode::Permits { n: 1, of: 2 },
        };
        let wait = match dice.roll(4) {
            0 => Wait::Try,
            1 => Wait::AtMost(500),
            _ => Wait::Unbounded,
        };
        let mut reenter = None;
        if dice.roll(4) == 0
            && let Some(hold) = dice.pick(&model.held)
        {
            reenter = Some(hold.token);
            // Mostly a proper re-entry; some miss in one respect.
            let miss = dice.roll(12);
            if miss != 0 {
                name = hold.name.clone();
            }
            if miss != 1 {
                (acquisition.session, acquisition.instance) =
                    (hold.owner_life.session, hold.owner_life.instance);
            }
            if miss != 2 {
                owner = hold.owner.clone();
            }
            if miss != 3 {
                mode = hold.mode;
            }
            if miss == 4 {
                reenter = Some(Token(dice.roll(model.tokens + 3)));
            }
        }
        let ttl_ms = 1_000 + dice.roll(2) * 500;
        let acquire = Acquire { acquisition, name, mode, ttl_ms, wait, reenter, owner };
        Command::Acquire(Box::new(acquire))
    }

    fn release(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let (mut acquisition, name) = self.open(dice, model);
        let token = match model
            .held
            .iter()
            .find(|hold| hold.name == name && hold.owner_life.session == acquisition.session)
        {
            Some(hold) if dice.roll(10) > 0 => hold.token,
            _ => Token(dice.roll(model.tokens + 2)),
        };
        match dice.roll(12) {
            0 => acquisition.id = AcquisitionId(self.id_last + 1 + dice.roll(3)),
            1 => acquisition.id = self.id(dice),
            2 => acquisition.instance = Instance(1 + dice.roll(2)),
            _ => {}
        }
        Command::Release(Release { acquisition, name, token, all: dice.roll(6) == 0 })
    }

    fn expire_item(&mut self, dice: &mut Dice, model: &Naive) -> ExpireItem {
        if dice.roll(3) == 0 {
            let (acquisition, name) = self.open(dice, model);
            return ExpireItem::Waiter { name, acquisition };
        }
        let (name, token) = self.hold(dice, model);
        let newest = model.held.iter().find(|hold| hold.token == token).map_or(1, |it| it.newest);
        let newest = AcquisitionId(newest.saturating_sub(dice.roll(3) / 2));
        ExpireItem::Hold { name, token, newest }
    }

    /// An acquisition that is open, and its lock; now and then any other.
    fn open(&mut self, dice: &mut Dice, model: &Naive) -> (Acquisition, Name) {
        let random = (self.acquisition(dice), dice.pick(&names()).expect("names").clone());
        match dice.roll(8) {
            0 => random,
            1..4 => dice
                .pick(&model.waiting)
                .map_or(random, |waiter| (waiter.acquisition, waiter.name.clone())),
            _ => dice.pick(&model.held).map_or(random, |hold| {
                let id = *dice.pick(&hold.open).expect("a hold has something open");
                (Acquisition { id: AcquisitionId(id), ..hold.owner_life }, hold.name.clone())
            }),
        }
    }

    /// A live hold; now and then any other.
    fn hold(&mut self, dice: &mut Dice, model: &Naive) -> (Name, Token) {
        let random = (names()[dice.roll(3) as usize].clone(), Token(dice.roll(model.tokens + 2)));
        if dice.roll(8) == 0 {
            return random;
        }
        dice.pick(&model.held).map_or(random, |hold| (hold.name.clone(), hold.token))
    }

    pub fn acquisition(&mut self, dice: &mut Dice) -> Acquisition {
        Acquisition {
            session: SessionHandle([1 + dice.roll(3) as u8; 16]),
            instance: Instance(1 + dice.roll(6) / 5),
            id: self.id(dice),
        }
    }

    /// Mostly a fresh id, else one of the last few.
    fn id(&mut self, dice: &mut Dice) -> AcquisitionId {
        if dice.roll(4) > 0 {
            self.id_last += 1;
            return AcquisitionId(self.id_last);
        }
        AcquisitionId(self.id_last.saturating_sub(dice.roll(24)).max(1))
    }
}

fn term(dice: &mut Dice) -> u64 {
    if dice.roll(10) == 0 { TERM - 1 } else { TERM }
}

fn owner(number: u64) -> Owner {
    Owner {
        id: format!("owner {number}"),
        address: "10.0.0.1:1".into(),
        attributes: vec![("host".into(), "h".into()); number as usize],
    }
}
