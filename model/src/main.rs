//! Explores the model from the command line.
//!
//! ```text
//! sharklock-model list           every scenario, and the rules that it switches off
//! sharklock-model check [NAME]   explores one scenario or all, with all rules on
//! sharklock-model break NAME|N   tells the shortest story of what goes wrong without a rule
//! ```

use std::{process::ExitCode, time::Instant};

use sharklock_model::{
    run,
    scenario::{self, Scenario},
    story,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => list(),
        ["check"] => check(&scenario::all()),
        ["check", name] => check(&of(name)),
        ["break", name] => break_rules(&of(name)),
        _ => {
            eprintln!("usage: sharklock-model list | check [NAME] | break NAME|HOLE");
            ExitCode::from(2)
        }
    }
}

/// The scenarios of a name, or of the number of a hole.
fn of(name: &str) -> Vec<Scenario> {
    let hole = name.parse::<u8>().ok();
    let mut all = scenario::all();
    all.extend(scenario::large());
    all.retain(|scenario| scenario.name == name || hole == Some(scenario.hole));
    all
}

fn list() -> ExitCode {
    for scenario in scenario::all().into_iter().chain(scenario::large()) {
        println!("{:18} {}", scenario.name, scenario.story);
        for broken in scenario.breaks {
            println!("{:18}   without {:?}: not \"{}\"", "", broken.off, broken.violates);
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "people want to know how long it took")]
fn check(scenarios: &[Scenario]) -> ExitCode {
    let mut all_hold = !scenarios.is_empty();
    for scenario in scenarios {
        let began = Instant::now();
        let report = run::check(scenario, &[]);
        let (states, depth) = (report.states, report.depth);
        let took = began.elapsed().as_secs_f64();
        println!("{:18} {states:>9} states, depth {depth:>3}, {took:.1} s", scenario.name);
        all_hold &= report.violation.is_none() && report.unreached.is_empty();
        for unreached in report.unreached {
            println!("  NOT REACHED: {unreached}");
        }
        if let Some((property, path)) = report.violation {
            println!("  BROKEN: {property}\n{}", story::tell(&scenario.bounds, path));
        }
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn break_rules(scenarios: &[Scenario]) -> ExitCode {
    let mut all_found = !scenarios.is_empty();
    for scenario in scenarios {
        println!("{}: {}", scenario.name, scenario.story);
        for broken in &scenario.breaks {
            println!("\nwithout {:?}, not \"{}\":", broken.off, broken.violates);
            match run::counter_example(scenario, broken) {
                Some(path) => print!("{}", story::tell(&scenario.bounds, path)),
                None => {
                    println!("  no counter-example");
                    all_found = false;
                }
            }
        }
        println!();
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
