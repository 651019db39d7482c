//! Random commands that make sense often enough: they aim at what the model says is there, and miss
//! on purpose now and then.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Ask, Cancel, Claim, Command, Condition, Downgrade, End,
    EndCause, EndQuarantine, Ending, Expire, ExpireItem, Instance, LeaseRule, Mode, Name, Owner,
    RaiseFeatureLevel, Reclaim, Recover, Release, Revoke, SessionHandle, SetAttributes,
    SetCondition, TimeUp, Timed, Token, Wait, WaitTimeout,
};

use crate::naive::{Held, Naive};

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
        // What is left of the number is stirred, or the later dice of many would all show 0.
        self.0 = (self.0 / sides).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (self.0 >> 31);
        rolled
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { Some(&items[self.roll(items.len() as u64) as usize]) }
    }
}

/// Makes commands for the names of one table; remembers which ids it has used, and the commands,
/// for duplicates.
#[derive(Clone)]
pub struct Commands {
    pub names: Vec<Name>,
    id_last: u64,
    made: Vec<Command>,
}

impl Commands {
    pub fn new(names: Vec<Name>) -> Self {
        Self { names, id_last: 0, made: vec![] }
    }

    /// The maker for the upper names, from the name on; this one keeps the lower.
    pub fn split_off(&mut self, at: &Name) -> Self {
        let mut upper = self.clone();
        self.names.retain(|name| name < at);
        upper.names.retain(|name| name >= at);
        upper
    }

    /// A command of one of a hundred kinds, or a late copy of an earlier one.
    pub fn make(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        if dice.roll(10) == 0 {
            let copies = &self.made[self.made.len().saturating_sub(60)..];
            let copy = dice.pick(copies).filter(|copy| self.is_mine(copy));
            if let Some(copy) = copy {
                return copy.clone();
            }
        }
        let command = self.make_new(dice, model);
        if self.made.len() >= 200 {
            self.made.drain(..100);
        }
        self.made.push(command.clone());
        command
    }

    /// Whether the command names no lock of another table.
    fn is_mine(&self, command: &Command) -> bool {
        match command {
            Command::Expire(expire) => expire.items.iter().all(|item| {
                let (ExpireItem::Hold { name, .. } | ExpireItem::Waiter { name, .. }) = item;
                self.names.contains(name)
            }),
            Command::Revoke(_)
            | Command::RaiseFeatureLevel(_)
            | Command::Recover(_)
            | Command::EndQuarantine(_) => true,
            Command::Acquire(acquire) => self.names.contains(&acquire.name),
            Command::Release(Release { name, .. })
            | Command::Cancel(Cancel { name, .. })
            | Command::WaitTimeout(WaitTimeout { name, .. })
            | Command::Ending(Ending { name, .. })
            | Command::End(End { name, .. })
            | Command::SetCondition(SetCondition { name, .. })
            | Command::Claim(Claim { name, .. })
            | Command::Ask(Ask { name, .. })
            | Command::Downgrade(Downgrade { name, .. })
            | Command::SetAttributes(SetAttributes { name, .. })
            | Command::TimeUp(TimeUp { name, .. }) => self.names.contains(name),
            Command::Reclaim(reclaim) => self.names.contains(&reclaim.name),
        }
    }

