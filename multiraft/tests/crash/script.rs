//! The acts of the stores while one of them, or all, crash somewhere among them.

use crate::tally::{put, remove};
use crate::world::World;

/// One thing after another; after each nothing moves any more.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ticks(u32),
    /// So many entries in one turn, each third a removal.
    Propose(u32),
    /// Images of all stores, with the entries after them in the same batch.
    FlushAndPropose(u32),
    /// The leader is cut off, and takes entries that nobody else will see.
    IsolateLeader(u32),
    /// A follower is cut off.
    IsolateFollower,
    Heal,
    RestartLeader,
    RestartFollower,
}

/// For one store: elections at every start, images, cuts of the log.
const ALONE: &[Act] = &[
    Act::Propose(3),
    Act::FlushAndPropose(2),
    Act::Propose(1),
    Act::FlushAndPropose(7),
    Act::RestartLeader,
    Act::Propose(2),
    Act::FlushAndPropose(1),
    Act::FlushAndPropose(6),
    Act::Propose(9),
    Act::RestartLeader,
    Act::FlushAndPropose(4),
    Act::Ticks(3),
    Act::FlushAndPropose(1),
];

/// For several: also a leader that loses its tail, and elections that others win.
const TOGETHER: &[Act] = &[
    Act::Ticks(16),
    Act::Propose(3),
    Act::FlushAndPropose(2),
    Act::Ticks(3),
    Act::Propose(6),
    Act::FlushAndPropose(1),
    Act::IsolateLeader(3),
    Act::Ticks(34),
    Act::Propose(1),
    Act::Heal,
    Act::Ticks(4),
    Act::FlushAndPropose(2),
    Act::RestartFollower,
    Act::Propose(2),
    Act::Ticks(3),
    Act::RestartLeader,
    Act::Ticks(22),
    Act::Propose(5),
    Act::Ticks(3),
    Act::FlushAndPropose(1),
    Act::FlushAndPropose(1),
    Act::IsolateLeader(5),
    Act::Ticks(30),
    Act::FlushAndPropose(1),
    Act::Heal,
    Act::Ticks(4),
    Act::FlushAndPropose(3),
    Act::Ticks(3),
];

/// For several whose logs are short: who was away needs a snapshot, once with a leader that changes
/// on the way.
const AWAY: &[Act] = &[
    Act::Ticks(16),
    Act::Propose(3),
    Act::IsolateFollower,
    Act::Propose(8),
    Act::FlushAndPropose(1),
    Act::FlushAndPropose(1),
    Act::Heal,
    Act::Ticks(6),
    Act::Propose(1),
    Act::FlushAndPropose(2),
    Act::RestartFollower,
    Act::Ticks(4),
    Act::IsolateFollower,
    Act::Propose(9),
    Act::FlushAndPropose(1),
    Act::FlushAndPropose(1),
    Act::Heal,
    Act::Ticks(2),
    Act::RestartLeader,
    Act::Ticks(24),
    Act::Propose(2),
    Act::Ticks(3),
];

/// Runs the script to its end, starting again whatever crashed `down` acts after it did, goes on
/// for a while, then heals everything and waits until all agree.
pub fn run(world: &mut World, down: usize) {
    let acts = match world.stores().len() {
        1 => ALONE,
        _ if world.has_short_logs() => AWAY,
        _ => TOGETHER,
    };
    let (mut word, mut since_crash) = (0, None);
    for act in acts {
        take(world, *act, &mut word);
        if world.struck.is_some() {
            let waited = since_crash.map_or(0, |acts| acts + 1);
            since_crash = Some(waited);
            if waited == down {
                world.recover_all();
                world.settle();
                // In a storm more may be down, also of those that just came back.
                since_crash = None;
            }
        }
    }
    // If nothing was left to do: without the one that is shunned, the others still know everything.
    world.isolated.clear();
    world.calm();
    for act in [Act::Ticks(25), Act::Propose(2), Act::Ticks(2)] {
        world.recover_all();
        take(world, act, &mut word);
    }
    world.converge();
}

fn take(world: &mut World, act: Act, word: &mut u32) {
    match act {
        Act::Ticks(ticks) => (0..ticks).for_each(|_| world.tick()),
        Act::Propose(count) => propose(world, world.leader(), count, word),
        Act::FlushAndPropose(count) => {
            world.flush();
            propose(world, world.leader(), count, word);
        }
        Act::IsolateLeader(count) => {
            if let Some(leader) = world.leader() {
                world.isolated.insert(leader);
                propose(world, Some(leader), count, word);
            }
        }
        Act::IsolateFollower => {
            if let Some(follower) = world.follower() {
                world.isolated.insert(follower);
            }
        }
        Act::Heal => world.isolated.clear(),
        Act::RestartLeader => {
            if let Some(leader) = world.leader() {
                world.restart(leader);
            }
        }
        Act::RestartFollower => {
            if let Some(follower) = world.follower() {
                world.restart(follower);
            }
        }
    }
    world.settle();
}

fn propose(world: &mut World, store: Option<u64>, count: u32, word: &mut u32) {
    for _ in 0..count {
        *word += 1;
        let name = format!("w{}", *word % 5);
        world.propose(store, if (*word).is_multiple_of(3) { remove(&name) } else { put(&name) });
    }
}
