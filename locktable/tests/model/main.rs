//! Random commands against a naive model that shares no code with the table: same replies, same
//! changes, same views, and at any moment a table restored from rows is the table, and a table that
//! is split goes on as two.
//!
//! `SHARKLOCK_MODEL_COMMANDS=100000000` runs more and `SHARKLOCK_MODEL_FROM=N` others, from seed N on
//! (`make long` does both), `SHARKLOCK_MODEL_SEED=N` the one case with that seed. A failure prints its seed, and the shortest list of commands that still fails.

mod commands;
mod naive;
mod naive_ended;
mod naive_terms;
mod run;
mod seen;
mod sessions;

use std::{
    env,
    panic::{self, AssertUnwindSafe},
};

use crate::{run::Run, seen::Seen};

/// Commands in the run that CI makes.
const COMMANDS: u64 = 1_000_000;

/// Steps of one case: enough to fill queues and rings, few enough to start often from nothing.
const STEPS: usize = 500;

/// The case of a seed: one number per step, from which all of the step is rolled. A list of numbers,
/// so that a failing case is still one when steps are left out.
fn numbers(seed: u64) -> Vec<u64> {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    std::iter::repeat_with(next).take(STEPS).collect()
}

fn run(numbers: &[u64], log: bool) -> Seen {
    let (&first, steps) = numbers.split_first().expect("a case has a first number");
    let mut run = Run::new(first, log);
    steps.iter().for_each(|&number| run.step(number));
    run.finish()
}

/// Whether the case fails, without a word about how.
fn fails(numbers: &[u64]) -> bool {
    panic::catch_unwind(AssertUnwindSafe(|| drop(run(numbers, false)))).is_err()
}

/// Leaves steps out as long as the case fails without them: half of them, then less and less.
fn shrink(mut numbers: Vec<u64>) -> Vec<u64> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let mut len = numbers.len() / 2;
    while len > 0 {
        let mut from = 1;
        while from < numbers.len() {
            let mut fewer = numbers.clone();
            fewer.drain(from..(from + len).min(numbers.len()));
            if fails(&fewer) {
                numbers = fewer;
            } else {
                from += len;
            }
        }
        len /= 2;
    }
    panic::set_hook(hook);
    numbers
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

#[test]
fn the_table_does_what_the_model_does() {
    let commands = number_from_env("SHARKLOCK_MODEL_COMMANDS").unwrap_or(COMMANDS);
    let only = number_from_env("SHARKLOCK_MODEL_SEED");
    let from = only.or_else(|| number_from_env("SHARKLOCK_MODEL_FROM")).unwrap_or(0x5ea1_0c4b);
    let mut seen = Seen::default();
    let mut next_report = commands / 20;
    for seed in from.. {
        let numbers = numbers(seed);
        match panic::catch_unwind(|| run(&numbers, false)) {
            Ok(found) => seen.add(found),
            Err(_) => {
                let fewest = shrink(numbers);
                println!("seed {seed} fails; SHARKLOCK_MODEL_SEED={seed} runs it again");
                println!("the fewest steps that fail, {}:", fewest.len() - 1);
                run(&fewest, true);
                panic!("seed {seed} fails only with more steps");
            }
        }
        if only.is_some() {
            return;
        }
        if seen.commands() >= next_report {
            println!("{} of {commands} commands, seed {seed}", seen.commands());
            next_report += commands / 20;
        }
        if seen.commands() >= commands {
            break;
        }
    }
    println!("{seen}");
    seen.check_floors(commands);
}
