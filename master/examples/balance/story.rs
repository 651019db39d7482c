//! What happens to the cluster, and what it looked like in each minute.

use std::fmt;

use sharklock_master::schedule::{Duty, Settings};
use sharklock_rangemap::StoreId;

use super::{
    measure::Balance,
    world::{Dice, Moves, World},
};

/// One thing that happens, until all has come to rest.
pub struct Scene {
    pub what: String,
    /// Minutes since the beginning, first and last.
    pub from: f64,
    pub until: f64,
    pub done: Moves,
    /// Replicas and leaders that had to move at least.
    pub minimum: (u64, u64),
    pub after: Balance,
    /// For so many seconds some range had fewer than three live voters.
    pub thin_for: u64,
    /// The fewest live voters that any range had.
    pub fewest_live: usize,
    /// How often the scheduler was asked.
    pub passes: u64,
}

/// All of it.
#[derive(Default)]
pub struct Story {
    pub scenes: Vec<Scene>,
    /// The minute, and how even all was.
    pub minutes: Vec<(f64, Balance)>,
}

/// What happens.
#[derive(Clone, Copy)]
enum Event {
    Join,
    Die,
    Return,
    Drain,
    Heat,
    Cool,
}

const EVENTS: [Event; 6] =
    [Event::Join, Event::Die, Event::Return, Event::Drain, Event::Heat, Event::Cool];

impl Story {
    /// Plays it on so many stores, with a hundred ranges for each.
    pub fn told(stores: u64, tell: impl Fn(&Scene)) -> Self {
        let mut world = World::new(Settings::default(), stores);
        world.join(stores * 9 / 10, 10);
        world.spread(stores * 100, 3);
        let mut story = Self::default();
        let began = world.now;
        for event in EVENTS {
            let scene = story.play(&mut world, event, began);
            tell(&scene);
            story.scenes.push(scene);
        }
        story
    }

    fn play(&mut self, world: &mut World, event: Event, began: u64) -> Scene {
        let minute = |world: &World| (world.now - began) as f64 / 60.0;
        let (from, before) = (minute(world), world.moves);
        let what = happens(world, event);
        let mut minimum = world.minimum();
        let by_load = world.minimum_for_load();
        minimum.1 = minimum.1.max(by_load);
        let (mut thin_for, mut fewest_live) = (0, usize::MAX);
        let (mut last, mut passes) = (world.now, 0);
        self.minutes.push((minute(world), world.balance()));
        while world.now < last + 660 {
            let (then, is_busy) = (world.now, !world.is_quiet());
            let plans = world.tick(if is_busy { 1 } else { 10 });
            passes += 1;
            if is_busy || !plans.is_empty() {
                last = world.now;
            }
            if world.has_silent() {
                let live = world.fewest_live();
                fewest_live = fewest_live.min(live);
                thin_for += if live < 3 { world.now - then } else { 0 };
            }
            if world.now / 60 != then / 60 {
                self.minutes.push((minute(world), world.balance()));
            }
        }
        let until = (last - began) as f64 / 60.0;
        let after = world.balance();
        let done = world.moves.since(before);
        let fewest_live = fewest_live.min(world.fewest_live());
        Scene { what, from, until, done, minimum, after, thin_for, fewest_live, passes }
    }
}

fn happens(world: &mut World, event: Event) -> String {
    let count = world.stores.len() as u64;
    let mut dice = Dice(count);
    match event {
        Event::Join => {
            let joined = world.join(count / 9, 10).len();
            format!("{joined} stores join")
        }
        Event::Die => {
            // One zone, so that no range loses two.
            let dead = (1..=count).filter(|id| id % 10 == 3).take(count as usize / 100);
            let dead = dead.map(StoreId).collect::<Vec<_>>();
            dead.iter().for_each(|store| world.kill(*store));
            format!("{} stores die", dead.len())
        }
        Event::Return => {
            let dead = world.stores.iter().filter(|(_, store)| store.silent_since.is_some());
            let dead = dead.map(|(store, _)| *store).collect::<Vec<_>>();
            dead.iter().for_each(|store| world.revive(*store));
            world.change_master();
            "they return, another master leads".to_owned()
        }
        Event::Drain => {
            let drained = (1..=count).filter(|id| id % 10 == 7).take(count as usize / 50);
            let drained = drained.map(StoreId).collect::<Vec<_>>();
            drained.iter().for_each(|store| world.set_duty(*store, Duty::Drains));
            format!("{} stores drain", drained.len())
        }
        Event::Heat => {
            let hot = world.ranges.len() / 500;
            for _ in 0..hot {
                let at = dice.roll(world.ranges.len() as u64) as usize;
                world.ranges[at].load = 1_000 + dice.roll(1_000);
            }
            format!("{hot} ranges become hot")
        }
        Event::Cool => {
            let hot = world.ranges.iter_mut().filter(|range| range.load >= 1_000);
            hot.for_each(|range| range.load = 50);
            "they cool down".to_owned()
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, from, until, done, minimum, after, thin_for, fewest_live, .. } = self;
        let Balance { leaders, replicas, load } = after;
        write!(
            f,
            "| {what} | {from:.0} | {:.0} | {} of {} | {} of {} | {:.1} % | {:.1} % | {:.1} % | \
             {fewest_live}, {thin_for} s |",
            until - from,
            done.replicas,
            minimum.0,
            done.leaders,
            minimum.1,
            replicas.percent(),
            leaders.percent(),
            load.percent(),
        )
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passes = self.scenes.iter().map(|scene| scene.passes).sum::<u64>();
        let uneven =
            self.scenes.iter().filter(|it| !it.after.is_even(Settings::default().load_floor));
        let uneven = uneven.map(|it| it.what.as_str()).collect::<Vec<_>>();
        writeln!(f, "{passes} passes; all within 5 % in the end, but for {uneven:?}")?;
        writeln!(f, "minute  replicas %  leaders %  load %")?;
        for (minute, Balance { leaders, replicas, load }) in &self.minutes {
            let (replicas, leaders, load) = (replicas.percent(), leaders.percent(), load.percent());
            writeln!(f, "{minute:6.0}  {replicas:10.1}  {leaders:9.1}  {load:6.1}")?;
        }
        Ok(())
    }
}