    fn make_new(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        match dice.roll(150) {
            0..46 => self.acquire(dice, model),
            46..62 => self.release(dice, model),
            62..70 => {
                let (acquisition, name) = self.open(dice, model);
                Command::Cancel(Cancel { acquisition, name })
            }
            70..82 => {
                let items = (0..=dice.roll(3)).map(|_| self.expire_item(dice, model)).collect();
                Command::Expire(Expire { items, proposer_term: term(dice) })
            }
            82..87 => {
                let (acquisition, name) = self.open(dice, model);
                Command::WaitTimeout(WaitTimeout { acquisition, name, proposer_term: term(dice) })
            }
            87..91 => {
                let (name, token) = self.hold(dice, model);
                let token = (dice.roll(3) > 0).then_some(token);
                let reason = format!("reason {}", dice.roll(3));
                Command::Ending(Ending { name, token, reason, operator: "op".into() })
            }
            91..98 => self.end(dice, model),
            98..106 => self.set_condition(dice, model),
            106..112 => {
                let (acquisition, name, token, revision) = self.agreeing(dice, model);
                Command::Claim(Claim { acquisition, name, token, revision })
            }
            112..120 => self.reclaim(dice, model),
            120..125 => {
                let (acquisition, name) = self.asker(dice, model);
                Command::Ask(Ask { acquisition, name })
            }
            125..130 => {
                let (acquisition, name, token, _) = self.agreeing(dice, model);
                Command::Downgrade(Downgrade { acquisition, name, token })
            }
            130..138 => self.time_up(dice, model),
            138 => {
                let (session, reason) = (session(dice), "revoked".into());
                Command::Revoke(Revoke { session, reason, operator: "op".into() })
            }
            139 => Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 1 + dice.roll(4) }),
            140 => Command::Recover(Recover { generation: 0, waits: dice.roll(3) > 0 }),
            144..150 => self.set_attributes(dice, model),
            _ => Command::EndQuarantine(EndQuarantine { proposer_term: term(dice) }),
        }
    }

    fn name(&mut self, dice: &mut Dice) -> Name {
        dice.pick(&self.names).expect("a table has names").clone()
    }

    fn acquire(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let mut acquisition = self.acquisition(dice);
        let mut name = self.name(dice);
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
        let ttl_ms = 1_000 + dice.roll(2) * 500;
        let mut condition = (dice.roll(5) < 2).then(|| Box::new(condition(dice, ttl_ms)));
        let mut reenter = None;
        if dice.one_in(5)
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
                reenter = Some(Token(model.generation << 48 | dice.roll(model.tokens + 3)));
            }
            if miss != 5 {
                condition = None;
            }
        }
        let asked_ms = asked_ms(dice, model);
        Command::Acquire(Box::new(Acquire {
            acquisition,
            name,
            mode,
            ttl_ms,
            wait,
            reenter,
            owner,
            condition,
            asked_ms,
        }))
    }

    fn release(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let (mut acquisition, name) = self.open(dice, model);
        let token = match model
            .held
            .iter()
            .find(|hold| hold.name == name && hold.owner_life.session == acquisition.session)
        {
            Some(hold) if dice.roll(10) > 0 => hold.token,
            _ => Token(model.generation << 48 | dice.roll(model.tokens + 2)),
        };
        match dice.roll(12) {
            0 => acquisition.id = AcquisitionId(self.id_last + 1 + dice.roll(3)),
            1 => acquisition.id = self.id(dice),
            2 => acquisition.instance = Instance(1 + dice.roll(2)),
            _ => {}
        }
        Command::Release(Release { acquisition, name, token, all: dice.one_in(6) })
    }

    fn end(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let ending: Vec<_> = model.held.iter().filter(|hold| hold.notice.is_some()).collect();
        let (name, token) = match dice.pick(&ending) {
            Some(hold) if dice.roll(8) > 0 => (hold.name.clone(), hold.token),
            _ => self.hold(dice, model),
        };
        let token = (dice.roll(9) > 0).then_some(token);
        let cause = if dice.roll(6) > 0 {
            EndCause::WaitedOut { proposer_term: term(dice), told: dice.roll(3) > 0 }
        } else {
            EndCause::Operator { reason: "now".into(), operator: "op".into() }
        };
        Command::End(End { name, token, cause })
    }

    fn expire_item(&mut self, dice: &mut Dice, model: &Naive) -> ExpireItem {
        if dice.one_in(3) {
            let (acquisition, name) = self.waiter(dice, model);
            return ExpireItem::Waiter { name, acquisition };
        }
        let (name, token) = self.hold(dice, model);
        let newest = model.held.iter().find(|hold| hold.token == token).map_or(1, |it| it.newest);
        let newest = AcquisitionId(newest.saturating_sub(dice.roll(3) / 2));
        ExpireItem::Hold { name, token, newest, told: dice.roll(3) > 0 }
    }

    fn set_condition(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let (acquisition, name, token, revision) = self.agreeing(dice, model);
        let ttl_ms = 1_000 + dice.roll(3) * 500;
        let condition = condition(dice, ttl_ms);
        Command::SetCondition(SetCondition {
            acquisition,
            name,
            token,
            revision,
            ttl_ms,
            condition,
        })
    }

    /// Mostly the next change, else one that came before, or none.
    fn set_attributes(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let (acquisition, name, token, _) = self.agreeing(dice, model);
        let known = model.held.iter().find(|hold| hold.token == token).map_or(0, |it| it.changes);
        let seq = (known + 1 + dice.roll(5) / 4).saturating_sub(dice.roll(6).saturating_sub(3));
        let attributes =
            (0..dice.roll(3)).map(|number| (format!("key {number}"), format!("{seq}")));
        let attributes = attributes.collect();
        Command::SetAttributes(SetAttributes { acquisition, name, token, seq, attributes })
    }

    /// The acquisition is mostly new and of a newer life, as it should be.
    fn reclaim(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let orphans: Vec<_> = model.held.iter().filter(|hold| hold.orphan).collect();
        let all: Vec<_> = model.held.iter().collect();
        let aim = if dice.roll(3) > 0 && !orphans.is_empty() { orphans } else { all };
        let mut acquisition = self.acquisition(dice);
        let (mut name, mut token) =
            (self.name(dice), Token(model.generation << 48 | dice.roll(model.tokens + 2)));
        if let Some(hold) = dice.pick(&aim)
            && dice.roll(10) > 0
        {
            (name, token) = (hold.name.clone(), hold.token);
            if dice.roll(10) > 0 {
                acquisition.session = hold.owner_life.session;
                acquisition.instance = Instance(hold.owner_life.instance.0 + dice.roll(5).min(1));
            }
        }
        let owner = owner(dice.roll(2));
        let asked_ms = asked_ms(dice, model);
        Command::Reclaim(Box::new(Reclaim { acquisition, name, token, owner, asked_ms }))
    }

    fn time_up(&mut self, dice: &mut Dice, model: &Naive) -> Command {
        let proposer_term = term(dice);
        if let Some(delayed) = dice.pick(&model.delayed)
            && dice.roll(2) == 0
        {
            let (name, token) = (delayed.name.clone(), delayed.token);
            return Command::TimeUp(TimeUp { name, token, what: Timed::LockDelay, proposer_term });
        }
        let asked = model.held.iter().filter(|hold| hold.asked.is_some() && hold.notice.is_none());
        let asked: Vec<_> = asked.collect();
        let (name, token) = match dice.pick(&asked) {
            Some(hold) if dice.roll(5) > 0 => (hold.name.clone(), hold.token),
            _ => self.hold(dice, model),
        };
        let hold = model.held.iter().find(|hold| hold.token == token);
        let revision = hold.map_or(0, |hold| hold.revision) + dice.roll(8) / 7;
        let what = match (dice.roll(8), hold.is_some_and(|hold| hold.asked.is_some())) {
            (0, _) => Timed::LockDelay,
            (1..7, true) => Timed::AskGrace { revision },
            (1, _) => Timed::AskGrace { revision },
            _ => Timed::MaxHold { revision },
        };
        Command::TimeUp(TimeUp { name, token, what, proposer_term })
    }

    /// Somebody of a hold, with the hold and the revision of its condition; now and then not quite.
    fn agreeing(&mut self, dice: &mut Dice, model: &Naive) -> (Acquisition, Name, Token, u64) {
        let miss = dice.roll(16);
        let Some(hold) = dice.pick(&model.held).filter(|_| miss != 0) else {
            return (self.acquisition(dice), self.name(dice), Token(dice.roll(9)), dice.roll(2));
        };
        let Held { name, token, before, owner_life, open, revision, .. } = hold;
        let id = AcquisitionId(*dice.pick(open).expect("a hold has something open"));
        let mut acquisition = Acquisition { id, ..*owner_life };
        if miss == 1 {
            acquisition.instance = Instance(1 + dice.roll(2));
        }
        let token = before.filter(|_| miss < 4).unwrap_or(*token);
        let revision = if miss == 4 { revision + 1 } else { *revision };
        let revision = if miss == 5 { revision.saturating_sub(1) } else { revision };
        (acquisition, name.clone(), token, revision)
    }

    /// Mostly a waiter behind a hold that may be asked.
    fn asker(&mut self, dice: &mut Dice, model: &Naive) -> (Acquisition, Name) {
        let may_be_asked =
            |hold: &&Held| hold.condition.ask_grace_ms.is_some() && hold.asked.is_none();
        let names: Vec<_> = model.held.iter().filter(may_be_asked).map(|it| &it.name).collect();
        let waiting = model.waiting.iter().filter(|waiter| names.contains(&&waiter.name));
        let waiting: Vec<_> = waiting.map(|it| (it.acquisition, it.name.clone())).collect();
        match dice.pick(&waiting) {
            Some(waiter) if dice.roll(4) > 0 => waiter.clone(),
            _ => self.waiter(dice, model),
        }
    }

    /// An acquisition that waits, for its turn or for a hold that ends; now and then any other.
    fn waiter(&mut self, dice: &mut Dice, model: &Naive) -> (Acquisition, Name) {
        let heirs = model.held.iter().filter_map(|hold| Some((hold.heir()?, hold.name.clone())));
        let waiting = model.waiting.iter().map(|it| (it.acquisition, it.name.clone()));
        let all: Vec<_> = waiting.chain(heirs).collect();
        match dice.pick(&all) {
            Some(waiter) if dice.roll(8) > 0 => waiter.clone(),
            _ => self.open(dice, model),
        }
    }

    /// An acquisition that is open, and its lock; now and then any other.
    fn open(&mut self, dice: &mut Dice, model: &Naive) -> (Acquisition, Name) {
        let random = (self.acquisition(dice), self.name(dice));
        match dice.roll(8) {
            // Something that has ended, or anything.
            0 => match dice.pick(&model.gone) {
                Some(gone) if dice.roll(2) > 0 => (gone.acquisition, gone.name.clone()),
                _ => random,
            },
            1..4 => dice
                .pick(&model.waiting)
                .map_or(random, |waiter| (waiter.acquisition, waiter.name.clone())),
            _ => dice.pick(&model.held).map_or(random, |hold| {
                let id = *dice.pick(&hold.open).expect("a hold has something open");
                let held = Acquisition { id: AcquisitionId(id), ..hold.owner_life };
                let heir = hold.heir().filter(|_| dice.one_in(3));
                (heir.unwrap_or(held), hold.name.clone())
            }),
        }
    }

    /// A live hold; now and then any other.
    fn hold(&mut self, dice: &mut Dice, model: &Naive) -> (Name, Token) {
        let random = (self.name(dice), Token(model.generation << 48 | dice.roll(model.tokens + 2)));
        if dice.one_in(8) {
            return random;
        }
        dice.pick(&model.held).map_or(random, |hold| (hold.name.clone(), hold.token))
    }

    pub fn acquisition(&mut self, dice: &mut Dice) -> Acquisition {
        let session = session(dice);
        Acquisition { session, instance: Instance(1 + dice.roll(6) / 5), id: self.id(dice) }
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

/// Mostly now.
fn asked_ms(dice: &mut Dice, model: &Naive) -> u64 {
    if dice.roll(12) == 0 { model.age - dice.roll(40_000) } else { model.age + 1_001 }
}

fn session(dice: &mut Dice) -> SessionHandle {
    SessionHandle([1 + dice.roll(3) as u8; 16])
}

fn term(dice: &mut Dice) -> u64 {
    if dice.one_in(10) { TERM - 1 } else { TERM }
}

/// Mostly one that is allowed; never the default.
fn condition(dice: &mut Dice, ttl_ms: u64) -> Condition {
    let lease = match dice.roll(8) {
        0..3 => LeaseRule::OnExpiry,
        3..5 => {
            let missed = 2 + dice.roll(4) as u32;
            let interval_ms = ttl_ms / u64::from(missed) * dice.roll(10).min(1);
            LeaseRule::AfterMissed { missed, interval_ms }
        }
        _ => LeaseRule::Hold,
    };
    let exclude = lease == LeaseRule::Hold && dice.roll(10) > 0;
    let ms = |dice: &mut Dice| dice.roll(20).min(1) * (200 + dice.roll(2) * 100);
    let condition = Condition {
        lease,
        lock_delay_ms: dice.one_in(2).then(|| ms(dice)),
        max_hold_ms: (!exclude && dice.one_in(2)).then(|| ms(dice)),
        ask_grace_ms: (!exclude && dice.roll(3) > 0).then(|| ms(dice)),
    };
    if condition == Condition::default() {
        return Condition { lock_delay_ms: Some(100), ..condition };
    }
    condition
}

fn owner(number: u64) -> Owner {
    Owner {
        id: format!("owner {number}"),
        address: "10.0.0.1:1".into(),
        attributes: vec![("host".into(), "h".into()); number as usize],
    }
}
